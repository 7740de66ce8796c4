"""How the client's commands bear with a server, without one."""

from __future__ import annotations

import time
from typing import Any

import pytest

from latentserve.cli.asking import MOST_WAITS, patiently
from latentserve.errors import Overloaded


def test_a_server_that_says_when_is_come_back_to_then(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    answers: list[Any] = [Overloaded("full", 0.25), Overloaded("full", 0.5), "done"]

    def call(_: list[Any]) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(call, []) == "done"
    assert waits == [0.25, 0.5]


@pytest.mark.parametrize(("after", "times"), [(0.0, 0), (1.0, MOST_WAITS)])
def test_nobody_waits_for_ever_or_for_nothing(monkeypatch: pytest.MonkeyPatch, after: float, times: int) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)

    def call(_: list[Any]) -> Any:
        raise Overloaded("full", after)

    with pytest.raises(Overloaded):
        patiently(call, [])
    assert len(waits) == times
