"""Envoy, as it is deployed, in front of real replicas; the image's commands where nothing else is installed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.processes.envoy import EnvoyProcess
from benchmarks.processes.served import READY, ServedProcess
from benchmarks.serving.rolling import Fleet, measured, missed
from latentserve.client import Client

pytestmark = pytest.mark.ops
ROOT = Path(__file__).resolve().parents[2]
RATE = 100.0


def test_a_rolling_restart_fails_no_call_and_a_kill_hardly_any(repository: Path, tmp_path: Path) -> None:
    with Fleet(repository, tmp_path) as fleet:
        figures = measured(fleet, RATE)
    assert missed(figures) == []
    assert figures.kill.sent > 0.8 * RATE * 12


def test_a_model_is_asked_for_only_where_it_is_served(
    repository: Path, tmp_path: Path, digits: NDArray[np.uint8]
) -> None:
    """One replica has digits-vae, the other has the same bundle under another name."""
    other = tmp_path / "models" / "other" / "1"
    other.parent.mkdir(parents=True)
    shutil.copytree(next(repository.glob("*/1")), other)
    manifest = (other / "bundle.json").read_text()
    (other / "bundle.json").write_text(manifest.replace('"digits-vae"', '"other"'))
    with (
        ServedProcess(repository, tmp_path / "log") as first,
        ServedProcess(tmp_path / "models", tmp_path / "log2") as second,
        EnvoyProcess(tuple(int(one.target.split(":")[1]) for one in (first, second)), tmp_path) as envoy,
        Client(envoy.target) as client,
    ):
        assert envoy.healthy("latentserve-digits-vae") == 1
        for _ in range(20):
            assert len(client.embed(digits[:1], model="digits-vae")) == 1


def test_a_lame_duck_gets_no_new_calls(repository: Path, tmp_path: Path, digits: NDArray[np.uint8]) -> None:
    with Fleet(repository, tmp_path) as fleet, Client(fleet.envoy.target) as client:
        os.kill(fleet.replicas[0].pid, signal.SIGTERM)
        time.sleep(1.3)  # less than the lame duck: only the health check can have told Envoy
        before = calls(fleet.replicas[0])
        for _ in range(30):
            client.embed(digits[:1])
        assert calls(fleet.replicas[0]) == before
        fleet.start(0)


def calls(process: ServedProcess) -> float:
    return sum(value for name, value in process.metrics().items() if name.startswith("latentserve_requests_total{"))


def test_the_serving_image_s_commands_run_on_its_own_requirements(
    repository: Path, tmp_path: Path, digits: NDArray[np.uint8]
) -> None:
    """A fresh environment with requirements/serve-cpu.txt, and only what the image copies."""
    app, venv = tmp_path / "app", tmp_path / "venv"
    app.mkdir()
    for package in ("latentserve", "service"):
        shutil.copytree(ROOT / package, app / package)
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    uv = [str(Path(sys.executable).parent / "uv"), "pip", "install", "--quiet", "--require-hashes"]
    subprocess.run([*uv, "--python", venv / "bin/python", "-r", ROOT / "requirements/serve-cpu.txt"], check=True)
    environment = {"PATH": f"{venv}/bin", "LATENTSERVE_MODELS": str(repository), "LATENTSERVE_PORT": "0"}
    environment |= {"LATENTSERVE_METRICS_PORT": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [venv / "bin/python", "-m", "service"]
    with subprocess.Popen(command, cwd=app, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = READY.search(process.stdout.readline())
        try:
            assert ready is not None
            health = [venv / "bin/python", "-m", "latentserve.health", ready[1]]
            asked = subprocess.run(health, cwd=app, env=environment, capture_output=True, text=True)
            assert (asked.returncode, asked.stdout.strip()) == (0, "SERVING")
            with Client(ready[1]) as client:
                assert client.score(digits[:3]).p_values.shape == (3,)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
