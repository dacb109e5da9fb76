"""Whatever becomes of metric files, scrapes are answered, other files are shown, and the files are whole again."""

import contextlib
import os
import random
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.product.exporter import Exporter, exporter, samples_of, series, until
from tests.product.faults import Account, descriptors_at_rest, fresh, scraping, traffic, wait_for_worker
from tests.product.programs import PythonTarget, gc_config, python_target

pytestmark = pytest.mark.bpf

NAME = f"files{os.getpid()}"  # of the targets: nobody else's exporter looks for it
CHANCE = random.Random("noise")

HURRY = {"X-Prometheus-Scrape-Timeout-Seconds": "0.05"}  # a supervisor that does not answer is not waited for long

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def target() -> Iterator[PythonTarget]:
    with python_target(NAME) as started:
        yield started


@pytest.fixture(scope="module")
def neighbour() -> Iterator[PythonTarget]:
    with python_target(NAME) as started:
        yield started


@pytest.fixture(scope="module")
def running(target: PythonTarget, neighbour: PythonTarget) -> Iterator[Exporter]:
    with exporter(gc_config(binary_name=NAME)) as started:
        started.wait_attached("gc_total", target.pid, neighbour.pid)
        yield started


def metric_file(running: Exporter, target: PythonTarget) -> Path:
    (path,) = running.state_dir.glob(f"counter_*_{target.pid}.db")
    return path


def cut(size: int) -> Damage:
    return lambda path: os.truncate(path, size)


def overwrite(at: int, content: bytes) -> Damage:
    def damage(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(content)

    return damage


def replace(make: Damage) -> Damage:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def fill_folder(path: Path) -> None:
    path.mkdir()
    (path / "file").write_bytes(b"x")


USED = struct.Struct("=i")
# The first entry begins at 8: the length of its key, the key, from its end to a multiple of 8 spaces, two numbers.
UNREADABLE: dict[str, Damage] = {
    "emptied": cut(0),
    **{f"cut at {size}": cut(size) for size in (1, 3, 4, 7, 8, 9, 11, 12, 13, 60, 100)},
    "used is negative": overwrite(0, USED.pack(-1)),
    "used is too small": overwrite(0, USED.pack(7)),
    "used is within an entry": overwrite(0, USED.pack(48)),
    "used is beyond the end": overwrite(0, USED.pack(2**31 - 1)),
    "a key's length is 0": overwrite(8, USED.pack(0)),
    "a key's length is negative": overwrite(8, USED.pack(-5)),
    "a key's length is beyond the end": overwrite(8, USED.pack(2**31 - 1)),
    "a key is no JSON": overwrite(12, b"\xff\xfe\x00"),
    "noise": overwrite(0, CHANCE.randbytes(4096)),
    "noise but for the header": overwrite(8, CHANCE.randbytes(2048)),
    "a link to itself": replace(lambda path: path.symlink_to(path.name)),
    "a link to a device": replace(lambda path: path.symlink_to("/dev/zero")),
    "a FIFO": replace(os.mkfifo),
    "a folder": replace(lambda path: path.mkdir()),
    "a folder with a file": replace(fill_folder),
}
UNNOTICED: dict[str, Damage] = {
    "deleted": Path.unlink,
    "moved": lambda path: path.rename(path.with_suffix(".moved")),
    "zeros": overwrite(0, bytes(4096)),
    "longer": lambda path: os.truncate(path, 1 << 20),
}


def test_bad_files_cost_themselves_alone_and_are_counted(
    running: Exporter, target: PythonTarget, neighbour: PythonTarget
) -> None:
    neighbour.collect(1)
    target.collect(1)
    fresh(running)
    account, path = Account.opened(running, target), metric_file(running, target)
    content = path.read_bytes()
    worker = wait_for_worker(running, target.pid)
    others = series("gc_total", gen=0, pid=neighbour.pid)
    shown = running.scrape()[others]

    os.kill(running.process.pid, signal.SIGSTOP)  # so that nobody writes the file again
    try:
        for name, damage in UNREADABLE.items():
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            path.write_bytes(content)
            path.chmod(0o644)  # the web reads it
            before = samples_of(running.get(headers=HURRY))
            assert series("gc_total", gen=0, pid=target.pid) in before, name
            damage(path)
            after = samples_of(running.get(headers=HURRY))
            assert series("gc_total", gen=0, pid=target.pid) not in after, name
            assert after[others] == shown, name
            counted = after[series("unreadable_files_total")] - before[series("unreadable_files_total")]
            assert counted == 1, name
            if path.is_dir():
                for file in path.iterdir():
                    file.unlink()
                path.rmdir()
    finally:
        os.kill(running.process.pid, signal.SIGCONT)
    target.collect(2)
    assert account.balance() == (2, 2)
    assert wait_for_worker(running, target.pid) == worker


@pytest.mark.parametrize("damage", [*UNREADABLE.values(), *UNNOTICED.values()], ids=[*UNREADABLE, *UNNOTICED])
def test_damaged_file_is_whole_again_with_exact_totals(
    damage: Damage, running: Exporter, target: PythonTarget, neighbour: PythonTarget
) -> None:
    account, other = Account.opened(running, target), Account.opened(running, neighbour)
    neighbour.collect(1)
    with scraping(running, "gc_total", pid=neighbour.pid) as scrapes, traffic(target):
        scrapes.wait_for(1)
        with contextlib.suppress(FileNotFoundError):  # published at this moment
            damage(metric_file(running, target))
        scrapes.wait_for(2)

    counted, own = account.balance()
    assert counted == own > 0
    assert other.balance() == (1, 1)
    assert fresh(running)[series("unreadable_files_total")] == fresh(running)[series("unreadable_files_total")]


def test_files_damaged_all_the_time_cost_nothing_in_the_end(
    running: Exporter, target: PythonTarget, neighbour: PythonTarget
) -> None:
    account = Account.opened(running, target)
    before = descriptors_at_rest(running.process.pid)
    with scraping(running, "gc_total", pid=neighbour.pid) as scrapes, traffic(target):
        for number, damage in enumerate(CHANCE.choices([*UNREADABLE.values(), *UNNOTICED.values()], k=60)):
            # Gone, or a folder from the damage before that nobody has replaced yet.
            with contextlib.suppress(OSError, ValueError):
                damage(metric_file(running, target))
            if number % 4 == 0:
                scrapes.wait_for(0)

    counted, own = account.balance()
    assert counted == own > 0
    assert descriptors_at_rest(running.process.pid) == before
    for path in running.state_dir.glob("*.moved"):
        path.unlink()


@pytest.mark.parametrize("kind", ["counter", "gauge", "histogram"])
@pytest.mark.parametrize("damage", ["emptied", "noise", "a folder with a file", "a FIFO"])
def test_own_metrics_are_whole_again_after_damage(kind: str, damage: str, running: Exporter) -> None:
    before = own_names(fresh(running))

    UNREADABLE[damage](running.state_dir / f"{kind}_supervisor.own")

    until(lambda: own_names(running.scrape()) == before, "the own metrics are back")


def own_names(samples: dict[tuple[str, frozenset[tuple[str, str]]], float]) -> set[str]:
    return {name for name, _ in samples if not name.startswith("userspace_exporter_gc_total")}
