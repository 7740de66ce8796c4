"""What mutation testing changes, and that it changes nothing else."""

from __future__ import annotations

import ast
import importlib.util
import sys
from typing import Any

import pytest

from benchmarks.mutants.__main__ import MOST, drawn, table
from benchmarks.mutants.changes import Mutant, mutants
from benchmarks.mutants.trial import ROOT, Mutated


def changes(source: str) -> set[str]:
    return {one.change for one in mutants(source)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", {"a < b -> a <= b", "a < b -> a >= b", "a < b -> pass"}),
        ("x = not a", {"not a -> a"}),
        ("x = a and b", {"a and b -> a or b"}),
        ("x = a + b", {"a + b -> a - b"}),
        ("x = 3", {"3 -> 4", "3 -> 2"}),
        ("x = True", {"True -> False"}),
        ("x = 0.5", {"0.5 -> 1.0"}),
        ("x = 'a'", {"'a' -> 'aX'"}),
        ("x = f(a, b)", {"f(a, b) -> f(b, a)"}),
        ("x = f(a, k=b)", {"f(a, k=b) -> f(a)"}),
        ("x = min(a)", {"min(a) -> max(a)"}),
        ("f(a)", {"f(a) -> pass"}),
        ("x.a = b", {"x.a = b -> pass"}),
        ("if a: b = c", {"if a: b = c -> if not a: b = c"}),
        ("def f():\n return a", {"return a -> return None"}),
        ("def f():\n return None", set()),
        ("raise E('text')", {"raise E('text') -> pass"}),
        ("raise E(1)", {"raise E(1) -> pass", "1 -> 2", "1 -> 0"}),
    ],
)
def test_what_is_changed(source: str, expected: set[str]) -> None:
    assert changes(source) == expected


@pytest.mark.parametrize("source", ["'a docstring'", "x: Literal['a']", "@f(1)\nclass A: pass", "x = f'{a} 1'"])
def test_what_is_not_changed(source: str) -> None:
    assert changes(source) == set()


def test_a_mutant_is_the_module_with_one_change() -> None:
    source = "x = 1\nx = 1\ny = x < 2\n"
    found = mutants(source)
    assert len(found) == len({one.key for one in found}) == 8
    for one in found:
        lines = ast.unparse(one.tree).splitlines()
        assert [number for number in (1, 2, 3) if lines[number - 1] != source.splitlines()[number - 1]] == [one.line]


def test_a_mutant_stands_in_for_its_module_alone() -> None:
    name = "benchmarks.serving.tally"
    finder = Mutated("benchmarks/serving/tally.py", ast.parse("changed = True"))
    assert finder.find_spec("benchmarks.serving.load", None) is None
    spec = finder.find_spec(name, None)
    assert spec is not None
    assert spec.loader is not None
    made: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert made.changed
    assert made.__file__ == str(ROOT / "benchmarks" / "serving" / "tally.py")
    assert not hasattr(sys.modules.get(name), "changed")


def test_of_many_the_same_are_drawn_in_their_order() -> None:
    tree = ast.parse("")
    many = [Mutant(line, "", "", tree) for line in range(3 * MOST)]
    lines = [one.line for one in drawn(many)]
    assert lines == [one.line for one in drawn(many)] == sorted(lines)
    assert len(lines) == MOST
    assert drawn(many[:MOST]) == many[:MOST]


def test_the_table_counts_and_names_survivors_with_their_reasons() -> None:
    outcomes: list[dict[str, Any]] = [
        {"line": 1, "change": "a", "outcome": "killed"},
        {"line": 2, "change": "b", "outcome": "timed out"},
        {"line": 3, "change": "c", "outcome": "survived", "reason": "equivalent"},
        {"line": 4, "change": "d", "outcome": "survived"},
    ]
    page = table({"removed.py": {"sha256": "", "of": 9, "mutants": outcomes}})
    assert "| removed.py, changed since | 9 | 4 | 2 | 1 | 50.0% |" in page
    assert "- removed.py:3: `c`: equivalent" in page
    assert "- removed.py:4: `d`: no reason yet" in page
