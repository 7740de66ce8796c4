"""What a training is given besides its data: a teacher, weights to start with. They are part of what a run is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from training.data.rows import Values
from training.lightning import LightningModule
from training.methods.encoding import Surveyor, Taught
from training.options import Dataclass
from training.running.start import sha256_of_weights, start_from
from training.teacher import Teacher

TEACHER, WEIGHTS = "teacher", "backbone_weights"
"""Fields of a method's config that name such a thing."""


@dataclass(frozen=True)
class Given:
    """A thing that a training was given.

    Attributes:
        name: of the file, or of a bundle as name/version.
        sha256: of the file, or of a bundle's encoder, in hex.
        embedding_space: of a bundle, else None.
    """

    name: str
    sha256: str
    embedding_space: str | None = None


def given_by(config: Dataclass) -> dict[str, Given] | None:
    """What a config names, by field; None if it names nothing.

    Raises:
        TeacherError: the teacher is no bundle of images, or was changed.
        StartError: there is no such file of weights.
    """
    found: dict[str, Given] = {}
    if hasattr(config, TEACHER):
        teacher = Teacher.open(getattr(config, TEACHER))
        manifest = teacher.manifest
        found[TEACHER] = Given(f"{manifest.name}/{manifest.version}", teacher.sha256, manifest.embedding_space)
    if file := getattr(config, WEIGHTS, None):
        found[WEIGHTS] = Given(Path(file).name, sha256_of_weights(file))
    return found or None


def start(module: LightningModule, config: Dataclass) -> None:
    """Loads the weights that the config names, if it names any, into the module's backbone.

    Raises:
        StartError: they do not fit.
    """
    if file := getattr(config, WEIGHTS, None):
        assert isinstance(module.encoder, nn.Module)  # every config with such a field is of a method with a backbone
        start_from(module.encoder, file)


def check_teacher(module: LightningModule) -> None:
    """Raises TeacherError if the module learns from a teacher that cannot be shown the rows."""
    if isinstance(module, Taught):
        module.check_teacher()


def survey(module: LightningModule, values: Values) -> None:
    """Shows a module that asks for it all training rows; raises DataError if it cannot learn from these."""
    if isinstance(module, Surveyor):
        module.survey(values)
