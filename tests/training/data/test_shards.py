from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentserve.images import decode_image
from latentserve.inputs import ImageInput, Resize
from training.data import DataError, cifar10, load_data
from training.evaluation.probes import knn_accuracy, linear_probe_accuracy

Write = Callable[..., Path]


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as shard:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def members(encode: Any) -> dict[str, bytes]:
    """Thirty images of mixed sizes, modes and formats, with their classes; class 7 has a single image."""
    return drawn_members(encode, 0)


def drawn_members(encode: Any, seed: int) -> dict[str, bytes]:
    rng = np.random.default_rng(seed)
    made = {}
    for i in range(30):
        channels, kind = (1 if i % 3 == 0 else 4 if i % 5 == 0 else 3), "PNG" if i % 2 or i % 5 == 0 else "JPEG"
        image = rng.integers(0, 256, (10 + i, 20, channels), dtype=np.uint8)
        made[f"train/{i:03d}.{'png' if kind == 'PNG' else 'jpg'}"] = encode(image, kind)
        made[f"train/{i:03d}.cls"] = b"7" if i == 11 else str(i % 3).encode()
    return made


@pytest.fixture
def pattern(members: dict[str, bytes], tmp_path: Path) -> str:
    """Two shards, one of them compressed."""
    items = list(members.items())
    write_shard(tmp_path / "train-0.tar", dict(items[:30]))
    write_shard(tmp_path / "train-1.tar", dict(items[30:]))
    return f"{tmp_path}/train-{{0..1}}.tar"


def rows_of(data: Any) -> dict[bytes, int | None]:
    found: dict[bytes, int | None] = {}
    for split in (data.train, data.calibration, data.test):
        labels = split.labels_N if split.labels_N is not None else [None] * len(split)
        found |= {image.tobytes(): label for image, label in zip(split.values, labels, strict=True)}
    return found


def test_shards_give_the_pixels_the_service_would_see_with_their_classes(
    pattern: str, members: dict[str, bytes]
) -> None:
    data = load_data(f"wds:{pattern}", image_size=16)
    assert [len(split) for split in (data.train, data.calibration, data.test)] == [24, 3, 3]
    images = {name[:-4]: data for name, data in members.items() if not name.endswith("cls")}
    stretched = ImageInput(16, 16, 3, resize=Resize("stretch", scaled=True))
    served = {
        decode_image(image, stretched, 10**6).tobytes(): int(members[f"{key}.cls"]) for key, image in images.items()
    }
    assert rows_of(data) == served


def test_the_seed_draws_the_splits(pattern: str) -> None:
    first, again, other = (load_data(f"wds:{pattern}", 16, seed) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert rows_of(first) == rows_of(other)


def test_a_class_with_one_image_is_probed_like_any(pattern: str) -> None:
    data = load_data(f"wds:{pattern}", image_size=16)
    train, test = (split.values.reshape(len(split), -1) for split in (data.train, data.test))
    labels, test_labels = data.train.labels_N, data.test.labels_N
    assert labels is not None
    assert test_labels is not None
    assert 7 in rows_of(data).values()
    for accuracy in (knn_accuracy, linear_probe_accuracy):
        assert 0 <= accuracy(train, labels, test, test_labels) <= 1


def test_members_that_cannot_be_read_are_skipped_counted_and_named(
    members: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {"cut.jpg": b"\xff\xd8\xff and no more", "cut.cls": b"0", "lonely.cls": b"1", "named.cls": b"cat"}
    bad["named.png"] = members["train/001.png"]
    shard = write_shard(tmp_path / "train.tar.gz", members | bad)
    data = load_data(f"wds:{shard}", image_size=16)
    assert sum(map(len, (data.train, data.calibration, data.test))) == 30
    assert set(rows_of(data).values()) == {0, 1, 2, 7}  # the classes of those that stayed
    said = capsys.readouterr().err
    for key in ("cut", "lonely", "named"):
        assert f"skipped {key} of {shard}: " in said
    assert "skipped 3 of 33 images" in said


def test_classes_count_only_if_every_image_has_one(members: dict[str, bytes], tmp_path: Path) -> None:
    del members["train/004.cls"]
    data = load_data(f"wds:{write_shard(tmp_path / 'train.tar', members)}", image_size=16)
    assert data.train.labels_N is None
    assert len(rows_of(data)) == 30


def shard_of(path: Path, encode: Any, name: str, classes: Sequence[bytes | None], apart: bool = False) -> str:
    """Images of levels 0, 1, 2, ..., called by their number in `name`, with classes beside or after all of them."""
    images, texts = {}, {}
    for i, text in enumerate(classes):
        key = name.format(i=i)
        image = encode(np.full((8, 8, 3), i, np.uint8), "WEBP" if key.endswith("webp") else "PNG", lossless=True)
        images[key] = image
        if text is not None:
            texts[f"{key.rpartition('.')[0]}.cls"] = text
    both = {name: data for pair in zip(images.items(), texts.items(), strict=False) for name, data in pair}
    return f"wds:{write_shard(path, images | texts if apart else both | images)}"


def labels_by_level(data: Any) -> list[int | None]:
    """Of images that are all of one level, by it."""
    return [label for _, label in sorted(rows_of(data).items())]


@pytest.mark.parametrize(
    "name", ["{i:04}.png", "IMG.{i:04}.png", "photo {i}.5.png", "a.b/{i}.c.PNG", "{i}.webp", "é{i}.png"]
)
@pytest.mark.parametrize("apart", [False, True])
def test_every_image_is_one_row_with_its_own_class(tmp_path: Path, encode: Any, name: str, apart: bool) -> None:
    classes = [str(i % 3).encode() for i in range(25)]
    data = load_data(shard_of(tmp_path / "x.tar", encode, name, classes, apart), image_size=8)
    assert labels_by_level(data) == [i % 3 for i in range(25)]


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        ([b"-1"] * 20, [None] * 20),
        ([b"-1"] + [b"1", b"2"] * 10, [None] * 21),
        ([b""] + [b"1", b"2"] * 10, [None] * 21),
        ([b"dog", b"cat\n"] * 10, [1, 0] * 10),
        ([b"dog"] * 20, [None] * 20),
        ([b"9" * 20, b"1" + b"0" * 19] * 10, [1, 0] * 10),  # hashes: too long for int64
        ([b"caf\xe9", b"\xc3\xa9t\xc3\xa9"] * 10, [0, 1] * 10),
        ([b"7", b"1000"] * 10, [7, 1000] * 10),
        (["\u00b2".encode(), b"1"] * 10, [1, 0] * 10),  # a digit to Python, and no number
    ],
)
def test_classes_are_numbers_or_names_or_none(
    tmp_path: Path, encode: Any, classes: list[bytes], labels: list[int | None]
) -> None:
    data = load_data(shard_of(tmp_path / "x.tar", encode, "{i}.png", classes), image_size=8)
    assert labels_by_level(data) == labels


def test_a_shard_without_some_classes_says_so(tmp_path: Path, encode: Any, capsys: pytest.CaptureFixture[str]) -> None:
    load_data(shard_of(tmp_path / "x.tar", encode, "{i}.png", [b"-1", b"0", b"1"] * 7), image_size=8)
    assert "classes are left out: 7 of 21 images have none" in capsys.readouterr().err


def test_a_picture_is_taken_and_its_mask_is_not(
    tmp_path: Path, encode: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {}
    for i in range(20):
        made[f"{i:02}.png"] = encode(np.full((8, 8, 3), 255, np.uint8))
        made[f"{i:02}.jpg"] = encode(np.full((8, 8, 3), 10 * i, np.uint8), "JPEG")
        made[f"{i:02}.json"] = b"{}"
        made[f"._{i:02}.jpg"] = b"of macOS"
    shard = write_shard(tmp_path / "x.tar", made)
    data = load_data(f"wds:{shard}", image_size=8)
    assert len(rows_of(data)) == 20
    assert all(np.frombuffer(row, np.uint8).max() < 255 for row in rows_of(data))
    said = capsys.readouterr().err
    assert f"skipped 03 of {shard}: got a .png beside a .jpg, expected one image" in said
    assert "skipped 20 of 40 images" in said
    assert "left out 40 members (20 of .json, 20 of hidden): not .bmp, .cls," in said


def test_two_pictures_of_one_class_are_two_rows(tmp_path: Path, encode: Any) -> None:
    made = {}
    for i in range(12):
        made |= {
            f"{i:02}.{side}.png": encode(np.full((8, 8, 3), 2 * i + (side == "right"), np.uint8))
            for side in ("left", "right")
        }
        made[f"{i:02}.cls"] = str(i % 2).encode()
    data = load_data(f"wds:{write_shard(tmp_path / 'x.tar', made)}", image_size=8)
    assert labels_by_level(data) == [i % 2 for i in range(12) for _ in range(2)]


def test_keys_are_those_of_their_shard(tmp_path: Path, encode: Any) -> None:
    for name, first in (("a", 0), ("b", 100)):
        write_shard(
            tmp_path / f"{name}.tar",
            {f"{i:02}.png": encode(np.full((8, 8, 3), first + i, np.uint8)) for i in range(15)}
            | {f"{i:02}.cls": str(first + i).encode() for i in range(15)},
        )
    data = load_data(f"wds:{tmp_path}/{{a,b}}.tar", image_size=8)
    assert labels_by_level(data) == [*range(15), *range(100, 115)]


def test_names_in_a_shard_that_are_no_utf8_are_said(
    tmp_path: Path, encode: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {os.fsdecode(b"caf\xe9%d.png" % i): encode(np.full((8, 8, 3), i, np.uint8)) for i in range(20)}
    made[os.fsdecode(b"kaputt\xff.png")] = b"no image"
    shard = write_shard(Path(os.fsdecode(bytes(tmp_path) + b"/\xfc.tar")), made)
    assert len(rows_of(load_data(f"wds:{shard}", image_size=8))) == 20
    assert f"skipped kaputt\\xff of {tmp_path}/\\xfc.tar: got 8 bytes" in capsys.readouterr().err


def test_a_shard_that_was_cut_is_an_error_that_names_it(pattern: str, tmp_path: Path) -> None:
    shard = tmp_path / "train-1.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: whole.index(b".cls", 1024) // 512 * 512])  # between two members
    with pytest.raises(DataError, match=rf"wds: {shard} cannot be read \(got no end-of-archive block"):
        load_data(f"wds:{pattern}", image_size=16)
    shard.write_bytes(whole[: 512 + 50])  # in the middle of the first member
    with pytest.raises(DataError, match=rf"wds: {shard} cannot be read .*repair it or leave it out"):
        load_data(f"wds:{pattern}", image_size=16)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", r"got ''.* there is no file ''; expected a file or http"),
        ("/nowhere/train-{0..3}.tar", "there is no file '/nowhere/train-0.tar'; expected"),
        ("/nowhere/*.tar", r"there is no file '/nowhere/\*.tar'; expected"),
        ("/nowhere/train-{0..3.tar", "got '/nowhere/train-{0..3.tar'"),
        ("pipe:touch /tmp/proof", "got 'pipe:touch /tmp/proof', expected a file or http, https"),
    ],
)
def test_a_pattern_that_fits_nothing_is_rejected(pattern: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(f"wds:{pattern}")


def test_an_empty_shard_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="wds: got 0 readable images of 0, expected at least 20 JPEG or PNG"):
        load_data(f"wds:{write_shard(tmp_path / 'empty.tar', {})}")


def test_remote_shards_are_read_by_url(url: str, pattern: str) -> None:
    remote = load_data(f"wds:{url}/train-{{0..1}}.tar", image_size=16)
    assert remote.fingerprint == load_data(f"wds:{pattern}", image_size=16).fingerprint


@pytest.mark.usefixtures("pattern")
def test_a_remote_shard_that_is_not_there_is_an_error_that_names_it(url: str) -> None:
    with pytest.raises(DataError, match=r"train-2.tar cannot be read"):
        load_data(f"wds:{url}/train-{{0..2}}.tar", image_size=16)


def test_cifar10_is_read_from_its_shards(
    members: dict[str, bytes], encode: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTSERVE_DATA", str(tmp_path))
    monkeypatch.setattr("training.data.cifar10.NUM_CALIBRATION", 5)
    others = drawn_members(encode, 1)
    in_both = {"train/in_both.png": others["train/001.png"], "train/in_both.cls": b"0"}
    write_shard(tmp_path / "cifar10-jpeg" / "train-0000.tar.gz", members | in_both)
    with pytest.raises(DataError, match=r"LATENTSERVE_DATA is .*expected WebDataset shards .*test-\*.tar.gz"):
        load_data("cifar10")
    write_shard(tmp_path / "cifar10-jpeg" / "test-0000.tar.gz", others)
    data = load_data("cifar10")
    assert data.train.values.shape == (25, 32, 32, 3)
    assert [len(data.calibration), len(data.test)] == [5, 30]  # and what is in both is not trained on
    assert load_data("cifar10", image_size=16).test.values.shape == (30, 16, 16, 3)


def test_a_download_that_fails_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LATENTSERVE_DATA", raising=False)
    monkeypatch.setattr("training.data.cifar10.CACHE", tmp_path)

    def fails(*args: Any, **options: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("training.data.cifar10.CIFAR10", fails)
    with pytest.raises(DataError, match=r"download to .*no route to host.*set LATENTSERVE_DATA"):
        load_data("cifar10")


def test_the_shards_at_hand_hold_cifar10() -> None:
    if not (Path(os.environ.get("LATENTSERVE_DATA", "")) / "cifar10-jpeg").is_dir():
        pytest.skip("LATENTSERVE_DATA names no folder with cifar10-jpeg")
    test = cifar10.read("test", None)
    assert test.values.shape == (10_000, 32, 32, 3)
    assert test.labels_N is not None
    assert np.bincount(test.labels_N).tolist() == [1000] * 10
