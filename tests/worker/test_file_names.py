import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpf_userspace_exporter.config.model import (
    BucketType,
    Counter,
    Decoder,
    Histogram,
    Label,
    Metrics,
    Program,
)
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.worker.file_names import (
    file_stem,
    is_ours,
    metric_file_name,
    publish,
    remove,
    remove_unpublished,
    temporary_file_name,
)

COUNTER = Counter(name="calls_total", table="calls")
HISTOGRAM = Histogram(
    name="size_bytes",
    table="sizes",
    labels=(Label(name="bucket", size=8, decoders=(Decoder(name="uint"),)),),
    bucket_type=BucketType.EXP2,
    bucket_max=3,
)


def program(*, counters: bool = True, histograms: bool = True) -> Program:
    metrics = Metrics(counters=(COUNTER,) * counters, histograms=(HISTOGRAM,) * histograms)
    return Program(name="malloc", metrics=metrics, attachment=Selector(binary_name=("redis-server",)), code="")


@pytest.fixture
def directory_fd(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def names_in(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("gc_total", "gc-total"),
        ("../../etc/passwd", "-etc-passwd"),
        ("a b\n\0c", "a-b-c"),
        ("Überlänge", "-berl-nge"),
        ("x" * 300, "x" * 40),
        ("", "-"),
        ("\ud800", "-"),
    ],
)
def test_a_stem_is_a_slug_a_digest_and_the_pid(name: str, slug: str) -> None:
    assert re.fullmatch(rf"{re.escape(slug)}-[0-9a-f]{{8}}_42", file_stem(name, 42))
    assert is_ours(metric_file_name("counter", name, 42))


def test_programs_with_one_slug_have_different_files() -> None:
    names = ["a_b", "a-b", "a b", "a__b", "x" * 41, "x" * 42]

    assert len({metric_file_name("counter", name, 1) for name in names}) == len(names)


@pytest.mark.parametrize(
    "name",
    [
        metric_file_name("counter", "gc", 1),
        metric_file_name("histogram", "gc total", 4194304),
        temporary_file_name("histogram", "gc", 1, 17),
        "gauge_supervisor.own",
        "counter_supervisor.own.tmp",
        "histogram_supervisor.own",
    ],
)
def test_every_name_that_we_make_is_ours(name: str) -> None:
    assert is_ours(name)


@pytest.mark.parametrize(
    "name",
    [
        "counter_1.db",
        "gauge_all_1.db",
        "gauge_gc-0123abcd_1.db",
        "counter_gc-0123abcd_1.db.bak",
        "counter_gc-0123abcd_1.db\n",
        "counter_gc-0123abcd_٣.db",
        "xcounter_gc-0123abcd_1.db",
        "counter_gc-0123ABCD_1.db",
        "counter_../x-0123abcd_1.db",
        "counter_gc-0123abcd_1.db.tmp",
        "supervisor.own",
        "lock",
        "control.sock",
        "",
    ],
)
def test_no_other_name_is_ours(name: str) -> None:
    assert not is_ours(name)


def test_publishing_puts_this_generation_in_the_place_of_the_one_before(tmp_path: Path, directory_fd: int) -> None:
    counter, histogram = metric_file_name("counter", "malloc", 42), metric_file_name("histogram", "malloc", 42)
    (tmp_path / counter).write_text("old")
    (tmp_path / histogram).write_text("old")
    (tmp_path / temporary_file_name("counter", "malloc", 42, 6)).write_text("another generation's")
    (tmp_path / temporary_file_name("counter", "malloc", 42, 7)).write_text("new")
    (tmp_path / temporary_file_name("histogram", "malloc", 42, 7)).write_text("new")

    changed = publish(directory_fd, program(), 42, 7)

    assert changed == [counter, histogram]
    assert names_in(tmp_path) == {
        counter: "new",
        histogram: "new",
        temporary_file_name("counter", "malloc", 42, 6): "another generation's",
    }


def test_publishing_takes_the_place_even_of_a_folder(tmp_path: Path, directory_fd: int) -> None:
    name = metric_file_name("counter", "malloc", 42)
    (tmp_path / name / "deep").mkdir(parents=True)
    (tmp_path / name / "deep" / "link").symlink_to("/etc")
    (tmp_path / temporary_file_name("counter", "malloc", 42, 7)).write_text("new")

    assert publish(directory_fd, program(), 42, 7) == [name]
    assert names_in(tmp_path) == {name: "new"}
    assert Path("/etc/passwd").exists()


def test_publishing_keeps_a_file_that_was_not_written_again(tmp_path: Path, directory_fd: int) -> None:
    (tmp_path / metric_file_name("counter", "malloc", 42)).write_text("old")
    (tmp_path / temporary_file_name("histogram", "malloc", 42, 7)).write_text("new")

    assert publish(directory_fd, program(), 42, 7) == [metric_file_name("histogram", "malloc", 42)]
    assert sorted(names_in(tmp_path).values()) == ["new", "old"]


def test_publishing_removes_a_kind_that_the_program_has_no_more(tmp_path: Path, directory_fd: int) -> None:
    (tmp_path / metric_file_name("counter", "malloc", 42)).write_text("old")
    (tmp_path / metric_file_name("counter", "malloc", 43)).write_text("another target's")
    (tmp_path / temporary_file_name("histogram", "malloc", 42, 7)).write_text("new")

    publish(directory_fd, program(counters=False), 42, 7)

    assert sorted(names_in(tmp_path).values()) == ["another target's", "new"]


def test_removing_a_target_leaves_the_others(tmp_path: Path, directory_fd: int) -> None:
    for name in (
        metric_file_name("counter", "malloc", 42),
        metric_file_name("histogram", "malloc", 42),
        temporary_file_name("counter", "malloc", 42, 7),
        temporary_file_name("histogram", "malloc", 42, 12),
    ):
        (tmp_path / name).write_text("")
    others = {
        metric_file_name("counter", "malloc", 4),
        metric_file_name("counter", "malloc", 421),
        temporary_file_name("counter", "free", 42, 7),
        "counter_supervisor.own.tmp",
        "lock",
    }
    for name in others:
        (tmp_path / name).write_text("")

    remove(directory_fd, "malloc", 42)
    remove(directory_fd, "malloc", 42)

    assert names_in(tmp_path).keys() == others


def test_removing_a_target_removes_whatever_has_its_names(tmp_path: Path, directory_fd: int) -> None:
    (tmp_path / metric_file_name("counter", "malloc", 42)).mkdir()
    (tmp_path / temporary_file_name("counter", "malloc", 42, 7) / "deep").mkdir(parents=True)
    os.mkfifo(tmp_path / metric_file_name("histogram", "malloc", 42))

    remove(directory_fd, "malloc", 42)

    assert names_in(tmp_path) == {}


def test_what_a_generation_left_unpublished_is_removed_alone(tmp_path: Path, directory_fd: int) -> None:
    left = temporary_file_name("counter", "malloc", 42, 7)
    others = {
        metric_file_name("counter", "malloc", 42),
        temporary_file_name("counter", "malloc", 42, 8),
        temporary_file_name("counter", "malloc", 43, 7),
    }
    for name in (left, *others):
        (tmp_path / name).write_text("")

    remove_unpublished(directory_fd, "malloc", 42, 7)
    remove_unpublished(directory_fd, "malloc", 42, 7)

    assert names_in(tmp_path).keys() == others
