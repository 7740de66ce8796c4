"""Writes a bundle: graphs, parity, calibration, golden rows, figures, report, manifest.

Everything is written to a hidden folder beside the target, which is renamed when all of it is there: a service
that watches the repository never meets half a bundle, and a failed export leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.calibration import Promise, calibrate
from export.card import CardSize, exported_card
from export.detectors import Scorer
from export.evaluate import evaluate
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
from export.quantise import quantise
from export.report import bundle_report
from latentserve import bundle, records
from latentserve.bundle import Detector, Graph, Manifest, Parity, Precision, Provenance
from latentserve.conformal import num_small_p_values
from latentserve.inputs import INPUT, AudioInput, ImageInput
from training.data import AudioShape, Data, ImageShape
from training.evaluate import EVALUATION
from training.loop import TEST_BATCH_ROWS, Trained
from training.run import Run, load_model, open_run

GOLDEN_ROWS = 8
PARITY_ROWS = 256
LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "numpy", "scikit-learn")


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
    card: CardSize = "quick",
    precision: Precision = "float32",
    promise: Promise = Promise(),  # noqa: B008 (frozen)
    device: Device = "cpu",
) -> Path:
    """Exports a finished training run as the next version of a model.

    Args:
        run_folder: of the run.
        repository: where models lie, as <name>/<version>.
        name: of the model; default: <data>-<method>, and -int8 or -float16 if it is.
        card: how much is measured: see `export.card`.
        precision: of the encoder: see `export.quantise` and `export.half`.
        promise: of its p-values.
        device: what computes the embeddings that detectors are fitted on and calibrated with.

    Returns:
        The bundle's folder.

    Raises:
        RunError: the folder is not a finished run, or its data changed since.
        DataError: its data cannot be loaded.
        ExportError: an ONNX output differs from the trained model's.
    """
    if records.printable(str(repository)) != str(repository):
        raise ExportError(f"to: got {records.printable(str(repository))}, expected a name in UTF-8")
    run, trained = open_run(run_folder)
    data = run.load_data()
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", run.data.split(":")[0]).strip("-")
    name = name or f"{plain}-{run.method}" + ("" if precision == "float32" else f"-{precision}")
    version = _next_version(repository / name)
    folder = repository / name / f".{version}.tmp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        write_bundle(
            folder, run, trained, load_model(run_folder, run), data, name, version, card, precision, promise, device
        )
        final = repository / name / str(version)
        folder.rename(final)
        return final
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # of a model that has no version yet nothing is left
            folder.parent.rmdir()


def _next_version(folder: Path) -> int:
    versions = [int(child.name) for child in folder.glob("*") if child.name.isdigit()]
    return max(versions, default=0) + 1


def write_bundle(
    folder: Path,
    run: Run,
    trained: Trained,
    model: Any,
    data: Data,
    name: str,
    version: int,
    size: CardSize,
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
    size: CardSize,
) -> Manifest:
    """Writes report card and report; the manifest with their figures."""
    folder = draft.folder
    test = runner.run(data.test.values)
    card = exported_card(folder, draft.graphs["encoder"], run, data, train["embedding"], test["embedding"], size)
    records.write(card, folder / EVALUATION)
    measured = evaluate(runner, data, train, test, card.marks, calibration, draft.promise.alpha)
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
    if num_small_p_values(len(data.calibration), draft.promise.alpha) == 0:
        of_groups = "" if data.calibration.units_N is None else " (one of each group, or of each set of equal rows)"
        num = f"{len(data.calibration)} calibration rows{of_groups}"
        _say(f"no scores: {num} cannot keep a level of {draft.promise.alpha:g}")
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
        input=_input(data.shape),
        graphs=draft.graphs,
        embedding_space=bundle.embedding_space(encoder_sha256),
        precision=draft.precision,
        provenance=Provenance(
            method=run.method,
            data=run.data,
            data_sha256=run.data_sha256,
            seed=run.loop.seed,
            epochs=trained.epochs,
            config=records.to_json(run),
            git_revision=run.git_revision,
            trained_seconds=trained.seconds,
            device=trained.device,
            created_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            versions=_versions() | {"execution_provider": PROVIDERS[draft.device]},
        ),
        files={},
        detectors=draft.detectors,
        default_alpha=draft.promise.alpha if draft.detectors else 0.0,
        parity=parity,
        evaluations=evaluations + _from_training(run, trained),
    )


def _input(shape: ImageShape | AudioShape) -> ImageInput | AudioInput:
    if isinstance(shape, ImageShape):
        return ImageInput(shape.image_size, shape.image_size, shape.channels)
    return AudioInput(shape.sample_rate_hz, shape.num_samples)


def _from_training(run: Run, trained: Trained) -> tuple[bundle.Evaluation, ...]:
    """What the method itself measured after the last epoch, in torch."""
    where = f"{run.data} test"
    binarise = run.config.get("binarise", "none")
    note = f"{where}, in torch, {TEST_BATCH_ROWS} rows at a time" + (
        "" if binarise == "none" else f", {binarise} binarisation"
    )
    return tuple(bundle.Evaluation(name.removeprefix("test_"), value, note) for name, value in trained.test.items())


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = library_version(library)
        except ModuleNotFoundError:
            continue
    return found


def _say(step: str) -> None:
    print(f"export: {step}", file=sys.stderr, flush=True)
