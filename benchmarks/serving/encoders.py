"""The encoders that serving is measured with, untrained: speed does not depend on the weights.

small       about 5 MFLOP an image of 32 x 32: what matters is everything around the model
r18         ResNet-18 at 32 x 32, about 1.1 GFLOP an image: what matters is the model
resnet50    at 224 x 224, and
vit_s16     a vision transformer (small, patches of 16) at 224 x 224: what people bring to a GPU
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.serving.encoder_inputs import CHANNELS, SIZES, images
from export.graphs import EncoderGraph, GraphRunner, export_graph
from export.half import halve
from export.parity import LOWER_TOLERANCE, RELATIVE_TOLERANCE
from latentserve import bundle, records
from latentserve.bundle import Manifest, Parity, Precision, Provenance
from latentserve.inputs import INPUT, ImageInput
from training.methods.encoding import Encoding

GOLDEN_ROWS = 8


class Encoder(nn.Module):
    """A network under the interface that export expects."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def encode(self, x_BCHW: Tensor) -> Encoding:
        """Embedding alone."""
        return Encoding(embedding=self.network(x_BCHW))


def small() -> nn.Module:
    """Four convolutions, 128 numbers out."""

    def block(before: int, after: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    blocks = [*block(3, 16, 2), *block(16, 32, 2), *block(32, 64, 1), *block(64, 64, 2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(1024, 128))


def of_timm(name: str) -> Any:
    """One of timm's networks, untrained and without a classifier."""
    import timm  # imported here: it takes seconds, and `images` does not need it

    return timm.create_model(name, num_classes=0)


def r18() -> nn.Module:
    """Timm's ResNet-18 with a stem for small images, 512 numbers out."""
    network = of_timm("resnet18")
    network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    return nn.Sequential(network)


def resnet50() -> nn.Module:
    """Timm's, 2,048 numbers out."""
    network: nn.Module = of_timm("resnet50")
    return network


def vit_s16() -> nn.Module:
    """Timm's, 384 numbers out."""
    network: nn.Module = of_timm("vit_small_patch16_224")
    return network


ENCODERS = {"small": small, "r18": r18, "resnet50": resnet50, "vit_s16": vit_s16}


def write_bundle(name: str, repository: Path, precision: Precision = "float32") -> Path:
    """Writes an embedding-only bundle <repository>/<name>/1 and returns its folder."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = Encoder(ENCODERS[name]()).eval()
    rows = images(name, GOLDEN_ROWS)
    example = {INPUT: torch.from_numpy(rows[:2])}
    graphs = {"encoder": export_graph(EncoderGraph(model), example, ["embedding"], folder / "encoder.onnx")}
    with torch.no_grad():
        (embedding,) = EncoderGraph(model)(torch.from_numpy(rows))
    if precision == "float16":
        halve(folder / "encoder.onnx")
    np.savez(folder / bundle.GOLDEN, input=rows, embedding=embedding.numpy())
    error = float(np.abs(GraphRunner(folder, graphs.values()).run(rows)["embedding"] - embedding.numpy()).max())
    tolerance = LOWER_TOLERANCE.get(precision, RELATIVE_TOLERANCE) * max(1.0, float(embedding.abs().max()))
    provenance = Provenance("untrained", "none", "", 0, 0, {}, "", 0.0, "cpu", "", {})
    manifest = Manifest(
        schema_version=bundle.SCHEMA_VERSION,
        name=name,
        version=1,
        input=ImageInput(SIZES[name], SIZES[name], CHANNELS),
        graphs=graphs,
        embedding_space=bundle.embedding_space(bundle.sha256_of_file(folder / "encoder.onnx")),
        provenance=provenance,
        files={path.name: bundle.sha256_of_file(path) for path in sorted(folder.iterdir())},
        precision=precision,
        parity=(Parity("embedding", error, tolerance, GOLDEN_ROWS),),
    )
    records.write(manifest, folder / bundle.MANIFEST)
    return folder
