"""`python -m export ood BUNDLE --against ...`: how well a bundle's scores tell strange rows from usual ones.

Everything runs through the exported graphs; the bundle is left as it is. Which detector decides was settled when the
bundle was made, without any of these sets: the table is an examination, not a choice.

What a set may be called: one made from the test rows (`training.evaluation.ood_sets`), another data set by its spec,
`others` (what a model of `mnist[label=0]` never saw), rows of one's own (`folder:PATH`, `wds:PATTERN`, `audio:PATH`:
all of them, be it one), or the control `saved_again`, which must stay near 0.5. If one
side of a comparison was a JPEG file, both become one, or the file format would be what is told apart.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from export.graphs import GraphRunner
from export.ood_report import Examination, Row, page, print_examination
from export.ood_sets import AGAINST, OTHERS, check_set
from latentserve import bundle, records
from latentserve.bundle import Manifest
from latentserve.conformal import at_most, p_values
from latentserve.errors import BundleError
from training.data import AudioShape, Data, load_data
from training.data.subset import Subset
from training.evaluation.command import every_row_in_shape_of, in_shape_of, say
from training.evaluation.intervals import auroc_interval, share_interval
from training.evaluation.ood_sets import CONTROL, known_sets, ood_rows, saved_as
from training.evaluation.separation import separation
from training.options import check_new_file, check_options, check_seed, in_words
from training.running.run import Run

JPEG_SETS = ("cifar10",)
"""Data sets whose images were JPEG files."""
MOST_ROWS = 5000
"""Of sets made of the test rows, and of public ones."""


@dataclass(frozen=True)
class Options:
    """Asks a bundle about rows unlike its training data.

    Attributes:
        bundle: folder of it, <repository>/<name>/<version>.
        against: see `AGAINST`.
        rows: of each set at most; default: 5,000 of the test rows and of public sets, and all of one's own rows.
        seed: draws what is random in the sets.
        json: file for the figures; none is written by default.
        html: file for the page with histograms and ROC curves; none is written by default.
    """

    bundle: Annotated[Path, tyro.conf.Positional]
    against: Annotated[tuple[str, ...], tyro.conf.arg(help=AGAINST)] = ()
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
        options = tyro.cli(Options, args=arguments, prog="python -m export ood")
        check_options(options)
        check_new_file("json", options.json)
        check_new_file("html", options.html)
        found, scores = examine(options)
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


def examine(options: Options) -> tuple[Examination, dict[str, NDArray[np.float32]]]:
    """The figures, and the deciding scores of the test rows (under their spec) and of each set.

    Raises:
        BundleError: not a bundle, changed since it was made, or one that does not score.
        RunError: its provenance is no training run of ours, or its data changed.
        DataError: the data cannot be loaded.
        ValueError: no such set.
    """
    folder = options.bundle.resolve()
    manifest = bundle.load(folder)
    if not manifest.detectors:
        raise BundleError(f"{folder}: has no calibrated detector")
    calibration = bundle.load_calibration(folder, manifest)
    run = records.from_json(Run, manifest.provenance.config)
    for name in options.against:
        check_set(name, run)
    data = run.load_data()
    runner = GraphRunner(folder, manifest.graphs.values())
    names = tuple(dict.fromkeys(options.against)) or (*known_sets(data.test.values), CONTROL)
    in_dist = _some(data.test.values, options.rows or MOST_ROWS, options)
    id_scores = {name: runner.run(rows)["scores"] for name, rows in _id_rows(in_dist, data, names)}
    rows, kept = [], {run.data: id_scores[""][:, 0]}
    for name in names:
        say(f"against {name}")
        ood = runner.run(_as_files(_set(name, run, in_dist, options), data, name))["scores"]
        beside = id_scores["JPEG" if _is_jpeg(data, name) else ""]
        kept[name] = ood[:, 0]
        rows += list(_rows(name, manifest, calibration, beside, ood))
    model = f"{manifest.name}/{manifest.version}"
    found = Examination(model, run.data, len(in_dist), manifest.default_alpha, options.seed, tuple(rows))
    return found, kept


def _rows(
    against: str, manifest: Manifest, calibration: dict[str, NDArray[np.float32]], id_NK: Any, ood_MK: Any
) -> Iterator[Row]:
    for column, detector in enumerate(manifest.detectors):
        in_dist, ood = id_NK[:, column], ood_MK[:, column]
        flagged, id_flagged = (
            at_most(p_values(scores, calibration[detector.name]), manifest.default_alpha) for scores in (ood, in_dist)
        )
        figures = separation(in_dist, ood)
        shares = float(flagged.mean()), float(id_flagged.mean())
        of_auroc = auroc_interval(figures.auroc, len(in_dist), len(ood))
        of_flagged = share_interval(int(flagged.sum()), len(ood))
        yield Row(against, detector.name, figures, *shares, len(ood), of_auroc, of_flagged)


def _some(rows: NDArray[Any], num_rows: int | None, options: Options) -> NDArray[Any]:
    order = np.random.default_rng(options.seed).permutation(len(rows))[:num_rows]
    some: NDArray[Any] = rows[np.sort(order)]
    return some


def _set(name: str, run: Run, in_dist: NDArray[Any], options: Options) -> NDArray[Any]:
    """The strange rows: made of the usual ones as many as these, of one's own all."""
    if name == CONTROL:
        return in_dist
    if name in known_sets(in_dist):
        return ood_rows(name, in_dist, options.seed)
    if name == OTHERS:
        subset = Subset.parse(run.data)
        assert subset is not None  # or it would have been refused before
        return _some(subset.others(_whole(subset, run)).values, options.rows or MOST_ROWS, options)
    if name == run.data:
        return in_dist  # the rest was trained on
    if (own := every_row_in_shape_of(run, name)) is not None:
        return _some(own, options.rows, options)
    return _some(in_shape_of(run, name).test.values, options.rows or MOST_ROWS, options)


def _whole(subset: Subset, run: Run) -> Data:
    shape = run.shape
    if isinstance(shape, AudioShape):
        named = subset.base.startswith("audio:")
        return load_data(
            subset.base,
            seed=run.loop.seed,
            group_by=run.group_by,
            sample_rate_hz=shape.sample_rate_hz if named else None,
            num_samples=shape.num_samples,
        )
    return load_data(subset.base, shape.image_size, run.loop.seed, group_by=run.group_by)


def _is_jpeg(data: Data, name: str) -> bool:
    """Whether one side of the comparison was a file of JPEG, and the sides come from different files."""
    return name != OTHERS and any(spec.split("[")[0] in JPEG_SETS for spec in (data.spec, name))


def _id_rows(in_dist: NDArray[Any], data: Data, names: Sequence[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    yield "", in_dist
    if any(_is_jpeg(data, name) for name in names):
        # Images that were JPEG files stay as they are: the control asks what another saving does to them.
        yield "JPEG", in_dist if data.spec.split("[")[0] in JPEG_SETS else saved_as(in_dist, "JPEG")


def _as_files(rows: NDArray[Any], data: Data, name: str) -> NDArray[Any]:
    """As files: JPEG where one side of the comparison is; else only the control is saved, which must change nothing."""
    if rows.dtype == np.uint8 and _is_jpeg(data, name):
        return saved_as(rows, "JPEG")
    return saved_as(rows, "PNG") if rows.dtype == np.uint8 and name == CONTROL else rows
