"""Libraries that only some sources need."""

from __future__ import annotations

import importlib
from typing import Any

from export.sources.source import SourceError


def library(name: str) -> Any:
    """A library that may be missing.

    Raises:
        SourceError: it is.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise SourceError(f"{name} is missing: pip install 'latentserve[import]'") from error
