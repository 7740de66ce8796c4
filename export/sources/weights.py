"""Weights out of a file, into the network that they are said to be of. No code of the file's is ever run."""

from __future__ import annotations

import pickle
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from export.sources.source import SourceError

WITHIN = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
"""Where training programs keep a network's weights in their checkpoints, the better ones first."""
WRAPPERS = ("_orig_mod.", "module.", "_orig_mod.")
"""What torch.compile and DistributedDataParallel put before each name."""
COUNTER = "num_batches_tracked"
"""What BatchNorm counts in training. Old checkpoints have none, and nothing is computed from it."""
MOST_NAMED = 3
LARGEST_BYTES = 2**31
"""ONNX graphs are protobuf messages, which may not be larger: https://protobuf.dev/programming-guides/proto-limits."""
FOR_THE_REST = 2**22
"""Bytes of a graph besides its weights."""


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a checkpoint of torch's.

    Raises:
        SourceError: it is not there, no such file, or one whose pickle wants code.
    """
    if not file.is_file():
        raise SourceError(f"{file}: got no file there, expected a checkpoint (.safetensors or .pth)")
    try:
        held = load_file(file) if _is_safetensors(file) else _unpickled(file)
    except SourceError:
        raise
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise SourceError(f"{file}: is no checkpoint that can be read ({_why(file, error)})") from error
    held = _weights_within(held)
    if not isinstance(held, dict):
        raise SourceError(f"{file}: got a {type(held).__name__} in it, expected a state_dict: tensors by name")
    tensors = {_bare(str(name)): tensor for name, tensor in held.items() if isinstance(tensor, Tensor)}
    if not tensors:
        got = f" but {_some([str(name) for name in held])}" if held else ""
        raise SourceError(f"{file}: got no tensors in it{got}, expected a state_dict: tensors by name")
    return tensors


def _is_safetensors(file: Path) -> bool:
    """By its beginning, whatever it is called: the length of a header, and the header, which is JSON."""
    with file.open("rb") as opened:
        return opened.read(9)[8:] == b"{"


def _weights_within(held: object) -> object:
    """Of a checkpoint the part that holds the weights: the one of a known name, or the only one with tensors."""
    while isinstance(held, dict):
        parts = [held[name] for name in WITHIN if isinstance(held.get(name), dict)]
        if not parts and not any(isinstance(one, Tensor) for one in held.values()):
            parts = [one for one in held.values() if isinstance(one, dict)]
            parts = [one for one in parts if any(isinstance(tensor, Tensor) for tensor in one.values())]
            parts = parts if len(parts) == 1 else []
        if not parts:
            break
        held = parts[0]
    return held


def _unpickled(file: Path) -> object:
    try:
        with file.open("rb") as opened:  # by its name torch takes another format for what it is called after
            return torch.load(opened, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        try:
            wanted = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
        except Exception:  # of files that are no checkpoints at all
            wanted = []
        if not wanted:
            raise SourceError(f"{file}: is no checkpoint that can be read ({_why(file, error)})") from error
        raise SourceError(
            f"{file}: its pickle wants code ({', '.join(wanted[:MOST_NAMED])}), which is not run: save the network's"
            " state_dict() instead"
        ) from error


def _bare(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def of_network(tensors: dict[str, Tensor], model: nn.Module, file: Path) -> dict[str, Tensor]:
    """The tensors by the network's own names, where the file has the network as a part: `encoder.` before each name.

    What is outside of that part is left out.

    Raises:
        SourceError: the file has it several times.
    """
    own = {name for name in model.state_dict() if not name.endswith(COUNTER)}
    if own & tensors.keys():
        return tensors
    parts = Counter(
        name[: place + 1]
        for name in tensors
        for place, letter in enumerate(name)
        if letter == "." and name[place + 1 :] in own
    )
    most = max(parts.values(), default=0)
    if most * 2 < len(own):
        return tensors
    found = [part for part, num in parts.items() if num == most]
    if len(found) > 1:
        raise SourceError(
            f"{file}: got the network {len(found)} times in it ({_some(found)}), expected one: save its state_dict()"
        )
    return {name.removeprefix(found[0]): one for name, one in tensors.items() if name.startswith(found[0])}


def put_weights(
    model: nn.Module, tensors: dict[str, Tensor], names: tuple[str, str], spare: Sequence[str] = ()
) -> None:
    """Loads weights into a network, all of it.

    Args:
        model: that is to have them.
        tensors: by name.
        names: of the file and of the network, for messages.
        spare: how names of tensors begin that may be left over: a classifier's, say.

    Raises:
        SourceError: some are missing, left over, or of another shape.
    """
    faults = tuple(_faults(model, tensors, tuple(spare)))
    if faults:
        raise SourceError(f"{names[0]}: its weights are not those of {names[1]}: {'; '.join(faults)}")
    own = model.state_dict()
    model.load_state_dict({name: tensors.get(name, tensor) for name, tensor in own.items()})


def fits(model: nn.Module, tensors: dict[str, Tensor], spare: Sequence[str] = ()) -> bool:
    """Whether `put_weights` would take them."""
    return not any(_faults(model, tensors, tuple(spare)))


def _faults(model: nn.Module, tensors: dict[str, Tensor], spare: tuple[str, ...]) -> Iterator[str]:
    own = model.state_dict()
    missing = [name for name in own if name not in tensors and not name.endswith(COUNTER)]
    left_over = [name for name in tensors if name not in own and not name.startswith(spare or ("\0",))]
    others = [
        f"{name} is {list(tensors[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in own.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if missing:
        yield f"{len(missing)} of {len(own)} tensors are missing ({_some(missing)})"
    if left_over:
        yield f"{len(left_over)} are left over ({_some(left_over)})"
    if others:
        yield f"{len(others)} have another shape ({_some(others)})"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")


def check_size(model: nn.Module, name: str) -> None:
    """Raises SourceError if a network's weights do not fit into one graph, in 32 bits as it is written first."""
    size = sum(4 * tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if size + FOR_THE_REST >= LARGEST_BYTES:
        raise SourceError(
            f"{name}: got weights of {size / 1e9:.1f} GB, expected less than {LARGEST_BYTES / 1e9:.1f} GB, the most"
            " that an ONNX graph holds; take a smaller one of its family, or distil it"
        )


def _why(file: Path, error: Exception) -> str:
    """What a library says of a file. Torch's advice, to run whatever the file wants, is not repeated."""
    lines = str(error).strip().splitlines()
    if "weights_only" not in str(error):
        return lines[0] if lines else type(error).__name__
    with file.open("rb") as opened:
        return f"it begins with {opened.read(16)!r}"
