"""One version of a model, ready to answer, and how a bundle becomes one: it is loaded, verified and warmed up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentserve import bundle
from latentserve.bundle import Manifest
from latentserve.devices import CPU
from latentserve.inputs import INPUT
from service.engine.providers import DeviceConfig, has_driver
from service.models.decisions import DecisionPolicy
from service.models.decoding import Decoder, Limits
from service.models.engines import Engines, Workers
from service.models.maps import MapPolicy
from service.observing.metrics import Metrics
from service.observing.monitor import Monitor, MonitorConfig
from service.observing.queue_metrics import QueueMetrics
from service.scheduling.batching import BatchQueue, QueueConfig
from service.scheduling.decoding_queue import DecodingQueue
from service.scheduling.observer import Tolerant

LATENT = "latent"


@dataclass(frozen=True)
class ModelsConfig:
    """Where models are found, and what they are served with.

    Attributes:
        folder: the model repository: <name>/<version>/bundle.json.
        device: on what graphs run.
        queue: bounds of each queue.
        limits: of a request.
        monitor: what counts as a shift of what is scored.
    """

    folder: Path
    device: DeviceConfig
    queue: QueueConfig
    limits: Limits
    monitor: MonitorConfig


@dataclass(frozen=True)
class ServedModel:
    """One version of a model, ready to answer.

    Attributes:
        manifest: of its bundle.
        execution_provider: what really runs it.
        engines: that run it, one for each instance.
        decoder: request messages to rows.
        policy: scores to decisions.
        monitor: whether calibration still fits what is scored; None without detectors.
        queues: `input` rows wait in one, `latent` rows in another where there is a decoder graph.
        map_policy: anomaly maps to what they mean; None if it has none.
    """

    manifest: Manifest
    execution_provider: str
    engines: Engines
    decoder: Decoder
    policy: DecisionPolicy
    monitor: Monitor | None
    queues: dict[str, BatchQueue]
    map_policy: MapPolicy | None = None

    @property
    def key(self) -> tuple[str, int]:
        """Name and version."""
        return self.manifest.name, self.manifest.version

    @property
    def source(self) -> str:
        """Where an imported encoder came from, as its user named it; empty of one that was trained here."""
        return str(self.manifest.provenance.config.get("source", ""))


def load(folder: Path, config: ModelsConfig, metrics: Metrics, workers: Workers) -> ServedModel:
    """Loads a bundle, verifies it and warms it up. Slow.

    Raises:
        BundleError: the bundle is broken, or its golden rows come out otherwise.
        DeviceError: the required device is not there.
    """
    manifest = bundle.load(folder)
    calibration = bundle.load_calibration(folder, manifest)
    engines = Engines(folder, manifest, config.device, workers)
    provider = engines.open_all()
    metrics.opened(manifest, provider)
    fallback = config.device.kind != "cpu" and provider == CPU and has_driver()
    metrics.device_fallback.labels(manifest.name, str(manifest.version)).set(fallback)
    names = [INPUT, LATENT] if "decoder" in manifest.graphs else [INPUT]
    return ServedModel(
        manifest=manifest,
        execution_provider=provider,
        engines=engines,
        decoder=Decoder(manifest.input, config.limits, workers.decoding),
        policy=DecisionPolicy(manifest, calibration),
        monitor=_monitor(folder, manifest, calibration, config, metrics),
        queues={name: _queue(name, manifest, engines, config, metrics, workers) for name in names},
        map_policy=MapPolicy(manifest, calibration) if manifest.map_detector else None,
    )


def _monitor(
    folder: Path,
    manifest: Manifest,
    calibration: dict[str, NDArray[np.float32]],
    config: ModelsConfig,
    metrics: Metrics,
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


def _queue(
    name: str, manifest: Manifest, engines: Engines, config: ModelsConfig, metrics: Metrics, workers: Workers
) -> BatchQueue:
    observer = QueueMetrics(metrics, manifest.name, manifest.version, name)
    cost = Tolerant(observer)
    executes = [partial(engines.execute, one, name, cost) for one in workers.instances.every]
    queue = BatchQueue(executes, config.queue, workers.instances, observer)
    observer.watch_oldest(queue.oldest_age)
    if isinstance(workers.decoding, DecodingQueue):
        queue.backlog = workers.decoding.backlog_seconds
    return queue
