"""Help and errors name a command as its user typed it."""

from __future__ import annotations

import contextlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from latentserve.cli.main import COMMANDS, main
from latentserve.spelling import SPELLED, as_typed, by_latentserve

BELOW = {"train": "vae", "tokens": "new"}
"""Commands that have commands."""
ROOMS = ("training", "export", "service")


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says of itself."""
    with contextlib.suppress(SystemExit):
        main(arguments)
    said = capsys.readouterr()
    return said.out + said.err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_the_command_as_typed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for below in ([], [BELOW[name]] if name in BELOW else []):
        said = printed([name, *below, "--help"], capsys)
        assert " ".join(["latentserve", name, *below]) in said
        assert not any(f"python -m {room}" in said for room in (*ROOMS, "latentserve"))


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"models", "health"}))
def test_errors_name_the_command_as_typed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = printed([name, *([BELOW[name]] if name in BELOW else []), "--nonsense"], capsys)
    assert said
    assert "python -m" not in said


def test_help_of_evaluate_is_that_of_what_it_evaluates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bundle.json").touch()
    said = printed(["evaluate", str(tmp_path), "--help"], capsys)
    assert "usage: latentserve evaluate" in said
    assert "--json" in said


@pytest.mark.parametrize(
    ("module", "arguments", "name"),
    [
        ("training", ["--help"], "python -m training METHOD"),
        ("training", ["vae", "--help"], "python -m training vae"),
        ("training", ["evaluate", "--help"], "python -m training evaluate"),
        ("export", ["--help"], "python -m export"),
        ("export", ["ood", "--help"], "python -m export ood"),
        ("export", ["evaluate", "--help"], "python -m export evaluate"),
        ("export", ["compare", "--help"], "python -m export compare"),
        ("service", ["--help"], "python -m service"),
        ("service", ["tokens", "new", "--help"], "python -m service tokens new"),
    ],
)
def test_the_rooms_own_commands_keep_their_names(
    module: str, arguments: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = importlib.import_module(f"{module}.__main__").main
    with contextlib.suppress(SystemExit):
        run(arguments)
    said = capsys.readouterr().out
    assert f"usage: {name}" in said
    assert "latentserve train" not in said


def test_a_room_that_a_shell_runs_keeps_its_name() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "tokens", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("usage: python -m service tokens")


def test_longer_names_are_spelled_first() -> None:
    with by_latentserve():
        assert [as_typed(own) for own in SPELLED] == list(SPELLED.values())
    assert as_typed("python -m export ood") == "python -m export ood"
