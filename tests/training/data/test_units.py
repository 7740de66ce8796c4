"""Rows that belong together are never parted, and count once where scores are calibrated."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.data import DataError, load_data, shapes
from training.data.rows import Rows, split_off, three_splits
from training.data.units import components, count, drawn, equal_rows, merged, row_digests
from training.evaluation.probes import INVERSE_L2S, choose_inverse_l2
from training.evaluation.report import some_rows
from training.running.run import Run


def numbered(num: int) -> NDArray[np.uint8]:
    """Images that are all different, [num, 2, 2, 1]."""
    return np.arange(num, dtype="<u4").view(np.uint8).reshape(num, 2, 2, 1)


def sha256(rows: Rows) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows.values).data).hexdigest()[:12]


def digests(rows: Rows) -> set[bytes]:
    return set(row_digests(rows.values))


def test_without_twins_splits_are_what_they_have_always_been() -> None:
    """Recorded figures and the runs that people have depend on it."""
    data = load_data("digits")
    assert [sha256(rows) for rows in (data.train, data.calibration, data.test)] == [
        "5238f97c43b0",
        "131ea2a34712",
        "1717a8b0a633",
    ]
    values = numbered(137)
    order = np.random.default_rng([5, 137]).permutation(137)
    test, rest = np.sort(order[:13]), np.sort(order[13:])
    order = np.random.default_rng([5, 124]).permutation(124)
    found = three_splits("set", Rows(values), 5)
    np.testing.assert_array_equal(found.test.values, values[test])
    np.testing.assert_array_equal(found.calibration.values, values[rest[np.sort(order[:13])]])
    np.testing.assert_array_equal(found.train.values, values[rest[np.sort(order[13:])]])


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=4, max_size=60), seed=st.integers(0, 20), given_units=st.booleans())
def test_a_unit_lies_on_one_side_and_what_is_split_off_has_one_row_of_it(
    sizes: list[int], seed: int, given_units: bool
) -> None:
    unit_of = np.repeat(np.arange(len(sizes)), sizes)
    shuffled = np.random.default_rng(0).permutation(unit_of)
    labels = np.arange(len(shuffled))
    values = numbered(len(shuffled)) if given_units else numbered(len(sizes))[shuffled]
    data = three_splits("set", Rows(values, labels, units_N=shuffled if given_units else None), seed)
    splits: list[Any] = [split.labels_N for split in (data.train, data.calibration, data.test)]
    train, calibration, test = (shuffled[rows] for rows in splits)
    assert not set(train) & set(calibration)
    assert not set(train) & set(test)
    assert not set(calibration) & set(test)
    assert set(train) | set(calibration) | set(test) == set(unit_of)
    assert len(set(calibration)) == len(calibration)
    assert len(set(test)) == len(test) == max(1, len(sizes) // 10)
    for unit in set(train):
        assert (train == unit).sum() == sizes[unit]


def test_a_unit_of_many_rows_calibrates_as_often_as_one_of_a_single_row_and_any_row_of_it_does() -> None:
    sizes = np.r_[[8], np.ones(92, int)]
    units = np.repeat(np.arange(93), sizes)
    rows = Rows(numbered(100), labels_N=np.arange(100), units_N=units)
    kept = [split_off(rows, 31, seed)[1].labels_N for seed in range(1200)]
    of_large = np.concatenate([labels[labels < 8] for labels in kept if labels is not None])
    assert 340 < len(of_large) < 460  # a third of 1,200: 400, standard deviation 16
    assert np.bincount(of_large, minlength=8).min() > 25  # an eighth of 400: 50, standard deviation 7


def test_what_most_inputs_look_like_stays_in_training() -> None:
    """A camera that froze for half of its frames: an encoder that has never seen them would give them high scores."""
    values = numbered(101)[np.r_[np.zeros(100, int), np.arange(1, 101)]]
    for seed in range(30):
        data = three_splits("set", Rows(values), seed)
        assert (data.train.values == 0).all(axis=(1, 2, 3)).sum() == 100
        assert len(data.calibration) == 19  # as few as keep 5 %: a tenth of the units would be ten


def test_the_user_is_told_how_many_rows_have_a_twin(capsys: pytest.CaptureFixture[str]) -> None:
    values = numbered(50)[np.r_[np.arange(50), [7, 7, 9]]]
    three_splits("folder:x", Rows(values), 0)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "folder:x: 5 of 53 rows have a twin" in said
    assert "--group-by" in said
    three_splits("folder:x", Rows(values, units_N=np.arange(53)), 0)
    said = capsys.readouterr().err
    assert "5 of 53 rows have a twin" in said
    assert "--group-by" not in said
    three_splits("folder:x", Rows(numbered(50)), 0)
    assert capsys.readouterr().err == ""


def test_where_fewer_than_three_rows_differ_there_is_nothing_to_draw(capsys: pytest.CaptureFixture[str]) -> None:
    data = three_splits("set", Rows(np.zeros((240, 2, 2, 1), np.uint8)), 0)
    assert [len(split) for split in (data.train, data.calibration, data.test)] == [192, 24, 24]
    assert "240 of 240 rows have a twin, a row that equals them; different rows: 1, too few" in capsys.readouterr().err
    for values, units in ((numbered(2)[np.arange(30) % 2], np.arange(30)), (numbered(30), np.arange(30) % 2)):
        with pytest.raises(DataError, match="got 2 groups of 30 rows, equal ones taken together, expected 3 or more"):
            three_splits("set", Rows(values, units_N=units), 0)


def test_what_hangs_together_through_others_stays_together() -> None:
    together = merged(np.array([0, 0, 1, 1, 2, 3]), np.array([5, 6, 6, 7, 8, 9]))
    assert together is not None
    assert len(set(together[:4])) == 1
    assert len(set(together)) == 3
    assert merged(None, None) is None
    assert equal_rows(numbered(9)) is None


def test_drawing_leaves_a_unit_at_least() -> None:
    chosen, rest = drawn(np.array([0, 0, 1, 1, 2]), np.arange(5), 9)
    assert len(chosen) == 2
    assert len(rest)


def test_a_sample_of_rows_is_one_of_rows() -> None:
    rows = Rows(numbered(9)[np.arange(90) % 9]).with_twins()
    assert len(some_rows(rows, 40)) == 40


def test_copies_of_files_stay_on_one_side(tmp_path: Path, encode: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for i in range(40):
        image = encode(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        for album in ("2023", "phone", "shared"):
            (tmp_path / album).mkdir(exist_ok=True)
            (tmp_path / album / f"{i}.png").write_bytes(image)
    data = load_data(f"folder:{tmp_path}", image_size=8)
    splits = [digests(rows) for rows in (data.train, data.calibration, data.test)]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 40
    assert [len(data.calibration), len(data.test)] == [10, 4]
    assert len(data.train) == 3 * 26
    assert "120 of 120 rows have a twin" in capsys.readouterr().err


def test_copies_of_clips_stay_on_one_side(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(30):
        clip = rng.integers(-3000, 3000, 400).astype(np.int16)
        for name in (f"{i}.wav", f"{i} copy.wav"):
            soundfile.write(tmp_path / name, clip, 8000)
    data = load_data(f"audio:{tmp_path}", num_samples=400)
    splits = [digests(rows) for rows in (data.train, data.calibration, data.test)]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 30


def test_official_splits_share_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from training.data import mnist

    monkeypatch.setattr(mnist, "NUM_CALIBRATION", 10)
    test = numbered(30)
    train = numbered(130)[np.r_[np.arange(25, 130), np.arange(40, 60)]]  # five of the test set, twenty twins
    monkeypatch.setattr(mnist, "_read", lambda is_train, size: Rows(train if is_train else test))
    data = load_data("mnist")
    assert len(data.test) == 30
    splits = [digests(rows) for rows in (data.train, data.calibration, data.test)]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 130
    with pytest.raises(DataError, match="got 30 training rows that all equal a test row"):
        Rows(test).without(Rows(test))


def test_no_two_splits_of_shapes_have_equal_images_and_training_rows_are_what_they_were() -> None:
    data = load_data("shapes", image_size=8)
    splits = [digests(rows) for rows in (data.train, data.calibration, data.test)]
    assert sum(map(len, splits)) == len(set.union(*splits))
    assert [len(data.train), len(data.calibration), len(data.test)] == [50_000, 5000, 5000]
    first = np.random.default_rng(0).permutation(shapes.NUM_SHAPES)[: shapes.NUM_TRAIN]
    np.testing.assert_array_equal(data.train.factors_NF, shapes.factors(first))


def test_a_probes_l2_is_chosen_on_rows_that_equal_none_it_was_fitted_on() -> None:
    """Labels by chance: on copies of what it was fitted on the weakest L2 would do best."""
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(300, 150)), rng.integers(0, 2, 300)
    copies = np.arange(900) % 300
    assert choose_inverse_l2(features[copies], labels[copies]) < INVERSE_L2S[-1]


def test_a_run_of_before_has_no_groups(run_folder: Path) -> None:
    import json

    from latentserve import records

    before = json.loads((run_folder / "run.json").read_text())
    del before["group_by"]
    run = records.from_json(Run, before)
    assert run.group_by is None
    run.load_data()


def test_where_all_rows_are_of_one_unit_rows_are_drawn_and_of_two_units_one() -> None:
    order = np.array([3, 0, 4, 1, 2])
    for units in (None, np.full(5, 7)):
        chosen, rest = drawn(units, order, 2)
        assert (chosen.tolist(), rest.tolist()) == ([3, 0], [4, 1, 2])
    units = np.array([0, 1, 1, 0, 1])
    chosen, rest = drawn(units, order, 1)
    assert len(chosen) == 1
    assert rest.tolist() == [row for row in order if units[row] != units[chosen[0]]]


def draws(units: NDArray[np.int64], num_units: int) -> list[set[int]]:
    """Which units are drawn, in fifty draws."""
    rng = np.random.default_rng(0)
    return [set(units[drawn(units, rng.permutation(len(units)), num_units)[0]].tolist()) for _ in range(50)]


@pytest.mark.parametrize(("size", "is_drawn"), [(1, True), (9, True), (10, False), (50, False)])
def test_a_unit_of_a_tenth_of_the_rows_is_large(size: int, is_drawn: bool) -> None:
    units = np.r_[np.zeros(size, int), np.arange(1, 101 - size)]
    assert any(0 in found for found in draws(units, 45)) is is_drawn
    assert set.union(*draws(units, 45)) >= set(range(1, 101 - size))


@pytest.mark.parametrize(
    ("num_units", "num_large", "are_drawn"), [(99, 1, False), (100, 2, True), (200, 2, False), (250, 3, True)]
)
def test_one_large_unit_or_a_hundredth_of_the_units_stay_in_training(
    num_units: int, num_large: int, are_drawn: bool
) -> None:
    units = np.r_[np.repeat(np.arange(num_large), num_units // 2), np.arange(num_large, num_units)]
    found = set.union(*draws(units, num_units // 2))
    assert (found & set(range(num_large)) != set()) is are_drawn


def test_what_is_left_is_in_the_order_it_came_in_and_so_is_what_is_drawn() -> None:
    units = np.array([0, 0, 1, 1, 2, 2, 3, 4])
    order = np.random.default_rng(1).permutation(8)
    chosen, rest = drawn(units, order, 3)
    assert len(chosen) == 3
    assert chosen.tolist() == [row for row in order if row in chosen]
    assert rest.tolist() == [row for row in order if units[row] not in units[chosen]]
    for row in chosen:  # of each unit the row that comes first
        assert row == next(one for one in order if units[one] == units[row])


def test_units_are_counted_whatever_their_numbers() -> None:
    assert count(None, 7) == 7
    assert count(np.array([5, -3, 5, 900]), 4) == 3


def test_a_digest_has_16_bytes_and_is_that_of_the_rows_values() -> None:
    rows = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    assert [len(one) for one in row_digests(rows)] == [16] * 3
    assert row_digests(rows[::-1, :, ::-1])[0] == row_digests(rows[2][:, ::-1][None].copy())[0]
    assert equal_rows(rows[[0, 1, 0, 2, 1]]).tolist() == [0, 1, 0, 2, 1]  # type: ignore[union-attr]


def test_merged_units_are_numbers_of_rows_and_one_of_two_may_be_missing() -> None:
    units = np.array([7, 7, -2, 3])
    for found in (merged(units, None), merged(None, units)):
        assert found is units
    found = merged(units, np.array([1, 2, 2, 5]))
    assert found is not None
    assert (found.dtype, len(found)) == (np.int64, 4)
    assert found[0] == found[1] == found[2] != found[3]


def test_components_of_a_graph() -> None:
    found = components(np.array([0, 4]), np.array([1, 1]), 6)
    assert found.dtype == np.int64
    assert found[0] == found[1] == found[4]
    assert len(set(found.tolist())) == 4
