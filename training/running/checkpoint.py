"""Checkpoints without pickles: one safetensors file, with the rest of the state as JSON in its header.

A checkpoint is a tree of dicts, lists, scalars and tensors (Lightning's). The tensors go into the file
under numbered names; the tree, with those names in place of the tensors, goes into the header, beside the
version of this format and the run it belongs to. The file is written beside the old one and renamed, so a
full disk or a Ctrl-C leaves the old one whole.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from latentserve import records
from training.lightning import CheckpointIO

FORMAT = 1
"""Changed when older code could not read what is written, or newer code what was written."""
VERSION, RUN, TREE = "latentserve_format", "latentserve_run", "latentserve_checkpoint"
SUFFIX = ".safetensors"


class CheckpointError(ValueError):
    """The file is not the checkpoint that was asked for, or it cannot be written."""


def save(tree: dict[str, Any], path: Path, run: dict[str, Any]) -> None:
    """Writes a checkpoint, replacing `path` only when all of it is on disk.

    Args:
        tree: the state.
        path: of the file.
        run: whose it is, JSON: method, data, config.

    Raises:
        CheckpointError: it cannot be written (disk full), or holds what only a pickle could. The old one is whole.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_pack(tree, tensors, "checkpoint"))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    try:
        save_file(tensors, beside, metadata={VERSION: str(FORMAT), RUN: json.dumps(run), TREE: text})
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.replace(path)
    except (OSError, SafetensorError) as error:
        kept = "the one before it is whole" if path.exists() else "none was saved before"
        raise CheckpointError(f"{path}: cannot be saved, {kept}: {error}; make room, then --resume") from error
    finally:
        beside.unlink(missing_ok=True)


def load(path: Path, run: dict[str, Any] | None = None) -> dict[str, Any]:
    """Reads a checkpoint; tensors come on the CPU.

    Args:
        path: of the file.
        run: whose it must be; None: whoever's.

    Raises:
        CheckpointError: not a checkpoint of ours, of another version, or of another run.
        FileNotFoundError: no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            _check(header, path, run)
            tree = _unpack(json.loads(header[TREE]), file)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: got {type(tree).__name__}, expected a tree")
    return tree


def _check(header: dict[str, str], path: Path, run: dict[str, Any] | None) -> None:
    if TREE not in header:
        raise CheckpointError(f"{path}: got a safetensors file without {TREE!r} in its header")
    if header.get(VERSION) != str(FORMAT):
        got = header.get(VERSION, "none")
        raise CheckpointError(f"{path}: got format {got}, this release reads {FORMAT}; train again, or use its release")
    if run is not None and (other := records.differences(json.loads(header[RUN]), run)):
        raise CheckpointError(f"{path}: the checkpoint is of another run: {'; '.join(other)}")


def _pack(value: Any, tensors: dict[str, Tensor], place: str) -> Any:
    if isinstance(value, Tensor):
        name = f"{len(tensors):05d}"
        tensors[name] = value.detach().cpu().contiguous().clone()  # clone: safetensors rejects shared memory
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
    """Makes Lightning write and read its checkpoints through this file.

    Args:
        run: whose they are, JSON.
    """

    def __init__(self, run: dict[str, Any]) -> None:
        self._run = run

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """See `save`."""
        save(checkpoint, Path(path), self._run)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """See `load`. Lightning moves the tensors to its device itself."""
        return load(Path(path), self._run)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes the file."""
        Path(path).unlink(missing_ok=True)


def state_dict(path: Path, run: dict[str, Any] | None = None) -> dict[str, torch.Tensor]:
    """The model's weights in a checkpoint: see `load`."""
    weights: dict[str, torch.Tensor] = load(path, run)["state_dict"]
    return weights
