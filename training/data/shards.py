"""WebDataset shards: tar files, local or remote.

The members `KEY.jpg` (or `.jpeg`, `.png`) and `KEY.cls` are one image and its class.

    wds:/data/train-{0000..0004}.tar     wds:/data/*.tar.gz     wds:https://example.org/train-{000..127}.tar

The images are decoded as they stream by and held in memory as uint8. A member that cannot be decoded is skipped,
counted and named; a shard that cannot be read to its end is an error, for nobody wants to train on part of a set
and not know it. Classes are only ever used to report figures, and only if every image has one.
"""

from __future__ import annotations

import glob
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
from braceexpand import braceexpand
from webdataset.gopen import gopen
from webdataset.tariterators import group_by_keys, tar_file_expander

from latentserve.images import ImageError
from training.data.decoding import MIN_IMAGES, File, decode_all
from training.data.grouping import GroupBy
from training.data.rows import Data, DataError, Rows, three_splits

SUFFIXES = ("jpg", "jpeg", "png")
REMOTE = ("http", "https", "gs", "hf")
"""Schemes that webdataset opens. Not its `pipe:`: a run.json from elsewhere would run commands here."""


def load(pattern: str, image_size: int, seed: int, group_by: GroupBy | None = None) -> Data:
    """80 % training rows, 10 % for calibration, 10 % for test, drawn by the seed.

    Raises:
        DataError: no shard fits the pattern, one cannot be read, too few images are in them, or what to group by says
            nothing about them.
    """
    return three_splits(f"wds:{pattern}", read(matching(pattern), image_size, group_by), seed)


def matching(pattern: str) -> list[str]:
    """The shards of a pattern: braces are expanded everywhere, wildcards for local files.

    Raises:
        DataError: nothing fits, a local file is missing, or a scheme that is not opened.
    """
    expected = f"a file or {', '.join(REMOTE)} URL, with braces as in train-{{0000..0009}}.tar (wds:PATTERN)"
    try:
        expanded = list(braceexpand(pattern))
    except ValueError as error:
        raise DataError(f"wds: got {pattern!r} ({error}), expected {expected}") from error
    shards = list[str]()
    for one in expanded:
        scheme = urlparse(one).scheme
        if scheme and scheme not in REMOTE:
            raise DataError(f"wds: got {one!r}, expected {expected}")
        found = [one] if scheme else sorted(glob.glob(one))  # noqa: PTH207 - a pattern may be absolute
        if not found:
            raise DataError(f"wds: got {pattern!r}, and there is no file {one!r}; expected {expected}")
        shards += found
    return shards


def read(shards: Sequence[str], image_size: int, group_by: GroupBy | None = None, at_least: int = MIN_IMAGES) -> Rows:
    """All images of some shards.

    Raises:
        DataError: as `load`, of fewer than `at_least` images.
    """
    classes, keys = list[bytes | None](), list[str]()

    def files() -> Iterator[File]:
        for shard in shards:
            for sample in _samples(shard):
                classes.append(sample.get("cls"))
                keys.append(sample["__key__"])
                yield File(f"{sample['__key__']} of {shard}", partial(_encoded, sample))

    images_NHWC, rows = decode_all("wds", files(), image_size, at_least)
    kept = [int(label) for label in (classes[row] for row in rows) if label is not None]
    units_N = None
    if group_by:
        named_N = group_by.of_names([keys[row] for row in rows])
        units_N = group_by.of_rows(images_NHWC) if named_N is None else named_N
    return Rows(images_NHWC, np.array(kept, np.int64) if len(kept) == len(rows) else None, units_N=units_N)


def _samples(shard: str) -> Iterator[dict[str, Any]]:
    """Members of a shard, joined by their key, as webdataset does it."""
    try:
        with gopen(shard) as stream:
            yield from group_by_keys(tar_file_expander([{"url": shard, "stream": stream}]))
        if shard.lower().endswith(".tar") and Path(shard).is_file() and not _has_end(Path(shard)):
            raise EOFError("got no end-of-archive block, as if it had been cut")
    except (OSError, tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"wds: {shard} cannot be read ({error}); repair it or leave it out of the pattern") from error


def _has_end(tar: Path) -> bool:
    """Whether it ends as POSIX demands; one that was cut between two members reads as if it were whole."""
    with tar.open("rb") as file:
        file.seek(max(0, tar.stat().st_size - tarfile.BLOCKSIZE))
        return not any(file.read())


def _encoded(sample: dict[str, Any]) -> bytes:
    label = sample.get("cls", b"0")
    if not label.strip().isdigit():
        raise ImageError(f"got class {label[:20]!r}, expected a whole number")
    data: bytes = next((sample[suffix] for suffix in SUFFIXES if suffix in sample), b"")
    return data
