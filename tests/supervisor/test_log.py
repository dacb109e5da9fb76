"""Log lines as a reader of stderr gets them."""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from ebpf_userspace_exporter.config.setting_parsers import LogFormat
from ebpf_userspace_exporter.supervisor.log import MAX_VALUE, configure

HOSTILE = 'x\ntime=2024-01-01T00:00:00.000Z level=error msg=forged\r\x1b[2J\x9b\u202e\u2028\udcff\ud800"\\ \x00'
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def logged(capfd: pytest.CaptureFixture[str], format: LogFormat = "logfmt", **values: Any) -> str:  # noqa: A002
    """Return the line that an event with these values makes, without its end."""
    configure("info", format)
    structlog.get_logger().info("an event", **values)
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.endswith("\n")
    return output.err[:-1]


def test_a_line_has_time_level_and_message_first(capfd: pytest.CaptureFixture[str]) -> None:
    time, _, rest = logged(capfd, program="gc_total", pid=7).partition(" ")

    assert TIME.fullmatch(time.removeprefix("time="))
    assert rest == 'level=info msg="an event" program=gc_total pid=7'


def test_json_has_the_same_fields_with_their_types(capfd: pytest.CaptureFixture[str]) -> None:
    event = json.loads(logged(capfd, "json", pid=7, share=0.5, live=True, user=None, paths=["/a"], nan=float("nan")))

    assert list(event) == ["time", "level", "msg", "pid", "share", "live", "user", "paths", "nan"]
    assert TIME.fullmatch(event.pop("time"))
    assert event == {
        "level": "info",
        "msg": "an event",
        "pid": 7,
        "share": 0.5,
        "live": True,
        "user": None,
        "paths": "['/a']",
        "nan": "nan",
    }


def test_a_hostile_value_cannot_end_its_line_or_its_value(capfd: pytest.CaptureFixture[str]) -> None:
    line = logged(capfd, comm=HOSTILE)

    assert line.isascii()
    assert line.isprintable()
    assert line.endswith(
        r'comm="x\ntime=2024-01-01T00:00:00.000Z level=error msg=forged\r\x1b[2J\x9b\u202e\u2028\xff\ud800\"\\ \x00"'
    )


def test_a_hostile_value_is_valid_json_that_any_reader_takes(capfd: pytest.CaptureFixture[str]) -> None:
    line = logged(capfd, "json", comm=HOSTILE)

    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["comm"] == HOSTILE.replace("\udcff", "\\xff").replace("\ud800", "\\ud800")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain/path.so:2", "plain/path.so:2"),
        ("", '""'),
        ("a=b", '"a=b"'),
        ("é", '"é"'),
        (b"\xffa", r'"\xffa"'),
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
    ],
)
def test_logfmt_quotes_what_could_be_misread(capfd: pytest.CaptureFixture[str], value: object, text: str) -> None:
    assert logged(capfd, value=value).endswith(f" value={text}")


def test_a_key_is_a_word_whatever_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    values: dict[str, Any] = {"a b\n": 1}

    assert logged(capfd, **values).endswith(" a_b_=1")


def test_a_value_is_cut_where_nobody_reads_on(capfd: pytest.CaptureFixture[str]) -> None:
    assert logged(capfd, log="x" * (MAX_VALUE + 5)).endswith('x… (5 more characters)"')


def test_a_traceback_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    configure("info", "logfmt")
    try:
        raise ValueError("a\nb")
    except ValueError:
        structlog.get_logger().exception("failed")

    line = capfd.readouterr().err
    assert line.count("\n") == 1
    assert "level=error msg=failed exception=" in line
    assert r"ValueError: a\nb" in line


def test_lower_levels_are_left_out_and_configuring_again_counts(capfd: pytest.CaptureFixture[str]) -> None:
    logger = structlog.get_logger()
    configure("warning", "logfmt")
    logger.info("left out")
    configure("debug", "logfmt")
    logger.debug("shown")

    assert re.fullmatch(r"time=\S+ level=debug msg=shown\n", capfd.readouterr().err)


def test_a_forked_child_logs_a_line_of_its_own_and_none_of_its_parent_s(capfd: pytest.CaptureFixture[str]) -> None:
    configure("info", "logfmt")
    structlog.get_logger().info("parent")
    child = os.fork()
    if child == 0:
        structlog.get_logger().info("child")
        os._exit(0)
    os.waitpid(child, 0)

    assert re.findall(r"msg=(\w+)", capfd.readouterr().err) == ["parent", "child"]


def test_a_log_that_nobody_reads_stops_nobody() -> None:
    configure("info", "logfmt")
    reader, writer = os.pipe()
    kept = os.dup(2)
    os.dup2(writer, 2)
    os.close(writer)
    os.close(reader)
    try:
        structlog.get_logger().info("into the void")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
