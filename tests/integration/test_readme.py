"""What README tells a newcomer to type works as it stands there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.processes.served import ServedProcess
from latentserve.client import Client

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "docs" / "results.md").read_text()
OPERATING = (ROOT / "docs" / "operating.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_every_verb_named_is_one() -> None:
    verbs = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", README, re.MULTILINE))
    assert {one or other for one, other in named} <= verbs
    assert {"setup", "demo", "test", "serve", "mnist"} <= verbs


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize(("code", "said"), list(zip(blocks("python"), ["digits-vae"], strict=True)))
def test_the_client_examples_run(server: ServedProcess, code: str, said: str) -> None:
    assert "localhost:50051" in code
    code = code.replace("localhost:50051", server.target)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


@pytest.mark.slow
def test_a_folder_of_photos_goes_the_whole_way(tmp_path: Path, encode: Any) -> None:
    photos = tmp_path / "path/to/photos"
    photos.mkdir(parents=True)
    rng = np.random.default_rng(0)
    files = []
    for i in range(200):  # a tenth calibrates; below 19 a bundle does not score
        files.append(photos / f"{i}.jpg")
        files[-1].write_bytes(encode(rng.integers(0, 256, (70, 90 + i, 3), dtype=np.uint8), "JPEG"))
    (text,) = (block for block in blocks("sh") if "folder:" in block)
    train, export, serve = text.strip().splitlines()
    for line in (f"{train} --smoke", export):
        assert shlex.split(line)[0] == ".venv/bin/latentserve"
        command = [sys.executable, "-m", "latentserve", *shlex.split(line)[1:]]
        env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, check=False)
        assert done.returncode == 0, done.stderr
    assert shlex.split(serve)[1:] == ["serve", "--models", "models/"]
    with ServedProcess(tmp_path / "models", tmp_path / "log") as process, Client(process.target) as client:
        analysis = client.analyze(files[:3], ["embedding", "score"])
        assert analysis.embeddings is not None
        assert analysis.scores is not None
        assert len(analysis.embeddings) == len(analysis.scores.p_values) == 3
        manifest = json.loads((tmp_path / "models/photos/1/bundle.json").read_text())
        assert manifest["detectors"][0]["num_calibration_rows"] == 20


def test_no_figure_was_left_out() -> None:
    assert "@@" not in RESULTS
    serving = json.loads((ROOT / "docs/results/serving.json").read_text())
    for encoder in ("small", "r18"):
        for scenario in ("1 image x 32 clients", "8 images x 8 clients"):
            assert f"{serving[encoder]['latentserve (http2)'][scenario]['images_per_second']:,.0f}" in RESULTS
    overload = json.loads((ROOT / "docs/results/overload.json").read_text())
    assert f"{overload['goodput_of_capacity'] * 100:.0f} %" in RESULTS


def test_figures_in_readme_are_those_that_were_measured() -> None:
    figures = json.loads((ROOT / "docs/results/demo-mnist.json").read_text())
    for name in ("linear_probe", "knn_20", "pixels linear", "pixels knn_20", "random init linear", "PCA-16 knn_20"):
        assert f"{figures[name] * 100:.2f}" in RESULTS, name
    for name in ("shapes", "horizontal_flip", "noise"):
        assert f"{figures[f'auroc_against_{name}']:.3f}" in RESULTS, name
    assert f"{figures['share_flagged_at_alpha_0.05']:.2%}".replace("%", " %") in RESULTS


def test_figures_of_copies_are_those_that_were_counted() -> None:
    counted = json.loads((ROOT / "docs/results/copies.json").read_text())["counted"]
    for name in dict.fromkeys(one["case"] for one in counted):
        of_case = [one for one in counted if one["case"] == name]
        parted = ["" if one["parted"] is None else f" ({one['parted'] * 100:.1f} %)" for one in of_case]
        cells = [f"{one['rate'] * 100:.2f} %{beside}" for one, beside in zip(of_case, parted, strict=True)]
        assert f"| {name} | {' | '.join(cells)} |" in RESULTS


def test_figures_of_the_monitor_are_those_that_were_simulated() -> None:
    figures = json.loads((ROOT / "docs/results/monitor.json").read_text())
    quiet, shifts = figures["quiet"][0], figures["shifts"]
    assert (figures["runs"], figures["rows"], quiet["calibration_rows"]) == (1000, 10_000, 1000)
    assert f"{quiet['alarmed'] * 100:.1f} % ever raised" in OPERATING
    assert f"{quiet['naive_alarmed'] * 100:.1f} % would have" in OPERATING
    assert f"after {shifts[0]['median_delay_rows']:.0f} rows (median)" in OPERATING
    assert f"after {shifts[2]['median_delay_rows']:.0f} if 20,000 in-distribution" in OPERATING
    assert f"costs {figures['microseconds']['1']:.0f} us" in OPERATING
