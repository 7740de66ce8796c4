"""A page for people: one HTML file that needs no network, for a phone, a desk, the dark and paper.

Every piece is made by `element`, which escapes what is not `Html` already: names of files and classes may hold
anything. The page may load nothing (Content-Security-Policy), so what slipped through could not act either.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from training.evaluation.page_style import SCRIPT, STYLE

DPI, PIXELS_PER_INCH = 160, 100
"""Charts are drawn finer than they are shown, for screens of two dots a pixel and for paper."""
WIDE = 600
"""Charts wider than so many pixels are scrolled on a phone, where their letters would be too small."""


class Html(str):
    """HTML as it stands. Any other string is text."""

    __slots__ = ()


@dataclass(frozen=True)
class Section:
    """A heading, a sentence, and whatever shows it.

    Attributes:
        title: of the section.
        note: a sentence or two.
        headings: of the table's columns, or none.
        rows: of the table.
        figure: closed once the page is rendered.
        body: pieces between note and table; text that is not `Html` is a paragraph.
    """

    title: str
    note: str = ""
    headings: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    figure: Figure | None = None
    body: tuple[str, ...] = ()


def render_report(title: str, sections: Iterable[Section], folded: Sequence[Section] = (), heading: str = "") -> str:
    """The page. Figures are closed afterwards.

    Args:
        title: of the page.
        sections: in the order in which they are read.
        folded: below them, each shown once it is opened, or printed.
        heading: above the folded ones.
    """
    parts = [element("h1", title), *map(_open, sections)]
    if folded:
        parts.append(element("section", element("h2", heading), *map(_folded, folded)))
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )
    head = (
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        element("title", title),
        Html(f"<style>{STYLE}</style>"),
    )
    body = element("body", element("main", *parts), Html(f"<script>{SCRIPT}</script>"))
    return f'<!doctype html><html lang="en">{element("head", *head)}{body}</html>\n'


def element(tag: str, *content: str, **attributes: str) -> Html:
    """An element. Text and attributes are escaped, `Html` is not.

    Args:
        tag: name of the element.
        content: text and `Html`.
        attributes: `class_` is written class, `aria_label` aria-label.
    """
    inside = "".join(part if isinstance(part, Html) else html.escape(part) for part in content)
    given = (f' {name.rstrip("_").replace("_", "-")}="{html.escape(text)}"' for name, text in attributes.items())
    return Html(f"<{tag}{''.join(given)}>{inside}</{tag}>")


def image(data: bytes, kind: str, alt: str, **attributes: str) -> Html:
    """A picture inside the page."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Html(element("img", alt=alt, src=source, **attributes).removesuffix("</img>"))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> Html:
    """A table that scrolls by itself where it is too wide; a cell that is not the first stands to the right."""
    head = [element("thead", _row(headings, True))] if headings else []
    body = element("tbody", *(_row(row, False) for row in rows))
    return scrolled(element("table", *head, body), title)


def scrolled(content: Html, title: str) -> Html:
    """What may be wider than a phone. The keyboard reaches it, and a screen reader says what it is."""
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label=title)


def chart(figure: Figure, title: str) -> Html:
    """A chart without ground, which is turned light in the dark. The figure is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", transparent=True)
    width = int.from_bytes(buffer.getvalue()[16:20], "big") * PIXELS_PER_INCH // DPI  # of the PNG's header
    plt.close(figure)
    shown = image(buffer.getvalue(), "png", f"Chart: {title}", class_="chart", width=str(width))
    return scrolled(shown, title) if width > WIDE else shown


def _open(section: Section) -> Html:
    return element("section", element("h2", section.title), *_pieces(section))


def _folded(section: Section) -> Html:
    return element("details", element("summary", element("h3", section.title)), *_pieces(section))


def _pieces(section: Section) -> list[Html]:
    pieces = [element("p", section.note, class_="note")] if section.note else []
    pieces += [part if isinstance(part, Html) else element("p", part) for part in section.body]
    if section.rows:
        pieces.append(table(section.headings, section.rows, f"{section.title}: table"))
    if section.figure is not None:
        pieces.append(chart(section.figure, section.title))
    return pieces


def _row(cells: Sequence[str], heads: bool) -> Html:
    """The first cell names the row; one without text is no heading."""
    first, *rest = cells
    head = element("th", first, scope="col" if heads else "row") if first else element("td", "")
    tag, scope = ("th", {"scope": "col"}) if heads else ("td", {})
    return element("tr", head, *(element(tag, cell, class_="figure", **scope) for cell in rest))
