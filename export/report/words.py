"""How figures and things are said on the page."""

from __future__ import annotations

from latentserve.bundle import Manifest
from latentserve.inputs import ImageInput

NO_BREAK = "\u00a0"


def percent(share: float) -> str:
    """A share with two digits that count, as 2.8 % or 12 %."""
    hundred = 100 * share
    text = f"{hundred:.0f}" if hundred >= 9.95 else f"{hundred:.2g}"
    return f"{text}{NO_BREAK}%"


def between(edges: tuple[float, float]) -> str:
    """Both edges of a range of shares."""
    return f"between {percent(edges[0])} and {percent(edges[1])}"


def count(num: int, one: str) -> str:
    """So many of something."""
    return f"{num:,} {one if num == 1 else plural(one)}"


def plural(one: str) -> str:
    """Of a noun: a clip of sound, clips of sound."""
    head, of, rest = one.partition(" of ")
    return f"{head}s{of}{rest}"


def p_value(p: float) -> str:
    """A p-value with two digits that count."""
    return f"p = {p:.2g}"


def size(num_bytes: int) -> str:
    """Bytes, in units of 1,000."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.3g}{NO_BREAK}{unit}"
    return f"{num_bytes}{NO_BREAK}bytes"


def item(manifest: Manifest) -> str:
    """What a row of the model is called."""
    return "image" if isinstance(manifest.input, ImageInput) else "clip of sound"
