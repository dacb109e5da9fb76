"""What the exporter can expose: its own samples and those of the examples, and the labels that each of them has."""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path

from ebpf_userspace_exporter.config.load import load_config
from ebpf_userspace_exporter.config.model import Histogram, Label
from ebpf_userspace_exporter.config.names import OWN_METRICS, PREFIX
from ebpf_userspace_exporter.config.target_labels import target_labels
from ebpf_userspace_exporter.supervisor.entry import STATES

REPOSITORY = Path(__file__).resolve().parents[2]

Values = tuple[str, ...]  # that a label may have; none where it may be any
Samples = dict[str, dict[str, Values]]  # a sample's labels by its name

OF_EACH_TARGET: Mapping[str, Values] = {"job": (), "instance": ()}  # Prometheus adds them
NOT_OURS: Samples = {
    name: dict(OF_EACH_TARGET) for name in ("up", "process_cpu_seconds_total", "process_resident_memory_bytes")
}


def own_samples() -> Samples:
    """Return what the exporter says of itself, with the labels that docs/metrics.md tells of."""
    text = (REPOSITORY / "docs/metrics.md").read_text()
    cells = dict(re.findall(r"^\| `(\w+)` \|(.*?)\| \w+ \|", text, re.MULTILINE))
    found: Samples = {}
    for name, kind in OWN_METRICS.items():
        labels: dict[str, Values] = dict.fromkeys(re.findall(r"`(\w+)`", cells[name]), ())
        if "state" in labels:
            labels["state"] = tuple(map(str, STATES))
        found |= _samples(name, labels, is_histogram=kind == "histogram")
    return found


def example_samples() -> Samples:
    """Return what the examples' configs bring."""
    found: Samples = {}
    for path in sorted((REPOSITORY / "examples").glob("*/*.yaml")):
        for program in load_config(path, trusted=False).config.programs:
            for metric in program.metrics.all:
                labels: dict[str, Values] = {label.name: _values(label) for label in metric.labels}
                labels |= dict.fromkeys(target_labels(program), ())
                found |= _samples(metric.name, labels, is_histogram=isinstance(metric, Histogram))
    return found


def all_samples() -> Samples:
    """Return both, and what dashboards ask of Prometheus beside them."""
    return {**NOT_OURS, **own_samples(), **example_samples()}


def family(sample: str) -> str:
    """Return the metric that a sample may be a part of."""
    return re.sub(r"_(bucket|sum|count)$", "", sample)


def specimens(samples: Samples) -> list[str]:
    """Return series, as PromQL writes them, of each sample with each value that its labels may have."""
    return [
        name + "{" + ", ".join(f'{label}="{value}"' for label, value in zip(labels, values, strict=True)) + "}"
        for name, labels in samples.items()
        for values in itertools.product(*(known or ("any",) for known in labels.values()))
    ]


def _values(label: Label) -> Values:
    maps = [decoder for decoder in label.decoders if decoder.static_map]
    return tuple(maps[-1].static_map.values()) if maps and not maps[-1].allow_unknown else ()


def _samples(name: str, labels: Mapping[str, Values], *, is_histogram: bool) -> Samples:
    have = {**labels, **OF_EACH_TARGET}
    if not is_histogram:
        return {PREFIX + name: have}
    have.pop("bucket", None)
    buckets = {**have, "le": ("1", "+Inf")}
    return {f"{PREFIX}{name}_bucket": buckets, f"{PREFIX}{name}_sum": have, f"{PREFIX}{name}_count": have}
