"""What the control socket says of the exporter's state: one line of JSON."""

import json
from collections import Counter
from collections.abc import Iterable


def status_line(states: Iterable[tuple[str, str]], *, ready: bool) -> str:
    """Return whether the first look at the processes is through, and the number of targets by state.

    `states` has program and state of each target.
    """
    numbers = Counter(state for _, state in states)
    return json.dumps({"ready": ready, "targets": dict(sorted(numbers.items()))})
