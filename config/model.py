"""The probe config as the rest of the exporter sees it: frozen, complete, checked."""

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ebpf_userspace_exporter.config.scalars import Boolean, Integer, Number
from ebpf_userspace_exporter.config.selector import Selector, Selectors

MAX_KEY_BYTES = 512  # the BPF stack, where a key is made, has no more
MAX_LEAF_BYTES = 1 << 20
MAX_SERIES = 100_000  # that a metric file can be asked to hold
MAX_TARGETS = 100_000

# What bounds a map's key in Go and in C; a bucket beyond it cannot be counted anyway.
BucketKey = Annotated[Integer, Field(ge=-(1 << 63), lt=1 << 63)]
Multiplier = Annotated[Number, AfterValidator(lambda multiplier: multiplier or 1.0)]  # 0 is unset, as in ebpf_exporter


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Decoder(_Model):
    """One step from a key's bytes to a label's text; what a decoder does not use stays empty."""

    name: str = Field(description="the name of a decoder")
    static_map: Mapping[str, str] = Field(default={}, description="a mapping of texts to texts")
    allow_unknown: Boolean = Field(default=False, description="whether a text that static_map lacks is kept as it is")
    regexps: tuple[str, ...] = Field(default=(), description="a list of regular expressions")
    stack_table: str = Field(default="", description="the name of a BPF_STACK_TRACE in the code")


class Label(_Model):
    """`size` bytes of the key, then `padding` bytes that are skipped.

    The last label of a per-CPU map may be `cpu`, without a size and decoders: then its values are not summed.
    """

    name: str = Field(description="a label's name")
    size: Annotated[Integer, Field(ge=0, le=MAX_KEY_BYTES, description="how many bytes of the key")] = 0
    padding: Annotated[Integer, Field(ge=0, le=MAX_KEY_BYTES, description="how many bytes after it are skipped")] = 0
    decoders: tuple[Decoder, ...] = Field(default=(), description="a list of decoders")

    @property
    def is_cpu(self) -> bool:
        """Whether it is not of the key: the CPU whose share of a per-CPU map the value is."""
        return self.name == "cpu" and not self.size and not self.decoders


class ValueType(StrEnum):
    """How the bytes of a value in a map are read: unsigned or signed, in so many bits."""

    U8 = "u8"
    U16 = "u16"
    U32 = "u32"
    U64 = "u64"
    S8 = "s8"
    S16 = "s16"
    S32 = "s32"
    S64 = "s64"

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return int(self[1:]) // 8

    @property
    def is_signed(self) -> bool:
        """Whether it may be negative."""
        return self.startswith("s")


class _Rows(_Model):
    """A metric with one series per row of a map, and where in the row's leaf the value is."""

    name: str = Field(description="the metric's name")
    help: str = Field(default="", description="what the metric says, for # HELP")
    table: str = Field(description="the name of a BPF map in the code")
    labels: tuple[Label, ...] = Field(default=(), description="a list of labels, the parts of the map's key in order")
    value_type: ValueType | None = Field(
        default=None, description="u8, u16, u32, u64, s8, s16, s32 or s64; the whole leaf, up to 8 bytes, if not given"
    )
    value_multiplier: Number = Field(default=1.0, description="what the value is multiplied by")
    value_offset: Annotated[Integer, Field(ge=0, lt=MAX_LEAF_BYTES, description="how many bytes into the leaf")] = 0


class Counter(_Rows):
    """One series per row of the map `table`; without labels the whole map is one series.

    A table of events (BPF_PERF_OUTPUT, BPF_RINGBUF_OUTPUT) has no rows: its labels are of the events' bytes, and each
    event counts one.
    """


class Combine(StrEnum):
    """What becomes of the values of several targets, or rows, that have the same labels."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"


class Gauge(_Rows):
    """As a counter, but its value may fall, and a row that is gone ends its series."""

    combine: Combine = Field(default=Combine.SUM, description="sum, max or min of what has the same labels")


class BucketType(StrEnum):
    """How a bucket's key becomes its upper bound."""

    EXP2 = "exp2"
    EXP2ZERO = "exp2zero"
    LINEAR = "linear"
    FIXED = "fixed"


class Histogram(_Model):
    """A map whose last label is the bucket; the others are the series' labels."""

    name: str = Field(description="the metric's name")
    help: str = Field(default="", description="what the metric says, for # HELP")
    table: str = Field(description="the name of a BPF map in the code")
    labels: tuple[Label, ...] = Field(description="a list of labels, the last of them the bucket")
    bucket_type: BucketType = Field(description="exp2, exp2zero, linear or fixed")
    bucket_multiplier: Multiplier = Field(
        default=1.0, description="what the upper bounds and the sum are multiplied by"
    )
    bucket_min: BucketKey = Field(default=0, description="the key of the first bucket")
    bucket_max: BucketKey = Field(default=0, description="the key of the last bucket")
    bucket_keys: tuple[Number, ...] = Field(default=(), description="the buckets' keys, for the bucket_type fixed")


class Metrics(_Model):
    """What a program's maps become."""

    counters: tuple[Counter, ...] = Field(default=(), description="values that only rise")
    gauges: tuple[Gauge, ...] = Field(default=(), description="values that rise and fall")
    histograms: tuple[Histogram, ...] = Field(default=(), description="counts in buckets")

    @property
    def all(self) -> tuple["Counter | Gauge | Histogram", ...]:
        """Every metric, of whatever kind."""
        return (*self.counters, *self.gauges, *self.histograms)


class Program(_Model):
    """BPF C, the probes it is attached to (probe -> function), and what its maps mean.

    `max_series` counts a histogram as one. A uretprobe crashes a Go binary sooner or later: `allow_go_uretprobes`.
    """

    name: str = Field(description="the program's name")
    metrics: Metrics = Field(default=Metrics(), description="what the program's maps become")
    usdt: Mapping[str, str] = Field(default={}, description="a function for each probe or provider:probe")
    uprobes: Mapping[str, str] = Field(
        default={}, description="a function for each symbol or path:symbol that is entered"
    )
    uretprobes: Mapping[str, str] = Field(
        default={}, description="a function for each symbol or path:symbol that returns"
    )
    attachment: Selector = Field(description="a mapping with binary_name, exe, cmdline or another key")
    target_labels: Mapping[str, str] = Field(default={"pid": "{pid}"}, description="a template for each label")
    max_series: Annotated[Integer, Field(ge=1, le=MAX_SERIES, description="how many series at most")] = 10_000
    max_targets: Annotated[Integer, Field(ge=1, le=MAX_TARGETS, description="how many processes at most")] = 1_000
    allow_go_uretprobes: Boolean = Field(
        default=False, description="whether a Go binary gets uretprobes, which crash it"
    )
    cflags: tuple[str, ...] = Field(default=(), description="more options for clang")
    code: str = Field(description="the program in BPF C")

    def digest(self) -> str:
        """Return 16 hexadecimal digits that differ when anything about the program does."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


class Config(_Model):
    """Everything in a probe config; processes that match any selector of `exclude` are nobody's target."""

    exclude: Selectors = Field(default=(), description="a selector or a list of selectors")
    programs: tuple[Program, ...] = Field(description="a list of programs")
