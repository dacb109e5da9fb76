import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpf_userspace_exporter.config.model import (
    BucketType,
    Combine,
    Counter,
    Decoder,
    Gauge,
    Histogram,
    Label,
    Metrics,
    Program,
)
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.worker.file_names import (
    FOLDED_KINDS,
    GAUGE_KINDS,
    KINDS,
    file_stem,
    folded_file_name,
    is_ours,
    kinds_of,
    metric_file_name,
    publish,
    remove,
    remove_unpublished,
    retired_file_name,
    temporary_file_name,
    totals_in,
)

COUNTER = Counter(name="calls_total", table="calls")
HISTOGRAM = Histogram(
    name="size_bytes",
    table="sizes",
    labels=(Label(name="bucket", size=8, decoders=(Decoder(name="uint"),)),),
    bucket_type=BucketType.EXP2,
    bucket_max=3,
)


def program(*, counters: bool = True, histograms: bool = True, gauges: tuple[Combine, ...] = ()) -> Program:
    metrics = Metrics(
        counters=(COUNTER,) * counters,
        histograms=(HISTOGRAM,) * histograms,
        gauges=tuple(Gauge(name=f"{combine}_bytes", table="sizes", combine=combine) for combine in gauges),
    )
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
        metric_file_name("gauge-max", "gc", 1),
        temporary_file_name("gauge", "gc", 1, 17),
        retired_file_name("counter", "gc", 3),
        folded_file_name("histogram", "gc"),
        f"{folded_file_name('counter', 'gc')}.5.tmp",
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
        "gauge-avg_gc-0123abcd_1.own",
        "gauge_gc-0123abcd_folded.own",
        "counter_gc-0123abcd_1.own",
        "counter_gc-0123abcd_retired.db",
        "counter_gc-0123abcd_folded.db.tmp",
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


def test_gauges_have_a_file_for_each_way_they_combine_that_the_stock_collector_does_not_read() -> None:
    assert kinds_of(program()) == FOLDED_KINDS
    assert kinds_of(program(counters=False, gauges=(Combine.MIN, Combine.SUM))) == ("histogram", "gauge", "gauge-min")
    endings = {kind: metric_file_name(kind, "gc", 1).rpartition(".")[2] for kind in KINDS}
    assert [endings[kind] for kind in FOLDED_KINDS] == ["db", "db"]
    assert [endings[kind] for kind in GAUGE_KINDS] == ["own", "own", "own"]


def test_a_programs_totals_are_found_by_name(tmp_path: Path, directory_fd: int) -> None:
    totals = {
        folded_file_name("counter", "malloc"),
        f"{folded_file_name('histogram', 'malloc')}.12.tmp",
        retired_file_name("counter", "malloc", 1),
        retired_file_name("histogram", "malloc", 1),
    }
    others = {
        metric_file_name("counter", "malloc", 42),
        metric_file_name("gauge", "malloc", 42),
        folded_file_name("counter", "mal"),
        retired_file_name("counter", "malloc-2", 1),
    }
    for name in totals | others:
        (tmp_path / name).write_text("")

    assert totals_in(directory_fd, "malloc") == sorted(totals)


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


def test_publishing_puts_gauges_in_place_and_removes_those_that_combine_otherwise(
    tmp_path: Path, directory_fd: int
) -> None:
    (tmp_path / metric_file_name("gauge", "malloc", 42)).write_text("old")
    (tmp_path / temporary_file_name("gauge-max", "malloc", 42, 7)).write_text("new")

    publish(directory_fd, program(counters=False, histograms=False, gauges=(Combine.MAX,)), 42, 7)

    assert names_in(tmp_path) == {metric_file_name("gauge-max", "malloc", 42): "new"}


def test_removing_a_target_leaves_the_others(tmp_path: Path, directory_fd: int) -> None:
    for name in (
        metric_file_name("counter", "malloc", 42),
        metric_file_name("histogram", "malloc", 42),
        metric_file_name("gauge-min", "malloc", 42),
        temporary_file_name("counter", "malloc", 42, 7),
        temporary_file_name("histogram", "malloc", 42, 12),
        temporary_file_name("gauge", "malloc", 42, 12),
    ):
        (tmp_path / name).write_text("")
    others = {
        metric_file_name("counter", "malloc", 4),
        metric_file_name("counter", "malloc", 421),
        temporary_file_name("counter", "free", 42, 7),
        retired_file_name("counter", "malloc", 42),
        folded_file_name("counter", "malloc"),
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
