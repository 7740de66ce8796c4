"""`python -m export ood BUNDLE --against ...`: how well a bundle's scores tell strange rows from usual ones.

Everything runs through the exported graphs; the bundle is left as it is. Which detector decides was settled when the
bundle was made, without any of these sets: the table is an examination, not a choice.

What a set may be called: one made from the test rows (`training.evaluation.strange`), another data set by its spec,
`others` (what a model of `mnist[label=0]` never saw), or the control `saved_again`, which must stay near 0.5. If one
side of a comparison was a JPEG file, both become one, or the file format would be what is told apart.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from export.graphs import GraphRunner
from export.strange_sets import AGAINST, OTHERS, check_set
from latentserve import bundle, records
from latentserve.bundle import Manifest
from latentserve.conformal import p_values
from latentserve.errors import BundleError
from training.data import AudioShape, Data, load_data
from training.data.subset import Subset
from training.evaluate import in_shape_of, say
from training.evaluation.separation import Separation, separation
from training.evaluation.strange import CONTROL, known_sets, saved_as, strange_rows
from training.options import check_new_file, check_options, check_seed, in_words
from training.report import Section, plot_roc, plot_scores, render_report
from training.run import Run

JPEG_SETS = ("cifar10",)
"""Data sets whose images were JPEG files."""
MOST_ROWS = 5000


@dataclass(frozen=True)
class Options:
    """Asks a bundle about rows unlike its training data.

    Attributes:
        bundle: folder of it, <repository>/<name>/<version>.
        against: see `AGAINST`.
        rows: of each set at most.
        seed: draws what is random in the sets.
        json: file for the figures; none is written by default.
        html: file for the page with histograms and ROC curves; none is written by default.
    """

    bundle: Annotated[Path, tyro.conf.Positional]
    against: Annotated[tuple[str, ...], tyro.conf.arg(help=AGAINST)] = ()
    rows: int = MOST_ROWS
    seed: int = 0
    json: Path | None = None
    html: Path | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.rows < 1:
            raise ValueError(f"rows: got {self.rows}, expected 1 or more")
        if self.json is not None and self.json == self.html:
            raise ValueError(f"html: got {self.html}, expected another file than that of json")


@dataclass(frozen=True)
class Row:
    """One detector against one set.

    Attributes:
        against: the set.
        detector: the column of `scores`; the first of a bundle decides.
        figures: see `Separation`.
        share_flagged: of the set, at `alpha`.
        usual_flagged: of the test rows, at `alpha`: near it if calibration holds.
    """

    against: str
    detector: str
    figures: Separation
    share_flagged: float
    usual_flagged: float


@dataclass(frozen=True)
class Examination:
    """What was found.

    Attributes:
        model: name and version of the bundle.
        data: spec whose test rows are the usual ones.
        num_usual: rows.
        alpha: the bundle's default.
        seed: of the sets.
        rows: one for each set and detector.
    """

    model: str
    data: str
    num_usual: int
    alpha: float
    seed: int
    rows: tuple[Row, ...]


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
        print(options.json)
    if options.html is not None:
        options.html.write_text(page(found, scores), encoding="utf-8")
        print(options.html)
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
    usual = _some(data.test.values, options)
    usual_scores = {name: runner.run(rows)["scores"] for name, rows in _usual_rows(usual, data, names)}
    rows, kept = [], {run.data: usual_scores[""][:, 0]}
    for name in names:
        say(f"against {name}")
        strange = runner.run(_as_files(_set(name, run, usual, options), data, name))["scores"]
        beside = usual_scores["JPEG" if _is_jpeg(data, name) else ""]
        kept[name] = strange[:, 0]
        rows += list(_rows(name, manifest, calibration, beside, strange))
    model = f"{manifest.name}/{manifest.version}"
    found = Examination(model, run.data, len(usual), manifest.default_alpha, options.seed, tuple(rows))
    return found, kept


def _rows(
    against: str, manifest: Manifest, calibration: dict[str, NDArray[np.float32]], usual_NK: Any, strange_MK: Any
) -> Iterator[Row]:
    for column, detector in enumerate(manifest.detectors):
        usual, strange = usual_NK[:, column], strange_MK[:, column]
        flagged = [
            float((p_values(scores, calibration[detector.name]) <= manifest.default_alpha).mean())
            for scores in (strange, usual)
        ]
        yield Row(against, detector.name, separation(usual, strange), *flagged)


def _some(rows: NDArray[Any], options: Options) -> NDArray[Any]:
    order = np.random.default_rng(options.seed).permutation(len(rows))[: options.rows]
    some: NDArray[Any] = rows[np.sort(order)]
    return some


def _set(name: str, run: Run, usual: NDArray[Any], options: Options) -> NDArray[Any]:
    """The strange rows, as many as the usual ones where there are."""
    if name == CONTROL:
        return usual
    if name in known_sets(usual):
        return strange_rows(name, usual, options.seed)
    if name == OTHERS:
        subset = Subset.parse(run.data)
        assert subset is not None  # or it would have been refused before
        return _some(subset.others(_whole(subset, run)).values, options)
    return _some(in_shape_of(run, name).test.values, options)


def _whole(subset: Subset, run: Run) -> Data:
    shape = run.shape
    if isinstance(shape, AudioShape):
        named = subset.base.startswith("audio:")
        return load_data(
            subset.base,
            seed=run.loop.seed,
            sample_rate_hz=shape.sample_rate_hz if named else None,
            num_samples=shape.num_samples,
        )
    return load_data(subset.base, shape.image_size, run.loop.seed)


def _is_jpeg(data: Data, name: str) -> bool:
    """Whether one side of the comparison was a file of JPEG, and the sides come from different files."""
    return name != OTHERS and any(spec.split("[")[0] in JPEG_SETS for spec in (data.spec, name))


def _usual_rows(usual: NDArray[Any], data: Data, names: Sequence[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    yield "", usual
    if any(_is_jpeg(data, name) for name in names):
        # Images that were JPEG files stay as they are: the control asks what another saving does to them.
        yield "JPEG", usual if data.spec.split("[")[0] in JPEG_SETS else saved_as(usual, "JPEG")


def _as_files(rows: NDArray[Any], data: Data, name: str) -> NDArray[Any]:
    """As files: JPEG where one side of the comparison is; else only the control is saved, which must change nothing."""
    if rows.dtype == np.uint8 and _is_jpeg(data, name):
        return saved_as(rows, "JPEG")
    return saved_as(rows, "PNG") if rows.dtype == np.uint8 and name == CONTROL else rows


def print_examination(found: Examination) -> None:
    """To the terminal: every figure of the deciding detector, then the AUROC of each."""
    console = Console()
    if not console.is_terminal:
        console.width = 160
    title = f"{found.model} through ONNX: {found.num_usual} test rows of {found.data} against strange ones"
    for headings, rows in tables(found):
        table = Table(title=title, title_justify="left")
        for heading in headings:
            table.add_column(heading, justify="right" if heading != "against" else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def tables(found: Examination) -> list[tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]]:
    """Headings and rows, as text: the deciding detector, then all detectors."""
    deciding = found.rows[0].detector
    detectors = tuple(dict.fromkeys(row.detector for row in found.rows))
    sets = tuple(dict.fromkeys(row.against for row in found.rows))
    area = {(row.against, row.detector): row.figures.auroc for row in found.rows}
    figures = tuple(name.replace("_", " ") for name in asdict(found.rows[0].figures))
    first = tuple(
        (row.against, *(f"{value:.4f}" for value in asdict(row.figures).values()), f"{row.share_flagged:.2%}")
        for row in found.rows
        if row.detector == deciding
    )
    second = tuple((name, *(f"{area[name, detector]:.4f}" for detector in detectors)) for name in sets)
    return [
        (("against", *figures, f"flagged at {found.alpha:g}"), first),
        (("against", *(f"auroc {detector}" for detector in detectors)), second),
    ]


def page(found: Examination, scores: dict[str, NDArray[np.float32]]) -> str:
    """The tables, a histogram and ROC curves, as HTML."""
    usual, *_ = scores
    strange = {name: of_set for name, of_set in scores.items() if name != usual}
    first, second = tables(found)
    note = (
        f"{found.num_usual} test rows of {found.data}, through the exported graphs. {found.rows[0].detector} decides:"
        " settled when the bundle was made, without any of these sets. Two conventions of FPR at 95 %: with strange"
        f" rows as the positives, and with usual rows. At alpha {found.alpha:g},"
        f" {found.rows[0].usual_flagged:.2%} of the usual rows are flagged."
    )
    sections = [
        Section("The deciding detector", note, *first),
        Section("Histogram", figure=plot_scores(scores[usual], strange)),
        Section(
            "ROC curves",
            "The share of usual rows flagged, on a logarithmic axis.",
            figure=plot_roc(found_rates(scores)),
        ),
        Section("Every detector", "Area under the ROC curve.", *second),
    ]
    return render_report(f"{found.model}: strange rows", sections)


def found_rates(scores: dict[str, NDArray[np.float32]]) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """For each set the shares of usual and of strange rows at or above every usual score."""
    usual, *sets = scores
    levels = np.sort(scores[usual])[::-1]
    alarms = np.arange(1, len(levels) + 1) / len(levels)
    return {name: (alarms, np.array([(scores[name] >= level).mean() for level in levels])) for name in sets}
