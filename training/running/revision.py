"""The revision of the code that runs."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git_revision() -> str:
    """The revision of this checkout, with `+dirty` if it was changed, or `unknown`."""
    here = Path(__file__).resolve().parent
    try:
        revision = _git(here, "rev-parse", "--short=12", "HEAD")
        return revision + ("+dirty" if _git(here, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
