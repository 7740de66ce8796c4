"""Folders of sound, the spoken digits, and the long rows that audio is trained on."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from latentserve.audio import decode_audio
from training.data import AudioShape, DataError, Rows, fsdd, load_data
from training.data.long_rows import long_rows

RATE = 800


def write(path: Path, samples: NDArray[np.int16], rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(30):
        samples = rng.integers(-3000, 3000, (500 + 20 * i, 1 + i % 2), dtype=np.int16)
        write(tmp_path / "sounds" / ("dogs" if i % 2 else "cats") / f"{i}.{'wav' if i % 3 else 'FLAC'}", samples)
    return tmp_path / "sounds"


def test_a_folder_gives_the_samples_the_service_would_see(sounds: Path) -> None:
    data = load_data(f"audio:{sounds}")
    splits = (data.train, data.calibration, data.test)
    assert [len(split) for split in splits] == [24, 3, 3]
    assert data.shape == AudioShape(RATE, RATE)  # a second
    rows = {row.tobytes() for split in splits for row in split.values}
    assert len(rows) == 30
    assert {decode_audio(path.read_bytes(), RATE, RATE).tobytes() for path in sounds.rglob("*.*")} == rows
    assert data.train.labels_N is not None
    assert set(data.train.labels_N) == {0, 1}


def test_labels_stay_with_their_rows_and_classes_are_mixed(sounds: Path) -> None:
    for path in sounds.rglob("*.*"):
        write(path, np.full(600, 7 if path.parent.name == "dogs" else 3, np.int16))
    train = load_data(f"audio:{sounds}").train
    assert train.labels_N is not None
    np.testing.assert_array_equal(train.values[:, 0], np.where(train.labels_N == 1, 7, 3))
    assert (np.diff(train.labels_N) != 0).sum() > 5  # neighbours in a long row tell no label


def test_what_cannot_be_read_or_is_empty_is_skipped_counted_and_named(
    sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sounds / "cats" / "broken.wav").write_bytes(b"RIFF and no more")
    (sounds / "cats" / "broken.flac").write_bytes(b"fLaC and no more")
    write(sounds / "dogs" / "empty.wav", np.zeros(0, np.int16))
    (sounds / "notes.txt").write_text("no sound")
    data = load_data(f"audio:{sounds}")
    assert sum(map(len, (data.train, data.calibration, data.test))) == 30
    said = capsys.readouterr().err
    for name in ("broken.wav", "broken.flac", "empty.wav: got no samples", "skipped 3 of 33 clips"):
        assert name in said


def test_names_of_clips_that_are_no_utf8_are_read_and_said(sounds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = Path(os.fsdecode(bytes(sounds) + b"/caf\xe9"))
    odd.mkdir()
    shutil.copy(next(sounds.rglob("*.wav")), odd / os.fsdecode(b"\xff.wav"))
    (odd / os.fsdecode(b"kaputt\xff.wav")).write_bytes(b"RIFF and no more")
    data = load_data(f"audio:{sounds}")
    assert sum(map(len, (data.train, data.calibration, data.test))) == 31
    assert f"skipped {sounds}/caf\\xe9/kaputt\\xff.wav: got 16 bytes" in capsys.readouterr().err


def test_another_rate_is_an_error_that_names_the_file_unless_a_rate_was_chosen(
    sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(sounds / "dogs" / "zz.wav", np.ones(900, np.int16), 1600)
    with pytest.raises(DataError, match=r"zz.wav: sample rate: got 1600 Hz, expected 800 Hz .*--sample-rate-hz"):
        load_data(f"audio:{sounds}")
    data = load_data(f"audio:{sounds}", sample_rate_hz=RATE, num_samples=300)
    assert sum(map(len, (data.train, data.calibration, data.test))) == 30
    assert data.shape == AudioShape(RATE, 300)
    assert "zz.wav: sample rate: got 1600 Hz" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_rows(sounds: Path) -> None:
    first, again, other = (load_data(f"audio:{sounds}", seed=seed).fingerprint for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("audio:/nowhere", {}, "got '/nowhere', expected a folder of WAV or FLAC"),
        ("audio:{empty}", {}, "got 0 readable clips under .*expected at least 20"),
        ("audio:{empty}", {"image_size": 32}, "image_size: got 32, expected none: audio:"),
        ("digits", {"num_samples": 8000}, "num_samples: got 8000, expected none: digits has no such option"),
        ("fsdd", {"sample_rate_hz": 16000}, "sample_rate_hz: got 16000, expected 8000"),
    ],
)
def test_data_that_is_not_there_is_said_to_be_missing(
    spec: str, options: dict[str, int], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        load_data(spec.format(empty=tmp_path), **options)


def test_long_rows_hold_one_group_each_and_every_sample_once() -> None:
    values = np.zeros((6, 5), np.int16)
    for row, length in enumerate((3, 5, 2, 4, 5, 5)):
        values[row, :length] = 10 * row + np.arange(1, length + 1)
    rows = Rows(values, None, np.array([0, 1, 0, 1, 0, 1]))
    got = long_rows(rows.values, rows.groups_N, 4)
    assert got.tolist() == [[1, 2, 3, 21], [22, 41, 42, 43], [11, 12, 13, 14], [15, 31, 32, 33], [34, 51, 52, 53]]
    assert long_rows(rows.values, rows.groups_N, 100).shape == (0, 100)
    assert long_rows(values, None, 24).tolist() == [[value for clip in values for value in clip if value]]
    assert long_rows(np.zeros((3, 8), np.int16), None, 10).shape == (2, 10)  # a microphone that was switched off


def test_images_are_trained_on_as_they_are(sounds: Path) -> None:
    data = load_data("digits")
    assert data.training_rows is data.train.values
    audio = load_data(f"audio:{sounds}", num_samples=500)
    assert audio.training_rows.shape == (24 * 500 // 2048, 2048)  # 2.56 s
    assert audio.test_rows.shape == (0, 2048)


def digit_clips(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for speaker in ("ann", "bob"):
        for index in range(8):
            for digit in range(3):
                clip = rng.integers(-99, 99, 900, dtype=np.int16)
                write(folder / "fsdd" / "recordings" / f"{digit}_{speaker}_{index}.wav", clip, 8000)


def test_spoken_digits_are_split_as_their_source_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digit_clips(tmp_path)
    monkeypatch.setenv("LATENTSERVE_DATA", str(tmp_path))
    data = load_data("fsdd", num_samples=1000)
    assert [len(split) for split in (data.train, data.calibration, data.test)] == [9, 9, 30]
    official = {
        decode_audio(path.read_bytes(), 8000, 1000).tobytes(): path.stem.split("_")[:2]
        for path in tmp_path.rglob("*_[0-4].wav")
    }
    assert data.test.labels_N is not None
    assert data.test.groups_N is not None
    for row, digit, speaker in zip(data.test.values, data.test.labels_N, data.test.groups_N, strict=True):
        assert official[row.tobytes()] == [str(digit), ("ann", "bob")[speaker]]


def test_spoken_digits_that_are_not_there_or_broken_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTSERVE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"got no folder .*recordings.*clone https://github.com/Jakobovski"):
        load_data("fsdd")
    digit_clips(tmp_path)
    write(tmp_path / "fsdd" / "recordings" / "0_ann_0.wav", np.ones(99, np.int16), 16000)
    with pytest.raises(DataError, match=r"0_ann_0.wav: sample rate: got 16000 Hz, expected 8000 Hz"):
        load_data("fsdd")


def test_spoken_digits_are_downloaded_once_and_whole_or_not_at_all(tmp_path: Path, url: str) -> None:
    digit_clips(tmp_path / "made")
    archive, cache = tmp_path / "v1.tar.gz", tmp_path / "cache"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / "fsdd", "free-spoken-digit-dataset-1")
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(archive.read_bytes()[:20_000])
    with pytest.raises(DataError, match=r"the download of http:.*cut.tar.gz to .* failed .*set LATENTSERVE_DATA to"):
        fsdd.downloaded(f"{url}/cut.tar.gz", cache)
    assert not list(cache.glob("*/recordings"))
    folder = fsdd.downloaded(f"{url}/v1.tar.gz", cache)
    assert len(list(folder.glob("*.wav"))) == 48
    assert list(cache.iterdir()) == [cache / "fsdd"]  # nothing is left beside it
    assert fsdd.downloaded(f"{url}/nowhere", cache) == folder


def test_the_spoken_digits_are_read_whole() -> None:
    if not (Path(os.environ.get("LATENTSERVE_DATA", "")) / "fsdd" / "recordings").is_dir():
        pytest.skip("LATENTSERVE_DATA names no folder with fsdd/recordings")
    data = load_data("fsdd")
    assert [len(split) for split in (data.train, data.calibration, data.test)] == [2400, 300, 300]
    assert data.test.groups_N is not None
    assert np.bincount(data.test.groups_N).tolist() == [50] * 6
    assert data.training_rows.shape[1] == 20480
    assert len(data.training_rows) > 390
