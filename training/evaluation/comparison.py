"""The figures of an encoder beside those of the baselines, which any method must beat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from training.data import Data, ImageShape
from training.data.lazy import is_lazy, rows_within
from training.data.origin import DataOrigin
from training.evaluation.baselines import PATCH, Encode, patch_centres, pixels, principal_components
from training.evaluation.other_data import in_shape_of
from training.evaluation.progress import say
from training.evaluation.report import FULL, PARTS, Metric, Part, ReportConfig, evaluation_report, some_rows
from training.evaluation.torch_encoders import encoders, untrained
from training.methods.encoding import Encoder
from training.running.run import Run

UNTRAINED = "random init"
BASELINES = ("pixels", "PCA-16", "PCA-64", UNTRAINED, "k-means patches")
BASELINE_BYTES = 2**26
"""Of pixels, in each split, of sets that memory should not hold: as centred floats they are eight times as much."""
PATCH_PARTS: tuple[Part, ...] = ("probes", "labels", "clusters")
"""What k-means patches are measured on; changed images too would take minutes."""


@dataclass(frozen=True)
class ReportOptions:
    """What goes into the evaluation report besides the encoder's own figures.

    Attributes:
        baselines: also measure pixels, principal components, the untrained network and k-means patches.
        patches: with --baselines, k-means patches too: by far the slowest baseline.
        transfer: another data set to probe with this encoder.
        rows: number of training rows and of test rows to draw; default: all.
        parts: which figures; `probes` alone takes a small part of the time of all.
    """

    baselines: bool = False
    patches: bool = True
    transfer: str | None = None
    rows: int | None = None
    parts: tuple[Part, ...] = PARTS

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError(f"parts: got none, expected some of {', '.join(PARTS)}")
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"rows: got {self.rows}, expected 1 or more")


def make_report(
    encode: Encode, origin: DataOrigin, data: Data, options: ReportOptions, latent: Encode | None = None
) -> list[Metric]:
    """The encoder's figures, then those of the baselines.

    Args:
        encode: of the trained model.
        origin: the training run, whose untrained network is a baseline, or an import, which has none.
        data: of it, or another set in its shape.
        options: what else goes into the report.
        latent: of the trained model, where it has latents.
    """
    transfer = None if options.transfer is None else in_shape_of(origin, options.transfer)
    if options.rows is not None:
        data, transfer = _fewer(data, options.rows), transfer and _fewer(transfer, options.rows)
    say("the encoder")
    config = replace(FULL, parts=options.parts)
    metrics = evaluation_report(encode, data, config, transfer=transfer, latent=latent)
    for name in baselines_of(data, options.patches, isinstance(origin, Run)) if options.baselines else ():
        parts = tuple(part for part in options.parts if name != "k-means patches" or part in PATCH_PARTS)
        if parts:
            metrics += baseline_report(name, origin, data, replace(FULL, parts=parts), transfer)
    return metrics


def baselines_of(data: Data, patches: bool = True, trained_here: bool = True) -> tuple[str, ...]:
    """Those of `BASELINES` that there are: all but the untrained network are about images.

    Args:
        data: to measure on.
        patches: whether k-means patches are wanted.
        trained_here: whether the network can be had as it was before its training.
    """
    left_out = set() if trained_here else {UNTRAINED}
    if not isinstance(data.shape, ImageShape):
        left_out |= set(BASELINES) - {UNTRAINED}
    elif not patches or min(data.shape.size) <= PATCH:
        left_out.add("k-means patches")
    return tuple(name for name in BASELINES if name not in left_out)


def baseline_report(
    name: str, origin: DataOrigin, data: Data, config: ReportConfig, transfer: Data | None = None
) -> list[Metric]:
    """The figures of one of `BASELINES`. Those with few dimensions are evaluated on factors, too, as latents are."""
    say(f"baseline: {name}")
    if is_lazy(data.train.values):
        data = _fewer(data, rows_within(data.train.values, BASELINE_BYTES))
        say(f"of {data.spec}, too large for memory, {len(data.train)} training rows and {len(data.test)} test rows")
    train_NHWC = data.train.values
    makers: dict[str, Callable[[], tuple[Encode, Encode | None]]] = {
        "pixels": lambda: (pixels, None),
        "PCA-16": lambda: (principal_components(train_NHWC, 16),) * 2,
        "PCA-64": lambda: (principal_components(train_NHWC, 64), None),
        UNTRAINED: lambda: encoders(_untrained(origin), data),
        "k-means patches": lambda: (patch_centres(train_NHWC), None),
    }
    encode, latent = makers[name]()
    return evaluation_report(encode, data, config, name, transfer, latent)


def _untrained(origin: DataOrigin) -> Encoder:
    if not isinstance(origin, Run):
        raise TypeError(f"{UNTRAINED}: got {type(origin).__name__}, expected a training run")
    return untrained(origin)


def _fewer(data: Data, rows: int) -> Data:
    return replace(data, train=some_rows(data.train, rows), test=some_rows(data.test, rows))
