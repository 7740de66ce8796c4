"""A report for people: one HTML file with its pictures inside, no network needed to read it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #22313f; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
table { border-collapse: collapse } td, th { padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top }
.figure { font-variant-numeric: tabular-nums; text-align: right }
.table { overflow-x: auto } tr { border-bottom: 1px solid #e3e7ea }
img { max-width: 100% } p.note { color: #5d6d7e }
"""


@dataclass(frozen=True)
class Section:
    """A heading, a sentence, and a table, a picture or both.

    Attributes:
        title: of the section.
        note: a sentence or two.
        headings: of the table's columns, or none.
        rows: of the table.
        figure: closed once the page is rendered.
    """

    title: str
    note: str = ""
    headings: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    figure: Figure | None = None


def render_report(title: str, sections: Iterable[Section]) -> str:
    """The page. Figures are closed afterwards."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        if section.note:
            parts.append(f'<p class="note">{html.escape(section.note)}</p>')
        if section.rows:
            parts.append(_table(section.headings, section.rows))
        if section.figure is not None:
            parts.append(f'<img alt="{html.escape(section.title)}" src="{_data_uri(section.figure)}">')
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [_row("th", headings)] if headings else []
    return f'<div class="table"><table>{"".join([*lines, *(_row("td", row) for row in rows)])}</table></div>'


def _row(tag: str, cells: Sequence[str]) -> str:
    """A cell that is a figure stands to the right, and so does its heading."""
    first, *rest = (html.escape(cell) for cell in cells)
    others = "".join(f'<{tag} class="figure">{cell}</{tag}>' for cell in rest)
    return f"<tr><{tag}>{first}</{tag}>{others}</tr>"


def _data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
