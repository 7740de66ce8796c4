"""The lock of a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentserve.lock import Held, held


def test_a_second_holder_is_refused_and_the_end_of_the_block_releases(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(Held), held(tmp_path):
        pass
    with held(tmp_path):
        pass


def test_what_fails_inside_is_told_as_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError) as told, held(tmp_path):
        raise BlockingIOError(11, "the pipe is full")
    assert not isinstance(told.value, Held)
