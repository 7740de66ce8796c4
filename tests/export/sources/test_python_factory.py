from __future__ import annotations

from typing import Any

import pytest
import torch

from export.sources import SourceError, SourceOptions, open_source
from latentserve.inputs import AudioInput, ImageInput, Resize
from tests.export.sources import tiny

HERE = "python:tests.export.sources.tiny:"
SIZE = (tiny.SIZE, tiny.SIZE)


def opened(name: str, **said: Any) -> Any:
    return open_source(HERE + name, SourceOptions(**{"image_size": SIZE, **said}))


def images(rows: int = 3) -> torch.Tensor:
    return torch.rand(rows, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def test_a_module_that_gives_a_vector_is_an_encoder() -> None:
    network = opened("net")
    assert network.input == ImageInput(*SIZE, 3, resize=Resize("fit"))
    expected = tiny.net().eval()(images())
    torch.testing.assert_close(network.model.encode(images()).embedding, expected)
    assert len(network.weights_sha256) == 64


def test_mean_deviation_and_order_of_colours_are_parts_of_the_model() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    network = opened("net", mean=mean, std=std, order="BGR")
    given = (images().flip(1) - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(network.model.encode(images()).embedding, tiny.net().eval()(given))


def test_embeddings_of_length_1_and_patches() -> None:
    network = opened("places", embedding="mean", normalise=True, patches="auto")
    encoding = network.model.encode(images())
    places = tiny.places().eval()(images())
    torch.testing.assert_close(encoding.patches, places.permute(0, 2, 3, 1))
    torch.testing.assert_close(encoding.embedding, torch.nn.functional.normalize(places.mean(dim=(2, 3))))


def test_the_class_token_or_the_mean_of_the_others() -> None:
    tokens = tiny.sequence()(images())
    torch.testing.assert_close(opened("sequence", embedding="cls").model.encode(images()).embedding, tokens[:, 0])
    torch.testing.assert_close(opened("sequence", embedding="mean").model.encode(images()).embedding, tokens.mean(1))


def test_waveforms() -> None:
    network = opened("sound", image_size=None, sample_rate_hz=8000, num_samples=4000)
    assert network.input == AudioInput(8000, 4000)
    wave = torch.rand(2, 4000) - 0.5
    torch.testing.assert_close(network.model.encode(wave).embedding, tiny.sound()(wave))


def test_how_images_become_rows_is_the_user_s_choice() -> None:
    assert opened("net", resize="fit", filter="lanczos").input.resize == Resize("fit", None, "lanczos")
    assert opened("net", shorter_side=32).input.resize == Resize("crop", 32)


def test_one_number_is_that_of_all_channels() -> None:
    x = torch.rand(2, 3, *SIZE)
    one, three = (opened("net", mean=(0.5,) * num, std=(0.2,) * num).model.encode(x) for num in (1, 3))
    torch.testing.assert_close(one.embedding, three.embedding, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "said", "told"),
    [
        ("number", {}, r"python: got a int of tests\S+:number\(\), expected a torch.nn.Module"),
        ("with_arguments", {}, r"failed \(with_arguments\(\) missing 1 .*\), expected it to take no arguments"),
        ("fails", {}, r"failed \(no weights here\)"),
        ("not_a_function", {}, "got a int called 'not_a_function'"),
        ("nett", {}, "got no 'nett' in tests.export.sources.tiny, expected a function, did you mean 'net'"),
        ("two", {}, "got a tuple of the module, expected one tensor"),
        ("net", {"image_size": None}, "image_size: got none, and a module .* expected --image-size HEIGHTxWIDTH"),
        ("net", {"image_size": (2, 2)}, r"the network takes no rows of \[2, 2, 3\] \(RuntimeError: .*--image-size"),
        ("net", {"mean": (0.5, 0.5)}, "mean: got 2 numbers, expected 3, one for each channel"),
        ("broken", {}, "embedding: got NaN or infinity for an image of noise, expected numbers"),
        ("net", {"std": (0.5, 0.0, 0.5)}, "std: got 0, expected more than 0"),
        ("net", {"embedding": "features"}, "embedding: got 'features', expected one of auto, cls, mean, pooled"),
        ("net", {"embedding": "mean"}, "embedding: got mean, but the network gives one vector"),
        ("net", {"patches": "auto"}, "patches: got auto, but the network gives no vectors for places"),
        ("net", {"shorter_side": 8}, "shorter_side: got 8, expected 24 or more"),
        ("net", {"resize": "fit", "shorter_side": 30}, "shorter_side: got 30 with fit"),
        ("sequence", {}, "gives a sequence of 17 vectors for a row and none for all of it; say --embedding mean"),
        ("places", {}, "gives a map of 5 x 5 vectors for a row and none for all of it; say --embedding mean"),
        ("places", {"embedding": "cls"}, "embedding: got cls, but the network has no class token"),
        ("batch_norm_of_the_batch", {}, "the network depends on the batch: a row's embedding is .*BatchNorm"),
        ("deviation_of_the_batch", {}, "the network depends on the batch"),
        ("dropout", {}, r"answer changes from call to call: .* call F.dropout\(x, training=self.training\)"),
        ("halves", {}, "embedding: got numbers of type float16 of the network, expected float32"),
        ("scripted", {}, "got a scripted module of .*, expected the one that it was made of"),
        ("ends", {}, r"failed \(no network here\)"),
        ("large", {}, r"got weights of 3.2 GB, expected less than 2.1 GB"),
        ("sound", {"sample_rate_hz": 8000}, "num_samples: got none"),
    ],
)
def test_what_cannot_be_an_encoder_is_refused_in_a_sentence(name: str, said: dict[str, Any], told: str) -> None:
    with pytest.raises(SourceError, match=told) as refused:
        opened(name, **said)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("python:nowhere.to_be:found", r"python: 'nowhere.to_be' cannot be imported from .*No module named 'nowhere'"),
        ("python:tests", "python: got 'tests', expected package.module:factory"),
        ("tim:resnet18", "source: got 'tim:resnet18', expected one of timm:NAME.*did you mean 'timm'"),
        ("timm:", "source: got 'timm:'"),
        ("runs/vae", "source: got 'runs/vae', expected one of"),
    ],
)
def test_sources_that_are_none_are_told(spec: str, told: str) -> None:
    with pytest.raises(SourceError, match=told):
        open_source(spec, SourceOptions(image_size=SIZE))
