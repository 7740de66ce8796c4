"""Networks of timm, torchvision and transformers, with random weights in files that the tests write."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from export.sources import SourceError, SourceOptions, open_source
from latentserve.images import decode_image
from latentserve.inputs import Resize
from training.preprocessing import floats_from_rows

NUM_PHOTOS = 12
NEAR = 0.9999
"""Cosine of our embedding of a file with the one of the source's own pipeline."""


def jpeg(seed: int) -> bytes:
    """A photograph of sorts: soft shapes, an edge, some noise."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(90, 200)), int(rng.integers(90, 200))
    soft = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(soft).astype(np.int16)
    pixels[size[1] // 3 :, size[0] // 2 :] += 60
    pixels += rng.normal(0, 6, pixels.shape).astype(np.int16)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def as_we_do(network: Any, files: list[bytes]) -> torch.Tensor:
    rows = np.stack([decode_image(file, network.input, 10**8) for file in files])
    with torch.no_grad():
        return network.model.encode(floats_from_rows(torch.from_numpy(rows))).embedding


def as_its_source_does(network: nn.Module, transform: Any, files: list[bytes]) -> torch.Tensor:
    with torch.no_grad():
        images = torch.stack([transform(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
        return network.eval()(images)


def assert_near(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    cosines = nn.functional.cosine_similarity(ours, theirs)
    assert float(cosines.min()) >= NEAR
    apart = nn.functional.cosine_similarity(ours, theirs.roll(1, 0))
    assert float(cosines.min()) > float(apart.min()), "all photographs are one to this network"


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    return [jpeg(seed) for seed in range(NUM_PHOTOS)]


def trained_somewhat(network: nn.Module, size: int) -> nn.Module:
    """With running statistics of batches, so that activations do not die out."""
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.rand(4, 3, size, size))
    return network.eval()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_checkpoint_of_timm_s(suffix: str, tmp_path: Path, photos: list[bytes]) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    whole = trained_somewhat(timm.create_model("mobilenetv2_035", pretrained=False), 64)
    file = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(whole.state_dict(), file)
    network = open_source(f"timm:mobilenetv2_035={file}", SourceOptions())
    assert network.input.resize == Resize("crop", 256, "bicubic")
    assert network.licence.startswith("apache-2.0")
    assert network.versions == {"timm": timm.__version__}
    whole.reset_classifier(0)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(whole), is_training=False)
    assert_near(as_we_do(network, photos), as_its_source_does(whole, transform, photos))


def test_places_and_the_class_token_of_timm_s_transformers(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    whole = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32, depth=1).eval()
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    said = f"timm:vit_tiny_patch16_224={tmp_path / 'w.safetensors'}"
    with pytest.raises(
        SourceError, match=r"its weights are not those of timm:vit_tiny_patch16_224: \d+ of \d+ tensors"
    ):
        open_source(said, SourceOptions(image_size=(32, 32)))  # eleven blocks are missing


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("timm:mobilenetv2_10", "timm: got 'mobilenetv2_10', expected a network .*did you mean 'mobilenetv2_1"),
        ("timm:resnet18=nowhere.pth", "nowhere.pth: got no file there"),
        ("torchvision:resnet81=x.pth", "torchvision: got 'resnet81', expected one of .*did you mean 'resnet18'"),
        ("torchvision:resnet18", "torchvision: got no checkpoint, expected torchvision:resnet18=FILE"),
        ("hf:/nowhere", "hf: got /nowhere, expected a folder with config.json"),
    ],
)
def test_what_no_library_has_is_told(source: str, told: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(SourceError, match=told):
        open_source(source, SourceOptions())


def test_a_checkpoint_of_torchvision_s(tmp_path: Path, photos: list[bytes]) -> None:
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    whole = trained_somewhat(models.get_model("resnet18", num_classes=7), 64)
    torch.save(whole.state_dict(), tmp_path / "resnet18-f37072fd.pth")
    network = open_source(
        f"torchvision:resnet18={tmp_path / 'resnet18-f37072fd.pth'}", SourceOptions(image_size=(64, 64))
    )
    assert network.input.resize == Resize("crop", round(256 * 64 / 224), "bilinear")
    assert "ResNet18_Weights.IMAGENET1K_V1" in network.licence
    whole.fc = nn.Identity()
    weights = models.ResNet18_Weights.IMAGENET1K_V1
    transform = weights.transforms(crop_size=64, resize_size=73, antialias=True)
    assert_near(as_we_do(network, photos), as_its_source_does(whole, transform, photos))


def test_the_places_of_a_network_of_torchvision_s(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision").models
    whole = models.get_model("mobilenet_v3_small").eval()
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    kept = SourceOptions(image_size=(64, 64), patches="auto", embedding="mean")
    whole_map = whole.features(torch.zeros(1, 3, 64, 64))
    # MobileNets have no layer `avgpool` inside `features`: the map is what it is given
    encoding = open_source(f"torchvision:mobilenet_v3_small={tmp_path / 'w.pth'}", kept).model.encode(
        torch.zeros(2, 3, 64, 64)
    )
    assert encoding.patches is not None
    assert encoding.patches.shape == (2, *whole_map.shape[2:], whole_map.shape[1])
    torch.testing.assert_close(encoding.embedding, encoding.patches.mean(dim=(1, 2)))


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def dinov2(transformers: Any, folder: Path) -> nn.Module:
    network = transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, image_size=56, patch_size=14))
    network.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}}
    transformers.BitImageProcessor(**sizes, resample=3).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A network\n")
    return network


def vit(transformers: Any, folder: Path) -> nn.Module:
    network = transformers.ViTModel(transformers.ViTConfig(**SMALL, image_size=48, patch_size=16))
    network.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 48, "width": 48}).save_pretrained(folder)
    return network


def clip(transformers: Any, folder: Path) -> nn.Module:
    vision = transformers.CLIPVisionConfig(**SMALL, image_size=32, patch_size=8)
    text = transformers.CLIPTextConfig(**SMALL, vocab_size=99, bos_token_id=0, eos_token_id=1)
    config = transformers.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    network = transformers.CLIPModel(config)
    network.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**sizes).save_pretrained(folder)
    return network


def pooled(network: Any, images: torch.Tensor) -> torch.Tensor:
    if hasattr(network, "get_image_features"):
        return network.visual_projection(network.vision_model(pixel_values=images).pooler_output)
    return network(pixel_values=images).pooler_output


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("make", [dinov2, vit, clip])
def test_a_folder_of_transformers(make: Any, tmp_path: Path, photos: list[bytes]) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = make(transformers, tmp_path).eval()
    network = open_source(f"hf:{tmp_path}", SourceOptions())
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, local_files_only=True)
    images = [Image.open(io.BytesIO(file)).convert("RGB") for file in photos]
    with torch.no_grad():
        expected = pooled(theirs, processor(images, return_tensors="pt")["pixel_values"])
    assert_near(as_we_do(network, photos), expected)
    assert network.versions == {"transformers": transformers.__version__}
    assert network.licence == ("license: apache-2.0 (README.md)" if make is dinov2 else "")


@pytest.mark.filterwarnings("default")
def test_a_classifier_s_folder_has_no_pooler_and_no_code_is_run(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vit(transformers, tmp_path)
    config = transformers.ViTConfig(**SMALL, image_size=48, patch_size=16)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(SourceError, match="a sequence of 10 vectors .* say --embedding cls or --embedding mean"):
        open_source(f"hf:{tmp_path}", SourceOptions())
    kept = open_source(f"hf:{tmp_path}", SourceOptions(embedding="cls", patches="auto"))
    encoding = kept.model.encode(torch.zeros(2, 3, 48, 48))
    assert encoding.patches is not None
    assert encoding.patches.shape == (2, 3, 3, 32)

    text = (tmp_path / "config.json").read_text()
    code = '{"auto_map": {"AutoModel": "own.Own"}, "model_type": "own",'
    (tmp_path / "config.json").write_text(code + text.strip()[1:].replace('"model_type": "vit",', ""))
    (tmp_path / "own.py").write_text("raise SystemExit('code of the folder was run')")
    with pytest.raises(SourceError, match=r"it wants code of its own \(auto_map\), which is never run"):
        open_source(f"hf:{tmp_path}", SourceOptions())

    (tmp_path / "config.json").write_text(text.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    told = r"its weights are not those of its config.json: 16 tensors are missing \("
    with pytest.raises(SourceError, match=told):
        open_source(f"hf:{tmp_path}", SourceOptions(embedding="cls"))
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(SourceError, match=r"got no model.safetensors in .* beside pytorch_model.bin, a pickle"):
        open_source(f"hf:{tmp_path}", SourceOptions())


def test_an_image_size_that_patches_do_not_cover_is_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vit(transformers, tmp_path)
    with pytest.raises(SourceError, match=r"image_size: got 48 x 40, expected multiples of 16 x 16, the network's"):
        open_source(f"hf:{tmp_path}", SourceOptions(image_size=(48, 40)))
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32).state_dict(), tmp_path / "w.pth")
    with pytest.raises(SourceError, match=r"image_size: got 40 x 32, expected multiples of 16 x 16, the network's"):
        open_source(f"timm:vit_tiny_patch16_224={tmp_path / 'w.pth'}", SourceOptions(image_size=(40, 32)))


def test_a_network_of_texts_is_told_before_its_images_are_asked_for(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=99)).save_pretrained(tmp_path)
    with pytest.raises(SourceError, match=r"got bert in .*, a network that takes input_ids, expected one of images"):
        open_source(f"hf:{tmp_path}", SourceOptions())


def test_a_library_that_is_missing_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    from export.sources.huggingface import open as open_folder

    with pytest.raises(SourceError, match=r"transformers is missing: pip install 'latentserve\[import\]'"):
        open_folder(str(tmp_path), SourceOptions())
