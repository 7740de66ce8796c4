"""A comparison as an HTML page: the summary, then a table and, where it helps, a chart of everything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure as Chart

from export.comparison.examination import Comparison
from export.comparison.figures import Figure
from export.comparison.summary import summary
from export.comparison.tables import CLASSES, SETS, tables
from latentserve.records import printable
from training.evaluation.page import Section, render_report
from training.evaluation.plots import ACCENT, plain

COLOR_B = "#d9822b"
"""Of B; A has the accent. Told apart by who sees no red or green, in the dark and on paper."""
MOST_BARS = 40


def page(found: Comparison) -> str:
    """The page."""
    charts = {
        CLASSES: lambda: plot_bars({one.name: one for one in found.classes}, "accuracy, %", 100),
        SETS: lambda: plot_bars({one.name: one.auroc for one in found.sets}, "AUROC", 1),
    }
    sections = [Section("In short", body=summary(found)[1:])]
    if found.notes:
        sections.append(Section("What to know", body=tuple(f"{note}." for note in found.notes)))
    for told in tables(found):
        figure = charts[told.title]() if told.title in charts else None
        sections.append(Section(told.title, told.note, told.headings, told.rows, figure))
    title = f"{found.a.name} and {found.b.name} on {found.data}"
    return printable(render_report(printable(title), sections))


def plot_bars(figures: dict[str, Figure], what: str, scale: float) -> Chart:
    """Two bars for each figure, A's above B's."""
    names = [*figures][:MOST_BARS]
    chart, axis = plt.subplots(figsize=(4.6, 0.9 + 0.55 * len(names)))
    for offset, color, side in ((-0.19, ACCENT, "A"), (0.19, COLOR_B, "B")):
        heights = [scale * (_of(figures[name], side) or 0.0) for name in names]
        bars = axis.barh(np.arange(len(names)) + offset, heights, 0.34, color=color, label=side)
        axis.bar_label(
            bars, [f"{height:.1f}" if scale > 1 else f"{height:.3f}" for height in heights], padding=3, fontsize=8
        )
    axis.set_yticks(np.arange(len(names)), _labels(names))
    axis.invert_yaxis()
    axis.set(xlabel=what, xlim=(0, 1.12 * scale))
    axis.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    plain(axis)
    chart.tight_layout()
    return chart


def _of(figure: Figure, side: str) -> float | None:
    return figure.a if side == "A" else figure.b


def _labels(names: Sequence[str]) -> list[str]:
    """Names that may be paths: no formulas, the end of what is long, and broken at a comma."""
    short = (name if len(name) <= 45 else f"...{name[-42:]}" for name in names)
    return [printable(name).replace("$", r"\$").replace(", ", ",\n") for name in short]
