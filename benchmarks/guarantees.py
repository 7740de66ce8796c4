"""Breaks every promise of docs/guarantees.md on purpose, and says whether its test notices.

    python -m benchmarks.guarantees              a few minutes
    python -m benchmarks.guarantees service/     those with this word in their row

The change is made in memory, in a forked process (`benchmarks.mutants.trial`).
"""

from __future__ import annotations

import ast
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.mutants.trial import ROOT, NoTests, prepare, seconds_unchanged, tried

PAGE = ROOT / "docs" / "guarantees.md"
_ROW = re.compile(r"^\| (?P<promise>.+) \| `(?P<test>\S+)` \| `(?P<file>\S+)`: `(?P<before>.+)` -> `(?P<after>.+)` \|$")


@dataclass(frozen=True)
class Guarantee:
    """A promise.

    Attributes:
        promise: in words.
        test: file::function.
        file: where the change is made.
        before: what stands there.
        after: what is put in its stead, once.
    """

    promise: str
    test: str
    file: str
    before: str
    after: str

    def broken(self) -> str:
        """The file's text with the change. Raises ValueError if what is to be changed is not there."""
        text = (ROOT / self.file).read_text()
        if self.before not in text:
            raise ValueError(f"{self.file}: got no {self.before!r}, expected it there as {PAGE.name} says")
        return text.replace(self.before, self.after, 1)


@dataclass(frozen=True)
class Options:
    """Breaks promises and runs their tests.

    Attributes:
        word: only promises with this word in their row; default: all.
    """

    word: Annotated[str, tyro.conf.Positional] = ""


def guarantees(page: Path = PAGE) -> list[Guarantee]:
    """Every row of the page. Raises ValueError if one cannot be read."""
    found = []
    for line in page.read_text().splitlines():
        if line.startswith("| ") and not line.startswith(("| promise |", "| --- |")):
            if (row := _ROW.match(line)) is None:
                raise ValueError(
                    f"{page.name}: got {line!r}, expected | promise | `test` | `file`: `before` -> `after` |"
                )
            found.append(Guarantee(**row.groupdict()))
    return found


def main(options: Options) -> int:
    """Prints each promise and what became of it; returns 1 if a broken one was not noticed."""
    folder = Path(tempfile.gettempdir()) / f"mutants-{os.getuid()}"
    prepare(folder)
    unnoticed = 0
    for one in guarantees():
        if options.word not in f"{one.promise} {one.test} {one.file}":
            continue
        try:
            seconds = seconds_unchanged((one.test,), folder)
            outcome = tried(one.file, ast.parse(one.broken()), (one.test,), folder, seconds)
        except NoTests as error:
            outcome, unnoticed = str(error), unnoticed + 1  # type: ignore[assignment]
        unnoticed += outcome == "survived"
        print(f"{outcome:>10}  {one.promise}", flush=True)
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.guarantees")))
