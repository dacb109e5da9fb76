"""From a program and one process that it matches to an image that serves every process of that binary."""

import os
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.worker.build.address_spaces import AddressSpace
from ebpf_userspace_exporter.worker.build.argument_sizes import unread_arguments
from ebpf_userspace_exporter.worker.build.arguments import argument_text
from ebpf_userspace_exporter.worker.build.compiler import Compiled, compile_program
from ebpf_userspace_exporter.worker.build.probes import Place, UsdtProbe, find_uprobes, find_usdt_probes
from ebpf_userspace_exporter.worker.build.table_checks import room_warnings
from ebpf_userspace_exporter.worker.build.target_elves import OpenedElf, TargetElves
from ebpf_userspace_exporter.worker.image import Image, Probe
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

_MAX_PROBES, _MAX_FILES = 4096, 64  # an image's bounds


def build(program: Program, space: AddressSpace, *, scratch: Path) -> Image:
    """Return the program's image for the files of a process or a binary. In the builder: clang may end it.

    Nothing is written to the process. `scratch` is where bcc unpacks kernel headers (kheaders), if it has to.
    Warnings are lines on descriptor 2, as clang's are. Raises AttachError and TargetGone.
    """
    os.environ["TMPDIR"] = str(scratch)
    with TargetElves(space) as elves:
        usdt_probes = find_usdt_probes(program, elves)
        places = [place for probe in usdt_probes for place in probe.places()]
        places += find_uprobes(program, elves)
        texts = [argument_text(probes) for probes in _by_function(usdt_probes)]
        returns = {
            f"{place.function} in {place.file}" for place in places if place.is_return and place.file.elf.is_go()
        }
    compiled = compile_program(program, (text.text for text in texts), (place.function for place in places))
    warnings = (*_size_warnings(compiled, program.code), *room_warnings(program, compiled.maps))
    for warning in (*_go_warnings(returns), *warnings):
        os.write(2, f"{warning}\n".encode(errors="replace"))
    files = list(dict.fromkeys(place.file for place in places))
    if len(places) > _MAX_PROBES or len(files) > _MAX_FILES:
        raise AttachError(
            Reason.ATTACH,
            f"{len(places)} places in {len(files)} files, expected at most {_MAX_PROBES} in {_MAX_FILES}",
        )
    return Image(
        functions=compiled.functions,
        maps=compiled.maps,
        files=tuple(file.probed() for file in files),
        probes=_probes(places, files),
        process_bound=any(text.is_process_bound for text in texts),
    )


def _by_function(probes: Sequence[UsdtProbe]) -> list[list[UsdtProbe]]:
    """Return the probes in groups: one function reads the arguments of all its probes by the same names."""
    groups: dict[str, list[UsdtProbe]] = {}
    for probe in probes:
        groups.setdefault(probe.function, []).append(probe)
    return list(groups.values())


def _go_warnings(returns: Set[str]) -> Iterator[str]:
    for place in sorted(returns):
        yield f"warning: uretprobe of {place}, a Go binary: a stack that grows meanwhile crashes the process"


def _size_warnings(compiled: Compiled, code: str) -> Iterator[str]:
    for function in compiled.functions:
        yield from unread_arguments(function, code)


def _probes(places: Sequence[Place], files: Sequence[OpenedElf]) -> tuple[Probe, ...]:
    """Return the places as an image has them, each once: two names of one symbol would count double."""
    return tuple(
        dict.fromkeys(
            Probe(place.function, files.index(place.file), place.offset, place.ref_ctr_offset, place.is_return)
            for place in places
        )
    )
