"""The demo's app, without a server."""

import gc
import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

APP = Path(__file__).resolve().parents[2] / "examples/gunicorn-gc/app.py"


@pytest.fixture(scope="module")
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gunicorn_app", APP)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def get(module: ModuleType, path: str) -> tuple[str, bytes]:
    statuses: list[str] = []

    def start_response(status: str, _: Any) -> None:
        statuses.append(status)

    body = b"".join(module.app({"PATH_INFO": path}, start_response))
    return statuses[0], body


def test_stats_are_this_processs_own(module: ModuleType) -> None:
    status, body = get(module, "/stats")

    stats = json.loads(body)
    assert status == "200 OK"
    assert stats["pid"] == os.getpid()
    assert len(stats["collections"]) == len(gc.get_stats())


def test_requests_give_the_collector_work(module: ModuleType) -> None:
    before = gc.get_stats()[0]["collections"]

    for _ in range(10):
        assert get(module, "/") == ("200 OK", b"ok\n")

    assert gc.get_stats()[0]["collections"] > before


def test_other_paths_are_not_found(module: ModuleType) -> None:
    assert get(module, "/nothing")[0] == "404 Not Found"
