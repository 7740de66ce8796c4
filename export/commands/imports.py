"""`python -m export import SOURCE --data SPEC --to models/`: an encoder that was trained elsewhere, as a bundle."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from export.calibration import Promise
from export.draft import Choices, ReportSize
from export.graphs import Device, ExportError
from export.importer import Order, import_encoder
from export.sources import SourceOptions
from latentserve import records
from latentserve.bundle import Precision
from latentserve.spelling import as_typed
from training.data.shares import Calibration
from training.options import check_options, check_seed, in_words


@dataclass(frozen=True)
class Options:
    """Imports an encoder that was trained elsewhere; its detectors are fitted on your data, and calibrated with it.

    Attributes:
        source: timm:NAME[=CHECKPOINT], torchvision:NAME=CHECKPOINT, hf:FOLDER as save_pretrained writes it,
            python:package.module:factory that returns a torch module, or onnx:FILE.
        data: data set whose rows detectors are fitted on and calibrated with: folder:PATH, wds:PATTERN, mvtec:PATH,
            csv:FILE, audio:PATH, or another that training takes.
        to: the model repository; the bundle goes to <to>/<name>/<version>.
        name: name of the model; default: that of the network, or of its file or folder.
        licence: text file with the encoder's licence; default: what the source says.
        group_by: rows of the data that no split may part, as for training.
        calibration_share: share of your own rows that calibrates; default: 0.1, and where that is too few for alpha as
            many as it needs, up to a half.
        crosswise: where a tenth is too few all rows calibrate, each by detectors that were fitted without it: sees more
            of few images, but its error rate is measured and not proved.
        calibration_data: rows that calibrate in place of any of these, as folder:PATH; twins of others are left out.
        seed: draws the splits.
        report: how much of the evaluation report goes into the bundle: `full` takes minutes and has every baseline;
            `none` leaves evaluation.json and report.html out.
        precision: precision of the encoder; int8 for CPUs, float16 for GPUs.
        promise: what the p-values are for.
        device: where rows are run to fit and calibrate detectors.
    """

    source: Annotated[str, tyro.conf.Positional]
    data: str
    to: Path
    name: str | None = None
    encoder: Annotated[SourceOptions, tyro.conf.arg(name="")] = field(default_factory=SourceOptions)
    licence: Path | None = None
    group_by: str | None = None
    calibration_share: float | None = None
    calibration_data: str | None = None
    crosswise: bool = False
    seed: int = 0
    report: ReportSize = "quick"
    precision: Precision = "float32"
    promise: Annotated[Promise, tyro.conf.arg(name="")] = Promise()  # noqa: RUF009 (frozen)
    device: Device = "cpu"


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    try:
        options = tyro.cli(Options, args=arguments, prog=as_typed("python -m export import"))
        check_options(options)
        check_seed(options.seed)
        order = Order(
            options.source,
            options.data,
            options.to,
            options.name,
            options.seed,
            options.group_by,
            options.licence,
            Calibration(options.calibration_share, options.promise.alpha, options.calibration_data, options.crosswise),
        )
        choices = Choices(options.report, options.precision, options.promise, options.device)
        with contextlib.redirect_stdout(sys.stderr):  # what a user's own code prints is not the path that is asked for
            folder = import_encoder(order, options.encoder, choices)
    except (ExportError, ValueError, OSError, MemoryError) as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 1
    print(records.printable(str(folder)))
    return 0
