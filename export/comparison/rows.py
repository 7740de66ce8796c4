"""The same rows for both bundles, each at its own input.

Where a bundle was trained on the data, they are split as they were for it; else a fifth is tested. A split is drawn
once: rows that are equal at one size, and so stay together, may differ at another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from export.comparison.sides import Side
from latentserve.records import printable
from training.data import Data, DataError, ImageShape, Rows, load_data
from training.data.loading import WITHOUT
from training.data.subset import Subset
from training.data.units import row_digests
from training.evaluation.other_data import every_row_in_shape_of, in_shape_of, with_channels

FEWEST_TEST_ROWS = 20
SPLITS = "train", "test"


@dataclass(frozen=True)
class Pair:
    """Rows of both.

    Attributes:
        a: training rows, which fit probes, and test rows at A's input.
        b: the same rows at B's.
        notes: what a reader must know of them, a sentence each.
    """

    a: Data
    b: Data
    notes: tuple[str, ...]


def load_pair(a: Side, b: Side, spec: str, num_rows: int, seed: int) -> Pair:
    """The rows.

    Args:
        a: one bundle.
        b: the other.
        spec: of the data.
        num_rows: training rows and test rows at most; more are drawn from.
        seed: draws them.

    Raises:
        DataError: the data cannot be loaded, are too few, or are not the same rows for both.
        RunError: the data that a bundle was trained on changed.
    """
    reference, other = (b, a) if spec == b.origin.data != a.origin.data else (a, b)
    whole = reference.origin.load_data() if spec == reference.origin.data else in_shape_of(reference.origin, spec)
    same = _like(whole, reference, other, spec)
    datas = (whole, same) if reference is a else (same, whole)
    notes = list(_notes_on_origin(a, b, spec))
    trained_on = np.zeros(len(whole.test), np.bool_)
    for side, data in zip((a, b), datas, strict=True):
        found_N, note = _trained_on(side, data, is_split_for_it=side is reference and spec == side.origin.data)
        trained_on |= found_N
        notes += [note] if note else []
    if trained_on.any() and (~trained_on).sum() >= FEWEST_TEST_ROWS:
        notes.append(f"The {trained_on.sum():,} test rows that a bundle was trained on are left out for both")
        kept = np.flatnonzero(~trained_on)
        datas = _tested(datas[0], kept), _tested(datas[1], kept)
    elif trained_on.any():
        notes.append("Too few others are left to leave them out, so that they flatter the bundle that knows them")
    if (num_test := len(datas[0].test)) < FEWEST_TEST_ROWS:
        raise DataError(
            f"data: got {num_test} test rows of {spec}, expected {FEWEST_TEST_ROWS} or more:"
            " so few tell no difference from chance"
        )
    return _drawn(*datas, notes, num_rows, seed)


def _tested(data: Data, rows: NDArray[np.int64]) -> Data:
    return replace(data, test=data.test.take(rows))


def _like(whole: Data, reference: Side, other: Side, spec: str) -> Data:
    """The rows of `whole`, split alike, as the other bundle takes them."""
    every = every_row_in_shape_of(other.origin, spec)
    if every is not None and (places := _places(every)):
        train, test = (_named(every, getattr(whole, split), places, other) for split in SPLITS)
        shape = other.origin.shape
        if isinstance(shape, ImageShape):
            return replace(whole, train=train, test=test, resize=shape.resize)
        return replace(whole, train=train, test=test, sample_rate_hz=shape.sample_rate_hz)
    if spec == reference.origin.data:
        sizes = {
            **other.origin.sizes,
            "group_by": reference.origin.group_by,
            "calibration": reference.origin.calibration,
        }
        found = load_data(spec, seed=reference.origin.seed, **sizes)
    else:
        found = in_shape_of(other.origin, spec, reference.origin.seed)
    train = found.train.take(slice(0, len(whole.train)))
    same = replace(found, train=_in_channels(train, other), test=_in_channels(found.test, other))
    for split in SPLITS:
        _check_same(getattr(whole, split), getattr(same, split), split, reference, other)
    return same


def _places(every: Rows) -> dict[str, int]:
    """Where the row of each name is; nothing where names are none, or not of one row each."""
    if every.names_N is None:
        return {}
    places = {str(name): place for place, name in enumerate(every.names_N)}
    return places if len(places) == len(every) else {}


def _named(every: Rows, wanted: Rows, places: dict[str, int], other: Side) -> Rows:
    assert wanted.names_N is not None
    missing = [str(name) for name in wanted.names_N if str(name) not in places]
    if missing:
        raise DataError(f"data: {missing[0]} cannot be read for {other.label}, though it was for the other bundle")
    return every.take(np.array([places[str(name)] for name in wanted.names_N]))


def _check_same(one: Rows, same: Rows, split: str, reference: Side, other: Side) -> None:
    equal = len(one) == len(same)
    for name in ("labels_N", "names_N"):
        first, second = getattr(one, name), getattr(same, name)
        equal = equal and (first is None) == (second is None) and (first is None or bool((first == second).all()))
    if not equal:
        raise DataError(
            f"data: the {split} rows of {other.label} are others than those of {reference.label} ({len(same)} and"
            f" {len(one)} rows): the set is split in another way at another size"
        )


def _in_channels(rows: Rows, side: Side) -> Rows:
    return rows if side.manifest.input.modality == "audio" else with_channels(rows, side.manifest.input.spec.shape[-1])


def _notes_on_origin(a: Side, b: Side, spec: str) -> Iterator[str]:
    if a.manifest.embedding_space == b.manifest.embedding_space:
        yield "Both have one encoder, equal bit for bit: only detectors, their calibration and timing can differ"
    for side in (a, b):
        if side.origin.data != spec:
            yield (
                f"{side.label} was trained and calibrated on {side.origin.data}, so that nothing is promised of its"
                " false alarms on other data"
            )


def _trained_on(side: Side, data: Data, is_split_for_it: bool) -> tuple[NDArray[np.bool_], str]:
    """Which test rows a bundle was trained on, to the last bit of what it takes, and what is to be said of it."""
    none_N = np.zeros(len(data.test), np.bool_)
    if is_split_for_it or not _may_share(side.origin.data, data.spec):
        return none_N, ""
    try:
        known = set(row_digests(side.origin.load_data().train.values))
    except (ValueError, OSError) as error:
        return none_N, printable(f"Whether {side.label} was trained on some of the test rows is not known: {error}")
    found_N = np.array([digest in known for digest in row_digests(data.test.values)], np.bool_)
    said = f"{side.label} was trained on {found_N.sum():,} of {len(found_N):,} test rows" if found_N.any() else ""
    return found_N, said


def _may_share(trained_on: str, spec: str) -> bool:
    """Whether two sets may have rows in common: of two public ones only if they are one."""
    bases = [subset.base if (subset := Subset.parse(one)) else one for one in (trained_on, spec)]
    public = [base in WITHOUT for base in bases]
    return bases[0] == bases[1] if any(public) else True


def _drawn(a: Data, b: Data, notes: list[str], num_rows: int, seed: int) -> Pair:
    for split in SPLITS:
        if (num := len(getattr(a, split))) > num_rows:
            rows = np.sort(np.random.default_rng([seed, num]).permutation(num)[:num_rows])
            a, b = (replace(data, **{split: getattr(data, split).take(rows)}) for data in (a, b))
            notes.append(
                f"Of {num:,} {'training' if split == 'train' else split} rows {num_rows:,} were drawn (seed {seed})"
            )
    return Pair(a, b, tuple(notes))
