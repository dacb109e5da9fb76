"""The series of a metric, found by raw keys: of a map's rows, or of events."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from ebpf_userspace_exporter.config.model import Counter, Gauge, Histogram, Label
from ebpf_userspace_exporter.config.names import PREFIX, family_of
from ebpf_userspace_exporter.worker.decoders import DecodeError, RowSkipped
from ebpf_userspace_exporter.worker.decoders.surroundings import Surroundings
from ebpf_userspace_exporter.worker.key_layout import KeyLayout
from ebpf_userspace_exporter.worker.metric_file import metric_key
from ebpf_userspace_exporter.worker.series import Ledger, Series, SeriesLimitError
from ebpf_userspace_exporter.worker.tally import Tally

TargetLabels = Sequence[tuple[str, str]]


class KeyedSeries(ABC):
    """One metric of a target. The target's own labels, names and texts, come after the metric's."""

    def __init__(
        self,
        metric: Counter | Gauge | Histogram,
        labels: TargetLabels,
        ledger: Ledger,
        surroundings: Surroundings,
        *,
        series_labels: Sequence[Label],
    ) -> None:
        self.table = metric.table
        self._metric = metric
        self._ledger = ledger
        self._layout = KeyLayout(metric.labels, surroundings)
        self._names = [label.name for label in series_labels]
        self._target_labels = labels
        self._told: set[str] = set()

    @abstractmethod
    def _series_of(self, raw: bytes) -> Series:
        """Return the series of a raw key, a new one if need be."""

    def _find(self, raw: bytes, tally: Tally) -> Series | None:
        """Return the series of a raw key; None, and what is wrong in the tally, if the key is bad or not wanted."""
        name = self._metric.name
        try:
            return self._series_of(raw)
        except RowSkipped:
            return None
        except DecodeError as error:
            tally.count_decode_error(name)
            self._tell_once("decode", f"{name}: {error}", tally)
        except SeriesLimitError as error:
            tally.count_dropped("series_limit")
            self._tell_once("limit", f"{name}: {error}", tally)
        return None

    def _labels(self, texts: Sequence[str]) -> list[tuple[str, str]]:
        return [*zip(self._names, texts, strict=True), *self._target_labels]

    def _tell_once(self, topic: str, message: str, tally: Tally) -> None:
        if topic not in self._told:
            self._told.add(topic)
            tally.messages.append(message)


def counter_key(counter: Counter, labels: Sequence[tuple[str, str]]) -> str:
    """Return the key of a counter's series in its metric file."""
    return metric_key(PREFIX + family_of(counter.name, "counter"), PREFIX + counter.name, labels, counter.help)
