"""Detectors that look at the input itself: coarse pixels, bands of a waveform, edges, and their distances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import sobel
from scipy.signal import get_window
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from export.detectors.coarse import FRAME_SAMPLES, QUIET, coarse
from export.detectors.edges import DIRECTIONS, edges, edges_of
from export.detectors.inputs import EdgeNeighbours, InputMahalanobis, InputNeighbours
from export.detectors.neighbours import K
from export.graphs import GraphRunner, export_graph
from latentserve.inputs import INPUT

RATE = 8000
KINDS = [InputMahalanobis, InputNeighbours, EdgeNeighbours]


def images(num: int, side: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth images: a few brightnesses, and a little noise."""
    rng = np.random.default_rng(seed)
    smooth = rng.integers(60, 200, (num, 4, 4, 3)).repeat(side // 4, axis=1).repeat(side // 4, axis=2)
    return (smooth + rng.integers(-5, 6, smooth.shape)).astype(np.uint8)


def waveforms(num: int, seed: int = 0) -> NDArray[np.int16]:
    """Two tones each, below 1 kHz, and a little noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(RATE // 2) / RATE
    hertz, loudness = rng.uniform(200, 1000, (num, 2, 1)), rng.uniform(0.05, 0.3, (num, 2, 1))
    sound = (loudness * np.sin(2 * np.pi * hertz * time)).sum(axis=1) + 0.001 * rng.standard_normal((num, len(time)))
    return np.round(32767 * sound).astype(np.int16)


def test_pixels_are_averaged_to_sixteen_a_side_at_most() -> None:
    for side, expected in ((8, 8), (16, 16), (28, 14), (32, 16), (96, 16)):
        rows = images(3, side)
        got = coarse(torch.from_numpy(rows)).numpy()
        assert got.shape == (3, 3 * expected**2)
        step = side // expected
        means = rows.reshape(3, expected, step, expected, step, 3).mean(axis=(2, 4)) / 255
        np.testing.assert_allclose(got, means.transpose(0, 3, 1, 2).reshape(3, -1), atol=1e-6)


def test_bands_are_averages_of_the_power_spectrum() -> None:
    rows = waveforms(4)
    frames = rows[:, : 15 * FRAME_SAMPLES].reshape(4, 15, FRAME_SAMPLES) / 32768
    power = np.abs(np.fft.rfft(frames * get_window("hann", FRAME_SAMPLES))) ** 2
    got = coarse(torch.from_numpy(rows)).numpy()
    mean, standard_deviation = np.split(got, 2, axis=1)
    first = np.log(power[:, :, 1] + QUIET)  # the lowest band is one frequency wide
    np.testing.assert_allclose(mean[:, 0], first.mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(standard_deviation[:, 0], first.std(axis=1), rtol=1e-3)
    last = power.shape[2] - np.round(128 - 129 ** (19 / 20) + 1).astype(int)
    np.testing.assert_allclose(mean[:, -1], np.log(power[:, :, last:].mean(axis=2) + QUIET).mean(axis=1), rtol=1e-4)


def test_a_waveform_shorter_than_a_frame_is_one_frame() -> None:
    got = coarse(torch.from_numpy(waveforms(2)[:, :100])).numpy()
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(got[:, got.shape[1] // 2 :], 0)


def test_edges_are_sobels_derivative_along_each_direction() -> None:
    image = np.random.default_rng(0).random((9, 12)).astype(np.float32)
    got = edges(torch.from_numpy(image)[None, None])[0].numpy()
    for direction, derivative in ((0, sobel(image, axis=1)), (2, sobel(image, axis=0))):
        inner = derivative[1:-1, 1:-1] / 8  # so scaled it is brightness per pixel
        np.testing.assert_allclose(got[direction], np.maximum(inner, 0), atol=1e-6)
        np.testing.assert_allclose(got[direction + DIRECTIONS // 2], np.maximum(-inner, 0), atol=1e-6)
    ramp = np.tile(np.arange(8, dtype=np.float32), (8, 1))
    np.testing.assert_allclose(edges(torch.from_numpy(ramp)[None, None])[0, :3, 0, 0], [1, 0.5**0.5, 0], atol=1e-6)


def test_edges_lie_in_some_seven_cells_a_side() -> None:
    for side, cells in ((8, 6), (16, 6), (28, 6), (32, 7), (96, 7)):
        got = edges_of(torch.from_numpy(images(3, side)))
        assert got.shape == (3, DIRECTIONS * cells**2)
    drawing = np.zeros((1, 28, 28, 1), np.uint8)
    drawing[0, :, 20:] = 200  # bright on the right: edges to the right, in the cells there
    cells = edges_of(torch.from_numpy(drawing)).numpy().reshape(DIRECTIONS, 6, 6)
    assert cells[0].argmax(axis=1).tolist() == [4] * 6
    np.testing.assert_allclose(cells[DIRECTIONS // 2], 0)


def test_a_sound_played_backwards_has_other_edges_but_the_same_bands() -> None:
    rng = np.random.default_rng(0)
    hiss = 3000 * rng.standard_normal((300, RATE // 2)) * np.exp(-np.arange(RATE // 2) / 800)
    fading = np.round(hiss).astype(np.int16)
    train, id_rows, backwards = fading[:200], fading[200:], np.ascontiguousarray(fading[200:, ::-1])
    edged, banded = (kind.fit({INPUT: train}) for kind in (EdgeNeighbours, InputNeighbours))
    assert edged(torch.from_numpy(backwards)).min() > edged(torch.from_numpy(id_rows)).max()
    assert banded(torch.from_numpy(backwards)).median() < banded(torch.from_numpy(id_rows)).max()


def test_edges_of_a_waveform_shorter_than_three_frames_are_finite() -> None:
    short = torch.from_numpy(waveforms(2)[:, :100])
    assert torch.isfinite(edges_of(short)).all()
    assert edges_of(short).shape == edges_of(torch.from_numpy(waveforms(2))).shape


def looked_at(rows: NDArray[Any]) -> NDArray[np.float64]:
    """What the Mahalanobis distance of the input is of."""
    return InputMahalanobis.features(torch.from_numpy(rows)).numpy().astype(np.float64)


@pytest.mark.parametrize("rows_of", [images, waveforms])
def test_the_distances_are_scipys_and_scikit_learns(rows_of: Any) -> None:
    train, test = rows_of(900), rows_of(20, seed=1)
    oracle = LedoitWolf().fit(looked_at(train))
    expected = [mahalanobis(row, oracle.location_, oracle.precision_) for row in looked_at(test)]
    got = InputMahalanobis.fit({INPUT: train})(torch.from_numpy(test)).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-2)
    kinds: Any = ((InputNeighbours, coarse), (EdgeNeighbours, edges_of))
    for kind, features in kinds:
        x, y = (features(torch.from_numpy(rows)).numpy() for rows in (train, test))
        distances, _ = NearestNeighbors(n_neighbors=K, metric="cosine").fit(x).kneighbors(y)
        # all but the 128 directions in which rows of the bank vary most are taken to be at right angles
        np.testing.assert_allclose(kind.fit({INPUT: train})(torch.from_numpy(test)).numpy(), distances[:, -1], rtol=0.1)


def test_each_finds_what_it_is_there_for() -> None:
    """Noise has no neighbour in frequency; drawings have none in brightness, and hard edges."""
    rng = np.random.default_rng(2)
    noise, drawing = rng.integers(0, 256, (20, 32, 32, 3), np.uint8), np.zeros((20, 32, 32, 3), np.uint8)
    drawing[:, 8:16, 8:24] = 255
    hiss = rng.integers(-9000, 9000, (20, RATE // 2), np.int16)
    for kind, train, id_rows, ood in (
        (InputMahalanobis, images(900), images(99, seed=1), noise),
        (InputNeighbours, images(900), images(99, seed=1), drawing),
        (EdgeNeighbours, images(900), images(99, seed=1), drawing),
        (InputMahalanobis, waveforms(900), waveforms(99, 1), hiss),
        (InputNeighbours, waveforms(900), waveforms(99, 1), hiss),
    ):
        detector: Any = kind.fit({INPUT: train})
        assert detector(torch.from_numpy(ood)).min() > detector(torch.from_numpy(id_rows)).max(), kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows_of", [images, waveforms])
def test_exported_it_returns_the_same_in_any_batch_and_is_finite_for_nothing(
    kind: Any, rows_of: Any, tmp_path: Path
) -> None:
    rows = rows_of(97)
    rows[3] = 0
    detector = kind.fit({INPUT: rows})
    graph = export_graph(detector, {INPUT: torch.from_numpy(rows[:2])}, ["scores"], tmp_path / "scorer.onnx")
    session = GraphRunner(tmp_path, [graph]).sessions["scorer.onnx"]
    (together,) = session.run(["scores"], {INPUT: rows})
    np.testing.assert_allclose(together, detector(torch.from_numpy(rows)).numpy(), rtol=1e-4, atol=1e-5)
    assert np.isfinite(together).all()
    for start, stop in ((0, 1), (5, 6), (40, 97), (96, 97)):
        (got,) = session.run(["scores"], {INPUT: rows[start:stop]})
        np.testing.assert_array_equal(got, together[start:stop])
