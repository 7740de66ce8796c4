"""`python -m export evaluate BUNDLE`: the evaluation report through the exported graph, the one that counts.

A bundle is never changed once it is published, and its evaluation report is one of its hashed files. So every export
writes a quick report into the new bundle, `python -m export RUN --report full` the whole of it, and this command only
reads: it prints, and writes JSON where it is told to.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from export.onnx_evaluation import evaluate_bundle
from latentserve import records
from latentserve.errors import BundleError
from latentserve.spelling import as_typed
from training.data.loading import check_spec
from training.evaluation.comparison import ReportOptions
from training.evaluation.table import print_report
from training.options import check_new_file, check_options, in_words


@dataclass(frozen=True)
class Options:
    """Evaluates a bundle through its encoder's graph.

    Attributes:
        bundle: folder of the bundle, <repository>/<name>/<version>.
        data: data set to evaluate it on; default: the one it was trained on.
        json: file for the figures; none is written by default.
    """

    bundle: Annotated[Path, tyro.conf.Positional]
    data: str | None = None
    json: Path | None = None
    report: Annotated[ReportOptions, tyro.conf.arg(name="")] = field(default_factory=ReportOptions)


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    try:
        options = tyro.cli(Options, args=arguments, prog=as_typed("python -m export evaluate"))
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
