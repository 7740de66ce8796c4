"""Detectors that look at places, each against numpy; their map beside their score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from export.detectors import Scorer, ScorerGraph, places
from export.detectors.given_others import CoarsePlaces, PatchesGivenOthers
from export.detectors.patch_bank import PatchBank, coreset
from export.detectors.places import PlaceDetector
from export.detectors.reconstruction_places import ReconstructionPlaces
from export.graphs import GraphRunner, export_graph
from export.places import Patches
from latentserve.bundle import Graph
from latentserve.inputs import INPUT, PATCHES, TensorSpec

SIDE, CELL = 32, 8
FAULT = slice(20, 26), slice(4, 10)


def images(num: int, seed: int) -> NDArray[np.uint8]:
    """Grey slopes, each as bright and as steep as it pleases, and noise."""
    rng = np.random.default_rng(seed)
    across = np.linspace(-1, 1, SIDE)
    slope_NHW = rng.normal(0, 20, (num, 1, 1)) * across + rng.normal(0, 20, (num, 1, 1)) * across[:, None]
    grey_NHW = 128 + rng.normal(0, 20, (num, 1, 1)) + slope_NHW + rng.normal(0, 3, (num, SIDE, SIDE))
    return grey_NHW.clip(0, 255).astype(np.uint8)[..., None]


def patches(rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean, steepness and roughness of cells, in five numbers, [N, 8, 8, 5]."""
    x = rows[..., 0].reshape(len(rows), CELL, SIDE // CELL, CELL, SIDE // CELL).astype(np.float32) / 255
    mean = x.mean(axis=(2, 4))
    parts = [mean, x[:, :, 0].mean(axis=3) - mean, x[..., 0].mean(axis=2) - mean, x.std(axis=(2, 4)), mean**2]
    return np.stack(parts, axis=3)


def tensors(num: int, seed: int, damaged: bool = False) -> dict[str, NDArray[Any]]:
    rows = images(num, seed)
    given_back = rows.astype(np.float32) / 255
    if damaged:
        rows[:, FAULT[0], FAULT[1]] = 255 - rows[:, FAULT[0], FAULT[1]] // 2
    flat = rows.astype(np.float32) / 255
    return {
        INPUT: rows,
        "embedding": flat.mean(axis=(1, 3)),
        "reconstruction": given_back.reshape(num, CELL, 4, CELL, 4, 1).mean((2, 4)).repeat(4, 1).repeat(4, 2),
        PATCHES: patches(rows),
    }


def given(detector: PlaceDetector, arrays: dict[str, NDArray[Any]]) -> list[torch.Tensor]:
    return [torch.from_numpy(arrays[name]) for name in detector.inputs]


KINDS = [PatchBank, PatchesGivenOthers, CoarsePlaces, ReconstructionPlaces]


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_fault_is_found_at_its_place(kind: type[PlaceDetector]) -> None:
    detector = kind.fit(tensors(200, 0))
    maps = [detector.places(*given(detector, one)) for one in (tensors(40, 1), tensors(40, 1, damaged=True))]
    usual, damaged = (one.flatten(1).amax(dim=1) for one in maps)
    assert float((damaged > usual.max()).float().mean()) > 0.9
    side = SIDE / maps[1].shape[1]
    rows, columns = np.unravel_index(maps[1].flatten(1).argmax(dim=1).numpy(), maps[1].shape[1:])
    for found, where in ((rows, FAULT[0]), (columns, FAULT[1])):
        centre = (found + 0.5) * side
        assert np.mean((centre > where.start - side) & (centre < where.stop + side)) > 0.9
    np.testing.assert_array_equal(detector(*given(detector, tensors(40, 1))), usual)


def test_places_are_comparable() -> None:
    """One place is noisy in all rows: with its own deviation it does not always have the maximum."""
    arrays = [tensors(300, seed) for seed in (0, 1)]
    for number, one in enumerate(arrays):
        noise = np.random.default_rng(number).normal(0, 1, (300, 2, 2, 5))
        one[PATCHES][:, 2:4, 4:6] += noise.astype(np.float32)
    detector = PatchBank.fit(arrays[0])
    shares = []
    for map_Nhw in (detector.places(*given(detector, arrays[1])), detector.raw(torch.from_numpy(arrays[1][PATCHES]))):
        highest = map_Nhw.flatten(1).argmax(dim=1).numpy()
        shares.append(np.isin(highest, [2 * CELL + 4, 2 * CELL + 5, 3 * CELL + 4, 3 * CELL + 5]).mean())
    assert shares[0] < 0.85 < 0.99 < shares[1]


def test_the_bank_is_the_nearest_neighbour_by_numpy() -> None:
    x, asked = (patches(images(num, seed)) for num, seed in ((60, 0), (5, 1)))
    detector = PatchBank.fit_features(x, 40 * CELL * CELL * 5)
    bank_KP = detector.bank_SCP.numpy().reshape(-1, detector.bank_SCP.shape[2])
    assert len(np.unique(bank_KP, axis=0)) == 40
    assert all(np.isclose(bank_KP[0], row, atol=1e-5).all() for row in bank_KP[:1])
    projected = (asked.reshape(-1, 5) - detector.mean_D.numpy()) @ detector.leading_DP.numpy()
    expected = np.sqrt(np.square(projected[:, None] - bank_KP).sum(axis=2)).min(axis=1)
    np.testing.assert_allclose(detector.raw(torch.from_numpy(asked)).numpy().ravel(), expected, rtol=1e-4, atol=1e-6)
    of_x = detector.raw(torch.from_numpy(x)).numpy()
    assert np.sort(of_x.ravel())[:40].max() < 1e-5, "what lies in the bank has a distance of none"


def test_a_coreset_covers_better_than_as_many_at_random() -> None:
    points = np.random.default_rng(0).standard_normal((2000, 3))
    chosen = coreset(points, 50, 1e-6)
    drawn = points[np.random.default_rng(1).permutation(2000)[:50]]
    farthest = [np.sqrt(np.square(points[:, None] - some).sum(axis=2)).min(axis=1).max() for some in (chosen, drawn)]
    assert farthest[0] < 0.7 * farthest[1]
    assert len(coreset(np.repeat(points[:4], 100, axis=0), 50, 1e-3)) == 4


def test_a_place_given_the_others_is_the_conditional_gaussian() -> None:
    x, asked = (CoarsePlaces.features(torch.from_numpy(images(num, seed))).numpy() for num, seed in ((400, 0), (3, 1)))
    detector = CoarsePlaces.fit_features(x, 0)
    x_NQ = x.reshape(len(x), -1).astype(np.float64)
    covariance = LedoitWolf().fit(x_NQ).covariance_
    dim, expected = x.shape[3], []
    for start in range(0, x_NQ.shape[1], dim):
        own = np.arange(start, start + dim)
        rest = np.setdiff1d(np.arange(x_NQ.shape[1]), own)
        slope = np.linalg.solve(covariance[np.ix_(rest, rest)], covariance[np.ix_(rest, own)])
        left_NF = (asked.reshape(3, -1) - x_NQ.mean(axis=0)) @ np.eye(x_NQ.shape[1])[:, own]
        left_NF -= (asked.reshape(3, -1) - x_NQ.mean(axis=0))[:, rest] @ slope
        within = covariance[np.ix_(own, own)] - covariance[np.ix_(own, rest)] @ slope
        expected.append(np.sqrt(np.einsum("nf,fg,ng->n", left_NF, np.linalg.inv(within), left_NF) / dim))
    np.testing.assert_allclose(
        detector.raw(torch.from_numpy(asked)).numpy().reshape(3, -1), np.stack(expected, axis=1), rtol=2e-3
    )


def test_what_all_places_share_is_forgiven_given_the_others() -> None:
    """Brightness of the whole image says nothing of a place: a bank takes it for a fault, the others tell it."""
    usual, brighter = tensors(300, 0), images(40, 1)
    arrays = {PATCHES: patches((brighter.astype(np.int64) + 45).clip(0, 255).astype(np.uint8))}
    tops = []
    for kind in (PatchBank, PatchesGivenOthers):
        detector = kind.fit(usual)
        tops.append(float(detector(*given(detector, arrays)).median()))
    assert tops[1] < 0.85 * tops[0]


@pytest.mark.parametrize("copies", [False, True])
def test_the_graph_gives_a_map_whose_maximum_is_the_score(tmp_path: Path, copies: bool) -> None:
    train = tensors(300, 0)
    if copies:
        train = {name: np.repeat(array[:3], 100, axis=0) for name, array in train.items()}
    scorer = Scorer.fit(None, train, units_N=np.arange(300))
    assert (scorer.plateaus is not None) == copies
    assert scorer.map_detector in scorer.names
    example = {name: torch.from_numpy(train[name][:2]) for name in scorer.inputs}
    path = tmp_path / "scorer.onnx"
    graph = export_graph(ScorerGraph(scorer), example, scorer.outputs, path)
    asked = {name: np.concatenate([array, train[name][:30]]) for name, array in tensors(60, 1, damaged=True).items()}
    runner = GraphRunner(tmp_path, [graph])
    (session,) = runner.sessions.values()
    feed = {name: asked[name] for name in scorer.inputs}
    scores, maps = session.run(["scores", "anomaly_map"], feed)
    column = scorer.names.index(scorer.map_detector)
    np.testing.assert_array_equal(maps.max(axis=(1, 2)), scores[:, column])
    for size in (1, 7):
        parts = [
            session.run(["scores", "anomaly_map"], {name: one[at : at + size] for name, one in feed.items()})
            for at in range(0, 90, size)
        ]
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), scores)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), maps)
    in_torch = scorer.maps(asked)
    np.testing.assert_allclose(maps, in_torch["anomaly_map"], rtol=1e-3, atol=2e-3)


class Encoder:
    """Stands in for a runner: counts the rows whose patches it computes."""

    def __init__(self) -> None:
        self.num_rows = 0

    def run(self, rows: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        self.num_rows += len(rows)
        return {PATCHES: patches(rows)}


def test_patches_are_computed_of_those_rows_that_are_looked_at() -> None:
    rows, encoder = images(500, 0), Encoder()
    lazy: Any = Patches(encoder, rows, (CELL, CELL, 5))  # type: ignore[arg-type]
    chosen = lazy[np.arange(400)[::-1]][:30]
    assert (len(lazy), chosen.shape, encoder.num_rows) == (500, (30, CELL, CELL, 5), 0)
    np.testing.assert_array_equal(np.asarray(chosen), patches(rows)[370:400][::-1])
    assert encoder.num_rows == 30


def test_what_is_fitted_on_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "PLACE_ROWS", 50)
    rows, encoder = images(500, 0), Encoder()
    lazy: Any = Patches(encoder, rows, (CELL, CELL, 5))  # type: ignore[arg-type]
    assert len(places.features_of_places(PatchBank, {PATCHES: lazy})) == 50
    assert encoder.num_rows == 50
    monkeypatch.setattr(places, "PLACE_BYTES", 20 * CELL * CELL * 5 * 4)
    assert len(places.features_of_places(PatchBank, {PATCHES: lazy})) == 20


def test_a_bank_takes_no_more_than_an_encoder() -> None:
    x = patches(images(300, 0))
    for most in (10, 100):
        detector = PatchBank.fit_features(x, most * CELL * CELL * 5)
        assert detector.bank_SCP[..., 0].numel() == pytest.approx(most, abs=places.HELD_OUT)


def test_sounds_have_no_map() -> None:
    train = {INPUT: np.zeros((40, 800), np.int16), "embedding": np.zeros((40, 3), np.float32)}
    assert not any(kind.suits(train) for kind in KINDS)


def test_a_runner_leaves_patches_out_of_what_it_returns_and_gives_them_to_the_scorer(tmp_path: Path) -> None:
    class Patched(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = rows.float()
            return x.mean(dim=(1, 2)), x

    class Top(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.amax(dim=(1, 2))

    example = torch.from_numpy(images(2, 0))
    encoder = export_graph(Patched(), {INPUT: example}, ["embedding", PATCHES], tmp_path / "encoder.onnx")
    top = export_graph(Top(), {PATCHES: example.float()}, ["scores"], tmp_path / "scorer.onnx")
    assert encoder.outputs[1] == TensorSpec(PATCHES, "float32", (SIDE, SIDE, 1))
    graphs: list[Graph] = [encoder, top]
    rows = images(5, 1)
    found = GraphRunner(tmp_path, graphs).run(rows)
    assert found.keys() == {"embedding", "scores"}
    np.testing.assert_array_equal(found["scores"][:, 0], rows.max(axis=(1, 2, 3)))
    assert GraphRunner(tmp_path, graphs).with_patches().run(rows).keys() == {"embedding", PATCHES, "scores"}


def test_what_is_given_back_exactly_has_no_error_also_where_rounding_is_tried_below_it() -> None:
    raw = ReconstructionPlaces((2, 1)).raw(torch.tensor([[[[0.0]], [[-1e-12]]]]))
    assert raw.tolist() == [[[0.0], [0.0]]]
