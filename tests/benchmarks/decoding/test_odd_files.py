"""The table of odd files: a taken file is compared, a rejected one has its reason, damage is counted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from benchmarks.decoding import odd_files
from benchmarks.decoding.damage import DAMAGES, heard
from benchmarks.decoding.odd_files import Options, main
from latentserve import records


@pytest.fixture
def folder(tmp_path: Path, encode: Any) -> Path:
    """Five images and three sounds, two of each good, one picture that decoders see differently."""
    made = tmp_path / "package"
    made.mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    (made / os.fsdecode(b"gr\xfcn.png")).write_bytes(encode(picture))
    (made / "photo.jpg").write_bytes(encode(picture, "JPEG"))
    (made / "dark.png").write_bytes(encode(np.full((2, 2, 1), 99, np.uint16)))
    (made / "darker.png").write_bytes(encode(np.full((2, 2, 1), 9, np.uint16)))
    (made / "notes.txt").write_text("of no kind")
    soundfile.write(made / "clip.wav", np.sin(np.arange(900) / 9) / 2, 8000, "FLOAT")
    soundfile.write(made / "clip.flac", np.sin(np.arange(900) / 9) / 2, 8000)
    soundfile.write(made / "many.wav", np.zeros((9, 3)), 8000)
    return made


def test_every_file_has_a_line_and_every_rejection_a_reason(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(odd_files, "RESULTS", tmp_path / "odd_files.json")
    assert main(Options((f"mine={folder}",), record=True)) == 0
    (package,) = records.read(odd_files.Figures, tmp_path / "odd_files.json").packages
    assert (package.name, package.files, package.taken, package.agreed) == ("mine", 7, 4, 4)
    reasons = list(package.rejected.items())
    assert reasons[0][0].startswith("got N-bit samples of at most N, which may be dark or of fewer bits")
    assert [count for _, count in reasons] == [2, 1]
    assert package.decoders["torchvision"].equal == 2
    assert (package.decoders["scipy"].equal, package.decoders["scipy"].unread) == (1, 1)  # no FLAC
    said = capsys.readouterr().out
    assert r"mine/gr\xfcn.png: taken: " in said
    assert "mine/many.wav: rejected: got 3 channels, expected 1 or 2" in said


def test_a_decoder_that_sees_something_else_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def off(data: bytes) -> Any:
        return np.full((20, 30, 3), 128.0)

    monkeypatch.setattr(odd_files, "IMAGE_ORACLES", {"other": ("numpy", off), "absent": ("no_such_module", off)})
    package = odd_files.examined("mine", folder)
    assert set(package.decoders) == {"other", "libsndfile, whole", "scipy"}
    assert package.decoders["other"].equal == 0
    assert set(package.decoders["other"].differ) == {"photo.jpg", r"gr\xfcn.png"}
    assert package.agreed == 2  # the sounds


def test_damage_is_counted_where_it_spoils(encode: Any) -> None:
    y, x = np.mgrid[:200, :200]
    photo = np.stack([np.sin(x / 9) + np.cos(y / 23), np.sin(x / 5 + y / 7), np.cos(y / 3)], axis=-1) * 60 + 128
    found = heard([encode(np.clip(photo, 0, 255).astype(np.uint8), "JPEG")] * 5)
    assert set(found) == set(DAMAGES)
    assert found["a tenth cut out"].spoilt == 5
    assert all(0 <= kind.rejected <= kind.spoilt <= 5 for kind in found.values())
    assert found["a tenth of noise"].rejected >= 4


def test_no_file_of_the_data_sets_that_were_recorded_is_rejected_and_every_other_rejection_has_a_reason() -> None:
    packages = {package.name: package for package in records.read(odd_files.Figures, odd_files.RESULTS).packages}
    assert {"pillow", "libpng", "soundfile", "magnetic-tiles", "cifar10-jpeg"} <= set(packages)
    for name, package in packages.items():
        assert package.taken + sum(package.rejected.values()) == package.files, name
        assert package.agreed <= package.taken, name
    for name in ("magnetic-tiles", "cifar10-jpeg"):
        assert packages[name].agreed == packages[name].files, name
