"""`timm:NAME[=CHECKPOINT]`: a network of timm's, with its own weights or those of a checkpoint.

Size, resizing, mean and deviation are those of timm's data config. Without a checkpoint timm finds the weights, in its
cache or where it downloads them from.

Shape legend: B rows, C channels, H height, W width, T tokens, D embedding, h and w places.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from export.sources.extras import library
from export.sources.imported import Backbone, Features, ImportedEncoder, check_patches, checked
from export.sources.preprocessing import Preprocessing
from export.sources.source import Network, SourceError, SourceOptions
from export.sources.weights import check_size, fits, of_network, put_weights, read_weights
from latentserve.bundle import sha256_of_file
from latentserve.inputs import Resize
from training.evaluation.torch_encoders import weights_sha256
from training.options import nearest

HOWS: dict[str, Any] = {"center": "crop", "squash": "stretch", "border": "fit"}
"""timm's `crop_mode`, in our words."""
FILTERS = ("bilinear", "bicubic", "lanczos")


class TimmBackbone(Backbone):
    """A network of timm's without its classifier."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.num_before = int(getattr(network, "num_prefix_tokens", 0))
        self.is_last = getattr(network, "output_fmt", "NCHW") == "NHWC"

    def features(self, x: Tensor) -> Features:
        """The pooled ones are what timm's own classifier would take."""
        found = self.network.forward_features(x)
        pooled = self.network.forward_head(found, pre_logits=True)
        if found.ndim == 3:
            grid = getattr(getattr(self.network, "patch_embed", None), "grid_size", None)
            return Features(pooled, tokens=found, num_before=self.num_before, grid=grid)
        if found.ndim == 4:
            return Features(pooled, map=found.permute(0, 3, 1, 2) if self.is_last else found)
        return Features(pooled)


def open(argument: str, options: SourceOptions) -> Network:  # noqa: A001 (as every source has it)
    """See the module.

    Raises:
        SourceError: timm is missing or knows no such network, the weights are not its own, or it cannot be an encoder.
    """
    timm = library("timm")
    name, _, checkpoint = argument.partition("=")
    _check_name(timm, name)
    network = _made(timm, name, checkpoint, options)
    check_size(network, f"timm:{name}")
    check_patches(options.image_size, getattr(getattr(network, "patch_embed", None), "patch_size", None))
    if checkpoint:
        _put(network, Path(checkpoint).expanduser(), name)
    preprocessing = _preprocessing(timm, network, options)
    model = ImportedEncoder(
        TimmBackbone(network),
        options.embedding,
        preprocessing.mean,
        preprocessing.std,
        preprocessing.order,
        options.normalise,
        options.patches is not None,
    )
    encoder = checked(model, preprocessing.input)
    sha256 = sha256_of_file(Path(checkpoint).expanduser()) if checkpoint else weights_sha256(encoder)
    versions = {"timm": timm.__version__}
    return Network(encoder, preprocessing.input, f"timm:{argument}", sha256, _licence(network), versions)


def _check_name(timm: Any, name: str) -> None:
    bare, _, tag = name.partition(".")
    if not timm.is_model(bare):
        meant = nearest(bare, timm.list_models())
        raise SourceError(f"timm: got {name!r}, expected a network of timm.list_models(){meant}")
    if tag and name not in (known := timm.list_pretrained(f"{bare}*")):
        raise SourceError(f"timm: got {name!r}, expected one of its weights{nearest(name, known)}")


def _made(timm: Any, name: str, checkpoint: str, options: SourceOptions) -> nn.Module:
    size: dict[str, Any] = {} if options.image_size is None else {"img_size": options.image_size}
    given: dict[str, Any] = {"pretrained": not checkpoint, "num_classes": 0}
    try:
        try:
            network: nn.Module = timm.create_model(name, **given, **size)
        except TypeError:  # networks that take images of any size take no img_size
            network = timm.create_model(name, **given)
    except Exception as error:  # of what it cannot download, whatever the library raises that should
        why = str(error).strip().splitlines()
        raise SourceError(
            f"timm:{name}: its weights could not be had ({why[0] if why else type(error).__name__}): name a checkpoint,"
            f" timm:{name}=FILE"
        ) from error
    return network


def _put(network: Any, file: Path, name: str) -> None:
    tensors = of_network(read_weights(file), network, file)
    config = network.pretrained_cfg
    classifier = config.get("classifier") or ()
    spare = [f"{one}." for one in ([classifier] if isinstance(classifier, str) else classifier)]
    if not fits(network, tensors, spare):  # weights as their authors published them: timm may know how they are called
        known = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        try:
            renamed = tensors if known is None else known(dict(tensors), network)
        except Exception:  # of weights that it was not made for
            renamed = tensors
        tensors = renamed if fits(network, renamed, spare) else tensors
    put_weights(network, tensors, (str(file), f"timm:{name}"), spare)


def _preprocessing(timm: Any, network: Any, options: SourceOptions) -> Preprocessing:
    config = timm.data.resolve_model_data_config(network)
    channels, height, width = config["input_size"]
    how = HOWS.get(config["crop_mode"], "crop")
    side = math.floor(min(height, width) / config["crop_pct"]) if how == "crop" else None
    filter_: Any = config["interpolation"] if config["interpolation"] in FILTERS else "bicubic"
    found = Preprocessing((height, width), Resize(how, side, filter_), config["mean"], config["std"], "RGB", channels)
    return found.said_by(options)


def _licence(network: Any) -> str:
    """Its name, and where the weights come from."""
    config = network.pretrained_cfg
    licence, where = config.get("license"), config.get("hf_hub_id") or config.get("origin_url") or config.get("url")
    if not licence:
        return ""
    return f"{licence} (of timm's own weights for this network{f', {where}' if where else ''})"
