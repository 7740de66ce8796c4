"""20,000 frames that are almost right; `python -m benchmarks.abuse.mutated_frames 1000000` sends a million."""

from __future__ import annotations

import asyncio

from benchmarks.abuse.mutated_frames import send


def test_after_frames_that_are_almost_right_an_honest_call_is_answered_right() -> None:
    run = asyncio.run(send(20_000, seed=0))
    assert run.num_frames >= 20_000
    assert run.ended["protocol_error"] > 20
    assert run.ended["client"] > 20  # what they say is taken, too
