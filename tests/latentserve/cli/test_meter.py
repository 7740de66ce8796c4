"""What is told of progress, to who watches and to a log."""

from __future__ import annotations

import io
import time

import pytest

from latentserve.cli.meter import Meter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("stream", "lines_every", "told"),
    [
        (io.StringIO(), None, ""),
        (io.StringIO(), 60.0, "10 of 40 items, 0/s, 3:00 left\n"),
        (Terminal(), 60.0, "\r\033[K10 of 40 items, 0/s, 3:00 left\r\033[K"),
    ],
)
def test_a_line_for_who_reads_it(stream: io.StringIO, lines_every: float | None, told: str, clock: list[float]) -> None:
    with Meter(40, stream, lines_every) as meter:
        clock[0] = 60.0
        meter.count(10)
        clock[0] = 60.1
        meter.count(10)
    assert stream.getvalue() == told
