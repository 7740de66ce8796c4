"""Whether alpha holds for new pictures where training pictures have copies, or come in bursts.

    python -m benchmarks.results.copies            (three minutes on one core)

Each draw makes 1,000 pictures and writes each of them once, twice or four times, or as a burst of ten frames that
differ in grain, exposure and a step aside; splits all rows as `--data folder:` does, fits an encoder (principal
components) and every detector on the training rows, calibrates, and counts the false alarms among 2,000 new pictures of
the same kind. Beside it, the same with rows parted as if each were a picture of its own.

A rate counted over m new rows with one calibration set of n is beta-binomial; the band is that of the mean over draws.

Shape legend: N rows, H height, W width, C channels, n calibration rows.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import stats
from torch import nn

from export.calibration import Promise, calibrate
from export.detectors import Scorer
from latentserve import records
from latentserve.conformal import at_most, num_small_p_values, p_values
from latentserve.inputs import INPUT
from training.data import Data, Rows
from training.data.grouping import GroupBy
from training.data.rows import split_off, three_splits
from training.evaluation.baselines import principal_components

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "copies.json"
ALPHAS = (0.01, 0.05, 0.1)
PICTURES, NEW_PICTURES, IMAGE_SIZE, TILES = 1000, 2000, 16, 8
"""Pictures are mosaics of 8 x 8 grey tiles."""
EMBEDDING_DIM = 32
DRAWS, PARTED_DRAWS = 20, 3
GRAIN, EXPOSURE = 6.0, 0.1
"""Standard deviation of a frame's noise, in grey levels; how much brighter or darker a frame is at most."""
BAND = 0.99


@dataclass(frozen=True)
class Case:
    """One kind of folder.

    Attributes:
        name: for people.
        copies: files of each picture.
        frames: whether they are frames of a burst; else they are equal.
        aside: share of the frames that are a step of one pixel aside: of 16, too far for the perceptual hash.
        frozen: rows besides that are one and the same picture.
        group_by: as on the command line.
    """

    name: str
    copies: int
    frames: bool = False
    aside: float = 0.0
    frozen: int = 0
    group_by: str | None = None


CASES = (
    Case("1 copy", 1),
    Case("2 copies", 2),
    Case("4 copies", 4),
    Case("bursts of 10, by name", 10, frames=True, aside=0.25, group_by=r"name:(burst\d+)_"),
    Case("bursts of 10, nearly equal", 10, frames=True, group_by="near"),
    Case("half of all rows one picture", 1, frozen=PICTURES),
)


@dataclass(frozen=True)
class Counted:
    """False alarms of one case at one level.

    Attributes:
        case: its name.
        alpha: level.
        num_calibration_rows: n.
        rate: of new pictures flagged, the mean over draws.
        low: of the 99 % band of that mean.
        high: of it.
        inside: draws whose own rate lies in its 99 % band.
        draws: all of them.
        parted: the rate if rows were parted as if each were a picture of its own; None where that is the same.
        kept: whether rate and draws lie where they should.
    """

    case: str
    alpha: float
    num_calibration_rows: int
    rate: float
    low: float
    high: float
    inside: int
    draws: int
    parted: float | None
    kept: bool


@dataclass(frozen=True)
class Recorded:
    """What is written to docs/results/copies.json."""

    pictures: int
    new_pictures: int
    counted: tuple[Counted, ...]


@dataclass(frozen=True)
class Options:
    """Counts false alarms where pictures have copies.

    Attributes:
        draws: number of random draws of pictures for each case.
        record: write docs/results/copies.json.
    """

    draws: int = DRAWS
    record: bool = False

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"draws: got {self.draws}, expected 1 or more")


def main(options: Options) -> int:
    """Prints what was counted; returns 1 if a rate left its band."""
    counted = tuple(one for case in CASES for one in measure(case, options.draws))
    show(counted)
    if options.record:
        records.write(Recorded(PICTURES, NEW_PICTURES, counted), RESULTS)
        print(RESULTS)
    return int(not all(one.kept for one in counted))


def measure(case: Case, draws: int) -> Iterator[Counted]:
    """A case at every level."""
    p_of_draws, num = [], 0
    for seed in range(draws):
        data, new = draw(case, seed)
        p, num = p_of_new(data, new)
        p_of_draws.append(p)
    differs = case.copies > 1 or case.frozen > 0
    parted = [p_of_new(*draw(case, seed, parted=True))[0] for seed in range(min(draws, PARTED_DRAWS) if differs else 0)]
    print(f"{case.name}: done", file=sys.stderr, flush=True)
    for alpha in ALPHAS:
        rates = [float(at_most(p, alpha).mean()) for p in p_of_draws]
        broken = [float(at_most(p, alpha).mean()) for p in parted]
        yield counted_of(case.name, alpha, num, rates, float(np.mean(broken)) if broken else None)


def counted_of(name: str, alpha: float, num: int, rates: list[float], parted: float | None) -> Counted:
    """The rates of the draws, and whether they lie within their band."""
    k, draws = num_small_p_values(num, alpha), len(rates)
    count = stats.betabinom(NEW_PICTURES, k, num + 1 - k)
    means = count.rvs((20_000, draws), random_state=0).mean(axis=1) / NEW_PICTURES
    low, high = np.quantile(means, [(1 - BAND) / 2, (1 + BAND) / 2])
    least, most = (edge / NEW_PICTURES for edge in count.interval(BAND))
    inside = int(sum(least <= rate <= most for rate in rates))
    rate = float(np.mean(rates))
    kept = bool(low <= rate <= high and inside >= stats.binom(draws, BAND).ppf(0.001))
    return Counted(name, alpha, num, rate, float(low), float(high), inside, draws, parted, kept)


def draw(case: Case, seed: int, parted: bool = False) -> tuple[Data, NDArray[np.uint8]]:
    """A folder in its splits, and new pictures of its kind: of bursts one frame each."""
    rng = np.random.default_rng([seed, case.copies])
    tiles = rng.integers(0, 256, (PICTURES + NEW_PICTURES, TILES, TILES, 1))
    pictures = grained(tiles.repeat(IMAGE_SIZE // TILES, axis=1).repeat(IMAGE_SIZE // TILES, axis=2), rng)
    new, known = pictures[PICTURES:], pictures[:PICTURES].repeat(case.copies, axis=0)
    if case.frames:
        new, known = frame(new, case.aside, rng), frame(known, case.aside, rng)
    frozen = pictures[:1].repeat(case.frozen, axis=0)
    rows = Rows(np.concatenate([known, frozen]))
    names = [f"burst{row // case.copies}_{row % case.copies}.png" for row in range(len(known))]
    if parted:
        rest, test = split_off(rows, len(rows) // 10, seed)
        return Data("parted", *split_off(rest, len(rows) // 10, seed), test), new
    if case.group_by:
        rule = GroupBy.parse(case.group_by, "folder")
        units_N = rule.of_names(names)
        rows = Rows(rows.values, units_N=rule.of_rows(rows.values) if units_N is None else units_N)
    with contextlib.redirect_stderr(io.StringIO()):  # that rows have twins, each time
        return three_splits(case.name, rows, seed), new


def frame(images_NHWC: NDArray[np.uint8], aside: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """As a burst would have them: exposed a little more or less, some a pixel aside, with grain of their own."""
    exposed = images_NHWC * (1 + rng.uniform(-EXPOSURE, EXPOSURE, (len(images_NHWC), 1, 1, 1)))
    moved = rng.random(len(images_NHWC)) < aside
    exposed[moved] = np.roll(exposed[moved], 1, axis=2)
    return grained(exposed, rng)


def grained(images_NHWC: NDArray[Any], rng: np.random.Generator) -> NDArray[np.uint8]:
    """With noise."""
    return np.rint(images_NHWC + rng.normal(0, GRAIN, images_NHWC.shape)).clip(0, 255).astype(np.uint8)


def p_of_new(data: Data, new: NDArray[np.uint8]) -> tuple[NDArray[np.float64], int]:
    """p-values of new pictures by the deciding detector, and how many rows calibrated it."""
    encode = principal_components(data.train.values, EMBEDDING_DIM)

    def tensors(rows: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        return {INPUT: rows, "embedding": encode(rows)}

    scorer = Scorer.fit(nn.Module(), tensors(data.train.values), data.train.units_N)
    scores = scorer.scores(tensors(data.calibration.values))[:, 0]
    _, calibration = calibrate(scorer.names[0], scorer.methods[0], scores, Promise())
    return p_values(scorer.scores(tensors(new))[:, 0], calibration), len(calibration)


def show(counted: tuple[Counted, ...]) -> None:
    """To the terminal."""
    table = Table(title=f"False alarms on {NEW_PICTURES:,} new pictures", title_justify="left")
    for heading in ("rows", "alpha", "n", "rate", "99 % band", "draws inside", "parted", "kept"):
        table.add_column(heading, justify="left" if heading == "rows" else "right")
    for one in counted:
        cells = asdict(one)
        parted = "" if one.parted is None else f"{one.parted:.1%}"
        band = f"{one.low:.2%} to {one.high:.2%}"
        inside = f"{one.inside} of {one.draws}"
        table.add_row(
            one.case, f"{one.alpha:g}", str(cells["num_calibration_rows"]), f"{one.rate:.2%}", band, inside, parted,
            "yes" if one.kept else "NO",
        )  # fmt: skip
    console = Console()
    if not console.is_terminal:
        console.width = 120
    console.print(table)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.results.copies")))
