"""Files of a user's folder, at any depth."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path


def files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Files with one of these suffixes, in the order of their paths; what else lies there is counted and named.

    Links are followed, each folder once. Names that begin with a dot are left alone.

    Args:
        folder: where to look.
        suffixes: in lower case, with the dot.
    """
    found, others, seen = list[Path](), Counter[str](), set[str]()
    for place, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(place)
        if here in seen:  # a link to a folder above would lead in circles
            folders.clear()
            continue
        seen.add(here)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(place, name)
            if path.suffix.lower() in suffixes:
                found.append(path)
            elif not name.startswith("."):
                others[path.suffix.lower() or "no suffix"] += 1
    if others:
        kinds = ", ".join(f"{count} of {kind}" for kind, count in others.most_common())
        print(f"left out {others.total()} files ({kinds}): not {', '.join(sorted(suffixes))}", file=sys.stderr)
    return sorted(path for path in found if not path.name.startswith("."))
