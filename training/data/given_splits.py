"""Splits that a user gives: rows that calibrate or test from another place, and share none with the training rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from training.data.errors import DataError
from training.data.rows import Data, Rows, say
from training.data.shares import Calibration
from training.data.units import count, row_digests


def with_calibration(data: Data, rows: Rows, where: str, seed: int) -> Data:
    """The data with these rows for calibration: without twins of training and test rows, one of each unit.

    Raises:
        DataError: none is left, or they have another shape.
    """
    return replace(data, calibration=_fresh(rows, (data.train, data.test), where, "calibration_data", seed))


def with_test(data: Data, rows: Rows, where: str, seed: int) -> Data:
    """The same of rows for test.

    Raises:
        DataError: none is left, or they have another shape.
    """
    return replace(data, test=_fresh(rows, (data.train, data.calibration), where, "test", seed))


def told(data: Data, calibration: Calibration) -> str:
    """The splits in a line, with what they can promise."""
    num_rows = len(data.train) + len(data.calibration) + len(data.test)
    num_units = count(data.train.units_N, len(data.train))
    calibrate = calibration.told(len(data.calibration), num_units, num_rows)
    what = "images" if data.sample_rate_hz is None else "clips"
    return f"{data.spec}: {num_rows:,} {what}: {len(data.train):,} to train, {calibrate}, {len(data.test):,} to test"


def _fresh(rows: Rows, others: tuple[Rows, ...], where: str, what: str, seed: int) -> Rows:
    if rows.values.shape[1:] != others[0].values.shape[1:]:
        got, wanted = (" x ".join(map(str, one.values.shape[1:])) for one in (rows, others[0]))
        raise DataError(f"{what}: got rows of {got} in {where}, expected {wanted} as the training rows have")
    taken = {digest for other in others for digest in row_digests(other.values)}
    fresh = np.array([digest not in taken for digest in row_digests(rows.values)], np.bool_)
    if not fresh.any():
        raise DataError(f"{what}: got {len(rows)} rows in {where} that all equal others of the data, expected new ones")
    left = rows.take(fresh).with_twins()
    kept = left.take(_one_of_each(left, seed))
    if num_out := len(rows) - len(kept):
        say(f"{where}: {num_out} of {len(rows)} rows are left out: they equal other rows, or are of a group with them")
    return kept


def _one_of_each(rows: Rows, seed: int) -> NDArray[np.int64]:
    """A row of each unit, drawn at random: see `training.data.units`."""
    if rows.units_N is None:
        return np.arange(len(rows))
    order = np.random.default_rng([seed, len(rows)]).permutation(len(rows))
    return np.sort(order[np.unique(rows.units_N[order], return_index=True)[1]])
