"""What callers in a hurry may cost the others, and what is done for them."""

from __future__ import annotations

import asyncio

from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.serving.hurried import WHOLE, Hurried, Served, simulate

BATCHES = 80
"""Length of a simulation, in whole batches."""


def run(overhead: float, per_row: float, hurried: list[Hurried]) -> Served:
    return asyncio.run(asyncio.wait_for(simulate(overhead, per_row, hurried, BATCHES), 60))


HURRIED = st.builds(
    Hurried,
    timeout=st.floats(0.01, 4.0),
    num_rows=st.integers(1, WHOLE // 4),
    priority=st.sampled_from([-(2**70), -1, 0, 1, 2**70]),
    pause=st.sampled_from([0.0, 0.25, 0.6, 3.0]),
)


@settings(deadline=None, max_examples=60)
@given(
    overhead=st.floats(0, 1),
    per_row=st.floats(0, 0.1),
    hurried=st.lists(HURRIED, min_size=1, max_size=WHOLE // 4).filter(
        lambda callers: sum(one.num_rows for one in callers) <= WHOLE // 4
    ),
)
@example(overhead=0.9, per_row=0.006, hurried=[Hurried(1.9, pause=0.3)] * 4)  # rows cost hardly anything
@example(overhead=1.0, per_row=0.0, hurried=[Hurried(1.2)] * 4)  # rows cost nothing
@example(  # without `SHARE` the patient keep 0.35
    overhead=0.5,
    per_row=0.03,
    hurried=[Hurried(1.276, pause=0.6), Hurried(0.786), Hurried(0.757, pause=0.6), Hurried(1.085, pause=0.95)],
)
@example(  # without `KEPT` they keep 0.02
    overhead=0.001,
    per_row=0.06,
    hurried=[Hurried(0.678), Hurried(0.268, priority=1), Hurried(0.181), Hurried(0.211, pause=0.06)],
)
def test_the_patient_keep_half_of_their_throughput_whatever_others_ask(
    overhead: float, per_row: float, hurried: list[Hurried]
) -> None:
    """Up to a quarter of a batch is in a hurry; in the first batches nothing is known of the engine."""
    if overhead + per_row < 1e-3:
        overhead = 1e-3
    alone, beside = run(overhead, per_row, []), run(overhead, per_row, hurried)
    assert beside.patient >= 0.5 * alone.patient - 2 * WHOLE


def test_a_caller_in_a_hurry_now_and_then_is_served() -> None:
    """Though the batch that serves him costs the others: he comes seldom, and the accounts can pay."""
    served = run(0.8, 0.0125, [Hurried(2.3, pause=10.0)])
    assert served.hurried == served.asked > 3


def test_no_batch_is_cut_for_who_cannot_be_saved() -> None:
    alone, beside = run(1.0, 0.0, []), run(1.0, 0.0, [Hurried(1.05, priority=1)] * 4)
    # of the first batch, before anything is known of the engine
    assert (beside.hurried, beside.patient) == (4, alone.patient - 4)
