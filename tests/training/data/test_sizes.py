"""Height and width of rows, and what is said of images of another shape."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentserve.images import decode_image, fit_image, upright_size
from latentserve.inputs import HOWS, ImageInput, Resize
from training.data import DataError, ImageShape, load_data
from training.data.loading import every_row
from training.data.seen import Seen
from training.data.sizes import Size, parsed


def pictures(folder: Path, encode: Any, sizes: list[tuple[int, int]], num: int = 20) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(num):
        image = rng.integers(0, 256, (*sizes[i % len(sizes)], 3), dtype=np.uint8)
        (folder / f"{i:02}.png").write_bytes(encode(image))
    return folder


@pytest.mark.parametrize(("given", "size"), [(96, (96, 96)), ("96", (96, 96)), ("64x96", (64, 96)), ("8X9", (8, 9))])
def test_a_size_is_a_side_or_height_and_width(given: int | str, size: tuple[int, int]) -> None:
    assert parsed(given) == size


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0, "image_size: got 0, expected 8 or more"),
        ("0x64", "image_size: got 0x64, expected 8 or more"),
        (-64, "image_size: got '-64', expected pixels such as 96, or HEIGHTxWIDTH such as 64x96"),
        ("64x", "image_size: got '64x', expected pixels"),
        ("64x64x3", "image_size: got '64x64x3', expected pixels"),
        ("big", "image_size: got 'big', expected pixels"),
        ("1x100000", "image_size: got 1x100000, expected 8 or more"),
        ("9" * 5000, "image_size: got '9+', expected pixels"),
    ],
)
def test_what_is_no_size_is_refused(given: int | str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data("digits", image_size=given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": "squeeze"}, "resize: got 'squeeze', expected one of crop, fit, stretch"),
        ({"image_size": "8x10000000"}, "image_size: got 8 x 10000000, with which the set has"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data("digits", **options)


@pytest.mark.parametrize("size", ["8x10000000", 10**5])
def test_a_row_that_no_memory_holds_is_refused(tmp_path: Path, encode: Any, size: int | str) -> None:
    folder = pictures(tmp_path / "photos", encode, [(20, 50)])
    for load in (load_data, every_row):
        with pytest.raises(DataError, match=r"image_size: got \d+ x \d+ = \d+ pixels, expected at most 16777216"):
            load(f"folder:{folder}", image_size=size)


def test_a_strip_of_one_pixel_is_a_row(tmp_path: Path, encode: Any) -> None:
    folder = pictures(tmp_path / "photos", encode, [(1, 10_000), (10_000, 1)])
    for how in HOWS:
        assert load_data(f"folder:{folder}", image_size=8, resize=how).train.values.shape == (16, 8, 8, 3)


def test_every_format_and_depth_becomes_the_pixels_that_the_service_sees(tmp_path: Path, encode: Any) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(20):
        kind = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")[i % 5]
        deep = i >= 10 and kind in ("PNG", "TIFF")
        image = rng.integers(0, 2**16 if deep else 256, (20, 30 + i) + (() if i >= 10 else (3,)))
        data = encode(Image.fromarray(image.astype(np.uint16 if deep else np.uint8)), kind)
        (tmp_path / "photos" / f"{i}.{kind.lower()}").write_bytes(data)
    data = load_data(f"folder:{tmp_path}/photos", image_size="8x12")
    assert isinstance(data.shape, ImageShape)
    files = [path.read_bytes() for path in (tmp_path / "photos").iterdir()]
    served = {decode_image(file, data.shape.input, 10**6).tobytes() for file in files}
    assert len(served) == 20
    assert {row.tobytes() for split in (data.train, data.calibration, data.test) for row in split.values} == served


def test_sounds_have_no_rule(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="resize: got fit, expected none: audio:"):
        load_data(f"audio:{tmp_path}", resize="fit")


def test_rows_of_any_height_and_width_are_those_of_the_rule(tmp_path: Path, encode: Any) -> None:
    folder = pictures(tmp_path / "photos", encode, [(20, 50), (40, 30)])
    for how in HOWS:
        data = load_data(f"folder:{folder}", image_size="16x24", resize=how)
        given = ImageInput(16, 24, 3, resize=Resize(how, scaled=True))
        assert data.shape == ImageShape(16, 3, width=24, resize=Resize(how, scaled=True))
        assert isinstance(data.shape, ImageShape)
        assert data.shape.input == given
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 256, ((20, 50), (40, 30))[i % 2] + (3,), dtype=np.uint8) for i in range(20)]
        expected = {fit_image(image, given).tobytes() for image in images}
        assert {
            row.tobytes() for split in (data.train, data.calibration, data.test) for row in split.values
        } == expected
        rows = every_row(f"folder:{folder}", "16x24", resize=Resize(how))
        assert rows is not None
        assert {row.tobytes() for row in rows.values} == expected


def test_a_set_of_ours_keeps_its_rule_for_the_server() -> None:
    assert load_data("digits").shape == ImageShape(8, 1)
    assert load_data("digits", resize="fit").shape == ImageShape(8, 1, resize=Resize("fit"))
    wide = load_data("digits", image_size="8x12", resize="stretch")
    assert wide.shape == ImageShape(8, 1, width=12, resize=Resize("stretch"))
    assert wide.test.values.shape == (300, 8, 12, 1)
    with pytest.raises(DataError, match="image_size: got 16x24, expected a square such as 64 for shapes"):
        load_data("shapes", image_size="16x24")


def test_squares_are_the_same_by_every_rule(tmp_path: Path, encode: Any) -> None:
    """So that figures of sets whose images were square did not change with the default."""
    folder = pictures(tmp_path / "photos", encode, [(20, 20), (41, 41)])
    prints = {load_data(f"folder:{folder}", image_size=16, resize=how).fingerprint for how in HOWS}
    assert prints == {load_data(f"folder:{folder}", image_size=16).fingerprint}


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if "height x width" in line]


def test_what_becomes_of_other_shapes_is_said_in_one_line(
    tmp_path: Path, encode: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures(tmp_path / "photos", encode, [(20, 50), (40, 30)])
    load_data(f"folder:{folder}", image_size=16)
    begins = "folder: 20 images of 20 x 50 to 40 x 30 (height x width); "
    assert said(capsys) == [f"{begins}the whole of each is stretched to 16 x 16 (--resize crop|fit|stretch)"]
    load_data(f"folder:{folder}", image_size=16, resize="crop")
    end = "of each the centre is kept, 16 x 16: what lies at its border is never seen"
    assert said(capsys) == [begins + end]
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        shard.add(folder, "photos")
    load_data(f"wds:{tmp_path}/a.tar", image_size=16, resize="fit")
    assert said(capsys) == [f"wds{begins.removeprefix('folder')}the whole of each is fitted into 16 x 16 on black"]


@pytest.mark.parametrize(("size", "keeping"), [((20, 30), "16x24"), ((30, 20), "24x16")])
def test_one_shape_of_all_could_be_kept(
    tmp_path: Path, encode: Any, capsys: pytest.CaptureFixture[str], size: tuple[int, int], keeping: str
) -> None:
    folder = pictures(tmp_path / "photos", encode, [size, (2 * size[0], 2 * size[1])])
    load_data(f"folder:{folder}", image_size=16)
    (line,) = said(capsys)
    assert line.endswith(f"; all have one shape, which --image-size {keeping} would keep")
    load_data(f"folder:{folder}", image_size=keeping)
    assert said(capsys) == []


def test_of_squares_is_said_only_that_their_border_is_cut_off(
    tmp_path: Path, encode: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures(tmp_path / "photos", encode, [(20, 20), (64, 64)])
    load_data(f"folder:{folder}", image_size=16)
    load_data(f"folder:{folder}", image_size=16, resize=Resize("crop", 16))
    assert said(capsys) == []
    load_data(f"folder:{folder}", image_size=16, resize=Resize("crop", 20))
    begins = "folder: 20 images of 20 x 20 to 64 x 64 (height x width); of each the centre is kept, 16 x 16"
    assert said(capsys) == [f"{begins}: what lies at its border is never seen"]


def test_a_size_is_that_of_the_upright_image_and_little_of_a_file_is_read(tmp_path: Path, encode: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "WEBP", "PNG"):
        data = encode(np.zeros((20, 50, 3), np.uint8), kind, **({} if kind == "PNG" else {"exif": exif.tobytes()}))
        (tmp_path / "image").write_bytes(data)
        expected = (20, 50) if kind == "PNG" else (50, 20)
        assert upright_size(data) == upright_size(tmp_path / "image") == expected


def test_of_many_files_some_are_looked_at(tmp_path: Path, encode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures(tmp_path / "photos", encode, [(20, 50)])
    (folder / "00.png").write_bytes(b"no image")
    monkeypatch.setattr("training.data.seen.MOST", 5)
    seen = Seen("folder").every(sorted(folder.iterdir()))
    assert (seen.num_images, len(seen.sizes)) == (20, 4)
    seen.say(Size(16, 16))
