from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from latentserve.images import decode_image
from latentserve.inputs import ImageInput, Resize
from training.data import DataError, ImageShape, digits, load_data, shapes


def unique(images: Any) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_splits_share_no_row_and_depend_on_the_seed_alone() -> None:
    first, again, other = load_data("digits"), load_data("digits"), load_data("digits", seed=1)
    sizes = [len(split) for split in (first.train, first.calibration, first.test)]
    assert sizes == [1197, 300, 300]
    assert first.fingerprint == again.fingerprint != other.fingerprint
    train, calibration, test = (unique(s.values) for s in (first.train, first.calibration, first.test))
    assert len(train & calibration) + len(train & test) + len(calibration & test) < 5  # the set has a few doubles


def test_digits_use_the_whole_grey_scale() -> None:
    images = load_data("digits").train.values
    assert images.dtype == np.uint8
    assert images.max() == 255
    assert load_data("digits", image_size=16).train.values.shape == (1197, 16, 16, 1)


def test_digits_are_those_of_scikit_learn_which_is_not_loaded_for_them() -> None:
    grey_NHWC, labels_N = digits._grey_and_labels()
    expected = load_digits()
    np.testing.assert_array_equal(grey_NHWC[..., 0], expected.images)
    np.testing.assert_array_equal(labels_N, expected.target)
    loads = "import sys; from training.data import load_data; load_data('digits'); sys.exit('sklearn' in sys.modules)"
    subprocess.run([sys.executable, "-c", loads], check=True, cwd=Path(__file__).parents[3])


def test_digits_of_a_scikit_learn_that_keeps_them_elsewhere_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = digits._grey_and_labels()
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    np.testing.assert_array_equal(digits._grey_and_labels()[0], expected)


def test_a_shape_is_a_function_of_its_index() -> None:
    rng = np.random.default_rng(0)
    indices = rng.integers(0, shapes.NUM_SHAPES, 50)
    together = shapes.render(indices, 32)
    for index, image in zip(indices, together, strict=True):
        np.testing.assert_array_equal(shapes.render(np.array([index]), 32)[0], image)


def test_factors_are_what_is_drawn() -> None:
    count = list(shapes.FACTORS.values())

    def index(shape: int, scale: int, orientation: int, x: int, y: int) -> int:
        return int(np.ravel_multi_index((shape, scale, orientation, x, y), count))

    def centre(image: Any) -> Any:
        weight = image[..., 0].astype(float)
        grid = np.indices(weight.shape)
        return (grid * weight).sum(axis=(1, 2)) / weight.sum()

    small, large = shapes.render(np.array([index(1, 0, 0, 16, 16), index(1, 5, 0, 16, 16)]), 64)
    assert large.sum() > 3 * small.sum()  # twice the radius
    left, right = shapes.render(np.array([index(0, 3, 0, 0, 16), index(0, 3, 0, 31, 16)]), 64)
    assert centre(right)[1] > centre(left)[1] + 20
    upper, lower = shapes.render(np.array([index(0, 3, 0, 16, 0), index(0, 3, 0, 16, 31)]), 64)
    assert centre(lower)[0] > centre(upper)[0] + 20
    flat, upright = shapes.render(np.array([index(1, 5, 0, 16, 16), index(1, 5, 10, 16, 16)]), 64)
    np.testing.assert_allclose(flat[..., 0], upright[..., 0].T, atol=60)  # a quarter turn of the ellipse
    assert shapes.factors(np.array([index(2, 4, 7, 30, 1)])).tolist() == [[2, 4, 7, 30, 1]]


def test_factors_stay_with_their_rows() -> None:
    test = load_data("shapes", image_size=8).test
    assert test.factors_NF is not None
    assert test.labels_N is not None
    np.testing.assert_array_equal(test.factors_NF[:, 0], test.labels_N)
    rows = np.array([4000, 7, 4999])
    some = test.take(rows)
    assert some.factors_NF is not None
    indices = np.ravel_multi_index(tuple(some.factors_NF.T), tuple(shapes.FACTORS.values()))
    np.testing.assert_array_equal(shapes.render(indices, 8), some.values)
    assert load_data("digits").test.take(rows[:0]).factors_NF is None


def test_no_shape_is_cut_off_by_the_edge() -> None:
    count = list(shapes.FACTORS.values())
    kinds = [(shape, 5, orientation) for shape in range(3) for orientation in range(40)]

    def areas(x: int, y: int) -> Any:
        indices = np.array([np.ravel_multi_index((*kind, x, y), count) for kind in kinds])
        return shapes.render(indices, 64).sum(axis=(1, 2, 3), dtype=np.int64)

    middle = areas(16, 16)
    for x, y in ((0, 0), (0, 31), (31, 0), (31, 31)):
        np.testing.assert_allclose(areas(x, y), middle, rtol=0.05)  # a square on the grid samples to 3 %


def test_an_index_outside_is_rejected() -> None:
    with pytest.raises(IndexError, match="expected 0 to 737279"):
        shapes.render(np.array([shapes.NUM_SHAPES]))


@pytest.fixture
def photos(tmp_path: Path, encode: Any) -> Path:
    rng = np.random.default_rng(0)
    for i in range(30):
        folder = tmp_path / "photos" / ("cats" if i % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 256, (20 + i, 40, 3), dtype=np.uint8)
        (folder / f"{i}.{'jpg' if i % 3 else 'PNG'}").write_bytes(encode(image, "JPEG" if i % 3 else "PNG"))
    return tmp_path / "photos"


def test_a_folder_gives_the_pixels_the_service_would_see(photos: Path) -> None:
    data = load_data(f"folder:{photos}", image_size=16)
    assert [len(split) for split in (data.train, data.calibration, data.test)] == [24, 3, 3]
    assert set(np.unique(data.train.labels_N)) == {0, 1}
    assert isinstance(data.shape, ImageShape)
    given = data.shape.input
    assert given == ImageInput(16, 16, 3, resize=Resize("stretch", scaled=True))
    served = {decode_image(path.read_bytes(), given, 10**6).tobytes() for path in photos.rglob("*.*")}
    assert unique(data.train.values) <= served


def test_a_file_that_cannot_be_read_is_skipped_counted_and_named(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "cats" / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    (photos / "notes.txt").write_text("not an image")
    (photos / "dogs" / "rex.gif").write_bytes(b"of another kind")
    (photos / ".DS_Store").write_bytes(b"nobody's")
    data = load_data(f"folder:{photos}", image_size=16)
    assert sum(map(len, (data.train, data.calibration, data.test))) == 30
    said = capsys.readouterr().err
    assert "broken.jpg" in said
    assert "skipped 1 of 31 images" in said
    assert (
        "left out 2 files (1 of .txt, 1 of .gif): not .bmp, .dib, .jfif, .jpe, .jpeg, .jpg, .png, .tif, .tiff" in said
    )


@pytest.mark.parametrize(("kind", "suffix"), [("WEBP", "webp"), ("BMP", "BMP"), ("TIFF", "tif"), ("TIFF", "tiff")])
def test_other_formats_are_trained_on(tmp_path: Path, encode: Any, kind: str, suffix: str) -> None:
    for i in range(20):
        (tmp_path / f"{i}.{suffix}").write_bytes(encode(np.full((9, 9, 3), i, np.uint8), kind))
    data = load_data(f"folder:{tmp_path}", image_size=8)
    assert sum(map(len, (data.train, data.calibration, data.test))) == 20


def test_names_that_are_no_utf8_are_read_and_said(
    photos: Path, capsys: pytest.CaptureFixture[str], encode: Any
) -> None:
    odd = Path(os.fsdecode(bytes(photos) + b"/caf\xe9"))  # latin-1, as old archives hold it
    odd.mkdir()
    (odd / os.fsdecode(b"gr\xfcn.png")).write_bytes(encode(np.zeros((9, 9, 3), np.uint8)))
    (odd / os.fsdecode(b"kaputt\xff.jpg")).write_bytes(b"\xff\xd8\xff and no more")
    (odd / os.fsdecode(b"notes.t\xfft")).write_text("not an image")
    data = load_data(f"folder:{photos}", image_size=16)
    assert sum(map(len, (data.train, data.calibration, data.test))) == 31
    said = capsys.readouterr().err
    assert f"skipped {photos}/caf\\xe9/kaputt\\xff.jpg: got" in said
    assert "1 of .t\\xfft" in said
    with pytest.raises(DataError, match=r"got 2 images under .*caf\\xe9, expected"):
        load_data(f"folder:{odd}")


def test_links_are_followed_and_lead_in_no_circles(photos: Path, tmp_path: Path) -> None:
    whole = load_data(f"folder:{photos}", image_size=16)
    (photos / "cats" / "up").symlink_to(photos)
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("dogs", "cats", "zoo"):
        (linked / name).symlink_to(photos / name.replace("zoo", "cats"))
    again = load_data(f"folder:{linked}", image_size=16)
    assert again.fingerprint == whole.fingerprint
    np.testing.assert_array_equal(again.train.labels_N, whole.train.labels_N)  # though cats/up leads to dogs, too


def test_a_folder_that_cannot_be_read_is_an_error(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.iterdir

    def closed(self: Path) -> Any:
        if self.name == "dogs":
            raise PermissionError("Permission denied")
        return original(self)

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(DataError, match="dogs: cannot be read: Permission denied"):
        load_data(f"folder:{photos}", image_size=16)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "cifar11",
            "got 'cifar11', expected one of digits, mnist, cifar10, shapes, fsdd, folder:PATH, wds:PATTERN,",
        ),
        ("digits:8", "got 'digits:8'"),
        ("folder:", "got '', expected a folder"),
        ("folder:/nowhere", "got '/nowhere', expected a folder"),
    ],
)
def test_data_that_is_not_there_is_said_to_be_missing(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(spec)


def test_an_image_that_no_method_takes_is_rejected(photos: Path) -> None:
    with pytest.raises(DataError, match="image_size: got 4, expected 8 or more"):
        load_data(f"folder:{photos}", image_size=4)


def test_an_empty_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got 0 images under .*expected at least 20"):
        load_data(f"folder:{tmp_path}")


def test_mnist_in_the_wrong_place_is_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTSERVE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"LATENTSERVE_DATA is .*expected the IDX files under .*MNIST/raw"):
        load_data("mnist")


def test_mnist_is_read_whole() -> None:
    if not (Path(os.environ.get("LATENTSERVE_DATA", "")) / "MNIST" / "raw").is_dir():
        pytest.skip("LATENTSERVE_DATA names no folder with MNIST/raw")
    data = load_data("mnist")
    assert [len(split) for split in (data.train, data.calibration, data.test)] == [55_000, 5_000, 10_000]
    assert data.test.labels_N is not None
    assert np.bincount(data.test.labels_N).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
