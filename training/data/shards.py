"""WebDataset shards: tar files, local or remote.

The members `KEY.jpg` (or another image) and `KEY.cls` are one image and its class, wherever in the shard they lie.

    wds:/data/train-{0000..0004}.tar     wds:/data/*.tar.gz     wds:https://example.org/train-{000..127}.tar

The images are decoded as they stream by and held in memory as uint8. A member that cannot be decoded is skipped,
counted and named; a shard that cannot be read to its end is an error, for nobody wants to train on part of a set
and not know it. Classes are only ever used to report figures, and only if every image has one: whole numbers, names,
or numbers too long to count with, which are names, too. -1 says that an image has none.

A key is the name without its last suffix: `IMG.0001.jpg` is an image of its own, as its camera meant it, where
webdataset would make `IMG` of all of them. Of several images of one key (a picture and its mask) one is taken.
"""

from __future__ import annotations

import glob
import os
import sys
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
from braceexpand import braceexpand
from numpy.typing import NDArray
from webdataset.gopen import gopen
from webdataset.tariterators import tar_file_expander

from latentserve import records
from latentserve.images import SUFFIXES
from training.data.decoding import CHANNELS, MIN_IMAGES, Decoded, Reading, TooLarge, decode_all, readable
from training.data.files import say_left_out
from training.data.grouping import GroupBy
from training.data.lazy import File
from training.data.members import Kept
from training.data.rows import Data, DataError, Rows, three_splits
from training.data.seen import Seen
from training.data.shares import Calibration
from training.data.sizes import Size

PREFERRED = (".jpg", ".jpeg", ".png", ".webp")
"""Where several images have one key, the first of these kinds is taken, else the first that comes."""
CLASS = ".cls"
REMOTE = ("http", "https", "gs", "hf")
"""Schemes that webdataset reads. Not its `pipe:`: a run.json from elsewhere would run commands here."""


def load(
    pattern: str, size: Size, seed: int, group_by: GroupBy | None = None, calibration: Calibration | None = None
) -> Data:
    """80 % training rows, 10 % for calibration or as `calibration` says, 10 % for test, drawn by the seed.

    Raises:
        DataError: no shard fits the pattern, one cannot be read, too few images are in them, or what to group by says
            nothing about them.
    """
    return three_splits(
        f"wds:{pattern}", read(matching(pattern), size, group_by), seed, in_place=True, calibration=calibration
    )


def matching(pattern: str) -> list[str]:
    """The shards of a pattern: braces are expanded everywhere, wildcards for local files.

    Raises:
        DataError: nothing fits, a local file is missing, or a scheme that is not read.
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


def read(shards: Sequence[str], size: Size, group_by: GroupBy | None = None, at_least: int = MIN_IMAGES) -> Rows:
    """All images of some shards.

    Raises:
        DataError: as `load`, of fewer than `at_least` images.
    """
    source = " ".join(["wds:", *map(os.path.abspath, shards)])
    members, decoded = _decoded(Reading("wds", source, size.input(CHANNELS)), shards)
    members.seen.say(size)
    texts = members.classes()
    for image, fault in enumerate(members.faults(texts)):
        if fault is not None:
            decoded.faults.setdefault(image, fault)
    images_NHWC, rows = readable("wds", decoded, at_least, members.lonely())
    units_N = None
    if group_by:
        named_N = group_by.of_names([members.keys[row][1] for row in rows])
        units_N = group_by.of_rows(images_NHWC) if named_N is None else named_N
    return Rows(images_NHWC, labels([texts[row] for row in rows]), units_N=units_N)


def _decoded(reading: Reading, shards: Sequence[str]) -> tuple[_Members, Decoded]:
    """Reads all shards, and once more from their beginning if they turn out to be more than memory should hold."""
    members = _Members()
    try:
        return members, decode_all(reading, members.images(shards))
    except TooLarge:
        members = _Members(Kept())
        return members, decode_all(reading, members.images(shards), lazily=True)


@dataclass
class _Members:
    """What the shards held, in the order of the images.

    Attributes:
        keep: says where a member can be read again; None: nowhere, its bytes are held.
    """

    keep: Kept | None = None
    keys: list[tuple[str, str]] = field(default_factory=list)
    suffixes: list[str] = field(default_factory=list)
    class_of: dict[tuple[str, str], bytes] = field(default_factory=dict)
    seen: Seen = field(default_factory=lambda: Seen("wds"))

    def images(self, shards: Sequence[str]) -> Iterator[File]:
        """The images of all shards as they come; what lies between them is kept or counted."""
        others = Counter[str]()
        for shard in shards:
            for name, data in _members_of(shard):
                stem, suffix = os.path.splitext(name)  # noqa: PTH122 - of a member, not a path of this machine
                key, kind = (shard, stem), suffix.lower()
                if name.rpartition("/")[2].startswith("."):  # as in folders: macOS packs ._NAME beside every file
                    others["hidden"] += 1
                elif kind in SUFFIXES:
                    self.keys.append(key)
                    self.suffixes.append(kind)
                    self.seen.add(data)
                    called = _called(key)
                    yield self.keep.file(called, shard, name, data) if self.keep else File(called, partial(_same, data))
                elif kind == CLASS:
                    self.class_of[key] = data
                else:
                    others[kind or "no suffix"] += 1
        say_left_out(others, "members", {*SUFFIXES, CLASS})

    def classes(self) -> list[str | None]:
        """The class of each image, as it is written; None where it has none."""
        return [self._class(key) for key in self.keys]

    def _class(self, key: tuple[str, str]) -> str | None:
        data = self.class_of.get(key)
        if data is None:  # as in 0001.left.jpg and 0001.cls
            data = self.class_of.get((key[0], _webdataset_key(key[1])))
        text = None if data is None else data.decode("utf-8", "backslashreplace").strip()
        return None if text in (None, "", "-1") else text

    def faults(self, classes: Sequence[str | None]) -> Iterator[str | None]:
        """For each image the reason why it is no row of its own, or None."""
        taken = dict[tuple[str, str], int]()
        for image, key in enumerate(self.keys):
            before = taken.setdefault(key, image)
            if _rank(self.suffixes[image]) < _rank(self.suffixes[before]):
                taken[key] = image
        numbers = [text is None or _is_number(text) for text in classes]
        mostly_numbers = sum(numbers) * 2 > len(numbers)
        for image, (key, text) in enumerate(zip(self.keys, classes, strict=True)):
            if (kept := taken[key]) != image:
                yield f"{_called(key)}: got a {self.suffixes[image]} beside a {self.suffixes[kept]}, expected one image"
            elif mostly_numbers and not numbers[image]:
                yield f"{_called(key)}: got class {str(text)[:20]!r}, expected a whole number as most images have"
            else:
                yield None

    def lonely(self) -> list[str]:
        """A sentence for each class without an image."""
        known = {*self.keys, *((shard, _webdataset_key(stem)) for shard, stem in self.keys)}
        return [f"{_called(key)}: got a class and no image" for key in self.class_of if key not in known]


def labels(classes: Sequence[str | None]) -> NDArray[np.int64] | None:
    """The number of each image, or the place of its name among all in their order; None unless every image has one.

    None as well if it is the same of all.
    """
    missing = sum(text is None for text in classes)
    if 0 < missing < len(classes):
        print(f"classes are left out: {missing} of {len(classes)} images have none", file=sys.stderr)
    names = [text for text in classes if text is not None]
    if missing or len(set(names)) < 2:  # one class says nothing that could be probed
        return None
    if all(_is_number(name) and int(name) <= np.iinfo(np.int64).max for name in names):
        return np.array([int(name) for name in names], np.int64)
    places = {name: place for place, name in enumerate(sorted(set(names)))}
    return np.array([places[name] for name in names], np.int64)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _rank(suffix: str) -> int:
    return PREFERRED.index(suffix) if suffix in PREFERRED else len(PREFERRED)


def _webdataset_key(stem: str) -> str:
    """Up to the first dot of the name, folders aside."""
    folder, slash, name = stem.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _called(key: tuple[str, str]) -> str:
    shard, stem = key
    return records.printable(f"{stem} of {shard}")


def _same(data: bytes) -> bytes:
    return data


def _members_of(shard: str) -> Iterator[tuple[str, bytes]]:
    """Names and bytes, as webdataset reads them."""
    try:
        with gopen(shard) as stream:
            for member in tar_file_expander([{"url": shard, "stream": stream}]):
                if "fname" in member:  # the last one says that the shard has ended
                    yield member["fname"], member["data"]
        if shard.lower().endswith(".tar") and Path(shard).is_file() and not _has_end(Path(shard)):
            raise EOFError("got no end-of-archive block, as if it had been cut")
    except (OSError, tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"wds: {shard} cannot be read ({error}); repair it or leave it out of the pattern") from error


def _has_end(tar: Path) -> bool:
    """Whether it ends as POSIX demands; one that was cut between two members reads as if it were whole."""
    with tar.open("rb") as file:
        file.seek(max(0, tar.stat().st_size - tarfile.BLOCKSIZE))
        return not any(file.read())
