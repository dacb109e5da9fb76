"""Prometheus text 0.0.4 and OpenMetrics 1.0.0 of families whose samples are rendered already: they are alike in both.

prometheus_client's generate_latest adds `_total` to a counter that was configured without, hence our own.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from prometheus_client.utils import floatToGoString

from ebpf_userspace_exporter.web.metric_keys import Kind

TEXT_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

GO_EXPONENT_FROM, _GO_EXPONENT_BELOW = 1e6, 1e16
_GO_EXPONENTS = [f"e+{digits - 1:02}" for digits in range(17)]
# The library is typed but for this function.
_go_text: Callable[[float], str] = floatToGoString


@dataclass(frozen=True, slots=True)
class Family:
    """What one metric exposes; `name` is the name as configured, a counter's `_total` included."""

    name: str
    kind: Kind
    help: str
    lines: bytes


def exposed_names(name: str, kind: Kind) -> tuple[str, ...]:
    """Return every sample name that belongs to a metric, so that no two metrics expose the same."""
    if kind is Kind.HISTOGRAM:
        return (name, f"{name}_bucket", f"{name}_count", f"{name}_sum", f"{name}_created")
    return (name,)


def restrict(families: Iterable[Family], names: Collection[str]) -> list[Family]:
    """Return the families of these names, and of the others the samples of these names; no empty family."""
    restricted = []
    for family in families:
        if family.name not in names:
            family = replace(family, lines=_lines_of(family, names))  # noqa: PLW2901 - what is left of it
        if family.lines:
            restricted.append(family)
    return restricted


def render_text(families: Iterable[Family]) -> bytes:
    """Return the families in Prometheus text format 0.0.4.

    https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    parts: list[bytes] = []
    for family in families:
        parts.append(
            f"# HELP {family.name} {_escape(family.help)}\n# TYPE {family.name} {family.kind.value}\n".encode()
        )
        parts.append(family.lines)
    return b"".join(parts)


def render_openmetrics(families: Sequence[Family]) -> bytes:
    """Return the families in OpenMetrics 1.0.0.

    There a counter's samples must end in `_total` and its family must not. A counter `x_total` is thus family `x`; one
    named without `_total`, or whose `x` is another family, keeps its name and is of type unknown.
    https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md
    """
    names = _openmetrics_names(families)
    parts: list[bytes] = []
    for family in families:
        name = names[family.name]
        kind = "unknown" if family.kind is Kind.COUNTER and name == family.name else family.kind.value
        parts.append(f"# HELP {name} {_escape_with_quotes(family.help)}\n# TYPE {name} {kind}\n".encode())
        parts.append(family.lines)
    parts.append(b"# EOF\n")
    return b"".join(parts)


def number_text(number: float) -> str:
    """Return the number as Go writes it: what the library's function returns, for large counts in half the time."""
    if GO_EXPONENT_FROM <= number < _GO_EXPONENT_BELOW and number == (whole := int(number)):
        digits = str(whole)
        return (digits[0] + "." + digits[1:]).rstrip("0.") + _GO_EXPONENTS[len(digits)]
    return _go_text(number)


def numbers_text(numbers: Iterable[float], text: Callable[[float], str] = number_text) -> list[float | str]:
    """Return what Python writes as Go does: small numbers as they are, others as `text` has them."""
    # Zero is added because minus zero is zero.
    return [n + 0.0 if -math.inf < n < GO_EXPONENT_FROM else text(n) for n in numbers]


def label_text(name: str, text: str) -> str:
    """Return a label as it stands between the braces."""
    return f'{name}="{_escape_with_quotes(text)}"'


def _lines_of(family: Family, names: Collection[str]) -> bytes:
    wanted = [name.encode() for name in exposed_names(family.name, family.kind) if name in names]
    if not wanted:
        return b""
    starts = tuple(name + end for name in wanted for end in (b" ", b"{"))
    # Not splitlines: a carriage return in a label is no end of a line.
    return b"".join(line + b"\n" for line in family.lines.split(b"\n") if line.startswith(starts))


def _openmetrics_names(families: Sequence[Family]) -> dict[str, str]:
    """Return each family's OpenMetrics name; a name that another family's samples may have is left to that one."""
    names = {family.name: family.name for family in families}
    taken: set[str] = set()
    totals: list[str] = []
    for family in families:
        if family.kind is Kind.COUNTER and family.name.endswith("_total"):
            totals.append(family.name)
        else:
            taken.update(exposed_names(family.name, family.kind))
    for total in totals:
        base = total.removesuffix("_total")
        claimed = {base, total, f"{base}_created"}
        if base and taken.isdisjoint(claimed):
            names[total] = base
            taken |= claimed
        else:
            taken.add(total)
    return names


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _escape_with_quotes(text: str) -> str:
    return _escape(text).replace('"', r"\"")
