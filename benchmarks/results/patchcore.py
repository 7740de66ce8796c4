"""anomalib's PatchCore beside a bundle: the same pretrained network, the same good tiles, the same faults and masks.

    python -m venv /tmp/anomalib                                      with this project and anomalib in it, see below
    python -m benchmarks.encoders_brought.weights build/weights
    /tmp/anomalib/bin/python -m benchmarks.results.patchcore --weights build/weights --record
    python -m benchmarks.results.patchcore --table

anomalib (and with it some twenty packages) is no dependency of this project: `pip install anomalib` in an environment
that has the project's. Its model takes the maps of the two blocks of MobileNetV2 that the bundle is imported with
(`benchmarks.encoders_brought.mobilenet:places`), at 160 x 160, nine neighbours as by default, and a coreset of a
hundredth, PatchCore-1% of its paper: of the default tenth anomalib's own progress foretold two hours. Good tiles are
split by near copies, as in `benchmarks.results.tiles`. PatchCore learns from the training split alone; the bundle's
calibration split is not used by it. Figures of the bundle are of the score that decides and of the map that it shows.
An image's cost is measured of both in one process, one image at a time: the bundle by ONNX Runtime, encoder, scores
and map; PatchCore by torch, as anomalib runs it on a CPU.

Shape legend: N images, H height, W width.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.encoders_brought.mobilenet import WEIGHTS, Stages
from benchmarks.results.commands import IMAGENET, command
from benchmarks.results.spread import mean_and_spread
from benchmarks.results.tiles import faults_in, given_tiles
from export.examination import Examination
from export.graphs import GraphRunner
from export.masks import masks_of
from export.origin import read_config
from latentserve import bundle, records
from latentserve.inputs import ImageInput
from training.evaluation.other_data import every_row_in_shape_of
from training.evaluation.places import place_figures
from training.evaluation.separation import auroc
from training.options import check_options

RECORD = Path(__file__).resolve().parents[2] / "docs" / "results" / "patchcore.json"
OURS, THEIRS = "latentserve", "anomalib's PatchCore"
SOURCE = "python:benchmarks.encoders_brought.mobilenet:places"
SHARE, NEIGHBOURS = 0.01, 9
"""Of the patches, and anomalib's default."""
TIMED = 64
MEAN, STD = (torch.tensor([float(one) for one in part]).view(3, 1, 1) for part in (IMAGENET[1:4], IMAGENET[5:8]))


@dataclass(frozen=True)
class Options:
    """Imports, fits, examines both.

    Attributes:
        weights: folder of MobileNetV2's weights, as `benchmarks.encoders_brought.weights` writes it.
        seeds: of the splits.
        work: folder of bundles; what is there already stays.
        record: keep the figures in docs/results/patchcore.json, beside those of other seeds there.
        table: print what was recorded, and do nothing else.
    """

    weights: Path = Path("build/weights")
    seeds: tuple[int, ...] = (0, 1, 2)
    work: Path = Path("build/patchcore")
    record: bool = False
    table: bool = False


@dataclass(frozen=True)
class Figures:
    """One side, one split.

    Attributes:
        side: which.
        seed: of the split.
        auroc: of the images' score.
        pixel_auroc: of the map.
        aupro: of it.
        milliseconds: of one image: median.
    """

    side: str
    seed: int
    auroc: float
    pixel_auroc: float
    aupro: float
    milliseconds: float


@dataclass(frozen=True)
class Recorded:
    """What was measured.

    Attributes:
        anomalib: its version.
        figures: of both sides and all splits.
    """

    anomalib: str
    figures: tuple[Figures, ...]


class Maps(Stages):
    """Normalised images [N, 3, H, W] -> the maps of blocks 6 and 13, by name: what anomalib's extractor returns."""

    def __init__(self) -> None:
        super().__init__((6, 13))

    def forward(self, x: Tensor) -> Any:
        """See the class."""
        found = {}
        for block, layer in enumerate(self.features):
            x = layer(x)
            if block in self.blocks:
                found[str(block)] = x
        return found


def main(options: Options) -> int:
    """Measures, or prints what was."""
    check_options(options)
    if options.table:
        print("\n".join(lines(records.read(Recorded, RECORD))))
        return 0
    os.environ[WEIGHTS] = str(options.weights.resolve() / "mobilenetv2_features.pth")
    recorded = Recorded(
        importlib.import_module("anomalib").__version__,
        tuple(one for seed in options.seeds for one in of_split(seed, options)),
    )
    print("\n".join(lines(recorded)))
    if options.record:
        records.write(beside(recorded, records.read(Recorded, RECORD) if RECORD.exists() else None), RECORD)
    return 0


def beside(new: Recorded, old: Recorded | None) -> Recorded:
    """The new figures and those of other seeds, if both are by one version of anomalib."""
    if old is None or old.anomalib != new.anomalib:
        return new
    measured = {one.seed for one in new.figures}
    kept = [one for one in old.figures if one.seed not in measured]
    return Recorded(new.anomalib, tuple(sorted([*kept, *new.figures], key=lambda one: one.seed)))


def of_split(seed: int, options: Options) -> Iterator[Figures]:
    """Both sides."""
    folder, faults, report = imported(seed, options)
    manifest = bundle.load(folder)
    origin = read_config(manifest.provenance, folder)
    data, own = origin.load_data(), every_row_in_shape_of(origin, f"folder:{faults}")
    assert own is not None
    assert isinstance(manifest.input, ImageInput)
    masks_NHW, known = masks_of(f"folder:{faults}", own, given_tiles() / "masks", manifest.input)
    seen = [row for row in known if masks_NHW[row].any()]
    train, good, bad = (np.asarray(rows.values) for rows in (data.train, data.test, own))
    runner = GraphRunner(folder, manifest.graphs.values()).with_patches()
    ours = next(row for row in report.rows if not row.kind)
    place = next(one for one in report.places if not one.kind)
    milliseconds = _milliseconds(lambda image: runner.run(image), good)
    yield Figures(OURS, seed, ours.figures.auroc, place.pixel_auroc, place.aupro, milliseconds)

    model = patchcore(train)
    good_N, good_maps = answers(model, good)
    bad_N, bad_maps = answers(model, bad)
    nothing = np.zeros((len(good), *masks_NHW.shape[1:]), np.bool_)
    places = place_figures(np.concatenate([good_maps, bad_maps[seen]]), np.concatenate([nothing, masks_NHW[seen]]))
    milliseconds = _milliseconds(lambda image: model(normalised(image)), good)
    yield Figures(THEIRS, seed, auroc(good_N, bad_N), places.pixel_auroc, places.aupro, milliseconds)


def imported(seed: int, options: Options) -> tuple[Path, Path, Examination]:
    """The bundle, the folder of faults, and what `export ood` says of both; made if they are not there."""
    work, name = options.work.resolve(), f"places-{seed}"
    folder, report, faults = work / "models" / name / "1", work / f"{name}.json", faults_in(work / "faults")
    if not folder.exists():
        data = ("--data", f"folder:{given_tiles() / 'free'}", "--group-by", "near", "--seed", str(seed))
        how = ("--image-size", "160", "--resize", "stretch", *IMAGENET, "--embedding", "mean", "--patches", "auto")
        to = ("--to", str(work / "models"), "--name", name, "--report", "none")
        command("export", "import", SOURCE, *data, *how, *to, weights=options.weights)
    if not report.exists():
        masks = ("--masks", str(given_tiles() / "masks"), "--json", str(report))
        command("export", "ood", str(folder), "--against", f"folder:{faults}", *masks)
    return folder, faults, records.read(Examination, report)


def patchcore(train_NHWC: NDArray[np.uint8]) -> Any:
    """Anomalib's model, fitted."""
    module = importlib.import_module("anomalib.models.image.patchcore.torch_model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = module.PatchcoreModel(["6", "13"], "mobilenetv2_100", pre_trained=False, num_neighbors=NEIGHBOURS)
    return fitted(model, train_NHWC)


def fitted(model: Any, train_NHWC: NDArray[np.uint8]) -> Any:
    """With the maps of the network in place of timm's."""
    model.feature_extractor = Maps().eval()
    model.train()
    model.feature_extractor.eval()
    with torch.no_grad():
        for start in range(0, len(train_NHWC), TIMED):
            model(normalised(train_NHWC[start : start + TIMED]))
    print(f"{THEIRS}: coreset", file=sys.stderr, flush=True)
    torch.manual_seed(0)
    model.subsample_embedding(SHARE)
    return model.eval()


def answers(model: nn.Module, rows_NHWC: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores [N] and maps [N, H, W]."""
    scores, maps = list[Tensor](), list[Tensor]()
    with torch.no_grad():
        for row in rows_NHWC:
            found = model(normalised(row[None]))
            scores.append(found.pred_score.flatten())
            maps.append(found.anomaly_map[:, 0])
    return torch.cat(scores).numpy(), torch.cat(maps).numpy()


def normalised(rows_NHWC: NDArray[np.uint8]) -> Tensor:
    """As the bundle's graph does it."""
    return (torch.from_numpy(np.ascontiguousarray(rows_NHWC)).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def _milliseconds(ask: Callable[[NDArray[np.uint8]], object], rows_NHWC: NDArray[np.uint8]) -> float:
    seconds = []
    with torch.no_grad():
        for row in range(TIMED):
            image, started = rows_NHWC[row % len(rows_NHWC)][None], time.perf_counter()
            ask(image)
            seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)) * 1000


def lines(recorded: Recorded) -> list[str]:
    """The figures as Markdown: means over splits, and their standard deviation."""
    table = ["| | AUROC | AUROC over pixels | AUPRO | ms an image |", "| --- | --- | --- | --- | ---: |"]
    for side in (OURS, THEIRS):
        some = [one for one in recorded.figures if one.side == side]
        cells = [mean_and_spread([getattr(one, name) for one in some]) for name in ("auroc", "pixel_auroc", "aupro")]
        table.append(f"| {side} | {' | '.join(cells)} | {np.median([one.milliseconds for one in some]):.0f} |")
    return [*table, "", f"Seeds: {sorted({one.seed for one in recorded.figures})}; anomalib {recorded.anomalib}."]


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.results.patchcore")))
