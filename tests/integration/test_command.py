"""The command `latentserve` as a user of a running server meets it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.processes.served import ServedProcess
from latentserve.cli.main import main
from latentserve.client import Client


@pytest.fixture
def files(tmp_path: Path, digits: NDArray[np.uint8], encode: Any) -> Path:
    """Three digits, noise, and a file that is none."""
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encode(digits[number]))
    (folder / "broken.jpg").write_bytes(b"hello")
    noise = np.random.default_rng(0).integers(0, 256, digits[0].shape, np.uint8)
    (folder / "noise.png").write_bytes(encode(noise))
    return folder


def test_score_tells_every_file_its_own_and_goes_on_after_a_bad_one(
    server: ServedProcess, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", str(files), "--target", server.target, "--format", "csv", "--alpha", "0.05"]) == 1
    out, err = capsys.readouterr()
    rows = {Path(row["item"]).name: row for row in csv.DictReader(io.StringIO(out))}
    good = sorted(path for path in files.iterdir() if path.suffix == ".png")
    with Client(server.target) as client:
        scores = client.score(good, alpha=0.05)
    for path, p_value, flagged in zip(good, scores.p_values, scores.flagged, strict=True):
        assert float(rows[path.name]["p_value"]) == p_value
        assert rows[path.name]["flagged"] == str(flagged).lower()
    assert rows["noise.png"]["flagged"] == "true"
    assert "got 5 bytes beginning b'hello'" in rows["broken.jpg"]["error"]
    assert not rows["broken.jpg"]["error"].startswith("items")
    assert "5 items" in err
    assert "1 failed" in err


def test_its_status_says_what_was_found(server: ServedProcess, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = ["--target", server.target]
    assert main(["score", str(files / "noise.png"), *target]) == 0
    assert main(["score", str(files / "noise.png"), *target, "--exit-code"]) == 3
    assert main(["score", str(files / "1.png"), *target, "--exit-code", "--alpha", "0.01"]) == 0
    assert "flagged" in capsys.readouterr().err


def test_embed_writes_the_rows_of_an_array_in_their_order(
    server: ServedProcess, tmp_path: Path, digits: NDArray[np.uint8]
) -> None:
    np.save(tmp_path / "rows.npy", digits[:300])
    given = [str(tmp_path / "rows.npy"), "--target", server.target]
    assert main(["embed", *given, "--out", str(tmp_path / "out.npy")]) == 0
    with Client(server.target) as client:
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), client.embed(digits[:300]))


def test_reconstruct_draws_pictures(server: ServedProcess, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    assert main(["reconstruct", f"{files}/?.png", "--target", server.target, "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["0.png", "1.png", "2.png"]


def test_models_and_health(server: ServedProcess, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--target", server.target]) == 0
    said = capsys.readouterr().out
    assert "flags at alpha" in said
    assert "of a file the largest centred box of this shape is cut out and resized to 8 x 8 pixels" in said
    assert main(["health", server.target]) == 0
    assert capsys.readouterr().out == "SERVING\n"


def test_what_is_wrong_with_all_is_said_once(
    server: ServedProcess, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["score", f"{files}/*.png", "--target", server.target]
    assert main([*given, "--alpha", "0.0000001"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: alpha: got 1e-07, expected ")
    assert main([*given, "--model", "nobody"]) == 1
    assert "error: model.name: got 'nobody'" in capsys.readouterr().err
    assert main(["score", str(files), "--target", server.target, "--decision", "false_discovery_rate"]) == 1
    assert f"error: {files}/broken.jpg: got 5 bytes" in capsys.readouterr().err


def test_nobody_there_is_said_in_a_sentence(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", str(files), "--target", "127.0.0.1:1", "--timeout", "2"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: no answer: ")
    assert "is `latentserve serve` running there?" in err


def test_json_lines_keep_what_was_done_when_the_rest_fails(
    server: ServedProcess, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    assert main(["embed", str(files), "--target", server.target, "--out", str(out)]) == 1
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [Path(row["item"]).name for row in rows] == sorted(path.name for path in files.iterdir())
    assert ["embedding" in row for row in rows] == ["error" not in row for row in rows]
    assert main(["embed", str(files), "--target", server.target, "--out", str(out)]) == 1
    assert "which exists, expected a new file" in capsys.readouterr().err
