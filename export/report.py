"""The bundle's report.html: what the model is, for people."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from export.evaluate import Measured
from latentserve.bundle import Manifest
from training.data import Data
from training.loop import Trained
from training.report import (
    Section,
    plot_false_alarms,
    plot_history,
    plot_images,
    plot_map,
    plot_scores,
    render_report,
)

NUM_IMAGES = 16
NUM_POINTS = 2000


def bundle_report(manifest: Manifest, trained: Trained, data: Data, measured: Measured) -> str:
    """The page, as HTML."""
    sections = [_figures(manifest), _training(trained)]
    if "reconstruction" in measured.test:
        sections.append(_reconstructions(data, measured))
    sections.append(_map(data, measured))
    if manifest.detectors:
        sections += _scores(manifest, measured)
    sections += [_parity(manifest), _provenance(manifest)]
    return render_report(f"{manifest.name}, version {manifest.version}", sections)


def _figures(manifest: Manifest) -> Section:
    rows = tuple(
        (f"{figure.name.replace('_', ' ')} ({figure.data})", f"{figure.value:.4f}") for figure in manifest.evaluations
    )
    note = "Probes and scores run through the exported graphs; labels are used for nothing else than these figures."
    return Section("Figures", note, rows)


def _training(trained: Trained) -> Section:
    note = f"{trained.epochs} epochs in {trained.seconds:.0f} s on {trained.device}."
    return Section("Training", note, figure=plot_history(trained.history))


def _reconstructions(data: Data, measured: Measured) -> Section:
    images = data.test.values[:NUM_IMAGES]
    reconstructions = measured.test["reconstruction"][:NUM_IMAGES]
    rows: list[tuple[str, NDArray[Any]]] = [("input", images), ("reconstruction", reconstructions)]
    return Section("Reconstructions", "Test rows above, what the model kept of them below.", figure=plot_images(rows))


def _map(data: Data, measured: Measured) -> Section:
    embeddings = measured.test["embedding"][:NUM_POINTS]
    points = PCA(2, random_state=0).fit_transform(embeddings)
    labels = None if data.test.labels_N is None else data.test.labels_N[: len(points)]
    note = f"The first two principal components of {len(points)} test rows; colours are labels the model never saw."
    return Section("Map of the embedding", note, figure=plot_map(points, labels))


def _scores(manifest: Manifest, measured: Measured) -> list[Section]:
    detector = manifest.detectors[0]
    histogram = Section(
        "Out-of-distribution scores",
        f"{detector.method}. Usual test rows against sets made without a download.",
        figure=plot_scores(measured.test["scores"][:, 0], measured.strange),
    )
    alarms = Section(
        "False alarms",
        f"Calibrated on {detector.num_calibration_rows} rows that neither training nor the detector saw. At the"
        f" default alpha {manifest.default_alpha:g}, {np.mean(measured.p_values <= manifest.default_alpha):.2%} of the"
        f" test rows are flagged; the smallest possible p-value is {detector.smallest_p_value:.2g}.",
        figure=plot_false_alarms(measured.p_values),
    )
    return [histogram, alarms]


def _parity(manifest: Manifest) -> Section:
    rows = tuple((one.tensor, f"{one.max_abs_error:.2e} (at most {one.tolerance:.1e})") for one in manifest.parity)
    num = manifest.parity[0].num_rows
    return Section("Parity", f"Largest difference between ONNX and the trained model on {num} test rows.", rows)


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
