"""The place of public data sets: the folder that LATENTSERVE_DATA names, else a cache that downloads fill."""

from __future__ import annotations

import os
from pathlib import Path

CACHE = Path.home() / ".cache" / "latentserve"


def given_folder() -> Path | None:
    """The folder that the environment names. Nothing is ever written there."""
    given = os.environ.get("LATENTSERVE_DATA")
    return Path(given) if given else None
