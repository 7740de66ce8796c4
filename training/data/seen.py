"""The sizes of a user's own images, and what becomes of those whose shape is not the model's: said in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from latentserve.images import ImageError, upright_size
from training.data.rows import say
from training.data.sizes import Size

MOST = 10_000
"""Files whose headers are read for the line: of more some, evenly spread."""
SAME_SHAPE = 1.02
"""Aspect ratios that differ by less than this factor are one: sides are whole pixels."""
BECOMES = {
    "crop": "of each the centre is kept, {size}: what lies at its border is never seen",
    "fit": "the whole of each is fitted into {size} on black",
    "stretch": "the whole of each is stretched to {size}",
}


class Seen:
    """Heights and widths, as they are found in headers."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.num_images = 0
        self.sizes = list[tuple[int, int]]()

    def add(self, file: bytes | Path) -> None:
        """One image; one that cannot be read is no matter of ours."""
        self.num_images += 1
        if len(self.sizes) < MOST:
            try:
                self.sizes.append(upright_size(file))
            except (ImageError, OSError):
                return

    def every(self, files: Sequence[Path]) -> Seen:
        """The images of a folder."""
        for file in files[:: 1 + (len(files) - 1) // MOST]:
            self.add(file)
        self.num_images = len(files)
        return self

    def say(self, size: Size) -> None:
        """Says which rule is used, unless every image has the model's shape, and which image size would keep theirs."""
        ratios = [width / height for height, width in self.sizes]
        wanted, side = size.width / size.height, size.resize.shorter_side
        cut = side is not None and side > min(size.height, size.width)  # of squares, too
        if not ratios or (not cut and all(1 / SAME_SHAPE < ratio / wanted < SAME_SHAPE for ratio in ratios)):
            return
        by_pixels = sorted(self.sizes, key=lambda one: one[0] * one[1])
        least, most = (f"{height} x {width}" for height, width in (by_pixels[0], by_pixels[-1]))
        line = f"{self.kind}: {self.num_images:,} images of {least}" + ("" if least == most else f" to {most}")
        line += f" (height x width); {BECOMES[size.resize.how].format(size=size)}"
        if not size.chosen:
            line += " (--resize crop|fit|stretch)"
        if not cut and max(ratios) < SAME_SHAPE * min(ratios):
            keeping = _keeping(ratios[0], min(size.height, size.width))
            line += f"; all have one shape, which --image-size {keeping} would keep"
        say(line)


def _keeping(ratio: float, shorter: int) -> str:
    """HEIGHTxWIDTH of that ratio."""
    longer = round(shorter * max(ratio, 1 / ratio))
    return f"{shorter}x{longer}" if ratio > 1 else f"{longer}x{shorter}"
