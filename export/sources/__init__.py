"""Where an encoder that was trained elsewhere comes from: a library's checkpoint, a folder, a module, an ONNX file.

One file a source. `open_source` takes `KIND:WHERE` and finds the one that is meant.
"""

from __future__ import annotations

import importlib

from export.sources.source import Network, SourceError, SourceOptions
from training.options import nearest

__all__ = ["SOURCES", "Network", "SourceError", "SourceOptions", "open_source"]

SOURCES = {
    "timm": ("NAME[=CHECKPOINT]", "export.sources.timm_models", "open_timm"),
    "torchvision": ("NAME=CHECKPOINT", "export.sources.torchvision_models", "open_torchvision"),
    "hf": ("FOLDER", "export.sources.huggingface", "open_folder"),
    "python": ("package.module:factory", "export.sources.python_factory", "open_python"),
    "onnx": ("FILE", "export.sources.onnx_file", "open_onnx"),
}
"""By what stands before the colon: what stands after it, and the function that opens it, imported when it is needed."""


def check_source(spec: str) -> None:
    """Raises SourceError unless a source may be called so; nothing is opened."""
    kind, colon, argument = spec.partition(":")
    if kind in SOURCES and argument:
        return
    known = [f"{one}:{place}" for one, (place, *_) in SOURCES.items()]
    meant = nearest(kind, SOURCES) if colon else ""
    raise SourceError(f"source: got {spec!r}, expected one of {', '.join(known)}{meant}")


def open_source(spec: str, options: SourceOptions) -> Network:
    """The network that a source names.

    Raises:
        SourceError: there is none such, or it cannot be an encoder.
    """
    check_source(spec)
    kind, _, argument = spec.partition(":")
    _, module, function = SOURCES[kind]
    network: Network = getattr(importlib.import_module(module), function)(argument, options)
    return network
