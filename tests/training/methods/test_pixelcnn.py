from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.calibration import Promise
from export.exporter import export_run
from export.graphs import EncoderGraph, GraphRunner, export_graph
from latentserve import bundle
from latentserve.inputs import INPUT
from tests.training.running.test_run import assert_equal, interrupt_in_epoch, weights
from training.__main__ import Options, run_training
from training.data import ImageShape
from training.methods.pixelcnn import PixelCnnConfig, PixelDensity, mutated, pooled
from training.running.run import load_model, open_run
from training.schedule import LoopConfig

BLOCKS: dict[str, Any] = {"binarise": "dynamic", "block": 2, "background": 0.2}
GOLDEN = {"blocks": [88.3124, 87.7266], "levels": [217.4448, 217.2730]}
SMALL: dict[str, Any] = {"width": 8, "num_layers": 2}


def train(folder: Path, *, epochs: int = 2, resume: bool = False, **config: Any) -> Path:
    options = Options(run=folder, resume=resume, loop=LoopConfig(epochs=epochs, batch_rows=256))
    return run_training("pixelcnn", PixelCnnConfig(**SMALL | config), options)


def density(shape: ImageShape = ImageShape(8, 1), **config: Any) -> PixelDensity:  # noqa: B008 (frozen)
    torch.manual_seed(0)
    return PixelDensity(PixelCnnConfig(**SMALL | config), LoopConfig(), shape)


@pytest.mark.parametrize("block", [1, 2])
def test_the_likelihoods_of_all_images_sum_to_one(block: int) -> None:
    """Of 2 x 4 pixels of black and white."""
    model = density(ImageShape(2, 1, width=4), binarise="threshold", block=block).double()
    images = torch.tensor([*itertools.product((0.0, 1.0), repeat=8)], dtype=torch.double).view(-1, 1, 2, 4)
    nll = model.encode(images).nll
    assert nll is not None
    assert (-nll).exp().sum().item() == pytest.approx(1)


@pytest.mark.parametrize("config", [{}, {"binarise": "dynamic"}, {"background": 0.2}])
def test_what_is_served_is_the_likelihood_of_what_is_trained_on(config: dict[str, Any]) -> None:
    model, x = density(**config), torch.randint(0, 256, (5, 1, 8, 8)) / 255
    encoding = model.encode(x)
    seen = (x > 0.5).float() if "binarise" in config else x  # served images are cut, whatever they are trained on
    assert encoding.nll is not None
    torch.testing.assert_close(encoding.nll[:, 0], model.nll(seen, model.net))
    assert (encoding.background_nll is not None) is ("background" in config)
    if model.background is not None and encoding.background_nll is not None:
        torch.testing.assert_close(encoding.background_nll[:, 0], model.nll(seen, model.background))
        assert not torch.allclose(encoding.background_nll, encoding.nll)


def test_the_embedding_is_the_middle_layer_s_means_over_the_parts_of_the_image() -> None:
    model, x = density(ImageShape(20, 1), num_layers=3), torch.rand(2, 1, 20, 20)
    encoding, middle = model.encode(x), model.net.features(model.pixels.grid(x))[1]
    parts = middle.unfold(2, 5, 5).unfold(3, 5, 5).mean(dim=(4, 5))
    torch.testing.assert_close(encoding.embedding, parts.flatten(1))


@pytest.mark.parametrize("size", [(8, 8), (9, 30), (2, 1)])
def test_images_of_any_shape_have_as_large_an_embedding(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    parts = pooled(x).view(2, 3, 4, 4)
    assert parts.amax() <= x.amax()
    if min(size) >= 4:
        tops, lefts = ([i for i in range(side) if i * 4 // side == 1] for side in size)
        torch.testing.assert_close(parts[:, :, 1, 1], x[:, :, tops][:, :, :, lefts].mean(dim=(2, 3)))
    encoding = density(ImageShape(size[0], 3, width=size[1])).encode(x)
    assert encoding.embedding.shape == (2, 16 * 8)


def test_so_many_pixels_are_drawn_anew() -> None:
    torch.manual_seed(0)
    x = torch.full((20, 3, 30, 30), 0.5)
    got = mutated(x, 0.3, 256)
    changed = (got != x).any(dim=1)
    assert changed.float().mean().item() == pytest.approx(0.3, abs=0.02)
    drawn = got.permute(0, 2, 3, 1)[changed]
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.02)
    assert len(torch.unique(drawn)) == 256
    assert set(mutated(x, 0.3, 2).unique().tolist()) == {0, 0.5, 1}


def test_samples_are_images_of_the_levels_that_are_modelled() -> None:
    for block in (1, 2):
        binary = density(ImageShape(4, 1), binarise="threshold", block=block).samples(3)
        assert binary.shape == (3, 1, 4, 4)
        assert set(binary.unique().tolist()) == {0, 1}
    levels = density(ImageShape(4, 1)).samples(3) * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    assert len(levels.unique()) > 10


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs on digits, by blocks, with a background."""
    return train(tmp_path_factory.mktemp("runs") / "pixelcnn", **BLOCKS)


@pytest.mark.parametrize(
    ("config", "losses"),
    [(BLOCKS, GOLDEN["blocks"]), ({}, GOLDEN["levels"])],
)
def test_the_loss_curve_is_the_one_it_was(
    config: dict[str, Any], losses: list[float], run: Path, tmp_path: Path
) -> None:
    folder = run if config else train(tmp_path / "run")
    assert [row["loss"] for row in open_run(folder)[1].history] == pytest.approx(losses, rel=1e-4)


def test_nats_and_bits_of_the_test_rows_are_reported(tmp_path: Path) -> None:
    trained = open_run(train(tmp_path / "run", epochs=1))[1]
    bits = trained.test["test_nll_nats"] / (64 * math.log(2))
    assert trained.test["test_bits_per_dim"] == pytest.approx(bits, rel=1e-5)
    assert bits < 8  # of 256 levels that are all alike


def test_a_run_that_was_stopped_and_resumed_has_the_same_weights(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undo = interrupt_in_epoch(1, monkeypatch, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", **BLOCKS)
    undo()
    assert_equal(weights(run), weights(train(tmp_path / "stopped", resume=True, **BLOCKS)))


def test_it_is_exported_with_parity_and_scores_by_likelihood(run: Path, tmp_path: Path) -> None:
    wanted = ("likelihood", "typicality", "complexity_corrected", "likelihood_ratio")
    folder = export_run(run, tmp_path, report="none", promise=Promise(detectors=wanted))
    manifest = bundle.load(folder)
    assert manifest.graphs.keys() == {"encoder", "scorer"}
    outputs = {spec.name: spec.shape for spec in manifest.graphs["encoder"].outputs}
    assert outputs["nll"] == outputs["background_nll"] == (1,)
    names = [detector.name for detector in manifest.detectors]
    assert set(names) >= set(wanted)
    nats = {figure.name: figure for figure in manifest.evaluations}["nll_nats"]
    assert nats.data.endswith("dynamic binarisation")
    model, digits = load_model(run, open_run(run)[0]), open_run(run)[0].load_data().test.values[:9]
    got = GraphRunner(folder, manifest.graphs.values()).run(digits)
    with torch.no_grad():
        expected = model.encode(torch.from_numpy(digits).permute(0, 3, 1, 2) / 255)  # type: ignore[operator]
    np.testing.assert_allclose(got["nll"], expected.nll.numpy(), atol=1e-4)
    np.testing.assert_allclose(got["scores"][:, names.index("likelihood")], got["nll"][:, 0], atol=1e-3)


def test_the_likelihood_of_colours_is_the_same_in_a_graph(tmp_path: Path) -> None:
    """Far and near levels, and those at either end, in a batch of another size than it was exported with."""
    model = density(ImageShape(6, 3), background=0.1).eval()
    rows = torch.randint(0, 256, (5, 6, 6, 3), dtype=torch.uint8)
    rows[0], rows[1] = 0, 255
    names = ["embedding", "nll", "background_nll"]
    graph = export_graph(EncoderGraph(model), {INPUT: rows[:2]}, names, tmp_path / "encoder.onnx")
    got = GraphRunner(tmp_path, [graph]).run(rows.numpy())
    with torch.no_grad():
        expected = model.encode(rows.permute(0, 3, 1, 2) / 255)._asdict()
    for name in names:
        np.testing.assert_allclose(got[name], expected[name].numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"width": 0}, "width: got 0, expected above 0"),
        ({"kernel": 4}, "kernel: got 4, expected an odd number"),
        ({"background": 1.0}, "background: got 1.0, expected 0 or greater, below 1"),
    ],
)
def test_a_config_that_makes_no_sense_is_rejected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelCnnConfig(**config)


def test_colour_is_not_binarised() -> None:
    with pytest.raises(ValueError, match="binarise: got dynamic for 3 channels, expected none"):
        density(ImageShape(8, 3), binarise="dynamic")
