"""Files that cameras and tools leave behind: every byte of them made here, the answers known."""

from __future__ import annotations

import io
import itertools
import struct
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from latentserve import image_files
from latentserve.images import ImageError, decode_image
from latentserve.inputs import ImageInput
from tests.conftest import Encode

LIMIT = 10**6
GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6
TIFF_TYPES = {"H": 3, "I": 4, "i": 9, "f": 11}


def chunk(name: bytes, body: bytes, right_sum: bool = True) -> bytes:
    checksum = zlib.crc32(name + body) ^ (not right_sum)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def png(samples: NDArray[Any], bits: int, colour_type: int, *before: bytes, after: bytes = b"") -> bytes:
    """A PNG of samples [H, W, C], unfiltered, with chunks between its header and its pixels, and after these."""
    height, width, _ = samples.shape
    rows = []
    for row in samples.reshape(height, -1):
        packed = np.unpackbits(row.astype(">u2").view(np.uint8)).reshape(-1, 16)[:, 16 - bits :]
        rows.append(b"\0" + np.packbits(packed).tobytes())
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(before) + pixels + after + chunk(b"IEND", b"")


def tiff(
    samples: NDArray[Any],
    photometric: int = 1,
    order: str = "<",
    deflate: bool = False,
    **tags: tuple[str, tuple[Any, ...]],
) -> bytes:
    """A TIFF of samples [H, W, C] in one strip, with further tags as t123=(kind, values)."""
    height, width, channels = samples.shape
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    strip = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    strip = zlib.compress(strip) if deflate else strip
    bits = 8 * samples.dtype.itemsize
    fields: dict[int, tuple[str, tuple[Any, ...]]] = {
        **{
            256: ("H", (width,)),
            257: ("H", (height,)),
            258: ("H", (bits,) * channels),
            259: ("H", (8 if deflate else 1,)),
        },
        **{262: ("H", (photometric,)), 273: ("I", (8,)), 277: ("H", (channels,)), 278: ("H", (height,))},
        **{279: ("I", (len(strip),)), 339: ("H", (kind,) * channels)},
        **({338: ("H", (2,))} if channels in (2, 4) else {}),
        **{int(name[1:]): value for name, value in tags.items()},
    }
    strip += bytes(len(strip) % 2)
    beside = 8 + len(strip) + 6 + 12 * len(fields)
    directory, extra = struct.pack(f"{order}H", len(fields)), b""
    for tag, (letter, values) in sorted(fields.items()):
        body = struct.pack(f"{order}{len(values)}{letter}", *values)
        place = body.ljust(4, b"\0") if len(body) <= 4 else struct.pack(f"{order}I", beside + len(extra))
        extra += body if len(body) > 4 else b""
        directory += struct.pack(f"{order}HHI", tag, TIFF_TYPES[letter], len(values)) + place
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(strip))
    return start + strip + directory + bytes(4) + extra


def decoded(data: bytes, like: NDArray[Any], channels: int = 3) -> NDArray[np.uint8]:
    return decode_image(data, ImageInput(like.shape[0], like.shape[1], channels), LIMIT)


def noise(*shape: int, below: int) -> NDArray[np.uint16]:
    samples = np.random.default_rng(0).integers(0, below, shape, dtype=np.uint16)
    samples.flat[-1] = below - 1
    return samples


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_one_transparent_grey_is_black(bits: int) -> None:
    levels = (1 << bits) - 1
    samples = np.full((3, 9, 1), levels, np.uint16)
    samples[1, 2:5] = 0 if bits == 1 else levels // 3
    other = int(samples[1, 2, 0]) * 255 // levels
    for key, expected in (
        (levels, np.where(samples == levels, 0, other)),
        (levels // 3, np.where(samples == levels, 255, 0)),
    ):
        got = decoded(png(samples, bits, GREY, chunk(b"tRNS", struct.pack(">H", key))), samples, 1)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("bits", [8, 16])
def test_the_one_transparent_colour_is_black_and_near_ones_are_not(bits: int) -> None:
    levels = (1 << bits) - 1
    samples = np.full((2, 3, 3), levels, np.uint16)
    samples[0, 1] = levels, levels, levels - 1
    got = decoded(png(samples, bits, RGB, chunk(b"tRNS", struct.pack(">3H", levels, levels, levels))), samples)
    assert (got.max(axis=-1) > 0).tolist() == [[False, True, False], [False, False, False]]


def test_the_transparent_colour_of_a_turned_image_is_black() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    samples = np.full((4, 4, 1), 255, np.uint16)
    samples[0] = 9
    file = png(samples, 8, GREY, chunk(b"tRNS", b"\0\xff"), chunk(b"eXIf", exif.tobytes()[6:]))
    np.testing.assert_array_equal(decoded(file, samples, 1)[..., 0], [[0, 0, 0, 9]] * 4)


@pytest.mark.parametrize("key", [7, 0x0107])
def test_bits_of_a_transparent_colour_that_its_depth_does_not_have_are_left_out(key: int) -> None:
    samples = np.full((2, 2, 1), 7, np.uint16)
    assert decoded(png(samples, 8, GREY, chunk(b"tRNS", struct.pack(">H", key))), samples).max() == 0


LAYOUTS = [(GREY, 1), (GREY_ALPHA, 2), (RGB, 3), (RGBA, 4)]


def stated(bits: int, colour_type: int) -> bytes:
    return chunk(b"sBIT", bytes([bits] * {GREY: 1, GREY_ALPHA: 2, RGB: 3, RGBA: 4}[colour_type]))


def on_black(levels: NDArray[Any]) -> NDArray[Any]:
    """Float [H, W, 3] of levels 0 to 255 with or without opacity."""
    channels = levels.shape[-1]
    colours = levels[..., :-1] * levels[..., -1:] / 255 if channels in (2, 4) else levels
    return np.broadcast_to(colours, (*levels.shape[:2], 3))


@pytest.mark.parametrize(("colour_type", "channels"), LAYOUTS)
@pytest.mark.parametrize("bits", [10, 12, 14, 15])
def test_a_png_of_fewer_bits_than_sixteen_is_scaled_by_what_it_states(
    colour_type: int, channels: int, bits: int
) -> None:
    samples = noise(7, 5, channels, below=1 << bits)
    got = decoded(png(samples, 16, colour_type, stated(bits, colour_type)), samples)
    np.testing.assert_allclose(got, on_black(samples * (255 / ((1 << bits) - 1))), atol=1)
    stretched = samples << (16 - bits) | samples >> (2 * bits - 16)  # as the specification recommends, 12.4
    again = decoded(png(stretched, 16, colour_type, stated(bits, colour_type)), samples)
    np.testing.assert_allclose(again, got, atol=1)


@pytest.mark.parametrize(("colour_type", "channels"), LAYOUTS)
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_a_png_of_fewer_bits_that_states_nothing_is_refused(colour_type: int, channels: int, bits: int) -> None:
    samples = noise(7, 5, channels, below=1 << bits)
    with pytest.raises(ImageError, match=r"got 16-bit samples of at most \d+, .*sBIT"):
        decoded(png(samples, 16, colour_type), samples)


def test_a_dark_png_that_may_be_either_is_refused() -> None:
    samples = np.full((2, 2, 1), 0x0800, np.uint16)  # middle grey of 12 bits, or nearly black of 16
    with pytest.raises(ImageError, match="which may be dark or of fewer bits"):
        decoded(png(samples, 16, GREY, stated(12, GREY)), samples)


@pytest.mark.parametrize(("colour_type", "channels"), LAYOUTS)
def test_sixteen_bits_that_fill_their_range_or_are_stated_to_are_rounded_to_eight(
    colour_type: int, channels: int
) -> None:
    full, dark = noise(6, 6, channels, below=1 << 16), noise(6, 6, channels, below=5000)
    for samples, states in ((full, b""), (full, stated(16, colour_type)), (dark, stated(16, colour_type))):
        got = decoded(png(samples, 16, colour_type, states), samples)
        np.testing.assert_allclose(got, on_black(samples / 257), atol=0.51 if channels in (1, 3) else 1.5)
    bytes_ = noise(6, 6, channels, below=40) * 257  # dark, and eight bits for certain
    np.testing.assert_allclose(decoded(png(bytes_, 16, colour_type), bytes_), on_black(bytes_ / 257), atol=1)
    black = np.zeros_like(full)
    assert decoded(png(black, 16, colour_type), black).max() == 0


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_tiff_of_sixteen_bits_is_taken_or_refused_as_a_png_is(order: str, channels: int) -> None:
    full, few = noise(5, 4, channels, below=1 << 16), noise(5, 4, channels, below=1 << 12)
    photometric = 1 if channels == 1 else 2
    got = decoded(tiff(full, photometric, order), full)
    np.testing.assert_allclose(got, on_black(full / 257), atol=1.5)
    with pytest.raises(ImageError, match=r"got 16-bit samples of at most \d+, .*SMaxSampleValue"):
        decoded(tiff(few, photometric, order), few)
    got = decoded(tiff(few, photometric, order, t341=("H", (4095,) * channels)), few)
    np.testing.assert_allclose(got, on_black(few * (255 / 4095)), atol=1.5)
    got = decoded(tiff(few, photometric, order, t340=("H", (1000,) * channels), t341=("H", (3000,) * channels)), few)
    np.testing.assert_allclose(got, on_black(np.clip((few - 1000.0) * (255 / 2000), 0, 255)), atol=1.5)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_compressed_tiffs_of_sixteen_bits_keep_both_bytes(channels: int) -> None:
    samples = noise(16, 16, channels, below=1 << 12)
    options: dict[str, Any] = {"t341": ("H", (4095,) * channels), "photometric": 1 if channels == 1 else 2}
    packed = tiff(samples, **options, deflate=True)
    np.testing.assert_array_equal(decoded(packed, samples), decoded(tiff(samples, **options), samples))


def test_twelve_packed_bits_are_of_twelve_bits() -> None:
    samples = noise(4, 4, 1, below=1 << 12)
    packed = np.packbits(np.unpackbits(samples.astype(">u2").view(np.uint8)).reshape(-1, 16)[:, 4:])
    file = tiff(packed.reshape(4, 6, 1).astype(np.uint8), t256=("H", (4,)), t258=("H", (12,)))
    np.testing.assert_allclose(decoded(file, samples), on_black(samples * (255 / 4095)), atol=0.51)


def test_white_is_zero_where_a_tiff_says_so() -> None:
    samples = noise(4, 4, 1, below=1 << 16)
    got, inverted = decoded(tiff(samples), samples), decoded(tiff(samples, photometric=0), samples)
    np.testing.assert_array_equal(inverted, 255 - got)


SIGNED = [np.int8, np.int16, np.int32, np.uint32, np.float32]


@pytest.mark.parametrize("dtype", SIGNED)
def test_signed_long_and_floating_samples_are_refused_or_scaled_by_what_they_state(dtype: type) -> None:
    samples = np.linspace(0, 100, 20).reshape(5, 4, 1).astype(dtype)
    with pytest.raises(ImageError, match=f"got .*samples of {8 * samples.itemsize} bits of no stated range"):
        decoded(tiff(samples), samples)
    letter = {"i": "i", "u": "I", "f": "f"}[samples.dtype.kind]
    if dtype == np.int8:
        return
    got = decoded(tiff(samples, t340=(letter, (0,)), t341=(letter, (200,))), samples)
    np.testing.assert_allclose(got, on_black(samples.astype(float) * 255 / 200), atol=0.51)


def test_long_samples_use_all_of_their_bits() -> None:
    samples = np.array([[0, 1 << 31, (1 << 32) - 1]], np.uint32)[..., None]
    got = decoded(tiff(samples, t341=("I", ((1 << 32) - 1,))), samples, 1)
    assert got[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (
            tiff(np.full((2, 2, 1), np.nan, np.float32), t340=("f", (0,)), t341=("f", (1,))),
            "got NaN or infinite samples",
        ),
        (tiff(noise(2, 2, 1, below=9), t340=("H", (5,)), t341=("H", (5,))), "got a stated range of 5.0 to 5.0"),
        (tiff(noise(2, 2, 3, below=1 << 16), 2, t284=("H", (2,))), "got RGB of 16 bits"),
        (tiff(noise(2, 2, 4, below=1 << 16), 2, t338=("H", (1,))), "got samples of 16 bits as RGBa"),
        (tiff(np.zeros((2, 2, 3), np.uint8), 8), "got pixels of mode LAB"),
    ],
)
def test_tiffs_that_pillow_would_get_wrong_are_refused(file: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        decode_image(file, ImageInput(2, 2, 3), LIMIT)


def test_the_tiles_of_a_tiff_are_counted_before_they_are_decoded() -> None:
    file = tiff(np.zeros((2, 2, 1), np.uint8), t322=("I", (60_000,)), t323=("I", (60_000,)))
    with pytest.raises(ImageError, match="got tiles of 3600000000 pixels, expected at most 1000000"):
        decode_image(file, ImageInput(2, 2, 3), LIMIT)


PALETTE = chunk(b"PLTE", bytes(range(6)))
PICTURE = noise(4, 4, 1, below=200)


@pytest.mark.parametrize(
    "name", [b"tEXt", b"zTXt", b"iCCP", b"gAMA", b"pHYs", b"eXIf", b"sBIT", b"cHRM", b"acTL", b"vpAg"]
)
def test_a_chunk_that_nobody_needs_may_be_broken(name: bytes) -> None:
    for broken in (chunk(name, b"some text", right_sum=False), chunk(name, b"")):
        np.testing.assert_array_equal(decoded(png(PICTURE, 8, GREY, broken), PICTURE, 1), PICTURE)
        np.testing.assert_array_equal(decoded(png(PICTURE, 8, GREY, after=broken), PICTURE, 1), PICTURE)


def test_a_text_that_explodes_is_not_read() -> None:
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000)))
    np.testing.assert_array_equal(decoded(png(PICTURE, 8, GREY, bomb), PICTURE, 1), PICTURE)


@pytest.mark.parametrize("name", ["IHDR", "IDAT", "tRNS", "PLTE"])
def test_a_chunk_that_makes_pixels_may_not(name: str) -> None:
    whole = png(PICTURE, 8, GREY, PALETTE, chunk(b"tRNS", b"\0\1"))
    end = whole.index(name.encode()) + 4 + int.from_bytes(whole[whole.index(name.encode()) - 4 :][:4])
    broken = whole[:end] + bytes([whole[end] ^ 1]) + whole[end + 1 :]
    with pytest.raises(ImageError, match=f"got a corrupt PNG of {len(whole)} bytes: {name} is cut off or has a wrong"):
        decoded(broken, PICTURE)
    assert decoded(whole, PICTURE).shape == (4, 4, 3)


def test_a_png_without_pixels_is_said_to_have_none() -> None:
    whole = png(PICTURE, 8, GREY)
    with pytest.raises(ImageError, match="got a corrupt PNG of 45 bytes: it has no pixels"):
        decoded(whole[:33] + whole[-12:], PICTURE)


def test_a_chunk_that_changes_how_pixels_are_read_is_refused() -> None:
    with pytest.raises(ImageError, match="got a PNG with chunk b'CgBI', expected none that changes"):  # Apple's
        decoded(png(PICTURE, 8, GREY, chunk(b"CgBI", b"P\0 \2")), PICTURE)


def photo(height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    """Something smooth with some noise, as photographs are."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9 + y / 17), np.cos(x / 23), np.sin(y / 11)], axis=-1)
    noisy = 128 + 90 * waves + np.random.default_rng(0).normal(0, 6, waves.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


KINDS: list[dict[str, Any]] = [
    {},
    {"progressive": True},
    {"optimize": True},
    {"subsampling": 0},
    {"restart_marker_rows": 1},
]


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("quality", [5, 75, 100])
def test_whole_jpegs_are_taken_as_pillow_reads_them(
    encode: Any, options: dict[str, Any], mode: str, quality: int
) -> None:
    file = encode(Image.fromarray(photo(61, 77)).convert(mode), "JPEG", quality=quality, **options)
    expected = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    np.testing.assert_array_equal(decoded(file, expected), expected)


@pytest.mark.parametrize("how", ["noise", "zeros", "cut out", "twice"])
@pytest.mark.parametrize("options", KINDS)
def test_jpegs_with_a_damaged_middle_are_refused(encode: Any, options: dict[str, Any], how: str) -> None:
    whole = encode(photo(192, 256), "JPEG", **options)
    third = len(whole) // 3
    middle = {
        "noise": np.random.default_rng(0).integers(0, 255, third, dtype=np.uint8).tobytes(),  # no marker among it
        "zeros": bytes(third),
        "cut out": b"",
        "twice": whole[third : 2 * third] * 2,
    }[how]
    damaged = whole[:third] + middle + whole[2 * third :]
    Image.open(io.BytesIO(damaged)).load()  # Pillow has no word for it
    with pytest.raises(ImageError, match=f"got a corrupt JPEG of {len(damaged)} bytes: "):
        decode_image(damaged, ImageInput(192, 256, 3), LIMIT)


def test_a_jpeg_that_ends_early_is_refused(encode: Any) -> None:
    whole = encode(photo(), "JPEG")
    for cut in (whole[: len(whole) // 2], whole[: len(whole) // 2] + b"\xff\xd9"):
        with pytest.raises(ImageError, match="got a corrupt JPEG"):
            decoded(cut, photo())


def test_what_libjpeg_says_of_anything_but_pixels_is_left_alone(encode: Any) -> None:
    whole = encode(photo(), "JPEG", quality=90)
    expected = decoded(whole, photo())
    bad_profile = b"\xff\xe2\0\x12ICC_PROFILE\0\x09\x01ab"  # part nine of one
    for inserted in (b"\0\0junk", bad_profile, b"\xff\xfe\0\4ab", b"\xff\xff\xff"):
        np.testing.assert_array_equal(decoded(whole[:20] + inserted + whole[20:], photo()), expected)
    np.testing.assert_array_equal(decoded(whole + b"and something behind its end", photo()), expected)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_that_of_exif_alone(encode: Any, kind: str) -> None:
    image = photo(64, 64)
    options: dict[str, Any] = {
        "WEBP": {"xmp": XMP, "lossless": True},
        "JPEG": {"xmp": XMP},
        "TIFF": {"tiffinfo": {700: XMP}},
    }.get(kind, {})
    plain, said = (
        encode(image, kind, **{k: v for k, v in options.items() if k == "lossless"}),
        encode(image, kind, **options),
    )
    if kind == "PNG":
        text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
        said = plain[:33] + text + plain[33:]
    assert XMP in said
    opened = Image.open(io.BytesIO(said))
    assert not np.array_equal(np.asarray(ImageOps.exif_transpose(opened)), np.asarray(Image.open(io.BytesIO(plain))))
    np.testing.assert_array_equal(decoded(said, image), decoded(plain, image))


@pytest.mark.parametrize(("kind", "orientation"), list(itertools.product(["WEBP", "TIFF", "JPEG"], range(1, 9))))
def test_every_format_is_turned_upright(encode: Any, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"tiffinfo": {274: orientation}} if kind == "TIFF" else {}
    image = photo(24, 32)
    file = encode(image, kind, exif=exif.tobytes(), **options)
    kept = exif.tobytes() and np.asarray(
        Image.open(io.BytesIO(encode(image, kind, **({"lossless": True} if kind == "WEBP" else {}))))
    )
    turned = Image.fromarray(kept)
    turned.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(turned))
    np.testing.assert_array_equal(decoded(file, upright), upright)


@pytest.mark.parametrize(("colour_type", "channels"), LAYOUTS)
def test_a_deep_png_is_turned_upright(colour_type: int, channels: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    samples = noise(3, 5, channels, below=1 << 16)
    got = decoded(png(samples, 16, colour_type, chunk(b"eXIf", exif.tobytes()[6:])), np.empty((5, 3)))
    np.testing.assert_array_equal(got, np.rot90(decoded(png(samples, 16, colour_type), samples), -1))


def test_a_deep_tiff_is_turned_upright() -> None:
    samples = noise(3, 5, 1, below=1 << 16)
    got = decoded(tiff(samples, t274=("H", (6,))), np.empty((5, 3)))
    np.testing.assert_array_equal(got, np.rot90(decoded(tiff(samples), samples), -1))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})],
)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_webp_bmp_and_tiff_are_taken(encode: Any, kind: str, options: dict[str, Any], mode: str) -> None:
    image = Image.fromarray(photo(20, 30)).convert(mode)
    if mode == "RGBA" and kind != "BMP":
        image.putalpha(Image.fromarray(photo(20, 30)[..., 0]))
    expected = on_black(np.asarray(image)[..., None].astype(float) if mode == "L" else np.asarray(image).astype(float))
    got = decoded(encode(image, kind, **options), np.asarray(image))
    np.testing.assert_allclose(got, expected, atol=1 if mode == "RGBA" else 0)


def test_grey_with_premultiplied_opacity_is_on_black_already() -> None:
    samples = np.random.default_rng(0).integers(0, 256, (3, 4, 2), dtype=np.uint8)
    got = decoded(tiff(samples, t338=("H", (1,))), samples, 1)
    np.testing.assert_array_equal(got[..., 0], samples[..., 0])


@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "BMP"])
def test_other_formats_that_are_cut_are_refused(encode: Any, kind: str) -> None:
    whole = encode(photo(), kind)
    with pytest.raises(ImageError):
        decoded(whole[: len(whole) // 2], photo())


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("size", "part"), [((640, 480), 8), ((16, 8), 4), ((642, 478), 2), ((641, 479), 1), ((7, 3), 1)]
)
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2, "progressive": True}])
def test_a_jpeg_is_decoded_as_by_pillow_to_the_bit(
    mode: str, options: dict[str, Any], size: tuple[int, int], part: int
) -> None:
    """A machine without simplejpeg, and a bundle of before, have the same pixels."""
    samples = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(samples).convert(mode).save(buffer, "JPEG", quality=80, **({} if mode == "L" else options))
    image = Image.open(io.BytesIO(buffer.getvalue()))
    if part > 1:
        image.draft(None, (size[0] // part, size[1] // part))
    image.load()
    got = image_files.jpeg_pixels(buffer.getvalue(), mode, part, image.size)
    assert got is not None
    np.testing.assert_array_equal(got[..., 0] if mode == "L" else got, np.asarray(image))


def test_a_jpeg_is_read_once(monkeypatch: pytest.MonkeyPatch, encode: Encode) -> None:
    """Reading its bits is most of the work."""
    monkeypatch.setattr("latentserve.images.check_jpeg", None)
    monkeypatch.setattr(JpegImageFile, "load", None)
    samples = np.full((16, 16, 3), 90, np.uint8)
    np.testing.assert_array_equal(decode_image(encode(samples, "JPEG"), ImageInput(16, 16, 3), 1000), samples)


def test_without_simplejpeg_images_are_read_and_one_line_says_what_is_not_noticed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, encode: Encode
) -> None:
    """A GPU machine without a network has what was carried there."""
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    image_files._simplejpeg.cache_clear()
    try:
        data = encode(np.full((16, 16, 3), 90, np.uint8), "JPEG")
        for _ in range(2):
            assert decode_image(data, ImageInput(16, 16, 3), 1000).shape == (16, 16, 3)
        assert [record.getMessage() for record in caplog.records] == [
            "simplejpeg is not installed: damage in the middle of a JPEG is not noticed"
        ]
    finally:
        image_files._simplejpeg.cache_clear()
