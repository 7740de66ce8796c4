"""The rows of a data set and their splits.

A row is what the model takes: an image, uint8 [H, W, C], or a clip of sound, int16 [T].

Shape legend: N rows, H height, W width, C channels, T samples, F factors.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from latentserve import records
from latentserve.inputs import ImageInput, Resize
from training.data.errors import DataError as DataError
from training.data.lazy import Lazy, fingerprint_of
from training.data.long_rows import LONG_ROW_SECONDS, long_rows
from training.data.parting import parted
from training.data.shares import Calibration
from training.data.units import FEWEST_UNITS, count, drawn, equal_rows, merged, row_digests

CALIBRATION_SHARE = TEST_SHARE = 0.1
FEWEST_CALIBRATION_UNITS = 19
"""As few as can keep a level of 5 %. Where rows are grouped, up to a quarter of the units are spent on them."""
Values = NDArray[Any]
"""Rows as data sets hold them and clients send them: images, uint8 [N, H, W, C], or clips of sound, int16 [N, T]."""
OF_ROWS = ("labels_N", "groups_N", "factors_NF", "units_N", "names_N")
"""What `Rows` says of each row besides its values."""


@dataclass(frozen=True)
class ImageShape:
    """Images: uint8, 0 (black) to 255 (white).

    Attributes:
        image_size: height, and width of square ones.
        channels: 1 (grey) or 3 (RGB).
        modality: tells them from sounds.
        width: of images that are not square, else None: as of runs that are older than it.
        resize: how images of other sizes become such.
    """

    image_size: int
    channels: int
    modality: Literal["image"] = "image"
    width: int | None = None
    resize: Resize = Resize()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        if self.width == self.image_size:
            object.__setattr__(self, "width", None)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image_size, self.image_size if self.width is None else self.width

    @property
    def input(self) -> ImageInput:
        """As `latentserve.images` takes it."""
        return ImageInput(*self.size, self.channels, resize=self.resize)


@dataclass(frozen=True)
class AudioShape:
    """Clips of `num_samples` samples, one channel: int16."""

    sample_rate_hz: int
    num_samples: int
    modality: Literal["audio"] = "audio"


@dataclass(frozen=True)
class Rows:
    """Rows of one split.

    Attributes:
        values: uint8 [N, H, W, C] or int16 [N, T]. Images that memory should not hold are a `Lazy`, which has the same
            shape and indices; whoever reads rows takes some at a time, `np.asarray(values[a:b])`.
        labels_N: int64 class of each row, or None where there are none. Never trained on.
        groups_N: int64 source of each row (its speaker), or None where it is not known.
        factors_NF: int64 value of each generative factor, 0 and up, or None where they are not known. Never
            trained on.
        units_N: int64 sampling unit of each row, or None where each row is one: see `training.data.units`.
        names_N: str, the file that each row was read from, or None where there is none of its own. For reports only.
        label_names: of the classes, by their numbers; none where the numbers say all.
    """

    values: Values
    labels_N: NDArray[np.int64] | None = None
    groups_N: NDArray[np.int64] | None = None
    factors_NF: NDArray[np.int64] | None = None
    units_N: NDArray[np.int64] | None = None
    names_N: NDArray[np.object_] | None = None
    label_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: NDArray[Any] | slice) -> Rows:
        """Some of the rows."""
        return self._with(self.values[rows], rows)

    def parted(self, parts: Sequence[NDArray[Any]]) -> list[Rows]:
        """What `take` makes of each part, without a copy: the values are moved in their own memory. They are ours."""
        if isinstance(self.values, Lazy):
            return [self.take(rows) for rows in parts]
        return [self._with(values, rows) for values, rows in zip(parted(self.values, parts), parts, strict=True)]

    def _with(self, values: Values, rows: NDArray[Any] | slice) -> Rows:
        known = {name: getattr(self, name) for name in OF_ROWS}
        taken = {name: None if of_rows is None else of_rows[rows] for name, of_rows in known.items()}
        return Rows(values, **taken, label_names=self.label_names)

    def name_of(self, label: int) -> str:
        """The class of a number."""
        return self.label_names[label] if label < len(self.label_names) else str(label)

    def with_twins(self) -> Rows:
        """The same rows, equal ones of one unit."""
        return replace(self, units_N=merged(self.units_N, equal_rows(self.values)))

    def without(self, others: Rows) -> Rows:
        """The rows that equal none of the others.

        Raises:
            DataError: there are none.
        """
        taken = set(row_digests(others.values))
        fresh_N = np.array([digest not in taken for digest in row_digests(self.values)], np.bool_)
        if not fresh_N.any():
            raise DataError(f"got {len(self)} training rows that all equal a test row, expected some that do not")
        return self if fresh_N.all() else self.take(fresh_N)


@dataclass(frozen=True)
class Data:
    """A data set in three splits that share no row.

    Attributes:
        spec: what it was loaded by.
        train: the only split that is trained on.
        calibration: for out-of-distribution scores.
        test: for figures.
        sample_rate_hz: of audio, else None.
        resize: how images of other sizes become rows.
    """

    spec: str
    train: Rows
    calibration: Rows
    test: Rows
    sample_rate_hz: int | None = None
    resize: Resize = Resize()  # noqa: RUF009 (frozen)

    @property
    def shape(self) -> ImageShape | AudioShape:
        """The shape of one row."""
        if self.sample_rate_hz is not None:
            return AudioShape(self.sample_rate_hz, self.train.values.shape[1])
        _, height, width, channels = self.train.values.shape
        return ImageShape(height, channels, width=width, resize=self.resize)

    @property
    def training_rows(self) -> Values:
        """The rows that batches are taken from: the training split, or for audio its long rows."""
        return self._long_rows(self.train)

    @property
    def test_rows(self) -> Values:
        """The same of the test split; there may be none."""
        return self._long_rows(self.test)

    def _long_rows(self, split: Rows) -> Values:
        if self.sample_rate_hz is None:
            return split.values
        return long_rows(split.values, split.groups_N, int(LONG_ROW_SECONDS * self.sample_rate_hz))

    @property
    def fingerprint(self) -> str:
        """sha256 of the training rows in their order, in hex; that of their digests if memory does not hold them."""
        values: object = self.train.values
        if isinstance(values, Lazy):
            return values.fingerprint
        return hashlib.sha256(np.ascontiguousarray(self.train.values).data).hexdigest()

    def has_fingerprint(self, wanted: str) -> bool:
        """Whether it is that of these rows, whether memory held them or not when it was made."""
        if wanted == self.fingerprint:
            return True
        values: object = self.train.values
        if isinstance(values, Lazy):
            return wanted == values.sha256()
        return wanted == fingerprint_of(self.train.values.shape, row_digests(self.train.values))


def three_splits(
    spec: str,
    rows: Rows,
    seed: int,
    sample_rate_hz: int | None = None,
    in_place: bool = False,
    calibration: Calibration | None = None,
    tests: bool = True,
) -> Data:
    """A set that brings no splits: 80 % training rows, 10 % for calibration, 10 % for test, drawn by the seed.

    Units are drawn, not rows, and equal rows are of one unit: see `training.data.units`.

    Args:
        spec: of the data.
        rows: all of them.
        seed: of the draw.
        sample_rate_hz: of audio.
        in_place: whether the values are nobody else's: then they are moved and not copied.
        calibration: how many calibrate; None: a tenth, as of runs that are older than the choice.
        tests: whether some are for test; no: the set has others.

    Raises:
        DataError: what the user grouped by, and equal rows, leave fewer than three units.
    """
    twins = _together(spec, rows)
    num_units = count(twins.units_N, len(twins))
    num_test = max(1, int(num_units * TEST_SHARE)) if tests else 0
    num_calibration = _num_calibration(num_units, num_test, twins.units_N is not None, calibration)
    rest, test = _places(twins.units_N, len(twins), num_test, seed)
    units_N = None if twins.units_N is None else twins.units_N[rest]
    of_train, of_calibration = _places(units_N, len(rest), num_calibration, seed)
    parts = [rest[of_train], rest[of_calibration], test]
    train, calibrating, held_out = twins.parted(parts) if in_place else [twins.take(part) for part in parts]
    return Data(spec, train, calibrating, held_out, sample_rate_hz)


def _num_calibration(num_units: int, num_test: int, grouped: bool, calibration: Calibration | None) -> int:
    if calibration is not None:
        return calibration.num_of(num_units, num_test)
    num = max(1, int(num_units * CALIBRATION_SHARE))
    return max(num, min(FEWEST_CALIBRATION_UNITS, num_units // 4)) if grouped else num


def _together(spec: str, rows: Rows) -> Rows:
    """The rows with their twins, of which the user is told."""
    equal_N = equal_rows(rows.values)
    units_N = merged(rows.units_N, equal_N)
    num_units = count(units_N, len(rows))
    if rows.units_N is not None and num_units < FEWEST_UNITS:
        raise DataError(
            f"group_by: got {num_units} group{'s' * (num_units != 1)} of {len(rows)} rows, equal ones taken together,"
            f" expected {FEWEST_UNITS} or more"
        )
    if equal_N is None:
        return rows
    num_twins = int((np.bincount(equal_N)[equal_N] > 1).sum())
    said = f"{spec}: {num_twins} of {len(rows)} rows have a twin, a row that equals them"
    if num_units < FEWEST_UNITS:
        say(f"{said}; different rows: {num_units}, too few not to part twins, so alpha promises nothing of new ones")
        return rows
    advice = "" if rows.units_N is not None else "; if others are nearly equal, or of one recording, use --group-by"
    say(f"{said}: twins are not parted, and count once where scores are calibrated and figures made{advice}")
    return replace(rows, units_N=units_N)


def split_off(rows: Rows, num_units: int, seed: int) -> tuple[Rows, Rows]:
    """Two disjoint parts of a set, drawn by the seed: the rest, and a row of each of `num_units` units."""
    rest, chosen = _places(rows.units_N, len(rows), num_units, seed)
    return rows.take(rest), rows.take(chosen)


def _places(
    units_N: NDArray[np.int64] | None, num_rows: int, num_units: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which rows `split_off` returns, each in ascending order."""
    order = np.random.default_rng([seed, num_rows]).permutation(num_rows)
    chosen, rest = drawn(units_N, order, num_units)
    return np.sort(rest), np.sort(chosen)


def say(line: str) -> None:
    """A line for the user, on stderr."""
    print(records.printable(line), file=sys.stderr)
