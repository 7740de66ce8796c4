"""What a GPU machine is brought, and where it lies: a small bundle of every method in two precisions, and rows.

    python -m benchmarks.gpu --prepare FOLDER        (`benchmarks.gpu.preparing`)

    FOLDER/methods/<method>-<precision>/1            from two epochs on rendered shapes; cpc_audio on synthetic sounds
    FOLDER/encoders/<encoder>-<precision>/<encoder>/1    what speed is measured with; too large to travel (0.4 GB in
                                                     all), so they are made where they are needed

Stages import this and no torch: a GPU that is lent by the minute would wait ten seconds for it, in each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.machine import Machine
from latentserve import bundle
from latentserve.bundle import Precision
from training.data import AudioShape, ImageShape
from training.data.shapes import NUM_SHAPES, render

PRECISIONS: tuple[Precision, ...] = ("float32", "float16")
TRAIN_ROWS, CALIBRATION_ROWS, TEST_ROWS = 1024, 1000, 256
FRESH_ROWS = 2000
"""In-distribution rows that no split holds, for p-values: a Kolmogorov distance of 1/sqrt(2000) is 0.022."""
GREY = ImageShape(28, 1)
SOUND = AudioShape(8000, 2000)


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


def models_of(machine: Machine) -> list[Small]:
    """What is measured: every method, or in the rehearsal one of images and one of sounds."""
    return [one for one in MODELS if not machine.rehearsal or one.method in REHEARSED]


def encoders_of(machine: Machine) -> tuple[str, ...]:
    """Those that speed is measured with."""
    return machine.choose(MEASURED_ENCODERS, REHEARSED_ENCODERS)


def lacking(folder: Path, models: list[Small], encoders: tuple[str, ...]) -> bool:
    """Whether anything is still to be made. In 32 bits it is made last: where that one is whole, so is the other."""
    wanted = [folder / "methods" / f"{small.method}-float32" / "1" for small in models]
    wanted += [encoder_bundle(folder, name, precision) for name in encoders for precision in PRECISIONS]
    return not all((one / bundle.MANIFEST).exists() for one in wanted)


def encoder_bundle(folder: Path, name: str, precision: Precision) -> Path:
    """Where the bundle of an encoder is that speed is measured with."""
    return folder / "encoders" / f"{name}-{precision}" / name / "1"
