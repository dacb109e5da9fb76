"""From a program and one process that it matches to an image that serves every process of that binary."""

import os
from collections.abc import Sequence
from pathlib import Path

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.worker.build.arguments import argument_text
from ebpf_userspace_exporter.worker.build.compiler import compile_program
from ebpf_userspace_exporter.worker.build.probes import Place, find_uprobes, find_usdt_probes
from ebpf_userspace_exporter.worker.build.target_elves import OpenedElf, TargetElves
from ebpf_userspace_exporter.worker.image import Image, Probe
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

_MAX_PROBES, _MAX_FILES = 4096, 64  # an image's bounds


def build(program: Program, pid: int, *, scratch: Path) -> Image:
    """Return the program's image for the files that process `pid` has mapped. In the builder: clang may end it.

    Nothing is written to the process. `scratch` is where bcc unpacks kernel headers (kheaders), if it has to.
    Raises AttachError and TargetGone.
    """
    os.environ["TMPDIR"] = str(scratch)
    with TargetElves(pid) as elves:
        usdt_probes = find_usdt_probes(program, elves)
        places = [place for probe in usdt_probes for place in probe.places()]
        places += find_uprobes(program, elves)
        texts = [argument_text(probe) for probe in usdt_probes]
    compiled = compile_program(program, (text.text for text in texts), (place.function for place in places))
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


def _probes(places: Sequence[Place], files: Sequence[OpenedElf]) -> tuple[Probe, ...]:
    """Return the places as an image has them, each once: two names of one symbol would count double."""
    return tuple(
        dict.fromkeys(
            Probe(place.function, files.index(place.file), place.offset, place.ref_ctr_offset, place.is_return)
            for place in places
        )
    )
