"""Pictures of a report: histories, images, scores, ROC curves, false alarms and maps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import ColorType

from latentserve import records

INK, ACCENT, OOD = "#22313f", "#1f77b4", ("#d62728", "#ff7f0e", "#9467bd", "#8c564b")

MOST_COLORS = 20


def plot_loss(history: Sequence[dict[str, float]]) -> Figure:
    """The loss per epoch, large enough for a phone; what else was logged where a method logs no one loss."""
    if not all("loss" in row for row in history):
        return plot_history(history)
    figure, axis = plt.subplots(figsize=(5.6, 2.6))
    epochs = [row["epoch"] + 1 for row in history]
    axis.plot(epochs, [row["loss"] for row in history], color=ACCENT, marker="o" if len(epochs) < 20 else "", ms=4)
    axis.set(xlabel="epoch", ylabel="loss")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain(axis)
    return figure


def plot_history(history: Sequence[dict[str, float]]) -> Figure:
    """One small plot for each thing that was logged per epoch, three in a line."""
    names = [name for name in history[0] if name != "epoch"]
    columns = min(len(names), 3)
    lines = -(-len(names) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.4 * columns, 2.6 * lines), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        axis.plot([row["epoch"] + 1 for row in history], [row[name] for row in history], color=ACCENT)
        axis.set(title=name.replace("_", " "), xlabel="epoch")
        plain(axis)
    figure.tight_layout()
    return figure


def plot_images(rows: Sequence[tuple[str, NDArray[Any]]], captions: Sequence[str] = ()) -> Figure:
    """Rows of images under each other, drawn as one picture: an axis for each image would take seconds.

    Args:
        rows: a name and images [n, H, W, C], uint8 or 0 to 1, for each row; all of one size.
        captions: one for each column, under the last row.
    """
    height, width = rows[0][1].shape[1:3]
    gap = max(1, height // 12)
    columns = max(len(images) for _, images in rows)
    mosaic_HWC = np.ones((len(rows) * (height + gap), columns * (width + gap), 3), np.float32)
    for row, (_, images) in enumerate(rows):
        for column, image_HWC in enumerate(images):
            top, left = row * (height + gap), column * (width + gap)
            mosaic_HWC[top : top + height, left : left + width] = _unit(image_HWC)
    figure, axis = plt.subplots(figsize=(0.75 * columns, 0.8 * len(rows)))
    axis.imshow(mosaic_HWC, interpolation="nearest")
    centres = [
        (np.arange(num) * (size + gap) + (size - 1) / 2).tolist()
        for num, size in ((columns, width), (len(rows), height))
    ]
    axis.set_xticks(centres[0][: len(captions)], captions, fontsize=7)
    axis.set_yticks(centres[1], [name for name, _ in rows], fontsize=9)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


def _unit(image_HWC: NDArray[Any]) -> NDArray[Any]:
    """Pixels 0 to 1; a grey image is broadcast over three channels."""
    return image_HWC / np.float32(255) if image_HWC.dtype == np.uint8 else np.clip(image_HWC, 0, 1)


def plot_scores(id_scores: NDArray[Any], ood: dict[str, NDArray[Any]]) -> Figure:
    """Histograms of the scores of ID rows and of OOD sets; scores that are far out lie in the last bin."""
    figure, axis = plt.subplots(figsize=(8, 3))
    everything = np.nan_to_num(np.concatenate([id_scores, *ood.values()]))
    low = everything.min()
    high = min(everything.max(), id_scores.max() + 1.5 * (id_scores.max() - low))
    bins = np.linspace(low, high if high > low else low + 1, 80).tolist()
    axis.hist(np.clip(id_scores, low, bins[-1]), bins, color=ACCENT, alpha=0.8, label="ID (test)")
    for color, (name, scores) in zip(_ood_colors(ood), ood.items(), strict=True):
        clipped = np.clip(np.nan_to_num(scores, nan=high), low, bins[-1])
        axis.hist(clipped, bins, histtype="step", linewidth=1.6, color=color, label=name)
    axis.set(xlabel="score (larger: further out of distribution)", ylabel="rows", yscale="log")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    plain(axis)
    figure.tight_layout()
    return figure


def plot_roc(rates: dict[str, tuple[NDArray[Any], NDArray[Any]]]) -> Figure:
    """One curve for each OOD set: the share of it that is flagged, for each share of ID rows (logarithmic)."""
    figure, axis = plt.subplots(figsize=(6.4, 3.6))
    for color, (name, (alarms, found)) in zip(_ood_colors(rates), rates.items(), strict=True):
        axis.plot(alarms, found, color=color, label=name)
    chance = np.geomspace(1e-4, 1, 50)
    axis.plot(chance, chance, color="#b0b8bf", linewidth=1)
    lowest = min(0.1, *(alarms[0] for alarms, _ in rates.values()))  # 1 where all rows are alike
    axis.set(xscale="log", xlim=(lowest, 1), ylim=(0, 1.02), xlabel="ID rows flagged", ylabel="OOD rows flagged")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    plain(axis)
    figure.tight_layout()
    return figure


def _ood_colors(sets: Collection[str]) -> list[ColorType]:
    if len(sets) <= len(OOD):
        return list(OOD[: len(sets)])
    return [plt.get_cmap("turbo")(place) for place in np.linspace(0.05, 0.95, len(sets))]


def plot_false_alarms(p_values: NDArray[Any], band_levels: NDArray[Any], band_L2: NDArray[Any]) -> Figure:
    """Share of test rows flagged at every level alpha: calibrated scores lie on the diagonal, near it by chance.

    Args:
        p_values: of the test rows.
        band_levels: levels [L] of the band.
        band_L2: where the share may lie at each of them.
    """
    figure, axis = plt.subplots(figsize=(4, 3.4))
    levels = np.arange(201) / 200  # by division, or a p-value of 3/20 would lie above the level 0.15
    axis.plot([0, 1], [0, 1], color="#b0b8bf", linewidth=1)
    axis.fill_between(band_levels, *band_L2.T, color=ACCENT, alpha=0.18, linewidth=0)
    axis.plot(levels, [(p_values <= level).mean() for level in levels], color=ACCENT)
    axis.set(xlabel="alpha", ylabel="share of test rows flagged", xlim=(0, 1), ylim=(0, 1))
    plain(axis)
    return figure


def plot_map(points_N2: NDArray[Any], labels_N: NDArray[Any] | None, names: Sequence[str] = ()) -> Figure:
    """A 2-D map of embeddings, coloured by label where there are any; `names` of the labels, in their order."""
    figure, axis = plt.subplots(figsize=(6.4, 5))
    x_N, y_N = points_N2.T
    classes = [] if labels_N is None else np.unique(labels_N).tolist()
    if not 0 < len(classes) <= MOST_COLORS:
        axis.scatter(x_N, y_N, c=labels_N, cmap="viridis" if classes else None, s=6, alpha=0.7)
    else:
        colors = plt.get_cmap("tab10" if len(classes) <= 10 else "tab20")
        for i, label in enumerate(classes):
            axis.scatter(
                x_N[labels_N == label],
                y_N[labels_N == label],
                s=6,
                alpha=0.7,
                color=colors(i),
                label=_plain_text(names[i] if names else label),
            )
        axis.legend(frameon=False, title="label", markerscale=2.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    return figure


def _plain_text(name: object) -> str:
    """A name that may hold anything: dollars are no formula, an underscore in front hides nothing."""
    text = records.printable(str(name)).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def plain(axis: Axes) -> None:
    """Without a frame."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors=INK)
