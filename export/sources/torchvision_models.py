"""`torchvision:NAME=CHECKPOINT`: a classifier of torchvision's with the weights of a checkpoint.

The embedding is what its last linear layer takes. Size, resizing, mean and deviation are those of the transforms that
torchvision gives with its own weights: of those whose file is called like the checkpoint, or else its default ones.

Shape legend: B rows, C channels, H height, W width, D embedding, h and w places.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.sources.extras import library
from export.sources.imported import Backbone, Features, ImportedEncoder, checked
from export.sources.preprocessing import Preprocessing
from export.sources.source import Network, SourceError, SourceOptions
from export.sources.weights import check_size, of_network, put_weights, read_weights
from latentserve.bundle import sha256_of_file
from latentserve.inputs import Resize
from training.options import nearest

AUXILIARY = ("aux", "AuxLogits")
"""Classifiers beside the last one, which are there in training alone."""
FILTERS = ("bilinear", "bicubic", "lanczos")


class Kept(nn.Module):
    """A layer that keeps what it was given: the map that pooling takes."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.given: list[Tensor] = []

    def forward(self, x: Tensor) -> Any:
        """As the layer."""
        self.given[:] = [x]
        return self.layer(x)


class TorchvisionBackbone(Backbone):
    """A classifier without its last layer."""

    def __init__(self, network: nn.Module, with_map: bool) -> None:
        super().__init__()
        self.network, self.kept = network, None
        if with_map and isinstance(pool := getattr(network, "avgpool", None), nn.Module):
            kept = Kept(pool)
            network.avgpool = kept
            self.kept = kept

    def features(self, x: Tensor) -> Features:
        """What the last layer would take, and what was pooled to it."""
        pooled = self.network(x)
        if self.kept is None:
            return Features(pooled)
        (map_BDhw,) = self.kept.given
        self.kept.given.clear()
        return Features(pooled, map=map_BDhw if map_BDhw.ndim == 4 else None)


def open(argument: str, options: SourceOptions) -> Network:  # noqa: A001 (as every source has it)
    """See the module.

    Raises:
        SourceError: torchvision knows no such network, the weights are not its own, or it cannot be an encoder.
    """
    models = library("torchvision").models
    name, _, checkpoint = argument.partition("=")
    names = models.list_models(module=models)
    if name not in names:
        raise SourceError(f"torchvision: got {name!r}, expected one of torchvision.models{nearest(name, names)}")
    if not checkpoint:
        raise SourceError(f"torchvision: got no checkpoint, expected torchvision:{name}=FILE (.pth or .safetensors)")
    file = Path(checkpoint).expanduser()
    with torch.device("meta"):  # for its names alone
        tensors = of_network(read_weights(file), models.get_model(name, weights=None), file)
    network = _made(models, name, tensors)
    check_size(network, f"torchvision:{name}")
    spare = [one for one in AUXILIARY if not hasattr(network, one)]
    last = _last_layer(network, name)
    if headless := not any(one.startswith(f"{last}.") for one in tensors):
        network.set_submodule(last, nn.Identity())  # a backbone's checkpoint: its classifier would go anyway
    put_weights(network, tensors, (str(file), f"torchvision:{name}"), spare)
    weights = _like(models.get_model_weights(name), file)
    preprocessing = _preprocessing(weights).said_by(options)
    if not headless:
        network.set_submodule(last, nn.Identity())
    backbone = TorchvisionBackbone(network, options.patches is not None or options.embedding in ("mean", "cls"))
    model = ImportedEncoder(
        backbone,
        options.embedding,
        preprocessing.mean,
        preprocessing.std,
        preprocessing.order,
        options.normalise,
        options.patches is not None,
    )
    encoder = checked(model, preprocessing.input)
    versions = {"torchvision": library("torchvision").__version__}
    licence = _licence(weights, file)
    return Network(encoder, preprocessing.input, f"torchvision:{argument}", sha256_of_file(file), licence, versions)


def _made(models: Any, name: str, tensors: dict[str, Tensor]) -> nn.Module:
    """With as many classes as the checkpoint has, if its last layer tells."""
    network: nn.Module = models.get_model(name, weights=None)
    last = _last_layer(network, name)
    bias = tensors.get(f"{last}.bias")
    if bias is not None and len(bias) != network.get_submodule(last).out_features:
        network = models.get_model(name, weights=None, num_classes=len(bias))
    return network


def _last_layer(network: nn.Module, name: str) -> str:
    """The name of the last linear layer that is no auxiliary classifier's."""
    layers = [one for one, module in network.named_modules() if isinstance(module, nn.Linear)]
    layers = [one for one in layers if not one.startswith(AUXILIARY)]
    if not layers or ("." in layers[-1] and layers[-1].split(".")[0] not in ("classifier", "head", "heads")):
        raise SourceError(f"torchvision: got {name}, which is no classifier with a linear layer at its end")
    last: str = layers[-1]
    return last


def _like(weights: Any, file: Path) -> Any:
    """The weights of torchvision's whose file is called so; else its default ones."""
    return next((one for one in weights if Path(one.url).stem == file.stem), weights.DEFAULT)


def _preprocessing(weights: Any) -> Preprocessing:
    """From torchvision's `ImageClassification`."""
    transforms = weights.transforms()
    crop, shorter = transforms.crop_size[0], transforms.resize_size[0]
    filter_ = transforms.interpolation.value
    resize = Resize("crop", shorter, filter_ if filter_ in FILTERS else "bilinear")
    return Preprocessing((crop, crop), resize, tuple(transforms.mean), tuple(transforms.std))


def _licence(weights: Any, file: Path) -> str:
    """Torchvision says nothing of a file that only its user knows."""
    if Path(weights.url).stem != file.stem:
        return ""
    return f"of torchvision's weights {weights}, see {weights.meta.get('recipe', weights.url)}"
