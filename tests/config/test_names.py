import pytest

from ebpf_userspace_exporter.config.names import OWN_METRICS, MetricKind, claimed_names, family_of, own_metric_with


@pytest.mark.parametrize(
    ("name", "kind", "claimed"),
    [
        ("x", "counter", {"x"}),
        ("x_total", "counter", {"x", "x_total"}),
        ("x", "gauge", {"x"}),
        ("x_total", "gauge", {"x_total"}),
        ("x", "histogram", {"x", "x_bucket", "x_sum", "x_count"}),
        ("_total", "counter", {"_total"}),
    ],
)
def test_a_metric_claims_its_family_and_its_samples(name: str, kind: MetricKind, claimed: set[str]) -> None:
    assert claimed_names(name, kind) == claimed
    assert family_of(name, kind) in claimed


def test_no_two_own_metrics_have_a_name_in_common() -> None:
    for name, kind in OWN_METRICS.items():
        assert own_metric_with(claimed_names(name, kind)) == name
