"""Digests of rows, and the file that keeps them: what a pass over a large set found need not be found again.

The file lies in the user's cache folder, one for each source and pixel rule. It knows a row by the path, the size and
the time of change of its file, and holds 16 bytes for it, no pixel. It is replaced as a whole; one that is damaged, or
of another layout, counts as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 16
LAYOUT = "latentserve digests 1"


class Place(NamedTuple):
    """Where an encoded image lies, and what changes when it does."""

    path: str
    size: int
    mtime_ns: int


def digest_of(row: NDArray[Any]) -> bytes:
    """16 bytes, equal only if rows are."""
    return hashlib.blake2b(np.ascontiguousarray(row).data, digest_size=DIGEST_BYTES).digest()


def cache_folder() -> Path:
    """XDG_CACHE_HOME/latentserve, or what stands for it."""
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path.home() / ".cache") / "latentserve"


class Digests:
    """The digests of a source's rows under one pixel rule.

    Args:
        source: kind and place of the data.
        rule: everything that decides what pixels a file becomes.
    """

    def __init__(self, source: str, rule: str) -> None:
        name = hashlib.sha256(f"{source}\0{rule}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
        self.path = cache_folder() / "digests" / name
        self._known: dict[str, tuple[int, int, str]] = {}
        self._seen: dict[str, tuple[int, int, str]] = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            self._read()

    def _read(self) -> None:
        head, _, body = self.path.read_bytes().partition(b"\n")
        if head.decode() != f"{LAYOUT} {hashlib.sha256(body).hexdigest()}":
            return
        held = json.loads(body)
        self._known = {path: (int(size), int(time), str(digest)) for path, (size, time, digest) in held["rows"].items()}

    def get(self, place: Place) -> bytes | None:
        """The digest of the row that the file became, if it is still the same file."""
        size, time, digest = self._known.get(place.path, (-1, -1, ""))
        if (size, time) != place[1:]:
            return None
        self._seen[place.path] = (size, time, digest)
        return bytes.fromhex(digest)

    def put(self, place: Place, digest: bytes) -> None:
        """Takes what a file became; `save` keeps it."""
        self._known[place.path] = self._seen[place.path] = (place.size, place.mtime_ns, digest.hex())

    @contextlib.contextmanager
    def saved(self) -> Iterator[None]:
        """Saves after a pass, which drops files that were not there; if it is stopped, what was done."""
        try:
            yield
            self._known = dict(self._seen)
        finally:
            self.save()

    def save(self) -> None:
        """Replaces the file; where the cache cannot be written there is none."""
        held = {"rows": self._known}
        body = json.dumps(held, separators=(",", ":")).encode()
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            number, name = tempfile.mkstemp(dir=self.path.parent, prefix=".new-")
            try:
                with os.fdopen(number, "wb") as file:
                    file.write(f"{LAYOUT} {hashlib.sha256(body).hexdigest()}\n".encode())
                    file.write(body)
                Path(name).replace(self.path)
            except OSError:
                Path(name).unlink()
                raise

    def drop(self) -> None:
        """Removes the file: what it says is not so."""
        with contextlib.suppress(OSError):
            self.path.unlink()
