"""Progress of an evaluation, for a user who waits for it."""

from __future__ import annotations

import sys

from latentserve import records


def say(step: str) -> None:
    """Prints the step that begins, on stderr."""
    print(records.printable(f"evaluate: {step}"), file=sys.stderr, flush=True)
