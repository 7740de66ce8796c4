"""When a client that was turned away may come again."""

from __future__ import annotations

import math
import time

import pytest

from latentserve.errors import ModelNotFound, Overloaded
from service.api.calls import _trailing
from service.api.retry import PUSHBACK, RETRY_AFTER, after


@pytest.mark.parametrize(("seconds", "milliseconds"), [(0.0004, "1"), (0.25, "250"), (1.0, "1000"), (7.5, "7500")])
def test_the_hint_is_the_queues(seconds: float, milliseconds: str) -> None:
    told = {RETRY_AFTER: milliseconds, PUSHBACK: milliseconds}
    assert dict(_trailing(Overloaded("full", seconds), math.inf)) == told


def test_what_would_never_fit_is_not_asked_for_again() -> None:
    assert dict(_trailing(Overloaded("too large", 0.0), math.inf)) == {PUSHBACK: "-1"}


def test_no_other_error_has_a_hint() -> None:
    assert _trailing(ModelNotFound("no"), math.inf) == ()


def test_a_retry_that_would_come_after_the_deadline_is_not_asked_for() -> None:
    assert dict(after(2.0, 1.9))[PUSHBACK] == "-1"
    assert dict(after(2.0, 1.9))[RETRY_AFTER] == "2000"
    assert dict(after(2.0, 2.1))[PUSHBACK] == "2000"
    assert dict(_trailing(Overloaded("full", 2.0), time.monotonic() + 1.0))[PUSHBACK] == "-1"
