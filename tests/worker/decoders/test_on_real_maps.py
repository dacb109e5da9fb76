"""Every decoder once on a key that went into a real map and came out of it again."""

import ctypes
import errno
import os
import signal
import socket
import struct
from pathlib import Path

import pytest

from ebpf_userspace_exporter.config.model import Decoder, Label
from ebpf_userspace_exporter.worker.bpf.maps import MapKind, create_map
from ebpf_userspace_exporter.worker.bpf.reading import read_map
from ebpf_userspace_exporter.worker.bpf.syscalls import Command, MapElement, bpf
from ebpf_userspace_exporter.worker.decoders import DECODERS, label_decoder
from ebpf_userspace_exporter.worker.decoders.surroundings import Surroundings
from ebpf_userspace_exporter.worker.image import MapShape

pytestmark = pytest.mark.bpf

LOOPBACK = socket.if_nametoindex("lo")


class Addresses:
    def name(self, address: int) -> str:
        return f"at {address:#x}"


SURROUNDINGS = Surroundings(os.getpid(), Addresses(), lambda _table, stack_id: (0x1000 + stack_id,))


def key_through_a_map(key: bytes) -> bytes:
    """Return the only key of a hash that was made with it."""
    shape = MapShape("keys", MapKind.HASH, len(key), leaf_bytes=8, max_entries=4, flags=0, built_fd=3)
    map_fd = create_map(shape)
    try:
        raw_key, raw_value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(8)
        element = MapElement(map_fd=map_fd, key=ctypes.addressof(raw_key), value=ctypes.addressof(raw_value))
        bpf(Command.MAP_UPDATE_ELEM, element)
        (read,) = read_map(map_fd, shape).keys
    finally:
        os.close(map_fd)
    return read


CASES = {
    "cgroup": (Decoder(name="cgroup"), struct.pack("=Q", 1), "/"),
    "dname": (Decoder(name="dname"), b"\3www\7example\3org\0".ljust(64, b"\0"), "www.example.org"),
    "errno": (Decoder(name="errno"), struct.pack("=q", -errno.ECONNRESET), "ECONNRESET"),
    "hex": (Decoder(name="hex"), bytes.fromhex("02fc00000001"), "02fc00000001"),
    "ifname": (Decoder(name="ifname"), struct.pack("=I", LOOPBACK), "lo"),
    "inet_ip": (Decoder(name="inet_ip"), socket.inet_pton(socket.AF_INET6, "2001:db8::7"), "2001:db8::7"),
    "int": (Decoder(name="int"), struct.pack("=i", -7), "-7"),
    "majorminor": (Decoder(name="majorminor"), struct.pack("=Q", os.makedev(8, 1)), "8:1"),
    "regexp": (Decoder(name="regexp", regexps=("^/srv/([a-z]+)/",)), b"/srv/shop/x.html", "shop"),
    "signal": (Decoder(name="signal"), struct.pack("=i", signal.SIGTERM), "SIGTERM"),
    "static_map": (Decoder(name="static_map", static_map={"on": "yes"}), b"on", "yes"),
    "string": (Decoder(name="string"), b"gunicorn\0\0\0\0\0\0\0\0", "gunicorn"),
    "syscall": (Decoder(name="syscall"), struct.pack("=q", 435), "clone3"),
    "uint": (Decoder(name="uint"), struct.pack("=Q", 2**64 - 1), str(2**64 - 1)),
    "ustack": (Decoder(name="ustack", stack_table="stacks"), struct.pack("=i", 7), "at 0x1007"),
    "usym": (Decoder(name="usym"), struct.pack("=Q", 0xABC), "at 0xabc"),
}


@pytest.mark.parametrize("name", DECODERS)
def test_a_key_of_a_real_map_decodes(name: str) -> None:
    if name == "cgroup" and " - cgroup2 " not in Path("/proc/self/mountinfo").read_text():
        pytest.skip("no cgroup2 is mounted")
    decoder, key, text = CASES[name]
    label = Label(name="x", size=len(key), decoders=(decoder,))

    assert label_decoder(label, SURROUNDINGS)(key_through_a_map(key)) == text


def test_a_key_of_all_of_them_one_behind_the_other_decodes() -> None:
    """Each with an odd number of bytes after it, as between the members of a struct."""
    cases = [CASES[name] for name in DECODERS if name != "cgroup"]
    labels = [Label(name="x", size=len(key), padding=3, decoders=(decoder,)) for decoder, key, _ in cases]
    raw = key_through_a_map(b"".join(key + b"\xa5" * 3 for _, key, _ in cases))

    texts, at = [], 0
    for label in labels:
        texts.append(label_decoder(label, SURROUNDINGS)(raw[at : at + label.size]))
        at += label.size + label.padding

    assert texts == [text for _, _, text in cases]
