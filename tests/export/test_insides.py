"""Pictures of what a model is made of."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image
from scipy import stats

from export.draft import Training
from export.figures import Measured
from export.report.insides import MOST_CODES, OCCURRENCES, codes_of, first_filters, insides, occurrences
from training.data import Data, ImageShape, Rows
from training.methods import METHODS
from training.methods.bigbigan import BigBiGan, BigBiGanConfig
from training.methods.vae import Vae, VaeConfig
from training.schedule import LoopConfig


def data(channels: int = 1, size: int = 8) -> Data:
    rows = np.random.default_rng(0).integers(0, 256, (30, size, size, channels), np.uint8)
    return Data("noise", Rows(rows), Rows(rows[:2]), Rows(rows))


def made(name: str, channels: int = 1, **config: Any) -> Any:
    torch.manual_seed(0)
    method = METHODS[name]
    return method.module(method.config(**config), LoopConfig(), ImageShape(8, channels)).eval()


def pictures(body: tuple[str, ...]) -> list[Image.Image]:
    found = re.findall(r"base64,([^\"]+)", "".join(body))
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in found]


@pytest.mark.parametrize("channels", [1, 3])
def test_filters_are_those_of_the_layer_that_sees_the_pixels(channels: int) -> None:
    small = {"vae": {"width": 4}, "simclr": {"width": 4}, "vqvae": {"width": 4}, "bigbigan": {"backbone_width": 4}}
    for name, config in small.items():
        filters = first_filters(made(name, channels, **config), data(channels))
        assert filters is not None
        assert filters.shape[0] == 4
        assert filters.shape[3] == channels
    sparse = made("sparse_autoencoder", channels, num_units=10, k=3)
    filters = first_filters(sparse, data(channels))
    assert filters is not None
    np.testing.assert_array_equal(filters[7].transpose(2, 0, 1).ravel(), sparse.filters[7].detach().numpy())
    dbn = made("dbn", channels, layers=(6, 5))
    filters = first_filters(dbn, data(channels))
    assert filters is not None
    assert filters.shape == (6, 8, 8, channels)


def test_a_model_whose_first_layer_sees_something_else_shows_none() -> None:
    class Other(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layer(x.flatten(1)[:, :3])
            return y

    assert first_filters(Other(), data()) is None


def test_samples_are_of_the_prior_and_an_autoencoder_has_none() -> None:
    measured = Measured((), (), {}, {}, np.empty(0))
    for model, expected in (
        (Vae(VaeConfig(width=4, latent_dim=3), LoopConfig(), ImageShape(8, 1)), True),
        (Vae(VaeConfig(width=4, objective="autoencoder"), LoopConfig(), ImageShape(8, 1)), False),
        (BigBiGan(BigBiGanConfig(width=4, backbone_width=4), LoopConfig(), ImageShape(8, 1)), True),
    ):
        before = torch.get_rng_state()
        sections = insides(Training(None, model.eval(), data()), measured)  # type: ignore[arg-type]
        assert ("Samples" in [section.title for section in sections]) is expected
        assert torch.equal(before, torch.get_rng_state())
    (_, samples) = insides(Training(None, made("vae", width=4), data()), measured)  # type: ignore[arg-type]
    (picture,) = pictures(samples.body)
    assert picture.width > picture.height > 8


def test_where_a_code_occurs_is_cut_out_of_the_image() -> None:
    given = data()
    codes = np.zeros((30, 4, 4), np.int64)
    codes[5, 2, 1] = codes[9, 0, 3] = 7
    pieces = occurrences(codes, 7, given)
    assert pieces.shape == (OCCURRENCES, 6, 6, 1)  # cells of 2 pixels, and one on either side
    np.testing.assert_allclose(pieces[0], given.test.values[5][2:8, 0:6] / np.float32(255))
    assert pieces[1][:2].max() == 0  # above the image there is nothing
    np.testing.assert_allclose(pieces[1][2:, :4], given.test.values[9][0:4, 4:8] / np.float32(255))
    assert (pieces[2:] == 1).all()


def test_codebook_usage_says_how_many_codes_occur_and_how_evenly() -> None:
    codes = np.random.default_rng(0).integers(0, 20, (30, 4, 4))
    codes[codes == 3] = 4
    codes[:20] = 4
    usage, where = codes_of(codes, data())
    plt.close("all")
    alike = np.exp(stats.entropy(np.bincount(codes.ravel())))
    assert 2 < alike < 8
    assert usage.note.startswith(f"19 codes occur in the test rows, as unevenly as if there were {alike:.0f} ")
    assert usage.figure is not None
    (picture,) = pictures(where.body)
    assert picture.height * 16 < picture.width * (MOST_CODES + 1)
    one, _ = codes_of(np.zeros((30, 4, 4), np.int64), data())
    plt.close("all")
    assert one.note.startswith("1 codes occur in the test rows, as unevenly as if there were 1 of them")
