import os
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
    ValueType,
)
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.worker.metric_file import read_metric_file
from ebpf_userspace_exporter.worker.rehearsal import rehearse

pytestmark = pytest.mark.bpf

UINT = Decoder(name="uint")


def test_rehearsal_writes_what_a_worker_would_and_keeps_no_descriptor_open(tmp_path: Path) -> None:
    program = Program(
        name="rehearsed",
        metrics=Metrics(
            counters=(
                Counter(name="calls", table="calls", labels=(Label(name="kind", size=4, padding=4, decoders=(UINT,)),)),
                Counter(name="unlabelled", table="unlabelled"),
                Counter(name="shares", table="shares", labels=(Label(name="cpu"),)),
            ),
            gauges=(
                Gauge(name="second", table="struct", value_type=ValueType.S32, value_offset=12),
                Gauge(name="third", table="struct", value_offset=16, combine=Combine.MAX),
            ),
            histograms=(
                Histogram(
                    name="sizes",
                    table="sizes",
                    bucket_type=BucketType.EXP2,
                    bucket_max=2,
                    labels=(Label(name="bucket", size=8, decoders=(UINT,)),),
                ),
            ),
        ),
        attachment=Selector(binary_name=("any",)),
        code="",
    )
    descriptors = set(os.listdir("/proc/self/fd"))

    rehearse(program, tmp_path)

    assert set(os.listdir("/proc/self/fd")) <= descriptors
    written = {kind: file for file in tmp_path.iterdir() for kind in [file.name.partition("_")[0]]}
    values = {kind: [value for value, _ in read_metric_file(file).values()] for kind, file in written.items()}
    histogram = values.pop("histogram")
    assert values == {"counter": [1.0, 1.0, 1.0], "gauge": [1.0], "gauge-max": [1.0]}
    assert sum(histogram) == 1.0
