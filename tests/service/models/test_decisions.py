from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latentserve import bundle
from latentserve.errors import InvalidInput, Unsupported
from service.models.decisions import DecisionPolicy, ScoreOptions
from tests.mapped import without_map


@pytest.fixture(scope="module")
def manifest(bundle_folder: Path) -> bundle.Manifest:
    """Of one detector alone."""
    whole = without_map(bundle.load(bundle_folder))
    return replace(whole, detectors=whole.detectors[:1])


@pytest.fixture(scope="module")
def policy(manifest: bundle.Manifest) -> DecisionPolicy:
    return DecisionPolicy(manifest, {manifest.detectors[0].name: np.arange(300, dtype=np.float32)})


def test_decisions_are_p_values_at_most_alpha(policy: DecisionPolicy) -> None:
    decisions = policy.decide(np.array([[299.0], [285.0], [284.0], [-1.0]], np.float32), ScoreOptions(0.05))
    np.testing.assert_allclose(decisions.p_values, np.array([2, 16, 17, 301]) / 301)
    assert decisions.flagged.tolist() == [True, False, False, False]


def test_a_score_that_is_no_number_is_flagged_and_counted(policy: DecisionPolicy) -> None:
    decisions = policy.decide(np.array([[np.nan], [np.inf], [0.0]], np.float32), ScoreOptions(0.05))
    assert decisions.flagged.tolist() == [True, True, False]
    assert decisions.num_not_finite == 2


def test_the_bundles_level_is_the_default(policy: DecisionPolicy) -> None:
    assert policy.options(None, "marginal", "per_row") == ScoreOptions(0.05)
    assert policy.options(1 / 301, "marginal", "per_row").alpha == 1 / 301


@pytest.mark.parametrize("alpha", [0.0, -1.0, 1.0, 2.0, float("nan"), 1 / 302])
def test_a_level_that_cannot_be_kept_is_refused(policy: DecisionPolicy, alpha: float) -> None:
    with pytest.raises(InvalidInput, match=r"alpha: got .*expected 0.00332 .the smallest marginal p-value that 300"):
        policy.options(alpha, "marginal", "per_row")


def test_without_calibration_there_is_no_score(manifest: bundle.Manifest) -> None:
    graphs = {name: graph for name, graph in manifest.graphs.items() if name != "scorer"}
    bare = replace(manifest, graphs=graphs, detectors=(), default_alpha=0.0)
    with pytest.raises(Unsupported, match="digits-vae version 1 has no calibrated detector"):
        DecisionPolicy(bare, {}).options(None, "marginal", "per_row")


def test_a_conditional_p_value_is_larger_and_its_smallest_too(policy: DecisionPolicy) -> None:
    scores = np.array([[299.0], [285.0], [200.0], [-1.0]], np.float32)
    marginal = policy.decide(scores, ScoreOptions(0.05))
    conditional = policy.decide(scores, ScoreOptions(0.05, "conditional"))
    np.testing.assert_array_equal(conditional.marginal_p_values, marginal.p_values)
    assert (conditional.p_values[:3] > marginal.p_values[:3]).all()
    np.testing.assert_array_equal(conditional.detector_p_values[:, 0], conditional.p_values)
    with pytest.raises(InvalidInput, match="expected 0.0152 .the smallest conditional p-value that 300"):
        policy.options(0.01, "conditional", "per_row")
    assert policy.options(0.01, "marginal", "per_row").alpha == 0.01


def test_a_model_that_was_calibrated_crosswise_gives_no_conditional_guarantee(manifest: bundle.Manifest) -> None:
    (detector,) = manifest.detectors
    crosswise = replace(manifest, detectors=(replace(detector, calibration="cross"),))
    policy = DecisionPolicy(crosswise, {detector.name: np.arange(300, dtype=np.float32)})
    assert policy.options(0.05, "marginal", "per_row").alpha == 0.05
    with pytest.raises(Unsupported, match="digits-vae version 1 was calibrated crosswise"):
        policy.options(0.05, "conditional", "per_row")


def test_a_default_level_that_cannot_be_kept_is_called_the_bundles(manifest: bundle.Manifest) -> None:
    low = replace(manifest, default_alpha=0.01)
    calibration = {manifest.detectors[0].name: np.arange(300, dtype=np.float32)}
    with pytest.raises(InvalidInput, match=r"got 0.01 \(the bundle's default\)"):
        DecisionPolicy(low, calibration).options(None, "conditional", "per_row")


def test_the_false_discovery_rate_looks_at_all_rows(policy: DecisionPolicy) -> None:
    ood, in_dist = np.full((10, 1), 400.0, np.float32), np.linspace(0, 280, 10, dtype=np.float32)[:, None]
    some = policy.decide(np.concatenate([ood, in_dist]), ScoreOptions(0.01, decision="false_discovery_rate"))
    assert some.flagged.tolist() == [True] * 10 + [False] * 10
    one = policy.decide(np.concatenate([ood[:1], in_dist]), ScoreOptions(0.01, decision="false_discovery_rate"))
    assert not one.flagged.any()  # 1 / 301 > 0.01 / 11
    assert policy.decide(ood[:1], ScoreOptions(0.01)).flagged.all()


def test_every_detector_has_p_values_of_its_own_and_the_first_decides(bundle_folder: Path) -> None:
    whole = without_map(bundle.load(bundle_folder))
    calibration = {
        detector.name: np.arange(300, dtype=np.float32) * (1 + column)
        for column, detector in enumerate(whole.detectors)
    }
    decisions = DecisionPolicy(whole, calibration).decide(
        np.full((2, len(whole.detectors)), 299.0, np.float32), ScoreOptions(0.05)
    )
    expected = [(1 + np.sum(scores >= 299)) / 301 for scores in calibration.values()]
    np.testing.assert_allclose(decisions.detector_p_values, [expected, expected])
    np.testing.assert_array_equal(decisions.p_values, decisions.detector_p_values[:, 0])


@pytest.fixture(scope="module")
def two(bundle_folder: Path) -> DecisionPolicy:
    """Of two detectors: 99 rows calibrated the first, 19 the second."""
    whole = without_map(bundle.load(bundle_folder))
    sizes = {"first": 99, "second": 19}
    detectors = tuple(
        replace(one, name=name, num_calibration_rows=num)
        for one, (name, num) in zip(whole.detectors[:2], sizes.items(), strict=True)
    )
    calibration = {name: np.arange(num, dtype=np.float32) for name, num in sizes.items()}
    return DecisionPolicy(replace(whole, detectors=detectors), calibration)


def test_the_first_of_two_detectors_decides_whatever_is_asked(two: DecisionPolicy) -> None:
    scores = np.array([[98.5, 0.0], [0.0, 18.5]], np.float32)
    for decision in ("per_row", "false_discovery_rate"):
        decisions = two.decide(scores, ScoreOptions(0.05, decision=decision))  # type: ignore[arg-type]
        np.testing.assert_allclose(decisions.detector_p_values, [[0.01, 1.0], [1.0, 0.05]])
        assert decisions.flagged.tolist() == [True, False]
        for p in (decisions.p_values, decisions.marginal_p_values):
            np.testing.assert_allclose(p, [0.01, 1.0])
        np.testing.assert_array_equal(decisions.scores, scores)


def test_the_level_is_held_against_what_the_deciding_detector_can_give(two: DecisionPolicy) -> None:
    assert two.options(0.01, "marginal", "per_row").alpha == 0.01  # the second could give 0.05 at best
    with pytest.raises(InvalidInput, match=r"alpha: got 0.009, expected 0.01 .the smallest marginal p-value that 99"):
        two.options(0.009, "marginal", "per_row")


def test_a_row_counts_once_as_no_number_however_many_of_its_scores_are_none(two: DecisionPolicy) -> None:
    scores = np.array([[np.nan, 1.0], [1.0, np.inf], [np.nan, np.nan], [1.0, 1.0]], np.float32)
    assert two.decide(scores, ScoreOptions(0.05)).num_not_finite == 3
