"""`python -m export RUN --to models/`: writes a training run as the next version of a bundle."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from export.calibration import Promise
from export.draft import ReportSize
from export.exporter import export_run
from export.graphs import Device, ExportError
from latentserve import records
from latentserve.bundle import Precision
from latentserve.spelling import as_typed
from training.options import check_options, in_words


@dataclass(frozen=True)
class Options:
    """Exports a finished training run; the commands `evaluate` and `ood` measure a bundle.

    Attributes:
        run: folder that a training left behind.
        to: the model repository; the bundle goes to <to>/<name>/<version>.
        name: name of the model; default: <data>-<method>, and -int8 or -float16 if it is.
        report: how much of the evaluation report goes into the bundle: `full` takes minutes and has every baseline;
            `none` leaves evaluation.json and report.html out.
        precision: precision of the encoder; int8 for CPUs, float16 for GPUs.
        promise: what the p-values are for.
        device: where rows are run to fit and calibrate detectors: `cuda` for a bundle in float16 that a GPU will serve,
            which rounds each product as no CPU does (`python -m benchmarks.gpu` measures whether that moves p-values).
    """

    run: Annotated[Path, tyro.conf.Positional]
    to: Path
    name: str | None = None
    report: ReportSize = "quick"
    precision: Precision = "float32"
    promise: Annotated[Promise, tyro.conf.arg(name="")] = Promise()  # noqa: RUF009 (frozen)
    device: Device = "cpu"


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    try:
        options = tyro.cli(Options, args=arguments, prog=as_typed("python -m export"))
        check_options(options)
        folder = export_run(
            options.run, options.to, options.name, options.report, options.precision, options.promise, options.device
        )
    except (ExportError, ValueError, OSError, MemoryError) as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 1
    print(records.printable(str(folder)))
    return 0
