"""Few images: false alarms and AUROC over many draws of 40, 80 and 150 good magnetic tiles, frozen encoder.

    python -m benchmarks.results.few        half an hour of one core; goes on where it was stopped, prints the table
    python -m benchmarks.results.few --table         prints it from docs/results/few.json

A draw takes so many of the 952 good tiles; they are all that there is. A tenth is set aside for test, as ever. Three
ways to calibrate: crosswise (`export.crossing`), with a half of all, and with the 19 that a level of 5 % needs. The
false alarms are the share of 400 other good tiles that is flagged; the AUROC is theirs against 392 faulty tiles. An
average over draws is what the promise is about. No choice was made by the faulty tiles.

The encoder is ImageNet's MobileNetV2 up to block 17 (`benchmarks.encoders_brought.weights`), of tiles stretched to 160
x 160. Detectors on the input see them at 20 x 20 in grey: smaller than in a bundle, so that a fit takes little time.
`weighted` is the sum of all with equal weights: which it is of damaged rows is another question than what it promises.
What is done is kept in `--cache`; the same command goes on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from benchmarks.encoders_brought.mobilenet import WEIGHTS, block17
from export.crossing import crossed
from export.detectors import Scorer
from export.detectors.detector import Arrays
from export.detectors.power import Power
from latentserve import records
from latentserve.conformal import at_most, p_values
from latentserve.inputs import INPUT, Resize
from training.data import folder
from training.data.sizes import Size
from training.data.source import given_folder
from training.evaluation.separation import auroc

RESULT = Path(__file__).resolve().parents[2] / "docs" / "results" / "few.json"
KINDS = ("blowhole", "break", "crack", "fray", "uneven")
NUMBERS = (40, 80, 150)
ALPHAS = (0.05, 0.1)
NUM_OTHERS = 400
ENCODED, SEEN = 160, 20
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
FEWEST = 19
WAYS = {"cross": "crosswise", "half": "a half set aside", "need": "19 set aside"}
SHOWN = ("weighted", "cauchy", "mahalanobis")
"""What decides where the powers of detectors are known, what decides where they are not, and the best alone here."""


@dataclass(frozen=True)
class Options:
    """Runs the draws, or prints the table of those that were run.

    Attributes:
        table: prints the table of docs/results/few.json, and runs nothing.
        weights: of MobileNetV2, as `benchmarks.encoders_brought.weights` writes them.
        draws: how many.
        first: number of the first one, so that several processes can share the work.
        cache: folder for embeddings and for the draws that are done.
    """

    table: bool = False
    weights: Path = Path("/tmp/weights/mobilenetv2_features.pth")
    draws: int = 200
    first: int = 0
    cache: Path = Path("build/few")


@dataclass(frozen=True)
class Row:
    """One way to calibrate with so many tiles, one detector.

    Attributes:
        num_tiles: all that there are.
        way: key of `WAYS`.
        detector: name of the column.
        num_draws: that the figures are of.
        false_alarms: mean share of other good tiles flagged at each of `ALPHAS`.
        false_alarms_error: standard error of these means, over draws.
        auroc: mean.
        auroc_error: of it.
    """

    num_tiles: int
    way: str
    detector: str
    num_draws: int
    false_alarms: tuple[float, ...]
    false_alarms_error: tuple[float, ...]
    auroc: float
    auroc_error: float


@dataclass(frozen=True)
class Result:
    """All rows."""

    rows: tuple[Row, ...]


def main(options: Options) -> int:
    """Returns the exit status."""
    if options.table:
        print(table(records.read(Result, RESULT)))
        return 0
    torch.set_num_threads(1)
    options.cache.mkdir(parents=True, exist_ok=True)
    good, bad = tensors(options)
    num_detectors = len(Scorer.fit(None, _some(good, np.arange(40))).members)
    even_K = np.full(num_detectors, 0.75)
    power = Power(even_K, even_K[None], 100, np.array([100]))
    done = {(one["num_tiles"], one["draw"]) for one in kept(options.cache)}
    with (options.cache / f"draws-{options.first}.jsonl").open("a") as file:
        for draw in range(options.first, options.first + options.draws):
            for num in NUMBERS:
                if (num, draw) not in done:
                    line = {"num_tiles": num, "draw": draw, **drawn_once(good, bad, num, draw, power)}
                    print(json.dumps(line), file=file, flush=True)
    found = Result(tuple(summed(list(kept(options.cache)))))
    records.write(found, RESULT)
    print(table(found))
    return 0


def kept(cache: Path) -> Iterator[dict[str, Any]]:
    """The draws that are done."""
    for file in sorted(cache.glob("draws-*.jsonl")):
        yield from map(json.loads, file.read_text().splitlines())


def tensors(options: Options) -> tuple[Arrays, Arrays]:
    """Inputs and embeddings of the good tiles and of the faulty ones."""
    file = options.cache / "tiles.npz"
    if not file.exists():
        os.environ[WEIGHTS] = str(options.weights)
        place = given_folder()
        if place is None:
            raise SystemExit("LATENTSERVE_DATA: got nothing, expected the folder in which magnetic-tiles lies")
        network = block17().eval()
        found = {
            name: np.concatenate([_of(network, place / "magnetic-tiles" / kind, name) for kind in kinds])
            for kinds, names in ((("free",), ("good", "good_in")), (KINDS, ("bad", "bad_in")))
            for name in names
        }
        np.savez(file, **found)  # type: ignore[arg-type]
    with np.load(file) as arrays:
        return tuple({INPUT: arrays[f"{one}_in"], "embedding": arrays[one]} for one in ("good", "bad"))  # type: ignore[return-value]


def _of(network: torch.nn.Module, tiles: Path, name: str) -> NDArray[Any]:
    """Small grey tiles, or the embeddings of large ones."""
    side = SEEN if name.endswith("_in") else ENCODED
    rows = np.asarray(folder.read(str(tiles), Size(side, side, Resize("stretch", scaled=True))).values)
    if side == SEEN:
        return rows[..., :1]
    mean, std = (torch.tensor(of_colours)[:, None, None] for of_colours in (MEAN, STD))
    with torch.no_grad():
        floats = (
            torch.from_numpy(rows[start : start + 32]).permute(0, 3, 1, 2) / 255 for start in range(0, len(rows), 32)
        )
        return np.concatenate([network((some - mean) / std).numpy() for some in floats])


def drawn_once(good: Arrays, bad: Arrays, num: int, draw: int, power: Power) -> dict[str, Any]:
    """By way and detector: false alarms at each alpha, AUROC."""
    order = np.random.default_rng([draw, num]).permutation(len(good["embedding"]))
    own, others = order[num // 10 : num], order[num:][:NUM_OTHERS]
    found = dict[str, Any]()
    for way in WAYS:
        if way == "need" and num // 2 <= FEWEST + 1:
            continue  # it is the half
        if way == "cross":
            scorer, calibration, _ = crossed(None, _some(good, own), power=power)
        else:
            num_calibration = num // 2 if way == "half" else FEWEST
            scorer = Scorer.fit(None, _some(good, own[num_calibration:]), power=power)
            calibration = scorer.scores(_some(good, own[:num_calibration]))
        usual, faulty = scorer.scores(_some(good, others)), scorer.scores(bad)
        found[way] = {
            name: [*_rates(usual[:, k], calibration[:, k]), auroc(usual[:, k], faulty[:, k])]
            for k, name in enumerate(scorer.names)
        }
    return found


def _rates(scores: NDArray[Any], calibration: NDArray[Any]) -> list[float]:
    p = p_values(scores, np.sort(calibration))
    return [float(at_most(p, alpha).mean()) for alpha in ALPHAS]


def _some(arrays: Arrays, rows: NDArray[Any]) -> Arrays:
    return {name: array[rows] for name, array in arrays.items()}


def summed(draws: list[dict[str, Any]]) -> Iterator[Row]:
    """The means of each number of tiles, way and detector."""
    for num in NUMBERS:
        of_num = [one for one in draws if one["num_tiles"] == num]
        for way in WAYS:
            for name in of_num[0].get(way, {}) if of_num else ():
                figures = np.array([one[way][name][: len(ALPHAS) + 1] for one in of_num if way in one])
                mean, error = figures.mean(axis=0), figures.std(axis=0, ddof=1) / np.sqrt(len(figures))
                alarms = [tuple(round(float(x), 5) for x in of[:-1]) for of in (mean, error)]
                last = [round(float(of[-1]), 5) for of in (mean, error)]
                yield Row(num, way, name, len(figures), alarms[0], alarms[1], last[0], last[1])


def table(found: Result, shown: tuple[str, ...] = SHOWN) -> str:
    """As Markdown: false alarms and AUROC with two standard errors."""
    heads = [f"flagged at {alpha:g}" for alpha in ALPHAS]
    lines = [f"| tiles | calibrated | detector | draws | {' | '.join(heads)} | AUROC |"]
    lines.append("| ---: | --- | --- | ---: |" + " ---: |" * (len(ALPHAS) + 1))
    for row in (row for row in found.rows if row.detector in shown):
        shares = [
            f"{share:.1%} ± {2 * error:.1%}"
            for share, error in zip(row.false_alarms, row.false_alarms_error, strict=True)
        ]
        cells = [str(row.num_tiles), WAYS[row.way], row.detector, str(row.num_draws), *shares]
        lines.append(f"| {' | '.join(cells)} | {row.auroc:.3f} ± {2 * row.auroc_error:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.results.few")))
