"""docs/methods: every method has its row, and figures are those that were recorded."""

from __future__ import annotations

import re

import pytest

from benchmarks.results.methods import BEGIN, PAGE, table, with_table
from benchmarks.results.recipes import recorded_recipes
from training.methods import METHODS


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_row(name: str) -> None:
    assert re.search(rf"^\| (\[`{name}`\]\([^)]+\)|`{name}`) \|", PAGE.read_text(), re.MULTILINE)


def test_the_figures_of_the_page_are_those_that_were_recorded() -> None:
    page = PAGE.read_text()
    assert BEGIN in page
    assert with_table(page) == page, "run python -m benchmarks.results.methods --write"


def test_a_recorded_method_is_in_the_table_and_another_is_named_below_it() -> None:
    rows, _, below = table().partition("\n\n")
    recorded = {one.method for _, _, one in recorded_recipes()}
    assert {re.match(r"\| `(\w+)`", row)[1] for row in rows.splitlines()[2:]} == recorded  # type: ignore[index]
    assert set(re.findall(r"`(\w+)`", below)) == set(METHODS) - recorded
