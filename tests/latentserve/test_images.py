from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentserve.images import ImageError, center_crop, decode_image, fit_image

LIMIT = 10_000


def test_an_image_of_the_right_size_comes_back_as_it_is(encode: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(encode(image), 8, 6, 3, LIMIT), image)


def test_a_file_and_an_array_are_fitted_alike(encode: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(encode(image), 16, 16, 3, LIMIT), fit_image(image, 16, 16))


def test_the_centre_is_what_is_kept(encode: Any) -> None:
    image = np.zeros((10, 30, 1), np.uint8)
    image[:, 10:20] = 255
    assert decode_image(encode(image), 10, 10, 1, LIMIT).min() == 255
    assert center_crop(30, 10, 5, 5) == (10, 0, 20, 10)
    assert center_crop(10, 30, 5, 5) == (0, 10, 10, 20)


def test_a_photo_on_its_side_is_turned_upright(encode: Any) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: rotate 90 degrees clockwise to see it
    turned = decode_image(encode(image, "PNG", exif=exif), 8, 8, 3, LIMIT)
    assert turned[:4].min() == 255
    assert turned[4:].max() == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_the_models_channels(encode: Any, mode: str, channels: int) -> None:
    image = Image.new(mode, (4, 4))
    assert decode_image(encode(image), 4, 4, channels, LIMIT).shape == (4, 4, channels)


def test_sixteen_bits_keep_their_brightness(encode: Any) -> None:
    image = Image.fromarray(np.full((4, 4), 0x8000, np.uint16))
    assert decode_image(encode(image), 4, 4, 1, LIMIT)[0, 0, 0] == 128


def test_pixels_are_counted_before_they_are_decoded(encode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.new("L", (10_000, 10_000)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="got 10000 x 10000 = 100000000 pixels, expected at most 10000"):
        decode_image(data, 8, 8, 1, LIMIT)


def test_what_is_no_image_is_said_to_be_none(encode: Any) -> None:
    whole = encode(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    for data, message in (
        (b"", "got 0 bytes"),
        (b"hello world", "expected a JPEG or PNG"),
        (whole[: len(whole) // 2], "corrupt PNG"),
        (encode(Image.new("L", (4, 4)), "GIF"), "expected a JPEG or PNG"),
    ):
        with pytest.raises(ImageError, match=message):
            decode_image(data, 8, 8, 3, LIMIT)
