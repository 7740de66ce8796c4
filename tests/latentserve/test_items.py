from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from latentserve.errors import InvalidInput
from latentserve.images import decode_image
from latentserve.inputs import ImageInput
from latentserve.items import Part, cut, cut_latents, cut_one
from latentserve.tensors import from_tensor

GREY = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8, 1)
SOUND = np.arange(-8, 8, dtype=np.int16).reshape(2, 8)


def sent(items: Any) -> NDArray[Any]:
    return np.concatenate([from_tensor(part.message.tensor, "x") for part in cut(items).parts])


@pytest.mark.parametrize("rows", [GREY, SOUND], ids=["images", "sounds"])
@pytest.mark.parametrize(
    "given",
    [
        lambda rows: rows,
        lambda rows: rows.astype(np.float64),
        lambda rows: rows.astype(np.float32),
        lambda rows: rows.astype(np.int64),
        lambda rows: torch.from_numpy(rows),
        lambda rows: torch.from_numpy(rows).double().requires_grad_(),
        lambda rows: list(rows),
        lambda rows: tuple(torch.from_numpy(rows)),
        lambda rows: (row for row in rows),
        lambda rows: [row.astype(float) for row in rows],
        lambda rows: np.asfortranarray(rows),
    ],
)
def test_rows_are_taken_in_whatever_they_come(rows: NDArray[Any], given: Any) -> None:
    got = sent(given(rows))
    assert got.dtype == rows.dtype
    np.testing.assert_array_equal(got, rows)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (GREY / 255, r"items\[0\]: got float64 0.00392157, expected whole numbers 0 to 255 \(uint8\)"),
        (SOUND / 32768, r"items\[0\]: got float64 -0.000244141, expected whole numbers -32768 to 32767 \(int16\)"),
        (GREY.astype(int) * 2, r"items\[2\]: got int64 256, expected whole numbers"),
        (np.full((2, 8, 8, 1), np.nan), r"items\[0\]: got float64 nan, expected whole numbers"),
        ((GREY > 3).astype(float), "items: got float64 0 to 1, expected whole .*: multiply by 255"),
        (GREY > 3, "items: got an array of bool, expected whole numbers"),
        (GREY.astype(complex), "items: got an array of complex128"),
        (
            torch.zeros(1, 8, 8, 1, dtype=torch.bfloat16),
            r"items: got Tensor of torch.bfloat16, expected one",
        ),
        ([GREY[0], GREY[1] / 3], r"items\[1\]: got float64 21.3333, expected whole numbers"),
        ([GREY[0, :, :, 0]], r"items\[0\]: got shape \[8, 8\], expected one row: \[height, width, channels\] or"),
        ([GREY[0], 7], r"items\[1\]: got int, expected a file \(path or bytes\), a PIL image, or an array"),
        ([GREY[0], [1, 2]], r"items\[1\]: got list, expected"),
        ([GREY[0], None], r"items\[1\]: got NoneType, expected"),
        (["/nowhere/a.jpg"], r"items\[0\]: got '/nowhere/a.jpg', expected a file that can be read \(No such file"),
        ([GREY[0], Path("/")], r"items\[1\]: got '/', expected a file that can be read \(Is a directory"),
        (["a\0b"], r"items\[0\]: got 'a\\x00b', expected a file that can be read"),
        ([Image.new("F", (8, 8))], r"items\[0\]: got an image of mode F, expected one of"),
        (iter([]), "items: got no rows"),
        (Path("a.jpg"), "items: got one PosixPath, expected a list"),
        (Image.new("L", (8, 8)), "items: got one Image, expected a list"),
        ({"a": 1}, "items: got one dict, expected a list"),
        ({b"a"}, "items: got one set, expected a list"),
        (7, "items: got one int, expected a list"),
        (None, "items: got one NoneType, expected a list"),
        (GREY[:0], "items: got no rows"),
    ],
)
def test_what_is_not_taken_is_refused_in_a_sentence_that_names_it(items: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as refused:
        list(cut(items).parts)
    assert "\n" not in str(refused.value)


def test_files_come_as_paths_bytes_and_images(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    given = [tmp_path / "a", str(tmp_path / "a"), b"d", bytearray(b"e"), memoryview(b"f"), Image.new("RGB", (9, 7))]
    (part,) = cut(given).parts
    assert list(part.message.encoded.items)[:5] == [b"abc", b"abc", b"d", b"e", b"f"]
    assert Image.open(io.BytesIO(part.message.encoded.items[5])).size == (9, 7)
    strings = np.array([str(tmp_path / "a")] * 2)
    assert list(next(cut(strings).parts).message.encoded.items) == [b"abc", b"abc"]


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "1", "CMYK", "YCbCr"])
def test_an_image_gives_what_its_file_gives(mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    image.getexif()[0x0112] = 6  # turned by a quarter
    (part,) = cut([image]).parts
    got = decode_image(part.message.encoded.items[0], ImageInput(8, 8, 3), 10**6)
    expected = np.asarray(image.convert("RGB").transpose(Image.Transpose.ROTATE_270))
    np.testing.assert_allclose(got.astype(int), expected.astype(int), atol=1)


def test_consecutive_items_of_one_kind_travel_together_and_know_their_places() -> None:
    mixed: list[Any] = [GREY[0], GREY[1], b"file", b"file", SOUND[0], GREY[2]]
    parts = list(cut(iter(mixed)).parts)
    assert [(part.first, part.num) for part in parts] == [(0, 2), (2, 2), (4, 1), (5, 1)]
    long = list(cut([GREY[0]] * 130).parts)
    assert [(part.first, part.num) for part in long] == [(0, 64), (64, 64), (128, 2)]


def test_a_generator_is_taken_no_further_than_it_must() -> None:
    taken = []

    def rows() -> Iterator[NDArray[Any]]:
        for number in range(1000):
            taken.append(number)
            yield GREY[0]

    given = cut(rows())
    assert (given.total, taken) == (None, [])
    next(given.parts)
    assert len(taken) == 65  # the one after tells that a request is full


def test_latents_are_rounded_to_float32() -> None:
    exact = np.random.default_rng(0).normal(size=(3, 2))
    for latents in (exact, torch.from_numpy(exact), exact.tolist(), list(exact)):
        (part,) = cut_latents(latents).parts
        np.testing.assert_array_equal(from_tensor(part.message, "x"), exact.astype(np.float32))
    for wrong, message in (
        (np.full((1, 2), 1e300), "float64 beyond"),
        ("abc", "str"),
        (np.array([["a"]]), "an array of"),
    ):
        with pytest.raises(InvalidInput, match=f"latents: got {message}"):
            cut_latents(wrong)


@pytest.mark.parametrize(
    ("part", "said", "told"),
    [
        (Part("items", 1472, 64), "input.encoded.items[28]: not a JPEG", "items[1500]: not a JPEG"),
        (Part("items", 64, 64, whole=(2000, 9, 8, 1)), "input.tensor[3]: got NaN", "items[67]: got NaN"),
        (
            Part("items", 64, 64, whole=(2000, 9, 8, 1)),
            "input.tensor: got uint8 [64, 9, 8, 1], expected uint8 [n, 8, 8, 1]",
            "items: got uint8 [2000, 9, 8, 1], expected uint8 [n, 8, 8, 1]",
        ),
        (
            Part("items", 7, 2),
            "input.tensor: got uint8 [2, 9, 8, 1], expected uint8 [n, 8, 8, 1]",
            "items[7]: got uint8 [9, 8, 1], expected uint8 [n, 8, 8, 1]",
        ),
        (Part("items", 64, 64), "input.encoded.items: got 64 items, expected 1 to 8", "items[64:128]: got 64 items,"),
        (Part("latents", 64, 9, whole=(73, 2)), "latents[2]: got NaN", "latents[66]: got NaN"),
        (Part("items[7]", 0, 1, alone=True), "input.encoded.items[0]: cut", "items[7]: cut"),
        (Part("items[7]", 64, 9, whole=(73, 2)), "input.tensor[1]: got NaN", "items[7][65]: got NaN"),
        (
            Part("items[7]", 0, 1, alone=True),
            "input.tensor: got uint8 [1, 9, 8, 1], expected uint8 [n, 8, 8, 1]",
            "items[7]: got uint8 [9, 8, 1], expected uint8 [n, 8, 8, 1]",
        ),
        (Part("items", 0, 1), "alpha: got 7, expected below 1", "alpha: got 7, expected below 1"),
    ],
)
def test_the_server_s_words_are_said_of_the_caller_s_items(part: Part, said: str, told: str) -> None:
    assert part.told(said).startswith(told)


def test_an_item_of_a_stream_is_one_row_or_several() -> None:
    assert [part.num for part in cut_one(GREY, "items[3]").parts] == [3]
    (one,) = cut_one(torch.from_numpy(GREY[0]), "items[3]").parts
    assert (one.place(0), one.num) == ("items[3]", 1)
    with pytest.raises(InvalidInput, match=r"items\[3\]: got dict, expected a file"):
        list(cut_one({}, "items[3]").parts)
