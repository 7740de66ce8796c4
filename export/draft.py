"""A bundle in the making: what it is made of, what the user chose, and what has been written so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from export.calibration import Promise
from export.detectors import Scorer
from export.graphs import Device, GraphRunner
from export.origin import Imported, Origin, TrainedRun
from latentserve.bundle import Detector, Graph, Precision
from training.data import Data
from training.methods.encoding import Encoder
from training.running.run import Run

ReportSize = Literal["none", "quick", "full"]


@dataclass(frozen=True)
class Training:
    """An encoder, trained here or elsewhere.

    Attributes:
        origin: where it came from.
        model: with its final weights, in eval mode.
        data: the rows that it trained on, or that its detectors are to be fitted on, and the other splits.
    """

    origin: Origin
    model: Encoder
    data: Data

    @property
    def config(self) -> Run | Imported:
        """What the bundle's provenance holds of it."""
        return self.origin.run if isinstance(self.origin, TrainedRun) else self.origin


@dataclass(frozen=True)
class Choices:
    """What the user chooses.

    Attributes:
        report: how much of the evaluation report goes into the bundle.
        precision: of the encoder: see `export.quantise` and `export.half`.
        promise: of the p-values.
        device: what computes the embeddings that detectors are fitted on and calibrated with.
    """

    report: ReportSize = "quick"
    precision: Precision = "float32"
    promise: Promise = Promise()  # noqa: RUF009 (frozen)
    device: Device = "cpu"


@dataclass(frozen=True)
class Draft:
    """A bundle in the making.

    Attributes:
        folder: of its files.
        training: what it is made of.
        choices: of the user.
        graphs: written so far, by name.
        scorer: the detectors, once they are fitted.
        detectors: the manifest's entries for them.
    """

    folder: Path
    training: Training
    choices: Choices
    graphs: dict[str, Graph] = field(default_factory=dict)
    scorer: Scorer | None = None
    detectors: tuple[Detector, ...] = ()

    @property
    def runner(self) -> GraphRunner:
        """Runs the graphs so far, where the bundle will be served."""
        return GraphRunner(self.folder, self.graphs.values(), self.choices.device)
