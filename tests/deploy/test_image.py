"""The image, built from this clone and run as its Dockerfile says, beside an application in another container."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.containers import APP_IMAGE, IMAGE, Engine
from tests.deploy.pair import Pair
from tests.product.exporter import REPOSITORY

pytestmark = pytest.mark.bpf

CONFIG = REPOSITORY / "examples/gunicorn-gc/config.yaml"
MOST_BYTES = 600_000_000


@pytest.fixture(scope="module")
def pair(engine: Engine) -> Iterator[Pair]:
    locked = ["--detach", "--network=none", "--read-only", "--read-only-tmpfs=false"]
    engine.podman("run", *locked, "--name=app", "--user=10001", "--cap-drop=ALL", APP_IMAGE)
    config = f"--volume={CONFIG}:/etc/ebpf-userspace-exporter/programs.yaml:ro"
    engine.podman("run", *locked, "--name=exporter", "--pid=container:app", *documented_options(), config, IMAGE)
    pair = Pair(engine.container("app"), engine.container("exporter"))
    pair.wait_attached()
    yield pair
    for name in ("exporter", "app"):
        engine.podman("rm", "--force", "--time=0", name)


def test_collections_in_another_container_are_counted_exactly(pair: Pair) -> None:
    own, counted = pair.collect()

    assert own[0] > 0
    assert own[1] > 0
    assert counted == own


def test_page_and_health_check_answer(engine: Engine, pair: Pair) -> None:
    page = pair.exporter.get(8080, "/").decode()
    engine.podman("healthcheck", "run", "exporter")

    assert page.startswith("<!DOCTYPE html>")
    assert b"{" in pair.exporter.get(8080, "/status.css")
    assert engine.podman("inspect", "--format={{.State.Health.Status}}", "exporter").strip() == "healthy"


def test_it_has_the_documented_rights_and_no_more(pair: Pair) -> None:
    status = Path(f"/proc/{pair.exporter.pid}/status").read_text()
    (bounding,) = re.findall(r"^CapBnd:\s*(\w+)$", status, re.MULTILINE)

    assert int(bounding, 16).bit_count() == sum("--cap-add" in option for option in documented_options())
    assert re.search(r"^NoNewPrivs:\s*1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s*2$", status, re.MULTILINE)


def test_it_is_small_and_says_what_it_is(engine: Engine) -> None:
    (image,) = json.loads(engine.podman("image", "inspect", IMAGE))

    assert image["Size"] < MOST_BYTES
    assert image["Labels"]["org.opencontainers.image.title"] == "ebpf-userspace-exporter"


def test_it_stops_when_asked_to(engine: Engine, pair: Pair) -> None:
    engine.podman("stop", "--time=60", "exporter")

    assert engine.podman("inspect", "--format={{.State.ExitCode}}", "exporter").strip() == "0"


def documented_options() -> list[str]:
    """Return what the Dockerfile's first lines give to `docker run`, without which processes it watches."""
    comment = (REPOSITORY / "Dockerfile").read_text().partition("#   docker run")[2].partition(" -p ")[0]
    return [option for option in re.findall(r"--\S+", comment) if option != "--pid=host"]
