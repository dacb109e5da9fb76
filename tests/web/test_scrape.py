"""Scrapes at the same time."""

import gzip
import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ebpf_userspace_exporter.web.own_metrics import OwnMetrics
from ebpf_userspace_exporter.web.scrape import Form, Scraper
from tests.web.conftest import StartSupervisor, healthy_answer, metric_file_bytes

TEXT = Form(openmetrics=False, gzip=False)


def write(state_directory: Path, values: list[float]) -> None:
    """Write one value into each of several files, in the order in which nobody reads them."""
    for number, value in reversed([*enumerate(values)]):
        content = metric_file_bytes([("turns", "turns_total", (("file", str(number)),), "Help.", value)])
        path = state_directory / f"counter_turns-1_{number}.db"
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(content)
        temporary.rename(path)


def values_of(text: bytes) -> list[float]:
    return [float(value) for value in re.findall(rb"^turns_total\{[^ ]*\} (.*)$", text, re.MULTILINE)]


def test_no_scrape_gets_values_older_than_its_own_refresh(
    state_directory: Path, start_supervisor: StartSupervisor
) -> None:
    turns = itertools.count(1)
    written = 0

    def refresh(_request: str) -> bytes:
        nonlocal written
        turn = next(turns)
        write(state_directory, [float(turn)] * 20)
        written = turn
        return b"ok 1 0\n"

    start_supervisor(refresh)
    scraper = Scraper(state_directory, OwnMetrics())

    def scrape(number: int) -> tuple[int, list[float]]:
        before = written
        text = scraper.scrape(10.0, Form(openmetrics=number % 2 == 0, gzip=number % 3 == 0))
        return before, values_of(gzip.decompress(text) if number % 3 == 0 else text)

    with ThreadPoolExecutor(8) as threads:
        outcomes = [*threads.map(scrape, range(400))]

    assert all(len(values) == 20 and min(values) > before for before, values in outcomes)
    assert max(before for before, _ in outcomes) > 300


def test_each_form_is_the_same_metrics(state_directory: Path, start_supervisor: StartSupervisor) -> None:
    start_supervisor(healthy_answer)
    write(state_directory, [1.0, 2.0])
    scraper = Scraper(state_directory, OwnMetrics())

    texts = {
        (openmetrics, zipped): scraper.scrape(1.0, Form(openmetrics=openmetrics, gzip=zipped))
        for openmetrics in (False, True)
        for zipped in (False, True)
    }

    assert all(
        values_of(gzip.decompress(text) if zipped else text) == [1.0, 2.0] for (_, zipped), text in texts.items()
    )
    assert [texts[form, False].endswith(b"# EOF\n") for form in (False, True)] == [False, True]
    named = Form(openmetrics=False, gzip=False, names=frozenset({"turns_total"}))
    assert len(scraper.scrape(1.0, named).splitlines()) == 4


def test_scrapes_of_one_reading_share_their_answer(state_directory: Path, start_supervisor: StartSupervisor) -> None:
    start_supervisor(healthy_answer)
    write(state_directory, [1.0])
    own = OwnMetrics()
    scraper = Scraper(state_directory, own)
    reading = scraper._readings.result()
    scraper._readings.result = lambda: reading  # type: ignore[method-assign]  # as if all had waited for it

    answers = [scraper.scrape(1.0, TEXT) for _ in range(3)]
    zipped = scraper.scrape(1.0, Form(openmetrics=False, gzip=True))

    assert answers[0] is answers[1] is answers[2]
    assert values_of(gzip.decompress(zipped)) == [1.0]


def test_shared_answer_tells_each_how_its_own_refresh_went(
    state_directory: Path, start_supervisor: StartSupervisor
) -> None:
    answers = iter([b"ok 2 0\n", b"ok 1 1\n", b"no\n"])
    start_supervisor(lambda _request: next(answers))
    scraper = Scraper(state_directory, OwnMetrics())
    reading = scraper._readings.result()
    scraper._readings.result = lambda: reading  # type: ignore[method-assign]  # as if all had waited for it

    texts = [scraper.scrape(1.0, TEXT) for _ in range(3)]

    assert [b"stale_workers 0.0\n" in text for text in texts] == [True, False, False]
    assert [b"stale_workers 1.0\n" in text for text in texts] == [False, True, False]
    assert [b"refresh_successful 0.0\n" in text for text in texts] == [False, False, True]
