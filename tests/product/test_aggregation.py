"""Targets without a pid among their labels are one series: it holds what each of them counted, and never falls."""

import os
import signal

import pytest

from tests.product.commanded import PROGRAM, commanded, launched, named_python
from tests.product.exporter import Exporter, exporter, start, until
from tests.product.faults import fresh, scraping, wait_for_worker
from tests.product.lifecycle import QUICK, wait_attachments
from tests.product.programs import gc_config

pytestmark = pytest.mark.bpf

NAME = f"summed{os.getpid()}"


def summed_config(labels: str = "{service: shop}") -> str:
    """Return a config that adds the collections of all such processes up."""
    config = gc_config(binary_name=NAME)
    return config.replace("    attachment:\n", f"    target_labels: {labels}\n    attachment:\n")


def total(running: Exporter) -> int:
    return int(running.value("gc_total", gen=0, service="shop") or 0)


def metric_files(running: Exporter) -> list[str]:
    return sorted(path.name for path in running.state_dir.glob("*.db*"))


def folded(running: Exporter) -> list[str]:
    """Wait until nothing is left of targets that are gone but their sum; return the names of all metric files."""

    def only_totals() -> list[str] | None:
        files = metric_files(running)
        return files if len(files) == 1 and files[0].endswith("_folded.db") else None

    return until(only_totals, f"folded: {metric_files(running)}; log:\n{running.log}")


def test_the_total_of_short_lived_processes_equals_their_own_counts_and_never_falls() -> None:
    with exporter(summed_config(), *QUICK) as running, scraping(running, "gc_total") as scrapes:
        expected = 0
        for number in range(20):
            with commanded(NAME) as target:
                wait_attachments(running, target.pid, 1)
                if number % 3 == 1:
                    target.do("collect", 5)
                    worker = wait_for_worker(running, target.pid)
                    os.kill(worker, signal.SIGKILL)
                    expected += 5
                if number % 6 == 1:
                    wait_for_worker(running, target.pid, after=worker)
                target.exit_after(10 + number)
                expected += 10 + number
        until(lambda: total(running) == expected, f"{expected}, not {total(running)}; log:\n{running.log}")
        scrapes.wait_for(scrapes.number + 3)
        folded(running)
        assert total(running) == expected
        assert running.value("gc_total", gen=0, service="shop") == expected


def test_live_processes_and_those_that_are_gone_are_one_series() -> None:
    with exporter(summed_config(), *QUICK) as running, commanded(NAME) as living:
        with commanded(NAME) as leaving:
            wait_attachments(running, living.pid, 1)
            wait_attachments(running, leaving.pid, 1)
            living.do("collect", 3)
            leaving.do("collect", 4)
            assert total(running) == 7
        until(lambda: len(metric_files(running)) == 2, "folded beside the one that lives")
        living.do("collect", 2)
        assert total(running) == 9
        assert set(running.values("gc_total", gen=0)) == {frozenset({("gen", "0"), ("service", "shop")})}


def test_a_restart_is_one_reset_to_zero() -> None:
    with exporter(summed_config(), *QUICK) as first, commanded(NAME) as target:
        wait_attachments(first, target.pid, 1)
        with commanded(NAME) as gone:
            wait_attachments(first, gone.pid, 1)
            gone.exit_after(8)
        target.do("collect", 6)
        until(lambda: total(first) == 14, "both")
        assert first.stop() == 0

        (first.folder / "log").unlink()
        second = start(first.folder, summed_config(), *QUICK)
        try:
            second.wait_ready()
            seen = [total(second)]
            wait_attachments(second, target.pid, 1)
            seen.append(total(second))
            target.do("collect", 2)
            assert [*seen, total(second)] == [0, 0, 2]
        finally:
            second.stop()


def test_an_exec_into_another_program_loses_nothing_that_was_counted() -> None:
    with (
        exporter(summed_config(), *QUICK) as running,
        named_python(NAME) as python,
        launched([python, str(PROGRAM)]) as target,
    ):
        target.settle()
        wait_attachments(running, target.pid, 1)
        target.do("collect", 5)
        # Not scraped in between: only what the probes have counted is there.
        target.send("collect", 4)
        target._read()
        target.send("execute", ["/bin/sleep", "1000"])
        until(lambda: "msg=detached" in running.log, f"let go; log:\n{running.log}")
        assert total(running) == 9


def test_a_program_that_changes_keeps_the_totals_of_series_that_it_still_has() -> None:
    with exporter(summed_config(), *QUICK) as running, commanded(NAME) as living:
        with commanded(NAME) as gone:
            wait_attachments(running, living.pid, 1)
            wait_attachments(running, gone.pid, 1)
            gone.exit_after(8)
        living.do("collect", 3)
        until(lambda: total(running) == 11, "counted")
        folded_before = until(lambda: [f for f in metric_files(running) if f.endswith("_folded.db")], "folded")

        with scraping(running, "gc_total"):
            running.config.write_text(summed_config().replace("int gen = 0;", "int gen = 0; gen += 0;"))
            running.process.send_signal(signal.SIGHUP)
            wait_attachments(running, living.pid, 2)
            living.do("collect", 2)
            fresh(running)
        assert total(running) == 13
        assert folded_before[0] in metric_files(running)


def test_a_program_that_changes_loses_nothing_that_no_scrape_has_seen_yet() -> None:
    with exporter(summed_config(), *QUICK) as running, commanded(NAME) as target:
        wait_attachments(running, target.pid, 1)
        target.do("collect", 100)
        running.config.write_text(summed_config().replace("int gen = 0;", "int gen = 0; gen += 0;"))
        running.process.send_signal(signal.SIGHUP)
        wait_attachments(running, target.pid, 2)

        assert total(running) == 100


def test_totals_of_a_program_that_goes_on_as_its_change_is_refused_stay() -> None:
    with exporter(summed_config(), *QUICK) as running, commanded(NAME) as living:
        with commanded(NAME) as gone:
            wait_attachments(running, living.pid, 1)
            wait_attachments(running, gone.pid, 1)
            gone.exit_after(8)
        until(lambda: total(running) == 8, "counted")
        until(lambda: [name for name in metric_files(running) if name.endswith("_folded.db")], "folded")

        with scraping(running, "gc_total"):
            broken = (
                summed_config()
                .replace("- name: gen\n", "- name: generation\n")
                .replace("increment(e);", "increment(e)")
            )
            running.config.write_text(broken)
            running.process.send_signal(signal.SIGHUP)
            until(lambda: "changed program not taken" in running.log, "refused")
            living.do("collect", 2)
            until(lambda: total(running) == 10, f"10, not {total(running)}")


def test_totals_of_a_program_that_tells_targets_apart_now_are_gone() -> None:
    with exporter(summed_config(), *QUICK) as running, commanded(NAME) as target:
        wait_attachments(running, target.pid, 1)
        target.exit_after(8)
        folded(running)
        running.config.write_text(gc_config(binary_name=NAME))
        running.process.send_signal(signal.SIGHUP)
        until(lambda: not metric_files(running), "no file is left")
        assert not running.values("gc_total")


def test_nothing_is_left_when_the_exporter_has_stopped() -> None:
    with exporter(summed_config(), *QUICK) as running:
        with commanded(NAME) as target:
            wait_attachments(running, target.pid, 1)
            target.exit_after(8)
        folded(running)

        assert running.stop() == 0
        assert not running.state_dir.exists()
