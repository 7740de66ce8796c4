"""Pictures of what was measured, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

OURS, THEIRS, CEILING = "#1f77b4", "#b0b8bf", "#e3e7ea"


def plot_serving(results: dict[str, Any], path: Path) -> None:
    """Images a second by server, one panel for each encoder and scenario that all of them ran."""
    panels = [
        (name, scenario) for name in ("small", "r18") for scenario in ("1 image x 32 callers", "8 images x 8 callers")
    ]
    figure, axes = plt.subplots(2, 2, figsize=(11, 5.5))
    for axis, (name, scenario) in zip(axes.flat, panels, strict=True):
        rows = {server: scenarios[scenario] for server, scenarios in results[name].items() if scenario in scenarios}
        servers = list(rows)[::-1]
        values = [rows[server]["images_per_second"] for server in servers]
        colors = [OURS if "latentserve" in s else CEILING if "alone" in s else THEIRS for s in servers]
        bars = axis.barh(servers, values, color=colors)
        axis.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, fontsize=8)
        axis.set(title=f"{name}: {scenario}", xlabel="images a second")
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


class Probed(NamedTuple):
    """An accuracy of a recipe, one a seed: trained, untrained (may be none); and what is aimed at (0: nothing)."""

    recipe: str
    figure: str
    trained: Sequence[float]
    untrained: Sequence[float]
    target: float


def plot_recipes(rows: Sequence[Probed], path: Path) -> None:
    """Share of wrong answers, logarithmic: a dot a seed, the same network untrained beside it, a stroke for the aim."""
    figure, axis = plt.subplots(figsize=(9, 0.9 + 0.33 * len(rows)))
    for y, row in enumerate(rows):
        wrong, untrained = [100 * (1 - one) for one in row.trained], [100 * (1 - one) for one in row.untrained]
        if untrained:
            axis.plot([min(untrained), max(wrong)], [y, y], color=CEILING, lw=3, zorder=0)
        axis.plot(
            untrained,
            [y] * len(untrained),
            "o",
            color=THEIRS,
            ms=6,
            label="same network, untrained" if untrained else None,
        )
        axis.plot(wrong, [y] * len(wrong), "o", color=OURS, ms=6, alpha=0.7, label="trained, one dot a seed")
        if row.target:
            axis.plot([100 * (1 - row.target)], [y], "|", color="#333333", ms=14, label="target, at most")
    axis.set(xscale="log", xlabel="wrong answers on test rows, % (logarithmic)", ylim=(len(rows) - 0.4, -0.6))
    axis.set_yticks(range(len(rows)), [f"{row.recipe}, {row.figure}" for row in rows])
    ticks = [0.5, 1, 2, 5, 10, 20, 50]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.spines[["top", "right"]].set_visible(False)
    found = dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    axis.legend(found.values(), found.keys(), frameon=False, fontsize=9, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
