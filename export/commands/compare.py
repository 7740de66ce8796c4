"""`python -m export compare A B --data SPEC`: two bundles on one's own data, through their graphs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from export.comparison.examination import Choices, compare
from export.comparison.page import page
from export.comparison.rows import FEWEST_TEST_ROWS
from export.comparison.tables import print_comparison
from export.ood_data import AGAINST
from latentserve import records
from latentserve.errors import BundleError
from latentserve.spelling import as_typed
from training.options import check_new_file, check_options, check_seed, in_words


@dataclass(frozen=True)
class Options:
    """Compares two bundles: what can be read from their embeddings, what they flag, how alike they are, what they cost.

    The rows are the same for both, each at its own size, channels and pixel rule. Neither bundle is changed.

    Attributes:
        a: folder of one bundle, <repository>/<name>/<version>.
        b: folder of the other.
        data: data set to compare them on; default: the one that A was trained on.
        against: see `AGAINST`.
        rows: training rows, test rows, and rows of each set, at most; of more they are drawn.
        alpha: level at which rows are flagged; default: the one that A was calibrated for.
        seed: draws rows, and what is random in the sets.
        json: file for the figures; none is written by default.
        html: file for the page; none is written by default.
    """

    a: Annotated[Path, tyro.conf.Positional]
    b: Annotated[Path, tyro.conf.Positional]
    data: str | None = None
    against: Annotated[tuple[str, ...], tyro.conf.arg(help=AGAINST)] = ()
    rows: int = 10_000
    alpha: float | None = None
    seed: int = 0
    json: Path | None = None
    html: Path | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.rows < FEWEST_TEST_ROWS:
            raise ValueError(f"rows: got {self.rows}, expected {FEWEST_TEST_ROWS} or more")
        if self.alpha is not None and not 0 < self.alpha < 1:
            raise ValueError(f"alpha: got {self.alpha}, expected between 0 and 1")
        if self.json is not None and self.json == self.html:
            raise ValueError(f"html: got {self.html}, expected another file than that of json")


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    try:
        options = tyro.cli(Options, args=arguments, prog=as_typed("python -m export compare"))
        check_options(options)
        check_new_file("json", options.json)
        check_new_file("html", options.html)
        choices = Choices(options.data, options.against, options.rows, options.alpha, options.seed)
        found = compare(options.a, options.b, choices)
    except (BundleError, ValueError, OSError, MemoryError) as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 1
    print_comparison(found)
    if options.json is not None:
        records.write(found, options.json)
        print(records.printable(str(options.json)))
    if options.html is not None:
        options.html.write_text(page(found), encoding="utf-8")
        print(records.printable(str(options.html)))
    return 0
