"""`python -m export evaluate BUNDLE`: the report card through the exported graph, the one that counts.

A bundle is never changed once it is published, and its report card is one of its hashed files. So every export writes
a quick card into the new bundle, `python -m export RUN --card full` the whole of it, and this command only reads: it
prints, and writes JSON where it is told to.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from export.graphs import GraphRunner
from latentserve import bundle, records
from latentserve.bundle import Graph
from latentserve.errors import BundleError
from training.data import Data
from training.data.loading import check_spec
from training.evaluation.baselines import Encode
from training.evaluation.command import ReportOptions, baseline_report, baselines_of, in_shape_of, make_report
from training.evaluation.report import QUICK, EvaluationReport, Part, evaluation_report, remembering
from training.evaluation.table import print_report
from training.options import check_new_file, check_options, in_words
from training.running.run import Run, RunError

ReportSize = Literal["none", "quick", "full"]
QUICK_BASELINES: dict[str, tuple[Part, ...]] = {
    "pixels": ("labels",),  # as they have many dimensions, the probe would take longer than all the rest
    "PCA-16": ("probes", "groups", "labels", "disentanglement"),
    "random init": ("probes", "groups", "labels", "disentanglement"),
}


@dataclass(frozen=True)
class Options:
    """Measures a bundle through its encoder's graph.

    Attributes:
        bundle: folder of it, <repository>/<name>/<version>.
        data: what to measure it on instead of the data it was trained on.
        json: file for the figures; none is written by default.
    """

    bundle: Annotated[Path, tyro.conf.Positional]
    data: str | None = None
    json: Path | None = None
    report: Annotated[ReportOptions, tyro.conf.arg(name="")] = field(default_factory=ReportOptions)


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    try:
        options = tyro.cli(Options, args=arguments, prog="python -m export evaluate")
        check_options(options)
        check_new_file("json", options.json)
        for spec in (options.data, options.report.transfer):
            if spec is not None:
                check_spec(spec)
        report = evaluate_bundle(options.bundle, options.data, options.report)
    except (BundleError, ValueError, OSError, MemoryError) as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 1
    print_report(report.metrics, f"{options.bundle} (through ONNX)")
    if options.json is not None:
        records.write(report, options.json)
        print(records.printable(str(options.json)))
    return 0


def evaluate_bundle(folder: Path, spec: str | None, options: ReportOptions) -> EvaluationReport:
    """The whole card of a bundle, which is left as it is.

    Raises:
        BundleError: not a bundle, or changed since it was made.
        RunError: its provenance is no training run of ours, or its data changed.
        DataError: the data cannot be loaded.
    """
    started = time.monotonic()
    folder = folder.resolve()
    manifest = bundle.load(folder)
    try:
        run = records.from_json(Run, manifest.provenance.config)
    except records.RecordError as error:
        raise RunError(f"{folder}: provenance.config: {error}") from error
    data = run.load_data() if spec is None else in_shape_of(run, spec)
    graph = manifest.graphs["encoder"]
    metrics = make_report(graph_encoder(folder, graph), run, data, options, latent_encoder(folder, graph))
    return EvaluationReport(
        graph.file, manifest.files[graph.file], round(time.monotonic() - started, 1), tuple(metrics)
    )


def exported_report(
    folder: Path,
    graph: Graph,
    run: Run,
    data: Data,
    train_ND: NDArray[np.float32],
    test_ND: NDArray[np.float32],
    size: ReportSize,
) -> EvaluationReport:
    """The card of a bundle in the making, whose training and test rows were encoded already."""
    started = time.monotonic()
    encode = remembering(graph_encoder(folder, graph), (data.train.values, train_ND), (data.test.values, test_ND))
    if size == "full":
        metrics = make_report(encode, run, data, ReportOptions(baselines=True), latent_encoder(folder, graph))
    else:
        metrics = evaluation_report(encode, data, QUICK, latent=latent_encoder(folder, graph))
        for name in baselines_of(data):
            if name in QUICK_BASELINES:
                metrics += baseline_report(name, run, data, replace(QUICK, parts=QUICK_BASELINES[name]))
    seconds = round(time.monotonic() - started, 1)
    return EvaluationReport(graph.file, bundle.sha256_of_file(folder / graph.file), seconds, tuple(metrics))


def graph_encoder(folder: Path, graph: Graph, tensor: str = "embedding") -> Encode:
    """Rows to embeddings, or to another output, through the encoder's graph alone."""
    runner = GraphRunner(folder, [graph])

    def encode(rows: NDArray[Any]) -> NDArray[np.float32]:
        return runner.run(rows)[tensor]

    return encode


def latent_encoder(folder: Path, graph: Graph) -> Encode | None:
    """Rows to latents, where the graph has them."""
    has_latents = any(spec.name == "latent" for spec in graph.outputs)
    return graph_encoder(folder, graph, "latent") if has_latents else None
