"""The map (docs/development/map.md) shows what is there."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from tests.test_house import ALLOWED_ROOMS

ROOT = Path(__file__).resolve().parents[1]
MAP = ROOT / "docs" / "development" / "map.md"
ROW = re.compile(r"^\| (?P<what>[^|]+) \| (?P<where>.+) \|$", re.MULTILINE)


def places() -> list[tuple[str, str]]:
    rows = [row for row in ROW.finditer(MAP.read_text()) if row["where"] not in ("look in", "---")]
    return [(row["what"], place) for row in rows for place in re.findall(r"`([^`]+)`", row["where"])]


@functools.cache
def ours() -> list[Path]:
    """Files and folders of each folder here, but for hidden ones and what was built."""
    rooms = [path for path in ROOT.iterdir() if path.is_dir() and path.name != "build" and path.name[0] != "."]
    return [path for room in rooms for path in room.rglob("*")]


@pytest.mark.parametrize(("what", "place"), places())
def test_every_place_on_the_map_exists(what: str, place: str) -> None:
    if "<name>" in place or place.startswith(("_", "python -m")) or (place.isupper() and "." not in place):
        return
    assert (ROOT / place).exists() or any(path.match(f"*/{place}") for path in ours()), f"{what}: {place}"


def test_the_arrows_of_the_picture_are_those_that_are_allowed() -> None:
    picture = re.findall(r"```mermaid\n(.*?)```", MAP.read_text(), re.DOTALL)[1]
    arrows = re.findall(r"^ *(\w+)(?:\[[^\]]*\])? --> (\w+)", picture, re.MULTILINE)
    assert len(arrows) > 8
    for above, below in arrows:
        above = "__main__" if above == "main" else above
        assert below in ALLOWED_ROOMS[above], f"{above} --> {below}"
    assert {room for arrow in arrows for room in arrow} - {"main"} == set(ALLOWED_ROOMS) - {"__main__"}
