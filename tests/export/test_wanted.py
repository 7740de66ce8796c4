"""Which detectors an export fits: those that were asked for, or all but what adds nothing."""

from __future__ import annotations

from export.calibration import Promise
from export.detectors import DETECTORS
from export.detectors.fusion import FUSED
from export.wanted import check_detectors, detectors_of


def test_all_are_all_and_nothing_said_leaves_the_choice_to_what_they_see() -> None:
    single = tuple(name for name in DETECTORS if name not in FUSED)
    assert detectors_of(Promise()) == ()
    for said in (("all",), ("all", "all")):
        check_detectors(Promise(detectors=said))
        assert detectors_of(Promise(detectors=said)) == single
    assert detectors_of(Promise(detectors=("knn", "density"))) == ("knn", "density")


def test_what_is_to_decide_is_not_left_out() -> None:
    assert "patch_bank" in detectors_of(Promise(deciding="patch_bank"))
    assert detectors_of(Promise(deciding="knn")) == ()
    for promise in (Promise(deciding="patch_bank", detectors=("all",)), Promise(deciding="cauchy", detectors=("all",))):
        check_detectors(promise)
