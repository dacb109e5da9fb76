"""Which processes a program goes to: a selector, as people write it under `attachment` and `exclude`."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from ebpf_userspace_exporter.config.durations import parse_duration
from ebpf_userspace_exporter.config.scalars import Integer

MAX_COMM_BYTES = 15
MAX_PORT = 65535
_MAX_AGE_SECONDS = 7 * 86400


def as_list(value: object) -> object:
    """Return a single value as the list of one that it stands for."""
    return [value] if isinstance(value, str | dict) else value


def parse_ports(value: object) -> object:
    """Return the first and the last port of `5432` or `6000-6010`."""
    if isinstance(value, tuple):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("expected", f"expected a port or a range of ports from 1 to {MAX_PORT}")
    first, dash, last = value.partition("-")
    ends = (first, last if dash else first)
    if all(end.isascii() and end.isdigit() and 1 <= int(end[:6]) <= MAX_PORT for end in ends):
        ports = (int(ends[0]), int(ends[1]))
        if ports[0] <= ports[1]:
            return ports
    raise PydanticCustomError("expected", f"expected a port or a range of ports from 1 to {MAX_PORT}")


def parse_age(value: object) -> object:
    if isinstance(value, int | float):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("expected", "expected seconds or a duration such as 500ms, 1s or 1m30s")
    try:
        return parse_duration(value, least=0, most=_MAX_AGE_SECONDS)
    except ValueError as error:
        raise PydanticCustomError("expected", "{reason}", {"reason": str(error)}) from error


# Marks the fields that take a single value for a list of one.
ONE_OR_LIST = BeforeValidator(as_list)

Texts = Annotated[tuple[str, ...], ONE_OR_LIST]
Ports = Annotated[tuple[int, int], BeforeValidator(parse_ports)]
Uid = Annotated[Integer, Field(ge=0, lt=1 << 32)]
Age = Annotated[float, BeforeValidator(parse_age)]


def comm_of(binary_name: str) -> str:
    """Return what the kernel keeps of a process's name: 15 bytes (TASK_COMM_LEN)."""
    return binary_name.encode(errors="surrogateescape")[:MAX_COMM_BYTES].decode(errors="surrogateescape")


class Selector(BaseModel):
    """All keys that are given must hold; a list is "any of", but for `cmdline`, whose patterns must all be found.

    Patterns are RE2 and match anywhere; globs are fnmatch's, where `*` matches `/` too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    binary_name: Texts = Field(default=(), description="the name of a process, as in /proc/PID/comm")
    exe: Texts = Field(default=(), description="a glob on the real path of the executable")
    cmdline: Texts = Field(default=(), description="a pattern in the joined command line; all of a list must be found")
    argv0: Texts = Field(default=(), description="a glob on the command line's first word")
    user: Texts = Field(default=(), description="the name of a user")
    uid: Annotated[tuple[Uid, ...], ONE_OR_LIST] = Field(default=(), description="the number of a user")
    cwd: Texts = Field(default=(), description="a glob on the path of the working directory")
    environ: Mapping[str, str] = Field(default={}, description="a pattern for each environment variable")
    cgroup: Texts = Field(default=(), description="a glob on the path of the control group")
    systemd_unit: Texts = Field(default=(), description="a glob on the name of the systemd unit")
    container_id: Texts = Field(
        default=(), description="the beginning of a container's id, in lowercase hexadecimal digits"
    )
    library: Texts = Field(default=(), description="a glob on the path of a mapped file")
    listens_on: Annotated[tuple[Ports, ...], ONE_OR_LIST] = Field(
        default=(), description="a TCP port, or a range such as 6000-6010"
    )
    parent: "Selector | None" = Field(default=None, description="a selector that the parent matches")
    ancestor: "Selector | None" = Field(default=None, description="a selector that any ancestor matches")
    min_age: Age = Field(default=0.0, description="how long the process must have been running, such as 2s")
    any_of: "Selectors" = Field(default=(), alias="any", description="selectors, one of which matches")
    none_of: "Selectors" = Field(default=(), alias="not", description="selectors, none of which matches")


Selectors = Annotated[tuple[Selector, ...], ONE_OR_LIST]
Selector.model_rebuild()
