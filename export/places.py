"""Patches of rows, computed where they are looked at: of all rows of a set they would fill memory.

Shape legend: N rows, h and w places, D numbers of a place.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from export.graphs import GraphRunner
from latentserve.inputs import PATCHES
from training.data.rows import Values


class Patches:
    """float32 [N, h, w, D] to those who take some at a time, as `training.data.lazy` has it.

    `patches[indices]` and `patches[a:b]` are again lazy; `np.asarray` runs the encoder.

    Args:
        runner: of the encoder alone.
        values: the rows.
        shape: of one row's patches.
        rows_N: which of the rows; default: all.
    """

    dtype = np.dtype(np.float32)
    ndim = 4

    def __init__(
        self, runner: GraphRunner, values: Values, shape: tuple[int, ...], rows_N: NDArray[Any] | None = None
    ) -> None:
        self.runner, self.values = runner, values
        self.rows_N = np.arange(len(values)) if rows_N is None else rows_N
        self.shape = (len(self.rows_N), *shape)

    def __len__(self) -> int:
        return len(self.rows_N)

    def __getitem__(self, key: Any) -> Patches:
        return Patches(self.runner, self.values, self.shape[1:], self.rows_N[key])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if len(self) == 0:
            return np.empty(self.shape, self.dtype if dtype is None else dtype)
        patches: NDArray[Any] = self.runner.run(self.values[self.rows_N])[PATCHES]
        return patches if dtype is None else patches.astype(dtype, copy=False)


def patches_of(runner: GraphRunner, values: Values) -> NDArray[Any] | None:
    """Those of the rows, as an array of a set that is not held in memory; None if the encoder has none.

    Args:
        runner: of graphs, the encoder's first.
        values: the rows.
    """
    encoder = runner.graphs[0]
    for spec in encoder.outputs:
        if spec.name == PATCHES:
            alone = GraphRunner(runner.folder, [encoder], runner.device).with_patches()
            return cast(NDArray[Any], Patches(alone, values, spec.shape))
    return None
