r"""Which detector sees faults of real parts, and where: magnetic tiles, pixel masks beside them.

    python -m training simclr --data folder:$LATENTSERVE_DATA/magnetic-tiles/free --image-size 96 --epochs 15 \
        --run runs/tiles
    python -m export runs/tiles --to models --name tiles
    python -m benchmarks.results.places models/tiles/1
    python -m benchmarks.results.places --table

For each detector of the bundle: AUROC of its score, faulty tiles against the good ones of its test split, which nothing
was fitted on or calibrated with. For each that looks at places its map too: AUROC over pixels, as the map is
enlarged to the image (bilinear), of all faulty and good test tiles together, and of each kind of fault with the good
ones; and how often the highest pixel lies within 10 px of the fault. A bundle shows one map; the others' detectors are
fitted here, on the same rows as the bundle's. No fault was looked at for any choice.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from export.detectors.detector import Arrays, batches_of
from export.detectors.drawing import draw
from export.detectors.places import PlaceDetector
from export.detectors.scorer import PLACES
from export.graphs import GraphRunner
from export.origin import read_config
from latentserve import bundle, records
from latentserve.inputs import INPUT
from training.data import Rows
from training.data.origin import DataOrigin
from training.data.units import equal_rows
from training.evaluation.other_data import every_row_in_shape_of
from training.evaluation.separation import auroc

RECORD = Path(__file__).resolve().parents[2] / "docs" / "results" / "places.json"
KINDS = ("blowhole", "break", "crack", "fray", "uneven")
WITHIN = 10
"""Pixels."""
PIXELS = 2_000_000
"""That an AUROC over pixels is of, drawn evenly."""


@dataclass(frozen=True)
class Options:
    """Measures each detector of a bundle of magnetic tiles.

    Attributes:
        bundles: folders, of models of `folder:.../magnetic-tiles/free`.
        record: keep the figures in docs/results/places.json.
        table: print what was recorded, and do nothing else.
    """

    bundles: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    record: bool = False
    table: bool = False


@dataclass(frozen=True)
class Row:
    """One detector of one bundle.

    Attributes:
        bundle: NAME/VERSION.
        detector: its name.
        auroc: of its score.
        auroc_by_kind: against one kind of fault each.
        pixel_auroc: of its map; None: it has none.
        pixel_auroc_by_kind: against one kind of fault each.
        located: share of the faulty images whose highest pixel lies at the fault.
    """

    bundle: str
    detector: str
    auroc: float
    auroc_by_kind: dict[str, float]
    pixel_auroc: float | None = None
    pixel_auroc_by_kind: dict[str, float] | None = None
    located: float | None = None


@dataclass(frozen=True)
class Figures:
    """What is recorded."""

    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Faults:
    """Faulty tiles, as the model's input.

    Attributes:
        rows_NHWC: uint8.
        masks_NHW: where the fault is.
        kinds_N: of the fault.
    """

    rows_NHWC: NDArray[np.uint8]
    masks_NHW: NDArray[np.bool_]
    kinds_N: NDArray[Any]


def load_faults(root: Path, origin: DataOrigin) -> Faults:
    """All of them; a mask's pixel is of the fault if half of what it covers is, or any where none would be."""
    parts, masks, kinds = list[NDArray[Any]](), list[NDArray[Any]](), list[str]()
    for kind in KINDS:
        rows = every_row_in_shape_of(origin, f"folder:{root / kind}")
        assert rows is not None
        assert rows.names_N is not None
        parts.append(np.asarray(rows.values))
        height, width = parts[-1].shape[1:3]
        kinds += [kind] * len(rows)
        for name in rows.names_N:
            file = root / "masks" / kind / f"{Path(name).stem}.png"
            share_HW = np.asarray(Image.open(file).convert("L").resize((width, height), Image.Resampling.BOX)) / 255
            masks.append(share_HW >= 0.5 if share_HW.max() >= 0.5 else share_HW > 0)
    return Faults(np.concatenate(parts), np.stack(masks), np.array(kinds))


def measured(folder: Path) -> list[Row]:
    """Every detector of a bundle."""
    folder = folder.resolve()
    manifest = bundle.load(folder)
    origin = read_config(manifest.provenance, folder)
    data, root = origin.load_data(), Path(os.environ["LATENTSERVE_DATA"]) / "magnetic-tiles"
    good = np.asarray(data.test.values)
    faults = load_faults(root, origin)
    runner = GraphRunner(folder, manifest.graphs.values())
    good_scores, bad_scores = (runner.run(rows)["scores"] for rows in (good, faults.rows_NHWC))
    maps = refitted_maps(folder, manifest, data.train, (good, faults.rows_NHWC))
    found = []
    for column, detector in enumerate(manifest.detectors):
        scores = good_scores[:, column], bad_scores[:, column]
        by_kind = {kind: auroc(scores[0], scores[1][faults.kinds_N == kind]) for kind in KINDS}
        row = Row(f"{manifest.name}/{manifest.version}", detector.name, auroc(*scores), by_kind)
        found.append(with_pixels(row, faults, *maps[detector.name]) if detector.name in maps else row)
    return found


def refitted_maps(
    folder: Path, manifest: bundle.Manifest, train: Rows, asked: tuple[NDArray[np.uint8], ...]
) -> dict[str, tuple[Tensor, ...]]:
    """Maps [N, H, W] of each set of rows, by detector that has one, enlarged to the image."""
    graphs = [manifest.graphs[name] for name in ("encoder", "decoder") if name in manifest.graphs]
    runner = GraphRunner(folder, graphs).with_patches()
    tensors: Arrays = {INPUT: train.values, **runner.run(train.values)}
    units_N = equal_rows(train.values) if train.units_N is None else train.units_N
    fitted = draw(len(train), units_N).fitted
    rows = {name: array[fitted] for name, array in tensors.items()}
    found = {}
    for detector in (kind.fit(rows) for kind in PLACES if kind.suits(rows)):
        found[detector.name] = tuple(_enlarged(detector, {INPUT: one, **runner.run(one)}) for one in asked)
    return found


def _enlarged(detector: PlaceDetector, arrays: Arrays) -> Tensor:
    size = arrays[INPUT].shape[1:3]
    with torch.no_grad():
        maps_Nhw = torch.cat([detector.places(*batch) for batch in batches_of(arrays, detector.inputs)])
    return F.interpolate(maps_Nhw[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def with_pixels(row: Row, faults: Faults, good_NHW: Tensor, bad_NHW: Tensor) -> Row:
    """The row with figures of its map."""

    def over_pixels(chosen_N: NDArray[np.bool_]) -> float:
        bad, masks = bad_NHW.numpy()[chosen_N], faults.masks_NHW[chosen_N]
        usual = np.concatenate([good_NHW.numpy().ravel(), bad[~masks]])
        step = max(1, len(usual) // PIXELS)
        return auroc(usual[::step], bad[masks])

    by_kind = {kind: over_pixels(faults.kinds_N == kind) for kind in KINDS}
    highest_N = bad_NHW.flatten(1).argmax(dim=1).numpy()
    located = []
    for highest, mask_HW in zip(highest_N, faults.masks_NHW, strict=True):
        at = np.array(np.unravel_index(highest, mask_HW.shape))
        distance = np.sqrt(np.square(np.argwhere(mask_HW) - at).sum(axis=1))
        located.append(bool(distance.min(initial=np.inf) <= WITHIN))
    everywhere = np.ones(len(faults.kinds_N), np.bool_)
    return replace(
        row, pixel_auroc=over_pixels(everywhere), pixel_auroc_by_kind=by_kind, located=float(np.mean(located))
    )


def markdown(figures: Figures) -> str:
    """A table, one row a detector."""
    lines = [
        f"| bundle | detector | AUROC | {' | '.join(KINDS)} | pixel AUROC | {' | '.join(KINDS)} | within {WITHIN} px |"
    ]
    lines.append("| --- " * (5 + 2 * len(KINDS)) + "|")
    for row in figures.rows:
        pixels = row.pixel_auroc_by_kind or {}
        cells = [row.auroc, *row.auroc_by_kind.values(), row.pixel_auroc, *(pixels.get(kind) for kind in KINDS)]
        said = ["" if cell is None else f"{cell:.3f}" for cell in cells]
        located = "" if row.located is None else f"{row.located:.0%}"
        lines.append(f"| {row.bundle} | {row.detector} | {' | '.join(said)} | {located} |")
    return "\n".join(lines)


def main() -> None:
    """Measures, or prints what was measured."""
    options = tyro.cli(Options, description=__doc__)
    if options.table:
        figures = records.read(Figures, RECORD)
    else:
        figures = Figures(tuple(row for folder in options.bundles for row in measured(folder)))
    if options.record:
        records.write(figures, RECORD)
    print(markdown(figures))


if __name__ == "__main__":
    main()
