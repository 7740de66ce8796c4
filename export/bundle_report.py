"""The bundle's report.html: what the model is, for people."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from export.figures import TRAVERSAL_REACH, Measured, traversals
from export.graphs import GraphRunner
from latentserve.bundle import Manifest
from latentserve.conformal import at_most
from training.data import Data, ImageShape
from training.evaluation.page import Section, render_report
from training.evaluation.plots import plot_false_alarms, plot_history, plot_images, plot_map, plot_roc, plot_scores
from training.evaluation.probes import nearest_rows
from training.evaluation.report_plots import plot_equivariance, plot_labels_curve, plot_robustness
from training.evaluation.separation import found_rates
from training.evaluation.table import report_table
from training.running.loop import Trained

NUM_IMAGES = 16
NUM_POINTS = 2000
NUM_QUERIES = 8
NUM_NEIGHBOURS = 8


def bundle_report(manifest: Manifest, trained: Trained, data: Data, measured: Measured, runner: GraphRunner) -> str:
    """The page, as HTML."""
    sections = [*_figures(manifest, measured), _training(trained), *_report(data, measured), _map(data, measured)]
    if isinstance(data.shape, ImageShape):
        sections.append(_neighbours(data, measured))
    if "reconstruction" in measured.test:
        sections += [_reconstructions(data, measured), _traversals(measured, runner)]
    if manifest.detectors:
        sections += _scores(manifest, measured)
    sections += [_parity(manifest), _provenance(manifest)]
    return render_report(f"{manifest.name}, version {manifest.version}", sections)


def _figures(manifest: Manifest, measured: Measured) -> list[Section]:
    headings, rows = report_table(measured.metrics)
    note = (
        "Everything runs through the exported graph; labels are used for these figures and for nothing else. Accuracies"
        " in percent, with the standard deviation over draws of labels, seeds or factors. Baselines are what a method"
        " must beat."
    )
    on_report = {metric.name for metric in measured.metrics}
    others = tuple(
        (figure.name.replace("_", " "), figure.data, f"{figure.value:.4f}")
        for figure in manifest.evaluations
        if figure.name not in on_report
    )
    report = [Section("Evaluation report", note, headings, rows)] if rows else []
    return [*report, Section("Other figures", "", ("", "on", "figure"), others)] if others else report


def _report(data: Data, measured: Measured) -> list[Section]:
    where = f"{data.spec} test"
    curve = (
        "This is the accuracy of a linear probe of the frozen embedding by its number of labels. Bars show one standard"
        " deviation over draws of the labels."
    )
    corruption = "The linear probe was fitted on embeddings of clean images and is evaluated on corrupted test images."
    law = (
        "A change g of the image should change the embedding f predictably (left) or not at all (right). An embedding"
        " that is one point gets 0."
    )
    sections = (
        Section("Labels curve", curve, figure=plot_labels_curve(measured.metrics, where)),
        Section("Robustness", corruption, figure=plot_robustness(measured.metrics, where)),
        Section("Equivariance", law, figure=plot_equivariance(measured.metrics, where)),
    )
    return [section for section in sections if section.figure is not None]


def _training(trained: Trained) -> Section:
    note = f"{trained.epochs} epochs in {trained.seconds:.0f} s on {trained.device}."
    return Section("Training", note, figure=plot_history(trained.history))


def _reconstructions(data: Data, measured: Measured) -> Section:
    images = data.test.values[:NUM_IMAGES]
    reconstructions = measured.test["reconstruction"][:NUM_IMAGES]
    rows: list[tuple[str, NDArray[Any]]] = [("input", images), ("reconstruction", reconstructions)]
    return Section("Reconstructions", "Test rows are above, their reconstructions below.", figure=plot_images(rows))


def _traversals(measured: Measured, runner: GraphRunner) -> Section:
    moved = traversals(runner, measured.test["latent"])
    rows: list[tuple[str, NDArray[Any]]] = [(f"{i + 1}.", images) for i, images in enumerate(moved)]
    note = (
        "The first test row is decoded while one latent moves and the others stay. Each line shows one of the latents"
        f" that vary most, from -{TRAVERSAL_REACH:g} to {TRAVERSAL_REACH:g} standard deviations."
    )
    return Section("Latent traversals", note, figure=plot_images(rows))


def _neighbours(data: Data, measured: Measured) -> Section:
    queries = slice(0, NUM_QUERIES)
    nearest = nearest_rows(measured.train["embedding"], measured.test["embedding"][queries], NUM_NEIGHBOURS)
    gap = np.full_like(data.test.values[:1], 255)
    rows = [
        ("", np.concatenate([query[None], gap, data.train.values[found]]))
        for query, found in zip(data.test.values[queries], nearest, strict=True)
    ]
    captions = ["query", "", "nearest", *[str(place + 1) for place in range(1, nearest.shape[1])]]
    note = "A test row is on the left; beside it are the training rows whose embeddings are nearest by cosine."
    return Section("Nearest neighbours", note, figure=plot_images(rows, captions))


def _map(data: Data, measured: Measured) -> Section:
    embeddings = measured.test["embedding"][:NUM_POINTS]
    labels = None if data.test.labels_N is None else data.test.labels_N[: len(embeddings)]
    perplexity = min(30.0, (len(embeddings) - 1) / 3)  # t-SNE needs fewer neighbours than rows
    points = TSNE(perplexity=perplexity, init="random", random_state=0).fit_transform(embeddings)
    note = (
        f"t-SNE of {len(points)} test rows; colours are labels that the model never saw. Near means alike; far means"
        " little."
    )
    return Section("Map of the embedding", note, figure=plot_map(points, labels))


def _scores(manifest: Manifest, measured: Measured) -> list[Section]:
    detector = manifest.detectors[0]
    histogram = Section(
        "Out-of-distribution scores",
        f"Score: {detector.method}. The test rows are in-distribution (ID); the other sets, made from them without a"
        " download, are out-of-distribution (OOD).",
        figure=plot_scores(measured.test["scores"][:, 0], measured.ood),
    )
    scores = {"test": measured.test["scores"][:, 0], **measured.ood}
    note = "The share of OOD rows flagged for each share of ID rows flagged, which has a logarithmic axis."
    curves = Section("ROC curves", note, figure=plot_roc(found_rates(scores)))
    flagged = at_most(measured.p_values, manifest.default_alpha).mean()
    alarms = Section(
        "False alarms",
        f"Scores are calibrated on {detector.num_calibration_rows} rows that neither training nor the detector saw. At"
        f" the default alpha {manifest.default_alpha:g}, {flagged:.2%} of the"
        f" test rows are flagged; the smallest possible p-value is {detector.smallest_p_value:.2g}.",
        figure=plot_false_alarms(measured.p_values),
    )
    return [histogram, curves, alarms]


def _parity(manifest: Manifest) -> Section:
    rows = tuple((one.tensor, f"{one.max_abs_error:.2e} (at most {one.tolerance:.1e})") for one in manifest.parity)
    num = manifest.parity[0].num_rows
    note = f"This is the largest difference between ONNX and the trained model on {num} test rows."
    return Section("Parity", note, rows=rows)


def _provenance(manifest: Manifest) -> Section:
    source = manifest.provenance
    rows = (
        ("method", source.method),
        ("data", source.data),
        ("data sha256", source.data_sha256[:16]),
        ("seed", str(source.seed)),
        ("epochs", str(source.epochs)),
        ("trained", f"{source.trained_seconds:.0f} s on {source.device}"),
        ("git revision", source.git_revision),
        ("made", source.created_at),
        ("embedding space", manifest.embedding_space),
        *((name, value) for name, value in source.versions.items()),
    )
    return Section("Provenance", rows=rows)
