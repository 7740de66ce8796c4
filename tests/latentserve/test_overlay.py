from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from latentserve.errors import InvalidInput
from latentserve.inputs import ImageInput, Resize
from latentserve.maps import AnomalyMaps, Region
from latentserve.overlay import INFERNO, LARGEST_SIDE, colours, heat, opacity, opened, opened_size
from latentserve.placing import Box


@pytest.fixture
def maps() -> AnomalyMaps:
    """Of two rows of 32 x 32 pixels: in the first one place of 4 x 4 is flagged, in the second none."""
    values = np.ones((2, 4, 4), np.float32)
    values[0, 1, 2] = 9
    region = Region(Box(8, 16, 8, 8), 1 / 16, 9.0, 0.01)
    return AnomalyMaps("d", values, np.ones_like(values), 0.05, 3.0, ((region,), ()), ImageInput(32, 32, 3))


def pixels(picture: Image.Image) -> NDArray[np.int64]:
    return np.asarray(picture).astype(np.int64)


def test_heat_and_box_lie_where_the_place_is_in_the_photograph(maps: AnomalyMaps) -> None:
    grey = np.full((64, 96, 3), 100, np.uint8)  # the model sees columns 16 to 80, doubled
    drawn = pixels(maps.overlay(grey))
    scale = drawn.shape[0] // 64
    coloured = np.ptp(drawn, axis=2) > 10
    assert coloured[24 * scale, 56 * scale]  # the place's centre: 1.5 x 16, 16 + 2.5 x 16
    rows, columns = np.nonzero(coloured)
    assert rows.min() >= 8 * scale
    assert rows.max() < 40 * scale
    assert columns.min() >= 40 * scale
    assert columns.max() < 72 * scale  # nothing beyond the centres of its neighbours
    assert (drawn[16 * scale, 48 * scale : 64 * scale] == 255).all()  # the box
    quiet = pixels(maps.overlay(grey, row=1))
    assert (quiet == 100).all()


@pytest.mark.parametrize("kind", ["path", "bytes", "picture", "array", "grey"])
def test_a_photograph_comes_in_any_form(maps: AnomalyMaps, kind: str, tmp_path: Path) -> None:
    array = np.full((32, 32, 3), 100, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    given: dict[str, Any] = {
        "path": tmp_path / "a.png",
        "bytes": buffer.getvalue(),
        "picture": Image.fromarray(array),
        "array": array,
        "grey": array[..., :1],
    }
    np.testing.assert_array_equal(pixels(maps.overlay(given[kind])), pixels(maps.overlay(array)))


def test_a_photo_that_was_held_sideways_is_upright(maps: AnomalyMaps, tmp_path: Path) -> None:
    image = Image.fromarray(np.full((40, 20, 3), 90, np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert opened(tmp_path / "a.jpg").size == (40, 20)
    assert opened_size(tmp_path / "a.jpg") == (20, 40)
    width, height = maps.overlay(tmp_path / "a.jpg").size
    assert width == 2 * height


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"hello", "image: got bytes, expected an image that Pillow reads"),
        ("nowhere.png", "image: got 'nowhere.png', expected an image that Pillow reads"),
        (np.zeros((4, 4), np.uint8), r"image: got uint8 \[4, 4\], expected a file or uint8"),
        (np.zeros((4, 4, 3), np.float32), r"image: got float32 \[4, 4, 3\], expected a file or uint8"),
        (7, "image: got int, expected a file"),
    ],
)
def test_what_is_no_image_is_told(maps: AnomalyMaps, image: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        maps.overlay(image)


def test_rows_that_are_not_there_and_maps_of_sounds_are_told(maps: AnomalyMaps) -> None:
    with pytest.raises(InvalidInput, match="row: got 2, expected 0 to 1"):
        maps.overlay(np.zeros((4, 4, 3), np.uint8), 2)
    with pytest.raises(InvalidInput, match="image: got a map of sounds, expected one of images"):
        replace(maps, image=None).overlay(np.zeros((4, 4, 3), np.uint8))


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3000, 2000)])
@pytest.mark.parametrize("how", ["crop", "fit", "stretch"])
def test_hostile_sizes_are_drawn(maps: AnomalyMaps, size: tuple[int, int], how: Any) -> None:
    drawn = replace(maps, image=ImageInput(32, 32, 3, resize=Resize(how))).overlay(np.zeros((*size, 3), np.uint8))
    assert max(drawn.size) <= LARGEST_SIDE


def test_heat_is_in_units_of_the_threshold() -> None:
    values = np.array([[0.0, 1.0, 2.0, 3.0, 5.0, np.nan, np.inf]], np.float32)
    np.testing.assert_allclose(heat(values, 3.0)[0], [-0.5, 0, 0.5, 1, 2, 3, 3])  # the median of 0, 1, 2 is 1
    assert np.isfinite(heat(np.full((2, 2), 7, np.float32), 7.0)).all()  # all of it is flagged
    assert (heat(np.full((2, 2), np.nan, np.float32), 7.0) == 3).all()


def test_what_is_flagged_stands_out_and_more_so_the_hotter_it_is() -> None:
    seen = opacity(np.array([-1, 0.5, 0.99, 1.01, 3], np.float32))
    assert seen[:2].tolist() == [0, 0]
    assert seen[3] - seen[2] > 0.1
    assert seen[4] > seen[3]
    lightness = colours(np.linspace(0.5, 3, 50, dtype=np.float32)[None])[0] @ [0.299, 0.587, 0.114]
    assert (np.diff(lightness) > 0).all()
    assert (np.diff(INFERNO[:, 0]) > 0).all()


def test_without_pillow_an_overlay_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "import numpy as np\n"
        "from latentserve.errors import Unsupported\n"
        "from latentserve.inputs import ImageInput\n"
        "from latentserve.maps import AnomalyMaps\n"
        "a = np.zeros((1, 2, 2), np.float32)\n"
        "try: AnomalyMaps('d', a, a, 0.05, 1.0, ((),), ImageInput(2, 2, 3)).overlay('x.png')\n"
        "except Unsupported as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "overlay: got no Pillow, expected it: pip install pillow"
