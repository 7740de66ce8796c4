from __future__ import annotations

import contextlib
import io
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from latentserve.images import ImageError, decode_image, fit_image
from latentserve.inputs import ImageInput
from latentserve.resizing import center_crop

LIMIT = 10_000


def test_an_image_of_the_right_size_comes_back_as_it_is(encode: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(encode(image), ImageInput(8, 6, 3), LIMIT), image)


def test_a_file_and_an_array_are_fitted_alike(encode: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        decode_image(encode(image), ImageInput(16, 16, 3), LIMIT), fit_image(image, ImageInput(16, 16, 3))
    )


def test_the_centre_is_what_is_kept(encode: Any) -> None:
    image = np.zeros((10, 30, 1), np.uint8)
    image[:, 10:20] = 255
    assert decode_image(encode(image), ImageInput(10, 10, 1), LIMIT).min() == 255
    assert center_crop(30, 10, 5, 5) == (10, 0, 20, 10)
    assert center_crop(10, 30, 5, 5) == (0, 10, 10, 20)


def test_a_photo_on_its_side_is_turned_upright(encode: Any) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4] = 255
    turned = decode_image(encode(image, "PNG", exif=held(6)), ImageInput(8, 8, 3), LIMIT)
    assert turned[:4].min() == 255
    assert turned[4:].max() == 0


@pytest.mark.parametrize("orientation", range(10))
def test_every_way_to_hold_a_camera_is_turned_as_pillow_turns_it(encode: Any, orientation: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    data = encode(image, "PNG", exif=held(orientation))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decode_image(data, ImageInput(*upright.shape), LIMIT), upright)


@pytest.mark.parametrize("tag", [b"\x00\x02", b"\x00\x0c", b"\x00\x05"])  # text, a double, a fraction
def test_odd_exif_says_nothing(encode: Any, tag: bytes) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8)
    whole = encode(image, "PNG", exif=held(6))
    orientation = b"\x01\x12\x00\x03"
    odd = with_right_sums(whole.replace(orientation, b"\x01\x12" + tag))
    assert orientation in whole
    np.testing.assert_array_equal(decode_image(odd, ImageInput(8, 8, 1), LIMIT), image)


def held(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation  # 6: rotate 90 degrees clockwise to see it
    return exif.tobytes()


def with_right_sums(png: bytes) -> bytes:
    """With the checksum of each chunk as its bytes are now."""
    at = 8
    while at < len(png):
        end = at + 8 + int.from_bytes(png[at : at + 4])
        png = png[:end] + zlib.crc32(png[at + 4 : end]).to_bytes(4) + png[end + 4 :]
        at = end + 4
    return png


@settings(deadline=None)
@given(st.data())
def test_a_damaged_file_is_an_image_or_an_image_error(encode: Any, data: st.DataObject) -> None:
    format_ = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "TIFF"]))
    options = {} if format_ == "BMP" else {"exif": held(6)}
    file = bytearray(encode(np.zeros((8, 8, 3), np.uint8), format_, **options))
    for at in data.draw(st.lists(st.integers(0, len(file) - 1), min_size=1, max_size=8)):
        file[at] = data.draw(st.integers(0, 255))
    damaged = with_right_sums(bytes(file)) if format_ == "PNG" else bytes(file)
    with contextlib.suppress(ImageError):
        assert decode_image(damaged, ImageInput(4, 4, 3), LIMIT).shape == (4, 4, 3)


@pytest.mark.parametrize("exif", [b"", True])
def test_one_wrong_bit_among_the_pixels_is_an_error(encode: Any, exif: bytes | bool) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    file = bytearray(encode(image, "PNG", **({"exif": held(6)} if exif else {})))
    file[file.index(b"IDAT") + 1000] ^= 1
    with pytest.raises(ImageError, match="got a corrupt PNG"):
        decode_image(bytes(file), ImageInput(32, 32, 3), LIMIT)


def test_transparent_pixels_are_on_black(encode: Any) -> None:
    rgba = np.full((4, 4, 4), 200, np.uint8)
    rgba[:, :2, 3], rgba[:, 2:, 3] = 0, 255
    for channels in (1, 3):
        pixels = decode_image(encode(Image.fromarray(rgba)), ImageInput(4, 4, channels), LIMIT)
        assert (pixels[:, :2].max(), pixels[:, 2:].min()) == (0, 200)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_the_models_channels(encode: Any, mode: str, channels: int) -> None:
    image = Image.new(mode, (4, 4))
    assert decode_image(encode(image), ImageInput(4, 4, channels), LIMIT).shape == (4, 4, channels)


def test_sixteen_bits_keep_their_brightness(encode: Any) -> None:
    image = Image.fromarray(np.full((4, 4), 0x8000, np.uint16))
    assert decode_image(encode(image), ImageInput(4, 4, 1), LIMIT)[0, 0, 0] == 128


def test_pixels_are_counted_before_they_are_decoded(encode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.new("L", (10_000, 10_000)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="got 10000 x 10000 = 100000000 pixels, expected at most 10000"):
        decode_image(data, ImageInput(8, 8, 1), LIMIT)


def test_what_is_no_image_is_said_to_be_none(encode: Any) -> None:
    whole = encode(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    for data, message in (
        (b"", "got 0 bytes"),
        (b"hello world", "expected a JPEG or PNG"),
        (whole[: len(whole) // 2], "corrupt PNG"),
        (encode(Image.new("L", (4, 4)), "GIF"), "expected a JPEG or PNG"),
    ):
        with pytest.raises(ImageError, match=message):
            decode_image(data, ImageInput(8, 8, 3), LIMIT)
