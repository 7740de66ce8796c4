"""The protocols that evaluation and export know a model by."""

from __future__ import annotations

import pytest
from torch import nn

from training.data import AudioShape, ImageShape
from training.methods import METHODS
from training.methods.encoding import Decoder, Encoder, as_encoder
from training.schedule import LoopConfig

DECODING = ("acn", "bigan", "bigbigan", "dbn", "pixelvae", "sparse_autoencoder", "vae", "vqvae")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_s_model_is_an_encoder_and_those_that_decode_are_decoders(name: str) -> None:
    method = METHODS[name]
    shape = ImageShape(32, 3 if method.colour else 1) if method.modality == "image" else AudioShape(8000, 8000)
    module = method.module(method.config(), LoopConfig(), shape)
    encoder = as_encoder(module)
    assert encoder is module
    assert isinstance(encoder, Encoder)
    assert isinstance(encoder, Decoder) is (name in DECODING)


def test_a_module_that_does_not_encode_is_no_encoder() -> None:
    with pytest.raises(TypeError, match="got Linear without a method encode, expected an encoder"):
        as_encoder(nn.Linear(2, 2))
