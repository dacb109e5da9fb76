"""The decoders that a config may name, how many bytes each can read, and those of ebpf_exporter that make no sense."""

from collections.abc import Mapping

from ebpf_userspace_exporter.config.model import MAX_KEY_BYTES

_ANY_SIZE = frozenset(range(1, MAX_KEY_BYTES + 1))

# None: any number of bytes, as text. The others read the key's own bytes, so they come first in a chain.
# static_map and regexp at the start of a chain see the bytes as text, as in ebpf_exporter.
DECODER_SIZES: Mapping[str, frozenset[int] | None] = {
    "string": None,
    "uint": frozenset({1, 2, 4, 8}),
    "int": frozenset({1, 2, 4, 8}),
    "hex": _ANY_SIZE,
    "inet_ip": frozenset({4, 16}),
    "dname": _ANY_SIZE,
    "errno": frozenset({4, 8}),
    "syscall": frozenset({4, 8}),
    "signal": frozenset({1, 4, 8}),
    "ifname": frozenset({4}),
    "majorminor": frozenset({4, 8}),
    "cgroup": frozenset({8}),
    "usym": frozenset({8}),
    "ustack": frozenset({4, 8}),
    "static_map": None,
    "regexp": None,
}

_PCI = "is about PCI devices, which only the kernel sees"

# ebpf_exporter's decoders for what a probe in user space never meets: why not, and what there is instead.
KERNEL_ONLY: Mapping[str, str] = {
    "ksym": "is about the kernel; in user space: usym",
    "kstack": "is about the kernel; in user space: ustack",
    "lbr": "is about branches in the kernel; in user space: ustack",
    "pci_vendor": _PCI,
    "pci_device": _PCI,
    "pci_class": _PCI,
    "pci_subclass": _PCI,
}
