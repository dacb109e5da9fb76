"""Whether the code's maps hold what the metrics of a program say of them."""

import difflib
from collections.abc import Iterable, Iterator

from ebpf_userspace_exporter.config.buckets import bucket_keys
from ebpf_userspace_exporter.config.model import Counter, Gauge, Histogram, Program
from ebpf_userspace_exporter.worker.bpf.maps import EVENT_KINDS, PER_CPU_KINDS, READABLE_KINDS, MapKind
from ebpf_userspace_exporter.worker.bpf.values import NoValueError, value_type_at
from ebpf_userspace_exporter.worker.image import MapShape
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

_ARRAYS = frozenset({MapKind.ARRAY, MapKind.PERCPU_ARRAY})

Metric = Counter | Gauge | Histogram


def check_metrics(program: Program, maps: Iterable[MapShape]) -> None:
    """Refuse metrics that no map of the code fits; AttachError UNKNOWN_TABLE, MAP_TYPE, KEY_SIZE."""
    shapes = {shape.name: shape for shape in maps}
    for metric in program.metrics.all:
        shape = shapes.get(metric.table)
        if shape is None:
            near = difflib.get_close_matches(metric.table, shapes, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(shapes)) or 'none'}"
            raise AttachError(
                Reason.UNKNOWN_TABLE, f"metric {metric.name}: the code has no table {metric.table}; {hint}"
            )
        if shape.kind in EVENT_KINDS and isinstance(metric, Counter):
            _check_events(metric, shape)
        else:
            _check_kind(metric, shape)
            _check_value(metric, shape)
            _check_key(metric, shape)


def room_warnings(program: Program, maps: Iterable[MapShape]) -> Iterator[str]:
    """Yield a warning for each histogram that an array has no room for: beyond its end, nothing is ever counted."""
    shapes = {shape.name: shape for shape in maps if shape.kind in _ARRAYS}
    for histogram in program.metrics.histograms:
        shape = shapes.get(histogram.table)
        if shape is None or len(histogram.labels) > 1:
            continue  # with other labels a bucket's number is a part of the index
        last = bucket_keys(histogram)[-1]
        if shape.max_entries <= last + 1:
            lost = f"the sum's key {last + 1:g}, so that the sum stays 0"
            if shape.max_entries <= last:
                lost = f"its last bucket's key {last:g} and the sum's, {last + 1:g}"
            yield (
                f"warning: metric {histogram.name}: table {shape.name} has {shape.max_entries} entries, "
                f"no room for {lost}: it needs {int(last) + 2}"
            )


def _check_events(counter: Counter, shape: MapShape) -> None:
    table = f"table {shape.name} is of the kind {MapKind(shape.kind).name}"
    if not counter.labels or counter.labels[-1].is_cpu:
        raise _refused(counter, f"{table}, expected labels, each with a size: they are cut from the events")
    if counter.value_type is not None or counter.value_offset or counter.value_multiplier != 1:
        message = "expected no value_type, value_offset or value_multiplier: each event counts 1"
        raise _refused(counter, f"{table}, {message}")


def _check_kind(metric: Metric, shape: MapShape) -> None:
    expected = READABLE_KINDS | EVENT_KINDS if isinstance(metric, Counter) else READABLE_KINDS
    words = "expected one of "
    if metric.labels and metric.labels[-1].is_cpu:
        expected, words = PER_CPU_KINDS, "for a label cpu without a size expected one of "
    if shape.kind not in expected:
        names = ", ".join(kind.name for kind in sorted(expected))
        raise _refused(metric, f"table {shape.name} is of the kind {MapKind(shape.kind).name}, {words}{names}")


def _check_value(metric: Metric, shape: MapShape) -> None:
    offset, value_type = (0, None) if isinstance(metric, Histogram) else (metric.value_offset, metric.value_type)
    try:
        value_type_at(shape.leaf_bytes, offset, value_type)
    except NoValueError as error:
        raise _refused(metric, f"values of table {shape.name} {error}") from error


def _check_key(metric: Metric, shape: MapShape) -> None:
    labels = [label for label in metric.labels if not label.is_cpu]
    labels_bytes = sum(label.size + label.padding for label in labels)
    if labels and labels_bytes != shape.key_bytes:
        sizes = ", ".join(
            f"{label.name} {label.size}" + (f"+{label.padding}" if label.padding else "") for label in labels
        )
        raise AttachError(
            Reason.KEY_SIZE,
            f"metric {metric.name}: labels have {labels_bytes} bytes ({sizes}), "
            f"the key of table {shape.name} has {shape.key_bytes}",
        )


def _refused(metric: Metric, message: str) -> AttachError:
    return AttachError(Reason.MAP_TYPE, f"metric {metric.name}: {message}")
