from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latentserve import bundle
from latentserve.errors import InvalidInput, Unsupported
from service.models.decisions import Judge, Question


@pytest.fixture(scope="module")
def manifest(bundle_folder: Path) -> bundle.Manifest:
    """Of one detector alone."""
    whole = bundle.load(bundle_folder)
    return replace(whole, detectors=whole.detectors[:1])


@pytest.fixture(scope="module")
def judge(manifest: bundle.Manifest) -> Judge:
    return Judge(manifest, {manifest.detectors[0].name: np.arange(300, dtype=np.float32)})


def test_decisions_are_p_values_at_most_alpha(judge: Judge) -> None:
    verdicts = judge.judge(np.array([[299.0], [285.0], [284.0], [-1.0]], np.float32), Question(0.05))
    np.testing.assert_allclose(verdicts.p_values, np.array([2, 16, 17, 301]) / 301)
    assert verdicts.flagged.tolist() == [True, False, False, False]


def test_a_score_that_is_no_number_is_flagged_and_counted(judge: Judge) -> None:
    verdicts = judge.judge(np.array([[np.nan], [np.inf], [0.0]], np.float32), Question(0.05))
    assert verdicts.flagged.tolist() == [True, True, False]
    assert verdicts.num_not_finite == 2


def test_the_bundles_level_is_the_default(judge: Judge) -> None:
    assert judge.question(None, "marginal", "per_row") == Question(0.05)
    assert judge.question(1 / 301, "marginal", "per_row").alpha == 1 / 301


@pytest.mark.parametrize("alpha", [0.0, -1.0, 1.0, 2.0, float("nan"), 1 / 302])
def test_a_level_that_cannot_be_kept_is_refused(judge: Judge, alpha: float) -> None:
    with pytest.raises(InvalidInput, match=r"alpha: got .*expected 0.00332 .the smallest marginal p-value that 300"):
        judge.question(alpha, "marginal", "per_row")


def test_without_calibration_there_is_no_score(manifest: bundle.Manifest) -> None:
    graphs = {name: graph for name, graph in manifest.graphs.items() if name != "scorer"}
    bare = replace(manifest, graphs=graphs, detectors=(), default_alpha=0.0)
    with pytest.raises(Unsupported, match="digits-vae version 1 has no calibrated detector"):
        Judge(bare, {}).question(None, "marginal", "per_row")


def test_a_conditional_p_value_is_larger_and_its_smallest_too(judge: Judge) -> None:
    scores = np.array([[299.0], [285.0], [200.0], [-1.0]], np.float32)
    marginal = judge.judge(scores, Question(0.05))
    conditional = judge.judge(scores, Question(0.05, "conditional"))
    np.testing.assert_array_equal(conditional.marginal_p_values, marginal.p_values)
    assert (conditional.p_values[:3] > marginal.p_values[:3]).all()
    np.testing.assert_array_equal(conditional.detector_p_values[:, 0], conditional.p_values)
    with pytest.raises(InvalidInput, match="expected 0.0152 .the smallest conditional p-value that 300"):
        judge.question(0.01, "conditional", "per_row")
    assert judge.question(0.01, "marginal", "per_row").alpha == 0.01


def test_a_default_level_that_cannot_be_kept_is_called_the_bundles(manifest: bundle.Manifest) -> None:
    low = replace(manifest, default_alpha=0.01)
    calibration = {manifest.detectors[0].name: np.arange(300, dtype=np.float32)}
    with pytest.raises(InvalidInput, match=r"got 0.01 \(the bundle's default\)"):
        Judge(low, calibration).question(None, "conditional", "per_row")


def test_the_false_discovery_rate_looks_at_all_rows(judge: Judge) -> None:
    strange, usual = np.full((10, 1), 400.0, np.float32), np.linspace(0, 280, 10, dtype=np.float32)[:, None]
    some = judge.judge(np.concatenate([strange, usual]), Question(0.01, decision="false_discovery_rate"))
    assert some.flagged.tolist() == [True] * 10 + [False] * 10
    one = judge.judge(np.concatenate([strange[:1], usual]), Question(0.01, decision="false_discovery_rate"))
    assert not one.flagged.any()  # 1 / 301 > 0.01 / 11
    assert judge.judge(strange[:1], Question(0.01)).flagged.all()


def test_every_detector_has_p_values_of_its_own_and_the_first_decides(bundle_folder: Path) -> None:
    whole = bundle.load(bundle_folder)
    calibration = {
        detector.name: np.arange(300, dtype=np.float32) * (1 + column)
        for column, detector in enumerate(whole.detectors)
    }
    verdicts = Judge(whole, calibration).judge(np.full((2, len(whole.detectors)), 299.0, np.float32), Question(0.05))
    expected = [(1 + np.sum(scores >= 299)) / 301 for scores in calibration.values()]
    np.testing.assert_allclose(verdicts.detector_p_values, [expected, expected])
    np.testing.assert_array_equal(verdicts.p_values, verdicts.detector_p_values[:, 0])


@pytest.fixture(scope="module")
def two(bundle_folder: Path) -> Judge:
    """Of two detectors: 99 rows calibrated the first, 19 the second."""
    whole = bundle.load(bundle_folder)
    sizes = {"first": 99, "second": 19}
    detectors = tuple(
        replace(one, name=name, num_calibration_rows=num)
        for one, (name, num) in zip(whole.detectors[:2], sizes.items(), strict=True)
    )
    calibration = {name: np.arange(num, dtype=np.float32) for name, num in sizes.items()}
    return Judge(replace(whole, detectors=detectors), calibration)


def test_the_first_of_two_detectors_decides_whatever_is_asked(two: Judge) -> None:
    scores = np.array([[98.5, 0.0], [0.0, 18.5]], np.float32)
    for decision in ("per_row", "false_discovery_rate"):
        verdicts = two.judge(scores, Question(0.05, decision=decision))  # type: ignore[arg-type]
        np.testing.assert_allclose(verdicts.detector_p_values, [[0.01, 1.0], [1.0, 0.05]])
        assert verdicts.flagged.tolist() == [True, False]
        for p in (verdicts.p_values, verdicts.marginal_p_values):
            np.testing.assert_allclose(p, [0.01, 1.0])
        np.testing.assert_array_equal(verdicts.scores, scores)


def test_the_level_is_held_against_what_the_deciding_detector_can_give(two: Judge) -> None:
    assert two.question(0.01, "marginal", "per_row").alpha == 0.01  # the second could give 0.05 at best
    with pytest.raises(InvalidInput, match=r"alpha: got 0.009, expected 0.01 .the smallest marginal p-value that 99"):
        two.question(0.009, "marginal", "per_row")


def test_a_row_counts_once_as_no_number_however_many_of_its_scores_are_none(two: Judge) -> None:
    scores = np.array([[np.nan, 1.0], [1.0, np.inf], [np.nan, np.nan], [1.0, 1.0]], np.float32)
    assert two.judge(scores, Question(0.05)).num_not_finite == 3
