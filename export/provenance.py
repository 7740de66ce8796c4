"""What a manifest says of the run that a bundle came from."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version as library_version

from latentserve import bundle, records
from latentserve.bundle import Provenance
from latentserve.inputs import AudioInput, ImageInput
from training.data import AudioShape, ImageShape
from training.running.loop import TEST_BATCH_ROWS, Trained
from training.running.run import Run

LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "numpy", "scikit-learn")


def provenance(run: Run, trained: Trained, execution_provider: str) -> Provenance:
    """Where the model came from, and what ran its graphs when it was calibrated."""
    return Provenance(
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
        versions=_versions() | {"execution_provider": execution_provider},
    )


def input_of(shape: ImageShape | AudioShape) -> ImageInput | AudioInput:
    """The shape of a row, as the service describes it."""
    if isinstance(shape, ImageShape):
        return shape.input
    return AudioInput(shape.sample_rate_hz, shape.num_samples)


def from_training(run: Run, trained: Trained) -> tuple[bundle.Evaluation, ...]:
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
