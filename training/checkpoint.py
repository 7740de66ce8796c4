"""Checkpoints without pickles: one safetensors file, with the rest of the state as JSON in its header.

A checkpoint is a tree of dicts, lists, scalars and tensors (Lightning's). The tensors go into the file
under numbered names; the tree, with those names in place of the tensors, goes into the header. The file
is written beside the old one and renamed, so a full disk or a Ctrl-C leaves the old one whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

TREE = "latentserve_checkpoint"
SUFFIX = ".safetensors"


class CheckpointError(ValueError):
    """The file is not a checkpoint of ours, or the state cannot be written without a pickle."""


def save(tree: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint, replacing `path` only when all of it is on disk."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_pack(tree, tensors, "checkpoint"))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    try:
        save_file(tensors, beside, metadata={TREE: text})
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint; tensors come on the CPU.

    Raises:
        CheckpointError: not a checkpoint of ours.
        FileNotFoundError: no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(TREE)
            if text is None:
                raise CheckpointError(f"{path}: got a safetensors file without {TREE!r} in its header")
            tree = _unpack(json.loads(text), file)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: got {type(tree).__name__}, expected a tree")
    return tree


def _pack(value: Any, tensors: dict[str, Tensor], place: str) -> Any:
    if isinstance(value, Tensor):
        name = f"{len(tensors):05d}"
        tensors[name] = value.detach().cpu().contiguous().clone()  # clone: shared memory is refused
        return {"tensor": name}
    if isinstance(value, dict):
        # Pairs, not an object: optimizer states have integer keys, which JSON would turn to strings.
        return {"dict": [[key, _pack(item, tensors, f"{place}.{key}")] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_pack(item, tensors, f"{place}[{i}]") for i, item in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise CheckpointError(f"{place}: got {type(value).__name__}, which only a pickle could hold")


def _unpack(value: Any, file: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, items),) = value.items()
    if kind == "tensor":
        return file.get_tensor(items)
    if kind == "dict":
        return {key: _unpack(item, file) for key, item in items}
    unpacked = [_unpack(item, file) for item in items]
    return tuple(unpacked) if kind == "tuple" else unpacked


class SafetensorsIO(CheckpointIO):
    """Makes Lightning write and read its checkpoints through this file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """See `save`."""
        save(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """See `load`. Lightning moves the tensors to its device itself."""
        return load(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes the file."""
        Path(path).unlink(missing_ok=True)


def state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The model's weights in a checkpoint."""
    weights: dict[str, torch.Tensor] = load(path)["state_dict"]
    return weights
