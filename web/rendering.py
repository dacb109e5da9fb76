"""One metric's lines, from all files that have it: a template made once, and filled when a value has changed."""

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import accumulate, chain, groupby, islice

from ebpf_userspace_exporter.web.exposition import GO_EXPONENT_FROM, label_text, number_text, numbers_text
from ebpf_userspace_exporter.web.layouts import Combine, MetricLayout, Values
from ebpf_userspace_exporter.web.metric_keys import Kind, Labels

_CACHED_BOUNDS = _CACHED_COUNTS = 1 << 10
# What a line ends with: no label's text has a newline, so these are nowhere else.
_ANY, _SMALL = b" %s\n", b" %d.0\n"


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
        self._parts = self._histograms() if self.kind is Kind.HISTOGRAM else self._singles()
        if len(self._sizes) == len(self._order):
            self._sizes.clear()
        self._is_in_order = self._order == array("L", range(len(self._order)))
        self._values: list[Values] = []
        self._lines = b""

    def lines(self, values: list[Values]) -> bytes:
        """Return the lines for the values of the layouts; the same object where none has changed."""
        if values != self._values:
            numbers = self._numbers(list(chain.from_iterable(values)))
            self._lines = "".join([part.lines(numbers) for part in self._parts]).encode("latin-1")
            self._values = values
        return self._lines

    def _numbers(self, values: Sequence[float]) -> Iterator[float]:
        """Return the numbers that the parts take, from the values of all files one after another."""
        numbers = iter(values) if self._is_in_order else map(values.__getitem__, self._order)
        return iter([self._combined(islice(numbers, size)) for size in self._sizes]) if self._sizes else numbers

    def _singles(self) -> list["_Singles"]:
        text = bytearray()
        series = 0
        for labels, places, _ in self._series():
            self._take([*places])
            text += _line(self.name, labels)
            series += 1
        return [_Singles(text.decode("latin-1"), series)]

    def _histograms(self) -> list["_Histogram"]:
        histograms = []
        for labels, places, bounds in self._series():
            by_bound: dict[float | None, list[int]] = {}
            for place in places:
                by_bound.setdefault(bounds[place], []).append(place)
            sums = by_bound.pop(None, [])
            if not sums or math.inf not in by_bound:
                continue  # a writer was adding this series while we read: keys come one by one; the next scrape has it
            buckets = sorted((bound, places) for bound, places in by_bound.items() if bound is not None)
            for _, counts in buckets:
                self._take(counts)
            self._take(sums)
            histograms.append(_Histogram(self.name, labels, [bound for bound, _ in buckets]))
        return histograms

    def _series(self) -> Iterator[tuple[bytes, Iterator[int], Sequence[float | None]]]:
        """Yield each series' labels as text, sorted, the places of its values, and the bounds of the values there."""
        labels = _labels(self.layouts)
        bounds = [*chain.from_iterable(layout.upper_bounds for layout in self.layouts)]
        text_of = cache(_label_text)
        for each, places in groupby(sorted(range(len(labels)), key=labels.__getitem__), key=labels.__getitem__):
            yield b",".join(map(text_of, each)), places, bounds

    def _take(self, places: Sequence[int]) -> None:
        self._order.extend(places)
        self._sizes.append(len(places))


# A part's template is UTF-8 in a string's clothes (Latin-1): one byte a character whatever labels hold, which a string
# is not, and yet it takes both numbers and text, which bytes do not.


class _Singles:
    """The lines of many series of one value each."""

    def __init__(self, template: str, series: int) -> None:
        self._template = template
        self._series = series

    def lines(self, numbers: Iterator[float]) -> str:
        return self._template % tuple(numbers_text(islice(numbers, self._series)))


class _Histogram:
    """The lines of one histogram. While all counts are small, they are filled in as integers: twice as fast."""

    def __init__(self, name: str, labels: bytes, bounds: Sequence[float]) -> None:
        # `le` comes last, as client_golang writes it; then sum and count.
        prefix = labels + b"," if labels else b""
        lines = [_line(f"{name}_bucket", prefix + _bound_text(bound), _SMALL) for bound in bounds]
        lines += (_line(f"{name}_sum", labels), _line(f"{name}_count", labels, _SMALL))
        self._template = b"".join(lines).decode("latin-1")
        self._has_small_counts = True
        self._buckets = len(bounds)

    def lines(self, numbers: Iterator[float]) -> str:
        counts = [*accumulate(islice(numbers, self._buckets))]
        (total,) = numbers_text([next(numbers)])
        if self._has_small_counts and counts[-1] < GO_EXPONENT_FROM:
            return self._template % (*counts, total, counts[-1])
        if self._has_small_counts:
            self._template = self._template.replace(_SMALL.decode(), _ANY.decode())
            self._has_small_counts = False
        spelt = numbers_text(counts, _count_text)
        return self._template % (*spelt, total, spelt[-1])


def _labels(layouts: Sequence[MetricLayout]) -> list[Labels]:
    """Return each value's labels; where files have the same ones in another order, those of the first."""
    labels = [*chain.from_iterable(layout.labels for layout in layouts)]
    if len(frozenset().union(*(layout.label_names for layout in layouts))) > 1:
        first: dict[Labels, Labels] = {}
        labels = [first.setdefault(tuple(sorted(each)), each) for each in labels]
    return labels


def _line(name: str, labels: bytes, number: bytes = _ANY) -> bytes:
    return b"%b{%b}%b" % (name.encode(), labels, number) if labels else name.encode() + number


def _label_text(label: tuple[str, str]) -> bytes:
    return label_text(*label).replace("%", "%%").encode()


@lru_cache(_CACHED_BOUNDS)
def _bound_text(bound: float) -> bytes:
    return label_text("le", number_text(bound)).encode()


@lru_cache(_CACHED_COUNTS)
def _count_text(count: float) -> str:
    """Return what `number_text` does: empty buckets repeat the count before them."""
    return number_text(count)
