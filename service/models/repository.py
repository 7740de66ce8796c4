"""The model repository: bundles found, proven, opened and warmed; the broken ones refused by name.

It is looked through at the start and again when asked to: what is new is opened beside what is served, and what has
gone is given up (`look`, `Repository.take`). A bundle never changes in place: what is served is not opened again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentserve import bundle
from latentserve.bundle import Manifest
from latentserve.devices import CPU
from latentserve.errors import BundleError, InvalidInput, ModelNotFound
from latentserve.inputs import INPUT
from latentserve.records import printable
from service.config import Config
from service.engine.engine import Engine
from service.engine.providers import DeviceError, has_driver
from service.models.decisions import Judge
from service.models.decoding import Decoder
from service.observing.metrics import Metrics
from service.observing.monitor import Monitor
from service.observing.queue_metrics import LaneMetrics
from service.scheduling.batching import BatchQueue, Piece
from service.scheduling.decoding_queue import Turns
from service.scheduling.queue import Tensors

log = logging.getLogger(__name__)

LATENT = "latent"


@dataclass(frozen=True)
class ServedModel:
    """One version of a model, ready to answer.

    Attributes:
        manifest: of its bundle.
        execution_provider: what really runs it.
        decoder: request messages to rows.
        judge: scores to decisions.
        monitor: whether calibration still fits what is scored; None without detectors.
        lanes: its queues: `input` rows, and `latent` rows where there is a decoder graph.
    """

    manifest: Manifest
    execution_provider: str
    decoder: Decoder
    judge: Judge
    monitor: Monitor | None
    lanes: dict[str, BatchQueue]

    @property
    def key(self) -> tuple[str, int]:
        """Name and version."""
        return self.manifest.name, self.manifest.version


@dataclass(frozen=True)
class Refused:
    """A bundle that is not served, and why; `device` if it was the required device that does not run it."""

    name: str
    version: int
    reason: str
    device: DeviceError | None = None


@dataclass
class Repository:
    """Every model by name and version.

    Attributes:
        models: served, by name, then version.
        refused: found but not served.
    """

    models: dict[str, dict[int, ServedModel]] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)

    def find(self, name: str, version: int, sees: Callable[[str], bool] = bool) -> ServedModel:
        """The model a request names; of those that the caller sees one may go without, version 0 is the newest.

        Raises:
            ModelNotFound: no such model or version.
            BundleError: it was found but refused.
            InvalidInput: the name was left out although there are several, or the version is negative.
        """
        if version < 0:
            raise InvalidInput.at("model.version", got=version, expected="0 (newest) or greater")
        names = sorted(filter(sees, self.models))
        if not name:
            if len(names) != 1:
                raise InvalidInput.at("model.name", got="no name", expected=f"one of {names}")
            (name,) = names
        for refused in self.refused:
            if refused.name == name and version in (refused.version, 0) and (version or name not in self.models):
                raise BundleError(f"model {name} version {refused.version} was refused: {refused.reason}")
        versions = self.models.get(name)
        if versions is None:
            raise ModelNotFound(f"model.name: got {name!r}, expected one of {names}")
        if version and version not in versions:
            raise ModelNotFound(f"model.version: got {version} of {name!r}, expected one of {sorted(versions)}")
        return versions[version or max(versions)]

    def take(self, found: Look) -> None:
        """From now on what was opened answers, and what has gone does not. The newest version is the default one."""
        for model in found.opened:
            name, version = model.key
            self.models.setdefault(name, {})[version] = model
        for model in found.gone:
            name, version = model.key
            del self.models[name][version]
            if not self.models[name]:
                del self.models[name]
        self.refused = found.refused

    def served(self) -> list[ServedModel]:
        """Every model, by name, then newest first."""
        return [
            versions[version]
            for _, versions in sorted(self.models.items())
            for version in sorted(versions, reverse=True)
        ]


@dataclass(frozen=True)
class Workers:
    """What all models share: one device, one thread that feeds it, threads that decode, or the turns at them."""

    slot: asyncio.Lock
    engine: ThreadPoolExecutor
    decoding: ThreadPoolExecutor | Turns


@dataclass(frozen=True)
class Look:
    """What a look at the folder found, beside what is served.

    Attributes:
        opened: not served before, proven and warm.
        refused: found but not to be served.
        gone: served, but their folders are no longer there.
    """

    opened: list[ServedModel]
    refused: list[Refused]
    gone: list[ServedModel]


def look(
    config: Config, metrics: Metrics, workers: Workers, repository: Repository, leaving: threading.Event | None = None
) -> Look:
    """Opens every bundle under `config.models` that is not served, one after another. Slow; takes nothing over.

    Args:
        config: where to look, and what models are served with.
        metrics: hear of what is opened.
        workers: of the models.
        repository: what is served.
        leaving: once set, no further bundle is opened.

    Raises:
        BundleError: there is no bundle, or none can be served, or the server is leaving.
        DeviceError: the required device is not there for any of them.
    """
    folders = find_bundles(config.models)
    if not folders:
        raise BundleError(f"models: got no bundle under {config.models}, expected <name>/<version>/{bundle.MANIFEST}")
    named = {(folder.parent.name, int(folder.name)): folder for folder in folders}
    served = {model.key: model for model in repository.served()}
    opened: list[ServedModel] = []
    refused: list[Refused] = []
    try:
        for (name, version), folder in named.items():
            if leaving and leaving.is_set():
                raise BundleError("models: not looked through, the server is leaving")
            if (name, version) not in served:
                one = _open_or_refuse(folder, partial(_open, folder, config, metrics, workers), metrics)
                opened.append(one) if isinstance(one, ServedModel) else refused.append(one)
    except BaseException:
        for model in opened:
            metrics.forget(model.manifest.name, str(model.manifest.version))
        raise
    gone = [model for key, model in served.items() if key not in named]
    if len(served) - len(gone) + len(opened) == 0:
        if device := next((one.device for one in refused if one.device), None):
            raise device
        raise BundleError(f"models: none of {len(folders)} bundles under {config.models} can be served")
    return Look(opened, refused, gone)


def _open_or_refuse(folder: Path, open_it: Callable[[], ServedModel], metrics: Metrics) -> ServedModel | Refused:
    """Whatever is wrong with one bundle, or with opening it, is told of this bundle and is nobody else's trouble."""
    # A name that is no text could be written nowhere: not in an answer, not on the page of metrics.
    name, version = printable(folder.parent.name), int(folder.name)
    try:
        model = open_it()
    except Exception as error:
        metrics.forget(name, str(version))
        expected = isinstance(error, (BundleError, DeviceError))
        reason = printable(str(error) if expected else f"{folder}: cannot be opened: {type(error).__name__}: {error}")
        log.error("refused %s version %d: %s", name, version, reason, exc_info=not expected)
        return Refused(name, version, reason, error if isinstance(error, DeviceError) else None)
    log.info("model %s version %d is warm on %s", name, version, model.execution_provider)
    return model


def open_repository(config: Config, metrics: Metrics, workers: Workers) -> Repository:
    """All that can be served under `config.models`. Raises what `look` raises."""
    repository = Repository()
    repository.take(look(config, metrics, workers, repository))
    metrics.rejected_bundles.set(len(repository.refused))
    return repository


def find_bundles(models: Path) -> list[Path]:
    """Folders <models>/<name>/<version>, whether what is in them is whole or not."""
    if not models.is_dir():
        raise BundleError(f"models: got {models}, expected a folder")
    return sorted(
        (
            folder
            for folder in models.glob("*/*")
            if _is_version(folder.name) and not folder.parent.name.startswith(".") and _is_folder(folder)
        ),
        key=lambda folder: (folder.parent.name, int(folder.name)),
    )


def _is_version(name: str) -> bool:
    return name.isdecimal() and str(int(name)) == name and int(name) < 2**63  # int64 in the proto


def _is_folder(path: Path) -> bool:
    """Also if that cannot be told: opening it will say why."""
    try:
        return path.is_dir()
    except OSError:
        return True


def _open(folder: Path, config: Config, metrics: Metrics, workers: Workers) -> ServedModel:
    manifest = bundle.load(folder)
    calibration = bundle.load_calibration(folder, manifest)
    engine = Engine(folder, manifest, config.device_config)
    engine.check_golden(bundle.load_golden(folder, manifest))
    engine.warm_up()
    metrics.opened(manifest, engine.execution_provider)
    fallback = config.device != "cpu" and engine.execution_provider == CPU and has_driver()
    metrics.device_fallback.labels(manifest.name, str(manifest.version)).set(fallback)
    lanes = [INPUT, LATENT] if "decoder" in manifest.graphs else [INPUT]
    return ServedModel(
        manifest=manifest,
        execution_provider=engine.execution_provider,
        decoder=Decoder(manifest.input, config.limits, workers.decoding),
        judge=Judge(manifest, calibration),
        monitor=_open_monitor(folder, manifest, calibration, config, metrics),
        lanes={lane: _open_lane(lane, engine, config, metrics, workers) for lane in lanes},
    )


def _open_monitor(
    folder: Path, manifest: Manifest, calibration: dict[str, NDArray[np.float32]], config: Config, metrics: Metrics
) -> Monitor | None:
    """A new version begins with no evidence against it."""
    if not manifest.detectors:
        return None
    deciding = calibration[manifest.detectors[0].name]
    statistics = bundle.load_embedding_statistics(folder, manifest)
    name, version = manifest.name, str(manifest.version)
    monitor = Monitor(f"{name}/{version}", deciding, manifest.default_alpha, config.monitor, statistics)
    metrics.watch(name, version, monitor)
    return monitor


def _open_lane(lane: str, engine: Engine, config: Config, metrics: Metrics, workers: Workers) -> BatchQueue:
    observer = LaneMetrics(metrics, engine, lane)
    execute = partial(_execute, workers.engine, engine, lane)
    queue = BatchQueue(execute, config.queue, workers.slot, observer)
    observer.watch_oldest(queue.oldest_age)
    if isinstance(workers.decoding, Turns):
        queue.backlog = workers.decoding.backlog_seconds
    return queue


async def _execute(pool: Executor, engine: Engine, lane: str, pieces: Sequence[Piece]) -> Sequence[Tensors]:
    """Off the event loop: the next batch gathers while this one runs."""
    return await asyncio.get_running_loop().run_in_executor(pool, engine.run, lane, pieces)
