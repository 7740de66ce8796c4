from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from training.data import load_data
from training.data.rows import Data, DataError, Rows
from training.data.subset import Subset
from training.evaluation.ood_sets import IMAGES, SOUNDS, known_sets, ood_rows, saved_as
from training.evaluation.separation import found_rates, separation


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", IMAGES)
def test_ood_images_are_as_many_and_of_the_same_shape(name: str, channels: int) -> None:
    test = np.random.default_rng(5).integers(0, 256, (5, 28, 28, channels), dtype=np.uint8)
    images = ood_rows(name, test)
    assert (images.shape, images.dtype) == (test.shape, test.dtype)
    assert not np.array_equal(images, test)
    np.testing.assert_array_equal(images, ood_rows(name, test))
    other_seed = ood_rows(name, test, seed=1)
    drawn = name in ("noise", "constant", "shapes", "blends")
    assert np.array_equal(images, other_seed) is not drawn


def test_what_the_images_are() -> None:
    test = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 1), dtype=np.uint8)
    np.testing.assert_array_equal(ood_rows("horizontal_flip", test)[:, :, 0], test[:, :, -1])
    np.testing.assert_array_equal(ood_rows("vertical_flip", test)[:, 0], test[:, -1])
    np.testing.assert_array_equal(ood_rows("rotated_90", test)[:, :, 0], test[:, 0, ::-1])
    assert (np.ptp(ood_rows("constant", test), axis=(1, 2, 3)) == 0).all()
    order = np.random.default_rng(0).permutation(9)
    blended = (test.astype(int) + test[order]) // 2
    np.testing.assert_array_equal(ood_rows("blends", test), blended)


def test_ood_sounds_are_as_loud_and_padded_as_the_clips() -> None:
    clips = np.zeros((4, 1000), np.int16)
    clips[:, :600] = np.random.default_rng(0).integers(-3000, 3000, (4, 600))
    assert known_sets(clips) == tuple(SOUNDS)
    backwards = ood_rows("reversed", clips)
    np.testing.assert_array_equal(backwards[:, :600], clips[:, 599::-1])
    assert not backwards[:, 600:].any()
    for name in ("noise", "tone"):
        sound = ood_rows(name, clips)
        assert (sound.shape, sound.dtype) == (clips.shape, clips.dtype)
        np.testing.assert_allclose(sound.std(axis=1), clips.std(axis=1), rtol=0.1)


def test_a_file_saved_again_is_nearly_the_same() -> None:
    images = load_data("digits").test.values[:5]
    np.testing.assert_array_equal(saved_as(images, "PNG"), images)
    again = saved_as(images, "JPEG")
    assert 0 < np.abs(again.astype(int) - images).mean() < 8


def test_the_figures_of_separation_are_read_off_the_roc_curve() -> None:
    rng = np.random.default_rng(0)
    id_scores, ood = rng.normal(0, 1, 400), rng.normal(1.5, 2, 300)
    got = separation(id_scores, ood)
    truth = np.concatenate([np.zeros(400), np.ones(300)])
    false, true, _ = roc_curve(truth, np.concatenate([id_scores, ood]), drop_intermediate=False)
    assert got.fpr_at_95_ood == pytest.approx(false[true >= 0.95][0], abs=1e-12)
    missed, kept, _ = roc_curve(1 - truth, -np.concatenate([id_scores, ood]), drop_intermediate=False)
    assert got.fpr_at_95_id == pytest.approx(missed[kept >= 0.95][0], abs=1e-12)
    assert got.fpr_at_95_id != got.fpr_at_95_ood
    assert separation(id_scores, id_scores).auroc == 0.5
    assert separation(id_scores, np.full(5, np.nan)).auroc == 1.0


@pytest.mark.parametrize("num", [1, 19, 20, 21, 39, 40, 100, 140, 280])
@pytest.mark.parametrize("ties", [False, True])
def test_95_percent_is_not_one_row_more(num: int, ties: bool) -> None:
    """scikit-learn's curve: the smallest false positive rate where the true one is at least 0.95."""
    rng = np.random.default_rng(num)
    id_scores, ood = rng.normal(0, 1, num), rng.normal(1, 1, 2 * num)
    if ties:
        id_scores, ood = np.round(id_scores), np.round(ood)
    got = separation(id_scores, ood)
    truth, scores = np.r_[np.zeros(num), np.ones(2 * num)], np.r_[id_scores, ood]
    for figure, positive, order in ((got.fpr_at_95_ood, truth, scores), (got.fpr_at_95_id, 1 - truth, -scores)):
        false, true, _ = roc_curve(positive, order, drop_intermediate=False)
        assert figure == pytest.approx(false[true >= 0.95].min(), abs=1e-12)


def test_a_curve_of_scores_with_ties_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    id_scores, ood = np.round(rng.normal(0, 1, 90)), np.round(rng.normal(1, 1, 70))
    alarms, found = found_rates({"ID": id_scores, "OOD": ood, "nothing": np.full(4, np.nan)})["OOD"]
    truth = np.r_[np.zeros(90), np.ones(70)]
    false, true, levels = roc_curve(truth, np.r_[id_scores, ood], drop_intermediate=False)
    at_id = np.isin(levels, id_scores)
    np.testing.assert_allclose(alarms, false[at_id])
    np.testing.assert_allclose(found, true[at_id])


def labelled(num: int) -> Rows:
    values = np.arange(num * 4, dtype=np.uint8).reshape(num, 2, 2, 1)
    return Rows(values, np.arange(num) % 3, np.arange(num) % 2)


WHOLE = Data("set", labelled(30), labelled(12), labelled(12))


def test_a_subset_keeps_its_rows_in_every_split() -> None:
    subset = Subset.parse("set[label=0,2]")
    assert subset == Subset("set", "label", (0, 2), True)
    kept = subset.of(WHOLE, "set[label=0,2]")
    assert [len(split) for split in (kept.train, kept.calibration, kept.test)] == [20, 8, 8]
    assert set(np.unique(kept.test.labels_N)) == {0, 2}
    np.testing.assert_array_equal(subset.others(WHOLE).values, WHOLE.test.values[1::3])
    assert kept.fingerprint != WHOLE.fingerprint
    assert Subset.parse("folder:a/b") is None


def test_one_class_has_no_labels_to_probe() -> None:
    subset = Subset.parse("set[label=1]")
    assert subset is not None
    assert subset.of(WHOLE, "set[label=1]").train.labels_N is None


def test_a_held_out_group_is_heard_nowhere() -> None:
    subset = Subset.parse("set[group!=1]")
    assert subset is not None
    kept = subset.of(WHOLE, "set[group!=1]")
    assert set(np.unique(kept.train.groups_N)) == {0}
    assert len(subset.others(WHOLE)) == 27


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digits[label=11]", r"digits\[label=11\] keeps no train row of digits"),
        ("digits[group=1]", "digits has no groups"),
        ("digits[colour=1]", "data: got 'digits\\[colour=1\\]', expected one of"),
    ],
)
def test_a_subset_that_cannot_be_is_rejected(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(spec)


def test_a_spec_of_a_part_loads_that_part() -> None:
    whole: Any = load_data("digits")
    part = load_data("digits[label=3,4]")
    assert part.spec == "digits[label=3,4]"
    expected = whole.train.values[np.isin(whole.train.labels_N, (3, 4))]
    np.testing.assert_array_equal(part.train.values, expected)
