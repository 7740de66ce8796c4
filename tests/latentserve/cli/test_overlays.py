"""The command's options of maps, without a server."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentserve.answers import Scores
from latentserve.cli.main import main
from latentserve.cli.overlays import SHOWN, Overlays, Regions
from latentserve.cli.sources import Source
from latentserve.errors import InvalidInput, Unsupported
from latentserve.inputs import ImageInput
from latentserve.maps import AnomalyMaps, Region
from latentserve.placing import Box


def scores(*flagged: bool, peak: float = 9.0) -> Scores:
    """Of rows of which only the first has a region."""
    values = np.zeros((len(flagged), 2, 2), np.float32)
    regions = ((Region(Box(0, 0, 4, 4), 0.25, peak, 0.01),), *((),) * (len(flagged) - 1))
    maps = AnomalyMaps("d", values, values, 0.05, 1.0, regions, ImageInput(8, 8, 1))
    column = np.zeros((len(flagged), 1), np.float32)
    return Scores(("d",), column, column, column[:, 0].astype(float), np.array(flagged), 0.05, "d", maps)


@pytest.mark.parametrize(("every", "names"), [(False, ["a-0", "a-1"]), (True, ["a-0", "a-1", "a-2"])])
def test_what_is_flagged_as_a_whole_or_at_a_place_is_drawn(every: bool, names: list[str], tmp_path: Path) -> None:
    found = scores(False, True, False)
    overlays = Overlays(tmp_path / "new" / "folder", every)
    row = np.zeros((8, 8, 1), np.uint8)
    told = [overlays.add(Source(f"a.npy[{number}]", row), number, found) for number in range(3)]
    assert [len(one) for one in told] == [1, 0, 0]
    assert sorted(one.stem for one in (tmp_path / "new" / "folder").iterdir()) == names


def test_regions_are_objects_for_programs_and_words_for_people() -> None:
    (one,) = Overlays(None, False).add(Source("a", np.zeros((8, 8, 1), np.uint8)), 0, scores(True, peak=np.inf))
    assert one == {"box": [0, 0, 4, 4], "area": 0.25, "peak": None, "p_value": 0.01}  # JSON has no infinity
    assert str(Regions([one])) == "1: y 0 x 0 h 4 w 4 p 0.01"
    assert str(Regions([one] * (SHOWN + 1))).endswith(", ...")
    assert str(Regions()) == "0"


def test_a_folder_that_cannot_be_made_and_a_missing_pillow_are_told_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="overlays: got .*file, expected a folder that can be written to"):
        Overlays(tmp_path / "file", False)
    found: Any = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "PIL" else found(name))
    with pytest.raises(Unsupported, match="overlays: got no Pillow, expected it: pip install pillow"):
        Overlays(tmp_path / "folder", False)


def test_every_without_a_folder_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "x.png", "--overlay-every"]) == 1
    assert "overlay-every: got it alone, expected --overlays FOLDER beside it" in capsys.readouterr().err
