"""The pages that go by what the exporter says have all of it, and nothing that it does not say."""

import ast
from collections.abc import Iterator
from pathlib import Path

from ebpf_userspace_exporter.worker.reasons import Reason
from tests.docs.pages import ROOT, table

LEVELS = {"info", "warning", "error"}
TABLES = (("operations.md", "The log"), ("troubleshooting.md", "In the log"))
OF_THE_WEB = "metric file … is left out of scrapes"


def said(path: Path) -> Iterator[str]:
    """Yield the messages that a module logs at the level info or above."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and node.args and logs(node.func):
            for part in ast.walk(node.args[0]):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def logs(function: ast.expr) -> bool:
    """Say whether a function is one of `logger`, or a choice between two of them."""
    match function:
        case ast.IfExp():
            return logs(function.body)
        case ast.Attribute(value=ast.Name(id="logger")):
            return function.attr in LEVELS
    return False


def messages() -> set[str]:
    return {message for path in (ROOT / "supervisor").rglob("*.py") for message in said(path)}


def shown() -> list[str]:
    return [name for page, heading in TABLES for name in table(page, heading, "`msg`").names() if name != OF_THE_WEB]


def means(name: str, message: str) -> bool:
    """Say whether a page calls a message so, by all of it or by what is before the ellipsis."""
    beginning = name.removesuffix("…").strip()
    return message == name if beginning == name else message.startswith(beginning)


def test_every_message_of_the_log_is_on_a_page() -> None:
    names = shown()

    assert [message for message in sorted(messages()) if not any(means(name, message) for name in names)] == []


def test_every_message_on_a_page_is_one_of_the_log() -> None:
    found = messages()

    assert [name for name in shown() if not any(means(name, message) for message in found)] == []


def test_every_reason_has_advice() -> None:
    assert sorted(table("troubleshooting.md", "Reasons", "reason").names()) == sorted(map(str, Reason))
