"""The kernel's process events, of real processes; the kernel must send some here."""

import contextlib
import os
import selectors
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ebpf_userspace_exporter.supervisor import proc_events
from ebpf_userspace_exporter.supervisor.proc_events import FORK_SECONDS, ProcEvents, subscribe
from tests.product.commanded import commanded

DEADLINE_SECONDS = 30.0
SUBSCRIBE = """
import os, selectors
from ebpf_userspace_exporter.supervisor.log import configure
from ebpf_userspace_exporter.supervisor.proc_events import subscribe
configure("info", "logfmt")
before = len(os.listdir("/proc/self/fd"))
selector = selectors.DefaultSelector()
events = subscribe(selector)
selector.close()
print(events is None, len(os.listdir("/proc/self/fd")) - before, flush=True)
"""


@dataclass
class Listening:
    """Events as the loop has them; `told` is who was to be looked at so far."""

    events: ProcEvents
    selector: selectors.BaseSelector
    known: Collection[int] = ()
    told: list[int] = field(default_factory=list)
    wakes: int = 0

    def turn(self) -> None:
        wait = min(self.events.next_deadline() - time.monotonic(), 1.0)
        ready = self.selector.select(max(0.0, wait))
        now = time.monotonic()
        self.wakes += bool(ready) or self.events.next_deadline() <= now
        for key, _ in ready:
            key.data(now)
        if self.events.next_deadline() <= now:
            self.told += self.events.take(now, self.known)

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"not in time; told of {self.told}"
            self.turn()

    def drain(self) -> None:
        """Hear of what has happened until now, by something that happens after it."""
        with subprocess.Popen(["/bin/sleep", "60"]) as last:
            self.until(lambda: last.pid in self.told)
            last.kill()


@contextlib.contextmanager
def subscribed() -> Iterator[Listening]:
    with selectors.DefaultSelector() as selector:
        events = subscribe(selector)
        if events is None:
            pytest.skip("the kernel sends no process events here")
        try:
            yield Listening(events, selector)
        finally:
            events.close()


@pytest.fixture
def listening() -> Iterator[Listening]:
    with subscribed() as found:
        yield found


@pytest.fixture
def sleeping() -> Iterator[int]:
    """A forked process that executes nothing."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_exec_is_told_soon(listening: Listening) -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as started:
        begin = time.monotonic()
        listening.until(lambda: started.pid in listening.told)
        started.kill()

    assert time.monotonic() - begin < FORK_SECONDS + 5  # the machine may be slow; most often it is 10 ms


def test_fork_is_told_when_time_for_an_exec_has_passed(listening: Listening, sleeping: int) -> None:
    listening.drain()
    assert sleeping not in listening.told or FORK_SECONDS < 0.1

    listening.until(lambda: sleeping in listening.told)


def test_everything_is_told_at_once_when_asked_for(listening: Listening, sleeping: int) -> None:
    assert sleeping in listening.events.take(time.monotonic(), (), everything=True)


def test_process_is_told_once_for_its_fork_and_its_exec(listening: Listening) -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as started:
        listening.until(lambda: started.pid in listening.told)
        end = time.monotonic() + 2 * FORK_SECONDS
        while time.monotonic() < end:
            listening.turn()
        started.kill()

    assert listening.told.count(started.pid) == 1


def test_process_that_ended_meanwhile_is_not_told(listening: Listening) -> None:
    with subprocess.Popen(["/bin/true"]) as ended:
        ended.wait()

    assert ended.pid not in listening.events.take(time.monotonic(), (), everything=True)


def test_end_of_a_known_process_is_told_when_everything_is_asked_for(listening: Listening) -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as known:
        listening.known = {known.pid}
        listening.until(lambda: known.pid in listening.told)
        known.kill()
    listening.told.clear()
    listening.drain()

    assert known.pid not in listening.told
    assert known.pid in listening.events.take(time.monotonic(), listening.known, everything=True)


def test_new_name_is_told_and_that_of_another_thread_is_not(listening: Listening) -> None:
    def rename_thread() -> None:
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("another")

    thread = threading.Thread(target=rename_thread)
    thread.start()
    thread.join()
    listening.drain()
    assert os.getpid() not in listening.told

    with commanded("before") as target:
        listening.drain()
        listening.told.clear()
        target.do("rename", "after")
        listening.until(lambda: target.pid in listening.told)


def test_exec_by_another_thread_is_told_of_its_process(listening: Listening) -> None:
    with commanded("threaded") as target:
        listening.drain()
        listening.told.clear()
        target.execute("execute_in_thread")
        listening.until(lambda: target.pid in listening.told)


def test_threads_are_not_told(listening: Listening) -> None:
    threads = set[int]()
    stop = threading.Event()

    def note() -> None:
        threads.add(threading.get_native_id())
        stop.wait(DEADLINE_SECONDS)

    thread = threading.Thread(target=note)
    thread.start()
    told = listening.events.take(time.monotonic(), (os.getpid(),), everything=True)
    stop.set()
    thread.join()
    told |= listening.events.take(time.monotonic(), (os.getpid(), *threads), everything=True)

    assert threads
    assert told.isdisjoint({*threads, os.getpid()})


def test_what_follows_an_event_is_waited_for() -> None:
    with subscribed() as listening:
        subprocess.run(["/bin/true"], check=True)
        [(key, _)] = listening.selector.select(DEADLINE_SECONDS)
        key.data(100.0)

        assert listening.events.next_deadline() == 100.0 + proc_events.PAUSE_SECONDS
        assert not listening.selector.get_map()


def test_a_storm_wakes_the_supervisor_seldom(listening: Listening) -> None:
    begin = time.monotonic()
    storm = subprocess.Popen(["sh", "-c", "for i in $(seq 300); do /bin/true; done"])
    while storm.poll() is None:
        listening.turn()

    assert listening.wakes <= 3 + (time.monotonic() - begin) / proc_events.PAUSE_SECONDS
    assert listening.wakes < 300


def test_events_for_which_there_was_no_room_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc_events, "RECEIVE_BYTES", 1)
    with subscribed() as listening:
        for _ in range(20):
            subprocess.run(["/bin/true"], check=True)
        listening.events.take(time.monotonic(), ())
        assert not listening.events.has_overflowed, "nothing was due"
        listening.until(lambda: listening.events.has_overflowed)

        listening.drain()  # what comes later is told all the same


def test_what_is_no_event_is_ignored(listening: Listening) -> None:
    """Only the kernel can send to such a socket, so this is what it might say some day."""
    event = struct.pack("=16xIIIIHHIIQIIII8x", 1, 1, 0, 0, 40, 0, 2, 0, 0, 4711, 4711, 0, 0)
    others = [event[:67], b"", b"\xff" * 76, bytes(128), b"\2" + event[1:16] + b"\2" + event[17:]]

    def told_of(message: bytes) -> set[int]:
        listening.events._note(message, time.monotonic(), ())
        return listening.events.take(time.monotonic(), ()) & {4711}

    assert [told_of(message) for message in others] == [set()] * len(others)
    assert told_of(event) == {4711}


def test_nothing_is_left_open() -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        with subscribed() as listening:
            subprocess.run(["/bin/true"], check=True)
            listening.turn()
            listening.turn()
            selector = listening.selector
        assert not selector.get_map()

    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("through", "environment", "reason"),
    [
        pytest.param((), {"USERSPACE_EXPORTER_EVENTS": "off"}, "USERSPACE_EXPORTER_EVENTS=off", id="turned off"),
        pytest.param(("unshare", "--pid", "--fork"), {}, "does not answer", id="PID namespace"),
        pytest.param(("unshare", "--user", "--map-root-user"), {}, "does not answer", id="user namespace"),
        pytest.param(("unshare", "--net"), {}, "Connection refused", id="network namespace"),
    ],
)
def test_where_there_are_none_one_line_says_so(
    through: tuple[str, ...], environment: dict[str, str], reason: str
) -> None:
    found = subprocess.run(
        [*through, sys.executable, "-c", SUBSCRIBE],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_SECONDS,
    )

    assert found.stdout == "True 0\n"
    [line] = found.stderr.splitlines()
    assert "level=info" in line
    assert reason in line
