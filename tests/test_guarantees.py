"""docs/guarantees.md: every test it names is there, and every line that breaks a promise still stands in its file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks.guarantees import ROOT, Guarantee, guarantees

WALL_CLOCK = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "time.localtime"}


@pytest.mark.parametrize("one", guarantees(), ids=lambda one: one.promise[:60])
def test_every_promise_has_a_test_and_a_way_to_break_it(one: Guarantee) -> None:
    file, _, name = one.test.partition("::")
    functions = {node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if hasattr(node, "name")}
    assert name in functions, one.test
    ast.parse(one.broken())


def test_a_row_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "guarantees.md"
    page.write_text("| promise | test | broken by |\n| --- | --- | --- |\n| all is well | `no.py::test` |\n")
    with pytest.raises(ValueError, match="all is well"):
        guarantees(page)


def test_what_stands_no_longer_where_it_stood_is_an_error() -> None:
    with pytest.raises(ValueError, match="not there any more"):
        Guarantee("", "", "service/scheduling/pace.py", "not there any more", "").broken()


def test_deadlines_do_not_know_the_wall_clock() -> None:
    """So a step of the clock (NTP, suspend, an operator) can neither end a call nor prolong one.

    Tokens end on a date, which is the wall clock's.
    """
    paths = {*(ROOT / "service").rglob("*.py")} - {ROOT / "service" / "api" / "access" / "callers.py"}
    for path in sorted(paths):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                assert ".".join(ast.unparse(node).split(".")[-2:]) not in WALL_CLOCK, (
                    f"{path.name}: {ast.unparse(node)}"
                )
