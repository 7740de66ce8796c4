"""Is it trained: the loss, and its figures beside those of the same network before training.

Of an encoder that was trained elsewhere there is neither: where it came from stands there, and baselines beside it.

Shape legend: N rows, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

from export.draft import Training
from export.figures import Measured
from export.graphs import GraphRunner
from export.origin import Imported, TrainedRun
from export.report.words import percent
from latentserve.inputs import INPUT
from training.data import ImageShape
from training.data.lazy import batch_rows, parts_of
from training.data.rows import Values
from training.evaluation.baselines import Encode
from training.evaluation.page import Html, Section, chart, element, table
from training.evaluation.plots import plot_loss
from training.evaluation.probes import nearest_rows
from training.evaluation.report import METHOD, Metric, has_classes, some_rows
from training.evaluation.torch_encoders import torch_encoder, untrained
from training.evaluation.transforms import GENERATORS

UNTRAINED = "random init"
BESIDE = {METHOD: "this model", UNTRAINED: "untrained network", "PCA-16": "16 principal components"}
SHOWN = {
    "linear_probe_accuracy": "class found by a linear probe",
    "knn_20_accuracy": "class found by 20 neighbours",
    "leave_one_group_out_accuracy": "class found in a group not fitted on",
}
CHANGES = {
    "shift": "shifted by a fourteenth",
    "rotate": "turned by 15 degrees",
    "flip": "mirrored",
    "scale": "shrunk to four fifths",
    "brighten": "brighter by a fifth",
}
NUM_RECOGNISED = 100
"""Held-out images; more would take long with a large network, which encodes each a dozen times."""
NO_LICENCE = "Its source says nothing of its licence: find out what you may do with it."
TITLE, TITLE_OF_IMPORT = "Is it trained?", "Where it comes from, and whether it fits"


def learning(training: Training, measured: Measured, runner: GraphRunner, encoder_file: str) -> Section:
    """The curve, and what can be said with labels or without."""
    data, origin = training.data, training.origin
    if isinstance(origin, Imported):
        return _imported(origin, training, measured, runner, encoder_file)
    trained = origin.trained
    losses = [row["loss"] for row in trained.history if "loss" in row]
    note = (
        f"The loss of each epoch: {losses[0]:.4g} after the first, {losses[-1]:.4g} after the last." if losses else ""
    )
    if has_classes(data):
        headings, rows, said = _with_labels(measured.metrics, len(data.test))
    elif isinstance(data.shape, ImageShape):
        headings, rows, said = _without_labels(training, runner, encoder_file)
    else:
        said = (
            "These sounds have no labels, so the curve is all there is to go by here: a loss that falls says that the"
            " training's own task is solved better, not that the embedding suits yours."
        )
        headings, rows = (), ()
    beside = [table(headings, rows, TITLE)] if rows else []
    return Section(TITLE, note, body=(chart(plot_loss(trained.history), "the loss of each epoch"), said, *beside))


def _imported(
    origin: Imported, training: Training, measured: Measured, runner: GraphRunner, encoder_file: str
) -> Section:
    """Its source, and what can be said of it with labels or without."""
    data = training.data
    note = (
        f"It was trained elsewhere and taken from {origin.source}; its weights have the sha256"
        f" {origin.weights_sha256}. So there is no curve of a loss here, and no network before its training to compare"
        " with."
    )
    licence = origin.licence.strip()
    told = f"Its licence, as far as its source says: {licence.splitlines()[0]}" if licence else NO_LICENCE
    whole = [_folded("The whole licence", licence)] if "\n" in licence else []
    if has_classes(data):
        headings, rows, said = _with_labels(measured.metrics, len(data.test))
    elif isinstance(data.shape, ImageShape):
        headings, rows, said = _without_labels(training, runner, encoder_file)
    else:
        headings, rows, said = (), (), "These sounds have no labels, so whether it fits them cannot be measured here."
    beside = [table(headings, rows, TITLE_OF_IMPORT)] if rows else []
    return Section(TITLE_OF_IMPORT, note, body=(told, *whole, said, *beside))


def _with_labels(metrics: Sequence[Metric], num_test: int) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...], str]:
    found = {(one.features, one.name): one.value for one in metrics if one.name in SHOWN}
    columns = [name for name in BESIDE if any(features == name for features, _ in found)]
    rows = tuple(
        (said, *(_percent(found.get((features, name))) for features in columns))
        for name, said in SHOWN.items()
        if (METHOD, name) in found
    )
    own, before = (found.get((features, "linear_probe_accuracy")) for features in (METHOD, UNTRAINED))
    said = "Classes that can be read from the embedding, in percent of held-out rows."
    if own is not None and before is not None:
        chance = 1.96 * sqrt((own * (1 - own) + before * (1 - before)) / num_test)
        points = f"{100 * abs(own - before):.1f}"
        side = "as good as" if points == "0.0" else f"{points} points {'above' if own > before else 'below'}"
        said += (
            f" By the linear probe the trained network is {side} the same network with random weights; with"
            f" {num_test:,} rows about {100 * chance:.1f} points can be chance."
        )
    return ("in percent", *(BESIDE[name] for name in columns)), rows, said


def _without_labels(
    training: Training, runner: GraphRunner, encoder_file: str
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...], str]:
    rows = np.asarray(some_rows(training.data.test, NUM_RECOGNISED).values)
    encoder = runner.sessions[encoder_file]

    def own(values: Values) -> np.ndarray:
        parts = parts_of(values, batch_rows(values))
        return np.concatenate([encoder.run(["embedding"], {INPUT: part})[0] for part in parts])

    changed = {name: change(rows) for name, change in GENERATORS.items()}
    encoders: dict[str, Encode] = {BESIDE[METHOD]: own}
    if isinstance(training.origin, TrainedRun):
        encoders[BESIDE[UNTRAINED]] = torch_encoder(untrained(training.origin.run))
    found = {name: recognised(encode, rows, changed) for name, encode in encoders.items()}
    said = (
        "There are no labels, so whether the embedding tells your kinds apart cannot be measured. What can be: each of"
        f" {len(rows):,} held-out images is changed a little, and the table shows how often the changed one is nearest"
        f" to itself among all {len(rows):,}; by chance {percent(1 / len(rows))}. Whether a change should matter"
        " depends on your images: a model may rightly tell a mirrored one from its original."
    )
    table = tuple((CHANGES[name], *(_percent(one[name]) for one in found.values())) for name in GENERATORS)
    return ("found again, in percent", *found), table, said


def recognised(encode: Encode, rows: Values, changed: dict[str, Values]) -> dict[str, float]:
    """For each change the share of images whose changed copy is nearer, by cosine, to itself than to any other."""
    bank_ND = encode(rows)
    itself = np.arange(len(rows))
    return {
        name: float((nearest_rows(bank_ND, encode(rows_of_change), 1)[:, 0] == itself).mean())
        for name, rows_of_change in changed.items()
    }


def _folded(title: str, text: str) -> Html:
    return element("details", element("summary", title), element("pre", text, style="white-space: pre-wrap"))


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
