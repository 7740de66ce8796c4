"""The graph of all detectors of a bundle: one column of `scores` each, the deciding one first, and the map of one.

Shape legend: B rows, K columns, F columns of the fusion, h and w places.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from typing import Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.detectors.density import Density
from export.detectors.detector import Arrays, Detector, FittedDetector, batches_of
from export.detectors.directions import Placed, fitted_on, scores_by
from export.detectors.drawing import Drawn, draw
from export.detectors.fusion import FUSED, Fusion
from export.detectors.given_others import CoarsePlaces, PatchesGivenOthers
from export.detectors.inputs import EdgeNeighbours, InputMahalanobis, InputNeighbours
from export.detectors.joint import JointDiscriminator
from export.detectors.likelihood import ComplexityCorrected, Likelihood, LikelihoodRatio, Typicality
from export.detectors.magnitude import Magnitude
from export.detectors.mahalanobis import ClusterMahalanobis, Mahalanobis
from export.detectors.neighbours import Neighbours
from export.detectors.patch_bank import PatchBank
from export.detectors.places import PlaceDetector, highest
from export.detectors.power import Embed, Power, damaged_rows, power_of
from export.detectors.reconstruction_places import ReconstructionPlaces
from export.detectors.resolution import NUDGES, SMALLEST_RESOLUTION, Plateaus, resolution, scores_of
from export.detectors.statistics import StatisticsMahalanobis
from latentserve.inputs import ANOMALY_MAP, INPUT
from training.data.lazy import chosen_rows
from training.data.units import Units, equal_rows

FITTED: tuple[type[FittedDetector], ...] = (
    *(StatisticsMahalanobis, Mahalanobis, ClusterMahalanobis, Neighbours, Density, Magnitude),
    *(InputMahalanobis, InputNeighbours, EdgeNeighbours),
    *(Likelihood, Typicality, ComplexityCorrected, LikelihoodRatio),
)
PLACES: tuple[type[PlaceDetector], ...] = (PatchesGivenOthers, PatchBank, ReconstructionPlaces, CoarsePlaces)
"""Those with a map, which are fitted on images alone; a bundle shows the map of the one that sees most damage."""
DETECTORS = (*FUSED, *(kind.name for kind in (*FITTED, *PLACES)), JointDiscriminator.name)
"""Names of all that there are; which of them a bundle has depends on its model's tensors."""
DEAR = (PatchBank.name,)
"""Left out where another detector sees as much of every kind of damage."""


def possible(model: object, train: Arrays) -> list[str]:
    """Names of the detectors that a model's tensors allow, in the order of their columns."""
    names = [kind.name for kind in FITTED if train.keys() >= set(kind.inputs)]
    names += [kind.name for kind in PLACES if kind.suits(train)]
    return names if _discriminator(model) is None else [*names, JointDiscriminator.name]


def _discriminator(model: object) -> nn.Module | None:
    found = getattr(model, "discriminator", None)
    return found if isinstance(found, nn.Module) else None


class Scorer(nn.Module):
    """Tensors in the order of `inputs` -> scores [B, K].

    Attributes:
        inputs: names of the tensors.
        names: of the columns. The first decides: the weighted mean of all where there are several and it is known what
            they see, else their Cauchy combination, unless `deciding` made another the first.
        methods: how each is computed, for people.
        map_detector: name of the one whose map is shown, or empty.
        power: what the detectors see of damaged rows; None: that was not measured, or there is only one detector.
        left_out: names of the detectors that add nothing.
    """

    def __init__(
        self,
        detectors: Sequence[Detector],
        fusion: Fusion | None,
        plateaus: Plateaus | None = None,
        fused_plateaus: Plateaus | None = None,
    ) -> None:
        super().__init__()
        self.detectors = nn.ModuleList(cast(Sequence[nn.Module], detectors))
        self.fusion = fusion
        self.plateaus, self.fused_plateaus = plateaus, fused_plateaus
        self.inputs = tuple(dict.fromkeys(name for detector in detectors for name in detector.inputs))
        names, methods = ((), ()) if fusion is None else (fusion.names, fusion.methods)
        self.names: tuple[str, ...] = (*names, *(detector.name for detector in detectors))
        self.methods: tuple[str, ...] = (*methods, *(detector.method for detector in detectors))
        self.order: tuple[int, ...] = ()
        self.map_detector = next((one.name for one in detectors if isinstance(one, PlaceDetector)), "")
        self.power: Power | None = None
        self.left_out: tuple[str, ...] = ()

    def deciding(self, name: str) -> Self:
        """The same with another column first; the others keep their order.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self.names:
            raise ValueError(f"deciding: got {name!r}, expected one of {', '.join(self.names)}")
        first = self.names.index(name)
        other = copy(self)
        other.order = (first, *(column for column in range(len(self.names)) if column != first))
        other.names = tuple(self.names[column] for column in other.order)
        other.methods = tuple(self.methods[column] for column in other.order)
        return other

    @property
    def members(self) -> Sequence[Detector]:
        """The detectors, as what they are besides modules."""
        return cast(Sequence[Detector], self.detectors)

    @classmethod
    def fit(
        cls,
        model: object,
        train: Arrays,
        units_N: Units | None = None,
        chosen: Drawn | None = None,
        embed: Embed | None = None,
        power: Power | None = None,
        wanted: Collection[str] = (),
    ) -> Self:
        """Every detector that the model's tensors allow, fitted on training rows; the fusion on others of them.

        Args:
            model: trained; its discriminator becomes a detector if it has one.
            train: inputs, and the outputs of the exported graphs for them.
            units_N: of the rows. Of a unit that reference rows are of none is fitted on; default: equal rows are one.
            chosen: rows of `train`, if they were drawn from more than these; `units_N` then says nothing.
            embed: what the exported graphs return for rows; with it the fusion is weighted by what detectors see of
                damaged rows.
            power: what detectors see, if another fit has told; `embed` then is not asked.
            wanted: names of the detectors to fit; default: all but the dear that add nothing (see `DEAR`).
        """
        if units_N is None and INPUT in train and chosen is None:
            units_N = equal_rows(train[INPUT])
        reference, fitted = chosen or draw(len(train["embedding"]), units_N)
        rows = _some(train, fitted)
        names = [name for name in possible(model, train) if name in wanted or not wanted]
        kinds: tuple[type[FittedDetector], ...] = (*FITTED, *PLACES)
        detectors = fitted_on(rows, [kind for kind in kinds if kind.name in names])
        if JointDiscriminator.name in names and (discriminator := _discriminator(model)) is not None:
            detectors.append(JointDiscriminator(discriminator))
        single = cls(detectors, None).eval()
        if len(detectors) == 1:
            return single
        reference_rows = _some(train, reference)
        scores_MK, moved_MK = single.scores(reference_rows), single._moved(reference_rows)
        if power is not None or embed is None:
            return single._fused(scores_MK, moved_MK, power)
        power = single._power(reference_rows, scores_MK, Plateaus.fit(scores_MK, moved_MK), embed)
        if power is None or wanted or len(kept := single._worth_it(power)) in (1, len(detectors)):
            return single._fused(scores_MK, moved_MK, power)
        others = cls([detectors[column] for column in kept], None).eval()
        fused = others._fused(scores_MK[:, kept], moved_MK[:, kept], power.of(kept))
        fused.left_out = tuple(name for name in single.names if name not in fused.names)
        return fused

    def _worth_it(self, power: Power) -> list[int]:
        """Columns of all but the dear that see no more than others do; whose map is shown stays."""
        shown = self._with_most_power(power)
        dear = {column for column, one in enumerate(self.members) if one.name in DEAR and one.name != shown}
        return [column for column in range(len(self.members)) if column not in dear or power.adds(column)]

    def _fused(self, scores_MK: NDArray[np.float32], moved_MK: NDArray[np.float32], power: Power | None) -> Self:
        """Adds fusion and plateaus, which are fitted on the scores of reference rows."""
        plateaus = Plateaus.fit(scores_MK, moved_MK)
        if plateaus is not None:
            scores_MK = plateaus(torch.from_numpy(scores_MK)).numpy()
        weights_K = power.weights if power is not None and power.weights.any() else None
        fusion = Fusion(scores_MK, resolution(scores_MK, moved_MK), weights_K)
        fused_MF = fusion(torch.from_numpy(scores_MK)).numpy()
        # equal scores of detectors have equal logarithms and tangents but for the library that computes them
        on_fused = Plateaus.fit(fused_MF, SMALLEST_RESOLUTION * np.maximum(1, np.abs(fused_MF)))
        fused = type(self)(list(self.members), fusion, plateaus, on_fused).eval()
        fused.power = power
        fused.map_detector = fused._with_most_power(power)
        return fused

    def _power(
        self, reference: Arrays, scores_MK: NDArray[np.float32], plateaus: Plateaus | None, embed: Embed
    ) -> Power | None:
        """What the detectors see of damaged reference rows; None where that cannot be told."""
        damaged = damaged_rows(reference, embed)
        if damaged is None:
            return None
        tensors, kinds_N = damaged
        damaged_NK = self.scores(tensors)
        if plateaus is not None:
            scores_MK, damaged_NK = (plateaus(torch.from_numpy(one)).numpy() for one in (scores_MK, damaged_NK))
        return power_of(scores_MK, damaged_NK, kinds_N)

    def _with_most_power(self, power: Power | None) -> str:
        """The name of the place detector that sees most, of the bank where that was not measured; or empty."""
        auroc_K = np.zeros(len(self.members)) if power is None else power.auroc_K
        powers = {
            one.name: float(auroc)
            for one, auroc in zip(self.members, auroc_K, strict=True)
            if isinstance(one, PlaceDetector)
        }
        return max(powers, key=lambda name: (powers[name], name == PatchBank.name), default="")

    def weight_of(self, name: str) -> tuple[float | None, float]:
        """A column's power, if it was measured, and its weight in the weighted sum, if it has any."""
        names = [detector.name for detector in self.members]
        if self.power is None or name not in names:
            return None, 0.0
        column = names.index(name)
        return float(self.power.auroc_K[column]), float(self.power.weights[column])

    def forward(self, *tensors: Tensor) -> Tensor:
        """Scores [B, K]."""
        return self.with_map(*tensors)[0]

    def with_map(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Scores [B, K], and the map [B, h, w] if there is one: its maximum is its detector's score."""
        named = dict(zip(self.inputs, tensors, strict=True))
        maps, columns, placed = dict[int, Tensor](), list[Tensor](), dict[object, Placed]()
        for column, detector in enumerate(self.members):
            given = [named[name] for name in detector.inputs]
            if isinstance(detector, PlaceDetector) and detector.name == self.map_detector:
                maps[column] = detector.places(*given)
            columns.append(highest(maps[column]) if column in maps else scores_by(detector, given, placed))
        if self.plateaus is not None:
            columns = list(self.plateaus(torch.stack(columns, dim=1)).unbind(dim=1))
            for column, map_Bhw in maps.items():
                maps[column] = self.plateaus.of_column(map_Bhw, column)
                columns[column] = highest(maps[column])  # the same, as no two scores are turned round; to the last bit
        return (self._in_order(torch.stack(columns, dim=1)), *maps.values())

    def _in_order(self, scores_BK: Tensor) -> Tensor:
        """Scores of the detectors and their fusion, the deciding one first."""
        if self.fusion is not None:
            fused_BF = self.fusion(scores_BK)
            if self.fused_plateaus is not None:
                fused_BF = self.fused_plateaus(fused_BF)
            scores_BK = torch.cat([fused_BF, scores_BK], dim=1)
        return scores_BK[:, list(self.order)] if self.order else scores_BK

    def scores(self, arrays: Arrays) -> NDArray[np.float32]:
        """Scores of many rows in torch, [N, K]."""
        with torch.no_grad():
            parts = [self(*batch) for batch in batches_of(arrays, self.inputs)]
        scores_NK: NDArray[np.float32] = torch.cat(parts).numpy()
        return scores_NK

    def maps(self, arrays: Arrays) -> dict[str, NDArray[np.float32]]:
        """Scores and map of many rows in torch, by tensor name."""
        with torch.no_grad():
            parts = [self.with_map(*batch) for batch in batches_of(arrays, self.inputs)]
        return {
            name: torch.cat(of_name).numpy()
            for name, of_name in zip(self.outputs, zip(*parts, strict=True), strict=True)
        }

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what `with_map` returns."""
        return ("scores", ANOMALY_MAP) if self.map_detector else ("scores",)

    def _moved(self, arrays: Arrays) -> NDArray[np.float32]:
        """What rounding moves the detectors' scores by, [N, K]: the most of some tries."""
        generator = torch.Generator().manual_seed(0)
        parts = []
        with torch.no_grad():
            for batch in batches_of(arrays, self.inputs):
                named = dict(zip(self.inputs, batch, strict=True))
                scores_BK = scores_of(self.members, named)
                tries = [scores_of(self.members, named, generator) - scores_BK for _ in range(NUDGES)]
                parts.append(torch.stack(tries).abs().amax(dim=0))
        moved_NK: NDArray[np.float32] = torch.cat(parts).numpy()
        return moved_NK


def _some(train: Arrays, rows_N: NDArray[np.int64]) -> Arrays:
    """Some rows of all tensors. Inputs, which detectors take a part of at a time, are not copied if they are large."""
    return {name: chosen_rows(array, rows_N) if name == INPUT else array[rows_N] for name, array in train.items()}
