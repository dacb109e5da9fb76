"""Transactions, statements, lock waits and backends of a PostgreSQL, beside its own statistics."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.examples.agreement import at_rest, increase, promtool_says
from tests.examples.checks import strict_check_says
from tests.product.exporter import EXAMPLES, PREFIX, Exporter, Samples, exporter, until
from tests.product.faults import fresh
from tests.product.postgres import BINARIES, Postgres, postgres

pytestmark = pytest.mark.bpf

CONFIG = EXAMPLES / "postgresql/config.yaml"
CLUSTER = f"example{os.getpid()}"
DATABASE = "shop"
SESSIONS, ROUNDS = 3, 20
STATISTICS = """
select xact_commit, xact_rollback, (
    select sum(calls) from pg_stat_statements where dbid = datid
) from pg_stat_database where datname = 'shop'
"""
WAITING = "select count(*) from pg_locks where not granted"


@dataclass(slots=True)
class Session:
    """A psql that stays connected; what it says on stderr is nobody's affair."""

    process: "subprocess.Popen[str]"

    def begin(self, statements: str) -> None:
        """Have it execute statements, and do not wait for that."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{statements};\n\\echo done\n")
        self.process.stdin.flush()

    def end(self) -> str:
        """Wait for what was begun; return what it has selected."""
        assert self.process.stdout is not None
        lines = []
        while (line := self.process.stdout.readline()) != "done\n":
            assert line, "psql has died"
            lines.append(line)
        return "".join(lines).strip()

    def do(self, statements: str) -> str:
        self.begin(statements)
        return self.end()


@contextlib.contextmanager
def session(cluster: Postgres) -> Iterator[Session]:
    """Connect to our database."""
    assert BINARIES is not None
    command = [str(BINARIES / "psql"), "-h", str(cluster.folder), "-U", "postgres", "-d", DATABASE, "-XAtq"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, cwd="/")
    try:
        yield Session(process)
    finally:
        process.communicate(timeout=60)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What pg_stat_database and pg_stat_statements have counted of a database."""

    commits: int
    rollbacks: int
    statements: int

    def __sub__(self, other: "Statistics") -> "Statistics":
        return Statistics(
            self.commits - other.commits, self.rollbacks - other.rollbacks, self.statements - other.statements
        )


@dataclass(frozen=True, slots=True)
class Watched:
    """How much the server's own statistics and the exporter's samples rose while three sessions worked."""

    running: Exporter
    cluster: Postgres
    pid: int
    own: Statistics
    counted: Samples
    after_exit: Samples
    before: Samples

    def increase(self, name: str, **labels: str) -> float:
        return total(self.counted, name, **labels)


def total(samples: Samples, name: str, **labels: str) -> float:
    """Return the sum of what our database has in the series of that name with at least these labels."""
    wanted = {("cluster", CLUSTER), ("database", DATABASE), *labels.items()}
    return sum(value for (found, have), value in samples.items() if found == PREFIX + name and wanted <= have)


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    settings = {
        "autovacuum": "off",
        "log_connections": "on",
        "shared_preload_libraries": "pg_stat_statements",
        "max_parallel_workers_per_gather": "0",
    }
    with postgres(CLUSTER, **settings) as cluster:
        cluster.query(f"create database {DATABASE}")
        cluster.query("create extension pg_stat_statements")
        pid = int((cluster.folder / "data/postmaster.pid").read_text().split()[0])
        with exporter(CONFIG) as running:
            running.wait_attached("postgresql_postmaster", pid)
            connections = received(cluster)
            with contextlib.ExitStack() as stack:
                sessions = [stack.enter_context(session(cluster)) for _ in range(SESSIONS)]
                sessions[0].do("create table orders (id int); insert into orders values (1)")
                pids = [int(each.do("select pg_backend_pid()")) for each in sessions]
                running.wait_attached("postgresql_backends", *pids)
                flush(sessions)
                own_before, before = at_rest(running, lambda: statistics(cluster))
                work(sessions)
                wait_for_locks(cluster, sessions)
                flush(sessions)
                own_after, after = at_rest(running, lambda: statistics(cluster))
            until(lambda: children(running, pid)[0] == received(cluster) - connections, "all connections are counted")
            until(lambda: len(set(children(running, pid))) == 1, "all backends have ended")
            until(lambda: not running.values("enabled_programs", name="postgresql_backends"), "and so have our probes")
            yield Watched(
                running, cluster, pid, own_after - own_before, increase(before, after), fresh(running), before
            )


def work(sessions: list[Session]) -> None:
    for each in sessions:
        for _ in range(ROUNDS):
            each.do("insert into orders values (0)")
            each.do("begin; update orders set id = id + 1 where id = 0; commit")
            each.do("begin; select count(*) from orders; rollback")
            each.do("select 1 / 0")


def wait_for_locks(cluster: Postgres, sessions: list[Session]) -> None:
    """Have the second session wait twice to read, and the third once to write, what the first has locked."""
    first, second, third = sessions
    for statement, waits in (("select from orders", second), ("table orders", second), ("delete from orders", third)):
        first.do("begin; lock table orders")
        waits.begin(statement)
        until(lambda: cluster.query(WAITING) == "1", "it waits")
        first.do("commit")
        waits.end()


def flush(sessions: list[Session]) -> None:
    """Have each session tell what it has counted at once, instead of within a second or so."""
    for each in sessions:
        each.do("select pg_stat_force_next_flush()")


def statistics(cluster: Postgres) -> Statistics:
    return Statistics(*map(int, cluster.query(STATISTICS).split("|")))


def received(cluster: Postgres) -> int:
    """Return how many connections the server's log tells of."""
    return (cluster.folder / "log").read_text().count("connection received")


def children(running: Exporter, pid: int) -> tuple[float | None, float | None]:
    """Return how many children the postmaster has started, and how many have ended, since we attached."""
    return (
        running.value("postgresql_children_started_total", pid=pid),
        running.value("postgresql_children_ended_total", pid=pid),
    )


def test_commits_and_rollbacks_equal_pg_stat_database(watched: Watched) -> None:
    assert watched.own.commits >= 2 * SESSIONS * ROUNDS
    assert watched.own.rollbacks == 2 * SESSIONS * ROUNDS
    assert watched.increase("postgresql_transactions_total", outcome="commit") == watched.own.commits
    assert watched.increase("postgresql_transactions_total", outcome="rollback") == watched.own.rollbacks


def test_statements_equal_pg_stat_statements(watched: Watched) -> None:
    assert watched.own.statements > 7 * SESSIONS * ROUNDS
    assert watched.increase("postgresql_statement_seconds_count") == watched.own.statements
    assert watched.increase("postgresql_statement_seconds_sum") > 0


def test_lock_waits_are_counted_by_mode(watched: Watched) -> None:
    assert watched.increase("postgresql_lock_wait_seconds_count") == 3
    assert watched.increase("postgresql_lock_wait_seconds_count", mode="AccessShareLock") == 2
    assert watched.increase("postgresql_lock_wait_seconds_count", mode="RowExclusiveLock") == 1
    assert watched.increase("postgresql_lock_wait_seconds_sum") > 0


def test_what_backends_counted_outlives_them(watched: Watched) -> None:
    names = ("postgresql_transactions_total", "postgresql_statement_seconds_count", "postgresql_lock_wait_seconds_sum")
    for name in names:
        assert total(watched.after_exit, name) >= total(watched.before, name) + watched.increase(name) > 0


def test_children_of_the_postmaster_are_the_connections_of_its_log(watched: Watched) -> None:
    # That they are equal, and that all have ended, was waited for.
    started, ended = children(watched.running, watched.pid)

    assert started is not None
    assert started == ended
    assert started > SESSIONS


def test_promtool_has_nothing_to_say(watched: Watched) -> None:
    assert promtool_says(watched.running) == []


def test_the_strict_check_has_nothing_to_say(watched: Watched) -> None:
    assert strict_check_says(CONFIG, watched.pid) == []
