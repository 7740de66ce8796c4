from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latentserve import bundle
from latentserve.errors import InvalidInput, Unsupported
from service.scoring import Judge


@pytest.fixture(scope="module")
def manifest(bundle_folder: Path) -> bundle.Manifest:
    return bundle.load(bundle_folder)


@pytest.fixture(scope="module")
def judge(manifest: bundle.Manifest) -> Judge:
    return Judge(manifest, {manifest.detectors[0].name: np.arange(300, dtype=np.float32)})


def test_decisions_are_p_values_at_most_alpha(judge: Judge) -> None:
    verdicts = judge.judge(np.array([[299.0], [285.0], [284.0], [-1.0]], np.float32), 0.05)
    np.testing.assert_allclose(verdicts.p_values, np.array([2, 16, 17, 301]) / 301)
    assert verdicts.flagged.tolist() == [True, False, False, False]


def test_a_score_that_is_no_number_is_flagged_and_counted(judge: Judge) -> None:
    verdicts = judge.judge(np.array([[np.nan], [np.inf], [0.0]], np.float32), 0.05)
    assert verdicts.flagged.tolist() == [True, True, False]
    assert verdicts.num_not_finite == 2


def test_the_bundles_level_is_the_default(judge: Judge) -> None:
    assert judge.check_alpha(None) == 0.05
    assert judge.check_alpha(1 / 301) == 1 / 301


@pytest.mark.parametrize("alpha", [0.0, -1.0, 1.0, 2.0, float("nan"), 1 / 302])
def test_a_level_that_cannot_be_kept_is_refused(judge: Judge, alpha: float) -> None:
    with pytest.raises(InvalidInput, match=r"alpha: got .*expected 0.00332 .the smallest p-value that 300"):
        judge.check_alpha(alpha)


def test_without_calibration_there_is_no_score(manifest: bundle.Manifest) -> None:
    graphs = {name: graph for name, graph in manifest.graphs.items() if name != "scorer"}
    bare = replace(manifest, graphs=graphs, detectors=(), default_alpha=0.0)
    with pytest.raises(Unsupported, match="digits-vae version 1 has no calibrated detector"):
        Judge(bare, {}).check_alpha(None)
