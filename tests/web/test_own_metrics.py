from prometheus_client.parser import text_string_to_metric_families as parse_text

from ebpf_userspace_exporter.web.exposition import exposed_names, render_text
from ebpf_userspace_exporter.web.own_metrics import RESERVED_NAMES, OwnMetrics
from ebpf_userspace_exporter.web.refresh import RefreshResult


def exposed(own: OwnMetrics, refreshed: RefreshResult) -> dict[str, float]:
    return {
        sample.name + "".join(sample.labels.values()): sample.value
        for family in parse_text(render_text(own.families(refreshed)).decode())
        for sample in family.samples
    }


def test_scrape_tells_how_its_refresh_went() -> None:
    values = exposed(OwnMetrics(), RefreshResult(fresh=4, stale=2, ok=True))

    assert values["userspace_exporter_refresh_successful"] == 1
    assert values["userspace_exporter_stale_workers"] == 2


def test_without_an_answer_the_number_of_stale_workers_is_not_made_up() -> None:
    values = exposed(OwnMetrics(), RefreshResult(fresh=0, stale=0, ok=False))

    assert values["userspace_exporter_refresh_successful"] == 0
    assert "userspace_exporter_stale_workers" not in values


def test_counts_and_durations_add_up_over_scrapes() -> None:
    own = OwnMetrics()
    for seconds in (0.004, 0.005, 99.0):
        own.count_unreadable_files(2)
        own.observe_refresh(seconds)
        own.observe_scrape(seconds)

    values = exposed(own, RefreshResult(fresh=0, stale=0, ok=True))

    assert values["userspace_exporter_unreadable_files_total"] == 6
    for name in ("refresh", "scrape"):
        prefix = f"userspace_exporter_{name}_seconds"
        assert values[f"{prefix}_bucket0.005"] == 2
        assert values[f"{prefix}_bucket1.0"] == 2
        assert values[f"{prefix}_bucket+Inf"] == values[f"{prefix}_count"] == 3
        assert values[f"{prefix}_sum"] == 99.009


def test_every_own_name_is_reserved() -> None:
    families = OwnMetrics().families(RefreshResult(fresh=0, stale=0, ok=True))

    assert {name for family in families for name in exposed_names(family.name, family.kind)} == RESERVED_NAMES
