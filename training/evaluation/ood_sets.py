"""Out-of-distribution (OOD) sets: rows unlike the training data, made from the test rows without a download.

Shape legend: N rows, H height, W width, C channels, T samples.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentserve.inputs import Resize
from training.data import shapes
from training.data.rows import Values
from training.data.sizes import Size, resized

Maker = Callable[[Values, np.random.Generator], Values]

CONTROL = "saved_again"
"""In-distribution rows: a score that tells these from the test rows looks at the file format."""
JPEG_QUALITY = 95


def _flipped(axis: int) -> Maker:
    return lambda x_NHWC, _: np.ascontiguousarray(np.flip(x_NHWC, axis))


def _rotated(x_NHWC: Values, _: np.random.Generator) -> Values:
    """A quarter turn, of images that are not square stretched to their own shape."""
    _, height, width, _ = x_NHWC.shape
    turned_NHWC = np.ascontiguousarray(np.rot90(x_NHWC, axes=(1, 2)))
    return resized(turned_NHWC, Size(height, width, Resize("stretch")))


def _uniform(x_NHWC: Values, rng: np.random.Generator) -> Values:
    return rng.integers(0, 256, x_NHWC.shape, dtype=np.uint8)


def _constant(x_NHWC: Values, rng: np.random.Generator) -> Values:
    """One colour for each image."""
    num, _, _, channels = x_NHWC.shape
    return np.broadcast_to(rng.integers(0, 256, (num, 1, 1, channels), dtype=np.uint8), x_NHWC.shape).copy()


def _blended(x_NHWC: Values, rng: np.random.Generator) -> Values:
    """The mean of two test images: typical texture, untypical content."""
    other_NHWC = x_NHWC[rng.permutation(len(x_NHWC))]
    blended_NHWC: Values = ((x_NHWC.astype(np.uint16) + other_NHWC) // 2).astype(np.uint8)
    return blended_NHWC


def _rendered(x_NHWC: Values, rng: np.random.Generator) -> Values:
    num, height, width, channels = x_NHWC.shape
    rendered = shapes.render(rng.permutation(shapes.NUM_SHAPES)[:num], max(height, width))
    return np.repeat(rendered[:, :height, :width], channels, axis=3)


def _reversed(x_NT: Values, _: np.random.Generator) -> Values:
    """Backwards; padding stays at the end."""
    lengths = x_NT.shape[1] - (x_NT[:, ::-1] != 0).argmax(axis=1)
    out = np.zeros_like(x_NT)
    for row, length in enumerate(lengths):
        out[row, :length] = x_NT[row, :length][::-1]
    return out


def _hiss(x_NT: Values, rng: np.random.Generator) -> Values:
    """White noise as loud as each clip."""
    loudness_N1 = x_NT.astype(np.float64).std(axis=1, keepdims=True)
    return _as_samples(rng.standard_normal(x_NT.shape) * loudness_N1)


def _hum(x_NT: Values, rng: np.random.Generator) -> Values:
    """One tone for each clip, as loud as it is."""
    loudness_N1 = x_NT.astype(np.float64).std(axis=1, keepdims=True)
    step_N1 = rng.uniform(0.02, 1.5, (len(x_NT), 1))  # radians from sample to sample
    return _as_samples(np.sqrt(2) * loudness_N1 * np.sin(step_N1 * np.arange(x_NT.shape[1])))


def _as_samples(x_NT: NDArray[np.float64]) -> NDArray[np.int16]:
    return np.rint(x_NT).clip(-32768, 32767).astype(np.int16)


IMAGES: dict[str, Maker] = {
    "shapes": _rendered,
    "horizontal_flip": _flipped(2),
    "vertical_flip": _flipped(1),
    "rotated_90": _rotated,
    "noise": _uniform,
    "constant": _constant,
    "blends": _blended,
}
QUICK_SETS = ("shapes", "horizontal_flip", "noise", "reversed", "tone")
"""What every export is evaluated on; the rest is for `python -m export ood`."""
SOUNDS: dict[str, Maker] = {"reversed": _reversed, "noise": _hiss, "tone": _hum}


def ood_rows(name: str, test: Values, seed: int = 0) -> Values:
    """One of `IMAGES` or `SOUNDS`, as many as the test rows and of their shape.

    Raises:
        KeyError: no such set for this kind of rows.
    """
    makers = IMAGES if test.dtype == np.uint8 else SOUNDS
    return makers[name](test, np.random.default_rng(seed))


def known_sets(test: Values) -> tuple[str, ...]:
    """Names that `ood_rows` takes for such rows."""
    return tuple(IMAGES if test.dtype == np.uint8 else SOUNDS)


def saved_as(images_NHWC: NDArray[np.uint8], kind: str) -> NDArray[np.uint8]:
    """Images written and read once more: as `JPEG`, or as `PNG`, which changes nothing."""
    out = np.empty_like(images_NHWC)
    for row, image_HWC in enumerate(images_NHWC):
        file = io.BytesIO()
        Image.fromarray(image_HWC.squeeze(2) if image_HWC.shape[2] == 1 else image_HWC).save(
            file, kind, **({"quality": JPEG_QUALITY} if kind == "JPEG" else {})
        )
        out[row] = np.asarray(Image.open(file)).reshape(image_HWC.shape)
    return out
