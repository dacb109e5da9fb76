"""Links between the pages lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.docs.pages import PAGES, ROOT

_NO_PART_OF_ANCHORS = re.compile(r"[^\w\- ]")


def tokens(path: Path) -> list[Token]:
    return MarkdownIt().enable("table").parse(path.read_text())


def links(path: Path) -> Iterator[str]:
    """Yield where a page's links lead that stay within the repository, and where its pictures are."""
    for token in tokens(path):
        for child in token.children or ():
            target = str(child.attrs.get("href") or child.attrs.get("src") or "")
            if target and ":" not in target:
                yield target


def anchors(path: Path) -> set[str]:
    """Return the names that GitHub gives to a page's headings."""
    content = tokens(path)
    titles = [content[index + 1].content for index, token in enumerate(content) if token.type == "heading_open"]
    return {_NO_PART_OF_ANCHORS.sub("", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(page: Path) -> None:
    lost = []
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            lost.append(link)

    assert lost == []
    assert list(links(page))
