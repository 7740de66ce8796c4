"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def beside(*paths: Path) -> Iterator[list[Path]]:
    """Names to write to; when the block is left without an error, they become the files that were meant, in order.

    Raises:
        OSError: one cannot be written. It names the first file that was meant, and none of the others is left.
    """
    parts = [path.with_name(f".{path.name}.part") for path in paths]
    try:
        yield parts
        for part, path in zip(parts, paths, strict=True):
            os.replace(part, path)  # noqa: PTH105
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(paths[0])) from error
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
