from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import soundfile

from latentserve.audio import decode_audio
from latentserve.errors import InvalidInput
from latentserve.images import decode_image
from latentserve.inputs import AudioInput, ImageInput
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb
from service.decoding import Decoder, Limits, finite_rows

LIMITS = Limits(max_request_rows=20, max_item_bytes=5000, max_item_pixels=10_000)


IMAGE, CLIP = ImageInput(8, 6, 3), AudioInput(8000, 100)


def decode(message: pb.Input, expected: ImageInput | AudioInput = IMAGE) -> Any:
    with ThreadPoolExecutor(2) as pool:
        return asyncio.run(Decoder(expected, LIMITS, pool).rows(message))


def encoded(*items: bytes) -> pb.Input:
    return pb.Input(encoded=pb.EncodedItems(items=items))


def tensor(shape: tuple[int, ...], dtype: Any = np.uint8) -> pb.Input:
    return pb.Input(tensor=to_tensor(np.ones(shape, dtype)))


def test_files_become_the_pixels_training_would_see_in_their_order(encode: Any) -> None:
    rng = np.random.default_rng(0)
    files = [encode(rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8), "JPEG") for i in range(19)]
    expected = np.stack([decode_image(file, 8, 6, 3, 10_000) for file in files])
    np.testing.assert_array_equal(decode(encoded(*files)), expected)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF"])
def test_every_format_that_is_trained_on_is_served(encode: Any, kind: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3), dtype=np.uint8)
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decode(encoded(*(encode(image, kind, **options) for image in images))), images)


@pytest.mark.parametrize(("form", "subtype"), [("FLAC", "PCM_16"), ("RF64", "PCM_16"), ("WAV", "DOUBLE")])
def test_every_encoding_that_is_trained_on_is_served(form: str, subtype: str) -> None:
    clip = np.arange(-50, 50, dtype=np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, clip / 32768, 8000, subtype, format=form)
    np.testing.assert_array_equal(decode(encoded(buffer.getvalue()), CLIP), clip[None])


def test_a_damaged_jpeg_is_refused_by_its_place(encode: Any) -> None:
    whole = encode(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8), "JPEG")
    middle = len(whole) * 2 // 3
    damaged = whole[:middle] + whole[middle + 100 :]
    with pytest.raises(InvalidInput, match=r"input.encoded.items\[1\]: got a corrupt JPEG"):
        decode(encoded(whole, damaged))


def wav(samples: Any, rate: int = 8000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.asarray(samples, np.int16), rate, format="WAV")
    return buffer.getvalue()


def test_clips_become_the_samples_training_would_see_in_their_order() -> None:
    rng = np.random.default_rng(0)
    files = [wav(rng.integers(-999, 999, 50 + 10 * i)) for i in range(19)]
    expected = np.stack([decode_audio(file, 8000, 100) for file in files])
    got = decode(encoded(*files), CLIP)
    assert got.dtype == np.int16
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(decode(pb.Input(tensor=to_tensor(expected)), CLIP), expected)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (encoded(wav([1]), wav([1], 16000)), r"input.encoded.items\[1\]: sample rate: got 16000 Hz, expected 8000 Hz"),
        (encoded(wav([])), r"input.encoded.items\[0\]: got no samples, expected at least one"),
        (encoded(wav([0] * 5000)), r"input.encoded.items\[0\]: got 10044 bytes, expected at most 5000"),
        (encoded(b"x"), r"input.encoded.items\[0\]: got 1 bytes beginning b'x', expected a WAV file"),
        (tensor((2, 99), np.int16), r"input.tensor: got int16 \[2, 99\], expected int16 \[n, 100\]"),
        (tensor((2, 100), np.float32), r"input.tensor: got float32 \[2, 100\], expected int16"),
    ],
)
def test_bad_clips_are_refused_by_field(message: pb.Input, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        decode(message, CLIP)


def test_a_tensor_is_a_view_of_the_message() -> None:
    rows = decode(tensor((3, 8, 6, 3)))
    assert rows.shape == (3, 8, 6, 3)
    assert not rows.flags.owndata


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (pb.Input(), "input: got no rows, expected tensor or encoded"),
        (tensor((1, 8, 6, 1)), r"input.tensor: got uint8 \[1, 8, 6, 1\], expected uint8 \[n, 8, 6, 3\]"),
        (tensor((8, 6, 3)), r"got uint8 \[8, 6, 3\]"),
        (tensor((1, 8, 6, 3), np.float32), r"got float32 \[1, 8, 6, 3\], expected uint8"),
        (tensor((21, 8, 6, 3)), "input.tensor: got 21 rows, expected at most 20"),
        (encoded(), "input.encoded.items: got 0 items, expected 1 to 20"),
        (encoded(*[b"x"] * 21), "got 21 items"),
        (encoded(b"x" * 5001), r"input.encoded.items\[0\]: got 5001 bytes, expected at most 5000"),
        (encoded(b"x"), r"input.encoded.items\[0\]: got 1 bytes beginning b'x', expected a JPEG or PNG"),
    ],
)
def test_bad_input_is_refused_by_field(message: pb.Input, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        decode(message)


def test_the_bad_item_among_good_ones_is_named(encode: Any) -> None:
    good = encode(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InvalidInput, match=r"items\[12\]: got 3 bytes"):
        decode(encoded(*[good] * 12, b"bad", *[good] * 3))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused_by_row(value: float) -> None:
    rows = np.zeros((4, 2), np.float32)
    rows[2, 1] = value
    with pytest.raises(InvalidInput, match=r"latents\[2\]: got NaN or infinity, expected finite"):
        finite_rows(rows, "latents")
