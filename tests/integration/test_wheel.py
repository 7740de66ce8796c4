"""The wheel, installed into a fresh environment, does in an empty folder what docs/start/wheel.md says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("latentserve", "service", "training", "export", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy, so that nothing is left behind in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    copy.mkdir()
    for name in COPIED:
        subprocess.run(["cp", "-r", ROOT / name, copy], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, copy]
    subprocess.run(command, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh one with the wheel; what it depends on is this environment's, so that nothing is downloaded."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin/python"]
    subprocess.run([*pip, "install", "-q", "--no-deps", wheel], check=True)
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


@pytest.fixture
def page_lines() -> list[list[str]]:
    """The commands of the page."""
    page = (ROOT / "docs" / "start" / "wheel.md").read_text()
    (block,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    lines = [shlex.split(line) for line in block.splitlines()]
    assert [line[:2] for line in lines] == [["latentserve", name] for name in ("train", "export", "serve", "score")]
    return lines


def test_a_wheel_takes_no_general_name(wheel: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"latentserve"}


def test_every_package_is_in_the_wheel(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    for room in ("service", "training", "export"):
        for path in (ROOT / room).rglob("*.py"):
            assert f"latentserve/rooms/{path.relative_to(ROOT)}" in held
    assert "latentserve/rooms/training/recipes/vae_digits.toml" in held
    assert "latentserve/cli/main.py" in held


@pytest.mark.slow
def test_the_whole_way_from_a_wheel(
    page_lines: list[list[str]], environment: Path, tmp_path: Path, digits: NDArray[np.uint8]
) -> None:
    train, export, serve, score = ([str(environment / "bin" / line[0]), *line[1:]] for line in page_lines)
    np.save(tmp_path / "rows.npy", digits[:5])
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(command: list[str]) -> str:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=alone, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run([*train, "--smoke"])
    run(export)
    ports = ["--port", "0", "--metrics-port", "0"]
    assert serve[-1] == "&"
    with subprocess.Popen(
        [*serve[:-1], *ports], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=alone
    ) as server:
        try:
            assert server.stdout is not None
            target = re.search(r"grpc=(\S+)", server.stdout.readline())
            assert target is not None
            lines = run([*score, "--target", target[1]]).splitlines()
        finally:
            server.terminate()
            began = time.monotonic()
            server.wait(30)
    assert lines[0] == "item,p_value,flagged,score,error"
    assert len(lines) == 6
    assert time.monotonic() - began < 30
