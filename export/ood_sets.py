"""What rows unlike the training data may be called on the command line."""

from __future__ import annotations

import re

from training.data import AudioShape, DataError
from training.data.loading import WITHOUT, check_spec
from training.data.subset import Subset
from training.evaluation.ood_sets import CONTROL, IMAGES, SOUNDS
from training.options import nearest
from training.running.run import Run

OTHERS = "others"
AGAINST = (
    f"sets made of the test rows: of images {', '.join(IMAGES)}, of sounds {', '.join(SOUNDS)} (default: all of them,"
    f" and the control {CONTROL}); {OTHERS}, what a model of a part such as mnist[label=0] never saw; rows of one's"
    " own, all of them: of images folder:PATH or wds:PATTERN, of sounds audio:PATH; or, for images, other data:"
    f" {', '.join(name for name in WITHOUT if name != 'fsdd')}"
)
"""Help of the option."""


def check_set(name: str, run: Run) -> None:
    """What can be said of a set by its name. Raises ValueError if there is none."""
    of_sounds = isinstance(run.shape, AudioShape)
    made = (*(SOUNDS if of_sounds else IMAGES), CONTROL, OTHERS)
    if name == OTHERS and Subset.parse(run.data) is None:
        raise ValueError(f"against: got {OTHERS} for a model of all of {run.data}, expected one of a part of it")
    if name in made or name == run.data:
        return
    if of_sounds and not name.startswith("audio:"):
        known = (*made, "audio:PATH")
        raise ValueError(f"against: got {name!r}, expected one of {', '.join(known)}{nearest(name, known)}")
    if not of_sounds and re.match(r"(fsdd|audio)\b", name):
        raise ValueError(f"against: got {name!r}, which are sounds, expected images for a model of {run.data}")
    try:
        check_spec(name, also=made)
    except DataError as error:
        raise ValueError(f"against: no set made of the test rows is called so ({', '.join(made)}); {error}") from error
