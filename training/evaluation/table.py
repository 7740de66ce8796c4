"""The evaluation report as a table: one row a figure, one column for the method and for each baseline."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from latentserve.records import printable
from training.evaluation.report import METHOD, Metric

WIDTH_OF_NAMES, WIDTH_OF_COLUMN = 60, 20


def report_table(metrics: Sequence[Metric]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Headings and rows as text. Accuracies are in percent; what was not measured is empty."""
    columns = list(dict.fromkeys(metric.features for metric in metrics))
    columns.sort(key=lambda features: features != METHOD)
    names = list(dict.fromkeys((metric.name, metric.data) for metric in metrics))
    found = {(metric.name, metric.data, metric.features): metric for metric in metrics}
    rows = []
    for name, data in names:
        cells = (found.get((name, data, features)) for features in columns)
        rows.append((name.replace("_", " "), data, *(shown(metric) if metric else "" for metric in cells)))
    headings = ("", "on", *(features if features == METHOD else f"baseline: {features}" for features in columns))
    return headings, tuple(rows)


def shown(metric: Metric) -> str:
    """The value, in percent if it is an accuracy, with its standard deviation."""
    digits, scale = (2, 100) if "accuracy" in metric.name else (3, 1)
    standard_deviation = (
        "" if metric.standard_deviation is None else f" ± {metric.standard_deviation * scale:.{digits}f}"
    )
    return f"{metric.value * scale:.{digits}f}{standard_deviation}"


def print_report(metrics: Sequence[Metric], title: str) -> None:
    """Prints the table; in full width where there is no terminal. Without figures, why there are none."""
    headings, rows = report_table(metrics)
    if not rows:
        print(f"{printable(title)}: no figures; probes, clusters and groups need labels, and these data have none")
        return
    table = Table(title=printable(title), title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("", "on") else "right")
    for row in rows:
        table.add_row(*map(printable, row))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, WIDTH_OF_NAMES + WIDTH_OF_COLUMN * len(headings))
    console.print(table)
