"""A run: the folder a training leaves behind, and what export reads.

runs/<name>/
run.json           the whole config, a `Run`
last.safetensors   weights and optimizer after the last whole epoch, or within one that takes long
result.json        a `Trained`, written when the training is finished
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latentserve import records
from latentserve.inputs import Resize
from training.data import AudioShape, Data, ImageShape, load_data
from training.data.shares import Calibration
from training.lightning import LightningModule
from training.methods import METHODS
from training.methods.encoding import Encoder, as_encoder
from training.options import Dataclass
from training.running import checkpoint
from training.running.given import Given
from training.running.loop import Trained
from training.schedule import LoopConfig

RUN = "run.json"
RESULT = "result.json"
CHECKPOINT = "last.safetensors"
FREE = ("compiled", "save_minutes")
"""Options of the loop that may be others when a run goes on."""
BEFORE = (("width", None), ("resize", records.to_json(Resize())))
"""What the shape of a run is that is older than these fields: its checkpoint does not name them."""


class RunError(ValueError):
    """The folder is not a run, or not one that fits the request."""


@dataclass(frozen=True)
class Run:
    """The whole config of a training.

    Attributes:
        method: key of `training.methods.METHODS`.
        data: data spec.
        shape: of a row.
        num_train_rows: the first rows of the training split, all unless --smoke.
        data_sha256: fingerprint of those rows.
        git_revision: of the code that trains.
        loop: how long and in what steps.
        config: of the method.
        group_by: rows that no split parts: see `training.data.grouping`. Runs that are older than it have none.
        given: what it was given besides the data, by the name of the option: a teacher, weights to start with.
        calibration: what calibrates. Runs that are older than it have none.
    """

    method: str
    data: str
    shape: ImageShape | AudioShape
    num_train_rows: int
    data_sha256: str
    git_revision: str
    loop: LoopConfig
    config: dict[str, Any]
    group_by: str | None = None
    given: dict[str, Given] | None = None
    calibration: Calibration | None = None

    @property
    def seed(self) -> int:
        """Draws the splits, and the weights at the beginning."""
        return self.loop.seed

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint belongs to, JSON: all of it but the revision, and options of the loop that are free.

        What is as it was before there was a choice is not named, so that older checkpoints go on.
        """
        said = {name: value for name, value in records.to_json(self).items() if name != "git_revision"}
        if self.calibration is None:
            del said["calibration"]
        said["loop"] = {name: value for name, value in said["loop"].items() if name not in FREE}
        said["shape"] = {name: value for name, value in said["shape"].items() if (name, value) not in BEFORE}
        return said

    def load_data(self) -> Data:
        """The data of the run, with the very rows it trained on.

        Raises:
            DataError: it cannot be loaded.
            RunError: the rows are not those of the run any more.
        """
        data = load_data(self.data, seed=self.loop.seed, **self.sizes, calibration=self.calibration)
        data = replace(data, train=data.train.take(slice(0, self.num_train_rows)))
        if not data.has_fingerprint(self.data_sha256):
            raise RunError(
                f"{self.data}: the training rows are not those of the run any more; train again"
                " (the data changed, or have copies, which are split in another way since)"
            )
        return data

    def build(self) -> LightningModule:
        """The untrained model.

        Raises:
            RunError: unknown method, rows it does not take, or a config that is not its config.
        """
        if self.method not in METHODS:
            raise RunError(f"method: got {self.method!r}, expected one of {sorted(METHODS)}")
        method = METHODS[self.method]
        if self.shape.modality != method.modality:
            raise RunError(f"data: {self.data} is {self.shape.modality}, {self.method} takes {method.modality}")
        if method.colour and isinstance(self.shape, ImageShape) and self.shape.channels != 3:
            raise RunError(f"data: {self.data} is grey, {self.method} takes RGB images: it learns from their colours")
        config = self.read_config()
        try:
            return method.module(config, self.loop, self.shape)
        except (RuntimeError, MemoryError, TypeError, OverflowError) as error:  # torch, of sizes that nobody can have
            raise RunError(f"{self.method}: cannot be built with this config: {str(error).splitlines()[0]}") from error

    def read_config(self) -> Dataclass:
        """The config of the method, as its own class.

        Raises:
            RunError: unknown method, or a config that is not its config.
        """
        if self.method not in METHODS:
            raise RunError(f"method: got {self.method!r}, expected one of {sorted(METHODS)}")
        try:
            return records.from_json(METHODS[self.method].config, self.config)
        except records.RecordError as error:
            raise RunError(str(error)) from error

    @property
    def sizes(self) -> dict[str, Any]:
        """The arguments of `load_data`, besides spec and seed, that load these rows again."""
        if isinstance(self.shape, ImageShape):
            height, width = self.shape.size
            image_size = height if height == width else f"{height}x{width}"
            return {"image_size": image_size, "resize": self.shape.resize, "group_by": self.group_by}
        shape = self.shape
        return {"sample_rate_hz": shape.sample_rate_hz, "num_samples": shape.num_samples, "group_by": self.group_by}


def open_run(folder: Path) -> tuple[Run, Trained]:
    """Reads a finished run.

    Raises:
        RunError: not a run, or not finished.
    """
    try:
        run = records.read(Run, folder / RUN)
    except FileNotFoundError:
        raise RunError(f"{folder}: got no {RUN} there, expected the folder of a training run") from None
    except records.RecordError as error:
        raise RunError(f"{folder / RUN}: {error}") from error
    try:
        return run, records.read(Trained, folder / RESULT)
    except FileNotFoundError:
        raise RunError(f"{folder}: the training is not finished; go on with --resume") from None
    except records.RecordError as error:
        raise RunError(f"{folder / RESULT}: {error}") from error


def load_model(folder: Path, run: Run) -> Encoder:
    """The trained model in eval mode, on the CPU.

    Raises:
        CheckpointError: the checkpoint there is not this run's.
    """
    module = run.build()
    module.load_state_dict(checkpoint.state_dict(folder / CHECKPOINT, run.identity))
    return as_encoder(module.eval())
