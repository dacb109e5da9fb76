"""One metric's lines, from all files that have it: a template made once, and filled when a value has changed."""

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import accumulate, chain, groupby, islice

from ebpf_userspace_exporter.web.exposition import label_text, number_text, numbers_text
from ebpf_userspace_exporter.web.layouts import Combine, MetricLayout, Values
from ebpf_userspace_exporter.web.metric_keys import Kind, Labels

_CACHED_BOUNDS = 1 << 10


def _exact_sum(values: Iterable[float]) -> float:
    """Return the sum, rounded once: one that depended on the files' order would fall when a file gets another name.

    What falls by the least bit is a counter that began anew, to Prometheus.
    """
    values = list(values)
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # beyond the largest number, or of both infinities
        return sum(values)


_COMBINED: Mapping[Combine, Callable[[Iterable[float]], float]] = {
    Combine.SUM: _exact_sum,
    Combine.MAX: max,
    Combine.MIN: min,
}


class Template:
    """The lines of one metric, but for their values; series of equal labels are combined, buckets made cumulative."""

    def __init__(self, layouts: Sequence[MetricLayout]) -> None:
        """Make the template for files of these layouts, at least one; the help of the first is shown."""
        self.layouts = layouts
        self.name, self.help, self.kind = layouts[0].name, layouts[0].help, layouts[0].kind
        self._combined = _COMBINED[layouts[0].combine]
        self._order = array("L")
        """Where in the values of all files, one after another, those of the template are, in its order."""
        self._sizes: list[int] = []
        """How many of them make one number; nothing where each makes one."""
        self._buckets: list[int] = []
        """How many buckets each histogram has."""
        text = bytearray()
        for lines in self._series():
            text += lines
        # Bytes in a string's clothes: one byte a character whatever labels hold, and yet it takes text and numbers.
        self._template = text.decode("latin-1")
        if len(self._sizes) == len(self._order):
            self._sizes.clear()
        self._values: list[Values] = []
        self._lines = b""

    def lines(self, values: list[Values]) -> bytes:
        """Return the lines for the values of the layouts; the same object where none has changed."""
        if values != self._values:
            numbers = numbers_text(self._numbers(list(chain.from_iterable(values))))
            self._lines = (self._template % tuple(numbers)).encode("latin-1")
            self._values = values
        return self._lines

    def _numbers(self, values: Sequence[float]) -> Iterable[float]:
        """Return the template's numbers, from those of all files one after another."""
        numbers: Iterator[float] = map(values.__getitem__, self._order)
        if self._sizes:
            numbers = iter([self._combined(islice(numbers, size)) for size in self._sizes])
        return self._cumulative(numbers) if self.kind is Kind.HISTOGRAM else numbers

    def _cumulative(self, numbers: Iterator[float]) -> list[float]:
        cumulative: list[float] = []
        for buckets in self._buckets:
            cumulative += accumulate(islice(numbers, buckets))
            count = cumulative[-1]
            cumulative += (next(numbers), count)
        return cumulative

    def _series(self) -> Iterator[bytes]:
        """Yield each series' part of the template, by labels, and note which values it takes."""
        labels = _labels(self.layouts)
        bounds = [*chain.from_iterable(layout.upper_bounds for layout in self.layouts)]
        label_text_of = cache(_label_text)
        for each, places in groupby(sorted(range(len(labels)), key=labels.__getitem__), key=labels.__getitem__):
            text = b",".join(map(label_text_of, each))
            if self.kind is Kind.HISTOGRAM:
                yield self._histogram(text, places, bounds)
            else:
                self._take([*places])
                yield _line(self.name, text)

    def _histogram(self, labels: bytes, places: Iterable[int], bounds: Sequence[float | None]) -> bytes:
        by_bound: dict[float | None, list[int]] = {}
        for place in places:
            by_bound.setdefault(bounds[place], []).append(place)
        sums = by_bound.pop(None, [])
        if not sums or math.inf not in by_bound:
            # A writer was adding this series while we read: keys come one by one. The next scrape has it.
            return b""
        buckets = sorted((bound, places) for bound, places in by_bound.items() if bound is not None)
        for _, counts in buckets:
            self._take(counts)
        self._take(sums)
        self._buckets.append(len(buckets))
        # `le` comes last, as client_golang writes it; then sum and count.
        prefix = labels + b"," if labels else b""
        lines = [_line(f"{self.name}_bucket", prefix + _bound_text(bound)) for bound, _ in buckets]
        return b"".join((*lines, _line(f"{self.name}_sum", labels), _line(f"{self.name}_count", labels)))

    def _take(self, places: Sequence[int]) -> None:
        self._order.extend(places)
        self._sizes.append(len(places))


def _labels(layouts: Sequence[MetricLayout]) -> list[Labels]:
    """Return each value's labels; where files have the same ones in another order, those of the first."""
    labels = [*chain.from_iterable(layout.labels for layout in layouts)]
    if len(frozenset().union(*(layout.label_names for layout in layouts))) > 1:
        first: dict[Labels, Labels] = {}
        labels = [first.setdefault(tuple(sorted(each)), each) for each in labels]
    return labels


def _line(name: str, labels: bytes) -> bytes:
    return b"%b{%b} %%s\n" % (name.encode(), labels) if labels else name.encode() + b" %s\n"


def _label_text(label: tuple[str, str]) -> bytes:
    return label_text(*label).replace("%", "%%").encode()


@lru_cache(_CACHED_BOUNDS)
def _bound_text(bound: float) -> bytes:
    return label_text("le", number_text(bound)).encode()
