"""What a GPU machine is brought: a small bundle of every method in two precisions, made on a CPU in seconds.

python -m benchmarks.gpu --prepare FOLDER

FOLDER/methods/<method>-<precision>/1        from two epochs on rendered shapes, or synthetic sounds for cpc_audio
FOLDER/encoders/<encoder>-<precision>/<encoder>/1    what speed is measured with; too large to travel (0.4 GB in
                                             all), so they are made where they are needed

"""

from __future__ import annotations

import contextlib
import io
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.encoders import write_bundle
from benchmarks.gpu.machine import Machine
from export.calibration import Promise
from export.exporter import write_bundle as write_trained
from export.graphs import ExportError
from latentserve import bundle, records
from latentserve.bundle import Precision
from service.config import available_cpus
from training.__main__ import quiet_lightning
from training.data import AudioShape, Data, ImageShape, Rows
from training.data.shapes import NUM_SHAPES, render
from training.loop import LoopConfig, train
from training.methods import METHODS
from training.run import CHECKPOINT, Run

PRECISIONS: tuple[Precision, ...] = ("float32", "float16")
TRAIN_ROWS, CALIBRATION_ROWS, TEST_ROWS = 1024, 1000, 256
FRESH_ROWS = 2000
"""In-distribution rows that no split holds, for p-values: a Kolmogorov distance of 1/sqrt(2000) is 0.022."""
GREY = ImageShape(28, 1)
SOUND = AudioShape(8000, 2000)
LOOP = LoopConfig(epochs=2, batch_rows=128, warmup_steps=4)


@dataclass(frozen=True)
class Small:
    """A small model of a method.

    Attributes:
        method: key of `training.methods.METHODS`.
        shape: of its rows.
        config: of the method, so small that ten bundles travel in 64 MiB.
    """

    method: str
    shape: ImageShape | AudioShape
    config: dict[str, Any]


MODELS = (
    Small("vae", GREY, {"width": 8, "latent_dim": 8, "embedding_dim": 64}),
    Small("simclr", GREY, {"width": 8}),
    Small("cpc", GREY, {"width": 8, "feature_dim": 64, "context_dim": 16, "num_directions": 2}),
    Small("bigbigan", GREY, {"width": 8, "backbone_width": 8, "hidden_dim": 64, "discriminator_dim": 64}),
    Small("cpc_audio", SOUND, {"num_filters": 16, "width": 32}),
)

REHEARSED = "vae", "cpc_audio"
MEASURED_ENCODERS, REHEARSED_ENCODERS = ("r18", "resnet50", "vit_s16"), ("small",)


def sounds(seeds: NDArray[np.int64], num_samples: int) -> NDArray[np.int16]:
    """A tone with two overtones in noise, of a pitch and a swell of its own for each seed, int16 [N, T]."""
    time_T = np.arange(num_samples) / SOUND.sample_rate_hz
    out = np.empty((len(seeds), num_samples), np.int16)
    for row, seed in enumerate(seeds):
        rng = np.random.default_rng([7, int(seed)])
        hertz = rng.uniform(120, 900)
        tone = sum(rng.uniform(0.2, 1) / order * np.sin(2 * np.pi * order * hertz * time_T) for order in (1, 2, 3))
        swell = np.sin(np.pi * np.linspace(0, 1, num_samples)) ** rng.uniform(0.3, 2)
        out[row] = 6000 * swell * tone + rng.normal(0, 200, num_samples)
    return out


def rows_of(shape: ImageShape | AudioShape, start: int, num: int) -> NDArray[Any]:
    """Rows `start` to `start + num` of an endless set, the same on every machine."""
    numbers = np.arange(start, start + num, dtype=np.int64)
    if isinstance(shape, AudioShape):
        return sounds(numbers, shape.num_samples)
    return render(numbers * 7919 % NUM_SHAPES, shape.image_size)  # 7919 is prime: no shape comes twice


def fresh_rows(shape: ImageShape | AudioShape, num: int) -> NDArray[Any]:
    """In-distribution rows that are in no split."""
    return rows_of(shape, TRAIN_ROWS + CALIBRATION_ROWS + TEST_ROWS, num)


def splits(shape: ImageShape | AudioShape) -> Data:
    """Rows without labels in three splits."""
    sizes = np.cumsum([TRAIN_ROWS, CALIBRATION_ROWS, TEST_ROWS]).tolist()
    parts = np.split(rows_of(shape, 0, sizes[-1]), sizes[:-1])
    rate = shape.sample_rate_hz if isinstance(shape, AudioShape) else None
    train, calibration, test = (Rows(part) for part in parts)
    return Data("rendered", train, calibration, test, rate)


def models_of(machine: Machine) -> list[Small]:
    """What is measured: every method, or in the rehearsal one of images and one of sounds."""
    return [one for one in MODELS if not machine.rehearsal or one.method in REHEARSED]


def encoders_of(machine: Machine) -> tuple[str, ...]:
    """Those that speed is measured with."""
    return machine.choose(MEASURED_ENCODERS, REHEARSED_ENCODERS)


def prepare_encoders(folder: Path, names: Iterable[str]) -> None:
    """Makes their bundles that are not there yet, each in a process of its own: a GPU waits meanwhile.

    Raises:
        OSError: the folder cannot be written.
    """
    started = time.monotonic()
    wanted = [(folder, name, precision) for name in names for precision in PRECISIONS]
    wanted = [one for one in wanted if not (_encoder_folder(*one) / bundle.MANIFEST).exists()]
    if not wanted:
        return
    # Ctrl-C is for us; they end with what they are at.
    hear_none = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    workers = min(len(wanted), max(1, available_cpus() // 2))
    with ProcessPoolExecutor(workers, get_context("spawn"), hear_none) as pool:
        for _ in pool.map(_make_encoder, wanted):
            pass
    print(f"prepared {len(wanted)} encoders in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


def prepare(folder: Path, models: Iterable[Small] = MODELS) -> list[Path]:
    """Makes the bundles that are not there yet; the folders of all that could be made.

    Raises:
        OSError: the folder cannot be written.
        CheckpointError: the same.
    """
    found: list[Path] = []
    for small in models:
        # In 32 bits last: where that one is whole, so is the other, unless it was refused.
        wanted = {
            precision: folder / "methods" / f"{small.method}-{precision}" / "1" for precision in reversed(PRECISIONS)
        }
        found += wanted.values()
        if (wanted["float32"] / bundle.MANIFEST).exists():
            continue
        started = time.monotonic()
        for problem in _make(small, folder, wanted):
            print(f"refused {problem}", file=sys.stderr, flush=True)
        print(f"prepared {small.method} in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    return [one for one in found if (one / bundle.MANIFEST).exists()]


def _make(small: Small, folder: Path, wanted: dict[Precision, Path]) -> list[str]:
    """Trains one small model and writes its bundles; what was refused, a line each."""
    quiet_lightning()
    torch.set_num_threads(1)  # sums of several threads end in other bits
    data, method = splits(small.shape), METHODS[small.method]
    config = method.config(**small.config)
    run = Run(
        small.method, data.spec, small.shape, len(data.train), data.fingerprint, "", LOOP, records.to_json(config)
    )
    scratch = folder / f"run-{small.method}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    torch.manual_seed(LOOP.seed)
    module = run.build()
    problems: list[str] = []
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            trained = train(module, data, LOOP, scratch / CHECKPOINT, run.identity)
        except SystemExit as error:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from error
        model: Any = module.eval().cpu()
        for precision, bundle_folder in wanted.items():
            shutil.rmtree(bundle_folder, ignore_errors=True)
            bundle_folder.mkdir(parents=True)
            name = bundle_folder.parent.name
            try:
                write_trained(bundle_folder, run, trained, model, data, name, 1, "none", precision, Promise())
            except ExportError as error:  # a model that 16 bits do not hold: there is nothing to measure then
                shutil.rmtree(bundle_folder.parent)
                problems.append(f"{name}: {error}")
    shutil.rmtree(scratch)
    return problems


def encoder_bundle(folder: Path, name: str, precision: Precision) -> Path:
    """The bundle of an encoder that speed is measured with, made if it is not there."""
    made = _encoder_folder(folder, name, precision)
    if not (made / bundle.MANIFEST).exists():
        repository = made.parents[1]
        shutil.rmtree(repository, ignore_errors=True)
        write_bundle(name, repository, precision)
    return made


def _encoder_folder(folder: Path, name: str, precision: Precision) -> Path:
    return folder / "encoders" / f"{name}-{precision}" / name / "1"


def _make_encoder(wanted: tuple[Path, str, Precision]) -> None:
    encoder_bundle(*wanted)
