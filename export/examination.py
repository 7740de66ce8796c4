"""How well the scores of a bundle tell out-of-distribution (OOD) rows from in-distribution (ID) rows, its test rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.graphs import GraphRunner, Tensors
from export.ood_data import Sample, as_files, check_set, id_rows_of, is_jpeg, ood_set, own_set
from export.ood_places import Maps, Places, check_masks, kinds_of, places_of
from export.origin import read_config
from latentserve import bundle
from latentserve.bundle import Manifest
from latentserve.conformal import at_most, p_values
from latentserve.errors import BundleError
from training.evaluation.intervals import auroc_interval, share_interval
from training.evaluation.ood_sets import CONTROL, known_sets
from training.evaluation.progress import say
from training.evaluation.separation import Separation, separation

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """One detector against one set.

    Attributes:
        against: the set.
        detector: the column of `scores`; the first of a bundle decides.
        figures: see `Separation`.
        share_flagged: of the set, at `alpha`.
        id_flagged: share of the test rows flagged at `alpha`: near it if calibration holds.
        num_rows: of the set.
        auroc_interval: 95 % confidence interval of the AUROC, which takes the rows for independent of each other.
        flagged_interval: of `share_flagged`.
        kind: the class whose rows these are, of a set that has some; empty: all of the set.
    """

    against: str
    detector: str
    figures: Separation
    share_flagged: float
    id_flagged: float
    num_rows: int
    auroc_interval: tuple[float, ...]
    flagged_interval: tuple[float, ...]
    kind: str = ""

    @property
    def label(self) -> str:
        """The set, and of it the kind."""
        return f"{self.against}: {self.kind}" if self.kind else self.against


@dataclass(frozen=True)
class Examination:
    """What was found.

    Attributes:
        model: name and version of the bundle.
        data: spec whose test rows are the in-distribution rows.
        num_id: number of in-distribution rows.
        alpha: the bundle's default.
        seed: of the sets.
        rows: one for each set, and each kind in it, and detector.
        places: of each set with masks, and each kind in it.
    """

    model: str
    data: str
    num_id: int
    alpha: float
    seed: int
    rows: tuple[Row, ...]
    places: tuple[Places, ...] = ()


def examine(
    folder: Path,
    against: Sequence[str] = (),
    num_rows: int | None = None,
    seed: int = 0,
    masks: Path | None = None,
) -> tuple[Examination, dict[str, Scores]]:
    """The figures, and the deciding scores of the test rows (under their spec) and of each set.

    Args:
        folder: of the bundle.
        against: names of sets; none: all that are made of the test rows, and the control.
        num_rows: of each set at most: see `Sample`.
        seed: draws what is random in the sets.
        masks: folder of masks of a set that is the user's own: see `export.masks`.

    Raises:
        BundleError: not a bundle, changed since it was made, or one that does not score.
        RunError: its provenance is no training run of ours and no import, or its data changed.
        DataError: the data cannot be loaded.
        ValueError: no such set.
    """
    manifest = bundle.load(folder.resolve())
    if not manifest.detectors:
        raise BundleError(f"{folder.resolve()}: has no calibrated detector")
    origin = read_config(manifest.provenance, folder)
    for name in against:
        check_set(name, origin)
    masked = check_masks(manifest, against, masks)
    data, sample = origin.load_data(), Sample(num_rows, seed)
    runner = GraphRunner(folder.resolve(), manifest.graphs.values())
    calibration = bundle.load_calibration(folder.resolve(), manifest)
    names = tuple(dict.fromkeys(against)) or (*known_sets(data.test.values), CONTROL)
    id_rows = sample.made_of(data.test.values)
    id_scores = {kind: runner.run(rows)["scores"] for kind, rows in id_rows_of(id_rows, data, names)}
    found, places, kept = list[Row](), list[Places](), {origin.data: id_scores[""][:, 0]}
    for name in names:
        say(f"against {name}")
        own = own_set(name, origin, sample)
        rows = ood_set(name, origin, id_rows, sample) if own is None else own.values
        scores = runner.run(as_files(rows, data, name))["scores"]
        kept[name] = scores[:, 0]
        of_id = id_scores["JPEG" if is_jpeg(data, name) else ""]
        for kind, members in kinds_of(own):
            found += _rows(name, manifest, calibration, of_id, scores[members], kind)
        if own is not None and name in masked:
            places += places_of(name, own, masks, Maps(runner, manifest, id_rows))
    model, alpha = f"{manifest.name}/{manifest.version}", manifest.default_alpha
    return Examination(model, origin.data, len(id_rows), alpha, seed, tuple(found), tuple(places)), kept


def _rows(
    against: str, manifest: Manifest, calibration: Tensors, id_NK: Scores, ood_MK: Scores, kind: str
) -> Iterator[Row]:
    for column, detector in enumerate(manifest.detectors):
        id_N, ood_M = id_NK[:, column], ood_MK[:, column]
        flagged, id_flagged = (
            at_most(p_values(scores, calibration[detector.name]), manifest.default_alpha) for scores in (ood_M, id_N)
        )
        figures = separation(id_N, ood_M)
        shares = float(flagged.mean()), float(id_flagged.mean())
        of_auroc = auroc_interval(figures.auroc, len(id_N), len(ood_M))
        of_flagged = share_interval(int(flagged.sum()), len(ood_M))
        yield Row(against, detector.name, figures, *shares, len(ood_M), of_auroc, of_flagged, kind)
