"""What the rows of an encoder are, and how to load them again: a training run knows, or the record of an import."""

from __future__ import annotations

from typing import Any, Protocol

from training.data.rows import AudioShape, Data, ImageShape
from training.data.shares import Calibration


class DataOrigin(Protocol):
    """The rows that an encoder was trained on, or its detectors were fitted on."""

    @property
    def data(self) -> str:
        """Data spec."""
        ...

    @property
    def shape(self) -> ImageShape | AudioShape:
        """Of a row, as the encoder takes it."""
        ...

    @property
    def seed(self) -> int:
        """Draws the splits."""
        ...

    @property
    def group_by(self) -> str | None:
        """Rows that no split parts: see `training.data.grouping`."""
        ...

    @property
    def calibration(self) -> Calibration | None:
        """What calibrates; None: a tenth, as of runs that are older than the choice."""
        ...

    @property
    def sizes(self) -> dict[str, Any]:
        """The arguments of `load_data`, besides spec and seed, that load these rows again."""
        ...

    def load_data(self) -> Data:
        """These very rows.

        Raises:
            DataError: they cannot be loaded.
            ValueError: they are others meanwhile.
        """
        ...
