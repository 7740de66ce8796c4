"""The walk of a Score through the files of service/: what counts, and that it stays short."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.walk import Step, holds, moves_of
from latentserve.v1 import embedding_pb2 as pb

ROOT = Path(__file__).resolve().parents[2]
MOST_FILES, MOST_RETURNS = 15, 5
"""Of service/ behind the transport."""


def test_a_move_is_a_step_into_another_file_and_a_loop_makes_it_once() -> None:
    files = ["a", "a", "b", "a", "b", "a", "c", "a"]
    assert [step.file for step in moves_of([Step(file, "f", True) for file in files])] == ["a", "b", "a", "c", "a"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"with the mark", True),
        (b"without", False),
        (pb.ScoreRequest(), True),
        (np.zeros(1), True),
        ({"scores": [np.zeros(1)]}, True),
        (partial(print, pb.Input()), True),
        ((1, "text", None), False),
    ],
)
def test_what_holds_a_request(value: object, expected: bool) -> None:
    assert holds(value, (b"mark",)) is expected


def test_a_score_passes_few_files_and_seldom_comes_back(repository: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.walk", "--models", str(repository)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    found = re.search(r"Without transport/: (\d+) files, \d+ moves, (\d+) of them returns", said)
    assert found
    assert int(found[1]) <= MOST_FILES
    assert int(found[2]) <= MOST_RETURNS
