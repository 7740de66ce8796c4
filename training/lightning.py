"""What we take of Lightning, without what it brings along, which each command would wait for.

Lightning takes two classes of torchmetrics, whose package loads every library that it can measure with: transformers,
torchvision, scipy. Here it is a package of these two classes alone while Lightning loads, and who wants the whole of it
afterwards imports it as ever.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from importlib import metadata
from typing import Any

METRICS = "torchmetrics"


def _load() -> None:
    """Loads Lightning over the short package; where it wants more of it, nothing has happened."""
    spec = importlib.util.find_spec(METRICS)
    if spec is None or {METRICS, "lightning"} & sys.modules.keys():
        return
    package: Any = importlib.util.module_from_spec(spec)
    sys.modules[METRICS] = package
    try:
        package.__version__, package._logger = metadata.version(METRICS), logging.getLogger(METRICS)
        importlib.import_module(f"{METRICS}.utilities")  # first: it and `metric` import each other
        package.Metric = importlib.import_module(f"{METRICS}.metric").Metric
        package.MetricCollection = importlib.import_module(f"{METRICS}.collections").MetricCollection
        importlib.import_module("lightning")
    except (ImportError, AttributeError):
        _forget("lightning")
    _forget(METRICS)


def _forget(package: str) -> None:
    for name in [one for one in sys.modules if one.split(".")[0] == package]:
        del sys.modules[name]


_load()

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.layer_sync import LayerSync
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

__all__ = [
    "Callback",
    "CheckpointIO",
    "DDPStrategy",
    "LayerSync",
    "LightningEnvironment",
    "LightningModule",
    "LightningOptimizer",
    "ModelCheckpoint",
    "OptimizerLRSchedulerConfig",
    "TQDMProgressBar",
    "TorchElasticEnvironment",
    "Trainer",
]
