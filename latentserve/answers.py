"""What a client's calls return, beside arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latentserve.maps import AnomalyMaps, Region, given
from latentserve.v1 import embedding_pb2 as pb

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


@dataclass(frozen=True)
class Scores:
    """Out-of-distribution answers for n rows; `maps`, `regions` and `overlay` are those of `anomaly_maps`.

    Attributes:
        detectors: names of the K detectors.
        scores: float32 [n, K], larger is more out-of-distribution.
        detector_p_values: float32 [n, K], of every detector.
        p_values: float64 [n], of the deciding detector.
        flagged: bool [n], p_values <= alpha, or what the false discovery rate allows over all n rows.
        alpha: level of the decision.
        deciding_detector: name of the detector that decides.
        anomaly_maps: where the rows are out of distribution; None unless it was asked for.
    """

    detectors: tuple[str, ...]
    scores: NDArray[np.float32]
    detector_p_values: NDArray[np.float32]
    p_values: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    alpha: float
    deciding_detector: str
    anomaly_maps: AnomalyMaps | None = None

    @property
    def maps(self) -> NDArray[np.float32]:
        """float32 [n, h, w], larger is more out-of-distribution. InvalidInput unless `maps` was asked for."""
        return given(self.anomaly_maps).values

    @property
    def regions(self) -> tuple[tuple[Region, ...], ...]:
        """Of each row the flagged regions, the largest first. InvalidInput unless `maps` was asked for."""
        return given(self.anomaly_maps).regions

    def overlay(self, image: Any, row: int = 0) -> Picture:
        """A photograph with the map of its row over it: see `AnomalyMaps.overlay`."""
        return given(self.anomaly_maps).overlay(image, row)


@dataclass(frozen=True)
class Analysis:
    """The outputs requested of `analyze`; the others are None.

    Attributes:
        model: the version that answered.
        embeddings: float32 [n, D].
        latents: float32 [n, L].
        reconstructions: float32 [n, height, width, channels], 0 to 1.
        scores: out-of-distribution answers.
        anomaly_maps: where the rows are out of distribution.
        codes: int16 [n, h, w], indices into the codebook.
    """

    model: pb.ModelVersion
    embeddings: NDArray[np.float32] | None = None
    latents: NDArray[np.float32] | None = None
    reconstructions: NDArray[np.float32] | None = None
    scores: Scores | None = None
    anomaly_maps: AnomalyMaps | None = None
    codes: NDArray[np.int16] | None = None
