"""Everything else that was measured, folded: for who wants to know more."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from export.draft import Training
from export.figures import TRAVERSAL_REACH, Measured, traversals
from export.graphs import GraphRunner
from export.origin import Imported, Origin
from export.report.alarms import band
from export.report.confusion import neighbours
from export.report.insides import insides
from export.report.pictures import picture, strip
from latentserve.bundle import Detector, Manifest
from latentserve.conformal import at_most
from training.data import Data
from training.evaluation.page import Section
from training.evaluation.plots import plot_false_alarms, plot_history, plot_map, plot_roc, plot_scores
from training.evaluation.report import has_classes
from training.evaluation.report_plots import plot_equivariance, plot_labels_curve, plot_robustness
from training.evaluation.separation import found_rates
from training.evaluation.table import report_table

NUM_IMAGES, IN_LINE = 16, 8
NUM_POINTS = 2000


def details(manifest: Manifest, training: Training, measured: Measured, runner: GraphRunner) -> list[Section]:
    """The sections, in their order."""
    origin, data = training.origin, training.data
    sections = [*_figures(manifest, measured), *_training(origin), *_report(data, measured), _map(data, measured)]
    if has_classes(data) and data.sample_rate_hz is None:
        sections.append(_neighbours(data, measured))
    if "reconstruction" in measured.test:
        sections += [_reconstructions(data, measured), _traversals(measured, runner)]
    sections += insides(training, measured)
    if manifest.detectors:
        sections += _scores(manifest, measured)
    return [*sections, _parity(manifest), _provenance(manifest, origin)]


def _figures(manifest: Manifest, measured: Measured) -> list[Section]:
    headings, rows = report_table(measured.metrics)
    note = (
        "Everything runs through the exported graph; labels are used for these figures and for nothing else. Accuracies"
        " in percent, with the standard deviation over draws of labels, seeds or factors. Baselines are what a method"
        " must beat."
    )
    on_report = {metric.name for metric in measured.metrics}
    others = tuple(
        (figure.name.replace("_", " "), f"{figure.value:.4f}", figure.data)
        for figure in manifest.evaluations
        if figure.name not in on_report
    )
    report = [Section("Evaluation report", note, headings, rows)] if rows else []
    return [*report, Section("Other figures", "", ("", "figure", "on"), others)] if others else report


def _report(data: Data, measured: Measured) -> list[Section]:
    where = f"{data.spec} test"
    curve = (
        "This is the accuracy of a linear probe of the frozen embedding by its number of labels. Bars show one standard"
        " deviation over draws of the labels."
    )
    corruption = "The linear probe was fitted on embeddings of clean images and is evaluated on corrupted test images."
    law = (
        "A change g of the image should change the embedding f predictably (left) or not at all (right). 1 is all of"
        " it, 0 no better than the mean embedding, and below 0 worse than that: with few rows for many dimensions a"
        " linear map fits training rows and no others, so that figures far below 0 say little about the model."
    )
    sections = (
        Section("Labels curve", curve, figure=plot_labels_curve(measured.metrics, where)),
        Section("Robustness", corruption, figure=plot_robustness(measured.metrics, where)),
        Section("Equivariance", law, figure=plot_equivariance(measured.metrics, where)),
    )
    return [section for section in sections if section.figure is not None]


def _training(origin: Origin) -> list[Section]:
    if isinstance(origin, Imported):
        return []
    trained = origin.trained
    note = f"{trained.epochs} epochs in {trained.seconds:.0f} s on {trained.device}."
    return [Section("Training", note, figure=plot_history(trained.history))]


def _reconstructions(data: Data, measured: Measured) -> Section:
    body = []
    for start in range(0, min(NUM_IMAGES, len(data.test)), IN_LINE):
        rows = range(start, min(start + IN_LINE, len(data.test)))
        body.append(strip([picture(data.test.values[row], f"test row {row}") for row in rows]))
        reconstructed = measured.test["reconstruction"]
        body.append(strip([picture(reconstructed[row], f"reconstruction of test row {row}") for row in rows]))
    return Section("Reconstructions", "Test rows are above, their reconstructions below.", body=tuple(body))


def _traversals(measured: Measured, runner: GraphRunner) -> Section:
    note = (
        "The first test row is decoded while one latent moves and the others stay. Each line shows one of the latents"
        f" that vary most, from -{TRAVERSAL_REACH:g} to {TRAVERSAL_REACH:g} standard deviations."
    )
    moved: list[NDArray[Any]] = [*traversals(runner, measured.test["latent"])]
    lines = [
        strip([picture(one, f"latent {place}, step {step}") for step, one in enumerate(images, 1)], widest=4.5)
        for place, images in enumerate(moved, 1)
    ]
    return Section("Latent traversals", note, body=tuple(lines))


def _neighbours(data: Data, measured: Measured) -> Section:
    note = "A test row is on the left; beside it are the training rows whose embeddings are nearest by cosine."
    return Section("Nearest neighbours", note, body=neighbours(data, measured))


def _map(data: Data, measured: Measured) -> Section:
    embeddings = measured.test["embedding"][:NUM_POINTS]
    labels = None if data.test.labels_N is None else data.test.labels_N[: len(embeddings)]
    perplexity = min(30.0, (len(embeddings) - 1) / 3)  # t-SNE needs fewer neighbours than rows
    points = TSNE(perplexity=perplexity, init="random", random_state=0).fit_transform(embeddings)
    of_labels = "; colours are labels that the model never saw" if labels is not None else ""
    note = f"t-SNE of {len(points)} test rows{of_labels}. Near means alike; far means little."
    named = () if labels is None else tuple(data.test.name_of(int(label)) for label in np.unique(labels))
    return Section("Map of the embedding", note, figure=plot_map(points, labels, named))


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
    num = detector.num_calibration_rows
    levels = np.arange(1, 100) / 100
    alarms = Section(
        "False alarms",
        f"Scores are calibrated on {num} rows {_how(detector)}. At the default alpha"
        f" {manifest.default_alpha:g}, {flagged:.2%} of the test rows are flagged; the smallest possible p-value is"
        f" {detector.smallest_p_value:.2g}. The band holds the share of in-distribution rows flagged for 95 % of"
        " calibration sets of this size.",
        figure=plot_false_alarms(measured.p_values, levels, np.array([band(num, level) for level in levels])),
    )
    return [*_deciding(manifest, measured.spared), histogram, curves, alarms]


def _deciding(manifest: Manifest, spared: str) -> list[Section]:
    """What the weights of the detectors rest on; nothing in bundles where that was not measured."""
    if all(detector.power is None for detector in manifest.detectors):
        return []
    note = (
        f"{manifest.detectors[0].name} decides. Power is the area under the ROC curve (AUROC) of a detector's score, of"
        " training rows that were damaged on purpose (pieces moved, scars, spots, noise, another colour or form)"
        " against such rows as they were; 0.5 is chance. Weight is its share in the weighted mean. No real fault and no"
        " out-of-distribution row was looked at."
    )
    if spared:
        note += f" {spared}."
    rows = tuple(
        (
            one.name,
            "" if one.power is None else f"{one.power:.3f}",
            f"{one.weight:.1%}" if one.weight else "",
            one.method,
        )
        for one in manifest.detectors
    )
    return [Section("Which detector decides", note, ("detector", "power", "weight", "score"), rows)]


def _how(detector: Detector) -> str:
    if detector.calibration == "split":
        return "that neither training nor the detector saw"
    return "that detectors were fitted on, too, each scored by a fit without its fold (cross-conformal)"


def _parity(manifest: Manifest) -> Section:
    rows = tuple((one.tensor, f"{one.max_abs_error:.2e} (at most {one.tolerance:.1e})") for one in manifest.parity)
    num = manifest.parity[0].num_rows
    note = f"This is the largest difference between ONNX and the trained model on {num} test rows."
    return Section("Parity", note, rows=rows)


def _provenance(manifest: Manifest, origin: Origin) -> Section:
    source = manifest.provenance
    if isinstance(origin, Imported):
        made = [("source", origin.source), ("weights sha256", origin.weights_sha256)]
    else:
        made = [("epochs", str(source.epochs)), ("trained", f"{source.trained_seconds:.0f} s on {source.device}")]
    rows = (
        ("method", source.method),
        ("data", source.data),
        ("data sha256", source.data_sha256[:16]),
        ("seed", str(source.seed)),
        *made,
        ("git revision", source.git_revision),
        ("made", source.created_at),
        ("embedding space", manifest.embedding_space),
        *((name, value) for name, value in source.versions.items()),
    )
    return Section("Provenance", rows=rows)
