"""Every key of a selector on real processes: the one that matches is counted, the one beside it has no series."""

import contextlib
import os
import pwd
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.product.commanded import PROGRAM, launched
from tests.product.control_groups import TOP, groups_removed, in_group
from tests.product.exporter import Exporter, exporter, series, until
from tests.product.lifecycle import series_of
from tests.product.postgres import BINARIES, postgres
from tests.product.programs import PYTHON, gunicorn_app
from tests.product.selecting import Specimen, config, counted, enabled_pids, gc_program, specimen, targets
from tests.supervisor.selection.living import NOBODY

pytestmark = pytest.mark.bpf

TAG = f"shop{os.getpid()}"
CONTAINER, OTHER_CONTAINER = f"{os.getpid():a>64x}", f"{os.getpid():b>64x}"


@dataclass(frozen=True, slots=True)
class Case:
    """A selector, how a process is started that matches, and one that does not."""

    selector: Mapping[str, Any]
    matching: Mapping[str, Any] = field(default_factory=dict)
    other: Mapping[str, Any] = field(default_factory=dict)


def first_word(text: str) -> Mapping[str, Any]:
    """Return how to start a process that has been given another name than its executable's."""
    return {"through": ("bash", "-c", f'exec -a {text} "$0" "$@"')}


def grouped(path: str) -> Mapping[str, Any]:
    """Return how to start a process in that control group."""
    return {"through": in_group(path)}


def variables(**environ: str) -> Mapping[str, Any]:
    """Return how to start a process with these in its environment, or what selects it by them."""
    return {"environ": {f"{TAG}_{name}": text for name, text in environ.items()}}


CASES = {
    "binary_name": Case({"binary_name": TAG}, {"name": TAG}, {"name": f"{TAG}x"}),
    "cmdline": Case(
        {"cmdline": [f" --role=web {TAG}$", "role=w"]},
        {"arguments": ("--role=web", TAG)},
        {"arguments": ("--role=web", f"{TAG}s")},
    ),
    "argv0": Case({"argv0": f"{TAG}-[ab]"}, first_word(f"{TAG}-b"), first_word(f"{TAG}-c")),
    "user": Case({"user": "games"}, {"user": pwd.getpwnam("games").pw_uid}, {"user": NOBODY}),
    "uid": Case({"uid": [61_234, 61_235]}, {"user": 61_235}, {"user": 61_236}),
    "cwd": Case(
        {**variables(CWD="1"), "cwd": "/usr/share/d*"},
        {**variables(CWD="1"), "cwd": Path("/usr/share/doc")},
        {**variables(CWD="1"), "cwd": Path("/usr/share")},
    ),
    "environ": Case(variables(A="^one$"), variables(A="one"), variables(A="one more")),
    "cgroup": Case({"cgroup": f"{TOP}/a*"}, grouped("a"), grouped("b")),
    "systemd_unit": Case({"systemd_unit": f"{TAG}-?.service"}, grouped(f"{TAG}-1.service"), grouped(f"{TAG}.service")),
    "container_id": Case(
        {"container_id": CONTAINER[:60]},
        grouped(f"docker-{CONTAINER}.scope"),
        grouped(f"docker-{OTHER_CONTAINER}.scope"),
    ),
    "any": Case({"any": [variables(B="1"), variables(C="1")]}, variables(C="1"), variables(D="1")),
    "not": Case(
        {**variables(E="1"), "not": [variables(F="1"), {"user": "games"}]},
        variables(E="1", F="2"),
        variables(E="1", F="1"),
    ),
    "exclude": Case(variables(G="1"), variables(G="1"), variables(G="1", EXCLUDED="1")),
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """An exporter with a program for every key, and what each of them has to choose from."""

    running: Exporter
    pairs: Mapping[str, tuple[Specimen, Specimen]]


@pytest.fixture(scope="module")
def chosen() -> Iterator[Chosen]:
    text = config(
        *(gc_program(case.selector, f"by_{key}") for key, case in CASES.items()), exclude=variables(EXCLUDED="1")
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(groups_removed())
        pairs = {key: (start(stack, case.matching), start(stack, case.other)) for key, case in CASES.items()}
        running = stack.enter_context(exporter(text))
        for key, (matching, _other) in pairs.items():
            running.wait_attached(f"by_{key}", matching.pid)
        yield Chosen(running, pairs)


def start(stack: contextlib.ExitStack, how: Mapping[str, Any]) -> Specimen:
    arguments = how.get("arguments", ())
    return stack.enter_context(
        specimen(*arguments, **{name: each for name, each in how.items() if name != "arguments"})
    )


@pytest.mark.parametrize("key", CASES)
def test_what_matches_is_counted_and_what_does_not_has_no_series(chosen: Chosen, key: str) -> None:
    matching, other = chosen.pairs[key]
    other.collect(5)
    matching.collect(7)

    assert counted(chosen.running, matching.pid, f"by_{key}") == 7
    assert series_of(chosen.running, other.pid) == []
    assert targets(chosen.running, f"by_{key}") == 1


def test_workers_of_gunicorn_are_counted_without_their_master() -> None:
    with (
        gunicorn_app(workers=3) as app,
        exporter(config(gc_program({"parent": {"binary_name": "gunicorn"}}))) as running,
    ):
        running.wait_attached("gc_total", *app.workers)
        before, counted_before = app.stats(), running.scrape()
        for _ in range(100):
            app.get("/")
        after, samples = app.stats(), running.scrape()

        assert all(after[pid].collections[0] > before[pid].collections[0] for pid in app.workers)
        for pid in app.workers:
            for generation in range(3):
                key = series("gc_total", gen=generation, pid=pid)
                counted_since = samples.get(key, 0) - counted_before.get(key, 0)
                own = after[pid].collections[generation] - before[pid].collections[generation]
                assert counted_since == own, (pid, generation)
        assert series_of(running, app.process.pid) == []
        assert f"pid={app.process.pid} " not in running.log


@pytest.mark.skipif(BINARIES is None, reason="needs PostgreSQL")
def test_the_checkpointer_of_postgres_is_found_by_its_command_line_alone() -> None:
    checkpoints = f"""
      name: checkpoints
      attachment: {{cmdline: '^postgres: {TAG}: checkpointer'}}
      metrics:
        counters: [{{name: checkpoints_total, table: checkpoints}}]
      usdt: {{"postgresql:checkpoint__start": on_checkpoint}}
      code: |
        BPF_ARRAY(checkpoints, u64, 1);
        int on_checkpoint(void *ctx) {{ checkpoints.increment(0); return 0; }}
    """
    with postgres(TAG) as cluster, exporter(config(yaml.safe_load(checkpoints))) as running:
        checkpointer = cluster.pid_of("checkpointer")
        running.wait_attached("checkpoints", checkpointer)
        for _ in range(3):
            cluster.query("checkpoint")
        requested = "select checkpoints_req from pg_stat_bgwriter"
        until(lambda: cluster.query(requested) == "3", "PostgreSQL has counted its checkpoints")

        assert running.values("checkpoints_total") == {frozenset({("pid", str(checkpointer))}): 3}
        assert enabled_pids(running, "checkpoints") == {checkpointer}
        assert targets(running, "checkpoints") == 1


def test_an_executable_is_meant_by_its_path_in_the_mount_namespace_of_the_process(tmp_path: Path) -> None:
    place = tmp_path / "python-of-the-shop"
    place.write_text("not this one")
    bound = ("unshare", "-m", "sh", "-c", f'mount --bind "$0" {place} && exec {place} "$@"')
    text = config(gc_program({"exe": f"{tmp_path}/python*"}))
    with specimen(through=bound) as inside, specimen() as outside, exporter(text) as running:
        running.wait_attached("gc_total", inside.pid)
        outside.collect(5)
        inside.collect(7)

        assert counted(running, inside.pid) == 7
        assert series_of(running, outside.pid) == []
        assert targets(running) == 1
        assert place.read_text() == "not this one"


def test_a_parent_is_one_step_up_and_an_ancestor_any_number() -> None:
    by_parent = gc_program({"exe": PYTHON, "parent": {"environ": {TAG: "^top$"}}}, "by_parent")
    by_ancestor = gc_program({"exe": PYTHON, "ancestor": {"environ": {TAG: "^top$"}}}, "by_ancestor")
    child = f"env {TAG}=below {PYTHON} {PROGRAM}; :"
    below_one = ["env", f"{TAG}=top", "sh", "-c", child]
    below_two = ["env", f"{TAG}=top", "sh", "-c", f"env {TAG}=middle sh -c '{child}'; :"]
    with (
        launched(below_one) as near,
        launched(below_two) as far,
        specimen() as stranger,
        exporter(config(by_parent, by_ancestor)) as running,
    ):
        before = near.settle(), far.settle()
        running.wait_attached("by_parent", near.pid)
        running.wait_attached("by_ancestor", near.pid, far.pid)
        stranger.collect(5)
        own = near.do("collect", 6) - before[0], far.do("collect", 7) - before[1]

        assert own == (6, 7)
        assert running.values("by_parent", gen=0) == {frozenset({("gen", "0"), ("pid", str(near.pid))}): 6}
        assert counted(running, near.pid, "by_ancestor") == 6
        assert counted(running, far.pid, "by_ancestor") == 7
        assert series_of(running, stranger.pid) == []
        assert (targets(running, "by_parent"), targets(running, "by_ancestor")) == (1, 2)
