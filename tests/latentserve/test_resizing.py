"""What a resize rule makes of an image, held against torchvision and Pillow's own."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torchvision import transforms

from latentserve import images
from latentserve.images import decode_image, fit_image
from latentserve.inputs import HOWS, ImageInput, Resize
from latentserve.resizing import FILTERS, LONGEST, center_crop
from training.data.source import given_folder

LIMIT = 10**6
SIDES = st.integers(1, 70)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def photo(height: int, width: int, seed: int) -> bytes:
    """A JPEG of smooth colours."""
    small = Image.fromarray(noise(max(1, height // 16), max(1, width // 16), seed=seed))
    buffer = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def photos() -> list[bytes]:
    """50 JPEGs: photographs where the machine has any, and made ones of many shapes."""
    sizes = [(480, 640), (481, 333), (333, 481), (640, 480), (100, 37), (256, 256), (255, 257), (1, 9), (224, 224)]
    made = [photo(height, width, seed) for seed, (height, width) in enumerate(sizes)]
    rng = np.random.default_rng(0)
    folder = given_folder()
    found = sorted((folder / "cifar10-jpeg").glob("test-*.tar.gz"))[:1] if folder else []
    made += [photo(*rng.integers(20, 400, 2).tolist(), seed) for seed in range(21 if found else 41)]
    return made + [data for shard in found for data in jpegs(shard, 20)]


def jpegs(shard: Path, num: int) -> list[bytes]:
    found = list[bytes]()
    with tarfile.open(shard) as archive:
        for member in archive:
            if member.name.endswith(".jpg") and (file := archive.extractfile(member)):
                found.append(file.read())
            if len(found) == num:
                break
    return found


@pytest.mark.parametrize("filter_", FILTERS)
def test_crop_of_a_shorter_side_is_torchvisions_resize_and_centre_crop_bit_for_bit(filter_: Any) -> None:
    expected = transforms.Compose(
        [
            transforms.Resize(256, transforms.InterpolationMode(filter_)),
            transforms.CenterCrop(224),
        ]
    )
    given_ = ImageInput(224, 224, 3, resize=Resize("crop", 256, filter_))
    files = photos()
    assert len(files) == 50
    for data in files:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        if max(image.size) <= LONGEST * min(image.size):
            np.testing.assert_array_equal(decode_image(data, given_, LIMIT), np.asarray(expected(image)))


@settings(deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 10))
def test_of_any_shape_it_is_torchvisions(height: int, width: int, to_height: int, to_width: int, more: int) -> None:
    """Where the resized image is too small for a model's longer side, too, which torchvision pads with black."""
    side = min(to_height, to_width) + more
    given_ = ImageInput(to_height, to_width, 3, resize=Resize("crop", side))
    expected = transforms.Compose([transforms.Resize(side), transforms.CenterCrop((to_height, to_width))])
    pixels = fit_image(noise(height, width), given_)
    if max(height, width) <= LONGEST * min(height, width):
        np.testing.assert_array_equal(pixels, np.asarray(expected(Image.fromarray(noise(height, width)))))
    else:  # resized around the box alone
        np.testing.assert_allclose(
            pixels.astype(int), np.asarray(expected(Image.fromarray(noise(height, width)))), atol=2
        )


def test_a_strip_is_not_made_256_wide_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = list[tuple[int, int]]()
    resize = Image.Image.resize

    def watched(self: Image.Image, size: tuple[int, int], *args: Any, **kwargs: Any) -> Image.Image:
        sizes.append(size)
        return resize(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", watched)
    for shape in ((1, 10_000), (10_000, 1)):
        pixels = fit_image(noise(*shape), ImageInput(224, 224, 3, resize=Resize("crop", 256)))
        assert pixels.shape == (224, 224, 3)
    assert sizes == [(224, 224)] * 2


@settings(deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(sorted(FILTERS)), st.sampled_from([1, 3]))
def test_fit_is_pillows_pad(
    height: int, width: int, to_height: int, to_width: int, filter_: Any, channels: int
) -> None:
    given_ = ImageInput(to_height, to_width, channels, resize=Resize("fit", filter=filter_))
    image = noise(height, width, channels)
    pixels = fit_image(image, given_)
    assert pixels.shape == (to_height, to_width, channels)
    picture, size = Image.fromarray(image[..., 0] if channels == 1 else image), (to_width, to_height)
    if not all(ImageOps.contain(picture, size).size):  # Pillow rounds a side to 0
        return
    expected = np.asarray(ImageOps.pad(picture, size, FILTERS[filter_], color=0))
    np.testing.assert_array_equal(pixels.reshape(expected.shape), expected)


@settings(deadline=None)
@given(SIDES, SIDES, SIDES, SIDES)
def test_fit_is_black_outside_the_image_and_nowhere_else(
    height: int, width: int, to_height: int, to_width: int
) -> None:
    white = np.full((height, width, 1), 255, np.uint8)
    pixels = fit_image(white, ImageInput(to_height, to_width, 1, resize=Resize("fit")))[..., 0]
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    inside = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert inside.min() == 255
    assert len(rows) == to_height or len(columns) == to_width
    for before, after in (
        (rows[0], to_height - 1 - rows[-1]),
        (columns[0], to_width - 1 - columns[-1]),
    ):
        assert abs(int(before) - int(after)) <= 1


@settings(deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(["crop", "stretch"]), st.sampled_from(sorted(FILTERS)))
def test_crop_and_stretch_have_the_models_shape_and_no_border(
    height: int, width: int, to_height: int, to_width: int, how: Any, filter_: Any
) -> None:
    white = np.full((height, width, 3), 255, np.uint8)
    pixels = fit_image(white, ImageInput(to_height, to_width, 3, resize=Resize(how, filter=filter_)))
    assert pixels.shape == (to_height, to_width, 3)
    assert pixels.min() == 255


def test_the_default_is_what_it_was_before_there_was_a_choice() -> None:
    """Bundles of the first two schemas name no rule."""
    for seed, (height, width) in enumerate([(40, 30), (30, 40), (31, 31), (16, 12), (7, 90)]):
        image = Image.fromarray(noise(height, width, seed=seed))
        box = center_crop(width, height, 16, 12)
        before = image if image.size == (12, 16) else image.resize((12, 16), Image.Resampling.BILINEAR, box=box)
        np.testing.assert_array_equal(fit_image(np.asarray(image), ImageInput(16, 12, 3)), np.asarray(before))


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 9), st.integers(1, 9))
def test_of_the_models_own_shape_every_rule_is_one(height: int, width: int, times: int, to_times: int) -> None:
    image, to = noise(height * times, width * times), (height * to_times, width * to_times, 3)
    crop, fit, stretch = (fit_image(image, ImageInput(*to, resize=Resize(how))) for how in HOWS)
    np.testing.assert_array_equal(fit, crop)
    np.testing.assert_array_equal(stretch, crop)


def test_a_square_of_any_side_is_taken() -> None:
    """3 / 187 * 187 is more than 3 to a computer, and a box that begins before the image is none to Pillow."""
    for side in range(1, 300):
        for to in (28, 187, 275):
            left, upper, right, lower = center_crop(side, side, to, to)
            assert (left, upper) == (0, 0) or min(left, upper) > 0
            assert np.float32(max(right, lower)) <= side
    assert fit_image(noise(3, 3), ImageInput(187, 187, 3)).shape == (187, 187, 3)


def test_stretch_keeps_what_lies_at_the_border_and_crop_does_not() -> None:
    image = np.zeros((20, 60, 1), np.uint8)
    image[:, :5] = image[:, -5:] = 255
    seen = {
        how: fit_image(image, ImageInput(20, 20, 1, resize=Resize(how))).max() for how in ("crop", "fit", "stretch")
    }
    assert (seen["crop"], seen["fit"] > 200, seen["stretch"] > 200) == (0, True, True)


@pytest.mark.parametrize("shape", [(1, 10_000), (10_000, 1)])
@pytest.mark.parametrize("how", HOWS)
def test_a_strip_of_one_pixel_is_an_image_too(encode: Any, shape: tuple[int, int], how: Any) -> None:
    strip = encode(np.full((*shape, 1), 255, np.uint8))
    pixels = decode_image(strip, ImageInput(8, 8, 1, resize=Resize(how)), LIMIT)
    assert pixels.any(axis=(0, 2)).any()
    assert pixels.shape == (8, 8, 1)


def held(image: bytes, orientation: int) -> bytes:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.open(io.BytesIO(image)).save(buffer, "JPEG", quality=90, exif=exif.tobytes())
    return buffer.getvalue()


@pytest.mark.parametrize("rule", [("crop",), ("crop", 80), ("fit",), ("stretch",)])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (30, 120)])
def test_a_large_jpeg_may_be_decoded_at_a_part_of_its_size(
    rule: Any, orientation: int, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = held(photo(1500, 2000, 0), orientation)
    whole = decode_image(data, ImageInput(height, width, 3, resize=Resize(*rule)), 10**7)
    decoded = list[tuple[int, int]]()
    decode = images.jpeg_pixels

    def watched(*arguments: Any) -> Any:
        pixels = decode(*arguments)
        decoded.append(pixels.shape[1::-1])
        return pixels

    monkeypatch.setattr(images, "jpeg_pixels", watched)
    given_ = ImageInput(height, width, 3, resize=Resize(*rule, scaled=True))
    pixels = decode_image(data, given_, 10**7)
    gaps = np.abs(pixels.astype(int) - whole)
    assert gaps.max() <= 8, gaps.max()
    assert gaps.mean() < 1
    assert 2 * max(height, width) <= max(decoded[0]) < 2000
    assert decoded[0] != (2000, 1500)
    assert fit_image(whole, given_).shape == whole.shape


def test_a_small_jpeg_and_other_formats_are_decoded_whole(encode: Any) -> None:
    small, large = photo(900, 1000, 0), photo(1000, 1100, 0)
    png = encode(np.asarray(Image.open(io.BytesIO(large))))
    rules = [ImageInput(32, 32, 3, resize=Resize("stretch", scaled=scaled)) for scaled in (False, True)]
    for data, same in ((small, True), (png, True), (large, False)):
        first, second = (decode_image(data, rule, 10**7) for rule in rules)
        assert np.array_equal(first, second) == same


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Resize("squeeze"), "resize: got 'squeeze', expected one of crop, fit, stretch"),  # type: ignore[arg-type]
        (lambda: Resize(filter="box"), "filter: got 'box', expected one of bilinear, bicubic, lanczos"),  # type: ignore[arg-type]
        (lambda: Resize("fit", 256), "shorter_side: got 256 with fit, expected none, or crop"),
        (lambda: ImageInput(64, 64, 3, resize=Resize("crop", 63)), "shorter_side: got 63, expected 64 or more"),
        (lambda: ImageInput(96, 64, 3, resize=Resize("crop", 0)), "shorter_side: got 0, expected 64 or more"),
        (lambda: ImageInput(0, 64, 3), "input: got 0 x 64 x 3"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_every_rule_is_said_in_words() -> None:
    def said(*rule: Any) -> str:
        return ImageInput(32, 64, 3, resize=Resize(*rule)).in_words

    size = r"32 x 64 pixels \(height x width\)"
    for rule, words in (
        ((), f"the largest centred box of this shape is cut out and resized to {size}, antialiased, bilinear"),
        (("crop", 80), f"the shorter side is resized to 80 pixels, antialiased, bilinear, and the centre of {size}"),
        (("fit",), f"the whole image is fitted into {size} on black, antialiased, bilinear"),
        (("stretch", None, "lanczos"), f"the whole image is stretched to {size}, antialiased, lanczos"),
    ):
        assert words.replace("\\", "") in said(*rule)
