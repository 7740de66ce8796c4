"""`make gpu-rehearsal`: every stage on the CPU, by the command that a GPU machine will run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import prepared, preparing
from benchmarks.gpu.cells import read_record
from benchmarks.gpu.stage import WEIGHTS
from latentserve import bundle

CELLS = {
    "facts": {"gpu", "software", "providers"},
    "parity": {"vae-float32", "vae-float16", "cpc_audio-float32"},
    "engine": {f"small {bits} {what}" for bits in ("float32", "float16") for what in ("batch 1", "batch 4", "memory")},
    "serve": {f"small float32 {what}" for what in ("ceiling", "raw 64", "raw 1", "jpeg 8", "overload")},
    "several": {"small float32 raw 8"},
    "score": {"vae float32", "reload under load"},
    "train": {"steps", "training", "kNN", "linear probe"},
}


@pytest.mark.bench
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_stage_runs_to_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Minutes enough for a busy machine: one that is not takes three.
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--minutes", "60"]
    command += ["--out", str(tmp_path / "out"), "--bundles", str(tmp_path / "bundles")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in WEIGHTS:
        record = read_record(tmp_path / "out" / f"{name}.json")
        assert record is not None
        assert (record.status, record.why) == ("done", "")
        assert set(record.cells) >= CELLS[name]
        assert all(check["holds"] for check in record.checks)
    again = subprocess.run([*command, "--stages", "facts,parity"], capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout.count("done before")) == (0, 2)
    encoders_were_made_beforehand_and_are_not_made_again(tmp_path / "bundles", monkeypatch)


def encoders_were_made_beforehand_and_are_not_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the rehearsal's own: making them takes two processes ten seconds."""

    def made(*_: object) -> None:
        raise AssertionError("made again")

    for precision in prepared.PRECISIONS:
        assert bundle.load(prepared.encoder_bundle(folder, "small", precision)).precision == precision
    monkeypatch.setattr(preparing, "ProcessPoolExecutor", made)
    preparing.prepare_encoders(folder, ["small"])
