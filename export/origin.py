"""What an encoder came from: a training run of ours, or something that was trained elsewhere and imported."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from latentserve import records
from latentserve.bundle import Provenance
from latentserve.inputs import AudioInput, ImageInput
from training.data import AudioShape, Data, DataError, ImageShape, load_data
from training.data.shares import Calibration
from training.evaluation.other_data import in_channels, in_shape
from training.running.loop import Trained
from training.running.run import Run, RunError

SOUNDS = re.compile(r"(fsdd|audio)\b")
"""How the specs of data sets of sounds begin."""
IMPORT: Literal["import"] = "import"
"""The method of an imported encoder, in its bundle's provenance."""


@dataclass(frozen=True)
class TrainedRun:
    """A finished training.

    Attributes:
        run: its config.
        trained: what it tells about itself.
    """

    run: Run
    trained: Trained


@dataclass(frozen=True)
class Imported:
    """An encoder that was trained elsewhere, and the rows that its detectors are fitted on.

    Attributes:
        source: as the user wrote it, for instance `timm:mobilenetv2_100=weights.safetensors`.
        weights_sha256: of the file that they came from, or of the tensors where there is no file.
        licence: its text as far as it is known, or an empty text.
        data: data spec.
        input: what a row is.
        seed: draws the splits.
        group_by: rows that no split parts: see `training.data.grouping`.
        data_sha256: fingerprint of the training rows.
        options: of the import, as far as they were given.
        versions: of the libraries that the encoder came from.
        calibration: what calibrates. Imports that are older than it have none.
        method: tells it from a training.
    """

    source: str
    weights_sha256: str
    licence: str
    data: str
    input: ImageInput | AudioInput
    seed: int = 0
    group_by: str | None = None
    data_sha256: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    calibration: Calibration | None = None
    method: Literal["import"] = IMPORT

    @property
    def shape(self) -> ImageShape | AudioShape:
        """Of a row."""
        if isinstance(self.input, ImageInput):
            given = self.input
            return ImageShape(given.height, given.channels, width=given.width, resize=given.resize)
        return AudioShape(self.input.sample_rate_hz, self.input.num_samples)

    @property
    def sizes(self) -> dict[str, Any]:
        """See `DataOrigin`."""
        shape, given = self.shape, self.input
        if isinstance(shape, ImageShape):
            return {**in_shape(shape), "group_by": self.group_by}
        assert isinstance(given, AudioInput)
        named = self.data.startswith("audio:")  # a set that brings its rate takes none
        rate = given.sample_rate_hz if named else None
        return {"sample_rate_hz": rate, "num_samples": given.num_samples, "group_by": self.group_by}

    def load_data(self) -> Data:
        """The rows, as the encoder takes them.

        Raises:
            DataError: they cannot be loaded, are of another kind, or are others than they were.
        """
        wanted, spec = self.shape, SOUNDS.match(self.data)
        if (spec is not None) != isinstance(wanted, AudioShape):  # or its options would be said to be wrong
            kind = "images" if spec is None else "sounds"
            takes = "images" if isinstance(wanted, ImageShape) else "sounds"
            raise DataError(f"data: got {self.data}, which are {kind}, expected {takes}, which the encoder takes")
        data = load_data(self.data, seed=self.seed, **self.sizes, calibration=self.calibration)
        got = data.shape
        if isinstance(got, AudioShape) and got != wanted:
            raise DataError(f"data: got {self.data} with {got}, expected {wanted}")
        if isinstance(wanted, ImageShape):
            data = in_channels(data, wanted.channels)
        if self.data_sha256 and not data.has_fingerprint(self.data_sha256):
            raise DataError(f"{self.data}: the rows are not those of the import any more; import again")
        return data


Origin = TrainedRun | Imported


def read_config(provenance: Provenance, place: object) -> Run | Imported:
    """The config that a bundle's provenance holds.

    Args:
        provenance: of the bundle.
        place: of the bundle, for messages.

    Raises:
        RunError: it is that of no training run, and of no import.
    """
    kind: type[Run | Imported] = Imported if provenance.method == IMPORT else Run
    try:
        return records.from_json(kind, provenance.config)
    except records.RecordError as error:
        raise RunError(f"{place}: provenance.config: {error}") from error
