"""Pictures of the evaluation report: the labels curve, bars for robustness and equivariance, baselines beside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.evaluation.corruptions import CORRUPTIONS
from training.evaluation.plots import ACCENT, plain
from training.evaluation.report import METHOD, Metric, labels_name
from training.evaluation.transforms import GENERATORS

BASELINE_COLORS = ("#7f8c8d", "#e0a458", "#c97b4a", "#5f9e6e", "#9b7bb8")
LOWEST_SHARE = -1.0  # invariance has no lower bound: bars end here, the table has the figure


def plot_labels_curve(metrics: Sequence[Metric], data: str, per_class: Sequence[int] = (1, 10, 100)) -> Figure | None:
    """Accuracy against labels per class, up to all of them; None without such figures."""
    names = {labels_name(num): str(num) for num in per_class} | {"linear_probe_accuracy": "all"}
    found = _by_features(metrics, data, names)
    if not any(name != "linear_probe_accuracy" for values in found.values() for name in values):
        return None
    figure, axis = plt.subplots(figsize=(6, 3.6))
    ticks = [name for name in names if any(name in values for values in found.values())]
    for i, ((features, values), color) in enumerate(zip(found.items(), _colors(found), strict=True)):
        shown = [values[name] for name in ticks if name in values]
        beside = (i - (len(found) - 1) / 2) * 0.05  # so that error bars do not hide each other
        places = [ticks.index(metric.name) + beside for metric in shown]
        heights = [metric.value * 100 for metric in shown]
        standard_deviations = [(metric.standard_deviation or 0) * 100 for metric in shown]
        width = 2.2 if features == METHOD else 1.3
        axis.errorbar(
            places, heights, standard_deviations, color=color, lw=width, capsize=3, marker="o", ms=4, label=features
        )
    axis.set(xlabel="labels per class", ylabel="accuracy of the linear probe, %", xticks=range(len(ticks)))
    axis.set_xticklabels([names[name] for name in ticks])
    axis.legend(frameon=False, fontsize=9, loc="lower right")
    plain(axis)
    return figure


def plot_robustness(metrics: Sequence[Metric], data: str) -> Figure | None:
    """Accuracy of the probe trained on clean images, for each corruption; None without such figures."""
    names = {"linear_probe_accuracy": "clean"}
    names |= {f"accuracy_under_{name}": name.replace("_", " and ") for name in CORRUPTIONS}
    found = _by_features(metrics, data, names)
    found = {features: values for features, values in found.items() if len(values) > 1}
    if not found:
        return None
    figure, axis = plt.subplots(figsize=(7, 1.2 + 0.32 * len(names) * max(1, 0.6 * len(found))))
    _bars(axis, found, names, scale=100)
    axis.set(xlabel="accuracy of the linear probe, %", xlim=(0, 106))
    _legend(axis, found)
    figure.tight_layout()
    return figure


def plot_equivariance(metrics: Sequence[Metric], data: str) -> Figure | None:
    """R^2 with and without a linear map, for each change of the image; None without such figures."""
    kinds = {"equivariance": "with a linear map (equivariance)", "invariance": "without (invariance)"}
    found = {kind: _by_features(metrics, data, {f"{kind}_{name}": name for name in GENERATORS}) for kind in kinds}
    if not found["equivariance"]:
        return None
    height = 1.3 + 0.32 * len(GENERATORS) * max(1, 0.6 * len(found["equivariance"]))
    figure, axes = plt.subplots(1, 2, figsize=(9, height), sharey=True)
    for axis, (kind, title) in zip(axes, kinds.items(), strict=True):
        _bars(axis, found[kind], {f"{kind}_{name}": name for name in GENERATORS}, scale=1)
        lowest = min(metric.value for values in found[kind].values() for metric in values.values())
        axis.set_xlim(-1.35 if lowest < 0 else 0, 1.12)
        axis.set_xticks([-1, -0.5, 0, 0.5, 1] if lowest < 0 else [0, 0.25, 0.5, 0.75, 1])
        axis.set_xlabel("share of f(gx) explained")
        axis.set_title(title, fontsize=10)
        axis.axvline(0, color="#b0b8bf", linewidth=1)
    _legend(axes[0], found["equivariance"])
    figure.tight_layout()
    return figure


def _by_features(metrics: Sequence[Metric], data: str, names: dict[str, str]) -> dict[str, dict[str, Metric]]:
    """Metrics of some names on some data, by whose they are and by name; the method last, to be drawn on top."""
    found: dict[str, dict[str, Metric]] = {}
    for metric in metrics:
        if metric.data == data and metric.name in names:
            found.setdefault(metric.features, {})[metric.name] = metric
    return dict(sorted(found.items(), key=lambda item: item[0] == METHOD))


def _colors(found: dict[str, dict[str, Metric]]) -> list[str]:
    baselines = iter(BASELINE_COLORS)
    return [ACCENT if features == METHOD else next(baselines) for features in found]


def _bars(axis: Axes, found: dict[str, dict[str, Metric]], names: dict[str, str], scale: float) -> None:
    """One group of bars for each name, the method's on top of the group."""
    thickness = 0.8 / len(found)
    places = np.arange(len(names))
    for i, ((features, values), color) in enumerate(zip(found.items(), _colors(found), strict=True)):
        widths = [max(values[name].value, LOWEST_SHARE) * scale if name in values else 0 for name in names]
        offset = ((len(found) - 1) / 2 - i) * thickness
        bars = axis.barh(places + offset, widths, thickness * 0.92, color=color, label=features)
        if features == METHOD:
            digits = 1 if scale == 100 else 2
            axis.bar_label(bars, [f"{values[name].value * scale:.{digits}f}" for name in names], padding=3, fontsize=8)
    axis.set_yticks(places, list(names.values()))
    if not axis.yaxis_inverted():
        axis.invert_yaxis()
    plain(axis)


def _legend(axis: Axes, found: dict[str, dict[str, Metric]]) -> None:
    if len(found) > 1:
        axis.figure.legend(
            frameon=False,
            fontsize=9,
            loc="lower center",
            ncols=len(found),
            bbox_to_anchor=(0.5, 1.0),
            handles=axis.get_legend_handles_labels()[0],
        )
