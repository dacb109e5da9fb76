"""The page, given what the supervisor says."""

import json
import re
from typing import Any

from ebpf_userspace_exporter.web.status_page import MAX_TARGETS, render_page

STATUS: dict[str, Any] = {
    "ready": True,
    "version": "1",
    "started": 1.7e9,
    "last_reload": {"at": 1.7e9, "successful": True, "error": ""},
    "builds": {"finished": 2, "of": 2},
    "programs": [{"name": "gc", "targets": {"running": 1}}, {"name": "idle", "targets": {}}],
    "targets": [],
}


def target(pid: int = 42, **others: Any) -> dict[str, Any]:
    known = {
        "program": "gc",
        "pid": pid,
        "comm": "gunicorn",
        "labels": {"pid": str(pid), "role": "web"},
        "state": "running",
        "since": 1.7e9,
        "attach_seconds": 0.25,
        "generation": 1,
        "worker_memory_bytes": 4_200_000,
        "reason": None,
        "error": "",
    }
    return {**known, **others}


def page(*targets: dict[str, Any], **others: Any) -> str:
    # As it comes from the supervisor: names that are not UTF-8 are lone surrogates in it.
    status = json.loads(json.dumps({**STATUS, "targets": list(targets), **others}))
    return render_page(status, "/metrics").decode()


def words(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_a_target_is_told_of_in_one_row() -> None:
    text = words(page(target()))

    assert re.search(r"gc 42 gunicorn running \d+ d \d+ h 0\.250 s 4\.2 MB pid=42 role=web", text), text
    assert "workers' memory 4.2 MB in 1 workers" in text.replace("&#39;", "'")
    assert "gc 1 running idle none" in text


def test_a_process_that_cannot_be_taken_up_has_little_to_tell() -> None:
    text = words(page({"program": "gc", "pid": 42, "state": "leader_exited"}))

    assert "gc 42 leader_exited" in text


def test_names_that_others_chose_are_text() -> None:
    hostile = "<b x=\"y'>&\n\x1b[1m\udc80"

    html = page(target(comm=hostile, labels={"role": hostile}, error=hostile, program=hostile))

    assert "<b x" not in html
    assert html.count("&lt;b x=&#34;y&#39;&gt;&amp;\n\x1b[1m\\udc80") >= 4


def test_equal_errors_are_told_once_and_in_full_with_all_who_have_them() -> None:
    words_of_clang = "code:3:5: error: expected ';'\n" + "    x = 1\n" * 500

    html = page(*(target(pid, state="failed", reason="compile", error=words_of_clang) for pid in (7, 5)), target(1))

    assert html.count("expected") == 2  # in the summary and in the text
    assert html.count("x = 1") == 500
    assert "gc, 2 processes: code:3:5" in words(html)
    assert "pid 5, 7" in words(html)
    rows = re.findall(r'data-name="pid">(\d+)', html)
    assert rows == ["5", "7", "1"]


def test_an_error_has_the_same_id_as_long_as_it_lasts() -> None:
    ids = [re.findall(r'<details id="(\w+)"', page(*map(failed, pids))) for pids in ((1,), (1, 2), (2,))]

    assert len(ids[0]) == 1
    assert ids[0] == ids[1] == ids[2]
    assert re.findall(r'<details id="(\w+)"', page(target(error="other"))) != ids[0]


def failed(pid: int) -> dict[str, Any]:
    return target(pid, state="failed", error="no such probe")


def test_builds_are_counted_while_there_are_some_to_come() -> None:
    assert "builds 3 of 12" in words(page(builds={"finished": 3, "of": 12}))
    assert "builds" not in words(page(builds={"finished": 12, "of": 12}))


def test_a_refused_config_is_told_with_its_errors() -> None:
    text = words(page(last_reload={"at": 1.7e9, "successful": False, "error": "programs.yaml:3: <name>: missing"}))

    assert "config refused" in text
    assert "programs.yaml:3: &lt;name&gt;: missing" in text


def test_of_very_many_targets_those_with_errors_are_shown() -> None:
    html = page(*map(target, range(10_000, 10_000 + MAX_TARGETS)), failed(99_999))

    assert html.count('data-name="pid"') == MAX_TARGETS
    assert 'data-name="pid">99999<' in html
    assert "1 more are not shown here" in html


def test_without_the_supervisor_there_is_a_page_that_says_so() -> None:
    text = words(render_page(None, "/metrics").decode())

    assert "The supervisor does not answer" in text
    assert "/metrics" in text
