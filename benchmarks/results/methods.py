"""The figures of docs/methods/index.md: one line for each recorded recipe, in the order of the methods.

python -m benchmarks.results.methods             prints them
python -m benchmarks.results.methods --write     and puts them into the page
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

import numpy as np
import tyro

from benchmarks.results.recipes import ROOT, Recorded, recorded_recipes
from training.methods import METHODS

PAGE = ROOT / "docs" / "methods" / "index.md"
BEGIN, END = "<!-- python -m benchmarks.results.methods -->\n", "<!-- end -->"
LINEAR, NEAREST = "linear_probe_accuracy", "knn_20_accuracy"


@dataclass(frozen=True)
class Options:
    """Prints the figures of all methods.

    Attributes:
        write: put them into the page.
    """

    write: bool = False


def table() -> str:
    """As Markdown."""
    rows = [
        "| method | data | linear probe | kNN-20 | other figures | minutes | seeds |",
        "| --- | --- | ---: | ---: | --- | ---: | ---: |",
    ]
    found = sorted(recorded_recipes(), key=lambda one: (one[1].method, one[0]))
    rows += [_row(recorded) for _, _, recorded in found]
    without = sorted(set(METHODS) - {recorded.method for _, _, recorded in found})
    named = ", ".join(f"`{name}`" for name in without)
    return "\n".join(rows) + (f"\n\nNot recorded yet: {named}." if without else "")


def _row(recorded: Recorded) -> str:
    means = {name: float(np.mean(values)) for name, values in recorded.figures.items()}
    others = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in means.items() if name not in (LINEAR, NEAREST)]
    cells = (
        f"`{recorded.method}`",
        recorded.data,
        *(f"{means[name]:.4f}" if name in means else "" for name in (LINEAR, NEAREST)),
        ", ".join(others),
        f"{np.mean(recorded.seconds) / 60:.1f}",
        str(len(recorded.seeds)),
    )
    return f"| {' | '.join(cells)} |"


def with_table(page: str) -> str:
    """The page with the figures as they are recorded now."""
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: f"{BEGIN}{table()}\n{END}", page, flags=re.DOTALL)


def main(options: Options) -> int:
    """Prints, and writes if it is asked to."""
    print(table())
    if options.write:
        PAGE.write_text(with_table(PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.results.methods")))
