"""Keys are structs as a C compiler lays them out: labels made from offsetof and sizeof decode to what C prints."""

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ebpf_userspace_exporter.config.model import Decoder, Label
from ebpf_userspace_exporter.worker.decoders import DECODERS, label_decoder
from ebpf_userspace_exporter.worker.decoders.surroundings import Surroundings

DECODER_OPTIONS = {
    "static_map": Decoder(name="static_map", static_map={"1": "one"}),
    "regexp": Decoder(name="regexp", regexps=("^/srv/([a-z]+)/",)),
    "ustack": Decoder(name="ustack", stack_table="stacks"),
}


class Addresses:
    def name(self, address: int) -> str:
        return f"at {address:#x}"


SURROUNDINGS = Surroundings(os.getpid(), Addresses(), lambda _table, stack_id: (0x1000 + stack_id,))


@dataclass(frozen=True, slots=True)
class Member:
    """What C says of a struct's member."""

    name: str
    offset: int
    size: int
    decoders: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct's bytes and some of its members, in their order."""

    name: str
    raw: bytes
    members: list[Member] = field(default_factory=list)

    def labels(self) -> list[Label]:
        """Return labels for the members, with the bytes up to the next one, or to the end, as padding."""
        ends = [*(member.offset for member in self.members[1:]), len(self.raw)]
        return [
            Label(
                name=member.name,
                size=member.size,
                padding=end - member.offset - member.size,
                decoders=tuple(DECODER_OPTIONS.get(name, Decoder(name=name)) for name in member.decoders),
            )
            for member, end in zip(self.members, ends, strict=True)
        ]


@pytest.fixture(scope="module")
def structs(tmp_path_factory: pytest.TempPathFactory) -> list[Struct]:
    program = tmp_path_factory.mktemp("structs") / "structs"
    source = Path(__file__).with_name("structs.c")
    command = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source), "-lresolv"]
    subprocess.run(command, check=True, timeout=120)
    written = subprocess.run([program, *_a_cgroup()], check=True, capture_output=True, text=True, timeout=60).stdout
    found: list[Struct] = []
    for line in written.splitlines():
        match line.split("\t"):
            case ["struct", name, raw]:
                found.append(Struct(name, bytes.fromhex(raw)))
            case ["field", name, offset, size, decoders, text]:
                found[-1].members.append(Member(name, int(offset), int(size), tuple(decoders.split()), text))
            case _:
                raise AssertionError(line)
    return found


def test_every_member_decodes_to_what_c_says_that_it_is(structs: list[Struct]) -> None:
    for struct in structs:
        texts, at = {}, 0
        for label in struct.labels():
            texts[label.name] = label_decoder(label, SURROUNDINGS)(struct.raw[at : at + label.size])
            at += label.size + label.padding

        assert at == len(struct.raw)
        assert texts == {member.name: member.text for member in struct.members}, struct.name


def test_every_decoder_reads_some_member(structs: list[Struct]) -> None:
    used = {name for struct in structs for member in struct.members for name in member.decoders}

    assert DECODERS.keys() - used == (set() if _a_cgroup() else {"cgroup"})


def test_there_is_padding_to_be_skipped_and_it_is_not_zero(structs: list[Struct]) -> None:
    loose, tight = structs[:2]

    assert [label.padding for label in loose.labels()] == [3, 0, 7, 0, 1, 0, 3, 0, 2, 0, 7]
    assert not any(label.padding for label in tight.labels())
    assert loose.raw[1:4] == b"\xa5" * 3


def _a_cgroup() -> list[str]:
    """Return the folder and the path of a cgroup of version 2, or nothing where there is none."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    folder = next((Path(line.split()[4]) for line in mounts if " - cgroup2 " in line), None)
    return [str(folder), "/"] if folder is not None else []
