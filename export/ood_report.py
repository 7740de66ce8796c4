"""The report of `python -m export ood`: its figures as tables for a terminal, and as an HTML page."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from export.examination import Examination, Row
from export.ood_places import Places
from latentserve import records
from training.evaluation.page import Section, render_report
from training.evaluation.plots import plot_roc, plot_scores
from training.evaluation.separation import found_rates

WHERE = (
    "The anomaly map, brought to the size of the model's images, against masks; the usual pixels are those of the test"
    " rows, too. AUPRO: area under the per-region overlap up to a false-alarm rate of 0.3, divided by 0.3."
)
ABBREVIATIONS = ("auroc", "aupr", "fpr", "ood", "id")


def print_examination(found: Examination) -> None:
    """Prints every figure of the deciding detector, then the AUROC of each detector."""
    console = Console()
    if not console.is_terminal:
        console.width = 200
    data = records.printable(found.data)
    title = f"{found.model} through ONNX: {found.num_id} test rows of {data} against out-of-distribution (OOD) rows"
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
    sets = tuple(dict.fromkeys(row.label for row in found.rows))
    area = {(row.label, row.detector): row.figures.auroc for row in found.rows}
    auroc, *figures = map(_heading, asdict(found.rows[0].figures))
    first = tuple(_cells(row) for row in found.rows if row.detector == deciding)
    second = tuple((name, *(f"{area[name, detector]:.4f}" for detector in detectors)) for name in sets)
    headings = ("against", "images", "left out", "regions", "pixel AUROC", "AUPRO to FPR 0.3")
    third = [(headings, tuple(map(_place_cells, found.places)))] if found.places else []
    return [
        (("against", "rows", auroc, "95 %", *figures, f"flagged at {found.alpha:g}", "95 %"), first),
        (("against", *(f"AUROC {detector}" for detector in detectors)), second),
        *third,
    ]


def _place_cells(row: Places) -> tuple[str, ...]:
    against = f"{row.against}: {row.kind}" if row.kind else row.against
    counts = (f"{num:,}" for num in (row.num_rows, row.num_left_out, row.num_regions))
    return (against, *counts, f"{row.pixel_auroc:.4f}", f"{row.aupro:.4f}")


def _heading(name: str) -> str:
    return " ".join(word.upper() if word in ABBREVIATIONS else word for word in name.split("_"))


def _cells(row: Row) -> tuple[str, ...]:
    auroc, *figures = (f"{value:.4f}" for value in asdict(row.figures).values())
    of_auroc = " to ".join(f"{edge:.3f}" for edge in row.auroc_interval)
    of_flagged = " to ".join(f"{edge:.1%}" for edge in row.flagged_interval)
    return (row.label, f"{row.num_rows:,}", auroc, of_auroc, *figures, f"{row.share_flagged:.2%}", of_flagged)


def page(found: Examination, scores: dict[str, NDArray[np.float32]]) -> str:
    """The tables, a histogram and ROC curves, as HTML."""
    id_name, *_ = scores
    ood = {name: of_set for name, of_set in scores.items() if name != id_name}
    first, second, *places = tables(found)
    deciding = found.rows[0]
    note = (
        f"The in-distribution (ID) rows are {found.num_id} test rows of {found.data}; everything runs through the"
        f" exported graphs. {deciding.detector} is the detector that decides; it was chosen when the bundle was made,"
        " without any of these sets. FPR at 95 % follows two conventions: with out-of-distribution (OOD) rows as the"
        f" positives, and with ID rows. At alpha {found.alpha:g}, {deciding.id_flagged:.2%} of the ID rows are flagged."
        " The 95 % confidence intervals, Newcombe's for the AUROC and Clopper and Pearson's for shares, take the rows"
        " for independent."
    )
    histogram = "Scores of the detector that decides. A larger score means further out of distribution."
    curves = "The share of OOD rows flagged for each share of ID rows flagged, which has a logarithmic axis."
    sections = [
        Section("The deciding detector", note, *first),
        Section("Histogram", histogram, figure=plot_scores(scores[id_name], ood)),
        Section("ROC curves", curves, figure=plot_roc(found_rates(scores))),
        Section("Every detector", "Area under the ROC curve (AUROC).", *second),
        *(Section("Where", WHERE, *one) for one in places),
    ]
    return render_report(f"{found.model}: out-of-distribution rows", sections)
