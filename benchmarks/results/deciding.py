"""What weights from damaged rows are worth, beside other rules: how docs/adr/0025 was decided.

    python -m benchmarks.results.deciding models/tiles/1 --against folder:faults others --keep build/deciding
    python -m benchmarks.results.deciding build/deciding/*.npz           the same tables from scores that were kept
    python -m benchmarks.results.deciding build/deciding/*.npz --few 20 40 80     with so few reference rows

Of each bundle the reference rows, damaged ones of each kind, the test rows and the sets are scored through its graphs.
A rule makes weights of what detectors see of damaged rows; the sets have no say. `cauchy` and `bonferroni` are what
decided before there were weights; `best of all` is the best single detector on that very set, which nobody knows.

Shape legend: N rows, K detectors, D kinds of damage.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from export.damage import KINDS_OF_IMAGES, KINDS_OF_SOUNDS, damage
from export.detectors.drawing import draw
from export.detectors.fusion import FUSED, Fusion
from export.detectors.power import Power, power_of
from export.graphs import GraphRunner
from export.ood_data import Sample, as_files, id_rows_of, is_jpeg, ood_set
from export.origin import read_config
from export.streaming import to_fit_on
from latentserve import bundle
from training.data import Data
from training.data.rows import Values
from training.data.units import equal_rows
from training.evaluation.ood_sets import known_sets
from training.evaluation.progress import say
from training.evaluation.separation import auroc

Arrays = dict[str, NDArray[Any]]
DAMAGED, AGAINST, JPEG = "damaged ", "against ", "test as JPEG"
REFERENCE, TEST, NAMES = "reference", "test", "names"
TAILS = (2, 10, 20)
Rule = Callable[[Power], NDArray[np.float64]]
"""What detectors see -> their weights [K]."""


def _of_all(power: Power, exponent: float) -> NDArray[np.float64]:
    seen_K: NDArray[np.float64] = np.maximum(0, power.auroc_K - 0.5) ** exponent
    return seen_K


def _by_kind(power: Power, exponent: float) -> NDArray[np.float64]:
    seen_K: NDArray[np.float64] = (np.maximum(0, power.auroc_DK - 0.5) ** exponent).mean(axis=0)
    return seen_K


ORDER = ((1, FUSED[1]), (2, FUSED[2]), (0, FUSED[0]))
"""Columns of the fusion: what decided before, then what does."""
RULES: dict[str, Rule] = {
    "weighted": lambda power: power.weights,
    "equal weights": lambda power: np.ones(len(power.auroc_K)),
    "AUROC - 1/2": lambda power: _of_all(power, 1),
    "its square": lambda power: _of_all(power, 2),
    "its fourth power": lambda power: _of_all(power, 4),
    "square by kind": lambda power: _by_kind(power, 2),
    "fourth power by kind": lambda power: _by_kind(power, 4),
    "square, and a tenth": lambda power: _of_all(power, 2) + 0.1 * _of_all(power, 2).max(),
    "the one of most power": lambda power: (power.auroc_K == power.auroc_K.max()).astype(float),
}


@dataclass(frozen=True)
class Options:
    """Compares rules for weights on bundles.

    Attributes:
        what: folders of bundles, or files that an earlier call kept.
        against: sets, as `python -m export ood` takes them; default: those made of the test rows.
        num_rows: of each set, and of the test rows, at most.
        keep: folder to write scores to, one file for each bundle.
        without: kinds of damage that are left out.
        few: prints instead what the score that decides is worth with so many reference rows, and its tail's scale set
            by 2, 10 or 20 of them at least.
    """

    what: Annotated[tuple[Path, ...], tyro.conf.Positional]
    against: tuple[str, ...] = ()
    num_rows: int = 1000
    keep: Path | None = None
    without: tuple[str, ...] = ()
    few: tuple[int, ...] = ()


def main(options: Options) -> int:
    """Prints a table for each bundle."""
    of_few: dict[tuple[int, int], list[float]] = {}
    for path in options.what:
        if path.suffix == ".npz":
            with np.load(path) as kept:
                arrays = dict(kept)
        else:
            arrays = measured(path, options.against, options.num_rows)
            if options.keep is not None:
                options.keep.mkdir(parents=True, exist_ok=True)
                np.savez(options.keep / f"{path.resolve().parent.name}.npz", **arrays)  # type: ignore[arg-type]
        if options.few:
            for num, tail_rows in product(options.few, TAILS):
                of_few.setdefault((num, tail_rows), []).extend(with_few(arrays, num, tail_rows))
            continue
        print(f"\n{path}\n")
        print("\n".join(lines(arrays, options.without)))
    for (num, tail_rows), found in of_few.items():
        print(
            f"{num} reference rows, {tail_rows} or more for the tail: mean of {len(found)} AUROC {np.mean(found):.4f}"
        )
    return 0


def measured(folder: Path, against: tuple[str, ...], num_rows: int) -> Arrays:
    """Scores of single detectors: of reference rows, of damaged ones by kind, of test rows and of each set."""
    manifest = bundle.load(folder.resolve())
    origin = read_config(manifest.provenance, folder)
    data, runner = origin.load_data(), GraphRunner(folder.resolve(), manifest.graphs.values())
    single = [column for column, one in enumerate(manifest.detectors) if one.name not in FUSED]

    def scores(rows: Values) -> NDArray[np.float32]:
        of_single: NDArray[np.float32] = runner.run(rows)["scores"][:, single]
        return of_single

    usual = reference_rows(data)
    found: Arrays = {NAMES: np.array([manifest.detectors[column].name for column in single])}
    found[REFERENCE] = scores(usual)
    kinds = KINDS_OF_IMAGES if usual.dtype == np.uint8 else KINDS_OF_SOUNDS
    for place, name in enumerate(kinds):
        say(f"damaged by {name}")
        some = usual[np.random.default_rng(place).permutation(len(usual))[:100]]
        if len(changed := damage(some, place, {name: kinds[name]}).values):
            found[DAMAGED + name] = scores(changed)
    sample = Sample(num_rows, 0)
    id_rows = sample.made_of(data.test.values)
    names = against or known_sets(id_rows)
    for how, rows in id_rows_of(id_rows, data, names):
        found[JPEG if how else TEST] = scores(rows)
    for name in names:
        say(f"against {name}")
        found[AGAINST + name] = scores(np.asarray(as_files(ood_set(name, origin, id_rows, sample), data, name)))
        if is_jpeg(data, name):
            found[f"{JPEG} {name}"] = found[JPEG]
    return found


def reference_rows(data: Data) -> Values:
    """Those that the export drew, 1,000 of them at most."""
    data, chosen = to_fit_on(data)
    train = data.train
    if chosen is None:
        chosen = draw(len(train), equal_rows(train.values) if train.units_N is None else train.units_N)
    return np.asarray(train.values[chosen.reference[:1000]])


def lines(arrays: Arrays, without: tuple[str, ...] = ()) -> list[str]:
    """The AUROC of every rule against every set, as Markdown, and then what detectors see."""
    names, reference_MK = [str(name) for name in arrays[NAMES]], arrays[REFERENCE]
    damaged = {key.removeprefix(DAMAGED): one for key, one in arrays.items() if key.startswith(DAMAGED)}
    damaged = {name: one for name, one in damaged.items() if name not in without}
    kinds_N = np.repeat(list(damaged), [len(one) for one in damaged.values()])
    power = power_of(reference_MK, np.concatenate(list(damaged.values())), kinds_N)
    kinds = dict(zip(np.unique(kinds_N).tolist(), power.auroc_DK, strict=True))
    sets = {key.removeprefix(AGAINST): one for key, one in arrays.items() if key.startswith(AGAINST)}
    tests = {name: arrays.get(f"{JPEG} {name}", arrays[TEST]) for name in sets}
    found: dict[str, list[float]] = {
        name: [auroc(tests[of][:, k], one[:, k]) for of, one in sets.items()] for k, name in enumerate(names)
    }
    rows = [
        *_fused(reference_MK, tests, sets, power),
        ("best of all", [max(one) for one in zip(*found.values(), strict=True)]),
    ]
    head = ["score", *sets]
    table = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    table += [f"| {name} | {' | '.join(f'{one:.4f}' for one in of_rule)} |" for name, of_rule in rows]
    table += [
        "",
        f"| detector | weight | power | {' | '.join([*kinds, *sets])} |",
        f"|{' --- |' * (3 + len(kinds) + len(sets))}",
    ]
    for k, name in enumerate(names):
        cells = [f"{power.weights[k]:.3f}", f"{power.auroc_K[k]:.3f}", *(f"{one[k]:.3f}" for one in kinds.values())]
        table.append(f"| {' | '.join([name, *cells, *(f'{one:.4f}' for one in found[name])])} |")
    return table


def with_few(arrays: Arrays, num: int, tail_rows: int, draws: int = 4) -> list[float]:
    """AUROC of the score that decides of each set, over draws of so many reference rows and eight times the damaged."""
    damaged = {key.removeprefix(DAMAGED): one for key, one in arrays.items() if key.startswith(DAMAGED)}
    damaged_NK, kinds_N = (
        np.concatenate(list(damaged.values())),
        np.repeat(list(damaged), [*map(len, damaged.values())]),
    )
    found: dict[str, list[float]] = {}
    for draw_of in range(draws):
        rng = np.random.default_rng(draw_of)
        reference_MK = arrays[REFERENCE][rng.permutation(len(arrays[REFERENCE]))[:num]]
        some_N = rng.permutation(len(damaged_NK))[: 8 * num]
        weights_K = power_of(reference_MK, damaged_NK[some_N], kinds_N[some_N]).weights
        fusion = Fusion(reference_MK, None, weights_K if weights_K.any() else None, tail_rows)
        for name in (key.removeprefix(AGAINST) for key in arrays if key.startswith(AGAINST)):
            pair = arrays.get(f"{JPEG} {name}", arrays[TEST])[:300], arrays[AGAINST + name][:300]
            found.setdefault(name, []).append(auroc(*(fusion(torch.from_numpy(one)).numpy()[:, 0] for one in pair)))
    return [float(np.mean(of_set)) for of_set in found.values()]


def _fused(reference_MK: NDArray[Any], tests: Arrays, sets: Arrays, power: Power) -> Iterator[tuple[str, list[float]]]:
    """Each rule's AUROC against each set: by the mean that the export takes, and by the sum of weighted -log p."""
    given = {name: [torch.from_numpy(one[name]) for one in (tests, sets)] for name in sets}
    for rule, weights in RULES.items():
        weights_K = _of_one(weights(power))
        fusion = Fusion(reference_MK, None, weights_K)
        surprises = {name: [fusion.surprise(one).numpy() @ weights_K for one in pair] for name, pair in given.items()}
        if rule == "weighted":
            fused = {name: [fusion(one).numpy() for one in pair] for name, pair in given.items()}
            yield from ((name, [auroc(*(one[:, k] for one in pair)) for pair in fused.values()]) for k, name in ORDER)
        else:
            means = [[fusion(one).numpy()[:, 0] for one in pair] for pair in given.values()]
            yield rule, [auroc(*pair) for pair in means]
        yield f"{rule}, sum of -log p", [auroc(*pair) for pair in surprises.values()]


def _of_one(weights_K: NDArray[np.float64]) -> NDArray[np.float64]:
    total: float = weights_K.sum()
    return weights_K / total if total else weights_K


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.results.deciding")))
