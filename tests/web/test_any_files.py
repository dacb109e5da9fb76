"""Whatever happens to the files between scrapes, what is shown is what a reader with no memory would show."""

import math
import os
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ebpf_userspace_exporter.web.exposition import render_text
from ebpf_userspace_exporter.web.families import Families
from ebpf_userspace_exporter.web.file_cache import FileCache, MetricFile, UnreadableFile
from tests.web.conftest import metric_file_bytes
from tests.web.reference import Value, reference_text

# Few and alike, so that files share series and names, or contradict each other.
COUNTERS = ["counter_a_1.db", "counter_b_folded.db", "counter_supervisor.own"]
GAUGES = ["gauge_a_1.own", "gauge-max_a_1.own", "gauge-min_a_1.own"]
HISTOGRAMS = ["histogram_a_1.db", "histogram_b_1.db"]
NAMES = st.sampled_from(["a", "b", "a_sum", "a_total"])
TEXTS = st.sampled_from(["", "1", "10", "2", " ", '"', "\\", "\n", "\r", "%s%", "\x00", "ü", "\U0001f600"])
LABELS = st.one_of(
    st.permutations([("pid", "1"), ("role", "2"), ("zone", "3")]).map(lambda labels: (*labels[:2],)),
    st.dictionaries(st.sampled_from(["pid", "role", "le"]), TEXTS, max_size=2).map(lambda labels: (*labels.items(),)),
)
HISTOGRAM_LABELS = LABELS.map(lambda labels: tuple(label for label in labels if label[0] != "le"))
HELPS = st.sampled_from(["Help.", 'Other "help" \\ \n'])
COUNTS = st.one_of(st.integers(0, 10), st.integers(0, 2**53)).map(float)
AMOUNTS = st.one_of(COUNTS, st.sampled_from([math.inf, 999_999.5, 1e6, 1234567.5]), st.floats(min_value=0))
NUMBERS = st.one_of(AMOUNTS, st.sampled_from([-0.0, -math.inf, 1e16]), st.floats(allow_nan=False))
BOUNDS = ["0", "-0.0", "1", "1.0", "2.5", "1e7", "-1", "+Inf", "inf"]
ENDS = st.sampled_from([b"", b"\0" * 4096, b"noise"])


@st.composite
def histograms(draw: st.DrawFn) -> list[Value]:
    name, labels, help_text = draw(NAMES), draw(HISTOGRAM_LABELS), draw(HELPS)
    values: list[Value] = []
    for bound in draw(st.lists(st.sampled_from(BOUNDS), max_size=6, unique=True)):
        place = draw(st.integers(0, len(labels)))
        with_bound = (*labels[:place], ("le", bound), *labels[place:])
        values.append((name, f"{name}_bucket", with_bound, help_text, draw(COUNTS)))
    if draw(st.integers(0, 5)):
        values.append((name, f"{name}_sum", labels, help_text, draw(NUMBERS)))
    return values


def a_counter(name: str, labels: tuple[tuple[str, str], ...], help_text: str, value: float) -> list[Value]:
    return [(name.removesuffix("_total"), name, labels, help_text, value)]


def a_gauge(name: str, labels: tuple[tuple[str, str], ...], help_text: str, value: float) -> list[Value]:
    return [(name, name, labels, help_text, value)]


CONTENTS = st.one_of(
    st.tuples(
        st.sampled_from(COUNTERS), st.lists(st.builds(a_counter, NAMES, LABELS, HELPS, AMOUNTS), min_size=1, max_size=6)
    ),
    st.tuples(
        st.sampled_from(GAUGES), st.lists(st.builds(a_gauge, NAMES, LABELS, HELPS, NUMBERS), min_size=1, max_size=6)
    ),
    st.tuples(st.sampled_from(HISTOGRAMS), st.lists(histograms(), max_size=3)),
).map(lambda named: (named[0], [value for values in named[1] for value in values]))


def with_text(labels: tuple[tuple[str, str], ...], text: str) -> tuple[tuple[str, str], ...]:
    return tuple((key, text if len(old) == 1 and key != "le" else old) for key, old in labels)


class AnyFiles(RuleBasedStateMachine):
    """Writes, changes, grows, damages and removes files; after each step compares what is shown."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="any-files-")
        self._path = Path(self._folder.name)
        self._cache, self._families = FileCache(self._path), Families()
        self._files: dict[str, Sequence[Value]] = {}
        self._damaged: set[str] = set()

    def teardown(self) -> None:
        self._folder.cleanup()

    @rule(content=CONTENTS, in_place=st.booleans(), end=ENDS)
    def put(self, content: tuple[str, list[Value]], in_place: bool, end: bytes) -> None:
        self._write(*content, in_place=in_place, end=end)

    @rule(content=CONTENTS)
    def grow(self, content: tuple[str, list[Value]]) -> None:
        name, values = content
        self._write(name, [*self._files.get(name, ()), *values])

    @rule(seed=st.randoms(use_true_random=False), some=st.floats(0, 1))
    def count(self, seed: random.Random, some: float) -> None:
        for name, values in list(self._files.items()):
            if seed.random() < some:
                self._write(name, [(*value[:4], float(seed.randrange(3_000_000))) for value in values])

    @rule(some=st.sampled_from([*COUNTERS, *GAUGES, *HISTOGRAMS]), name=NAMES, text=st.sampled_from("12"))
    def rename(self, some: str, name: str, text: str) -> None:
        """Let a file of the same size and place hold other series."""
        renamed = [
            (name, name + sample.removeprefix(family), with_text(labels, text), help_text, value)
            for family, sample, labels, help_text, value in self._files.get(some, ())
            if len(family) == len(name)
        ]
        if renamed:
            self._write(some, renamed)

    @rule(name=st.sampled_from([*COUNTERS, *GAUGES, *HISTOGRAMS]))
    def remove(self, name: str) -> None:
        (self._path / name).unlink(missing_ok=True)
        self._files.pop(name, None)
        self._damaged.discard(name)

    @rule(name=st.sampled_from([*COUNTERS, *GAUGES, *HISTOGRAMS]), noise=st.binary(max_size=7))
    def damage(self, name: str, noise: bytes) -> None:
        (self._path / name).write_bytes(noise)
        self._files.pop(name, None)
        self._damaged.add(name)

    @invariant()
    def shows_what_the_reference_shows(self) -> None:
        outcomes = self._cache.read()
        families, left_out = self._families.merged([file for file in outcomes if isinstance(file, MetricFile)])
        text, contradicting = reference_text(self._files)

        assert render_text(families).decode() == text
        assert {file.name for file in left_out} == contradicting
        assert {file.name for file in outcomes if isinstance(file, UnreadableFile)} == self._damaged

    def _write(self, name: str, values: list[Value], *, in_place: bool = True, end: bytes = b"") -> None:
        path = self._path / (name if in_place else "written.tmp")
        path.write_bytes(metric_file_bytes(values) + end)
        path.rename(self._path / name)
        self._files[name] = values
        self._damaged.discard(name)


TestAnyFiles = AnyFiles.TestCase
TestAnyFiles.settings = settings(
    deadline=None,
    max_examples=150,
    stateful_step_count=20,
    database=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
