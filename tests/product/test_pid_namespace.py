"""In a PID namespace of its own the exporter is alone with its targets: numbers can be given again, names taken."""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.product.commanded import PROGRAM, Commanded, launched, named_python
from tests.product.exporter import Exporter, Samples, exporter, series, until
from tests.product.lifecycle import counted, is_enabled, wait_detached, wait_gone
from tests.product.programs import gc_config

pytestmark = pytest.mark.bpf

NAME = "numbered"
NUMBER = 20_000  # far from what is given out in order
NEW_NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


@dataclass(frozen=True, slots=True)
class Namespace:
    """An exporter that is the first process of its PID namespace; `init` is its pid out here."""

    running: Exporter
    init: int

    @contextlib.contextmanager
    def commanded(self, name: str, *, number: int | None = None) -> Iterator[Commanded]:
        """Run a program in the namespace, with that pid there."""
        enter = ("nsenter", f"--target={self.init}", "--pid", "--mount")
        arguments = [] if number is None else [str(number)]
        with named_python(name) as python, launched([*enter, python, str(PROGRAM), *arguments]) as target:
            target.settle()
            assert number in (None, target.pid)
            yield target


@contextlib.contextmanager
def namespace(config: str, *arguments: str) -> Iterator[Namespace]:
    """Run an exporter in a new PID namespace, with its own /proc; all in it are gone afterwards."""
    with exporter(config, *arguments, through=NEW_NAMESPACE) as running:
        children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text()
        init = int(children)
        try:
            yield Namespace(running, init)
        finally:
            os.kill(init, signal.SIGTERM)  # unshare itself takes no signal
            exit_code = running.process.wait(20)
        assert exit_code == 0, running.log
        assert "Traceback" not in running.log, running.log


@pytest.mark.parametrize("seen", [True, False], ids=["exit_seen", "exit_unseen"])
def test_a_reused_pid_never_shows_a_sum_of_an_old_and_a_new_process(seen: bool) -> None:
    """Unseen: the supervisor is stopped from before the exit until another one has the number."""
    with namespace(gc_config(binary_name=NAME), "--exit-grace", "300s") as place:
        running = place.running
        with place.commanded(NAME, number=NUMBER) as old:
            running.wait_attached("gc_total", NUMBER)
            old.do("collect", 1000)
            assert counted(running, NUMBER) == 1000
            if not seen:
                os.kill(place.init, signal.SIGSTOP)
            old.exit_after(500)
        if seen:
            until(lambda: counted(running, NUMBER) == 1500, "the last values of the old one")
        with place.commanded(NAME, number=NUMBER) as new:
            new.do("collect", 3)
            if not seen:
                os.kill(place.init, signal.SIGCONT)
            shown: list[int | None] = []

            def restarted() -> bool:
                shown.append(counted(running, NUMBER))
                return is_enabled(running, NUMBER) and (shown[-1] or 0) < 1000

            until(restarted, f"the new one's own numbers; log:\n{running.log}")
            before = counted(running, NUMBER) or 0
            new.do("collect", 20)

            assert before <= 3
            assert counted(running, NUMBER) == before + 20
            assert set(shown) <= {None, 0, 1, 2, 3, 1000, 1500}


def test_a_reused_pid_that_cannot_be_attached_ends_the_old_series_all_the_same(tmp_path: Path) -> None:
    with namespace(gc_config(binary_name=NAME), "--exit-grace", "300s") as place:
        running = place.running
        with place.commanded(NAME, number=NUMBER) as old:
            running.wait_attached("gc_total", NUMBER)
            old.do("collect", 10)
            old.exit_after(0)
        wait_detached(running, NUMBER)
        assert counted(running, NUMBER) == 10
        with place.commanded("python3", number=NUMBER) as new:
            script = tmp_path / NAME
            script.write_text("#!/bin/sh\nwhile read ignored; do :; done\n")
            script.chmod(0o755)
            new.send("execute", [str(script)])
            until(lambda: "reason=probe_not_found" in running.log, "the new one was tried")

            wait_gone(running, NUMBER)


NAMES = ("python", "python3", "gunicorn", "exporter-worker", "exporter-build", "exporter-web", "exporter-forks")


def test_the_exporter_never_attaches_to_itself_or_to_what_it_has_started() -> None:
    """A target for each name shows that the name is looked for; the last one, that a look came after all workers."""
    programs = {name: f"of_{number}" for number, name in enumerate(NAMES)}
    configs = [gc_config(program, binary_name=name) for name, program in programs.items()]
    config = "programs:\n" + "".join(config.partition("programs:\n")[2] for config in configs)
    with namespace(config) as place, contextlib.ExitStack() as targets:
        expected = {}

        def start(name: str) -> None:
            target = targets.enter_context(place.commanded(name))
            expected[series("enabled_programs", name=programs[name], pid=target.pid)] = 1.0

        def enabled() -> Samples:
            found = {key: value for key, value in place.running.scrape().items() if "enabled_programs" in key[0]}
            assert found.keys() <= expected.keys()
            return found

        for name in (*NAMES, NAMES[0]):
            start(name)
            until(lambda: enabled() == expected, f"{name} is attached")

        assert place.running.total("targets") == len(expected)
        assert place.running.total("attach_failures_total") == 0
