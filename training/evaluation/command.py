"""`python -m training evaluate RUN`: the evaluation report of a run, through torch.

The figures that count are those of `python -m export evaluate`, through the exported graph. Both commands call
`make_report` with the same baselines, and differ in `encode` alone.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from latentserve import records
from latentserve.spelling import as_typed
from training.data.loading import check_spec
from training.evaluation.comparison import ReportOptions, make_report
from training.evaluation.report import EVALUATION, EvaluationReport
from training.evaluation.table import print_report
from training.evaluation.torch_encoders import encoders, weights_sha256
from training.options import check_new_file, check_options, in_words
from training.running.run import RunError, load_model, open_run


@dataclass(frozen=True)
class Options:
    """Measures a finished training run and writes evaluation.json beside it.

    Attributes:
        run: folder that a training left behind.
    """

    run: Annotated[Path, tyro.conf.Positional]
    report: Annotated[ReportOptions, tyro.conf.arg(name="")] = field(default_factory=ReportOptions)


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    try:
        options = tyro.cli(Options, args=arguments, prog=as_typed("python -m training evaluate"))
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
    """The evaluation report of a run.

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
