"""What detectors on a density are worth, and what the likelihood itself is: AUROC against sets, side by side.

    python -m benchmarks.results.likelihoods BUNDLE...            prints
    python -m benchmarks.results.likelihoods BUNDLE... --record   and writes docs/results/likelihoods.json
    python -m benchmarks.results.likelihoods --table              what is recorded, as Markdown

A bundle of a density (`pixelcnn`, `vqvae` with a prior), through its exported graphs, on rows that were not trained on.
An AUROC below one half is the known failure: the set is unlike the training rows, and the model takes it for more
likely than these.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from export.detectors.likelihood import ComplexityCorrected, Likelihood, LikelihoodRatio, Typicality
from export.examination import examine
from latentserve import bundle, records

RECORD = Path(__file__).resolve().parents[2] / "docs" / "results" / "likelihoods.json"
DETECTORS = (Likelihood.name, Typicality.name, ComplexityCorrected.name, LikelihoodRatio.name)
DECIDING = "deciding"
SETS = ("horizontal_flip", "shapes", "constant", "noise", "blends")
OTHERS = {"cifar10": "mnist"}
"""A data set that images of another are shown beside: one that is simpler."""
NUM_ROWS = 1000


@dataclass(frozen=True)
class Finding:
    """One bundle against one set.

    Attributes:
        model: name of the bundle.
        data: that it was trained on.
        git_revision: of the code that trained it.
        against: the set.
        auroc: by detector; `deciding` is the one that decides, which sees embeddings and inputs, too.
    """

    model: str
    data: str
    git_revision: str
    against: str
    auroc: dict[str, float]


@dataclass(frozen=True)
class Recorded:
    """What was found.

    Attributes:
        findings: a row of the table each.
        num_rows: of each set.
    """

    findings: tuple[Finding, ...]
    num_rows: int


@dataclass(frozen=True)
class Options:
    """Compares detectors on a density.

    Attributes:
        bundles: folders of bundles of a density.
        record: write docs/results/likelihoods.json.
        table: print what is recorded, run nothing.
    """

    bundles: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    record: bool = False
    table: bool = False


def main(options: Options) -> int:
    """Prints the table; returns 2 where there is nothing to do it of."""
    if options.table:
        print(table(records.read(Recorded, RECORD)))
        return 0
    if not options.bundles:
        print("error: bundles: got none, expected folders of bundles of a density, or --table", file=sys.stderr)
        return 2
    found = Recorded(tuple(one for folder in options.bundles for one in findings(folder)), NUM_ROWS)
    print(table(found))
    if options.record:
        records.write(found, RECORD)
    return 0


def findings(folder: Path) -> list[Finding]:
    """A row for each set.

    Raises:
        ValueError: the bundle is of no density.
    """
    manifest = bundle.load(folder)
    if Likelihood.name not in (detector.name for detector in manifest.detectors):
        raise ValueError(f"{folder}: got a bundle without {Likelihood.name}, expected one of a density")
    source = manifest.provenance
    against = (*((OTHERS[source.data],) if source.data in OTHERS else ()), *SETS)
    examined, _ = examine(folder, against, NUM_ROWS)
    found = []
    for name in against:
        rows = {row.detector: row.figures.auroc for row in examined.rows if row.against == name}
        auroc = {detector: rows[detector] for detector in DETECTORS if detector in rows}
        auroc |= {DECIDING: next(iter(rows.values()))}
        found.append(Finding(manifest.name, source.data, source.git_revision, name, auroc))
    return found


def table(found: Recorded) -> str:
    """As Markdown; a detector that a bundle lacks has an empty cell."""
    columns = (*DETECTORS, DECIDING)
    lines = [
        f"| model | trained on | against | {' | '.join(columns)} |",
        f"| --- | --- | --- |{' ---: |' * len(columns)}",
    ]
    for one in found.findings:
        cells = [f"{one.auroc[name]:.3f}" if name in one.auroc else "" for name in columns]
        lines.append(f"| {one.model} | {one.data} | {one.against} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.results.likelihoods")))
