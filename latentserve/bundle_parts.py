"""What a bundle's manifest says of its graphs, its detectors, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from latentserve.conformal import Adjustment, adjustments, check_delta
from latentserve.inputs import TensorSpec

Calibration = Literal["split", "cross"]


@dataclass(frozen=True)
class Graph:
    """One ONNX graph: the tensors it reads and the tensors it outputs."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Detector:
    """An out-of-distribution detector: one column of `scores`, and how it was calibrated.

    Attributes:
        name: unique in the bundle; names its array in calibration.npz.
        method: how the score is computed, for human readers.
        num_calibration_rows: rows that neither training nor the detector saw; of `cross` each was scored by detectors
            that were fitted without it.
        calibration_sha256: of the sorted calibration scores.
        delta: largest probability, over calibration sets, that the conditional guarantee does not hold.
        adjustment: how conditional p-values follow from marginal ones: see `latentserve.conformal`.
        power: AUROC against training rows that were damaged on purpose; None: not measured.
        weight: of its score in the weighted sum of all; 0 where it has none.
        calibration: `split`: by rows that were set aside, which flags at most alpha on average whatever the data;
            `cross`: by all rows, each scored without its fold, where that is measured and not proved (docs/adr/0026).
    """

    name: str
    method: str
    num_calibration_rows: int
    calibration_sha256: str
    delta: float = 0.1
    adjustment: Adjustment = "simes"
    power: float | None = None
    weight: float = 0.0
    calibration: Calibration = "split"

    def __post_init__(self) -> None:
        check_delta(self.delta, self.adjustment)
        if self.num_calibration_rows < 1:
            raise ValueError(f"num_calibration_rows: got {self.num_calibration_rows}, expected 1 or more")

    @property
    def smallest_p_value(self) -> float:
        """The smallest possible p-value, of the most out-of-distribution item."""
        return 1 / (self.num_calibration_rows + 1)

    @property
    def smallest_conditional_p_value(self) -> float:
        """The smallest possible conditional p-value."""
        return float(adjustments(self.num_calibration_rows, self.delta, self.adjustment)[0])


@dataclass(frozen=True)
class Parity:
    """The largest difference between an ONNX output and the trained model's on real rows."""

    tensor: str
    max_abs_error: float
    tolerance: float
    num_rows: int


@dataclass(frozen=True)
class Evaluation:
    """One metric, measured through the exported graphs when the bundle was made."""

    name: str
    value: float
    data: str


@dataclass(frozen=True)
class Provenance:
    """Where the model came from.

    Attributes:
        method: training method, for instance `vae`.
        data: data spec, for instance `mnist` or `folder:photos`.
        data_sha256: fingerprint of the training rows, their order included.
        seed: of the training run.
        epochs: trained.
        config: the whole training config.
        git_revision: of the code that trained, with `+dirty` if it was changed, or `unknown`.
        trained_seconds: wall-clock of the training.
        device: what it was trained on.
        created_at: when the bundle was made, RFC 3339, UTC.
        versions: of the libraries that made it.
    """

    method: str
    data: str
    data_sha256: str
    seed: int
    epochs: int
    config: dict[str, Any]
    git_revision: str
    trained_seconds: float
    device: str
    created_at: str
    versions: dict[str, str]
