"""The probe config as the rest of the exporter sees it: frozen, complete, checked."""

import hashlib
from collections.abc import Mapping
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Decoder(_Model):
    """One step from a key's bytes to a label's text; what a decoder does not use stays empty."""

    name: str
    static_map: Mapping[str, str] = {}
    allow_unknown: bool = False
    regexps: tuple[str, ...] = ()


class Label(_Model):
    """`size` bytes of the key, then `padding` bytes that are skipped."""

    name: str
    size: int
    padding: int = 0
    decoders: tuple[Decoder, ...]


class Counter(_Model):
    """One series per row of the map `table`; without labels the whole map is one series."""

    name: str
    help: str
    table: str
    labels: tuple[Label, ...] = ()


class BucketType(StrEnum):
    """How a bucket's key becomes its upper bound."""

    EXP2 = "exp2"
    EXP2ZERO = "exp2zero"
    LINEAR = "linear"
    FIXED = "fixed"


class Histogram(_Model):
    """A map whose last label is the bucket; the others are the series' labels."""

    name: str
    help: str
    table: str
    labels: tuple[Label, ...]
    bucket_type: BucketType
    bucket_multiplier: float = 1.0
    bucket_min: int = 0
    bucket_max: int = 0
    bucket_keys: tuple[float, ...] = ()


class Metrics(_Model):
    """What a program's maps become."""

    counters: tuple[Counter, ...] = ()
    histograms: tuple[Histogram, ...] = ()


class Attachment(_Model):
    """Which processes a program is attached to: those whose comm is `binary_name`."""

    binary_name: str


class Program(_Model):
    """BPF C, the probes it is attached to (probe -> function), and what its maps mean."""

    name: str
    metrics: Metrics = Metrics()
    usdt: Mapping[str, str] = {}
    uprobes: Mapping[str, str] = {}
    uretprobes: Mapping[str, str] = {}
    attachment: Attachment
    cflags: tuple[str, ...] = ()
    code: str

    def digest(self) -> str:
        """Return 16 hexadecimal digits that differ when anything about the program does."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


class Config(_Model):
    """Everything in a probe config."""

    programs: tuple[Program, ...]
