"""Items to a server, many at a time: what is wrong with one is told beside it; an overloaded server is waited for."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from latentserve.cli.sources import Source
from latentserve.errors import InvalidInput, Overloaded

CHUNK = 256
"""Items of one call. One that cannot be taken has the others of its chunk sent again, each by itself."""
MOST_WAITS = 20
"""Times that an overloaded server is come back to for one chunk."""
_PLACE = re.compile(r"items\[(\d+)(?::\d+)?\]")


def each(
    items: Iterator[Source], call: Callable[[list[Any]], Any], size: int = CHUNK
) -> Iterator[tuple[Source, int, Any]]:
    """Of each item: itself, its number in what the call returned, and that; or the error that it is to blame for."""
    while some := list(itertools.islice(items, size)):
        try:
            found = patiently(call, [source.item for source in some])
        except InvalidInput as error:
            place = _PLACE.match(str(error))
            if place is None:  # of no item: of the model's name, or the level
                raise
            if size > CHUNK:  # they are decided on together: without one of them it would be another decision
                raise InvalidInput(some[int(place[1])].name + str(error)[place.end() :]) from error
            if len(some) == 1:
                yield some[0], 0, InvalidInput(str(error)[place.end() :].removeprefix(": "))
            else:
                yield from each(iter(some), call, 1)
        else:
            yield from ((source, number, found) for number, source in enumerate(some))


def patiently(call: Callable[[list[Any]], Any], items: list[Any]) -> Any:
    """Comes back to a server that is overloaded, when it says."""
    for _ in range(MOST_WAITS):
        try:
            return call(items)
        except Overloaded as error:
            if not error.retry_after_seconds:
                raise
            time.sleep(error.retry_after_seconds)
    return call(items)
