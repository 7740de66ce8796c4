"""What a call's answer carries beside its message."""

from __future__ import annotations

import pytest

from latentserve.errors import ModelNotFound, Overloaded
from service.api.calls import RETRY_AFTER, _trailing


@pytest.mark.parametrize(
    ("seconds", "said_ms"), [(0.0, "1"), (0.0004, "1"), (0.25, "250"), (1.0, "1000"), (7.5, "7500")]
)
def test_the_hint_when_to_come_again_is_the_queues(seconds: float, said_ms: str) -> None:
    assert _trailing(Overloaded("full", seconds)) == ((RETRY_AFTER, said_ms),)


def test_no_other_error_hints_when_to_come_again() -> None:
    assert _trailing(ModelNotFound("no")) == ()
