"""How many damaged JPEGs are heard: whole ones, their middles spoilt, sent through the decoder again.

JPEG has no checksum. libjpeg warns of codes that cannot be, and of scans that end too early or too late; where other
bytes happen to be codes that fit, the picture is another and no decoder can tell. So it is counted, not promised.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from latentserve.images import ImageError, decode_image
from latentserve.inputs import ImageInput
from training.data.decoding import MAX_PIXELS

WRONG_LEVELS, WRONG_SHARE = 16, 0.1
"""A picture counts as spoilt if a tenth of its pixels are off by more than 16 of 255."""


@dataclass(frozen=True)
class Heard:
    """What became of the pictures that one kind of damage spoilt.

    Attributes:
        spoilt: number of them, as Pillow alone decodes them, or does not.
        rejected: of them.
    """

    spoilt: int
    rejected: int


def _cut(file: bytes, start: int, size: int, put: bytes) -> bytes:
    return file[:start] + put + file[start + size :]


def _flip(file: bytes, at: int, bit: int) -> bytes:
    return _cut(file, at, 1, bytes([file[at] ^ 1 << bit]))


Damage = Callable[[bytes, int, np.random.Generator], bytes]
DAMAGES: dict[str, Damage] = {
    "one bit flipped": lambda file, at, rng: _flip(file, at, int(rng.integers(8))),
    "64 bytes of noise": lambda file, at, rng: _cut(file, at, 64, rng.integers(0, 256, 64, dtype=np.uint8).tobytes()),
    "64 zeros": lambda file, at, _: _cut(file, at, 64, bytes(64)),
    "a tenth of noise": lambda file, at, rng: _cut(
        file, at, len(file) // 10, rng.integers(0, 256, len(file) // 10, dtype=np.uint8).tobytes()
    ),
    "a tenth of zeros": lambda file, at, _: _cut(file, at, len(file) // 10, bytes(len(file) // 10)),
    "a tenth cut out": lambda file, at, _: _cut(file, at, len(file) // 10, b""),
}


def heard(files: Sequence[bytes], seed: int = 0) -> dict[str, Heard]:
    """Each file damaged once in each way, in the middle half of its last scan.

    Args:
        files: whole JPEGs.
        seed: draws the places.
    """
    rng = np.random.default_rng(seed)
    found = {}
    for name, damage in DAMAGES.items():
        spoilt = rejected = 0
        for file in files:
            scan = file.rindex(b"\xff\xda")
            at = int(rng.integers(scan + (len(file) - scan) // 4, len(file) - (len(file) - scan) // 4))
            damaged = damage(file, at, rng)
            if _is_spoilt(file, damaged):
                spoilt += 1
                rejected += not _is_taken(damaged)
        found[name] = Heard(spoilt, rejected)
    return found


def _is_spoilt(whole: bytes, damaged: bytes) -> bool:
    try:
        pixels = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(int) for file in (whole, damaged)]
    except Exception:  # Pillow notices by itself
        return True
    if pixels[0].shape != pixels[1].shape:
        return True
    gaps_HW = np.abs(pixels[0] - pixels[1]).max(axis=-1)
    return bool((gaps_HW > WRONG_LEVELS).mean() > WRONG_SHARE)


def _is_taken(file: bytes) -> bool:
    try:
        decode_image(file, ImageInput(8, 8, 3), MAX_PIXELS)
    except ImageError:
        return False
    return True
