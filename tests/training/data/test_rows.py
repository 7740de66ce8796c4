"""Rows, their splits, and what is cut from them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from training.data.long_rows import long_rows
from training.data.rows import (
    FEWEST_CALIBRATION_UNITS,
    AudioShape,
    Data,
    DataError,
    ImageShape,
    Rows,
    split_off,
    three_splits,
)
from training.data.sizes import Size, resized


def numbered(num: int) -> NDArray[np.uint8]:
    """Images that are all different, [num, 2, 2, 1]."""
    return np.arange(num, dtype="<u4").view(np.uint8).reshape(num, 2, 2, 1)


def clips(*lengths: int, num_samples: int = 10) -> NDArray[np.int16]:
    """Clips of ones, twos, ... of so many samples, padded with zeros."""
    return np.array([[i + 1] * num + [0] * (num_samples - num) for i, num in enumerate(lengths)], np.int16)


def test_some_rows_keep_all_that_is_known_of_them() -> None:
    known = [np.arange(5) + start for start in (10, 20, 30, 40)]
    rows = Rows(numbered(5), known[0], known[1], known[2][:, None], known[3])
    taken = rows.take(np.array([3, 1]))
    np.testing.assert_array_equal(taken.values, numbered(5)[[3, 1]])
    assert taken.labels_N is not None
    assert taken.groups_N is not None
    assert taken.factors_NF is not None
    assert taken.units_N is not None
    assert taken.labels_N.tolist() == [13, 11]
    assert taken.groups_N.tolist() == [23, 21]
    assert taken.factors_NF.tolist() == [[33], [31]]
    assert taken.units_N.tolist() == [43, 41]
    bare = Rows(numbered(5)).take(slice(1, 4))
    assert (len(bare), bare.labels_N, bare.groups_N, bare.factors_NF, bare.units_N) == (3, None, None, None, None)


def test_rows_without_others_are_the_rest_in_their_order() -> None:
    rows = Rows(numbered(6), labels_N=np.arange(6))
    left = rows.without(Rows(numbered(9)[[1, 4, 8]]))
    assert left.labels_N is not None
    assert left.labels_N.tolist() == [0, 2, 3, 5]
    assert rows.without(Rows(numbered(9)[6:])) is rows
    with pytest.raises(DataError, match="got 3 training rows that all equal a test row, expected some that do not"):
        Rows(numbered(3)).without(rows)


def test_twins_are_of_one_unit() -> None:
    rows = Rows(numbered(3)[[0, 1, 0, 2]], labels_N=np.arange(4)).with_twins()
    assert rows.units_N is not None
    assert rows.units_N[0] == rows.units_N[2]
    assert len(set(rows.units_N)) == 3
    assert rows.labels_N is not None
    assert rows.labels_N.tolist() == [0, 1, 2, 3]


def test_a_data_set_says_what_a_row_is_and_what_its_training_rows_are() -> None:
    images = Data("set", Rows(np.zeros((4, 6, 6, 3), np.uint8)), Rows(numbered(1)), Rows(numbered(2)))
    assert images.shape == ImageShape(6, 3)
    assert images.training_rows is images.train.values
    assert images.test_rows is images.test.values
    expected = hashlib.sha256(images.train.values.tobytes()).hexdigest()
    assert images.fingerprint == expected
    backwards = Data(
        "set", Rows(np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)[::-1]), Rows(numbered(1)), images.test
    )
    assert backwards.fingerprint == hashlib.sha256(backwards.train.values.tobytes()).hexdigest()


def test_training_rows_of_sound_are_2_56_seconds_long() -> None:
    train, test = Rows(clips(*[10] * 64)), Rows(clips(*[10] * 25))
    sound = Data("set", train, train, test, sample_rate_hz=100)
    assert sound.shape == AudioShape(100, 10)
    assert sound.training_rows.shape == (2, 256)
    assert sound.test_rows.shape == (0, 256)


def test_long_rows_are_clips_of_one_group_without_their_padding_each_sample_once() -> None:
    values = clips(3, 5, 4, 2, 6)
    found = long_rows(values, np.array([7, 2, 7, 2, 7]), 4)
    assert found.tolist() == [[2, 2, 2, 2], [1, 1, 1, 3], [3, 3, 3, 5], [5, 5, 5, 5]]
    assert long_rows(values, None, 10).tolist() == [[1] * 3 + [2] * 5 + [3] * 2, [3] * 2 + [4] * 2 + [5] * 6]
    begins_silent = np.array([[0, 0, 1, 0]], np.int16)  # silence before a sound is not padding
    assert long_rows(begins_silent, None, 3).tolist() == [[0, 0, 1]]


def test_images_are_resized_only_where_their_size_is_another() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 2), np.uint8)
    assert resized(images, None) is images
    assert resized(images, Size(6, 6)) is images
    flat = np.full((2, 6, 4, 1), [[[[9]]], [[[200]]]], np.uint8)
    for height, width in ((4, 4), (6, 6), (4, 8)):
        made = resized(flat, Size(height, width))
        assert made.shape == (2, height, width, 1)
        assert made[0].max() >= 9 > made[0].min() or (made[0] == 9).all()
        assert made[1].max() == 200


@pytest.mark.parametrize(("num", "split"), [(3, 1), (19, 1), (20, 2), (1009, 100)])
def test_a_tenth_calibrates_a_tenth_is_for_test_and_one_at_least(num: int, split: int) -> None:
    data = three_splits("set", Rows(numbered(num)), 0)
    assert [len(rows) for rows in (data.train, data.calibration, data.test)] == [num - 2 * split, split, split]
    assert (data.spec, data.sample_rate_hz) == ("set", None)
    assert three_splits("set", Rows(clips(*range(1, 9))), 0, 8000).sample_rate_hz == 8000


@pytest.mark.parametrize(
    ("num_units", "calibration"), [(3, 1), (4, 1), (40, 10), (80, FEWEST_CALIBRATION_UNITS), (300, 30)]
)
def test_of_grouped_rows_up_to_a_quarter_of_the_units_calibrate(num_units: int, calibration: int) -> None:
    num = 3 * num_units
    data = three_splits("set", Rows(numbered(num), units_N=np.arange(num) % num_units), 1)
    assert (len(data.calibration), len(data.test)) == (calibration, max(1, num_units // 10))
    assert len(data.train) == 3 * (num_units - len(data.calibration) - len(data.test))


def test_another_seed_draws_other_rows_and_the_same_seed_the_same_in_ascending_order() -> None:
    rows = Rows(numbered(40), labels_N=np.arange(40))
    drawn = [split_off(rows, 10, seed)[1].labels_N for seed in (1, 1, 2)]
    first, again, other = (None if labels is None else labels.tolist() for labels in drawn)
    assert first is not None
    assert first == again == sorted(first)
    assert first != other
    rest, _ = split_off(rows, 10, 1)
    assert rest.labels_N is not None
    assert rest.labels_N.tolist() == sorted(set(range(40)) - set(first))


def test_one_group_is_too_few_and_three_are_enough() -> None:
    for num, said in ((1, "got 1 group of 30 rows"), (2, "got 2 groups of 30 rows")):
        with pytest.raises(DataError, match=said):
            three_splits("set", Rows(numbered(30), units_N=np.arange(30) % num), 0)
    data = three_splits("set", Rows(numbered(30), units_N=np.arange(30) % 3), 0)
    assert [len(rows) for rows in (data.train, data.calibration, data.test)] == [10, 1, 1]


def test_two_different_rows_are_too_few_to_keep_twins_together_and_three_are_enough(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = three_splits("set", Rows(numbered(2)[np.arange(30) % 2]), 0)
    assert [len(rows) for rows in (data.train, data.calibration, data.test)] == [24, 3, 3]
    assert "different rows: 2, too few not to part twins, so alpha promises nothing" in capsys.readouterr().err
    data = three_splits("set", Rows(numbered(3)[np.arange(30) % 3]), 0)
    assert [len(rows) for rows in (data.train, data.calibration, data.test)] == [10, 1, 1]
    assert "twins are not parted" in capsys.readouterr().err


def test_a_message_that_names_a_file_can_be_printed() -> None:
    assert str(DataError("no \udcff.png")).encode()
    assert (ImageShape(1, 1).modality, AudioShape(1, 1).modality) == ("image", "audio")


def test_what_is_said_of_twins_ends_with_what_to_do_unless_it_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    values = numbered(30)[np.r_[np.arange(30), 4]]
    said = (
        "set: 2 of 31 rows have a twin, a row that equals them: twins are not parted, and count once where scores are"
    )
    said += " calibrated and figures made"
    three_splits("set", Rows(values), 0)
    advice = "; if others are nearly equal, or of one recording, use --group-by"
    assert capsys.readouterr().err == f"{said}{advice}\n"
    three_splits("set", Rows(values, units_N=np.arange(31)), 0)
    assert capsys.readouterr().err == f"{said}\n"
