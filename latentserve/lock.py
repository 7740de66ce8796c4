"""A lock for one process at a time in a folder; the system releases it when its holder ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class Held(OSError):
    """Another process holds the folder."""


@contextlib.contextmanager
def held(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds a folder until the end of the block; nothing is written to it, and readers do not mind.

    Args:
        folder: must be there.
        wait: until whoever holds it releases it.

    Raises:
        Held: another process, or another block of this one, does.
        OSError: the folder is not there, or its file system knows no locks.
    """
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise Held(error.errno, "held by another process", str(folder)) from error
        yield
    finally:
        os.close(number)
