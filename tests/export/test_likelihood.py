"""Detectors on a density: likelihood, typicality, and what an image's complexity explains."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import entropy, linregress, spearmanr

from export.detectors.complexity import code_length, missed
from export.detectors.likelihood import ComplexityCorrected, Likelihood, LikelihoodRatio, Typicality
from export.graphs import GraphRunner, export_graph
from latentserve.inputs import INPUT


def images(num: int = 40, side: int = 24, channels: int = 3) -> NDArray[np.uint8]:
    """Noise, the later the smoother."""
    rng = np.random.default_rng(0)
    rows = [gaussian_filter(rng.normal(size=(side, side, channels)), (row / 10, row / 10, 0)) for row in range(num)]
    return np.stack([np.clip(128 + 50 * row / row.std(), 0, 255) for row in rows]).astype(np.uint8)


def png_bytes(image: NDArray[np.uint8]) -> int:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    return len(file.getvalue())


def lengths(rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = code_length(torch.from_numpy(rows)).numpy()
    return found


def test_the_prediction_is_loco_i_s() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 6), np.uint8)
    padded = np.pad(image.astype(int), ((1, 0), (1, 0)))
    expected = []
    for i, j in np.ndindex(image.shape):
        a, b, c = padded[i + 1, j], padded[i, j + 1], padded[i, j]
        prediction = min(a, b) if c >= max(a, b) else max(a, b) if c <= min(a, b) else a + b - c
        expected.append((int(image[i, j]) - prediction) % 256)
    assert missed(torch.from_numpy(image[None, :, :, None]))[0].tolist() == expected


def test_the_length_is_the_entropy_of_what_was_missed() -> None:
    rows = images()
    errors = missed(torch.from_numpy(rows)).numpy()
    expected = [len(one) * entropy(np.unique(one, return_counts=True)[1]) for one in errors]
    np.testing.assert_allclose(lengths(rows), expected, rtol=1e-5, atol=1e-3)


def test_longer_codes_are_larger_png_files() -> None:
    rows = images()
    assert spearmanr(lengths(rows), [png_bytes(row) for row in rows]).statistic > 0.97
    assert lengths(np.full((1, 24, 24, 1), 7, np.uint8))[0] < 10  # one number of an even image was not predicted


def arrays(rows: NDArray[np.uint8]) -> dict[str, NDArray[np.float32 | np.uint8]]:
    rng = np.random.default_rng(1)
    nll = 30 + 0.5 * lengths(rows) + rng.normal(size=len(rows))
    return {INPUT: rows, "nll": nll[:, None].astype(np.float32)}


def test_the_likelihood_is_the_score_and_typicality_its_distance_to_the_mean() -> None:
    train = arrays(images())
    nll = torch.from_numpy(train["nll"])
    assert torch.equal(Likelihood.fit(train)(nll), nll[:, 0])
    expected = np.abs(train["nll"][:, 0] - train["nll"].mean())
    np.testing.assert_allclose(Typicality.fit(train)(nll).numpy(), expected, rtol=1e-4, atol=1e-3)
    assert LikelihoodRatio.fit(train)(nll, nll + 3).tolist() == pytest.approx([-3] * len(nll), abs=1e-3)


def test_what_complexity_explains_is_taken_away() -> None:
    train = arrays(images())
    detector = ComplexityCorrected.fit(train)
    line = linregress(lengths(train[INPUT]), train["nll"][:, 0])  # type: ignore[arg-type]
    assert detector.line.tolist() == pytest.approx([line.intercept, line.slope], rel=1e-3)
    got = detector(torch.from_numpy(train[INPUT]), torch.from_numpy(train["nll"])).numpy()
    np.testing.assert_allclose(got, train["nll"][:, 0] - line.intercept - line.slope * lengths(train[INPUT]), atol=0.05)  # type: ignore[arg-type]
    smooth = np.full((1, 24, 24, 3), 99, np.uint8)
    unlikely_for_that = torch.tensor([[100.0]])  # far below the mean of the training rows, and more than its code takes
    assert unlikely_for_that.item() < train["nll"].min()
    assert detector(torch.from_numpy(smooth), unlikely_for_that).item() > got.max()


def test_rows_that_are_equally_complex_leave_the_likelihood_as_it_is() -> None:
    rows = np.repeat(images(1), 30, axis=0)
    nll = np.random.default_rng(0).normal(100, 5, (30, 1)).astype(np.float32)
    detector = ComplexityCorrected.fit({INPUT: rows, "nll": nll})
    got = detector(torch.from_numpy(rows), torch.from_numpy(nll)).numpy()
    np.testing.assert_allclose(got, nll[:, 0] - nll.mean(), atol=1e-3)


def test_the_length_is_the_same_in_a_graph(tmp_path: Path) -> None:
    rows = images(6)
    train = arrays(rows)
    example = {INPUT: torch.from_numpy(rows[:2]), "nll": torch.from_numpy(train["nll"][:2])}
    detector = ComplexityCorrected.fit(train)
    graph = export_graph(detector, example, ["scores"], tmp_path / "scorer.onnx")
    session = GraphRunner(tmp_path, [graph]).sessions["scorer.onnx"]
    (got,) = session.run(["scores"], {name: train[name] for name in example})
    expected = detector(*(torch.from_numpy(train[name]) for name in example))
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-3)
