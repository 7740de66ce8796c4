"""What is raised where data cannot be loaded."""

from __future__ import annotations

from latentserve import records


class DataError(ValueError):
    """Data cannot be loaded. The message says what was got, what was expected and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(records.printable(message))  # it may name a file
