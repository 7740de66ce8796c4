"""What the model flags: the held-out rows with the smallest p-values, and a few typical ones to compare with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from export.figures import Measured
from export.report.alarms import Alarms
from export.report.overlaid import Overlaid
from export.report.pictures import picture, tile, tiles
from export.report.words import count, item, p_value, percent
from latentserve.bundle import Manifest
from latentserve.conformal import at_most
from training.data import Data
from training.evaluation.page import Html, Section, element

NUM_FLAGGED, NUM_TYPICAL = 12, 6
TITLE = "What it flags"


def flagged(
    manifest: Manifest, data: Data, measured: Measured, alarms: Alarms | None, overlaid: Overlaid | None = None
) -> Section:
    """Pictures with p-values, and with their maps if there are any; of sounds waveforms."""
    if alarms is None:
        return Section(TITLE, "Nothing: it has too few calibration rows to say what is out of distribution.")
    one = item(manifest)
    first, typical = most_flagged(measured), most_typical(measured)
    sides = "its reconstruction stands beside it. " if "reconstruction" in measured.test else ""
    note = (
        f"These {len(first)} of {count(alarms.num_test, one)} held out have the smallest p-values. None of them was"
        f" trained on; each is a false alarm if it is what you call in-distribution. {sides.capitalize()}At alpha"
        f" {percent(alarms.alpha)} whatever has p ≤ {alarms.alpha:g} is flagged; the smallest possible p is"
        f" {manifest.detectors[0].smallest_p_value:.2g}."
    )
    if overlaid is not None:
        note += (
            f" Last comes its map by {manifest.map_detector}: heat has an edge where a place reaches what at most"
            f" {percent(alarms.alpha)} of in-distribution {one}s reach anywhere."
        )
    if data.sample_rate_hz is not None:
        note += " Each is drawn as its waveform, against its own loudest moment, and can be played where it is short."
    return Section(
        TITLE,
        note,
        body=(
            tiles([_tile(row, "flagged", data, measured, alarms.alpha, overlaid) for row in first]),
            element("h3", "Typical ones"),
            element("p", f"The {len(typical)} whose p-values are nearest to 0.5.", class_="note"),
            tiles([_tile(row, "typical", data, measured, alarms.alpha, overlaid) for row in typical]),
        ),
    )


def most_flagged(measured: Measured) -> list[int]:
    """Test rows of the smallest p-values, of equal ones those of the largest scores first."""
    scores_N = np.nan_to_num(measured.test["scores"][:, 0], nan=np.inf)
    return [int(row) for row in np.lexsort((-scores_N, measured.p_values))[:NUM_FLAGGED]]


def most_typical(measured: Measured) -> list[int]:
    """Test rows whose p-values are nearest to a half; none of those above."""
    order: NDArray[np.int64] = np.argsort(np.abs(measured.p_values - 0.5), kind="stable")
    taken = set(most_flagged(measured))
    return [int(row) for row in order if row not in taken][:NUM_TYPICAL]


def _tile(row: int, what: str, data: Data, measured: Measured, alpha: float, overlaid: Overlaid | None) -> Html:
    p, test = float(measured.p_values[row]), data.test
    is_flagged = bool(at_most(p, alpha))
    shown = [picture(test.values[row], f"{what} test row {row}", data.sample_rate_hz)]
    if "reconstruction" in measured.test:
        shown.append(picture(measured.test["reconstruction"][row], f"reconstruction of test row {row}"))
    if overlaid is not None:
        shown.append(picture(overlaid(row), f"anomaly map of test row {row}"))
    said = element("b", p_value(p), class_="flagged" if is_flagged else "passed")
    name = "" if test.names_N is None else str(test.names_N[row])
    label = "" if test.labels_N is None else test.name_of(int(test.labels_N[row]))
    is_said = not label or name.startswith(f"{label}/")  # a folder's name is that of the class
    return tile(shown, said, "" if is_said else f"class {label}", name)
