"""Weights that a training starts with, from a file of somebody's: `--backbone-weights FILE`.

The file may be a checkpoint of one of our runs, safetensors, or what `torch.save` wrote of tensors alone. What fits the
backbone in name and shape is taken; names may have something in front that all of them share, as `encoder.` or
`module.`. What does not fit begins at random, as ever, and where most does not, nothing is taken.

    ours: last.safetensors of a run      timm, torchvision: conv1.weight, layer1.0.conv1.weight, ... of a ResNet
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from latentserve.bundle import sha256_of_file
from latentserve.records import printable
from training.running import checkpoint
from training.running.checkpoint import CheckpointError

FEWEST_SHARE = 0.5
"""Of the backbone's tensors: with fewer the file is of another network, whose few equal shapes mean something else."""
NAMED = 3
"""As many misfits are named."""
COUNTERS = "num_batches_tracked"
"""BatchNorm's number of steps so far, which nothing is computed from: older files lack it."""
WITHIN = ("state_dict", "model", "model_state_dict")
"""Under which keys of a checkpoint its weights are kept."""
Weights = dict[str, Tensor]


class StartError(ValueError):
    """The weights cannot be started with. The message says what was got, what was expected and why."""


def sha256_of_weights(file: str) -> str:
    """sha256 of the file's bytes, in hex.

    Raises:
        StartError: there is no such file.
    """
    try:
        if not Path(file).is_file():
            raise StartError(f"backbone_weights: got {printable(file)}, expected a file of weights")
        return sha256_of_file(Path(file))
    except OSError as error:
        raise StartError(f"backbone_weights: {printable(file)}: {error.strerror}") from error


def start_from(backbone: nn.Module, file: str) -> None:
    """Loads what fits, and says on stderr how much that was.

    Raises:
        StartError: the file cannot be read without running code of its own, or too little of it fits.
    """
    asked = {name: tensor for name, tensor in backbone.state_dict().items() if not name.endswith(COUNTERS)}
    given = _without_prefix(read_weights(Path(file)), asked)
    taken = {name: given[name] for name, tensor in asked.items() if _fits(given.get(name), tensor)}
    misfits = [_misfit(name, given.get(name), tensor) for name, tensor in asked.items() if name not in taken]
    some = ", ".join(misfits[:NAMED]) + (f" and {len(misfits) - NAMED} more" if len(misfits) > NAMED else "")
    told = f"backbone_weights: {len(taken)} of the backbone's {len(asked)} tensors"
    if len(taken) < FEWEST_SHARE * len(asked):
        raise StartError(f"{told} fit {printable(file)}, expected at least half of them; {some}")
    if broken := [name for name, tensor in taken.items() if not torch.isfinite(tensor).all()]:
        raise StartError(f"backbone_weights: got {broken[0]} in {printable(file)} that is not finite, expected numbers")
    backbone.load_state_dict(taken, strict=False)
    print(f"{told} taken from {printable(file)}" + (f"; {some}" if misfits else ""), file=sys.stderr)


def read_weights(file: Path) -> Weights:
    """The tensors of a file, by name.

    Raises:
        StartError: it holds none, or something else than tensors.
    """
    found = _safetensors(file) if file.suffix == ".safetensors" else _pickled(file)
    weights = {name: tensor for name, tensor in found.items() if isinstance(name, str) and isinstance(tensor, Tensor)}
    if not weights:
        raise StartError(f"backbone_weights: got no tensors in {printable(str(file))}, expected weights by name")
    return weights


def _safetensors(file: Path) -> dict[Any, Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            if checkpoint.TREE not in (opened.metadata() or {}):
                return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no dict)
        return dict(checkpoint.state_dict(file))
    except (SafetensorError, CheckpointError, OSError) as error:
        raise StartError(f"backbone_weights: {printable(str(file))}: {error}") from error


def _pickled(file: Path) -> dict[Any, Any]:
    """What `torch.save` wrote; a pickle that asks for more than tensors is refused before it runs."""
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise StartError(f"backbone_weights: {printable(str(file))}: {error.strerror}") from error
    except Exception as error:  # a dozen classes, by where the bytes stop to make sense
        raise StartError(
            f"backbone_weights: got {printable(str(file))}, which holds more than tensors or none at all, expected"
            " weights alone: save state_dict() as safetensors"
        ) from error
    for name in WITHIN:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    return found if isinstance(found, dict) else {}


def _without_prefix(given: Weights, asked: Weights) -> Weights:
    """The tensors of one part of the file, by the names that they have in it: of the part that fits best."""
    parts = {name[: place + 1] for name in given for place, letter in enumerate(name) if letter == "."}
    stripped = [
        {name.removeprefix(part): tensor for name, tensor in given.items() if name.startswith(part)}
        for part in ("", *sorted(parts))
    ]
    return max(stripped, key=lambda weights: sum(_fits(weights.get(name), tensor) for name, tensor in asked.items()))


def _fits(given: Tensor | None, asked: Tensor) -> bool:
    return given is not None and given.shape == asked.shape and given.is_floating_point() == asked.is_floating_point()


def _misfit(name: str, given: Tensor | None, asked: Tensor) -> str:
    if given is None:
        return f"{name} is not in it"
    return f"{name} is {list(given.shape)} in it, {list(asked.shape)} here"
