"""The report card as a table: one row a figure, one column for the method and for each floor."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from latentserve.records import printable
from training.evaluation.report import METHOD, Mark

WIDTH_OF_NAMES, WIDTH_OF_COLUMN = 60, 20


def card_table(marks: Sequence[Mark]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Headings and rows as text. Accuracies are in percent; what was not measured is empty."""
    columns = list(dict.fromkeys(mark.features for mark in marks))
    columns.sort(key=lambda features: features != METHOD)
    names = list(dict.fromkeys((mark.name, mark.data) for mark in marks))
    found = {(mark.name, mark.data, mark.features): mark for mark in marks}
    rows = []
    for name, data in names:
        cells = (found.get((name, data, features)) for features in columns)
        rows.append((name.replace("_", " "), data, *(shown(mark) if mark else "" for mark in cells)))
    headings = ("", "on", *(features if features == METHOD else f"floor: {features}" for features in columns))
    return headings, tuple(rows)


def shown(mark: Mark) -> str:
    """The value, in percent if it is an accuracy, with its spread."""
    digits, scale = (2, 100) if "accuracy" in mark.name else (3, 1)
    spread = "" if mark.spread is None else f" ± {mark.spread * scale:.{digits}f}"
    return f"{mark.value * scale:.{digits}f}{spread}"


def print_card(marks: Sequence[Mark], title: str) -> None:
    """To the terminal, or in full width to where there is none."""
    headings, rows = card_table(marks)
    table = Table(title=printable(title), title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("", "on") else "right")
    for row in rows:
        table.add_row(*map(printable, row))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, WIDTH_OF_NAMES + WIDTH_OF_COLUMN * len(headings))
    console.print(table)
