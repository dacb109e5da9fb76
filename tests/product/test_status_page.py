"""The status page of a running exporter, in a browser."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from tests.product.browser import PHONE, browser
from tests.product.compiled import compile_c, run_target
from tests.product.exporter import Exporter, exporter, until

pytestmark = pytest.mark.bpf

HOSTILE = "<b id=x>&\"'"  # as the name of a process, which has 15 bytes
_SOURCE = r"""
#include <stdio.h>
#include <sys/prctl.h>
__attribute__((noinline, noipa)) void step(void) {}
int main(int count, char **arguments) {
    prctl(PR_SET_NAME, arguments[1]);
    while (getchar() != EOF) step();
}
"""
_PROGRAM = """
  - name: {name}
    attachment: {{exe: "{exe}"}}
    metrics:
      counters:
        - {{name: {name}_total, help: Steps., table: steps, labels: [{{name: key, size: 4, decoders: [name: uint]}}]}}
    uprobes: {{step: on_step}}
    code: |
      BPF_HASH(steps, u32, u64, 1);
      int on_step(struct pt_regs *ctx) {{ u32 key = 0; steps.increment(key); return {result}; }}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="status-page-") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def executable(folder: Path) -> Path:
    return compile_c(_SOURCE, folder / "stepping")


@pytest.fixture(scope="module")
def pid(executable: Path) -> Iterator[int]:
    with run_target(executable, HOSTILE) as target:
        yield target.pid


@pytest.fixture(scope="module")
def running(executable: Path, pid: int) -> Iterator[Exporter]:
    """One program that counts, and one that clang has something to say about."""
    programs = [
        _PROGRAM.format(name=name, exe=executable, result=result) for name, result in (("good", 0), ("bad", "x"))
    ]
    with exporter("programs:" + "".join(programs)) as started:
        started.wait_attached("good", pid)
        yield started


@pytest.fixture(scope="module")
def desk(folder: Path, running: Exporter) -> Iterator[Chrome]:
    with browser(folder / "desk") as opened:
        opened.get(f"http://127.0.0.1:{running.port}/")
        yield opened


def rows(page: Chrome) -> list[list[str]]:
    """Return the cells of the targets' table."""
    return page.execute_script(  # type: ignore[no-any-return]  # what the script says it is
        "return [...[...document.querySelectorAll('table')].at(-1).tBodies[0].rows]"
        ".map(row => [...row.cells].map(cell => cell.textContent.trim()))"
    )


def test_what_is_shown_is_what_is(desk: Chrome, pid: int) -> None:
    failed, good = rows(desk)

    assert failed[:4] == ["bad", str(pid), HOSTILE, "failed compile"]
    assert good[:4] == ["good", str(pid), HOSTILE, "running"]
    assert good[5].endswith(" s")
    assert good[6].endswith(" MB")
    assert good[7] == f"pid={pid}"


def test_the_error_is_there_in_full(desk: Chrome) -> None:
    summary = desk.find_element(By.TAG_NAME, "summary")
    error = desk.find_element(By.CSS_SELECTOR, "details pre")
    assert summary.text.startswith("bad, 1 process: ")
    assert not error.is_displayed()

    summary.click()

    assert "use of undeclared identifier 'x'" in error.text


def test_it_is_live_and_leaves_open_what_was_opened(desk: Chrome, executable: Path, pid: int) -> None:
    desk.execute_script("document.querySelector('details').open = true; window.same = 'page'")
    with run_target(executable, "second") as second:
        until(lambda: {row[1] for row in rows(desk)} == {str(pid), str(second.pid)}, "shown")

        assert desk.execute_script("return window.same") == "page"
        assert desk.find_element(By.CSS_SELECTOR, "details pre").is_displayed()
        assert desk.find_element(By.ID, "live").text == "Live."


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_complained_of(desk: Chrome, running: Exporter) -> None:
    loaded = desk.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")

    assert loaded
    assert [url for url in loaded if not url.startswith(f"http://127.0.0.1:{running.port}/")] == []
    logged = desk.get_log("browser")  # type: ignore[no-untyped-call]  # selenium leaves it untyped
    complaints = [entry["message"] for entry in logged if "favicon" not in entry["message"]]
    assert complaints == []


def test_on_a_phone_everything_fits_without_script(folder: Path, running: Exporter, pid: int) -> None:
    with browser(folder / "phone", size=PHONE, script=False) as phone:
        phone.get(f"http://127.0.0.1:{running.port}/")

        assert phone.find_element(By.ID, "live").text == "Reload for what is now."
        root = phone.find_element(By.TAG_NAME, "html")
        assert int(root.get_property("scrollWidth")) <= PHONE[0]  # type: ignore[arg-type]  # it is a number
        shown = phone.find_element(By.TAG_NAME, "main").text
        assert HOSTILE in shown
        assert str(pid) in shown


def test_it_says_when_the_exporter_is_gone(folder: Path, executable: Path, pid: int) -> None:
    with browser(folder / "left") as page:
        with exporter("programs:" + _PROGRAM.format(name="good", exe=executable, result=0)) as started:
            page.get(f"http://127.0.0.1:{started.port}/")
            assert [row[1] for row in rows(page)] == [str(pid)]
        until(lambda: "does not answer" in page.find_element(By.ID, "live").text, "said")

        assert [row[1] for row in rows(page)] == [str(pid)]
