"""The next version of a model: an export claims it at its beginning, and no other export can write to it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from latentserve.lock import Held, held


@dataclass(frozen=True)
class Claim:
    """A version that is being made.

    Attributes:
        folder: hidden, beside the versions; empty at first.
        version: number.
    """

    folder: Path
    version: int

    def publish(self) -> Path:
        """Renames the folder to what it is then called: from now on it is a bundle."""
        return self.folder.rename(self.folder.with_name(str(self.version)))


@contextlib.contextmanager
def next_version(model: Path) -> Iterator[Claim]:
    """Claims the number after the last one, those that other exports are making counted.

    What is not published is removed at the end, and what exports that were killed left behind at the next beginning.

    Args:
        model: folder of the model's versions; made if it is not there.

    Raises:
        OSError: it cannot be made, or be written to.
    """
    made = [model, *(above for above in model.parents if not above.exists())]
    with contextlib.ExitStack() as stack:
        claim = _claim(model, stack)
        try:
            yield claim
        finally:
            shutil.rmtree(claim.folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # of a model that has no version yet nothing is left
                for folder in made:
                    folder.rmdir()


def _claim(model: Path, stack: contextlib.ExitStack) -> Claim:
    while True:
        model.mkdir(parents=True, exist_ok=True)
        try:
            with held(model, wait=True):
                taken = [int(child.name) for child in model.iterdir() if _is_number(child.name)]
                version = max([*taken, *_in_making(model)], default=0) + 1
                folder = _hidden(model, version)
                folder.mkdir()
                stack.enter_context(held(folder))
                return Claim(folder, version)
        except FileNotFoundError:  # the last export to end, another one, has removed the model's folder meanwhile
            continue


def _in_making(model: Path) -> Iterator[int]:
    """Versions that others are making; what nobody holds is removed."""
    for folder in model.glob(".*.tmp"):
        if not _is_number(number := folder.name[1:-4]):
            continue
        try:
            with held(folder):
                shutil.rmtree(folder)
        except Held:
            yield int(number)


def _hidden(model: Path, version: int) -> Path:
    return model / f".{version}.tmp"


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()
