"""`python:package.module:factory`: a torch module that a function of yours returns.

It takes float images [B, C, H, W], 0 to 1 or as --mean and --std make them, or with --sample-rate-hz waveforms [B, T],
-1 to 1; it returns a vector for each row, a sequence or a map.

Shape legend: B rows, C channels, H height, W width, T samples or tokens, D embedding, h and w places.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.sources.imported import Backbone, Features, ImportedEncoder, checked
from export.sources.preprocessing import Preprocessing
from export.sources.source import Network, SourceError, SourceOptions
from export.sources.weights import check_size
from latentserve.inputs import AudioInput, ImageInput, Resize
from training.evaluation.torch_encoders import weights_sha256
from training.options import nearest


class ModuleBackbone(Backbone):
    """Any module that returns one tensor."""

    def __init__(self, network: nn.Module, num_before: int) -> None:
        super().__init__()
        self.network, self.num_before = network, num_before

    def features(self, x: Tensor) -> Features:
        """By the number of axes: a vector, a sequence, a map.

        Raises:
            SourceError: the module returns something else.
        """
        found = self.network(x)
        if not isinstance(found, Tensor):
            raise SourceError(f"python: got a {type(found).__name__} of the module, expected one tensor")
        if found.ndim == 2:
            return Features(found)
        if found.ndim == 3:
            return Features(tokens=found, num_before=self.num_before)
        if found.ndim == 4:
            return Features(map=found)
        raise SourceError(f"python: got a tensor of {found.ndim} axes of the module, expected 2, 3 or 4")


def open(argument: str, options: SourceOptions) -> Network:  # noqa: A001 (as every source has it)
    """See the module.

    Raises:
        SourceError: it cannot be imported or called, returns no module, or one that cannot be an encoder.
    """
    network = _made(argument)
    check_size(network, f"python:{argument}")
    given: ImageInput | AudioInput
    # of a sequence whose first is a class token the user says so by --embedding cls
    backbone = ModuleBackbone(network, 1 if options.embedding == "cls" else 0)
    normalise, patches = options.normalise, options.patches is not None
    if options.sample_rate_hz is not None:
        given = _sound(options)
        model = ImportedEncoder(backbone, options.embedding, normalise=normalise, patches=patches)
    else:
        images = _images(network, options)
        given, (mean, std) = images.input, (images.mean, images.std)
        model = ImportedEncoder(backbone, options.embedding, mean, std, images.order, normalise, patches)
    encoder = checked(model, given)
    return Network(encoder, given, f"python:{argument}", weights_sha256(encoder))


def _made(argument: str) -> nn.Module:
    place, _, name = argument.rpartition(":")
    if not place or not name:
        raise SourceError(f"python: got {argument!r}, expected package.module:factory")
    factory = _factory(place, name)
    try:
        made = factory()
    except (Exception, SystemExit) as error:  # whatever a user's function raises
        said = str(error).strip().splitlines()
        why = said[0] if said else type(error).__name__
        raise SourceError(f"python: {place}:{name}() failed ({why}), expected it to take no arguments") from error
    if not isinstance(made, nn.Module):
        raise SourceError(f"python: got a {type(made).__name__} of {place}:{name}(), expected a torch.nn.Module")
    if isinstance(made, torch.jit.ScriptModule):
        raise SourceError(f"python: got a scripted module of {place}:{name}(), expected the one that it was made of")
    return made


def _factory(place: str, name: str) -> Callable[[], Any]:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(place)
    except (Exception, SystemExit) as error:  # its own code may fail, too
        why = f"{type(error).__name__}: {error}"
        raise SourceError(f"python: {place!r} cannot be imported from {here} ({why})") from error
    found = getattr(module, name, None)
    if found is None:
        raise SourceError(f"python: got no {name!r} in {place}, expected a function{nearest(name, vars(module))}")
    if not callable(found):
        raise SourceError(f"python: got a {type(found).__name__} called {name!r} in {place}, expected a function")
    factory: Callable[[], Any] = found
    return factory


def _sound(options: SourceOptions) -> AudioInput:
    assert options.sample_rate_hz is not None
    if options.num_samples is None:
        raise SourceError("num_samples: got none, and a module does not say what it takes: expected --num-samples")
    try:
        return AudioInput(options.sample_rate_hz, options.num_samples)
    except ValueError as error:
        raise SourceError(str(error)) from error


def _images(network: nn.Module, options: SourceOptions) -> Preprocessing:
    if options.image_size is None:
        raise SourceError(
            "image_size: got none, and a module does not say what it takes: expected --image-size HEIGHTxWIDTH, best"
            " the size that the network was trained on"
        )
    first = next((one for one in network.modules() if isinstance(one, nn.Conv2d)), None)
    channels = first.in_channels if first is not None and first.in_channels in (1, 3) else 3
    said = options.mean or options.std
    resize = Resize("fit" if options.shorter_side is None else "crop")  # nothing is known: nothing is cut off
    found = Preprocessing(
        options.image_size, resize, channels=len(said) if said is not None and first is None else channels
    )
    return found.said_by(options)
