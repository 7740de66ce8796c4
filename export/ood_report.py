"""What `python -m export ood` found: the figures, as tables for a terminal and as a page."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from latentserve import records
from training.evaluation.separation import Separation, found_rates
from training.running.run_report import Section, plot_roc, plot_scores, render_report


@dataclass(frozen=True)
class Row:
    """One detector against one set.

    Attributes:
        against: the set.
        detector: the column of `scores`; the first of a bundle decides.
        figures: see `Separation`.
        share_flagged: of the set, at `alpha`.
        usual_flagged: of the test rows, at `alpha`: near it if calibration holds.
        num_rows: of the set.
        auroc_interval: 95 % confidence interval of the AUROC, which takes the rows for independent of each other.
        flagged_interval: of `share_flagged`.
    """

    against: str
    detector: str
    figures: Separation
    share_flagged: float
    id_flagged: float
    num_rows: int
    auroc_interval: tuple[float, ...]
    flagged_interval: tuple[float, ...]


@dataclass(frozen=True)
class Examination:
    """What was found.

    Attributes:
        model: name and version of the bundle.
        data: spec whose test rows are the usual ones.
        num_usual: rows.
        alpha: the bundle's default.
        seed: of the sets.
        rows: one for each set and detector.
    """

    model: str
    data: str
    num_id: int
    alpha: float
    seed: int
    rows: tuple[Row, ...]


def print_examination(found: Examination) -> None:
    """To the terminal: every figure of the deciding detector, then the AUROC of each."""
    console = Console()
    if not console.is_terminal:
        console.width = 200
    data = records.printable(found.data)
    title = f"{found.model} through ONNX: {found.num_id} test rows of {data} against strange ones"
    for headings, rows in tables(found):
        table = Table(title=title, title_justify="left")
        for heading in headings:
            table.add_column(heading, justify="right" if heading != "against" else "left")
        for row in rows:
            table.add_row(*map(records.printable, row))
        console.print(table)


def tables(found: Examination) -> list[tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]]:
    """Headings and rows, as text: the deciding detector, then all detectors."""
    deciding = found.rows[0].detector
    detectors = tuple(dict.fromkeys(row.detector for row in found.rows))
    sets = tuple(dict.fromkeys(row.against for row in found.rows))
    area = {(row.against, row.detector): row.figures.auroc for row in found.rows}
    auroc, *figures = (name.replace("_", " ") for name in asdict(found.rows[0].figures))
    first = tuple(_cells(row) for row in found.rows if row.detector == deciding)
    second = tuple((name, *(f"{area[name, detector]:.4f}" for detector in detectors)) for name in sets)
    return [
        (("against", "rows", auroc, "95 %", *figures, f"flagged at {found.alpha:g}", "95 %"), first),
        (("against", *(f"auroc {detector}" for detector in detectors)), second),
    ]


def _cells(row: Row) -> tuple[str, ...]:
    auroc, *figures = (f"{value:.4f}" for value in asdict(row.figures).values())
    of_auroc = " to ".join(f"{edge:.3f}" for edge in row.auroc_interval)
    of_flagged = " to ".join(f"{edge:.1%}" for edge in row.flagged_interval)
    return (row.against, f"{row.num_rows:,}", auroc, of_auroc, *figures, f"{row.share_flagged:.2%}", of_flagged)


def page(found: Examination, scores: dict[str, NDArray[np.float32]]) -> str:
    """The tables, a histogram and ROC curves, as HTML."""
    in_dist, *_ = scores
    ood = {name: of_set for name, of_set in scores.items() if name != in_dist}
    first, second = tables(found)
    note = (
        f"{found.num_id} test rows of {found.data}, through the exported graphs. {found.rows[0].detector} decides:"
        " settled when the bundle was made, without any of these sets. Two conventions of FPR at 95 %: with strange"
        f" rows as the positives, and with usual rows. At alpha {found.alpha:g},"
        f" {found.rows[0].id_flagged:.2%} of the usual rows are flagged. Intervals of 95 % confidence, as of"
        " independent rows: of the AUROC Newcombe's, of shares Clopper and Pearson's."
    )
    sections = [
        Section("The deciding detector", note, *first),
        Section("Histogram", figure=plot_scores(scores[in_dist], ood)),
        Section(
            "ROC curves",
            "The share of usual rows flagged, on a logarithmic axis.",
            figure=plot_roc(found_rates(scores)),
        ),
        Section("Every detector", "Area under the ROC curve.", *second),
    ]
    return render_report(f"{found.model}: strange rows", sections)
