"""What a builder hands back: everything that loading and attaching need, as plain data with bounds.

A builder has parsed files that anybody may have written, and whoever loads the image is root: so nothing here is
unpickled, and every number is checked before it is used.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

MAX_IMAGE_BYTES = 16 << 20

U32 = Annotated[int, Field(ge=0, le=0xFFFF_FFFF)]
U64 = Annotated[int, Field(ge=0, le=0xFFFF_FFFF_FFFF_FFFF)]
Name = Annotated[str, Field(min_length=1, max_length=256)]


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """A file as it was when it was built for; another size or time means another content."""

    device: U64
    inode: U64
    size: U64
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class ProbedFile:
    """A file with probes: `path` as the target sees it, or None for the target's executable."""

    path: Annotated[str, Field(max_length=4096)] | None
    identity: FileIdentity


@dataclass(frozen=True, slots=True)
class Probe:
    """One place to attach `function` to; offsets are file offsets, `ref_ctr_offset` 0 is no semaphore."""

    function: Name
    file: Annotated[int, Field(ge=0, lt=64)]
    offset: U64
    ref_ctr_offset: U64
    is_return: bool


@dataclass(frozen=True, slots=True)
class MapShape:
    """A map to create; `built_fd` is the number that the bytecode has in its place."""

    name: Name
    kind: U32
    key_bytes: U32
    leaf_bytes: U32
    max_entries: U32
    flags: U32
    built_fd: Annotated[int, Field(ge=0, le=0x7FFF_FFFF)]


@dataclass(frozen=True, slots=True)
class Function:
    """One BPF program: 8-byte instructions, map references not yet patched."""

    name: Name
    bytecode: Annotated[bytes, Field(min_length=8, max_length=8 << 20)]
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


@dataclass(frozen=True, slots=True)
class Image:
    """A compiled program and where it goes."""

    functions: Annotated[tuple[Function, ...], Field(max_length=250)]  # as the maps
    maps: Annotated[tuple[MapShape, ...], Field(max_length=250)]  # they are handed over in one message (SCM_MAX_FD)
    files: Annotated[tuple[ProbedFile, ...], Field(max_length=64)]
    probes: Annotated[tuple[Probe, ...], Field(max_length=4096)]
    process_bound: bool = False  # the generated argument code holds addresses of one process: not for others


class ImageError(Exception):
    """What a builder wrote is no image."""


_ADAPTER = TypeAdapter(Image)


def encode_image(image: Image) -> bytes:
    """Return the image as JSON."""
    return _ADAPTER.dump_json(image)


def decode_image(encoded: bytes) -> Image:
    """Return the image that `encode_image` wrote; ImageError for anything else."""
    if len(encoded) > MAX_IMAGE_BYTES:
        raise ImageError(f"image of {len(encoded)} bytes, expected at most {MAX_IMAGE_BYTES}")
    try:
        image = _ADAPTER.validate_json(encoded)
    except ValidationError as error:
        raise ImageError(f"not an image: {error.errors(include_url=False)[0]['msg']}") from error
    functions = {function.name for function in image.functions}
    for function in image.functions:
        if len(function.bytecode) % 8:
            raise ImageError(f"function {function.name}: {len(function.bytecode)} bytes, expected a multiple of 8")
    for probe in image.probes:
        if probe.file >= len(image.files) or probe.function not in functions:
            raise ImageError(f"probe of {probe.function} refers to what is not in the image")
    return image
