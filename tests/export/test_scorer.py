"""Which rows a scorer is made of."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.detectors import drawing, scorer
from training.data import lazy


class Watched(nn.Module):
    """Its score is the first number of the embedding. Keeps which rows it was fitted on."""

    name: ClassVar[str] = "watched"
    method: ClassVar[str] = ""
    inputs: ClassVar[tuple[str, ...]] = ("embedding",)
    fitted_on: ClassVar[list[NDArray[Any]]] = []

    @classmethod
    def fit(cls, rows: Any) -> Self:
        cls.fitted_on.append(rows["embedding"][:, 0])
        return cls()

    def forward(self, embedding_BD: Tensor) -> Tensor:
        return embedding_BD[:, 0]


@pytest.mark.parametrize(("num_rows", "num_reference"), [(11, 2), (137, 27), (500, 100), (12_000, 2000)])
@pytest.mark.parametrize("sizes_of_units", [1, 3])
def test_no_row_is_both_fitted_on_and_a_reference(
    num_rows: int, num_reference: int, sizes_of_units: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that a detector has seen score too low: rows that are compared with them get too small a p-value."""
    references: list[NDArray[Any]] = []

    class Fusion(scorer.Fusion):
        def __init__(self, reference_MK: NDArray[Any], *others: Any) -> None:
            references.append(reference_MK[:, 0])
            super().__init__(reference_MK, *others)

    monkeypatch.setattr(scorer, "FITTED", (Watched, Watched))
    monkeypatch.setattr(scorer, "Fusion", Fusion)
    monkeypatch.setattr(Watched, "fitted_on", [])
    num = num_rows * sizes_of_units
    unit_of = np.arange(num) % num_rows
    embedding = np.arange(num, dtype=np.float32)[:, None]
    made = scorer.Scorer.fit(nn.Module(), {"embedding": embedding}, unit_of if sizes_of_units > 1 else None)
    (reference,) = references
    assert len(reference) == len(set(unit_of[reference.astype(int)])) == num_reference
    for fitted in Watched.fitted_on:
        assert not set(unit_of[fitted.astype(int)]) & set(unit_of[reference.astype(int)])
        assert len(fitted) == min(drawing.FIT_ROWS, num - num_reference * sizes_of_units)
    assert made(torch.zeros(1, 1)).shape == (1, 4)


def test_inputs_that_are_large_are_not_copied_and_the_scorer_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    train = {
        "input": rng.integers(0, 256, (120, 12, 12, 3), np.uint8),
        "embedding": rng.normal(size=(120, 4)).astype(np.float32),
    }
    whole = scorer.Scorer.fit(None, train)
    given: list[Any] = []
    fit = scorer.InputMahalanobis.fit
    monkeypatch.setattr(lazy, "HELD_BYTES", 0)
    monkeypatch.setattr(scorer.InputMahalanobis, "fit", lambda rows: given.append(rows["input"]) or fit(rows))
    parts = scorer.Scorer.fit(None, train)
    assert isinstance(given[0], lazy.Chosen)
    assert given[0].array is train["input"]
    np.testing.assert_array_equal(parts.scores(train), whole.scores(train))
