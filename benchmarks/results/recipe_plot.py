"""The picture of the recipes' accuracies, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TRAINED, UNTRAINED, GAIN = "#1f77b4", "#b0b8bf", "#e3e7ea"


class Probed(NamedTuple):
    """An accuracy of a recipe, one a seed: trained, untrained (may be none); and its target (0: none)."""

    recipe: str
    figure: str
    trained: Sequence[float]
    untrained: Sequence[float]
    target: float


def plot_recipes(rows: Sequence[Probed], path: Path) -> None:
    """Share of wrong answers, logarithmic: dots for the seeds, trained and untrained, and a stroke for the target."""
    figure, axis = plt.subplots(figsize=(7, 0.9 + 0.33 * len(rows)))
    for y, row in enumerate(rows):
        wrong, untrained = [100 * (1 - one) for one in row.trained], [100 * (1 - one) for one in row.untrained]
        if untrained:
            axis.plot([min(untrained), max(wrong)], [y, y], color=GAIN, lw=3, zorder=0)
        axis.plot(
            untrained,
            [y] * len(untrained),
            "o",
            color=UNTRAINED,
            ms=6,
            label="same network, untrained" if untrained else None,
        )
        axis.plot(wrong, [y] * len(wrong), "o", color=TRAINED, ms=6, alpha=0.7, label="trained, one dot a seed")
        if row.target:
            axis.plot([100 * (1 - row.target)], [y], "|", color="#333333", ms=14, label="target, at most")
    axis.set(xscale="log", xlabel="wrong answers on test rows, % (logarithmic)", ylim=(len(rows) - 0.4, -0.6))
    axis.set_yticks(range(len(rows)), [f"{row.recipe}, {row.figure}" for row in rows])
    ticks = [0.5, 1, 2, 5, 10, 20, 50]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.spines[["top", "right"]].set_visible(False)
    found = dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    names, marks = found.keys(), found.values()  # above the rows: no dot is hidden
    axis.legend(marks, names, frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(found))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
