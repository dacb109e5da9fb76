"""One line of JSON, whatever the targets."""

import json

from ebpf_userspace_exporter.supervisor.status import status_line


def test_targets_are_counted_by_state() -> None:
    states = [("a", "running"), ("b", "running"), ("a", "failed")]

    assert json.loads(status_line(states, ready=True)) == {"ready": True, "targets": {"failed": 1, "running": 2}}


def test_nothing_is_known_at_first() -> None:
    assert json.loads(status_line([], ready=False)) == {"ready": False, "targets": {}}


def test_it_is_one_line() -> None:
    assert "\n" not in status_line([("a\nb", "running")] * 100, ready=True)
