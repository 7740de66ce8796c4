"""`python -m training evaluate RUN`: the report card of a run, through torch.

The figures that count are those of `python -m export evaluate`, through the exported graph. Both make the card here,
with the same floors, and differ in `encode` alone.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import nn

from latentserve import records
from training.data import Data, ImageShape, Rows, load_data
from training.data.loading import check_spec, every_row
from training.evaluation.baselines import PATCH, Encode, patch_centres, pixels, principal_components
from training.evaluation.report import FULL, EvaluationReport, Metric, Part, ReportConfig, evaluation_report, some_rows
from training.evaluation.table import print_report
from training.methods.encoding import Encoding
from training.networks.small import floats_from_rows
from training.options import check_new_file, check_options, in_words
from training.running.run import Run, RunError, load_model, open_run

EVALUATION = "evaluation.json"
BASELINES = ("pixels", "PCA-16", "PCA-64", "random init", "k-means patches")
PATCH_PARTS: tuple[Part, ...] = ("probes", "labels", "clusters")  # changed images too would take minutes
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow turns RGB into grey
_ROWS_AT_ONCE = 500


@dataclass(frozen=True)
class ReportOptions:
    """What goes on the card besides the encoder's own figures.

    Attributes:
        floors: also measure pixels, principal components, the untrained network and k-means patches.
        patches: with --floors, k-means patches too: by far the slowest floor.
        transfer: another data set to probe with this encoder.
        rows: draw so many training and so many test rows instead of all.
    """

    baselines: bool = False
    patches: bool = True
    transfer: str | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"rows: got {self.rows}, expected 1 or more")


@dataclass(frozen=True)
class Options:
    """Measures a finished training run and writes evaluation.json beside it.

    Attributes:
        run: folder that `python -m training METHOD` left behind.
    """

    run: Annotated[Path, tyro.conf.Positional]
    report: Annotated[ReportOptions, tyro.conf.arg(name="")] = field(default_factory=ReportOptions)


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    try:
        options = tyro.cli(Options, args=arguments, prog="python -m training evaluate")
        check_options(options)
        if options.report.transfer is not None:
            check_spec(options.report.transfer)
        open_run(options.run)
        check_new_file("run", options.run / EVALUATION)
        report = evaluate_run(options.run, options.report)
    except (ValueError, OSError, MemoryError) as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 1
    records.write(report, options.run / EVALUATION)
    print_report(report.metrics, f"{options.run} (through torch; the figures that count go through ONNX)")
    print(records.printable(str(options.run / EVALUATION)))
    return 0


def evaluate_run(folder: Path, options: ReportOptions) -> EvaluationReport:
    """The card of a run.

    Raises:
        RunError: not a finished run, its data changed, or measuring changed the encoder.
        DataError: the data cannot be loaded.
    """
    started = time.monotonic()
    run, _ = open_run(folder)
    data = run.load_data()
    model = load_model(folder, run)
    before = weights_sha256(model)
    encode, latent = encoders(model, data)
    metrics = make_report(encode, run, data, options, latent)
    if weights_sha256(model) != before:
        raise RunError(f"{folder}: measuring changed the encoder's weights; the figures are worth nothing")
    return EvaluationReport("torch", before, round(time.monotonic() - started, 1), tuple(metrics))


def make_report(
    encode: Encode, run: Run, data: Data, options: ReportOptions, latent: Encode | None = None
) -> list[Metric]:
    """The encoder's figures, then those of the floors.

    Args:
        encode: of the trained model.
        run: the training run, for the untrained network and the shape of its images.
        data: of the run, or another set in its shape.
        options: what else goes on the card.
        latent: of the trained model, where it has latents.
    """
    transfer = None if options.transfer is None else in_shape_of(run, options.transfer)
    if options.rows is not None:
        data, transfer = _fewer(data, options.rows), transfer and _fewer(transfer, options.rows)
    say("the encoder")
    metrics = evaluation_report(encode, data, transfer=transfer, latent=latent)
    for name in baselines_of(data, options.patches) if options.baselines else ():
        config = replace(FULL, parts=PATCH_PARTS) if name == "k-means patches" else FULL
        metrics += baseline_report(name, run, data, config, transfer)
    return metrics


def baselines_of(data: Data, patches: bool = True) -> tuple[str, ...]:
    """Those of `FLOORS` that the data has: all but the untrained network are about images."""
    if not isinstance(data.shape, ImageShape):
        return ("random init",)
    return BASELINES if patches and data.shape.image_size > PATCH else BASELINES[:-1]


def baseline_report(
    name: str, run: Run, data: Data, config: ReportConfig, transfer: Data | None = None
) -> list[Metric]:
    """The figures of one of `FLOORS`. Those with few dimensions are asked about factors, too, as latents are."""
    say(f"floor: {name}")
    train_NHWC = data.train.values
    makers: dict[str, Callable[[], tuple[Encode, Encode | None]]] = {
        "pixels": lambda: (pixels, None),
        "PCA-16": lambda: (principal_components(train_NHWC, 16),) * 2,
        "PCA-64": lambda: (principal_components(train_NHWC, 64), None),
        "random init": lambda: encoders(untrained(run), data),
        "k-means patches": lambda: (patch_centres(train_NHWC), None),
    }
    encode, latent = makers[name]()
    return evaluation_report(encode, data, config, name, transfer, latent)


def encoders(model: nn.Module, data: Data) -> tuple[Encode, Encode | None]:
    """Rows to embeddings, and to latents where the model has them."""
    latent = torch_encoder(model, "latent") if _has_latents(model.eval(), data) else None
    return torch_encoder(model), latent


def torch_encoder(model: nn.Module, tensor: Literal["embedding", "latent"] = "embedding") -> Encode:
    """Rows to embeddings or latents through a model in eval mode, without gradients, on the GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder: Any = model.eval().requires_grad_(False).to(device)

    def parts(rows: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = torch.from_numpy(np.ascontiguousarray(rows[start : start + _ROWS_AT_ONCE])).to(device)
            yield getattr(encoder.encode(floats_from_rows(part)), tensor).cpu().numpy()

    def encode(rows: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.concatenate([*parts(rows)])

    return encode


def _has_latents(model: Any, data: Data) -> bool:
    with torch.no_grad():
        encoding: Encoding = model.encode(floats_from_rows(torch.from_numpy(data.test.values[:2])))
    return encoding.latent is not None


def untrained(run: Run) -> nn.Module:
    """The network of a run as its training began."""
    torch.manual_seed(run.loop.seed)
    return run.build()


def weights_sha256(model: nn.Module) -> str:
    """sha256 of every parameter and buffer, running statistics included, in hex."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def in_shape_of(run: Run, spec: str) -> Data:
    """A data set with the size and the channels that the run's encoder takes."""
    if not isinstance(run.shape, ImageShape):
        raise RunError(f"transfer: got a run on {run.shape.modality}, expected one on images")
    data = load_data(spec, run.shape.image_size, run.loop.seed)
    if not isinstance(data.shape, ImageShape):
        raise RunError(f"transfer: got {spec}, which is {data.shape.modality}, expected images")
    channels = run.shape.channels
    train, calibration, test = (_with_channels(rows, channels) for rows in (data.train, data.calibration, data.test))
    return Data(data.spec, train, calibration, test)


def every_row_in_shape_of(run: Run, spec: str) -> NDArray[Any] | None:
    """All rows of a user's own data, as the run's encoder takes them; None of other data."""
    shape = run.shape
    if isinstance(shape, ImageShape):
        rows = None if spec.startswith("audio:") else every_row(spec, shape.image_size)
        return None if rows is None else _with_channels(rows, shape.channels).values
    sound = every_row(spec, None, shape.sample_rate_hz, shape.num_samples) if spec.startswith("audio:") else None
    return None if sound is None else sound.values


def _with_channels(images: Rows, channels: int) -> Rows:
    values_NHWC = images.values
    if (got := values_NHWC.shape[-1]) == channels:
        return images
    grey = np.rint(values_NHWC @ np.array(LUMA)).astype(np.uint8)[..., None] if got == 3 else values_NHWC
    return replace(images, values=np.repeat(grey, channels, axis=-1))


def _fewer(data: Data, rows: int) -> Data:
    return replace(data, train=some_rows(data.train, rows), test=some_rows(data.test, rows))


def say(step: str) -> None:
    """Where we are, on stderr."""
    print(records.printable(f"evaluate: {step}"), file=sys.stderr, flush=True)
