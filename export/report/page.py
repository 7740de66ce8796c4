"""The order of the page: what it is, is it trained, what it flags and confuses, how fast it is, everything else."""

from __future__ import annotations

from pathlib import Path

from export.draft import Training
from export.figures import Measured
from export.graphs import GraphRunner
from export.report.alarms import alarms_of
from export.report.confusion import confusion
from export.report.details import details
from export.report.flagged import flagged
from export.report.learning import learning
from export.report.overlaid import overlaid
from export.report.speed import paces, speed
from export.report.summary import summary
from latentserve.bundle import Manifest
from training.evaluation.page import render_report

THE_REST = "Everything else that was measured"


def bundle_report(
    manifest: Manifest, training: Training, measured: Measured, runner: GraphRunner, folder: Path, whole: Training
) -> str:
    """The page, as HTML.

    Args:
        manifest: but for the hashes.
        training: what the bundle was made of, with the rows that were embedded.
        measured: its figures.
        runner: of all graphs.
        folder: of the bundle.
        whole: the same with all rows.
    """
    data, encoder = training.data, manifest.graphs["encoder"].file
    alarms = alarms_of(manifest, measured.p_values)
    sections = [
        summary(manifest, whole, alarms),
        learning(training, measured, runner, encoder),
        flagged(manifest, data, measured, alarms, overlaid(manifest, folder, runner, data.test.values)),
        confusion(manifest, data, measured),
        speed(manifest, folder, paces(runner, encoder, data.test.values)),
    ]
    rest = details(manifest, training, measured, runner)
    return render_report(f"{manifest.name}, version {manifest.version}", sections, rest, THE_REST)
