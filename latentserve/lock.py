"""A lock for one process at a time in a folder; the system releases it when its holder ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
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
        OSError: the folder is not there, or was removed by whoever held it, or its file system knows no locks.
    """
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise Held(error.errno, "held by another process", str(folder)) from error
        if not _is_still(folder, number):
            raise FileNotFoundError(errno.ENOENT, "removed by another process", str(folder))
        yield
    finally:
        os.close(number)


def _is_still(folder: Path, number: int) -> bool:
    """Whether the folder is the one that was opened: whoever held it may have removed it, and made another."""
    try:
        return os.path.samestat(folder.stat(), os.fstat(number))
    except FileNotFoundError:
        return False
