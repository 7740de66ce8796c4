"""Writes a bundle: graphs, parity, calibration, golden rows, figures, report, manifest.

Everything is written to a hidden folder beside the target (`export.versions`), which is renamed when all of it is
there: a service that watches the repository never meets half a bundle, and a failed export leaves nothing behind.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.calibration import Promise, calibrate, calibration_rows, can_score, no_scores
from export.crossing import crossed, crosses, num_calibrating
from export.deciding import spared, weighed, why
from export.detectors import Scorer, ScorerGraph
from export.detectors.detector import Arrays
from export.detectors.drawing import Drawn
from export.draft import Choices, Draft, ReportSize, Training
from export.figures import measure
from export.graphs import (
    EXAMPLE_ROWS,
    PROVIDERS,
    DecoderGraph,
    Device,
    EncoderGraph,
    ExportError,
    GraphRunner,
    Tensors,
    WritesItself,
    encoder_outputs,
    export_graph,
)
from export.half import halve
from export.onnx_evaluation import exported_report
from export.origin import TrainedRun
from export.parity import check_parity, clear_rows, clearest_rows, trained_tensors
from export.places import patches_of
from export.provenance import from_training, input_of, provenance
from export.quantise import quantise
from export.report import bundle_report
from export.streaming import Embedding, to_fit_on, unfinished
from export.unusual import say_unusual
from export.versions import next_version
from export.wanted import check_detectors, check_possible, detectors_of
from latentserve import bundle, records
from latentserve.bundle import Manifest, Parity, Precision
from latentserve.inputs import INPUT, PATCHES
from training.data import Data
from training.data.rows import Rows, Values
from training.evaluation.report import EVALUATION
from training.methods.encoding import Decoder
from training.options import check_new_folder
from training.running.run import Run, load_model, open_run

GOLDEN_ROWS = 8
PARITY_ROWS = 256


def export_run(
    run_folder: Path,
    repository: Path,
    name: str | None = None,
    report: ReportSize = "quick",
    precision: Precision = "float32",
    promise: Promise = Promise(),  # noqa: B008 (frozen)
    device: Device = "cpu",
) -> Path:
    """Exports a finished training run as the next version of a model; returns the bundle's folder.

    Args:
        run_folder: of the run.
        repository: where models lie, as <name>/<version>.
        name: of the model; default: <data>-<method>, and -int8 or -float16 if it is.
        report: see `Choices`, as for the others.
        precision: of the encoder.
        promise: of its p-values.
        device: where the graphs run.

    Raises:
        RunError: the folder is not a finished run, or its data changed since.
        DataError: its data cannot be loaded.
        ExportError: the promise cannot be kept, or an ONNX output differs from the trained model's.
        ValueError: a model cannot be called so, or cannot be written there.
    """
    if records.printable(str(repository)) != str(repository):
        raise ExportError(f"to: got {records.printable(str(repository))}, expected a name in UTF-8")
    check_detectors(promise)
    run, trained = open_run(run_folder)
    name = default_name(run, precision) if name is None else name
    bundle.check_name(name)
    check_new_folder("to", repository / name)
    with next_version(repository / name) as claim:
        data = run.load_data()
        check_promise(promise, data)
        training = Training(TrainedRun(run, trained), load_model(run_folder, run), data)
        write_bundle(claim.folder, training, name, claim.version, Choices(report, precision, promise, device))
        return claim.publish()


def default_name(run: Run, precision: Precision) -> str:
    """The name of a run's model if the user gives none."""
    data = re.sub(r"[^A-Za-z0-9._]+", "-", run.data.split(":")[0]).strip("-")
    return f"{data}-{run.method}" + ("" if precision == "float32" else f"-{precision}")


def check_promise(promise: Promise, data: Data) -> None:
    """Raises ExportError if there are too few rows for the level that the user chose; says so of the default one."""
    num_rows = num_calibrating(data)
    if can_score(promise, num_rows):
        return
    if promise.alpha != Promise.alpha:
        raise ExportError(
            f"alpha: got {promise.alpha:g}, expected {1 / (num_rows + 1):.3g} or more, the smallest p-value that"
            f" {calibration_rows(data)} allow; no bundle was written"
        )
    _say(f"there will be {no_scores(promise, data)}")


def write_bundle(folder: Path, training: Training, name: str, version: int, choices: Choices) -> None:
    """Writes every file of a bundle into an empty folder; raises what `export_run` does."""
    with unfinished(folder.parent) as embedding:
        _write_bundle(folder, training, name, version, choices, embedding)


def _write_bundle(
    folder: Path, training: Training, name: str, version: int, choices: Choices, embedding: Embedding
) -> None:
    _say("graphs")
    data, chosen = to_fit_on(training.data)
    draft = _with_graphs(Draft(folder, replace(training, data=data), choices))
    check_possible(draft)
    _say("detectors and calibration")
    train = embedding.run(draft.runner, data.train, "training")
    say_unusual(data.train, {INPUT: data.train.values, **train}, data.spec)
    draft, calibration = _with_scorer(draft, train, chosen, embedding)
    runner = draft.runner
    _say("parity")
    manifest = _manifest(draft, name, version, _checked(draft, runner.with_patches()))
    golden = clearest_rows(training.model, data.test.values[:PARITY_ROWS], GOLDEN_ROWS)
    _write_golden(draft, runner.with_patches(), golden)
    if choices.report != "none":
        _say("evaluation through ONNX")
        test = embedding.run(runner, data.test, "test")
        manifest = _with_report(draft, manifest, (train, test), calibration, training)
    files = {path.name: bundle.sha256_of_file(path) for path in sorted(folder.iterdir())}
    records.write(replace(manifest, files=files), folder / bundle.MANIFEST)
    if not draft.detectors:
        _say(no_scores(choices.promise, data))


def _with_graphs(draft: Draft) -> Draft:
    """Writes the encoder, and the decoder if the model has one."""
    folder, model, data = draft.folder, draft.training.model, draft.training.data
    example = torch.from_numpy(np.asarray(data.test.values[:EXAMPLE_ROWS]))
    names = encoder_outputs(model, example)
    file = folder / "encoder.onnx"
    if isinstance(model, WritesItself):
        graphs = {"encoder": model.write_graph(file)}
    else:
        graphs = {"encoder": export_graph(EncoderGraph(model), {INPUT: example}, names, file)}
    if (precision := draft.choices.precision) != "float32":
        share = halve(file) if precision == "float16" else quantise(file, data.train.values)
        _say(f"encoder in {precision}: {share:.0%} of its size")
    if isinstance(model, Decoder):
        (latent,) = (spec for spec in graphs["encoder"].outputs if spec.name == "latent")
        graphs["decoder"] = export_graph(
            DecoderGraph(model),
            {"latent": torch.zeros(EXAMPLE_ROWS, *latent.shape)},
            ["reconstruction"],
            folder / "decoder.onnx",
        )
    return replace(draft, graphs=graphs)


def _with_scorer(
    draft: Draft, train: Tensors, chosen: Drawn | None, embedding: Embedding
) -> tuple[Draft, NDArray[np.float32] | None]:
    """Fits on training rows, exports, and calibrates what the exported graphs return for the calibration rows.

    Returns:
        The draft, and the calibration scores of the deciding detector; None if there are too few rows for any.
    """
    data, promise = draft.training.data, draft.choices.promise
    if not can_score(promise, num_calibrating(data)):
        return draft, None
    tensors: Arrays = {INPUT: data.train.values, **train}
    if (patches := patches_of(draft.runner, data.train.values)) is not None:
        tensors[PATCHES] = patches
    model, units_N, embed = draft.training.model, data.train.units_N, partial(_damaged, draft, embedding)
    wanted = detectors_of(promise)
    found = crossed(model, tensors, units_N, embed, wanted=wanted) if crosses(data) else None
    scorer = found.scorer if found else Scorer.fit(model, tensors, units_N, chosen, embed, wanted=wanted)
    if promise.deciding is not None:
        scorer = scorer.deciding(promise.deciding)
    else:
        _say(why(scorer))
    if scorer.left_out:
        _say(spared(scorer))
    example = {name: torch.from_numpy(np.asarray(tensors[name][:EXAMPLE_ROWS])) for name in scorer.inputs}
    graph = export_graph(ScorerGraph(scorer), example, scorer.outputs, draft.folder / "scorer.onnx")
    draft = replace(draft, graphs={**draft.graphs, "scorer": graph}, scorer=scorer)
    if found:
        calibration = {"scores": found.scores_of(scorer), "embedding": train["embedding"][found.rows]}
    else:
        calibration = embedding.run(draft.runner, data.calibration, "calibration")
    columns = [
        calibrate(name, method, calibration["scores"][:, column], promise, "cross" if found else "split")
        for column, (name, method) in enumerate(zip(scorer.names, scorer.methods, strict=True))
    ]
    _write_calibration(draft.folder, {detector.name: ordered for detector, ordered in columns}, calibration)
    return replace(draft, detectors=tuple(weighed(detector, scorer) for detector, _ in columns)), columns[0][1]


def _damaged(draft: Draft, embedding: Embedding, rows: Values) -> Arrays:
    """What the graphs return for damaged rows."""
    tensors: Arrays = {**embedding.run(draft.runner, Rows(rows), "damaged")}
    patches = patches_of(draft.runner, rows)
    return tensors if patches is None else {**tensors, PATCHES: patches}


def _write_calibration(folder: Path, sorted_scores: Tensors, calibration: Tensors) -> None:
    """The sorted scores of each detector, and the moments of the embedding that the service's monitor compares with."""
    embedding_ND = calibration["embedding"]
    moments = (embedding_ND.mean(axis=0, dtype=np.float64), embedding_ND.std(axis=0, dtype=np.float64))
    statistics = {name: one.astype(np.float32) for name, one in zip(bundle.EMBEDDING_STATISTICS, moments, strict=True)}
    _save(folder / bundle.CALIBRATION, sorted_scores | statistics)


def _checked(draft: Draft, runner: GraphRunner) -> tuple[Parity, ...]:
    """Raises ExportError if the graphs return other numbers than the trained model."""
    stored = bundle.load_arrays(draft.folder / bundle.CALIBRATION) if draft.detectors else {}
    sorted_scores = {detector.name: stored[detector.name] for detector in draft.detectors}
    rows = clear_rows(draft.training.model, draft.training.data.test.values[:PARITY_ROWS])
    return check_parity(runner, draft.training.model, draft.scorer, rows, draft.choices.precision, sorted_scores)


def _write_golden(draft: Draft, runner: GraphRunner, rows: Values) -> None:
    """What the service must return again: the trained model's numbers, or those of the graph of lower precision."""
    exact = draft.choices.precision == "float32"
    tensors = trained_tensors(draft.training.model, draft.scorer, rows) if exact else runner.run(rows)
    _save(draft.folder / bundle.GOLDEN, {INPUT: rows, **tensors})


def _with_report(
    draft: Draft,
    manifest: Manifest,
    embedded: tuple[Tensors, Tensors],
    calibration: NDArray[np.float32] | None,
    whole: Training,
) -> Manifest:
    """Writes evaluation.json and report.html; the manifest with their figures."""
    folder, data, runner, (train, test) = draft.folder, draft.training.data, draft.runner, embedded
    report = exported_report(draft, train["embedding"], test["embedding"])
    records.write(report, folder / EVALUATION)
    measured = measure(runner, data, train, test, report.metrics, calibration, draft.choices.promise.alpha)
    manifest = replace(manifest, evaluations=measured.evaluations + manifest.evaluations)
    if draft.scorer is not None and draft.scorer.left_out:
        measured = replace(measured, spared=spared(draft.scorer))
    page = bundle_report(manifest, draft.training, measured, runner, folder, whole)
    (folder / bundle.REPORT).write_text(records.printable(page), encoding="utf-8")
    return manifest


def _manifest(draft: Draft, name: str, version: int, parity: tuple[Parity, ...]) -> Manifest:
    """Without the hashes of files, which are not all written, and the figures of the evaluation."""
    choices, origin = draft.choices, draft.training.origin
    encoder_sha256 = bundle.sha256_of_file(draft.folder / draft.graphs["encoder"].file)
    return Manifest(
        schema_version=bundle.SCHEMA_VERSION,
        name=name,
        version=version,
        input=input_of(draft.training),
        graphs=draft.graphs,
        embedding_space=bundle.embedding_space(encoder_sha256),
        precision=choices.precision,
        provenance=provenance(origin, PROVIDERS[choices.device]),
        files={},
        detectors=draft.detectors,
        default_alpha=choices.promise.alpha if draft.detectors else 0.0,
        map_detector=draft.scorer.map_detector if draft.scorer else "",
        parity=parity,
        evaluations=from_training(origin),
    )


def _save(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


def _say(step: str) -> None:
    print(f"export: {step}", file=sys.stderr, flush=True)
