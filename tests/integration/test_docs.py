"""What the documents show is run: Python, and commands of the client, against the real server.

A block above which stands `<!-- not run: why -->` is left out.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.processes.served import ServedProcess
from latentserve.cli.main import main
from tests.documents import PAGES, ROOT, Block, blocks

TARGET = "localhost:50051"
CLIENT = ("embed", "score", "reconstruct", "models", "health")
PYTHON = [block for page in PAGES for block in blocks(page, "python") if block.is_run]
SHELL = [block for page in PAGES for block in blocks(page, "sh") if block.is_run]


@pytest.fixture
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: NDArray[np.uint8], encode: Any) -> None:
    """What the documents take for given: a folder of digits, and an array."""
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    for number in range(3):
        Path(f"digits/{number}.png").write_bytes(encode(digits[number]))
    np.save("rows.npy", digits[:3])


@pytest.mark.usefixtures("_files")
@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.place)
def test_python(block: Block, digits_server: ServedProcess) -> None:
    assert TARGET in block.code
    code = block.code.replace(TARGET, digits_server.target)
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "an example that shows nothing"


@pytest.mark.usefixtures("_files")
@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.place)
def test_commands(block: Block, digits_server: ServedProcess, capsys: pytest.CaptureFixture[str]) -> None:
    for line in block.code.replace("\\\n", " ").splitlines():
        program, command, *given = shlex.split(line, comments=True)
        assert (program, command in CLIENT) == ("latentserve", True), f"say why it is not run: {line}"
        if command == "health":
            given = [one.replace(TARGET, digits_server.target) for one in given]
        else:
            given += ["--target", digits_server.target]
        assert main([command, *given]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out


def test_there_are_some() -> None:
    assert len(PYTHON) >= 7
    assert len(SHELL) >= 3
