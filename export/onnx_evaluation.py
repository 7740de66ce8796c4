"""The evaluation report of a bundle, measured through the encoder's exported graph."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.draft import Draft
from export.graphs import GraphRunner
from export.origin import read_config
from latentserve import bundle
from latentserve.bundle import Graph
from training.data.rows import Values
from training.evaluation.baselines import Encode
from training.evaluation.comparison import ReportOptions, baseline_report, baselines_of, make_report
from training.evaluation.other_data import in_shape_of
from training.evaluation.report import QUICK, EvaluationReport, Part, evaluation_report, remembering
from training.running.run import Run

QUICK_BASELINES: dict[str, tuple[Part, ...]] = {
    "pixels": ("labels",),  # as they have many dimensions, the probe would take longer than all the rest
    "PCA-16": ("probes", "groups", "labels", "disentanglement"),
    "random init": ("probes", "groups", "labels", "disentanglement"),
}


def evaluate_bundle(folder: Path, spec: str | None, options: ReportOptions) -> EvaluationReport:
    """The whole evaluation report of a bundle, which is left as it is.

    Raises:
        BundleError: not a bundle, or changed since it was made.
        RunError: its provenance is no training run of ours and no import, or its data changed.
        DataError: the data cannot be loaded.
    """
    started = time.monotonic()
    folder = folder.resolve()
    manifest = bundle.load(folder)
    origin = read_config(manifest.provenance, folder)
    data = (
        origin.load_data() if spec in (None, origin.data) else in_shape_of(origin, spec)
    )  # its own is split as it was
    graph = manifest.graphs["encoder"]
    metrics = make_report(graph_encoder(folder, graph), origin, data, options, latent_encoder(folder, graph))
    return EvaluationReport(
        graph.file, manifest.files[graph.file], round(time.monotonic() - started, 1), tuple(metrics)
    )


def exported_report(draft: Draft, train_ND: NDArray[np.float32], test_ND: NDArray[np.float32]) -> EvaluationReport:
    """The evaluation report of a bundle in the making, whose training and test rows were encoded already."""
    started = time.monotonic()
    folder, graph, data = draft.folder, draft.graphs["encoder"], draft.training.data
    origin = draft.training.config
    encode = remembering(graph_encoder(folder, graph), (data.train.values, train_ND), (data.test.values, test_ND))
    if draft.choices.report == "full":
        metrics = make_report(encode, origin, data, ReportOptions(baselines=True), latent_encoder(folder, graph))
    else:
        metrics = evaluation_report(encode, data, QUICK, latent=latent_encoder(folder, graph))
        for name in baselines_of(data, trained_here=isinstance(origin, Run)):
            if name in QUICK_BASELINES:
                metrics += baseline_report(name, origin, data, replace(QUICK, parts=QUICK_BASELINES[name]))
    seconds = round(time.monotonic() - started, 1)
    return EvaluationReport(graph.file, bundle.sha256_of_file(folder / graph.file), seconds, tuple(metrics))


def graph_encoder(folder: Path, graph: Graph, tensor: str = "embedding") -> Encode:
    """Rows to embeddings, or to another output, through the encoder's graph alone."""
    runner = GraphRunner(folder, [graph])

    def encode(rows: Values) -> NDArray[np.float32]:
        return runner.run(rows)[tensor]

    return encode


def latent_encoder(folder: Path, graph: Graph) -> Encode | None:
    """Rows to latents, where the graph has them."""
    has_latents = any(spec.name == "latent" for spec in graph.outputs)
    return graph_encoder(folder, graph, "latent") if has_latents else None
