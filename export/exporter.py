"""Writes a bundle: graphs, parity, calibration, golden rows, figures, report, manifest.

Everything is written to a hidden folder beside the target (`export.versions`), which is renamed when all of it is
there: a service that watches the repository never meets half a bundle, and a failed export leaves nothing behind.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.bundle_report import bundle_report
from export.calibration import Promise, calibrate, can_score
from export.commands.evaluate import ReportSize, exported_report
from export.detectors import Scorer
from export.figures import evaluate
from export.graphs import (
    EXAMPLE_ROWS,
    PROVIDERS,
    DecoderGraph,
    Device,
    EncoderGraph,
    ExportError,
    GraphRunner,
    encoder_outputs,
    export_graph,
)
from export.half import halve
from export.parity import check_parity, trained_tensors
from export.provenance import from_training, input_of, provenance
from export.quantise import quantise
from export.versions import next_version
from latentserve import bundle, records
from latentserve.bundle import Detector, Graph, Manifest, Parity, Precision
from latentserve.inputs import INPUT
from training.data import Data
from training.evaluation.command import EVALUATION
from training.options import check_new_folder
from training.running.loop import Trained
from training.running.run import Run, load_model, open_run

GOLDEN_ROWS = 8
PARITY_ROWS = 256


@dataclass(frozen=True)
class Draft:
    """A bundle in the making: its folder, the model, and what has been written so far."""

    folder: Path
    model: Any
    graphs: dict[str, Graph]
    precision: Precision
    promise: Promise
    device: Device = "cpu"
    scorer: Scorer | None = None
    detectors: tuple[Detector, ...] = ()

    @property
    def runner(self) -> GraphRunner:
        """The graphs so far, where the bundle will be served."""
        return GraphRunner(self.folder, self.graphs.values(), self.device)


def export_run(
    run_folder: Path,
    repository: Path,
    name: str | None = None,
    report: ReportSize = "quick",
    precision: Precision = "float32",
    promise: Promise = Promise(),  # noqa: B008 (frozen)
    device: Device = "cpu",
) -> Path:
    """Exports a finished training run as the next version of a model.

    Args:
        run_folder: of the run.
        repository: where models lie, as <name>/<version>.
        name: of the model; default: <data>-<method>, and -int8 or -float16 if it is.
        card: how much is measured: see `export.commands.evaluate`.
        precision: of the encoder: see `export.quantise` and `export.half`.
        promise: of its p-values.
        device: what computes the embeddings that detectors are fitted on and calibrated with.

    Returns:
        The bundle's folder.

    Raises:
        RunError: the folder is not a finished run, or its data changed since.
        DataError: its data cannot be loaded.
        ExportError: the promise cannot be kept, or an ONNX output differs from the trained model's.
        ValueError: a model cannot be called so, or cannot be written there.
    """
    if records.printable(str(repository)) != str(repository):
        raise ExportError(f"to: got {records.printable(str(repository))}, expected a name in UTF-8")
    run, trained = open_run(run_folder)
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", run.data.split(":")[0]).strip("-")
    name = f"{plain}-{run.method}" + ("" if precision == "float32" else f"-{precision}") if name is None else name
    bundle.check_name(name)
    check_new_folder("to", repository / name)
    with next_version(repository / name) as claim:
        data = run.load_data()
        _check_promise(promise, data)
        model = load_model(run_folder, run)
        write_bundle(claim.folder, run, trained, model, data, name, claim.version, report, precision, promise, device)
        return claim.publish()


def _check_promise(promise: Promise, data: Data) -> None:
    """Raises ExportError if the rows cannot keep a level that was asked for; the usual one is left out then."""
    num_rows = len(data.calibration)
    if not can_score(promise, num_rows) and promise.alpha != Promise.alpha:
        raise ExportError(
            f"alpha: got {promise.alpha:g}, expected {1 / (num_rows + 1):.3g} or more, the smallest p-value that"
            f" {_calibration_rows(data)} can give; no bundle was written"
        )


def _calibration_rows(data: Data) -> str:
    of_groups = "" if data.calibration.units_N is None else " (one of each group, or of each set of equal rows)"
    return f"{len(data.calibration)} calibration rows{of_groups}"


def write_bundle(
    folder: Path,
    run: Run,
    trained: Trained,
    model: Any,
    data: Data,
    name: str,
    version: int,
    size: ReportSize,
    precision: Precision,
    promise: Promise,
    device: Device = "cpu",
) -> None:
    """Writes every file of a bundle into an empty folder; raises what `export_run` does."""
    _say("graphs")
    draft = Draft(folder, model, _export_model(folder, model, data, precision), precision, promise, device)
    _say("detectors and calibration")
    train = draft.runner.run(data.train.values)
    draft, calibration = _export_scorer(draft, data, train)
    runner = draft.runner
    _say("parity")
    sorted_scores = bundle.load_arrays(folder / bundle.CALIBRATION) if draft.detectors else {}
    sorted_scores = {detector.name: sorted_scores[detector.name] for detector in draft.detectors}
    parity = check_parity(runner, model, draft.scorer, data.test.values[:PARITY_ROWS], precision, sorted_scores)
    _write_golden(draft, runner, data.test.values[:GOLDEN_ROWS])
    if size == "none":
        manifest = _manifest(draft, run, trained, data, name, version, parity, ())
    else:
        _say("evaluation through ONNX")
        manifest = _evaluated(draft, run, trained, data, name, version, parity, runner, train, calibration, size)
    files = {path.name: bundle.sha256_of_file(path) for path in sorted(folder.iterdir())}
    records.write(replace(manifest, files=files), folder / bundle.MANIFEST)


def _evaluated(
    draft: Draft,
    run: Run,
    trained: Trained,
    data: Data,
    name: str,
    version: int,
    parity: tuple[Parity, ...],
    runner: GraphRunner,
    train: dict[str, NDArray[np.float32]],
    calibration: NDArray[np.float32] | None,
    size: ReportSize,
) -> Manifest:
    """Writes report card and report; the manifest with their figures."""
    folder = draft.folder
    test = runner.run(data.test.values)
    report = exported_report(folder, draft.graphs["encoder"], run, data, train["embedding"], test["embedding"], size)
    records.write(report, folder / EVALUATION)
    measured = evaluate(runner, data, train, test, report.metrics, calibration, draft.promise.alpha)
    manifest = _manifest(draft, run, trained, data, name, version, parity, measured.evaluations)
    page = bundle_report(manifest, trained, data, measured, runner)
    (folder / bundle.REPORT).write_text(records.printable(page), encoding="utf-8")
    return manifest


def _export_model(folder: Path, model: Any, data: Data, precision: Precision) -> dict[str, Graph]:
    example = torch.from_numpy(data.test.values[:EXAMPLE_ROWS])
    names = encoder_outputs(model, example)
    graphs = {"encoder": export_graph(EncoderGraph(model), {INPUT: example}, names, folder / "encoder.onnx")}
    if precision != "float32":
        file = folder / "encoder.onnx"
        share = halve(file) if precision == "float16" else quantise(file, data.train.values)
        _say(f"encoder in {precision}: {share:.0%} of its size")
    if hasattr(model, "decode"):
        (latent,) = (spec for spec in graphs["encoder"].outputs if spec.name == "latent")
        graphs["decoder"] = export_graph(
            DecoderGraph(model),
            {"latent": torch.zeros(EXAMPLE_ROWS, *latent.shape)},
            ["reconstruction"],
            folder / "decoder.onnx",
        )
    return graphs


def _export_scorer(
    draft: Draft, data: Data, train: dict[str, NDArray[np.float32]]
) -> tuple[Draft, NDArray[np.float32] | None]:
    """Fits on training rows, exports, and calibrates what the exported graphs give for the calibration rows.

    Returns:
        The draft, and the calibration scores of the deciding detector; None if there are too few rows for any.
    """
    if not can_score(draft.promise, len(data.calibration)):
        _say(f"no scores: {_calibration_rows(data)} cannot keep a level of {draft.promise.alpha:g}")
        return draft, None
    tensors: dict[str, Any] = {INPUT: data.train.values, **train}
    scorer = Scorer.fit(draft.model, tensors, data.train.units_N)
    example = {name: torch.from_numpy(tensors[name][:EXAMPLE_ROWS]) for name in scorer.inputs}
    graph = export_graph(scorer, example, ["scores"], draft.folder / "scorer.onnx")
    graphs = {**draft.graphs, "scorer": graph}
    calibration = replace(draft, graphs=graphs).runner.run(data.calibration.values)
    columns = [
        calibrate(name, method, calibration["scores"][:, column], draft.promise)
        for column, (name, method) in enumerate(zip(scorer.names, scorer.methods, strict=True))
    ]
    arrays: dict[str, Any] = {detector.name: ordered for detector, ordered in columns}
    moments = (
        calibration["embedding"].mean(axis=0, dtype=np.float64),
        calibration["embedding"].std(axis=0, dtype=np.float64),
    )
    arrays |= {name: one.astype(np.float32) for name, one in zip(bundle.EMBEDDING_STATISTICS, moments, strict=True)}
    np.savez(draft.folder / bundle.CALIBRATION, **arrays)
    detectors = tuple(detector for detector, _ in columns)
    return replace(draft, graphs=graphs, scorer=scorer, detectors=detectors), columns[0][1]


def _write_golden(draft: Draft, runner: GraphRunner, rows: NDArray[Any]) -> None:
    """What the service must give again: the trained model's numbers, or those of the graph of lower precision."""
    exact = draft.precision == "float32"
    tensors = trained_tensors(draft.model, draft.scorer, rows) if exact else runner.run(rows)
    arrays: dict[str, Any] = {INPUT: rows, **tensors}
    np.savez(draft.folder / bundle.GOLDEN, **arrays)


def _manifest(
    draft: Draft,
    run: Run,
    trained: Trained,
    data: Data,
    name: str,
    version: int,
    parity: tuple[Parity, ...],
    evaluations: tuple[bundle.Evaluation, ...],
) -> Manifest:
    encoder_sha256 = bundle.sha256_of_file(draft.folder / draft.graphs["encoder"].file)
    return Manifest(
        schema_version=bundle.SCHEMA_VERSION,
        name=name,
        version=version,
        input=input_of(data.shape),
        graphs=draft.graphs,
        embedding_space=bundle.embedding_space(encoder_sha256),
        precision=draft.precision,
        provenance=provenance(run, trained, PROVIDERS[draft.device]),
        files={},
        detectors=draft.detectors,
        default_alpha=draft.promise.alpha if draft.detectors else 0.0,
        parity=parity,
        evaluations=evaluations + from_training(run, trained),
    )


def _say(step: str) -> None:
    print(f"export: {step}", file=sys.stderr, flush=True)
