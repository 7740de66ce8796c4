"""What `latentserve score` shows of anomaly maps: regions in its lines, overlays in a folder."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

from latentserve.answers import Scores
from latentserve.cli.sinks import FileNames
from latentserve.cli.sources import Source
from latentserve.errors import InvalidInput, Unsupported
from latentserve.maps import AnomalyMaps, Region
from latentserve.placing import Box

SHOWN = 3
"""Regions of an item in a line for people."""


class Regions(list[dict[str, Any]]):
    """Of one item: a list of objects for programs, a few words for people."""

    def __str__(self) -> str:
        if not self:
            return "0"
        told = [_told(one) for one in self[:SHOWN]]
        return f"{len(self)}: {', '.join(told)}{', ...' if len(self) > SHOWN else ''}"


class Overlays:
    """A folder of PNG files, each named after its item.

    Args:
        folder: made if it is not there; None: nothing is written.
        every: also of items in which nothing is flagged.
    """

    def __init__(self, folder: Path | None, every: bool) -> None:
        self._folder, self._every, self._names = folder, every, FileNames()
        if folder is None:
            return
        if importlib.util.find_spec("PIL") is None:
            raise Unsupported("overlays: got no Pillow, expected it: pip install pillow")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            expected = f"a folder that can be written to ({error.strerror})"
            raise InvalidInput.at("overlays", got=str(folder), expected=expected) from error

    def add(self, source: Source, number: int, scores: Scores) -> Regions:
        """Writes the overlay of one item, if it is to have one, and returns its regions."""
        maps = scores.anomaly_maps
        assert maps is not None  # they were asked for
        found = maps.regions[number]
        if self._folder is not None and (self._every or found or scores.flagged[number]):
            picture = scores.overlay(source.item, number)
            picture.save(self._folder / f"{self._names.of(source.name)}.png")
        size = _size(source.item)
        return Regions(_region(one, maps, size) for one in found)


def _region(one: Region, maps: AnomalyMaps, size: tuple[int, int] | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "box": list(one.box),
        "area": one.area,
        "peak": one.peak if math.isfinite(one.peak) else None,
        "p_value": one.p_value,
    }
    if size is not None and maps.image is not None and (box := maps.placed(*size).box(one.box)) is not None:
        told["in_photograph"] = list(box)
    return told


def _told(region: dict[str, Any]) -> str:
    y, x, height, width = Box(*region.get("in_photograph", region["box"]))
    return f"y {y} x {x} h {height} w {width} p {region['p_value']:.3g}"


def _size(item: Any) -> tuple[int, int] | None:
    """Height and width of a file as it is seen; None where it is a row, or Pillow is not there to read it."""
    if not isinstance(item, Path) or importlib.util.find_spec("PIL") is None:
        return None
    from latentserve.overlay import opened_size

    return opened_size(item)
