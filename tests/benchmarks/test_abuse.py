"""The table of abuses: a line of it, from the real server with an honest caller beside the peer."""

from __future__ import annotations

from pathlib import Path

from benchmarks.abuse import try_one
from benchmarks.abuses import abuses


def test_a_line_says_what_an_honest_caller_felt(repository: Path) -> None:
    line = try_one("HPACK bomb", "http2", repository, (8, 8, 1))
    columns = [column.strip() for column in line.strip("|").split("|")]
    assert columns[:2] == ["HPACK bomb", "http2"]
    failed, calls = columns[5].split(" of ")
    assert int(failed) == 0
    assert int(calls) > 5
    assert columns[-1].endswith(" s")  # it drained
    assert len(abuses(b"")) == 17
