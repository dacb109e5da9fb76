"""The metric file of one kind of a target's metrics, brought up to date with its ledger."""

from collections.abc import Mapping
from pathlib import Path

from ebpf_userspace_exporter.worker.file_names import discard
from ebpf_userspace_exporter.worker.metric_file import MetricFile, MetricFileError, NoSpaceError, read_metric_file
from ebpf_userspace_exporter.worker.series import Ledger, SeriesSet
from ebpf_userspace_exporter.worker.tally import Tally


class KindFile:
    """Shows a ledger in a file, which is written anew where it was damaged or shows series that have ended.

    A new one is made under the `temporary` name: the supervisor renames it to `path`.
    """

    def __init__(self, path: Path, temporary: Path, group: int | None, ledger: Ledger) -> None:
        self.ledger = ledger
        self._path = path
        self._temporary = temporary
        self._group = group
        self._file: MetricFile | None = None
        self._has_predecessor = False  # what is at `path` is whole, and all of it is in the ledger
        self._unsaid: list[str] = []
        self._said: set[str] = set()

    def restore(self, multipliers: Mapping[str, float]) -> None:
        """Take over the values of the file that is there; one that cannot be read counts as none."""
        try:
            self.ledger.restore(read_metric_file(self._path), multipliers)
            self._has_predecessor = True
        except MetricFileError as error:
            if self._path.exists():
                self._unsaid.append(f"{error}; totals start from what the maps hold")

    def write(self, tally: Tally) -> bool:
        """Make the file show the ledger; return whether that took a new file, which is to be published."""
        file = self._file
        # Before it is published it is at one of its two names, after that at the other.
        is_there = file is not None and (file.is_at(self._path) or file.is_at(self._temporary))
        is_new = file is None or not is_there or self.ledger.has_lost or file.damaged()
        if file is None or is_new:
            self._file = file = self._renewed(tally)
        if file is not None:
            self._place(file, tally)
            if self._has_predecessor and self.ledger.unplaced:
                # Readers would miss what the file before still shows: it stays until there is room for all.
                self._discard()
                file = None
        if file is not None:
            self._has_predecessor = False
            shown = [(series.slot, series) for series in self.ledger.changed if series.slot is not None]
            file.store(
                [slot for slot, _ in shown],
                [series.refresh_value() for _, series in shown],
                [series.total for _, series in shown],
            )
        self.ledger.changed.clear()
        tally.messages += self._unsaid
        self._unsaid.clear()
        return is_new and file is not None

    def close(self) -> None:
        """Let go of the file, which stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _discard(self) -> None:
        self.close()
        discard(str(self._temporary), None)

    def _renewed(self, tally: Tally) -> MetricFile | None:
        self.close()
        self.ledger.unplaced = list(self.ledger.sets)
        self.ledger.has_lost = False
        try:
            # This generation's own, if it was damaged before it was published.
            discard(str(self._temporary), None)
            return MetricFile.create(self._temporary, group=self._group)
        except (OSError, MetricFileError) as error:
            self._drop(self.ledger.unplaced, error, tally)
            return None

    def _place(self, file: MetricFile, tally: Tally) -> None:
        unplaced, placed = self.ledger.unplaced, 0
        try:
            for series_set in unplaced:
                slots = file.slots(series.key for series in series_set.members)
                for series, slot in zip(series_set.members, slots, strict=True):
                    series.slot = slot
                self.ledger.changed.update(series_set.members)
                series_set.is_dropped = False
                placed += 1
        except MetricFileError as error:
            self._drop(unplaced[placed:], error, tally)
        del unplaced[:placed]

    def _drop(self, sets: list[SeriesSet], error: Exception, tally: Tally) -> None:
        """Count what is not shown; it goes on being counted, and is placed as soon as that is possible."""
        for series_set in sets:
            for series in series_set.members:
                series.slot = None
        newly = [series_set for series_set in sets if not series_set.is_dropped]
        for series_set in newly:
            series_set.is_dropped = True
        if newly:
            tally.count_dropped("no_space" if isinstance(error, NoSpaceError) else "file", len(newly))
        self._say_once(f"{error}; series are missing")

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._unsaid.append(message)
