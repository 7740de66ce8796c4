"""Where a bundle sees what is wrong: its anomaly maps against masks, of a set and of each kind in it.

Shape legend: N rows, H height, W width, h and w places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.graphs import GraphRunner
from export.masks import has_masks, masks_of
from latentserve.bundle import Manifest
from latentserve.errors import BundleError
from latentserve.inputs import ANOMALY_MAP, ImageInput
from training.data.errors import DataError
from training.data.lazy import batch_rows
from training.data.rows import Rows, Values
from training.evaluation.places import place_figures, upsampled
from training.evaluation.progress import say

MOST_KINDS = 30
"""Classes of a set that each have a row of their own; more are no kinds of faults."""


@dataclass(frozen=True)
class Places:
    """The maps of a set, or of a kind in it, against masks; the usual pixels are those of the test rows, too.

    Attributes:
        against: the set.
        kind: the class whose rows these are; empty: all of the set.
        pixel_auroc: see `PlaceFigures`, as for the others.
        aupro: up to a false-alarm rate of 0.3.
        num_regions: of all masks.
        num_rows: images of the set with a mask.
        num_left_out: images without one, or whose mask has no pixel at the model's size.
    """

    against: str
    kind: str
    pixel_auroc: float
    aupro: float
    num_regions: int
    num_rows: int
    num_left_out: int


@dataclass
class Maps:
    """The maps of a bundle, at the size of its images.

    Attributes:
        runner: of its graphs.
        manifest: of it.
        id_rows: the test rows.
    """

    runner: GraphRunner
    manifest: Manifest
    id_rows: Values

    @property
    def given(self) -> ImageInput:
        """What the model takes."""
        assert isinstance(self.manifest.input, ImageInput)  # sounds have no maps
        return self.manifest.input

    def of(self, rows: Values) -> NDArray[np.float32]:
        """Float32 [N, H, W]."""
        batches = self.runner.with_patches().batches(rows, batch_rows(rows))
        maps_Nhw = np.concatenate([outputs[ANOMALY_MAP] for outputs in batches])
        return upsampled(maps_Nhw, self.given.height, self.given.width)

    @cached_property
    def of_id(self) -> NDArray[np.float32]:
        """Of the test rows."""
        return self.of(self.id_rows)


def check_masks(manifest: Manifest, against: Sequence[str], folder: Path | None) -> tuple[str, ...]:
    """Which sets have masks that maps can be held against; nothing is read but names.

    Raises:
        DataError: masks are given for no set of files.
        BundleError: masks are given, and the bundle has no map.
    """
    masked = tuple(name for name in against if has_masks(name, folder))
    if folder is not None and not masked:
        raise DataError(f"masks: got {folder}, expected --against folder:PATH or mvtec:PATH beside it, their images")
    if masked and not manifest.map_detector:
        if folder is None:
            say(f"{manifest.name}/{manifest.version} has no anomaly map to hold against the masks of {masked[0]}")
            return ()
        raise BundleError(
            f"masks: got {folder}, but {manifest.name}/{manifest.version} has no anomaly map; export or import it again"
            " with a detector that looks at places"
        )
    return masked


def kinds_of(own: Rows | None) -> Iterator[tuple[str, NDArray[np.intp] | slice]]:
    """All rows, under the empty name, then those of each kind, if there are two or more."""
    yield "", slice(None)
    if own is None or own.labels_N is None:
        return
    labels = np.unique(own.labels_N)
    if 1 < len(labels) <= MOST_KINDS:
        for label in labels.tolist():
            yield own.name_of(label), np.flatnonzero(own.labels_N == label)


def places_of(against: str, own: Rows, folder: Path | None, maps: Maps) -> Iterator[Places]:
    """The figures of a set, then of each kind in it."""
    masks_NHW, known = masks_of(against, own, folder, maps.given)
    seen = [row for row in known if masks_NHW[row].any()]
    if lost := len(known) - len(seen):
        size = f"{maps.given.height} x {maps.given.width}"
        say(f"{against}: {lost} of {len(known)} masks have no pixel left at {size}: these images are left out")
    if without := len(own) - len(known):
        say(f"{against}: {without} of {len(own)} images have no mask and are left out of the pixels' figures")
    maps_NHW = maps.of(own.values)
    nothing = np.zeros(maps.of_id.shape, np.bool_)
    for kind, members in kinds_of(own):
        of_kind = np.arange(len(own))[members]
        rows = np.intersect1d(of_kind, seen)
        if len(rows):
            both = np.concatenate([maps.of_id, maps_NHW[rows]])
            found = place_figures(both, np.concatenate([nothing, masks_NHW[rows]]))
            left_out = len(of_kind) - len(rows)
            yield Places(against, kind, found.pixel_auroc, found.aupro, found.num_regions, len(rows), left_out)
