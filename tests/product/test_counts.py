"""What is counted from outside equals what the program itself counted."""

import pytest

from tests.product.exporter import EXAMPLES, exporter, series
from tests.product.programs import gunicorn_app

pytestmark = pytest.mark.bpf


@pytest.mark.parametrize("attach", ["", "perf"], ids=["uprobe_multi", "perf_event"])
def test_gunicorn_workers_collections_equal_their_own_count(attach: str) -> None:
    with (
        gunicorn_app(workers=4) as app,
        exporter(EXAMPLES / "gunicorn-gc/config.yaml", environment={"USERSPACE_EXPORTER_ATTACH": attach}) as running,
    ):
        running.wait_attached("gc_total", app.process.pid, *app.workers)
        before = app.stats()
        counted_before = running.scrape()
        for _ in range(200):
            app.get("/")
        after = app.stats()
        counted = running.scrape()

        assert sum(after[pid][0] - before[pid][0] for pid in app.workers) > 0
        for pid in app.workers:
            for generation in range(3):
                key = series("gc_total", gen=generation, pid=pid)
                increase = counted.get(key, 0) - counted_before.get(key, 0)
                assert increase == after[pid][generation] - before[pid][generation], (pid, generation)
