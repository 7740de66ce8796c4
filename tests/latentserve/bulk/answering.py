"""An engine for tests of jobs: the embedding of an item is its bytes, and `!` is what it cannot take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from latentserve.bulk.engines import Asked, Model, answers_of
from latentserve.bulk.listing import Item
from latentserve.bulk.reading import read
from latentserve.bulk.schema import Answers

SIZE = 4
SCALE = 1000.0


class FakeEngine:
    """See `latentserve.bulk.engines.Engine`; `seen` is called with each batch before it is answered."""

    def __init__(self, asked: Asked, seen: Callable[[Sequence[Item]], None] = lambda _: None) -> None:
        self.model = Model("fake", 1, "es-fake", "cal-fake", SIZE, 0.05 if asked.scores else 0.0)
        self._asked, self._seen = asked, seen

    def answers(self, batches: Iterable[Sequence[Item]]) -> Iterator[Answers]:
        for batch in batches:
            self._seen(batch)
            given = [read(item, 100) for item in batch]
            rows = np.array([list(one.data[:SIZE].ljust(SIZE)) for one in given], np.float32) * SCALE
            errors = ["got '!', expected anything else" if one.data == b"!" else one.error for one in given]
            p_values = rows[:, 0].astype(np.float64) / 1e6
            scored = (p_values, p_values < 0.05) if self._asked.scores else ()
            yield answers_of(given, errors, rows if self._asked.embeds else None, *scored)


def files(folder: Path, num: int) -> Path:
    """A folder of so many items."""
    folder.mkdir()
    for number in range(num):
        (folder / f"{number:04}.png").write_text(chr(48 + number % 60) + str(number))
    return folder
