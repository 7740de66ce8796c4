"""Masks beside images, and maps held against them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from export.masks import has_masks, masks_of, read_mask
from export.ood_places import Maps, check_masks, kinds_of, places_of
from latentserve.bundle import Manifest
from latentserve.errors import BundleError
from latentserve.inputs import ImageInput, Resize
from training.data import DataError
from training.data.loading import every_row
from training.data.rows import Rows

GIVEN = ImageInput(8, 8, 3, resize=Resize("stretch"))
HOLE = (slice(4, 8), slice(10, 20))
"""Of an image of 16 x 40: rows 2 and 3, columns 2 and 3 of eight by eight."""


def picture(file: Path, mask: bool = False, size: tuple[int, int] = (16, 40)) -> None:
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[HOLE] = 255 if mask else 90
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert("L" if mask else "RGB").save(file)


@pytest.fixture
def faults(tmp_path: Path) -> Path:
    for kind, num in (("cut", 2), ("hole", 3)):
        for i in range(num):
            picture(tmp_path / "images" / kind / f"{kind}{i}.png")
    return tmp_path


def rows_of(spec: str) -> Rows:
    rows = every_row(spec, "8x8", resize=GIVEN.resize)
    assert rows is not None
    return rows


@pytest.mark.parametrize(
    ("images", "masks", "place"),
    [
        ("images", "masks", "masks/{kind}/{name}.png"),  # the same subfolders
        ("images", "masks", "masks/{kind}/{name}_mask.bmp"),  # as MVTec calls them
        ("images/cut", "masks", "masks/cut/{name}.png"),  # a subfolder that is called as the images' folder
        ("images/cut", "masks/cut", "masks/cut/{name}.png"),
        ("images", "masks", "masks/{name}.png"),  # anywhere, as no other is called so
    ],
)
def test_a_mask_is_found_by_the_stem_of_its_image(faults: Path, images: str, masks: str, place: str) -> None:
    for file in (faults / "images").rglob("*.png"):
        picture(faults / place.format(kind=file.parent.name, name=file.stem), mask=True)
    spec = f"folder:{faults / images}"
    assert has_masks(spec, faults / masks)
    rows = rows_of(spec)
    found, known = masks_of(spec, rows, faults / masks, GIVEN)
    assert known == list(range(len(rows)))
    assert (found == (np.asarray(rows.values)[..., 0] > 45)).all()  # they meet what the model sees
    assert found[0].sum() == 4


def test_two_masks_of_one_stem_elsewhere_are_no_masks_of_an_image(faults: Path) -> None:
    for kind in ("a", "b"):
        picture(faults / "masks" / kind / "hole0.png", mask=True)
    picture(faults / "masks" / "hole1.png", mask=True)
    _, known = masks_of(f"folder:{faults / 'images'}", rows_of(f"folder:{faults / 'images'}"), faults / "masks", GIVEN)
    assert known == [3]


@pytest.mark.parametrize("how", ["crop", "fit", "stretch"])
def test_a_mask_goes_through_the_rule_of_its_image(faults: Path, how: Any) -> None:
    picture(faults / "mask.png", mask=True)
    given = ImageInput(16, 16, 3, resize=Resize(how))
    rows = every_row(f"folder:{faults / 'images' / 'cut'}", "16x16", resize=given.resize)
    assert rows is not None
    mask = read_mask(faults / "mask.png", faults / "images/cut/cut0.png", given)
    sharp = np.abs(rows.values[0, ..., 0] / 90 - mask) < 0.75
    assert sharp.all()
    assert mask.sum() == {"crop": 32, "fit": 8, "stretch": 16}[how]  # of the hole four fifths are within the centre


def test_what_is_wrong_with_masks_is_said(faults: Path) -> None:
    spec = f"folder:{faults / 'images'}"
    picture(faults / "masks/hole/hole0.png", mask=True, size=(16, 41))
    with pytest.raises(DataError, match=r"hole0.png is 16 x 41 \(height x width\), expected 16 x 40 as its image"):
        masks_of(spec, rows_of(spec), faults / "masks", GIVEN)
    (faults / "masks/hole/hole0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"hole0.png cannot be read"):
        masks_of(spec, rows_of(spec), faults / "masks", GIVEN)
    (faults / "masks/hole/hole0.png").unlink()
    with pytest.raises(DataError, match=r"masks: got none in .* for 5 images, as cut/cut0.png, expected files of the"):
        masks_of(spec, rows_of(spec), faults / "masks", GIVEN)
    with pytest.raises(DataError, match=r"masks: got .*nowhere, expected a folder of masks"):
        has_masks(spec, faults / "nowhere")
    mapless = cast(Manifest, SimpleNamespace(map_detector="", name="tiles", version=1))
    with pytest.raises(BundleError, match="tiles/1 has no anomaly map"):
        check_masks(mapless, (spec,), faults / "masks")
    for against in ((), ("noise",)):
        with pytest.raises(DataError, match="expected --against folder:PATH or mvtec:PATH beside it"):
            check_masks(mapless, against, faults / "masks")


def test_layouts_bring_their_masks(faults: Path) -> None:
    (faults / "train/good").mkdir(parents=True)
    (faults / "images").rename(faults / "test")
    picture(faults / "test/good/cut0.png")
    assert not has_masks(f"mvtec:{faults}", None)
    picture(faults / "ground_truth/cut/cut1_mask.png", mask=True)
    spec = f"mvtec:{faults}"
    assert has_masks(spec, None)
    rows = rows_of(spec)
    assert len(rows) == 5  # without the good one
    assert masks_of(spec, rows, None, GIVEN)[1] == [1]
    lines = ["path,label,mask", "test/cut/cut0.png,,", "test/hole/hole0.png,hole,ground_truth/cut/cut1_mask.png"]
    (faults / "list.csv").write_text("\n".join(lines))
    spec = f"csv:{faults / 'list.csv'}"
    assert has_masks(spec, None)
    rows = rows_of(spec)
    assert rows.names_N is not None
    assert rows.names_N.tolist() == ["test/hole/hole0.png"]
    assert masks_of(spec, rows, None, GIVEN)[0].sum() == 4


class Drawn(Maps):
    """Maps that see the faults of `cut` and nothing of `hole`."""

    def of(self, rows: Any) -> Any:
        usual_N = np.asarray(rows)[:, 0, 0, 0] > 0
        maps = np.random.default_rng(0).uniform(0, 1, np.asarray(rows).shape[:3]).astype(np.float32)
        sees_N = (np.arange(len(rows)) < 2) & ~usual_N
        return np.where(sees_N[:, None, None] & (np.asarray(rows)[..., 0] > 45), np.float32(2), maps)


def test_each_kind_has_a_row_of_its_own(faults: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = f"folder:{faults / 'images'}"
    for name in ("cut/cut0", "cut/cut1", "hole/hole0"):
        picture(faults / "masks" / f"{name}.png", mask=True)
    empty = Image.new("L", (40, 16))
    empty.save(faults / "masks/hole/hole1.png")
    rows = rows_of(spec)
    assert [kind for kind, _ in kinds_of(rows)] == ["", "cut", "hole"]
    manifest = cast(Manifest, SimpleNamespace(input=GIVEN))
    maps = Drawn(cast(Any, None), manifest, np.ones((4, 8, 8, 3), np.uint8))
    whole, cut, hole = places_of(spec, rows, faults / "masks", maps)
    assert (whole.num_rows, whole.num_left_out, whole.num_regions) == (3, 2, 3)
    assert (cut.kind, cut.pixel_auroc, cut.aupro, cut.num_left_out) == ("cut", 1.0, 1.0, 0)
    assert (hole.num_rows, hole.num_left_out) == (1, 2)
    assert hole.pixel_auroc < 0.9
    assert hole.pixel_auroc < whole.pixel_auroc < cut.pixel_auroc
    said = capsys.readouterr().err
    assert "1 of 4 masks have no pixel left at 8 x 8" in said
    assert "1 of 5 images have no mask" in said
