"""The report's pictures of where its held-out rows are out of distribution."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.graphs import GraphRunner
from export.report.overlaid import boxed, overlaid
from latentserve import bundle
from service.models.maps import regions
from tests.mapped import with_map


def test_heat_lies_where_the_map_is_high(bundle_folder: Path, digits: NDArray[np.uint8], tmp_path: Path) -> None:
    folder = tmp_path / "digits-map" / "1"
    shutil.copytree(bundle_folder, folder)
    with_map(folder, digits[:199] // 2, "digits-map")
    manifest = bundle.load(folder)
    rows = np.full((2, 8, 8, 1), 40, np.uint8)
    rows[0, 2:4, 4:6] = 200
    of = overlaid(manifest, folder, GraphRunner(folder, manifest.graphs.values()), rows)
    assert of is not None
    loud, quiet = of(0).astype(int), of(1).astype(int)
    scale = loud.shape[0] // 8
    assert np.ptp(loud[3 * scale, 5 * scale]) > 30
    assert (loud[6 * scale :] == 40).all()
    assert (loud == 255).all(axis=2).any(), "no box around what is flagged"
    assert (quiet == 40).all()


def test_without_a_map_there_is_no_picture(bundle_folder: Path, digits: NDArray[np.uint8], tmp_path: Path) -> None:
    folder = tmp_path / "digits-plain" / "1"
    shutil.copytree(bundle_folder, folder)
    with_map(folder, digits[:199], "digits-plain", has_map=False)
    manifest = bundle.load(folder)
    assert overlaid(manifest, folder, GraphRunner(folder, manifest.graphs.values()), digits) is None


def test_boxes_are_those_of_the_regions_that_the_service_answers_with() -> None:
    generator = np.random.default_rng(0)
    for height, width in ((12, 12), (96, 70), (5, 200)):
        flagged = generator.random((12, 12)) < 0.15
        served = regions(flagged[None].astype(np.float32), 1.0 - flagged[None], flagged[None], (height, width))
        expected = {(one.y, one.x, one.height, one.width) for one in served}
        assert set(boxed(flagged, height, width)) == expected
        assert len(expected) > 3
    assert boxed(np.zeros((4, 4), bool), 8, 8) == []
