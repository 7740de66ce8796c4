"""Requirements on the figures of a stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """A requirement on a figure, and whether it holds.

    Attributes:
        name: of the figure.
        got: what it is; None: not measured.
        expected: the requirement, for people.
        holds: whether it is so.
    """

    name: str
    got: float | None
    expected: str
    holds: bool

    @classmethod
    def at_least(cls, name: str, got: float | None, least: float) -> Check:
        """A figure that may not be lower."""
        return cls(name, got, f">= {least:g}", bool(got is not None and got >= least))

    @classmethod
    def at_most(cls, name: str, got: float | None, most: float) -> Check:
        """A figure that may not be higher; NaN is."""
        return cls(name, got, f"<= {most:.4g}", bool(got is not None and got <= most))
