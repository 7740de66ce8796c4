"""Some of the rows of a data set: one class against the rest, or a speaker that nobody heard in training.

    mnist[label=0]         training, calibration and test rows of class 0 alone
    mnist[label=0,1,2,3]   of four classes
    fsdd[group!=2]         without speaker 2

The rows that are left out can be what a model is evaluated on afterwards: `others`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.lazy import joined_rows
from training.data.rows import Data, DataError, Rows

_SUBSET = re.compile(r"(?P<base>.+)\[(?P<what>label|group)(?P<sign>!?=)(?P<values>\d+(,\d+)*)\]")


@dataclass(frozen=True)
class Subset:
    """Which rows of `base` are kept.

    Attributes:
        base: spec of the whole set.
        what: `label` or `group`.
        values: of it.
        wanted: whether rows of these values are kept, or all but them.
    """

    base: str
    what: str
    values: tuple[int, ...]
    wanted: bool

    @classmethod
    def parse(cls, spec: str) -> Subset | None:
        """None if the spec names a whole set."""
        found = _SUBSET.fullmatch(spec)
        if found is None:
            return None
        values = tuple(int(value) for value in found["values"].split(","))
        return cls(found["base"], found["what"], values, found["sign"] == "=")

    def of(self, whole: Data, spec: str) -> Data:
        """The kept rows of every split.

        Raises:
            DataError: the set has no such labels or groups, or a split keeps no row.
        """
        parts = {name: self.kept(getattr(whole, name), spec, name) for name in ("train", "calibration", "test")}
        labels_N = parts["train"].labels_N
        if labels_N is not None and len(np.unique(labels_N)) == 1:  # one label says nothing that could be probed
            parts = {name: replace(part, labels_N=None) for name, part in parts.items()}
        return replace(whole, spec=spec, train=parts["train"], calibration=parts["calibration"], test=parts["test"])

    def others(self, whole: Data) -> Rows:
        """The test rows that are not kept; of groups those of every split, since none of them was trained on."""
        if self.what == "label":
            return whole.test.take(~self._mask(whole.test, whole.spec))
        splits = [split.take(~self._mask(split, whole.spec)) for split in (whole.train, whole.calibration, whole.test)]
        return Rows(joined_rows([split.values for split in splits]))

    def kept(self, rows: Rows, spec: str, split: str = "such") -> Rows:
        """The rows of one split that are kept.

        Raises:
            DataError: there are none, or the set has no such labels or groups.
        """
        part = rows.take(self._mask(rows, spec))
        if len(rows) and not len(part):
            raise DataError(f"data: {spec} keeps no {split} row of {self.base}, expected at least one")
        return part

    def _mask(self, rows: Rows, spec: str) -> NDArray[Any]:
        of_rows = rows.labels_N if self.what == "label" else rows.groups_N
        if of_rows is None:
            raise DataError(f"data: got {spec}, but {self.base} has no {self.what}s")
        mask: NDArray[Any] = np.isin(of_rows, self.values) == self.wanted
        return mask
