"""`--group-by`, as a user gives it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from PIL import Image

from export.calibration import Promise
from export.exporter import export_run
from tests.training.data.test_shards import write_shard
from training.__main__ import Options, main, run_training
from training.data import Data, DataError, load_data
from training.data.grouping import GroupBy, taken_at
from training.data.perceptual import NEAR_BITS, near_rows, perceptual_hashes
from training.data.shares import Calibration
from training.data.units import row_digests
from training.methods.vae import VaeConfig
from training.running.run import open_run

NUM_BURSTS, NUM_FRAMES = 24, 5


def mosaics(num: int, seed: int = 0) -> NDArray[np.uint8]:
    """Pictures of 8 x 8 coloured tiles, [num, 32, 32, 3]."""
    tiles = np.random.default_rng(seed).integers(0, 256, (num, 8, 8, 3), dtype=np.uint8)
    return tiles.repeat(4, axis=1).repeat(4, axis=2)


def frames_of(picture_HWC: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(0, 6, (NUM_FRAMES, *picture_HWC.shape))
    return np.rint(picture_HWC + noise).clip(0, 255).astype(np.uint8)


def jpeg(image_HWC: NDArray[np.uint8], taken: str = "", quality: int = 95) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    if taken:
        text, _, fraction = taken.partition(".")
        exif.get_ifd(0x8769)[0x9003] = text
        exif.get_ifd(0x8769)[0x9291] = fraction
    Image.fromarray(image_HWC).save(file, "JPEG", exif=exif, quality=quality)
    return file.getvalue()


@pytest.fixture
def bursts(tmp_path: Path) -> Path:
    """Bursts of five frames, 0.4 seconds apart, a minute from one to the next; one folder for each."""
    for burst, picture in enumerate(mosaics(NUM_BURSTS)):
        folder = tmp_path / "photos" / f"walk{burst:02}"
        folder.mkdir(parents=True)
        for frame, image in enumerate(frames_of(picture, burst)):
            taken = f"2024:05:01 10:{burst:02}:{frame * 4 // 10:02}.{frame * 4 % 10}"
            (folder / f"shot{burst:02}_{frame}.jpg").write_bytes(jpeg(image, taken))
    return tmp_path / "photos"


def bursts_of(data: Data, folder: Path) -> tuple[list[int], list[int], list[int]]:
    """The burst of each row of each split."""
    whole = load_data(f"folder:{folder}", image_size=32)
    known = {}
    for split in (whole.train, whole.calibration, whole.test):
        labels: Any = split.labels_N
        known |= dict(zip(row_digests(split.values), labels.tolist(), strict=True))
    train, calibration, test = (
        [known[digest] for digest in row_digests(split.values)] for split in (data.train, data.calibration, data.test)
    )
    return train, calibration, test


@pytest.mark.parametrize(
    "rule", ["folder", r"name:shot(\d+)_", r"name:^shot\d+", "exif:1", "exif:0.45", "near", "near:4"]
)
def test_a_burst_is_never_parted_and_calibrates_once(rule: str, bursts: Path) -> None:
    train, calibration, test = bursts_of(load_data(f"folder:{bursts}", 32, group_by=rule), bursts)
    assert not set(train) & set(calibration)
    assert not set(train) & set(test)
    assert not set(calibration) & set(test)
    assert [len(calibration), len(test), len(train)] == [6, 2, 16 * NUM_FRAMES]
    assert len(set(calibration + test)) == 8


def test_a_part_of_a_folder_is_grouped_as_the_whole_is(bursts: Path) -> None:
    labels = ",".join(str(label) for label in range(NUM_BURSTS))
    part = load_data(f"folder:{bursts}[label={labels}]", 32, group_by="folder")
    train, calibration, test = bursts_of(part, bursts)
    assert not set(train) & set(calibration + test)


def test_without_a_rule_they_are_parted(bursts: Path) -> None:
    train, calibration, test = bursts_of(load_data(f"folder:{bursts}", 32), bursts)
    assert set(train) & set(calibration + test)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            "name:cat(.*)",
            r"got 'name:cat\(\.\*\)', which matches none of 120 names, not 'shot00_0.jpg' for one; expected",
        ),
        ("name:(", r"got 'name:\(', expected name: and a regular expression \(missing \)"),
        ("name:", "got 'name:', expected of folder data one of folder, name:REGEX, exif:SECONDS, near or near:BITS"),
        ("name:shot", "makes 1 group of 120 rows, expected 3 or more"),
        ("name:_([01])", "120 names|makes 1"),
        ("exif:soon", "got 'exif:soon', expected seconds of 0 or more after the colon"),
        ("exif:-1", "expected seconds of 0 or more"),
        ("exif:nan", "expected seconds of 0 or more"),
        ("exif", "got 'exif', expected of folder data one of"),
        ("exif:3600", "makes 1 group of 120 rows"),
        ("near:x", "got 'near:x', expected 0 to 16 bits after the colon"),
        ("near:17", "expected 0 to 16 bits"),
        ("folder:x", "got 'folder:x', expected of folder data one of"),
        ("folders", "got 'folders', expected of folder data one of"),
        ("", "got '', expected of folder data one of"),
    ],
)
def test_a_rule_that_cannot_be_is_rejected_before_anything_is_decoded(
    rule: str, message: str, bursts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*args: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("training.data.folder.decode_all", decoded)
    if rule == "name:_([01])":  # matches some: the others are by themselves
        with pytest.raises(AssertionError, match="decoded"):
            load_data(f"folder:{bursts}", 32, group_by=rule)
        return
    with pytest.raises(DataError, match=f"^group_by: .*{message}"):
        load_data(f"folder:{bursts}", 32, group_by=rule)


@pytest.mark.parametrize(
    ("spec", "rule", "message"),
    [
        ("digits", "folder", "group_by: got 'folder', expected none: digits has no such option"),
        ("mnist", "near", "expected none: mnist has no such option"),
        ("fsdd", "name:x", "expected none: fsdd has no such option"),
        ("wds:x.tar", "folder", "expected of wds data one of name:REGEX, near or near:BITS"),
        ("audio:/nowhere", "near", "expected of audio data one of folder, name:REGEX"),
    ],
)
def test_data_without_such_groups_say_so(spec: str, rule: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(spec, group_by=rule)


def test_files_that_a_rule_says_nothing_about_are_by_themselves(
    bursts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, picture in enumerate(mosaics(7, seed=1)):
        (bursts / "walk00" / f"lonely{i}.jpg").write_bytes(jpeg(picture))
    for rule, said in (
        (r"name:shot(\d+)_", "7 of 127 names do not match"),
        ("exif:1", "7 of 127 files do not say when"),
    ):
        data = load_data(f"folder:{bursts}", 32, group_by=rule)
        assert said in capsys.readouterr().err
        units: Any = data.train.units_N
        assert len(np.unique(units)) == NUM_BURSTS + 7 - len(data.calibration) - len(data.test)


def test_when_a_photograph_was_taken_is_read_from_its_exif(tmp_path: Path) -> None:
    picture = mosaics(1)[0]
    times = []
    for name, taken in (("a", "2024:05:01 10:00:00.25"), ("b", "2024:05:02 10:00:01"), ("c", ""), ("d", "yesterday")):
        (tmp_path / name).write_bytes(jpeg(picture, taken))
        times.append(taken_at(tmp_path / name))
    first, second, *none = times
    assert first is not None
    assert second is not None
    assert second - first == 24 * 3600 + 0.75
    assert none == [None, None]
    (tmp_path / "e").write_bytes(b"no image")
    assert taken_at(tmp_path / "e") is None


def test_a_chain_of_photographs_is_one_burst_and_a_gap_ends_it() -> None:
    rule = GroupBy.parse("exif:2", "folder")
    units = rule._bursts([10.0, 0.0, 2.0, None, 4.0, 12.5, None, 6.1])
    assert units[1] == units[2] == units[4]
    assert len({units[i] for i in (0, 1, 3, 5, 6, 7)}) == 6


def changed(images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    again = [np.asarray(Image.open(io.BytesIO(jpeg(image, quality=75)))) for image in images]
    return {
        "noise": np.rint(images + rng.normal(0, 6, images.shape)).clip(0, 255).astype(np.uint8),
        "exposure": np.rint(images * 0.8 + 9).astype(np.uint8),
        "JPEG": np.stack(again),
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("repeats", [1, 3])
def test_a_hash_hardly_moves_with_what_frames_differ_in_and_tells_pictures_apart(repeats: int, channels: int) -> None:
    images = mosaics(200).repeat(repeats, axis=1).repeat(repeats, axis=2)
    if channels == 1:
        images = images[..., :1].repeat(3, axis=3)
    hashes = perceptual_hashes(images[..., :channels])
    for name, others in changed(images).items():
        distance = np.bitwise_count(hashes ^ perceptual_hashes(others[..., :channels]))
        assert (distance <= NEAR_BITS).mean() > 0.95, name
    apart = np.bitwise_count(hashes[:, None] ^ hashes)[np.triu_indices(200, 1)]
    assert apart.min() > NEAR_BITS
    assert np.bitwise_count(hashes).max() <= 63


def test_near_is_counted_in_bits_and_reaches_over_others(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = np.array([0b0, 0b11, 0b1111, 0b11111111, 2**62, 2**62], np.uint64)
    monkeypatch.setattr("training.data.perceptual.perceptual_hashes", lambda images: hashes)
    images = np.zeros((6, 8, 8, 1), np.uint8)

    def partition(bits: int) -> list[list[int]]:
        units = near_rows(images, bits)
        return sorted(np.flatnonzero(units == unit).tolist() for unit in np.unique(units))

    assert partition(0) == [[0], [1], [2], [3], [4, 5]]
    assert partition(2) == partition(3) == [[0, 1, 2, 4, 5], [3]]
    monkeypatch.setattr("training.data.perceptual.PAIRS_AT_ONCE", 1)
    assert partition(2) == [[0, 1, 2, 4, 5], [3]]


def test_constant_images_are_alike_whatever_their_colour() -> None:
    grey = np.broadcast_to(np.arange(0, 250, 10, dtype=np.uint8)[:, None, None, None], (25, 9, 9, 3)).copy()
    assert len(np.unique(near_rows(grey))) == 1


def test_keys_of_shards_and_names_of_clips_are_grouped(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    members = {
        f"day{i // 4}/take{i // 4:02}-{i}.png": encode(image) for i, image in enumerate(mosaics(48)[:, :16, :16])
    }
    shard = write_shard(tmp_path / "a.tar", members)
    grouped = load_data(f"wds:{shard}", 16, group_by=r"name:take(\d+)-")
    units: Any = grouped.train.units_N
    assert (np.unique(units, return_counts=True)[1] == 4).all()
    assert [len(grouped.train), len(grouped.calibration), len(grouped.test)] == [32, 3, 1]
    with pytest.raises(DataError, match="which matches none of 48 names, not 'day0/take00-0' for one"):
        load_data(f"wds:{shard}", 16, group_by="name:cats")
    for i in range(40):
        (tmp_path / f"speaker{i // 4}").mkdir(exist_ok=True)
        clip = np.random.default_rng(i).integers(-3000, 3000, 400).astype(np.int16)
        soundfile.write(tmp_path / f"speaker{i // 4}" / f"{i}.wav", clip, 8000)
    for rule in ("folder", r"name:(\d)\d*.wav"):
        sounds = load_data(f"audio:{tmp_path}", num_samples=400, group_by=rule)
        assert sounds.train.units_N is not None
        assert len(sounds.test) == 1


def test_a_run_keeps_its_rule_and_gives_the_same_rows_again(
    bursts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = VaeConfig(latent_dim=4, embedding_dim=16, width=4)
    options = Options(data=f"folder:{bursts}", image_size=16, group_by="exif:1", smoke=True, run=tmp_path / "run")
    run, _ = open_run(run_training("vae", config, options))
    assert run.group_by == "exif:1"
    again = run.load_data()
    expected = load_data(f"folder:{bursts}", 16, group_by="exif:1", calibration=Calibration())
    np.testing.assert_array_equal(again.calibration.values, expected.calibration.values)
    fitted_on: list[Any] = []

    def fit(model: Any, train: Any, units: Any, *others: Any, **named: Any) -> None:
        fitted_on.append(units)
        raise ValueError("enough")

    monkeypatch.setattr("export.exporter.Scorer.fit", fit)
    with pytest.raises(ValueError, match="enough"):
        export_run(tmp_path / "run", tmp_path / "models", promise=Promise(alpha=0.4))
    np.testing.assert_array_equal(fitted_on[0], expected.train.units_N)
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert written["group_by"] == "exif:1"
    written["group_by"] = None
    (tmp_path / "run" / "run.json").write_text(json.dumps(written))
    with pytest.raises(ValueError, match="not those of the run any more"):
        open_run(tmp_path / "run")[0].load_data()


def test_the_command_refuses_a_wrong_rule_and_leaves_no_folder(
    bursts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["vae", "--data", f"folder:{bursts}", "--group-by", "name:dog", "--run", str(run)]) == 1
    assert "error: group_by: got 'name:dog', which matches none of 120 names" in capsys.readouterr().err
    assert not run.exists()
    shutil.rmtree(bursts)
