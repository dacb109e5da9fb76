"""The sidecar's manifests as they are, in a pod made by podman: what is counted across containers, and a new config."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.containers import Engine
from tests.deploy.pair import Pair
from tests.product.exporter import PREFIX, REPOSITORY, series, until

pytestmark = pytest.mark.bpf

FOLDER = REPOSITORY / "deploy/kubernetes/sidecar"
POD = "gunicorn-app-pod-0"


@pytest.fixture(scope="module")
def pair(engine: Engine) -> Iterator[Pair]:
    manifests = [(FOLDER / name).read_text() for name in ("configmap.yaml", "deployment.yaml")]
    engine.podman("network", "create", "--internal", "pods")
    engine.podman("kube", "play", "--network=pods", "-", stdin="---\n".join(manifests))
    pair = Pair(engine.container(f"{POD}-app"), engine.container(f"{POD}-exporter"))
    pair.wait_attached()
    yield pair
    engine.podman("pod", "rm", "--force", "--time=0", POD)
    engine.podman("volume", "rm", "--all", "--force")
    engine.podman("network", "rm", "pods")


def test_collections_in_the_other_container_are_counted_exactly(pair: Pair) -> None:
    own, counted = pair.collect()

    assert own[0] > 0
    assert own[1] > 0
    assert counted == own


def test_changed_config_map_is_taken_up(engine: Engine, pair: Pair) -> None:
    volume = engine.podman("volume", "inspect", "--format={{.Mountpoint}}", "ebpf-userspace-exporter").strip()
    before = pair.scrape()[series("config_last_reload_success_timestamp_seconds")]

    change_as_kubelet_does(Path(volume), "gc_total", "collections_total")

    def shown() -> bool:
        pair.app.get(8000, "/")
        return any(name == f"{PREFIX}collections_total" for name, _ in pair.scrape())

    until(shown, "what the new program counts is shown")
    after = pair.scrape()
    assert after[series("config_last_reload_success_timestamp_seconds")] > before
    assert not any(name == f"{PREFIX}gc_total" for name, _ in after)


def change_as_kubelet_does(volume: Path, old: str, new: str) -> None:
    """Put a changed config in place: a link to a file in a folder that another link leads to."""
    text = (volume / "programs.yaml").read_text()
    assert old in text
    (volume / "..2026").mkdir()
    (volume / "..2026/programs.yaml").write_text(text.replace(old, new))
    (volume / "..data").symlink_to("..2026")
    (volume / "programs.yaml.new").symlink_to("..data/programs.yaml")
    (volume / "programs.yaml.new").rename(volume / "programs.yaml")
