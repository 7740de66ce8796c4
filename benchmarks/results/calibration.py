"""Whether the promises of the scores hold: false alarms, conditional false alarms, false discoveries.

    python -m benchmarks.results.calibration build/demo-mnist/models/mnist-vae/1 [more bundles]

The rows that neither training nor the detectors saw (calibration and test split together) are scored once through the
exported graphs and split at random 200 times: n rows calibrate, the others are tested. Then the real server is started
over each bundle and scores the test rows, with the calibration in the bundle.

A rate counted over m rows with one calibration set of n is not binomial: the set itself is a draw, and flagged rows are
beta-binomial. Both 99 % bands are shown; the narrower binomial one is that of the mean over all splits, where the
calibration sets average out.

Shape legend: N rows, n calibration rows, m tested rows.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.processes.served import ServedProcess
from export.graphs import GraphRunner
from latentserve import bundle, records
from latentserve.bundle import Manifest
from latentserve.client import Client
from latentserve.conformal import at_most, conditional_p_values, num_small_p_values, p_values, rejected
from training.data import Data
from training.evaluation.ood_sets import ood_rows
from training.running.run import Run

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "calibration.json"
ALPHAS = (0.01, 0.05, 0.1)
CALIBRATION_ROWS = (1000, 5000)
NUM_SPLITS = 200
BAND = 0.99
BATCH, CONTAMINATION, OOD = 1000, 0.1, "noise"


@dataclass(frozen=True)
class Options:
    """Checks the promises of some bundles.

    Attributes:
        bundles: folders of bundles.
        record: write docs/results/calibration.json.
    """

    bundles: Annotated[tuple[Path, ...], tyro.conf.Positional]
    record: bool = False


@dataclass(frozen=True)
class CheckedPromise:
    """One promise and what was counted.

    Attributes:
        bundle: name, version and precision.
        what: `dealt false alarms`, `dealt conditional` or `dealt false discoveries`, over random splits; `served
            marginal` or `served conditional`, of the running server.
        num_calibration_rows: n.
        alpha: level.
        rate: share flagged (the mean over random splits); of discoveries the share of false ones.
        low: of the band that the rate must lie in.
        high: of it.
        inside: share of splits whose own rate lies in the 99 % beta-binomial band, or 1 and 0 of a single one.
        broken: share of splits whose rate is above alpha; promised to be at most delta by the conditional guarantee.
        kept: whether the promise was kept.
    """

    bundle: str
    what: str
    num_calibration_rows: int
    alpha: float
    rate: float
    low: float
    high: float
    inside: float
    broken: float
    kept: bool


def main(options: Options) -> int:
    """Prints what was promised and what was counted; returns 1 if a promise was broken."""
    promises: list[CheckedPromise] = []
    for folder in options.bundles:
        manifest = bundle.load(folder.resolve())
        data = records.from_json(Run, manifest.provenance.config).load_data()
        promises += on_random_splits(folder.resolve(), manifest, data)
        promises += served(folder.resolve(), manifest, data)
    show(promises)
    if options.record:
        RESULTS.write_text(
            json.dumps({"promises": [vars(promise) for promise in promises]}, indent=2, default=bool) + "\n"
        )
        print(RESULTS)
    return int(not all(promise.kept for promise in promises))


def label(manifest: Manifest) -> str:
    """Name, version and precision."""
    return f"{manifest.name}/{manifest.version} {manifest.precision}"


def on_random_splits(folder: Path, manifest: Manifest, data: Data) -> Iterator[CheckedPromise]:
    """The promises over random splits of the rows that neither training nor the detectors saw."""
    runner = GraphRunner(folder, manifest.graphs.values())
    unseen = np.concatenate([data.calibration.values, data.test.values])
    scores_N = runner.run(unseen)["scores"][:, 0]
    ood_N = runner.run(ood_rows(OOD, data.test.values))["scores"][:, 0]
    detector, name = manifest.detectors[0], label(manifest)
    for num in (num for num in CALIBRATION_ROWS if num < len(scores_N) // 2):

        def conditional(p_N: NDArray[np.float64], num: int = num) -> NDArray[np.float64]:
            return conditional_p_values(p_N, num, detector.delta, detector.adjustment)

        for alpha in ALPHAS:
            yield _false_alarms(name, scores_N, num, alpha)
            yield _conditional(name, scores_N, num, alpha, detector.delta, conditional)
        for alpha in ALPHAS:
            yield _false_discoveries(name, scores_N, ood_N, num, alpha)


def random_splits(scores_N: NDArray[Any], num: int) -> Iterator[tuple[NDArray[Any], NDArray[Any], np.random.Generator]]:
    """Sorted calibration scores, the other scores in random order, and a generator; the same splits every time."""
    for seed in range(NUM_SPLITS):
        rng = np.random.default_rng([seed, num])
        order = rng.permutation(len(scores_N))
        yield np.sort(scores_N[order[:num]]), scores_N[order[num:]], rng


def _false_alarms(name: str, scores_N: NDArray[Any], num: int, alpha: float) -> CheckedPromise:
    rates = np.array(
        [
            at_most(p_values(tested, calibration), alpha).mean()
            for calibration, tested, _ in random_splits(scores_N, num)
        ]
    )
    num_tested = len(scores_N) - num
    k = num_small_p_values(num, alpha)
    low, high = stats.betabinom(num_tested, k, num + 1 - k).interval(BAND)
    inside = float(((low / num_tested <= rates) & (rates <= high / num_tested)).mean())
    # Any row of a split is flagged with a probability of k / (n + 1): the band of one count over all rows is generous.
    band = stats.binom(len(scores_N), k / (num + 1)).interval(BAND)
    least, most = (float(edge) / len(scores_N) for edge in band)
    kept = least <= rates.mean() <= most and inside >= stats.binom(NUM_SPLITS, BAND).ppf(0.001) / NUM_SPLITS
    return CheckedPromise(
        name,
        "dealt false alarms",
        num,
        alpha,
        float(rates.mean()),
        least,
        most,
        inside,
        float((rates > alpha).mean()),
        kept,
    )


def _conditional(
    name: str,
    scores_N: NDArray[Any],
    num: int,
    alpha: float,
    delta: float,
    conditional: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> CheckedPromise:
    rates = np.array(
        [
            at_most(conditional(p_values(tested, calibration)), alpha).mean()
            for calibration, tested, _ in random_splits(scores_N, num)
        ]
    )
    broken = float((rates > alpha).mean())
    return CheckedPromise(
        name, "dealt conditional", num, alpha, float(rates.mean()), 0.0, alpha, 1 - broken, broken, broken <= delta
    )


def _false_discoveries(
    name: str, scores_N: NDArray[Any], ood_N: NDArray[Any], num: int, alpha: float
) -> CheckedPromise:
    """Benjamini and Hochberg's procedure on batches of which a tenth of the rows is out-of-distribution."""
    num_ood = int(CONTAMINATION * BATCH)
    shares = []
    for calibration, tested, rng in random_splits(scores_N, num):
        batch = np.concatenate([tested[: BATCH - num_ood], rng.choice(ood_N, num_ood, replace=False)])
        flagged = rejected(p_values(batch, calibration), alpha)
        shares.append(flagged[: BATCH - num_ood].sum() / max(1, flagged.sum()))
    rate, error = float(np.mean(shares)), float(np.std(shares) / np.sqrt(NUM_SPLITS))
    broken = float((np.array(shares) > alpha).mean())
    return CheckedPromise(
        name, "dealt false discoveries", num, alpha, rate, 0.0, alpha, 1 - broken, broken, rate - 2.58 * error <= alpha
    )


def served(folder: Path, manifest: Manifest, data: Data) -> Iterator[CheckedPromise]:
    """The promises of the running server, with the calibration in the bundle, on the test rows."""
    num, num_test = manifest.detectors[0].num_calibration_rows, len(data.test)
    with tempfile.TemporaryDirectory() as scratch:
        models = Path(scratch) / "models"
        (models / manifest.name).mkdir(parents=True)
        (models / manifest.name / str(manifest.version)).symlink_to(folder)
        with ServedProcess(models, Path(scratch) / "log") as server, Client(server.target, 300) as client:
            for alpha in ALPHAS:
                k = num_small_p_values(num, alpha)
                edges = stats.betabinom(num_test, k, num + 1 - k).interval(BAND)
                low, high = (float(edge) / num_test for edge in edges)
                rate = float(client.score(data.test.values, alpha).flagged.mean())
                inside = low <= rate <= high
                yield CheckedPromise(
                    label(manifest), "served marginal", num, alpha, rate, low, high, inside, rate > alpha, bool(inside)
                )
                if not at_most(manifest.detectors[0].smallest_conditional_p_value, alpha):
                    continue  # the server refuses it
                rate = float(client.score(data.test.values, alpha, guarantee="conditional").flagged.mean())
                kept = rate <= alpha
                yield CheckedPromise(
                    label(manifest), "served conditional", num, alpha, rate, 0.0, alpha, kept, not kept, kept
                )


def show(promises: list[CheckedPromise]) -> None:
    """Prints a table."""
    table = Table(title=f"{NUM_SPLITS} random splits; band {BAND:.0%}", title_justify="left")
    for heading in ("bundle", "what", "n", "alpha", "rate", "band", "splits inside", "splits above alpha", "kept"):
        table.add_column(heading, justify="left" if heading in ("bundle", "what") else "right")
    for one in promises:
        band = f"{one.low:.2%} to {one.high:.2%}"
        cells = (f"{one.rate:.2%}", band, f"{one.inside:.1%}", f"{one.broken:.1%}", "yes" if one.kept else "NO")
        table.add_row(
            one.bundle,
            one.what.replace("dealt", "splits:").replace("served", "server:"),
            str(one.num_calibration_rows),
            f"{one.alpha:g}",
            *cells,
        )
    console = Console()
    if not console.is_terminal:
        console.width = 150
    console.print(table)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.results.calibration")))
