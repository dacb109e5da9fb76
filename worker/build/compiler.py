"""Compiles a program with bcc and takes out what loading needs: each function's bytecode, each map's shape."""

import ctypes
import difflib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.worker.bpf.maps import EVENT_KINDS, MapKind
from ebpf_userspace_exporter.worker.build.lost_events import counting_code, lost_table
from ebpf_userspace_exporter.worker.build.table_checks import check_metrics
from ebpf_userspace_exporter.worker.image import Function, MapShape
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

# Made from a shape alone; a map of maps needs another map, and kinds that are not in MapKind need more.
_CREATABLE_KINDS = frozenset(MapKind) - {MapKind.ARRAY_OF_MAPS, MapKind.HASH_OF_MAPS}
_LD_IMM64, _CALL = 0x18, 0x85
_PSEUDO_NONE, _PSEUDO_MAP_FD = 0, 1


@dataclass(frozen=True, slots=True)
class Compiled:
    """What clang made of a program."""

    functions: tuple[Function, ...]
    maps: tuple[MapShape, ...]


def compile_program(program: Program, argument_texts: Iterable[str], needed: Iterable[str]) -> Compiled:
    """Return the `needed` functions and all maps of the program. In the builder.

    AttachError COMPILE, UNKNOWN_FUNCTION, UNKNOWN_TABLE, MAP_TYPE, KEY_SIZE; clang's own words are on descriptor 2.
    Does not return where clang ends the process, as it does for a BPF stack over 512 bytes.
    """
    if "BPF_TABLE_PINNED" in program.code:
        raise AttachError(Reason.MAP_TYPE, "BPF_TABLE_PINNED: a map that is shared by a file is not supported")
    counting, code = counting_code(program.code)
    # The line directive lets diagnostics count lines from the first one of the config's `code`.
    text = "\n".join([*argument_texts, counting, '#line 1 "code"', code])
    module = _compile(text, program.cflags)
    maps = _map_shapes(module)
    if counting:
        _check_event_tables(maps)
    check_metrics(program, maps)
    descriptors = {shape.built_fd for shape in maps}
    functions = tuple(_function(module, name, descriptors) for name in dict.fromkeys(needed))
    return Compiled(functions, maps)


def _compile(text: str, cflags: Iterable[str]) -> Any:
    try:
        from bcc import BPF  # noqa: PLC0415 - the one process that knows bcc is the builder
    except (ImportError, OSError) as error:
        raise AttachError(Reason.BUILDER_DIED, f"bcc cannot be imported ({error}): install python3-bpfcc") from error
    # Without this, bcc would load and attach every function whose name begins with kprobe__ and the like.
    compile_only = type("CompileOnly", (BPF,), {"_trace_autoload": lambda _self: None})
    try:
        return compile_only(text=text.encode(), cflags=list(cflags))
    except Exception as error:  # bcc raises this very class
        raise AttachError(Reason.COMPILE, "clang does not compile the code") from error


def _map_shapes(module: Any) -> tuple[MapShape, ...]:
    from bcc import libbcc  # noqa: PLC0415 - the one process that knows bcc is the builder

    library = libbcc.lib
    library.bpf_table_name.restype = ctypes.c_char_p
    library.bpf_table_name.argtypes = [ctypes.c_void_p, ctypes.c_ulonglong]
    library.bpf_table_fd_id.argtypes = [ctypes.c_void_p, ctypes.c_ulonglong]
    return tuple(
        _map_shape(library.bpf_table_name(module.module, index).decode(), library.bpf_table_fd_id(module.module, index))
        for index in range(library.bpf_num_tables(module.module))
    )


def _map_shape(name: str, fd: int) -> MapShape:
    """Return the shape as the kernel has it: bcc's own numbers are those of the declaration."""
    try:
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    except OSError as error:
        raise AttachError(Reason.MAP_TYPE, f"map {name}: not created ({error})") from error
    fields = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    shape = MapShape(
        name=name,
        kind=int(fields["map_type"]),
        key_bytes=int(fields["key_size"]),
        leaf_bytes=int(fields["value_size"]),
        max_entries=int(fields["max_entries"]),
        flags=int(fields["map_flags"], 16),
        built_fd=fd,
    )
    if shape.kind not in _CREATABLE_KINDS:
        raise AttachError(Reason.MAP_TYPE, f"map {name}: kind {shape.kind} is not supported")
    return shape


def _check_event_tables(maps: Iterable[MapShape]) -> None:
    """Refuse an event table that was declared unseen: what it loses would be added to another table's number."""
    shapes = {shape.name: shape for shape in maps}
    for shape in shapes.values():
        if shape.kind in EVENT_KINDS and lost_table(shape.name) not in shapes:
            raise AttachError(
                Reason.MAP_TYPE,
                f"table {shape.name}: declare it in the code itself, with BPF_PERF_OUTPUT or BPF_RINGBUF_OUTPUT",
            )


def _function(module: Any, name: str, descriptors: set[int]) -> Function:
    from bcc import libbcc  # noqa: PLC0415 - the one process that knows bcc is the builder

    library, handle = libbcc.lib, module.module
    if not library.bpf_function_start(handle, name.encode()):
        known = [library.bpf_function_name(handle, i).decode() for i in range(library.bpf_num_functions(handle))]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(known)) or 'none'}"
        raise AttachError(Reason.UNKNOWN_FUNCTION, f"the code has no function {name}; {hint}")
    bytecode = bytes(module.dump_func(name.encode()))
    _check_references(name, bytecode, descriptors)
    return Function(name, bytecode)


def _check_references(name: str, bytecode: bytes, descriptors: set[int]) -> None:
    """Refuse references that a worker could not patch: it knows maps by their descriptor here, and nothing else."""
    for code, registers, _offset, immediate in struct.iter_unpack("<BBhi", bytecode):
        source = registers >> 4
        if code == _LD_IMM64 and source == _PSEUDO_MAP_FD and immediate not in descriptors:
            raise AttachError(Reason.COMPILE, f"function {name} refers to a map that the code does not define")
        if code == _LD_IMM64 and source not in (_PSEUDO_NONE, _PSEUDO_MAP_FD):
            raise AttachError(Reason.COMPILE, f"function {name} refers to a global variable: use a map")
        if code == _CALL and source:
            raise AttachError(Reason.COMPILE, f"function {name} calls a function that is not inlined")
