"""What the detectors of this checkout make of bundles that are there: nothing is trained, no bundle is changed.

    python -m benchmarks.results.refit BUNDLE [BUNDLE...] [--rows 3000]     some minutes each on two cores

Fits all detectors anew on what a bundle's own encoder makes of its training rows, and prints the AUROC of each column
beside that of the bundle's scorer: test rows against sets that are made of them. Then what both scorers cost, in one
run: `pass` is what a score needs anyway, the encoder and the decoder where there is one. For changes of detectors,
which are to lose nothing on encoders that somebody trained before. A discriminator is not in a bundle's encoder: of a
BigBiGAN its detector is left out, and the fused columns are of the others.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from benchmarks.serving.scoring import Cost, costs
from export.calibration import Promise
from export.detectors.detector import Arrays
from export.detectors.drawing import Drawn, draw
from export.detectors.scorer import Scorer
from export.detectors.scorer_graph import ScorerGraph
from export.graphs import ExportError, GraphRunner, export_graph
from export.origin import read_config
from export.places import patches_of
from export.wanted import check_detectors, detectors_of
from latentserve import bundle, records
from latentserve.bundle import Manifest
from latentserve.inputs import INPUT, PATCHES
from training.data import Rows
from training.data.rows import Values
from training.evaluation.ood_sets import known_sets, ood_rows
from training.evaluation.separation import auroc

EXAMPLE_ROWS = 2


@dataclass(frozen=True)
class Options:
    """Fits detectors anew and compares.

    Attributes:
        bundles: folders of bundles whose data is here.
        rows: test rows, and as many of each set.
        detectors: names of those to fit; default: as an export without `--detectors` has it.
    """

    bundles: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    rows: int = 3000
    detectors: tuple[str, ...] = ()


def main(options: Options) -> int:
    """Prints tables for each bundle; returns the exit status."""
    if not options.bundles:
        print("error: bundles: got none, expected at least one folder", file=sys.stderr)
        return 2
    promise = Promise(detectors=options.detectors)
    try:
        check_detectors(promise)
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for folder in options.bundles:
        with tempfile.TemporaryDirectory() as scratch:
            compare(folder.resolve(), Path(scratch), options.rows, promise)
    return 0


def compare(folder: Path, scratch: Path, num_rows: int, promise: Promise) -> None:
    """Prints both tables of one bundle; makes one with the new scorer in the folder `scratch`."""
    manifest = bundle.load(folder)
    data = read_config(manifest.provenance, folder).load_data()
    new = scratch / f"{manifest.name}-anew" / str(manifest.version)
    refitted = with_scorer(manifest, folder, new, data.train, promise)
    test = np.asarray(data.test.values[:num_rows])
    sets = {"": test, **{name: ood_rows(name, test) for name in known_sets(test)}}
    scores = [
        {name: GraphRunner(of, one.graphs.values()).run(rows)["scores"] for name, rows in sets.items()}
        for of, one in ((folder, manifest), (new, refitted))
    ]
    print(f"\n{manifest.name}/{manifest.version}: AUROC of its scorer -> fitted anew\n")
    print(f"| detector | {' | '.join(list(sets)[1:])} |\n| --- |{' ---: |' * (len(sets) - 1)}")
    columns = [[detector.name for detector in one.detectors] for one in (manifest, refitted)]
    for name in dict.fromkeys(itertools.chain(*reversed(columns))):
        cells = " | ".join(
            _cell(scores, [names.index(name) if name in names else None for names in columns], against)
            for against in list(sets)[1:]
        )
        print(f"| {name} | {cells} |", flush=True)
    print(f"\n{table([*costs(folder), *costs(new)])}", flush=True)


def _cell(scores: list[dict[str, NDArray[np.float32]]], columns: list[int | None], against: str) -> str:
    found = [
        "" if column is None else f"{auroc(of_one[''][:, column], of_one[against][:, column]):.4f}"
        for of_one, column in zip(scores, columns, strict=True)
    ]
    return " -> ".join(found)


def with_scorer(manifest: Manifest, folder: Path, new: Path, train: Rows, promise: Promise) -> Manifest:
    """Copies a bundle with another scorer; its calibration is that of the old one, so that it is not to be served."""
    scorer, tensors = fitted(manifest, folder, train, promise)
    shutil.copytree(folder, new)
    example = {name: torch.from_numpy(np.asarray(tensors[name][:EXAMPLE_ROWS])) for name in scorer.inputs}
    graph = export_graph(ScorerGraph(scorer), example, scorer.outputs, new / "scorer.onnx")
    old = {detector.name: detector for detector in manifest.detectors}
    detectors = tuple(replace(old.get(name, manifest.detectors[0]), name=name) for name in scorer.names)
    files = {**manifest.files, "scorer.onnx": bundle.sha256_of_file(new / "scorer.onnx")}
    refitted = replace(
        manifest,
        name=new.parent.name,
        graphs={**manifest.graphs, "scorer": graph},
        detectors=detectors,
        map_detector=scorer.map_detector,
        files=files,
    )
    records.write(refitted, new / bundle.MANIFEST)
    return refitted


def fitted(manifest: Manifest, folder: Path, train: Rows, promise: Promise) -> tuple[Scorer, Arrays]:
    """The detectors on the bundle's training rows, as an export draws them, and the rows' tensors."""
    graphs = [graph for name, graph in manifest.graphs.items() if name != "scorer"]
    runner = GraphRunner(folder, graphs)
    chosen = draw(len(train), train.with_twins().units_N)
    rows = np.sort(np.concatenate(chosen))
    values = train.take(rows).values
    tensors = dict(tensors_of(runner, values))
    places = Drawn(*(np.searchsorted(rows, of_kind) for of_kind in chosen))
    embed = lambda damaged: dict(tensors_of(runner, damaged))  # noqa: E731
    return Scorer.fit(None, tensors, None, places, embed, wanted=detectors_of(promise)), tensors


def tensors_of(runner: GraphRunner, values: Values) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """The rows and what the graphs make of them, by tensor name."""
    yield INPUT, values
    yield from runner.run(values).items()
    if (patches := patches_of(runner, values)) is not None:
        yield PATCHES, patches


def table(found: list[Cost]) -> str:
    """What scorers cost, as Markdown."""
    lines = ["| bundle | scorer MB | rows | pass ms | scorer ms | Score / pass |\n| --- |" + " ---: |" * 5]
    for cost in found:
        scorer = cost.milliseconds["scorer"]
        needed = sum(cost.milliseconds.values()) - scorer
        size = f"{cost.scorer_bytes / 1e6:.1f}"
        ratio = f"{cost.beside_pass:.2f}"
        lines.append(f"| {cost.bundle} | {size} | {cost.rows} | {needed:.2f} | {scorer:.2f} | {ratio} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.results.refit")))
