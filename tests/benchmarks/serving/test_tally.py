"""Processes that run parts of a load: why one failed is said."""

from __future__ import annotations

import pytest

from benchmarks.serving.tally import run_jobs


def test_why_clients_failed_is_in_the_first_line() -> None:
    with pytest.raises(RuntimeError, match="^benchmarks.serving.closedloop: KeyError: 'url'\nTraceback"):
        run_jobs("benchmarks.serving.closedloop", [{"clients": 1}], b"", 1.0)
