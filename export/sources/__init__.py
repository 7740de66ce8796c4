"""Where an encoder that was trained elsewhere comes from: a library's checkpoint, a folder, a module, an ONNX file.

One file a source. `open_source` takes `KIND:WHERE` and finds the one that is meant.
"""

from __future__ import annotations

import importlib

from export.sources.source import Network, SourceError, SourceOptions
from training.options import nearest

__all__ = ["SOURCES", "Network", "SourceError", "SourceOptions", "open_source"]

SOURCES = {
    "timm": ("NAME[=CHECKPOINT]", "timm_models"),
    "torchvision": ("NAME=CHECKPOINT", "torchvision_models"),
    "hf": ("FOLDER", "huggingface"),
    "python": ("package.module:factory", "python_factory"),
    "onnx": ("FILE", "onnx_file"),
}
"""By what stands before the colon: what stands after it, and the file whose `open` is meant, imported when it is."""


def check_source(spec: str) -> None:
    """Raises SourceError unless a source may be called so; nothing is opened."""
    kind, colon, argument = spec.partition(":")
    if kind in SOURCES and argument:
        return
    known = [f"{one}:{place}" for one, (place, _) in SOURCES.items()]
    meant = nearest(kind, SOURCES) if colon else ""
    raise SourceError(f"source: got {spec!r}, expected one of {', '.join(known)}{meant}")


def open_source(spec: str, options: SourceOptions) -> Network:
    """The network that a source names.

    Raises:
        SourceError: there is none such, or it cannot be an encoder.
    """
    check_source(spec)
    kind, _, argument = spec.partition(":")
    module = importlib.import_module(f"export.sources.{SOURCES[kind][1]}")
    network: Network = module.open(argument, options)
    return network
