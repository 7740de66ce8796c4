"""Where images are out of distribution, as a client has it: anomaly maps, their regions, and a picture of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from latentserve.errors import InvalidInput
from latentserve.inputs import Halves, How, ImageInput, Resize
from latentserve.placing import Box, Placed, placed
from latentserve.tensors import from_tensor
from latentserve.v1 import embedding_pb2 as pb

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

ASK = "maps: got none, expected an answer to a call that asked for them: score(..., maps=True)"


@dataclass(frozen=True)
class Region:
    """Flagged places that touch.

    Attributes:
        box: y, x, height and width in pixels of the model's input.
        area: share of the image that the flagged places cover; the box may cover more.
        peak: the largest value of the map in it; infinite where one was no number.
        p_value: of the peak: the share of in-distribution images that have any place at least this unusual.
    """

    box: Box
    area: float
    peak: float
    p_value: float


@dataclass(frozen=True)
class AnomalyMaps:
    """Where n rows are out of distribution. Place [i, j] of [h, w] covers an h-th and a w-th of the model's image.

    Attributes:
        detector: name of the detector; its score of a row is the maximum of the map.
        values: float32 [n, h, w], larger is more out-of-distribution.
        p_values: float32 [n, h, w]: the share of in-distribution images that have any place at least this unusual.
        alpha: level of the threshold.
        threshold: the smallest value that is flagged: of the in-distribution images at most alpha have any place there.
        regions: of each row, the largest first, at most 32.
        image: the model's images, and how a file becomes one; None for sounds.
    """

    detector: str
    values: NDArray[np.float32]
    p_values: NDArray[np.float32]
    alpha: float
    threshold: float
    regions: tuple[tuple[Region, ...], ...]
    image: ImageInput | None

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """Bool [n, h, w]: which places are flagged; what is no number is."""
        return ~((self.values < self.threshold) & np.isfinite(self.values))

    def placed(self, height: int, width: int) -> Placed:
        """Where the model's image lies in an upright photograph of this size: `placed(480, 640).box(region.box)`.

        Raises:
            InvalidInput: the rows are sounds, or the photograph has no pixels.
        """
        if self.image is None:
            raise InvalidInput.at("image", got="a map of sounds", expected="one of images")
        try:
            return placed(self.image, height, width)
        except ValueError as error:
            raise InvalidInput(str(error)) from error

    def overlay(self, image: Any, row: int = 0) -> Picture:
        """A photograph with its map over it as heat, and a box around each region.

        Args:
            image: what was sent for the row: a path, the bytes of a file, a PIL image, or an array [height, width,
                channels]. It may have any size: the heat goes where the model looked.
            row: its number among all rows.

        Returns:
            A PIL image, RGB. Heat is faint below the threshold and strong above it.

        Raises:
            InvalidInput: no such row, or no image.
            Unsupported: Pillow is not installed.
        """
        if not 0 <= row < len(self.values):
            raise InvalidInput.at("row", got=row, expected=f"0 to {len(self.values) - 1}")
        from latentserve.overlay import drawn, opened

        picture = opened(image)
        where = self.placed(picture.height, picture.width)
        return drawn(picture, self.values[row], self.threshold, where, [one.box for one in self.regions[row]])


def given(maps: AnomalyMaps | None) -> AnomalyMaps:
    """The maps of an answer. Raises InvalidInput if they were not asked for."""
    if maps is None:
        raise InvalidInput(ASK)
    return maps


def joined(parts: Sequence[pb.AnomalyMaps]) -> AnomalyMaps:
    """One answer of several, which come in the order of the rows."""
    first, start = parts[0], 0
    values = [from_tensor(part.maps, "maps") for part in parts]
    rows = [list[Region]() for _ in range(sum(map(len, values)))]
    for part, some in zip(parts, values, strict=True):
        for one in part.regions:
            box = Box(one.y, one.x, one.height, one.width)
            rows[start + one.row].append(Region(box, one.area, one.peak, one.p_value))
        start += len(some)
    return AnomalyMaps(
        detector=first.detector,
        values=np.concatenate(values),
        p_values=np.concatenate([from_tensor(part.p_values, "p_values") for part in parts]),
        alpha=first.alpha,
        threshold=first.threshold,
        regions=tuple(map(tuple, rows)),
        image=_image(first.image) if first.HasField("image") else None,
    )


def _image(format_: pb.ImageFormat) -> ImageInput:
    """The channels do not matter here."""
    resize = Resize(cast(How, format_.how), format_.shorter_side or None, halves=cast(Halves, format_.halves or "even"))
    return ImageInput(format_.height, format_.width, 3, resize=resize)
