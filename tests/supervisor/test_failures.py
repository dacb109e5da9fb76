"""A failure is told once however many processes it happens on."""

import pytest
import structlog

from ebpf_userspace_exporter.supervisor.failures import FailureLog
from ebpf_userspace_exporter.supervisor.own_metrics import OwnMetrics
from ebpf_userspace_exporter.supervisor.targets import ExecMark, Slot, Target
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason


def target(pid: int) -> Target:
    return Target(Slot("malloc", pid), "digest", 100, ExecMark(1, 2, 3, 4))


def verifier_words(map_address: str) -> AttachError:
    return AttachError(Reason.VERIFIER, "the verifier refuses", f"2: (18) r1 = {map_address}\nR0 invalid mem access")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (verifier_words("0xffff88811f260c00"), verifier_words("0xffff888120ff6800")),
        (
            AttachError(Reason.FILE_NOT_FOUND, "libz: process 41 maps no such library"),
            AttachError(Reason.FILE_NOT_FOUND, "libz: process 7042 maps no such library"),
        ),
    ],
    ids=["addresses", "pids"],
)
def test_failures_that_differ_in_numbers_only_are_one_line(first: AttachError, second: AttachError) -> None:
    failures = FailureLog(OwnMetrics())

    with structlog.testing.capture_logs() as lines:
        failures.note(target(41), first)
        failures.note(target(7042), second)

    assert [line["pid"] for line in lines if line["log_level"] != "debug"] == [41]


def test_what_a_target_may_still_map_is_no_error() -> None:
    failures = FailureLog(OwnMetrics())

    with structlog.testing.capture_logs() as lines:
        failures.note(target(41), AttachError(Reason.FILE_NOT_FOUND, "libz: process 41 maps no such library"))
        failures.note(target(41), AttachError(Reason.FILE_NOT_FOUND, "cannot be opened", "diagnostics"))

    assert [(line["log_level"], line["event"]) for line in lines] == [("warning", "waiting for its probes")] * 2


def test_another_diagnosis_of_the_same_reason_is_another_line() -> None:
    failures = FailureLog(OwnMetrics())

    with structlog.testing.capture_logs() as lines:
        failures.note(target(41), AttachError(Reason.COMPILE, "no", "use of undeclared identifier 'a'"))
        failures.note(target(42), AttachError(Reason.COMPILE, "no", "use of undeclared identifier 'b'"))

    assert [line["pid"] for line in lines if line["log_level"] == "error"] == [41, 42]
