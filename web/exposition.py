"""Renders families as Prometheus text 0.0.4 and as OpenMetrics 1.0.0; a series has the same name in both.

prometheus_client's generate_latest adds `_total` to a counter that was configured without, hence our own.
"""

from collections.abc import Iterable, Iterator, Sequence

from ebpf_userspace_exporter.web.families import Family, exposed_names, format_value
from ebpf_userspace_exporter.web.metric_files import Kind

TEXT_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def render_text(families: Iterable[Family]) -> bytes:
    """Return the families in Prometheus text format 0.0.4.

    https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    lines: list[str] = []
    for family in families:
        lines.append(f"# HELP {family.name} {_escape(family.help)}\n")
        lines.append(f"# TYPE {family.name} {family.kind.value}\n")
        lines.extend(_sample_lines(family))
    return "".join(lines).encode()


def render_openmetrics(families: Sequence[Family]) -> bytes:
    """Return the families in OpenMetrics 1.0.0.

    There a counter's samples must end in `_total` and its family must not. A counter `x_total` is thus family `x`; one
    named without `_total`, or whose `x` is another family, keeps its name and is of type unknown.
    https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md
    """
    names = _openmetrics_names(families)
    lines: list[str] = []
    for family in families:
        name = names[family.name]
        kind = "unknown" if family.kind is Kind.COUNTER and name == family.name else family.kind.value
        lines.append(f"# HELP {name} {_escape_with_quotes(family.help)}\n")
        lines.append(f"# TYPE {name} {kind}\n")
        lines.extend(_sample_lines(family))
    lines.append("# EOF\n")
    return "".join(lines).encode()


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


def _sample_lines(family: Family) -> Iterator[str]:
    for sample in family.samples:
        labels = ",".join(f'{name}="{_escape_with_quotes(text)}"' for name, text in sample.labels)
        yield (
            f"{sample.name}{{{labels}}} {format_value(sample.value)}\n"
            if labels
            else (f"{sample.name} {format_value(sample.value)}\n")
        )


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _escape_with_quotes(text: str) -> str:
    return _escape(text).replace('"', r"\"")
