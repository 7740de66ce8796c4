r"""`--group-by`: which rows of a user's own data belong together, as frames of one recording or photographs of a burst.

    folder          files of one folder, where each recording has a folder of its own
    name:REGEX      names in which the groups of a regular expression (all it matches, if it has none) read the same;
                    name:(.+)_\d+ keeps shot7_01.png and shot7_02.png together. Of wds the key is the name
    exif:SECONDS    photographs taken at most so long after one another
    near            images that are nearly equal: a perceptual hash; near:10 is less strict than near:6, the default

Equal rows stay together whatever is said here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from training.data.perceptual import NEAR_BITS, near_rows
from training.data.rows import DataError, say
from training.data.units import FEWEST_UNITS, Units

_FILES = ("folder", "name", "exif", "near")
RULES = {"folder": _FILES, "mvtec": _FILES, "csv": _FILES, "wds": ("name", "near"), "audio": ("folder", "name")}
"""The rules that each kind of data takes."""
FORMS = {"folder": "folder", "name": "name:REGEX", "exif": "exif:SECONDS", "near": "near or near:BITS"}
TAKES_ARGUMENT = {"folder": (False,), "name": (True,), "exif": (True,), "near": (False, True)}
MOST_NEAR_BITS = 16
"""A quarter of the bits: beyond, unrelated images meet."""
TIME = "%Y:%m:%d %H:%M:%S"


@dataclass(frozen=True)
class GroupBy:
    """A rule, ready to be used.

    Attributes:
        text: as the user wrote it.
        rule: one of `FORMS`.
        pattern: of `name`.
        limit: of `exif` in seconds, of `near` in bits.
    """

    text: str
    rule: str
    pattern: re.Pattern[str] | None = None
    limit: float = 0.0

    @classmethod
    def parse(cls, text: str, kind: str) -> GroupBy:
        """Reads the option.

        Args:
            text: `folder`, `name:REGEX`, `exif:SECONDS`, `near` or `near:BITS`.
            kind: of the data: the spec up to its colon.

        Raises:
            DataError: no such rule, not one for such data, or its pattern or number cannot be.
        """
        if kind not in RULES:
            raise DataError(f"group_by: got {text!r}, expected none: {kind} has no such option")
        rule, colon, argument = text.partition(":")
        expected = ", ".join(FORMS[one] for one in RULES[kind])
        if rule not in RULES[kind] or bool(argument) not in TAKES_ARGUMENT[rule] or bool(colon) != bool(argument):
            raise DataError(f"group_by: got {text!r}, expected of {kind} data one of {expected}")
        if rule == "name":
            try:
                return cls(text, rule, re.compile(argument))
            except re.error as error:
                raise DataError(f"group_by: got {text!r}, expected name: and a regular expression ({error})") from None
        if rule == "exif":
            return cls(text, rule, limit=_number(text, argument, "seconds of 0 or more", 0, math.inf))
        if rule == "near" and argument:
            bits = _number(text, argument, f"0 to {MOST_NEAR_BITS} bits", 0, MOST_NEAR_BITS + 1)
            return cls(text, rule, limit=int(bits))
        return cls(text, rule, limit=NEAR_BITS)

    def of_files(self, files: Sequence[Path]) -> Units | None:
        """The unit of each file, before any is decoded; None where only rows can tell.

        Raises:
            DataError: the rule says nothing about any file, or puts all into fewer than three units.
        """
        if self.rule == "folder":
            return self._checked(_numbered([file.parent for file in files]))
        if self.rule == "name":
            return self.of_names([file.name for file in files])
        if self.rule == "exif":
            return self._checked(self._bursts([taken_at(file) for file in files]))
        return None

    def of_names(self, names: Sequence[str]) -> Units | None:
        """The same as `of_files` by the names alone, for the rule `name`."""
        if self.pattern is None:
            return None
        found = [self.pattern.search(name) for name in names]
        keys = [match and (match.groups() or match[0]) for match in found]
        self._tell(keys, f"which matches none of {len(keys)} names, not {names[0]!r} for one", "names do not match")
        return self._checked(_numbered(keys))

    def of_rows(self, images_NHWC: NDArray[np.uint8]) -> Units | None:
        """The unit of each image; of the rule `near`."""
        return self._checked(near_rows(images_NHWC, int(self.limit))) if self.rule == "near" else None

    def _bursts(self, seconds_N: Sequence[float | None]) -> Units:
        nothing = f"but none of {len(seconds_N)} files says in its EXIF when it was taken"
        self._tell(seconds_N, nothing, "files do not say when they were taken")
        keys: list[Hashable] = [None] * len(seconds_N)
        burst, before = 0, -math.inf
        for at, row in sorted((at, row) for row, at in enumerate(seconds_N) if at is not None):
            burst += at - before > self.limit
            keys[row], before = burst, at
        return _numbered(keys)

    def _tell(self, keys: Sequence[object], nothing: str, what: str) -> None:
        num_without = sum(key is None for key in keys)
        if num_without == len(keys):
            raise DataError(f"group_by: got {self.text!r}, {nothing}; expected a rule that says what belongs together")
        if num_without:
            say(f"group_by: {num_without} of {len(keys)} {what}; each of them is a group by itself")

    def _checked(self, units_N: Units) -> Units:
        num = len(np.unique(units_N))
        if num < FEWEST_UNITS:
            raise DataError(
                f"group_by: got {self.text!r}, which makes {num} group{'s' * (num != 1)} of {len(units_N)} rows,"
                f" expected {FEWEST_UNITS} or more: a group is never parted, and each split needs one"
            )
        return units_N


def _number(text: str, argument: str, expected: str, least: float, below: float) -> float:
    try:
        number = float(argument)
    except ValueError:
        number = math.nan
    if not least <= number < below:
        raise DataError(f"group_by: got {text!r}, expected {expected} after the colon")
    return number


def _numbered(keys: Sequence[Hashable]) -> Units:
    """Equal keys get the same number, None one of its own each time."""
    numbers: dict[Hashable, int] = {}
    named = [(row,) if key is None else (key, "key") for row, key in enumerate(keys)]
    return np.array([numbers.setdefault(name, len(numbers)) for name in named], np.int64)


def taken_at(file: Path) -> float | None:
    """When a photograph was taken, in seconds since some day, by the camera's clock; None if the file does not say."""
    try:
        with Image.open(file) as image:
            exif = image.getexif()
        inner = exif.get_ifd(ExifTags.IFD.Exif)
        text = inner.get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime)
        at = datetime.strptime(str(text).strip("\0 "), TIME)
        fraction = str(inner.get(ExifTags.Base.SubsecTimeOriginal) or "").strip("\0 ")
        return (at - datetime(1970, 1, 1)).total_seconds() + (float(f"0.{fraction}") if fraction.isdigit() else 0)
    except Exception:  # whatever a damaged file leads Pillow into: it says nothing of when it was taken
        return None
