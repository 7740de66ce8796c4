"""Commands as their user typed them: each room's own (`python -m training`), or that of `latentserve` which ran it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

SPELLED = {
    "python -m training evaluate": "latentserve evaluate",
    "python -m training": "latentserve train",
    "python -m export evaluate": "latentserve evaluate",
    "python -m export import": "latentserve import",
    "python -m export compare": "latentserve compare",
    "python -m export ood": "latentserve ood",
    "python -m export": "latentserve export",
    "python -m service tokens": "latentserve tokens",
    "python -m service": "latentserve serve",
    "python -m latentserve.health": "latentserve health",
}
"""The same command by its two names; the longer come first."""
_BY_LATENTSERVE: ContextVar[bool] = ContextVar("by_latentserve", default=False)


@contextlib.contextmanager
def by_latentserve() -> Iterator[None]:
    """What runs within was typed as a command of `latentserve`."""
    before = _BY_LATENTSERVE.set(True)
    try:
        yield
    finally:
        _BY_LATENTSERVE.reset(before)


def as_typed(text: str) -> str:
    """A text for the user, whose commands are spelled as that user spells them."""
    if _BY_LATENTSERVE.get():
        for own, ours in SPELLED.items():
            text = text.replace(own, ours)
    return text
