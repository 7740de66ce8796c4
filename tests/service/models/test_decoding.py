from __future__ import annotations

import asyncio
import io
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import soundfile

from latentserve.audio import decode_audio
from latentserve.errors import InvalidInput, Overloaded
from latentserve.images import decode_image, fit_image, image_pixels
from latentserve.inputs import HOWS, AudioInput, ImageInput, Resize, TensorSpec
from latentserve.tensors import to_tensor
from latentserve.v1 import embedding_pb2 as pb
from service.api.open_inference.request import arriving_of
from service.api.open_inference.stubs import open_inference_grpc_pb2 as open_pb
from service.models.decoding import Decoder, Limits, finite_rows, row_bytes
from service.scheduling.decoding_queue import DecodingConfig, DecodingQueue
from tests.fakes import FakePool

LIMITS = Limits(max_request_rows=20, max_item_bytes=5000, max_item_pixels=10_000)


IMAGE, CLIP = ImageInput(8, 6, 3), AudioInput(8000, 100)


def decode(message: pb.Input, expected: ImageInput | AudioInput = IMAGE) -> Any:
    with ThreadPoolExecutor(2) as pool:
        return asyncio.run(Decoder(expected, LIMITS, pool).rows(message))


class Counted:
    """What decodes, and how often it was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        monkeypatch.setattr("service.models.decoding.decode_image", self.decode)

    def decode(self, data: bytes, given: ImageInput, max_pixels: int) -> Any:
        self.calls += 1
        return decode_image(data, given, max_pixels)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def encoded(*items: bytes) -> pb.Input:
    return pb.Input(encoded=pb.EncodedItems(items=items))


def tensor(shape: tuple[int, ...], dtype: Any = np.uint8) -> pb.Input:
    return pb.Input(tensor=to_tensor(np.ones(shape, dtype)))


def test_files_become_the_pixels_training_would_see_in_their_order(encode: Any) -> None:
    rng = np.random.default_rng(0)
    files = [encode(rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8), "JPEG") for i in range(19)]
    expected = np.stack([decode_image(file, ImageInput(8, 6, 3), 10_000) for file in files])
    np.testing.assert_array_equal(decode(encoded(*files)), expected)


@pytest.mark.parametrize("how", HOWS)
def test_files_are_resized_by_the_rule_of_the_model(encode: Any, how: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 50, 3), dtype=np.uint8)
    given = ImageInput(8, 6, 3, resize=Resize(how, filter="lanczos"))
    np.testing.assert_array_equal(decode(encoded(encode(image)), given)[0], fit_image(image, given))


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


def decoder(
    pool: Any, expected: ImageInput | AudioInput = IMAGE, turns: DecodingConfig | None = None, **more: int
) -> Decoder:
    limits = replace(LIMITS, max_request_rows=2000, max_item_bytes=10**6, **more)
    return Decoder(expected, limits, DecodingQueue(pool, turns or DecodingConfig(), num_cpus=1))


@pytest.mark.parametrize("num", [3, 30])
def test_the_pixels_of_a_request_are_bounded_and_known_before_any_is_decoded(
    encode: Any, counted: Counted, num: int
) -> None:
    """Few files are looked at on the event loop, many in a thread."""
    file = encode(np.zeros((50, 40, 3), np.uint8), "PNG")
    message = encoded(*[file] * num)
    with ThreadPoolExecutor(2) as pool:
        fits = decoder(pool, max_request_pixels=num * 2000)
        assert len(asyncio.run(fits.rows(message))) == counted.calls == num
        tight = decoder(pool, max_request_pixels=num * 2000 - 1)
        said = rf"^input.encoded.items: got {num * 2000} pixels in all, expected at most {num * 2000 - 1} in a request$"
        with pytest.raises(InvalidInput, match=said):
            asyncio.run(tight.rows(message))
        assert counted.calls == num


@pytest.mark.parametrize("num", [3, 30])
def test_a_file_that_is_wrong_by_its_header_keeps_the_others_from_being_decoded(
    encode: Any, counted: Counted, num: int
) -> None:
    good, large = encode(np.zeros((9, 9, 3), np.uint8)), encode(np.zeros((101, 100, 3), np.uint8))
    for bad, said in (
        (b"x", "beginning b'x'"),
        (large, "got 100 x 101 = 10100 pixels"),
        (bytes(10**6 + 1), "got 1000001 by"),
    ):
        with ThreadPoolExecutor(2) as pool, pytest.raises(InvalidInput, match=rf"items\[{num}\]: .*{said}"):
            asyncio.run(decoder(pool).rows(encoded(*[good] * num, bad)))
    assert counted.calls == 0


def test_pixels_are_read_from_the_header_alone(encode: Any) -> None:
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
        file = encode(np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8), kind)
        assert image_pixels(file, 64 * 48) == 64 * 48
        if kind in ("JPEG", "BMP"):  # the rest is looked through for damage, or has what is needed at its end
            assert image_pixels(file[: max(len(file) // 2, 200)], 64 * 48) == 64 * 48


@pytest.mark.parametrize("bounds", [DecodingConfig(max_bytes=10), DecodingConfig(max_pixels=80)])
def test_over_the_bounds_of_the_server_nothing_is_decoded(
    encode: Any, counted: Counted, bounds: DecodingConfig
) -> None:
    file = encode(np.zeros((9, 9, 3), np.uint8))
    with ThreadPoolExecutor(2) as pool:
        full = decoder(pool, turns=bounds)
        with pytest.raises(Overloaded, match="too much is to be decoded"):
            asyncio.run(full.rows(encoded(file)))
        assert (full._queue.size_bytes, full._queue.pixels) == (0, 0)
    assert counted.calls == 0


@pytest.mark.parametrize("files", ["images", "clips"])
@pytest.mark.parametrize(
    ("num", "expected_order"),
    [(1, ["late", "high", "open", "bulk"]), (9, ["high", "open", "late", "bulk"])],
    ids=["the first of few does not wait", "many are looked at first"],
)
def test_files_are_decoded_by_priority_and_deadline_in_every_protocol(
    encode: Any, files: str, num: int, expected_order: list[str]
) -> None:
    """A request of many files, then three of few: the order of their answers."""
    expected: ImageInput | AudioInput = IMAGE if files == "images" else CLIP
    file = encode(np.zeros((64, 64, 3), np.uint8)) if files == "images" else wav(range(500))

    async def run() -> list[str]:
        pool, order = FakePool(), list[str]()
        made = decoder(pool, expected)

        async def ask(name: str, num: int, deadline: float, priority: int) -> None:
            if name == "open":
                request = open_pb.ModelInferRequest()
                request.inputs.add(name="input", datatype="BYTES", shape=[num]).contents.bytes_contents.extend(
                    [file] * num
                )
                arriving = arriving_of(request, 10, made, None)
            else:
                arriving = made.arriving(encoded(*[file] * num), 10)
            assert (arriving.num_rows, arriving.size_bytes) == (num, num * row_bytes(made.spec))
            assert len(await arriving.read(deadline, priority)) == num
            order.append(name)

        asked = [asyncio.create_task(ask("bulk", 150, math.inf, -1))]
        await work(pool, 30)  # it is being decoded
        for name, deadline, priority in (("late", 2e9, 0), ("open", 1e9, 0), ("high", math.inf, 1)):
            asked.append(asyncio.create_task(ask(name, num, deadline, priority)))
        await work(pool, 1000)
        await asyncio.gather(*asked)
        return order

    async def work(pool: FakePool, num_units: int) -> None:
        for _ in range(10 * num_units):
            await asyncio.sleep(0)
            if pool.units and num_units:
                pool.do()
                num_units -= 1

    assert asyncio.run(run()) == expected_order


def test_many_numbers_are_looked_through_and_converted_in_turns_few_at_once() -> None:
    spec = TensorSpec("latent", "float32", (1000,))

    async def run(num: int, by_element: bool, last: float) -> int:
        pool = FakePool()
        values = np.zeros((num, 1000), np.float32)
        values[-1, -1] = last
        request = open_pb.ModelInferRequest()
        tensor = request.inputs.add(name="latent", datatype="FP32", shape=values.shape)
        if by_element:
            tensor.contents.fp32_contents.extend(values.ravel())
        else:
            request.raw_input_contents.append(values.tobytes())
        arriving = arriving_of(request, 10, decoder(pool), spec)
        assert (arriving.num_rows, arriving.size_bytes) == (num, num * 4000)
        task, units = asyncio.ensure_future(arriving.read(math.inf, 0)), 0
        while not task.done():
            await asyncio.sleep(0)
            if pool.units:
                pool.do()
                units += 1
        np.testing.assert_array_equal(await task, values)
        return units

    assert asyncio.run(run(2, False, 1)) == asyncio.run(run(2, True, 1)) == 0
    assert asyncio.run(run(200, True, 1)) > 1
    for num in (2, 1800):
        with pytest.raises(InvalidInput, match=rf"inputs\['latent'\]\[{num - 1}\]: got NaN"):
            asyncio.run(run(num, False, np.nan))
