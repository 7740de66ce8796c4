"""The picture of the serving benchmark, as SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

OURS, THEIRS, CEILING = "#1f77b4", "#b0b8bf", "#e3e7ea"


def plot_serving(results: dict[str, Any], path: Path) -> None:
    """Images a second by server, one panel for each encoder and scenario that all of them ran."""
    panels = [
        (name, scenario) for name in ("small", "r18") for scenario in ("1 image x 32 clients", "8 images x 8 clients")
    ]
    figure, axes = plt.subplots(2, 2, figsize=(8, 5.5))  # narrow: a phone shows its words, too
    for axis, (name, scenario) in zip(axes.flat, panels, strict=True):
        rows = {server: scenarios[scenario] for server, scenarios in results[name].items() if scenario in scenarios}
        servers = list(rows)[::-1]
        values = [rows[server]["images_per_second"] for server in servers]
        colors = [OURS if "latentserve" in s else CEILING if "alone" in s else THEIRS for s in servers]
        bars = axis.barh(servers, values, color=colors)
        axis.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, fontsize=9)
        axis.set(title=f"{name}: {scenario}", xlabel="images a second")
        axis.margins(x=0.22)
        axis.locator_params(axis="x", nbins=4)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
