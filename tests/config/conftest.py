"""Two good configs to change, and a loader that returns what is wrong, without the file's name."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ebpf_userspace_exporter.config.errors import ConfigError
from ebpf_userspace_exporter.config.load import Loaded, load_config

COUNTER = """\
programs:
  - name: gc_total
    metrics:
      counters:
        - name: gc_total
          help: Collections
          table: gc_counts
          labels:
            - name: gen
              size: 8
              decoders:
                - name: uint
    usdt:
      gc__start: trace_gc
    attachment:
      binary_name: gunicorn
    code: |
      int trace_gc(void *ctx) { return 0; }
"""

HISTOGRAM = """\
programs:
  - name: malloc
    metrics:
      histograms:
        - name: malloc_ns
          help: Latency
          table: malloc_ns
          bucket_type: exp2
          bucket_min: 0
          bucket_max: 31
          labels:
            - name: bucket
              size: 8
              decoders:
                - name: uint
    uprobes:
      malloc: enter
    attachment: {binary_name: redis-server}
    code: int enter(void *ctx) { return 0; }
"""

SECOND_PROGRAM = """\
  - name: second
    metrics: METRICS
    usdt: {gc__done: trace_gc}
    attachment: {binary_name: python3}
    code: int trace_gc(void *ctx) { return 0; }
"""


@pytest.fixture
def counter_yaml() -> str:
    return COUNTER


@pytest.fixture
def histogram_yaml() -> str:
    return HISTOGRAM


@pytest.fixture
def with_second_program() -> Callable[[str], str]:
    """Return the counter's config with another program that has the metrics given."""
    return lambda metrics: COUNTER + SECOND_PROGRAM.replace("METRICS", metrics)


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Loaded]:
    monkeypatch.chdir(tmp_path)

    def load(text: str) -> Loaded:
        Path("programs.yaml").write_text(text)
        return load_config(Path("programs.yaml"), trusted=False)

    return load


@pytest.fixture
def problems_of(load: Callable[[str], Loaded]) -> Callable[[str], list[str]]:
    def problems_of(text: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text)
        lines = str(caught.value).split("\n")
        assert all(line.startswith("programs.yaml:") for line in lines)
        return [line.removeprefix("programs.yaml") for line in lines]

    return problems_of
