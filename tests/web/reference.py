"""What files should be rendered as, said as simply as possible: everything anew each time, one value after another."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.utils import floatToGoString

Labels = tuple[tuple[str, str], ...]
Value = tuple[str, str, Labels, str, float]
"""Family, sample, labels, help, value."""


@dataclass
class _Metric:
    kind: str
    combine: str
    help: str
    # By their labels in any order: the labels as first seen, and for each upper bound the values of all files.
    series: dict[frozenset[tuple[str, str]], tuple[Labels, dict[float | None, list[float]]]] = field(
        default_factory=dict
    )


def reference_text(files: Mapping[str, Sequence[Value]]) -> tuple[str, set[str]]:
    """Return the text format of readable files by name, and the names of those left out."""
    metrics: dict[str, _Metric] = {}
    left_out = set()
    for name in sorted(files, key=lambda name: (not name.endswith("_supervisor.own"), name)):
        kind, _, combine = name.partition("_")[0].partition("-")
        if _contradicts(metrics, kind, combine, files[name]):
            left_out.add(name)
            continue
        for family, sample, labels, help_text, value in files[name]:
            metric_name = family if kind == "histogram" else sample
            metric = metrics.setdefault(metric_name, _Metric(kind, combine, help_text))
            bound = float(dict(labels)["le"]) + 0.0 if sample == f"{family}_bucket" and kind == "histogram" else None
            own = tuple(label for label in labels if bound is None or label[0] != "le")
            _, values = metric.series.setdefault(frozenset(own), (own, {}))
            values.setdefault(bound, []).append(value)
    return "".join(_family(name, metrics[name]) for name in sorted(metrics)), left_out


def _contradicts(metrics: Mapping[str, _Metric], kind: str, combine: str, values: Sequence[Value]) -> bool:
    owners = {exposed: name for name, metric in metrics.items() for exposed in _exposed(name, metric.kind)}
    for family, sample, *_ in values:
        name = family if kind == "histogram" else sample
        if name in metrics and (metrics[name].kind, metrics[name].combine) != (kind, combine):
            return True
        if any(owners.setdefault(exposed, name) != name for exposed in _exposed(name, kind)):
            return True
    return False


def _exposed(name: str, kind: str) -> list[str]:
    ends = ("", "_bucket", "_count", "_sum", "_created") if kind == "histogram" else ("",)
    return [name + end for end in ends]


def _family(name: str, metric: _Metric) -> str:
    help_text = metric.help.replace("\\", "\\\\").replace("\n", "\\n")
    lines = [f"# HELP {name} {help_text}", f"# TYPE {name} {metric.kind}"]
    for labels, values in sorted(metric.series.values(), key=lambda series: series[0]):
        if metric.kind != "histogram":
            lines.append(_line(name, labels, _combined(values[None], metric.combine)))
        elif None in values and math.inf in values:
            count = 0.0
            for bound in sorted(bound for bound in values if bound is not None):
                count += _combined(values[bound], "")
                lines.append(_line(f"{name}_bucket", (*labels, ("le", _number(bound))), count))
            lines.append(_line(f"{name}_sum", labels, _combined(values[None], "")))
            lines.append(_line(f"{name}_count", labels, count))
    return "".join(f"{line}\n" for line in lines)


def _combined(values: Sequence[float], combine: str) -> float:
    if combine:
        return {"max": max, "min": min}[combine](values)
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        return sum(values)


def _line(name: str, labels: Labels, value: float) -> str:
    texts = [text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"') for _, text in labels]
    pairs = ",".join(f'{label}="{text}"' for (label, _), text in zip(labels, texts, strict=True))
    return f"{name}{{{pairs}}} {_number(value)}" if pairs else f"{name} {_number(value)}"


def _number(value: float) -> str:
    return floatToGoString(value + 0.0)  # type: ignore[no-untyped-call,no-any-return]  # the library leaves it untyped
