"""The probe config as the rest of the exporter sees it: frozen, complete, checked."""

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ebpf_userspace_exporter.config.scalars import Boolean, Integer, Number

MAX_KEY_BYTES = 512  # the BPF stack, where a key is made, has no more
MAX_COMM_BYTES = 15

# What bounds a map's key in Go and in C; a bucket beyond it cannot be counted anyway.
BucketKey = Annotated[Integer, Field(ge=-(1 << 63), lt=1 << 63)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Decoder(_Model):
    """One step from a key's bytes to a label's text; what a decoder does not use stays empty."""

    name: str = Field(description="the name of a decoder")
    static_map: Mapping[str, str] = {}
    allow_unknown: Boolean = False
    regexps: tuple[str, ...] = ()


class Label(_Model):
    """`size` bytes of the key, then `padding` bytes that are skipped."""

    name: str = Field(description="a label's name")
    size: Annotated[Integer, Field(ge=1, le=MAX_KEY_BYTES, description="how many bytes of the key")]
    padding: Annotated[Integer, Field(ge=0, le=MAX_KEY_BYTES)] = 0
    decoders: tuple[Decoder, ...] = Field(description="a list of decoders")


class Counter(_Model):
    """One series per row of the map `table`; without labels the whole map is one series."""

    name: str = Field(description="the metric's name")
    help: str = ""
    table: str = Field(description="the name of a BPF map in the code")
    labels: tuple[Label, ...] = ()


class BucketType(StrEnum):
    """How a bucket's key becomes its upper bound."""

    EXP2 = "exp2"
    EXP2ZERO = "exp2zero"
    LINEAR = "linear"
    FIXED = "fixed"


class Histogram(_Model):
    """A map whose last label is the bucket; the others are the series' labels."""

    name: str = Field(description="the metric's name")
    help: str = ""
    table: str = Field(description="the name of a BPF map in the code")
    labels: tuple[Label, ...] = Field(description="a list of labels, the last of them the bucket")
    bucket_type: BucketType = Field(description="exp2, exp2zero, linear or fixed")
    bucket_multiplier: Annotated[Number, AfterValidator(lambda multiplier: multiplier or 1.0)] = 1.0  # 0 is unset
    bucket_min: BucketKey = 0
    bucket_max: BucketKey = 0
    bucket_keys: tuple[Number, ...] = ()


class Metrics(_Model):
    """What a program's maps become."""

    counters: tuple[Counter, ...] = ()
    histograms: tuple[Histogram, ...] = ()


class Attachment(_Model):
    """Which processes a program is attached to: those whose comm is `binary_name`, as far as a comm goes."""

    binary_name: str = Field(description="the name of a process, as in /proc/PID/comm")

    @property
    def comm(self) -> str:
        """What the kernel keeps of `binary_name`: 15 bytes (TASK_COMM_LEN)."""
        return self.binary_name.encode(errors="surrogateescape")[:MAX_COMM_BYTES].decode(errors="surrogateescape")


class Program(_Model):
    """BPF C, the probes it is attached to (probe -> function), and what its maps mean."""

    name: str = Field(description="the program's name")
    metrics: Metrics = Metrics()
    usdt: Mapping[str, str] = {}
    uprobes: Mapping[str, str] = {}
    uretprobes: Mapping[str, str] = {}
    attachment: Attachment = Field(description="a mapping with binary_name")
    cflags: tuple[str, ...] = ()
    code: str = Field(description="the program in BPF C")

    def digest(self) -> str:
        """Return 16 hexadecimal digits that differ when anything about the program does."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


class Config(_Model):
    """Everything in a probe config."""

    programs: tuple[Program, ...] = Field(description="a list of programs")
