"""A comparison as tables of text, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from export.comparison.alignment import NUM_NEIGHBOURS
from export.comparison.examination import Comparison
from export.comparison.figures import Figure
from export.comparison.summary import summary
from latentserve.records import printable
from training.evaluation.ood_sets import CONTROL

WIDTH = 160
"""Of the tables where there is no terminal."""
CLASSES, SETS = "Classes", "Out-of-distribution sets: AUROC"
"""Titles of what the page draws, too."""


@dataclass(frozen=True)
class Told:
    """One table.

    Attributes:
        title: of it.
        note: how it is read.
        headings: of its columns.
        rows: of it.
    """

    title: str
    note: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(found: Comparison) -> list[Told]:
    """The tables, in the order in which they are read; what was left out has none."""
    return [*_bundles(found), *_classes(found), *_sets(found), *_alarms(found), *_alike(found), *_costs(found)]


def print_comparison(found: Comparison) -> None:
    """Prints every table, what a reader must know, and the summary."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    for told in tables(found):
        table = Table(title=printable(told.title), title_justify="left")
        for heading in told.headings:
            table.add_column(heading, justify="right" if heading else "left")
        for row in told.rows:
            table.add_row(*map(printable, row))
        console.print(table)
    for sentence in (*(f"{note}." for note in found.notes), *summary(found)):
        console.print(printable(sentence), markup=False, highlight=False)


def _bundles(found: Comparison) -> Iterator[Told]:
    rows = [
        ("made by", found.a.method, found.b.method),
        ("trained on", found.a.trained_on, found.b.trained_on),
        ("a row", found.a.input, found.b.input),
        ("numbers of an embedding", f"{found.a.dim:,}", f"{found.b.dim:,}"),
    ]
    yield Told("The two", "", ("", f"A: {found.a.name}", f"B: {found.b.name}"), tuple(rows))


def _classes(found: Comparison) -> Iterator[Told]:
    if found.classes:
        note = (
            f"Probes are fitted on the frozen embeddings of {found.num_train:,} training rows and measured on"
            f" {found.num_test:,} test rows, the same for both. Labels are used for nothing else. The interval is a"
            " paired bootstrap over test rows (and over draws of few labels); one that holds 0 is called a tie."
        )
        rows = tuple((one.name, *_cells(one)) for one in found.classes)
        yield Told(CLASSES, note, ("", "A", "B", "A - B, 95 %", "better"), rows)


def _sets(found: Comparison) -> Iterator[Told]:
    if not found.sets:
        return
    note = (
        "The deciding score of each bundle, through its graphs. AUROC 0.5 is chance; the interval of the difference is"
        " DeLong's, of shares flagged a paired bootstrap, and both take rows for independent."
    )
    if any(one.name == CONTROL for one in found.sets):
        note += (
            f" {CONTROL} is a control: test rows once more, of which 0.5 says that no score looks at the file format."
        )
    rows = []
    for one in found.sets:
        area = one.auroc
        rows.append((one.name, f"{one.num_rows:,}", f"{area.a:.3f}", f"{area.b:.3f}", _edges(area, 1, 3), area.better))
    yield Told(SETS, note, ("", "rows", "A", "B", "A - B, 95 %", "better"), tuple(rows))
    flagged = tuple((one.name, *_cells(one.flagged)) for one in found.sets)
    yield Told(f"Flagged at alpha {found.alpha:g}", "", ("", "A", "B", "A - B, 95 %", "more"), flagged)


def _alarms(found: Comparison) -> Iterator[Told]:
    if found.false_alarms:
        note = (
            f"The share of {found.false_alarms[0].num_test:,} test rows that a bundle flags at alpha {found.alpha:g},"
            " and where it lies for 95 % of calibration and test sets of these sizes. Nothing is promised where the"
            " bundle was calibrated on other data."
        )
        rows = tuple(
            (
                one.side,
                one.detector,
                f"{one.num_calibration:,}",
                f"{one.share:.1%}",
                f"{one.band[0]:.1%} to {one.band[1]:.1%}" if one.band else "calibrated on other data",
            )
            for one in found.false_alarms
        )
        headings = ("", "decides", "calibration rows", "flagged", "expected")
        yield Told("False alarms", note, headings, rows)


def _alike(found: Comparison) -> Iterator[Told]:
    alike = found.alignment
    low, high = alike.interval
    note = (
        "Linear CKA (centred kernel alignment) is 1 if one embedding is the other one rotated and scaled; few rows of"
        " many dimensions raise it, which the debiased figure undoes. Neighbours kept: of each test row's"
        f" {alike.num_neighbours} nearest others by cosine, the share that is nearest in both."
    )
    if alike.num_neighbours < NUM_NEIGHBOURS:
        note += f" There are too few rows for {NUM_NEIGHBOURS}."
    rows = (
        ("linear CKA", _shown(alike.cka), ""),
        ("linear CKA, debiased", _shown(alike.debiased_cka), ""),
        ("neighbours kept", f"{alike.neighbours_kept:.1%}", f"{low:.1%} to {high:.1%}"),
        ("neighbours kept by chance", f"{alike.chance:.1%}", ""),
    )
    yield Told("How alike they are", note, ("", "both", "95 %"), rows)


def _costs(found: Comparison) -> Iterator[Told]:
    note = (
        "Times are of the embedding alone through ONNX Runtime on this machine's CPUs, medians of six rounds in which A"
        " and B take turns; the interval of A / B is the range over the rounds, which other programs widen. Decoding"
        " files, a queue and the network come on top."
    )
    rows = []
    for one in found.costs:
        low, high = one.interval
        ratio = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
        rows.append((one.name, *(_cost(value) for value in (one.a, one.b)), ratio, one.better))
    yield Told("Cost", note, ("", "A", "B", "A / B", "better"), tuple(rows))


def _cells(figure: Figure) -> tuple[str, ...]:
    """Shares of one, in percent."""
    return f"{figure.a:.1%}", f"{figure.b:.1%}", _edges(figure, 100, 1), figure.better


def _edges(figure: Figure, scale: float, digits: int) -> str:
    return " to ".join(f"{scale * edge:+.{digits}f}" for edge in figure.interval)


def _cost(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _shown(value: float | None) -> str:
    return "none: one is the same for all rows" if value is None else f"{value:.3f}"
