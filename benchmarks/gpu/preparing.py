"""Makes what `prepared` names: on any CPU, in a minute or two, the same on every one."""

from __future__ import annotations

import contextlib
import io
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.prepared import (
    CALIBRATION_ROWS,
    MODELS,
    PRECISIONS,
    TEST_ROWS,
    TRAIN_ROWS,
    Small,
    encoder_bundle,
    rows_of,
)
from benchmarks.serving.encoders import write_bundle
from export.calibration import Promise
from export.draft import Choices, Training
from export.exporter import write_bundle as write_trained
from export.graphs import ExportError
from export.origin import TrainedRun
from export.wanted import ALL
from latentserve import bundle, records
from latentserve.bundle import Precision
from service.config import available_cpus
from training.__main__ import quiet_lightning
from training.data import AudioShape, Data, ImageShape, Rows
from training.methods import METHODS
from training.methods.encoding import as_encoder
from training.running.loop import train
from training.running.run import CHECKPOINT, Run
from training.schedule import LoopConfig

LOOP = LoopConfig(epochs=2, batch_rows=128, warmup_steps=4)


def splits(shape: ImageShape | AudioShape) -> Data:
    """Rows without labels in three splits."""
    sizes = np.cumsum([TRAIN_ROWS, CALIBRATION_ROWS, TEST_ROWS]).tolist()
    parts = np.split(rows_of(shape, 0, sizes[-1]), sizes[:-1])
    rate = shape.sample_rate_hz if isinstance(shape, AudioShape) else None
    train, calibration, test = (Rows(part) for part in parts)
    return Data("rendered", train, calibration, test, rate)


def prepare_encoders(folder: Path, names: Iterable[str]) -> None:
    """Makes their bundles that are not there yet, each in a process of its own: a GPU waits meanwhile.

    Raises:
        OSError: the folder cannot be written.
    """
    started = time.monotonic()
    wanted = [(folder, name, precision) for name in names for precision in PRECISIONS]
    wanted = [one for one in wanted if not (encoder_bundle(*one) / bundle.MANIFEST).exists()]
    if not wanted:
        return
    # Ctrl-C is for us; they end with what they are at.
    hear_none = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    workers = min(len(wanted), max(1, available_cpus() // 2))
    with ProcessPoolExecutor(workers, get_context("spawn"), hear_none) as pool:
        for _ in pool.map(_make_encoder, wanted):
            pass
    print(f"prepared {len(wanted)} encoders in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


def prepare(folder: Path, models: Iterable[Small] = MODELS, detectors: tuple[str, ...] = (ALL,)) -> list[Path]:
    """Makes the bundles that are not there yet, with these detectors; the folders of all that could be made.

    Raises:
        OSError: the folder cannot be written.
        CheckpointError: the same.
    """
    found: list[Path] = []
    for small in models:
        # In 32 bits last: where that one is whole, so is the other, unless it was rejected.
        wanted = {
            precision: folder / "methods" / f"{small.method}-{precision}" / "1" for precision in reversed(PRECISIONS)
        }
        found += wanted.values()
        if (wanted["float32"] / bundle.MANIFEST).exists():
            continue
        started = time.monotonic()
        for problem in _make(small, folder, wanted, Promise(detectors=detectors)):
            print(f"rejected {problem}", file=sys.stderr, flush=True)
        print(f"prepared {small.method} in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    return [one for one in found if (one / bundle.MANIFEST).exists()]


def _make(small: Small, folder: Path, wanted: dict[Precision, Path], promise: Promise) -> list[str]:
    """Trains one small model and writes its bundles; what was rejected, a line each."""
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
        model = as_encoder(module.eval().cpu())
        for precision, bundle_folder in wanted.items():
            shutil.rmtree(bundle_folder, ignore_errors=True)
            bundle_folder.mkdir(parents=True)
            name = bundle_folder.parent.name
            made = Training(TrainedRun(run, trained), model, data)
            try:
                write_trained(bundle_folder, made, name, 1, Choices("none", precision, promise))
            except ExportError as error:  # a model that 16 bits do not hold: there is nothing to measure then
                shutil.rmtree(bundle_folder.parent)
                problems.append(f"{name}: {error}")
    shutil.rmtree(scratch)
    return problems


def _make_encoder(wanted: tuple[Path, str, Precision]) -> None:
    folder, name, precision = wanted
    repository = encoder_bundle(folder, name, precision).parents[1]
    shutil.rmtree(repository, ignore_errors=True)
    write_bundle(name, repository, precision)
