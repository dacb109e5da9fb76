"""What workers say of their reads is counted once."""

import structlog

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.supervisor.accounts import Accounts
from ebpf_userspace_exporter.supervisor.entry import Entry, Worker
from ebpf_userspace_exporter.supervisor.failures import FailureLog
from ebpf_userspace_exporter.supervisor.own_metrics import OwnMetrics
from ebpf_userspace_exporter.supervisor.targets import ExecMark, Slot, Target
from ebpf_userspace_exporter.worker.bpf.usage import FunctionUsage
from ebpf_userspace_exporter.worker.messages import Collected

PROGRAM = Program(name="malloc", attachment=Selector(binary_name=("x",)), code="")


def entry(pid: int = 42) -> Entry:
    return Entry(Target(Slot("malloc", pid), "d1", 100, ExecMark(1, 2, 3, 4)), PROGRAM, pidfd=-1, discovered=0.0)


def worker() -> Worker:
    return Worker(pid=4242, channel=None, started=0.0)


def counts(metrics: OwnMetrics) -> tuple[float, float]:
    """Return dropped label sets and decode errors."""
    dropped = metrics.dropped_series.labels("malloc", "max_series")
    errors = metrics.decode_errors.labels("malloc", "calls")
    return dropped._value.get(), errors._value.get()


def said(number: int) -> Collected:
    return Collected(0, publish=False, dropped={"max_series": number}, decode_errors={"calls": number})


def test_what_a_worker_says_again_and_again_is_new_each_time() -> None:
    metrics, of, by = OwnMetrics(), entry(), worker()
    accounts = Accounts(metrics, FailureLog(metrics))

    for number in (3, 2):
        accounts.take(of, by, said(number))

    assert counts(metrics) == (5, 5)


def test_what_a_successor_meets_again_is_not_new() -> None:
    metrics, of = OwnMetrics(), entry()
    accounts = Accounts(metrics, FailureLog(metrics))
    first, second = worker(), worker()
    accounts.take(of, first, said(3))
    accounts.take(of, first, said(1))

    accounts.take(of, second, said(4))
    assert counts(metrics) == (4, 4)
    accounts.take(of, second, said(2))
    assert counts(metrics) == (6, 6)
    accounts.take(of, worker(), said(7))
    assert counts(metrics) == (7, 7)


def test_one_target_knows_nothing_of_another() -> None:
    metrics = OwnMetrics()
    accounts = Accounts(metrics, FailureLog(metrics))
    for pid in (1, 2):
        accounts.take(entry(pid), worker(), said(3))

    assert counts(metrics) == (6, 6)


def test_rows_left_out_are_one_line_for_all_targets_of_a_program() -> None:
    metrics = OwnMetrics()
    accounts = Accounts(metrics, FailureLog(metrics))
    with structlog.testing.capture_logs() as lines:
        for pid in (1, 2):
            accounts.take(entry(pid), worker(), Collected(0, publish=False, warnings=("more than 10 label sets",)))

    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["rows left out"]


def test_functions_that_a_message_had_no_room_for_are_not_counted_anew() -> None:
    metrics, of, by = OwnMetrics(), entry(), worker()
    accounts = Accounts(metrics, FailureLog(metrics))
    for runs in (5, None, 6):
        functions = {} if runs is None else {"on_call": FunctionUsage(runs, 0.5)}
        accounts.take(of, by, Collected(0, publish=False, functions=functions))

    assert metrics._program_runs.labels("malloc", "on_call")._value.get() == 6
