"""What a map means: the promise over all of its places, the threshold, and the regions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
from numpy.typing import NDArray

from latentserve import bundle
from latentserve.bundle import Graph, Manifest, TensorSpec
from latentserve.errors import InvalidInput
from service.models import maps as maps_module
from service.models.decisions import DecisionPolicy, ScoreOptions
from service.models.maps import MOST_REGIONS, MapOptions, MapPolicy, labelled, regions

HEIGHT, WIDTH = 5, 7


@pytest.fixture(scope="module")
def manifest(bundle_folder: Path) -> Manifest:
    """Of two detectors, the second of which has a map."""
    whole = bundle.load(bundle_folder)
    named = tuple(
        replace(one, name=name, num_calibration_rows=199)
        for one, name in zip(whole.detectors[:2], ("deciding", "places"), strict=True)
    )
    scorer = whole.graphs["scorer"]
    outputs = (TensorSpec("scores", "float32", (2,)), TensorSpec("anomaly_map", "float32", (HEIGHT, WIDTH)))
    graphs = whole.graphs | {"scorer": Graph(scorer.file, scorer.inputs, outputs)}
    return replace(whole, detectors=named, graphs=graphs, map_detector="places")


def in_distribution(num: int, seed: int) -> NDArray[np.float32]:
    """Maps whose places are noise with neighbours alike, some louder than others."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(num, HEIGHT + 2, WIDTH + 2)).astype(np.float32)
    smooth = sum(noise[:, dy : dy + HEIGHT, dx : dx + WIDTH] for dy in range(3) for dx in range(3))
    return np.asarray(smooth * np.linspace(0.5, 2, WIDTH), np.float32)


def policy_of(manifest: Manifest, calibration: NDArray[np.float32]) -> MapPolicy:
    largest = np.sort(calibration.max(axis=(1, 2)))
    return MapPolicy(manifest, {"deciding": np.full_like(largest, -100), "places": largest})


@pytest.mark.parametrize(("alpha", "low", "high"), [(0.05, 0.042, 0.058), (0.01, 0.006, 0.014)])
def test_of_in_distribution_images_alpha_have_any_flagged_place(
    manifest: Manifest, alpha: float, low: float, high: float
) -> None:
    """Over 100 calibrations of 199 maps with 100 new maps each; four standard deviations to each side."""
    options, flagged = MapOptions(alpha), []
    for trial in range(100):
        drawn = in_distribution(299, trial)
        flagged.append(policy_of(manifest, drawn[:199]).decide(drawn[199:], options).flagged.mean())
    assert low < np.mean(flagged) < high


def test_the_conditional_guarantee_holds_for_all_but_delta_of_the_calibrations(manifest: Manifest) -> None:
    new = in_distribution(2000, 10**6)
    options = MapOptions(0.1, "conditional")
    rates = [policy_of(manifest, in_distribution(199, s)).decide(new, options).flagged.mean() for s in range(100)]
    assert np.mean(np.array(rates) > 0.1) <= 0.1 + 0.06


def test_the_maximum_of_a_map_has_the_p_value_of_its_row(manifest: Manifest) -> None:
    calibration, new = in_distribution(199, 0), in_distribution(50, 1)
    largest = np.sort(calibration.max(axis=(1, 2)))
    arrays = {"deciding": np.arange(199, dtype=np.float32), "places": largest}
    scores = np.stack([np.zeros(50, np.float32), new.max(axis=(1, 2))], axis=1)
    for guarantee in ("marginal", "conditional"):
        rows = DecisionPolicy(manifest, arrays).decide(scores, ScoreOptions(0.1, guarantee))  # type: ignore[arg-type]
        found = MapPolicy(manifest, arrays).decide(new, MapOptions(0.1, guarantee))  # type: ignore[arg-type]
        np.testing.assert_array_equal(found.p_values.min(axis=(1, 2)), rows.detector_p_values[:, 1])
        np.testing.assert_array_equal(found.flagged, rows.detector_p_values[:, 1] <= 0.1)


@pytest.mark.parametrize("guarantee", ["marginal", "conditional"])
@pytest.mark.parametrize("alpha", [0.03, 0.05, 0.1, 0.5, 0.99])
def test_the_threshold_is_the_smallest_value_that_is_flagged(manifest: Manifest, alpha: float, guarantee: Any) -> None:
    policy = policy_of(manifest, in_distribution(199, 3))
    threshold = np.float32(policy.decide(in_distribution(1, 4), MapOptions(alpha, guarantee)).threshold)
    for value, expected in ((threshold, True), (np.nextafter(threshold, np.float32(-np.inf)), False)):
        one = np.full((1, HEIGHT, WIDTH), value, np.float32)
        assert policy.decide(one, MapOptions(alpha, guarantee)).flagged.tolist() == [expected]


def test_what_is_no_number_is_flagged(manifest: Manifest) -> None:
    values = np.full((2, HEIGHT, WIDTH), -1000, np.float32)
    values[0, 1, 2], values[0, 4, 6] = np.nan, -np.inf
    found = policy_of(manifest, in_distribution(199, 0)).decide(values, MapOptions(0.05))
    assert found.flagged.tolist() == [True, False]
    assert [(one.area, one.peak, one.p_value) for one in found.regions] == [(1 / 35, np.inf, 1 / 200)] * 2


def test_a_level_that_the_maps_detector_cannot_give_is_refused(manifest: Manifest) -> None:
    few = replace(manifest.detectors[1], num_calibration_rows=19)
    policy = policy_of(replace(manifest, detectors=(manifest.detectors[0], few)), in_distribution(19, 0))
    assert policy.options(0.05, "marginal").alpha == 0.05
    assert policy.options(None, "marginal").alpha == manifest.default_alpha
    with pytest.raises(InvalidInput, match=r"alpha: got 0.04, expected 0.05 .the smallest marginal p-value that 19 "):
        policy.options(0.04, "marginal")


def found_in(flagged: NDArray[np.bool_], size: tuple[int, int] = (0, 0)) -> list[tuple[int, ...]]:
    """Boxes of what is flagged, with their rows: as if a place were a pixel unless a size is named."""
    values = flagged.astype(np.float32)
    found = regions(values, 1 - values.astype(np.float64), flagged, size if any(size) else flagged.shape[1:])
    return [(one.row, one.y, one.x, one.height, one.width) for one in found]


def test_planted_regions_are_found_at_borders_and_corners_too() -> None:
    flagged = np.zeros((2, 8, 9), np.bool_)
    flagged[0, :2, :3] = True  # in a corner
    flagged[0, 7, 8] = True  # in the opposite one
    flagged[0, 3:5, 8] = True  # at a border
    flagged[0, 5, 7] = True  # touches it by a corner
    flagged[1, 0, :] = True  # the end of the row before does not touch its beginning
    assert found_in(flagged) == [(0, 0, 0, 2, 3), (0, 3, 7, 3, 2), (0, 7, 8, 1, 1), (1, 0, 0, 1, 9)]
    assert found_in(np.ones((1, 1, 1), np.bool_)) == [(0, 0, 0, 1, 1)]
    assert found_in(np.zeros((3, 4, 4), np.bool_)) == []


def test_boxes_are_whole_pixels_that_cover_their_places() -> None:
    flagged = np.zeros((1, 3, 3), np.bool_)
    flagged[0, 1, 1:] = True
    assert found_in(flagged, (10, 96)) == [(0, 3, 32, 4, 64)]  # 10 / 3 to 20 / 3
    assert found_in(np.ones((1, 3, 3), np.bool_), (10, 96)) == [(0, 0, 0, 10, 96)]
    assert found_in(np.ones((1, 4, 4), np.bool_), (2, 2)) == [(0, 0, 0, 2, 2)]  # more places than pixels


def test_labels_are_those_of_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps_module, "PLACES_AT_ONCE", 200)  # so that some are labelled in several turns
    rng = np.random.default_rng(0)
    for _ in range(100):
        num, height, width = rng.integers(1, 6), rng.integers(1, 13), rng.integers(1, 13)
        flagged = rng.random((num, height, width)) < rng.random()
        got = labelled(flagged)
        np.testing.assert_array_equal(got >= 0, flagged)
        assert len(np.unique(got[flagged])) == sum(scipy.ndimage.label(one, np.ones((3, 3)))[1] for one in flagged)
        for row in range(num):
            expected, count = scipy.ndimage.label(flagged[row], np.ones((3, 3)))
            pairs = {*zip(got[row][flagged[row]].tolist(), expected[flagged[row]].tolist(), strict=True)}
            assert len(pairs) == count


def test_a_winding_region_is_one() -> None:
    flagged = np.zeros((1, 101, 101), np.bool_)
    flagged[0, ::2] = True
    flagged[0, 1::4, -1] = flagged[0, 3::4, 0] = True
    assert found_in(flagged) == [(0, 0, 0, 101, 101)]


def test_of_many_regions_the_largest_are_kept_for_each_row() -> None:
    flagged = np.zeros((2, 40, 40), np.bool_)
    flagged[:, ::2, ::2] = True  # 400 places that touch nothing
    flagged[1, 20:22, 20:22] = True
    found = found_in(flagged)
    assert [sum(one[0] == row for one in found) for row in (0, 1)] == [MOST_REGIONS] * 2
    assert found[MOST_REGIONS] == (1, 20, 20, 3, 3)
