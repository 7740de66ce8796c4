"""Files of a user's folder, at any depth."""

from __future__ import annotations

import os
import sys
from collections import Counter, deque
from collections.abc import Collection
from pathlib import Path

from latentserve import records
from training.data.rows import DataError


def files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Files with one of these suffixes, in the order of their paths; what else lies there is counted and named.

    Links are followed, each folder is read once: where it really lies if that is within, else by the first link.
    Names that begin with a dot are left alone.

    Args:
        folder: where to look.
        suffixes: in lower case, with the dot.

    Raises:
        DataError: a folder cannot be read.
    """
    found, others, seen = list[Path](), Counter[str](), set[str]()
    real, linked = deque([folder]), deque[Path]()
    while real or linked:
        place = (real or linked).popleft()
        if (here := os.path.realpath(place)) in seen:
            continue
        seen.add(here)
        for path in _shown(place):
            if path.is_dir():
                (linked if path.is_symlink() else real).append(path)
            elif path.suffix.lower() in suffixes and path.is_file():
                found.append(path)
            else:
                others[path.suffix.lower() or "no suffix"] += 1
    say_left_out(others, "files", suffixes)
    return sorted(found)


def say_left_out(others: Counter[str], what: str, suffixes: Collection[str]) -> None:
    """One sentence about what is of another kind, if there is any."""
    if others:
        kinds = ", ".join(f"{count} of {kind}" for kind, count in others.most_common())
        text = f"left out {others.total()} {what} ({kinds}): not {', '.join(sorted(suffixes))}"
        print(records.printable(text), file=sys.stderr)


def _shown(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error}") from error
