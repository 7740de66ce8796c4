"""What a manifest says of where a bundle came from."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version as library_version

from export.draft import Training
from export.origin import Imported, Origin, TrainedRun
from latentserve import bundle, records
from latentserve.bundle import Provenance
from latentserve.inputs import AudioInput, ImageInput
from training.data import AudioShape, ImageShape
from training.running.loop import TEST_BATCH_ROWS
from training.running.revision import git_revision

LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "numpy", "scikit-learn")


def provenance(origin: Origin, execution_provider: str) -> Provenance:
    """Where the model came from, and what ran its graphs when it was calibrated."""
    made = Provenance(
        method="",
        data="",
        data_sha256="",
        seed=0,
        epochs=0,
        config={},
        git_revision="",
        trained_seconds=0.0,
        device="",
        created_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        versions=_versions() | {"execution_provider": execution_provider},
    )
    return _of_import(made, origin) if isinstance(origin, Imported) else _of_training(made, origin)


def _of_training(made: Provenance, origin: TrainedRun) -> Provenance:
    run, trained = origin.run, origin.trained
    return replace(
        made,
        method=run.method,
        data=run.data,
        data_sha256=run.data_sha256,
        seed=run.loop.seed,
        epochs=trained.epochs,
        config=records.to_json(run),
        git_revision=run.git_revision,
        trained_seconds=trained.seconds,
        device=trained.device,
    )


def _of_import(made: Provenance, imported: Imported) -> Provenance:
    """Nothing was trained: no epochs, no seconds, and the revision is that of the code that imported."""
    return replace(
        made,
        method=imported.method,
        data=imported.data,
        data_sha256=imported.data_sha256,
        seed=imported.seed,
        config=records.to_json(imported),
        git_revision=git_revision(),
        device="none",
        versions=made.versions | imported.versions,
    )


def input_of(training: Training) -> ImageInput | AudioInput:
    """What a row is, as the service describes it."""
    if isinstance(training.origin, Imported):
        return training.origin.input
    shape = training.data.shape
    if isinstance(shape, ImageShape):
        return shape.input
    assert isinstance(shape, AudioShape)
    return AudioInput(shape.sample_rate_hz, shape.num_samples)


def from_training(origin: Origin) -> tuple[bundle.Evaluation, ...]:
    """What the method itself measured after the last epoch, in torch; nothing of an import."""
    if isinstance(origin, Imported):
        return ()
    run, trained = origin.run, origin.trained
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
