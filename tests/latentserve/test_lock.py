"""The lock of a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentserve import lock
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


@pytest.mark.parametrize("made_again", [False, True])
def test_a_folder_that_was_removed_before_it_was_ours_is_not_held(
    made_again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, locks = tmp_path / "folder", lock.fcntl.flock
    folder.mkdir()

    def late(number: int, how: int) -> None:
        folder.rmdir()
        if made_again:
            (tmp_path / "other").mkdir()  # it takes the number of the inode that is free
            folder.mkdir()
        locks(number, how)

    monkeypatch.setattr(lock.fcntl, "flock", late)
    with pytest.raises(FileNotFoundError, match="removed by another process"), held(folder):
        pass
