"""Finds kernel headers to compile BPF programs with, in the order of bcc, and then wherever some are installed.

Programs in user space need pt_regs and the helpers' declarations only, so headers of any recent kernel of the same
architecture serve where the running one has none.
"""

import os
import platform
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Linux's folder names below arch/, by uname -m.
_ARCHITECTURES = {
    "x86_64": "x86",
    "aarch64": "arm64",
    "riscv64": "riscv",
    "s390x": "s390",
    "ppc64le": "powerpc",
    "loongarch64": "loongarch",
}
_DEBIAN_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "powerpc64le"}
_PATTERNS = ("usr/src/linux-headers-*", "usr/src/kernels/*", "usr/src/linux-*", "lib/modules/*/build")


class HeadersError(Exception):
    """There are no kernel headers to compile with; the message says what to install."""


@dataclass(frozen=True, slots=True)
class Headers:
    """`path` is for BCC_KERNEL_SOURCE, None where bcc finds headers itself; `warning` says what was chosen, and why."""

    path: Path | None
    warning: str | None


def find_headers(option: Path | None, scratch: Path, *, root: Path = Path("/")) -> Headers:
    """Return the headers to compile with; a merged tree is a folder of links in `scratch`, nothing else is written.

    `option` goes before BCC_KERNEL_SOURCE, then the running kernel's, kheaders, and any others, the newest first.
    """
    machine, release = platform.machine(), platform.release()
    architecture = _ARCHITECTURES.get(machine, machine)
    named = option or (Path(os.environ["BCC_KERNEL_SOURCE"]) if os.environ.get("BCC_KERNEL_SOURCE") else None)
    if named is not None:
        return Headers(_named_tree(named, architecture, scratch), None)
    modules = root / "lib/modules" / release
    # bcc takes source and build together where both are there, as Debian has it, else build alone.
    pair = [modules / "source", modules / "build"]
    if all(tree.is_dir() for tree in pair):
        if not _missing(pair, architecture):
            return Headers(None, None)
    elif not _missing([modules / "build"], architecture):
        return Headers(None, None)
    if (root / "sys/kernel/kheaders.tar.xz").exists():
        return Headers(None, None)
    for tree in _installed(root, release):
        trees = [tree, *_partners(tree)]
        if (tree / "include/generated/autoconf.h").exists() and not _missing(trees, architecture):
            chosen = tree if not _missing([tree], architecture) else _merge(trees, architecture, scratch)
            return Headers(chosen, None if _release(tree) == release else _warning(tree, release, root))
    raise HeadersError(_advice(release, machine, root))


def _named_tree(tree: Path, architecture: str, scratch: Path) -> Path:
    if not _missing([tree], architecture):
        return tree
    trees = [tree, *_partners(tree)]
    missing = _missing(trees, architecture)
    if missing:
        raise HeadersError(f"{tree}: no kernel headers for {architecture}: {', '.join(missing)} missing")
    return _merge(trees, architecture, scratch)


def _missing(trees: Sequence[Path], architecture: str) -> list[str]:
    """Return what none of the trees has of that which every program includes."""
    needed = (
        "include/linux/kconfig.h",
        "include/linux/types.h",
        "include/uapi/linux/ptrace.h",
        "include/generated/autoconf.h",
        f"arch/{architecture}/include/asm/ptrace.h",
        f"arch/{architecture}/include/generated",
    )
    return [path for path in needed if not any((tree / path).exists() for tree in trees)]


def _installed(root: Path, release: str) -> Iterator[Path]:
    """Yield installed trees: the running kernel's, then the newest first; each once, however many links lead there."""
    trees = {tree.resolve(): tree for pattern in _PATTERNS for tree in sorted(root.glob(pattern)) if tree.is_dir()}
    yield from sorted(
        trees, key=lambda tree: (_release(tree) == release, _version(tree), -len(tree.name)), reverse=True
    )


def _release(tree: Path) -> str:
    return tree.parent.name if tree.name == "build" else tree.name.removeprefix("linux-headers-")


def _version(tree: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", _release(tree).split("_")[0])]


def _partners(tree: Path) -> list[Path]:
    """Return the trees that hold the rest of a flavour's: Debian's -common, Ubuntu's without -generic."""
    flavour = _release(tree)
    others = [other for other in tree.parent.glob("linux-headers-*") if other != tree and other.is_dir()]
    stems = {other: re.sub(r"-common(?=-|$)", "", other.name.removeprefix("linux-headers-")) for other in others}
    fitting = [other for other, stem in stems.items() if flavour == stem or flavour.startswith(stem + "-")]
    return sorted(fitting, key=lambda other: len(stems[other]), reverse=True)[:1]


def _merge(trees: Sequence[Path], architecture: str, scratch: Path) -> Path:
    merged = scratch / f"headers-{_release(trees[0])}"
    if merged.exists():
        shutil.rmtree(merged)  # links of an earlier run, maybe to other files
    for below in ("include", f"arch/{architecture}/include"):
        _link(merged / below, [tree / below for tree in trees if (tree / below).is_dir()])
    return merged


def _link(target: Path, sources: Sequence[Path]) -> None:
    """Make `target` a folder of links to everything in the sources; folders that several have are merged in turn."""
    target.mkdir(parents=True)
    for name in sorted({entry.name for source in sources for entry in source.iterdir()}):
        having = [source / name for source in sources if (source / name).exists()]
        folders = [entry for entry in having if entry.is_dir()]
        if len(folders) > 1:
            _link(target / name, folders)
        elif having:
            (target / name).symlink_to(having[0].resolve())


def _warning(tree: Path, release: str, root: Path) -> str:
    serve = f"no headers of the running kernel {release}: those in {tree} serve for user-space probes"
    commands = _own_headers(release)
    own = next((commands[system] for system in _operating_systems(root) if system in commands), None)
    if own is None or not _is_packaged(release, root):
        return f"{serve}, nothing need be done"
    return f"{serve}; to use the kernel's own: {own}"


def _own_headers(release: str) -> dict[str, str]:
    """Return for each system the command that installs the headers of the kernel that it runs."""
    return {
        "debian": f"apt install linux-headers-{release}",
        "ubuntu": f"apt install linux-headers-{release}",
        "fedora": f"dnf install kernel-devel-{release}",
        "alpine": "apk add linux-lts-dev (linux-virt-dev on virtual machines)",
        "arch": "pacman -S linux-headers",
    }


def _is_packaged(release: str, root: Path) -> bool:
    """Say whether the running kernel is one of the distribution's, so that it has its headers as a package.

    It is not on micro-VMs and in containers, whose kernel comes from elsewhere.
    """
    packages = root / "var/lib/dpkg/info"
    if packages.is_dir():
        images = (f"linux-image-{release}", f"linux-image-unsigned-{release}", f"linux-image-{release}-unsigned")
        return any((packages / f"{image}.list").exists() for image in images)
    return (root / "lib/modules" / release / "modules.dep").exists()


def _advice(release: str, machine: str, root: Path) -> str:
    others = {
        "debian": f"linux-headers-{_DEBIAN_ARCHITECTURES.get(machine, 'generic')}",
        "ubuntu": "linux-headers-generic",
        "fedora": "kernel-devel",
    }
    commands = {
        system: f"{own}, or where there is none {others[system]}" if system in others else own
        for system, own in _own_headers(release).items()
    }
    systems = _operating_systems(root)
    command = next((commands[system] for system in systems if system in commands), None)
    advice = command or "; ".join(f"{system.capitalize()}: {text}" for system, text in commands.items())
    return f"no kernel headers found for the kernel {release}, nor any others; install them: {advice}"


def _operating_systems(root: Path) -> list[str]:
    """Return what os-release(5) says this is, the most exact first."""
    try:
        text = (root / "etc/os-release").read_text(errors="replace")
    except OSError:
        return []
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    names = f"{fields.get('ID', '')} {fields.get('ID_LIKE', '')}".replace('"', "").replace("'", "").lower().split()
    return ["fedora" if name in ("rhel", "centos") else name for name in names]
