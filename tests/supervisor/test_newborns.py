"""Workers from a real fork server: whose children they are, and what happens when the server dies or hangs."""

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ebpf_userspace_exporter.supervisor import children
from ebpf_userspace_exporter.supervisor.fork_server import SERVER_NAME, WORKER_NAME
from ebpf_userspace_exporter.supervisor.newborns import BIRTH_SECONDS, Newborn, Newborns
from ebpf_userspace_exporter.worker.image import Image
from ebpf_userspace_exporter.worker.process import Assignment, assign
from tests.forked import children_of_ours
from tests.supervisor.workers_scene import PROGRAM

DEADLINE_SECONDS = 30.0
TEMPLATE = Assignment(
    program=PROGRAM,
    pid=0,
    image=Image((), (), (), ()),
    directory=Path("/nonexistent"),
    generation=0,
    group=None,
    uprobe_multi=True,
    inherit_values=False,
    labels=(),
    max_series=0,
)


class Nursery:
    """Newborns as the loop has them."""

    def __init__(self, rehearse: Callable[[], None] = lambda: None) -> None:
        self.selector = selectors.DefaultSelector()
        self.newborns = Newborns(self.selector, rehearse)
        self.answers = 0
        self.exited: dict[int, int] = {}
        self._others = children_of_ours()  # what other tests keep running

    def forked(self) -> set[int]:
        return children_of_ours() - self._others

    def order(self, *, late: float = 0.0, wanted: bool = True) -> bool:
        return self.newborns.order(TEMPLATE, lambda _now: self._answered(wanted=wanted), time.monotonic() + late)

    def _answered(self, *, wanted: bool) -> bool:
        self.answers += 1
        return wanted

    def turn(self) -> None:
        for key, _ in self.selector.select(0.01):
            key.data(time.monotonic())
        for pid, code in children.reap().items():
            self.exited[pid] = code
            self.newborns.on_exit(pid, code, time.monotonic())

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline
            self.turn()

    def born(self) -> Newborn:
        before = self.answers
        assert self.order()
        self.until(lambda: self.answers > before)
        newborn = self.newborns.take(TEMPLATE)
        assert newborn is not None
        return newborn

    def server(self) -> int:
        server = self.newborns._server
        assert server is not None
        return server


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    with opened(Nursery()) as made:
        yield made


@contextlib.contextmanager
def opened(nursery: Nursery) -> Iterator[Nursery]:
    """End everything afterwards; nothing is left."""
    before = set(os.listdir("/proc/self/fd"))
    yield nursery
    nursery.newborns.stop(time.monotonic())
    nursery.until(lambda: nursery.newborns.is_idle and not nursery.forked())
    assert not nursery.selector.get_map()
    nursery.selector.close()
    assert set(os.listdir("/proc/self/fd")) <= before


def comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_a_worker_is_a_child_of_the_supervisor_and_exits_when_nobody_wants_it(nursery: Nursery) -> None:
    newborn = nursery.born()

    assert newborn.pid in nursery.forked()
    assert comm(nursery.server()) == SERVER_NAME
    nursery.until(lambda: comm(newborn.pid) == WORKER_NAME)
    newborn.channel.close()
    nursery.until(lambda: newborn.pid in nursery.exited)
    assert nursery.exited[newborn.pid] == 0


def test_a_worker_has_its_channel_and_nothing_else_of_ours(nursery: Nursery) -> None:
    newborn = nursery.born()
    nursery.until(lambda: comm(newborn.pid) == WORKER_NAME)

    def beyond_standard_streams() -> list[str]:
        folder = Path(f"/proc/{newborn.pid}/fd")
        return [str(path.readlink()) for path in folder.iterdir() if int(path.name) > 2]

    nursery.until(lambda: len(beyond_standard_streams()) == 1)
    assert beyond_standard_streams()[0].startswith("socket:")
    assert Path(f"/proc/{newborn.pid}/stat").read_text().rpartition(")")[2].split()[2] == str(newborn.pid), "its group"
    newborn.channel.close()


def test_a_worker_that_is_not_wanted_any_more_is_sent_away(nursery: Nursery) -> None:
    assert nursery.order(wanted=False)
    nursery.until(lambda: nursery.answers)

    assert nursery.newborns.take(TEMPLATE) is None
    nursery.until(lambda: nursery.forked() == {nursery.server()})


def test_a_worker_is_given_out_for_its_own_image_only(nursery: Nursery) -> None:
    assert nursery.order()
    nursery.until(lambda: nursery.answers)

    assert nursery.newborns.take(replace(TEMPLATE, image=Image((), (), (), ()))) is None
    assert nursery.newborns.take(replace(TEMPLATE, directory=Path("/another"))) is None
    newborn = nursery.newborns.take(TEMPLATE)
    assert newborn is not None
    newborn.channel.close()


def test_a_worker_that_died_before_anybody_took_it_is_not_given_out(nursery: Nursery) -> None:
    assert nursery.order()
    nursery.until(lambda: nursery.answers)
    [pid] = nursery.forked() - {nursery.server()}

    os.kill(pid, signal.SIGKILL)
    nursery.until(lambda: pid in nursery.exited)

    assert nursery.newborns.take(TEMPLATE) is None


def test_death_of_the_server_is_told_to_who_waits_and_leaves_workers_alone(nursery: Nursery) -> None:
    newborn = nursery.born()
    server = nursery.server()
    os.kill(server, signal.SIGSTOP)
    assert nursery.order()

    os.kill(server, signal.SIGKILL)
    nursery.until(lambda: nursery.answers == 2 and server in nursery.exited)

    assert nursery.forked() == {newborn.pid}
    assert nursery.newborns.take(TEMPLATE) is None
    assert not nursery.order(), "none can be ordered a moment after"
    assert nursery.order(late=1.0), "then there is another"
    nursery.until(lambda: nursery.answers == 3)
    assert nursery.server() != server
    assign(newborn.channel, replace(TEMPLATE, pid=os.getpid()), newborn.channel.fileno())
    nursery.until(lambda: newborn.pid in nursery.exited)  # with no maps and no files to write it has failed: it lived
    newborn.channel.close()


def test_server_that_hangs_is_killed_by_the_first_order_that_finds_it_late(nursery: Nursery) -> None:
    nursery.newborns.start(time.monotonic())
    server = nursery.server()
    os.kill(server, signal.SIGSTOP)
    assert nursery.order()

    assert not nursery.order(late=BIRTH_SECONDS + 1)

    assert nursery.answers == 1
    nursery.until(lambda: server in nursery.exited)
    assert nursery.exited[server] == -signal.SIGKILL
    assert nursery.order(late=1.0)
    nursery.until(lambda: nursery.answers == 2)


def test_server_that_cannot_begin_costs_nothing_but_itself() -> None:
    with opened(Nursery(lambda: os._exit(3))) as nursery:
        assert nursery.order()

        nursery.until(lambda: nursery.answers)

        assert nursery.newborns.take(TEMPLATE) is None


def test_nobody_outlives_a_killed_supervisor() -> None:
    reading, writing = os.pipe()

    def supervise() -> None:
        nursery = Nursery()
        newborn = nursery.born()
        os.kill(nursery.server(), signal.SIGSTOP)
        assert nursery.order()
        os.write(writing, b"%d %d" % (nursery.server(), newborn.pid))
        signal.pause()

    supervisor = children.spawn("supervisor", supervise, keep=(writing,))
    server, worker = map(int, os.read(reading, 64).split())
    os.close(reading)
    os.close(writing)
    pidfds = [os.pidfd_open(server), os.pidfd_open(worker)]

    os.kill(supervisor, signal.SIGKILL)
    os.waitpid(supervisor, 0)

    with selectors.DefaultSelector() as selector:
        for pidfd in pidfds:
            selector.register(pidfd, selectors.EVENT_READ)
            assert selector.select(DEADLINE_SECONDS)
            selector.unregister(pidfd)
            os.close(pidfd)
