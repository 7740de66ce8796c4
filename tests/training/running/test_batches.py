"""Training on images that are decoded as they are asked for gives the weights of training in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.__main__ import Options, run_training
from training.data import decoding, load_data
from training.data.lazy import Store, is_lazy
from training.data.shares import Calibration
from training.methods.vae import VaeConfig
from training.running.batches import Batches, Parts
from training.running.run import load_model, open_run
from training.schedule import LoopConfig


@pytest.fixture
def photos(tmp_path: Path, encode: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(40):
        (tmp_path / "photos" / f"{i}.png").write_bytes(encode(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)))
    return tmp_path / "photos"


def test_batches_of_rows_that_are_decoded_are_those_of_memory(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = load_data(f"folder:{photos}", image_size=8).train.values
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 1000)
    lazy: Any = load_data(f"folder:{photos}", image_size=8).train.values
    assert is_lazy(lazy)
    targets = torch.arange(len(held))
    for given in (None, targets):
        expected = [*Batches(torch.from_numpy(held), 10, 3, 1, given)]
        found = [*Batches(lazy, 10, 3, 1, given)]
        assert len(found) == len(expected) == 3
        for one, other in zip(found, expected, strict=True):
            for part, again in zip(one, other, strict=True):
                assert torch.equal(part, again)
    parts = Parts(lazy, 10)
    assert len(parts) == 4
    np.testing.assert_array_equal(np.concatenate([parts[i].numpy() for i in range(4)]), held)


def test_a_rank_decodes_its_own_rows_of_every_batch_and_no_others(
    photos: Path, monkeypatch: pytest.MonkeyPatch, as_rank: Any
) -> None:
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 1000)
    lazy: Any = load_data(f"folder:{photos}", image_size=8).train.values
    expected = [*Batches(lazy, 10, 3, 1)]
    decoded: list[int] = []
    original = Store.pixels
    monkeypatch.setattr(Store, "pixels", lambda self, row: decoded.append(row) or original(self, row))
    found, by_rank = [], []
    for rank in (0, 1):
        as_rank(rank, 2)
        decoded.clear()
        found.append([*Batches(lazy, 10, 3, 1)])
        by_rank.append(set(decoded))
    for batch, *parts in zip(expected, *found, strict=True):
        assert torch.equal(torch.cat(parts), batch)
    assert [len(rows) for rows in by_rank] == [15, 15]
    assert not by_rank[0] & by_rank[1]


def test_a_run_on_a_large_set_is_that_in_memory(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, weights, results = load_data(f"folder:{photos}", image_size=8, calibration=Calibration()), [], []
    for name, bound in (("held", 2**30), ("lazy", 1000)):
        monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", bound)
        options = Options(
            data=f"folder:{photos}", image_size=8, run=tmp_path / name, loop=LoopConfig(epochs=1, batch_rows=16)
        )
        folder = run_training("vae", VaeConfig(latent_dim=4, embedding_dim=8, width=4), options)
        run, trained = open_run(folder)
        weights.append(load_model(folder, run).state_dict())
        results.append(trained.test)
        assert held.has_fingerprint(run.data_sha256)
    assert results[0] == results[1]
    for name, tensor in weights[0].items():
        assert torch.equal(weights[1][name], tensor), name
