"""What the documents hold: blocks of code that are run, links, headings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if "adr" not in path.parts)
"""All but the decisions, which keep the words and links of their time."""
NOT_RUN = re.compile(r"<!-- not run: .+ -->\s*\Z")
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        place: page and line, to name it by.
        code: what stands in it.
        is_run: False if a comment `<!-- not run: why -->` stands above it.
    """

    place: str
    code: str
    is_run: bool


def blocks(page: Path, language: str) -> list[Block]:
    """All blocks of a language, in order."""
    text = page.read_text()
    return [
        Block(
            f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, found.start()) + 1}",
            found[2],
            NOT_RUN.search(text[: found.start()]) is None,
        )
        for found in _FENCE.finditer(text)
        if found[1] == language
    ]


def prose(page: Path) -> str:
    """The page without its blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the site and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", one.replace("`", "")).strip().lower()) for one in headings}
