from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from latentserve.cli import main as module
from latentserve.cli.main import COMMANDS, main, usage
from latentserve.errors import InvalidInput, Unavailable

ELSEWHERE = "is `latentserve serve` running there? --target HOST:PORT names another server"
ROOT = Path(__file__).resolve().parents[3]


def test_without_a_command_it_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert all(name in capsys.readouterr().out or name in usage() for name in COMMANDS)


def test_a_mistyped_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scoer"]) == 2
    assert capsys.readouterr().err.endswith("did you mean score?\n")
    assert main(["qqqqq"]) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("latentserve")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(importlib, "import_module", missing)
    assert main(["train", "vae"]) == 1
    assert "torch is missing: pip install 'latentserve[train]'" in capsys.readouterr().err


def test_a_module_of_ours_that_is_missing_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'latentserve.x'", name="latentserve.x")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError):
        main(["train", "vae"])


@pytest.mark.parametrize(
    ("raised", "said", "status"),
    [
        (
            Unavailable("refused"),
            "error: no answer: refused; is `latentserve serve` running there? --target HOST:PORT names another server",
            1,
        ),
        (InvalidInput("alpha: got 2"), "error: alpha: got 2", 1),
        (KeyboardInterrupt(), "stopped", 130),
        (FileNotFoundError(2, "No such file or directory", "x.pem"), "error: x.pem: No such file or directory", 1),
    ],
)
def test_errors_are_one_sentence(
    raised: BaseException, said: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(_: list[str]) -> int:
        raise raised

    monkeypatch.setattr(module, "_function", lambda _: failing)
    assert main(["models"]) == status
    assert capsys.readouterr().err.strip() == said


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_where_it_is_said_to_be(name: str) -> None:
    command = COMMANDS[name]
    assert callable(getattr(importlib.import_module(command.module), command.function))


def test_the_command_runs_in_any_folder(tmp_path: Path) -> None:
    code = "from latentserve.cli.main import main; import sys; sys.exit(main(['serve', '--help']))"
    environment = {"PYTHONPATH": "", "PATH": "/usr/bin"}
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--models" in done.stdout
