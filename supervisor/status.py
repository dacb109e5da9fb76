"""What the control socket says of the exporter's state: one line of JSON."""

import json
from collections import Counter
from collections.abc import Iterable

from ebpf_userspace_exporter.supervisor.entry import Entry


def status_line(entries: Iterable[Entry], *, ready: bool) -> str:
    """Return whether the first look at the processes is through, and the number of targets by state."""
    states = Counter(str(entry.state) for entry in entries)
    return json.dumps({"ready": ready, "targets": dict(sorted(states.items()))})
