"""Holds a selector against a process, reading no more than it takes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import inf
from operator import eq
from typing import TypeVar

import re2

from ebpf_userspace_exporter.config.errors import KeyPath
from ebpf_userspace_exporter.config.selector import Selector, comm_of
from ebpf_userspace_exporter.supervisor.processes import Process
from ebpf_userspace_exporter.supervisor.selection.facts import Unreadable
from ebpf_userspace_exporter.supervisor.selection.observation import Observation
from ebpf_userspace_exporter.supervisor.selection.verdict import Outcome, Step, Verdict, shown

E = TypeVar("E")
F = TypeVar("F")

# What may become another one without an exec, which alone is noticed. The user belongs here: daemons fork, then setuid.
_CHANGEABLE = (
    *("uid", "user", "cmdline", "argv0", "cwd", "cgroup", "systemd_unit", "container_id"),
    *("parent", "ancestor", "library", "listens_on"),
)
_FOUND = {Outcome.DOES_NOT: "none", Outcome.UNKNOWN: "unknown", Outcome.MATCHES: "one"}  # of several selectors
_RE2_OPTIONS = re2.Options()  # the same as in the config's check: re2 then has them compiled already
_RE2_OPTIONS.log_errors = False


def evaluate(selector: Selector, process: Process, observation: Observation, *, explain: bool = False) -> Verdict:
    """Return whether the selector means the process; with `explain` every key is tried, and each is a step."""
    evaluation = _Evaluation(observation, explain=explain)
    groups: dict[str, str] = {}
    outcome = evaluation.all_keys(selector, process, (), groups)
    return Verdict(outcome, groups, evaluation.is_changeable, evaluation.ripe_in, tuple(evaluation.steps))


class _Evaluation:
    """What adds up while selectors within selectors are gone through."""

    def __init__(self, observation: Observation, *, explain: bool) -> None:
        self._observation = observation
        self._explain = explain
        self.is_changeable = False
        self.ripe_in = inf
        self.steps: list[Step] = []

    def all_keys(self, selector: Selector, process: Process, path: KeyPath, groups: dict[str, str]) -> Outcome:
        """Return whether every key holds; where that is so, the named groups of the patterns are added."""
        outcome, found = Outcome.MATCHES, dict[str, str]()
        for each in self._keys(selector, process, path, found):
            outcome = min(outcome, each)
            if outcome is Outcome.DOES_NOT and not self._explain:
                break
        if outcome is Outcome.MATCHES:
            groups.update(found)
        return outcome

    def _keys(self, selector: Selector, process: Process, path: KeyPath, groups: dict[str, str]) -> Iterator[Outcome]:
        """Yield what becomes of each key: of those that never change first, of those that are dear to read last."""
        at = _Place(process, path)
        if selector.binary_name:
            yield self._any(at / "binary_name", [comm_of(name) for name in selector.binary_name], process.comm, eq)
        if selector.min_age:
            yield self._min_age(at / "min_age", selector.min_age)
        facts = self._observation.facts(process)
        if selector.exe:
            yield self._any(at / "exe", selector.exe, facts.exe, fnmatchcase)
        for name, pattern in selector.environ.items():
            yield self._pattern(at / "environ" / name, pattern, facts.variable(name), {})
        self.is_changeable |= any(getattr(selector, key) for key in _CHANGEABLE)
        if selector.uid:
            yield self._any(at / "uid", selector.uid, facts.uid, eq)
        if selector.user:
            yield self._any(at / "user", selector.user, facts.user, eq)
        for index, pattern in enumerate(selector.cmdline):
            yield self._pattern(at / "cmdline" / index, pattern, facts.cmdline, groups)
        if selector.argv0:
            yield self._any(at / "argv0", selector.argv0, facts.argv0, fnmatchcase)
        if selector.cwd:
            yield self._any(at / "cwd", selector.cwd, facts.cwd, fnmatchcase)
        if selector.cgroup:
            yield self._any(at / "cgroup", selector.cgroup, facts.cgroup, fnmatchcase)
        if selector.systemd_unit:
            yield self._any(at / "systemd_unit", selector.systemd_unit, facts.systemd_unit, fnmatchcase)
        if selector.container_id:
            yield self._any(at / "container_id", selector.container_id, facts.container_id, str.startswith)
        if selector.any_of:
            yield self._alternatives(at / "any", selector.any_of, groups)
        for index, unwanted in enumerate(selector.none_of):
            yield self._not(at / "not" / index, unwanted)
        if selector.parent is not None:
            yield self._parent(at / "parent", selector.parent)
        if selector.ancestor is not None:
            yield self._ancestor(at / "ancestor", selector.ancestor)
        if selector.library:
            yield self._any(at / "library", selector.library, facts.libraries, fnmatchcase)
        if selector.listens_on:
            yield self._any(at / "listens_on", selector.listens_on, facts.ports, _is_within)

    def _any(
        self,
        at: "_Place",
        expected: Sequence[E],
        found: F | tuple[F, ...] | Unreadable | None,
        fits: Callable[[F, E], bool],
    ) -> Outcome:
        """Return whether anything that was found fits anything that is expected."""
        if isinstance(found, Unreadable):
            return self._note(at, Outcome.UNKNOWN, expected, found)
        candidates = found if isinstance(found, tuple) else () if found is None else (found,)
        fitting = [each for each in candidates if any(fits(each, one) for one in expected)]
        outcome = Outcome.MATCHES if fitting else Outcome.DOES_NOT
        return self._note(at, outcome, expected, fitting or candidates or "none")

    def _pattern(self, at: "_Place", pattern: str, found: str | Unreadable | None, groups: dict[str, str]) -> Outcome:
        if isinstance(found, Unreadable):
            return self._note(at, Outcome.UNKNOWN, pattern, found)
        match = None if found is None else re2.compile(pattern, _RE2_OPTIONS).search(found)
        if match is None:
            return self._note(at, Outcome.DOES_NOT, pattern, "not set" if found is None else found)
        groups.update({name: text or "" for name, text in match.groupdict().items()})
        return self._note(at, Outcome.MATCHES, pattern, found)

    def _min_age(self, at: "_Place", seconds: float) -> Outcome:
        age = self._observation.age_seconds(at.process)
        if age < seconds:
            self.ripe_in = min(self.ripe_in, seconds - age)
        outcome = Outcome.MATCHES if age >= seconds else Outcome.DOES_NOT
        return self._note(at, outcome, f"at least {seconds:g} s", f"{age:.1f} s")

    def _alternatives(self, at: "_Place", alternatives: Sequence[Selector], groups: dict[str, str]) -> Outcome:
        outcome = Outcome.DOES_NOT
        for index, alternative in enumerate(alternatives):
            if outcome is Outcome.MATCHES and not self._explain:
                break
            # The groups are those of the first that matches, whether or not the others are tried too.
            found = {} if outcome is Outcome.MATCHES else groups
            outcome = max(outcome, self.all_keys(alternative, at.process, (at / index).path, found))
        return self._note(at, outcome, "one that matches", _FOUND[outcome])

    def _not(self, at: "_Place", unwanted: Selector) -> Outcome:
        outcome = self.all_keys(unwanted, at.process, at.path, {})
        return self._note(at, outcome.opposite, "does not match", outcome)

    def _parent(self, at: "_Place", selector: Selector) -> Outcome:
        parent = self._observation.parent(at.process)
        if isinstance(parent, Process):
            return self.all_keys(selector, parent, at.path, {})
        return self._no_parent(at, parent)

    def _ancestor(self, at: "_Place", selector: Selector) -> Outcome:
        """Return whether any process above matches.

        What is found out on the way up is remembered for the rest of the look: somebody may have forked thousands of
        processes below each other.
        """
        known = {} if self._explain else self._observation.ancestry(selector)
        way: list[tuple[int, Outcome]] = []
        passed = set[int]()  # parents form a circle in a table that was read while pids were given again
        process, outcome = at.process, Outcome.DOES_NOT
        while process.pid not in passed and outcome is not Outcome.MATCHES:
            if process.pid in known:
                outcome = known[process.pid]
                break
            passed.add(process.pid)
            parent = self._observation.parent(process)
            if not isinstance(parent, Process):
                outcome = self._no_parent(_Place(process, at.path), parent)
                way.append((process.pid, outcome))
                break
            outcome = self.all_keys(selector, parent, at.path, {})
            way.append((process.pid, outcome))
            process = parent
        for pid, above in reversed(way):
            outcome = known[pid] = max(outcome, above)
        return self._note(at, outcome, "one that matches", _FOUND[outcome])

    def _no_parent(self, at: "_Place", parent: Unreadable | None) -> Outcome:
        outcome = Outcome.DOES_NOT if parent is None else Outcome.UNKNOWN
        return self._note(at, outcome, "a parent", parent or "none")

    def _note(self, at: "_Place", outcome: Outcome, expected: object, found: object) -> Outcome:
        self.is_changeable |= outcome is Outcome.UNKNOWN  # what could not be read may be readable the next time
        if self._explain:
            self.steps.append(Step(at.process.pid, at.path, shown(expected, " or "), shown(found, ", "), outcome))
        return outcome


@dataclass(frozen=True, slots=True)
class _Place:
    """A key, in the selector that the path leads to, and the process against which it is held."""

    process: Process
    path: KeyPath

    def __truediv__(self, part: str | int) -> "_Place":
        return _Place(self.process, (*self.path, part))


def _is_within(port: int, ports: tuple[int, int]) -> bool:
    return ports[0] <= port <= ports[1]
