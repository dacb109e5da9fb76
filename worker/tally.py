"""What went wrong while a target's numbers were taken."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Numbers by metric and by reason, and words for the log, since the last report."""

    decode_errors: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def count_decode_error(self, metric: str) -> None:
        """Count one bad key or event of a metric."""
        self.decode_errors[metric] = self.decode_errors.get(metric, 0) + 1

    def count_dropped(self, reason: str, number: int = 1) -> None:
        """Count label sets that there is no place for."""
        self.dropped[reason] = self.dropped.get(reason, 0) + number
