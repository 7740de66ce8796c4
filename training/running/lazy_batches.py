"""Batches of images that are decoded as they are asked for: the next one while the network works on the one before."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset


def ahead(rows: NDArray[Any], batches: list[NDArray[Any]], device: torch.device) -> Iterator[Tensor]:
    """The rows of each batch on a device; one batch is made while the one before is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = None
        for places in [*batches, None]:
            given, coming = coming, None if places is None else pool.submit(np.asarray, rows[places])
            if given is not None:
                yield torch.from_numpy(given.result()).to(device)


class Parts(Dataset[Tensor]):
    """Rows in their order, so many to an item."""

    def __init__(self, rows: NDArray[Any], num_rows: int) -> None:
        self.rows = rows
        self.num_rows = num_rows

    def __len__(self) -> int:
        return -(-len(self.rows) // self.num_rows)

    def __getitem__(self, part: int) -> Tensor:
        start = part * self.num_rows
        return torch.from_numpy(np.asarray(self.rows[start : start + self.num_rows]))
