"""`python -m export ood BUNDLE --against ...`: how well a bundle's scores tell OOD rows from test rows.

Everything runs through the exported graphs; the bundle is left as it is. The detector that decides was chosen when the
bundle was made, without any of these sets: the table is an examination, not a choice.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from export.examination import examine
from export.ood_data import AGAINST
from export.ood_report import page, print_examination
from latentserve import records
from latentserve.errors import BundleError
from latentserve.spelling import as_typed
from training.options import check_new_file, check_options, check_seed, in_words


@dataclass(frozen=True)
class Options:
    """Evaluates the scores of a bundle on out-of-distribution (OOD) data.

    Attributes:
        bundle: folder of the bundle, <repository>/<name>/<version>.
        against: see `AGAINST`.
        masks: folder of masks of your own images, each with the stem of its image (or the stem and _mask): how well the
            anomaly map finds the pixels at fault; mvtec:PATH and csv:FILE bring theirs.
        rows: rows of each set, at most; default: 5,000 of the test rows and of public sets, and all of your own rows.
        seed: seeds what is random in the sets.
        json: file for the figures; none is written by default.
        html: file for the page with histograms and ROC curves; none is written by default.
    """

    bundle: Annotated[Path, tyro.conf.Positional]
    against: Annotated[tuple[str, ...], tyro.conf.arg(help=AGAINST)] = ()
    masks: Path | None = None
    rows: int | None = None
    seed: int = 0
    json: Path | None = None
    html: Path | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"rows: got {self.rows}, expected 1 or more")
        if self.json is not None and self.json == self.html:
            raise ValueError(f"html: got {self.html}, expected another file than that of json")


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    try:
        options = tyro.cli(Options, args=arguments, prog=as_typed("python -m export ood"))
        check_options(options)
        check_new_file("json", options.json)
        check_new_file("html", options.html)
        found, scores = examine(options.bundle, options.against, options.rows, options.seed, options.masks)
    except (BundleError, ValueError, OSError, MemoryError) as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 1
    print_examination(found)
    if options.json is not None:
        records.write(found, options.json)
        print(records.printable(str(options.json)))
    if options.html is not None:
        options.html.write_text(records.printable(page(found, scores)), encoding="utf-8")
        print(records.printable(str(options.html)))
    return 0
