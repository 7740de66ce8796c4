"""Corrupted test images, on which a probe that was fitted on clean ones is evaluated.

Noise, blur, contrast and brightness are those of CIFAR-10-C at severity 5, the strongest.
Source: Hendrycks and Dietterich, https://arxiv.org/abs/1903.12261, and their `make_cifar_c.py`; brightness is added to
every channel instead of HSV's value, so that it is defined for grey images too. Shift and rotation are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from training.evaluation.transforms import DEGREES, SHIFT, Pixels, as_pixels, warped

NOISE_SD = 0.10 * 255
BLUR_SIGMA = 1.0  # pixels
CONTRAST = 0.15
BRIGHTNESS = 0.3 * 255


def noise(images_NHWC: Pixels, rng: np.random.Generator) -> Pixels:
    """Gaussian noise on every pixel and channel."""
    return as_pixels(images_NHWC + NOISE_SD * rng.standard_normal(images_NHWC.shape, np.float32))


def blur(images_NHWC: Pixels, _rng: np.random.Generator) -> Pixels:
    """A Gaussian of one pixel."""
    reach = math.ceil(4 * BLUR_SIGMA)
    places = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * np.square(places / BLUR_SIGMA)).astype(np.float32)
    weights /= weights.sum()
    _, height, width, _ = images_NHWC.shape
    padded = np.pad(images_NHWC.astype(np.float32), ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    rows = sum(weight * padded[:, i : i + height] for i, weight in enumerate(weights))
    return as_pixels(sum(weight * rows[:, :, i : i + width] for i, weight in enumerate(weights)))


def contrast(images_NHWC: Pixels, _rng: np.random.Generator) -> Pixels:
    """Every channel drawn towards its mean over the image."""
    mean = images_NHWC.mean(axis=(1, 2), keepdims=True)
    return as_pixels((images_NHWC - mean) * CONTRAST + mean)


def brightness(images_NHWC: Pixels, _rng: np.random.Generator) -> Pixels:
    """Brighter by 0.3 of the range."""
    return as_pixels(images_NHWC + np.float32(BRIGHTNESS))


def shift_rotate(images_NHWC: Pixels, rng: np.random.Generator) -> Pixels:
    """Rotated by up to 15 degrees and shifted by up to a fourteenth of the side, each image its own way."""
    num = len(images_NHWC)
    degrees = rng.uniform(-DEGREES, DEGREES, size=num)
    shift_N2 = rng.uniform(-SHIFT, SHIFT, size=(num, 2)) * images_NHWC.shape[1:3]
    return warped(images_NHWC, degrees, np.ones(1), shift_N2)


CORRUPTIONS: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "noise": noise,
    "blur": blur,
    "contrast": contrast,
    "brightness": brightness,
    "shift_rotate": shift_rotate,
}


def corrupted(name: str, images_NHWC: Pixels, seed: int = 0) -> Pixels:
    """The images with one of `CORRUPTIONS`, the same for the same seed."""
    return CORRUPTIONS[name](images_NHWC, np.random.default_rng(seed))
