"""Out-of-distribution (OOD) sets by the names that the command line takes, and the test rows beside them.

A name is that of a set made from the test rows (`training.evaluation.ood_sets`), the spec of another data set,
`others` (what a model of `mnist[label=0]` never saw), the spec of your own rows (`folder:PATH`, `wds:PATTERN`,
`audio:PATH`: all of them, even if it is one), or the control `saved_again`, whose AUROC must stay near 0.5. If one side
of a comparison was a JPEG file, both become one, or the file format would be what is told apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from training.data import AudioShape, Data, DataError, load_data
from training.data.lazy import changed_rows, held, is_lazy, rows_within
from training.data.loading import WITHOUT, check_spec, has_faulty
from training.data.origin import DataOrigin
from training.data.rows import Rows, Values
from training.data.subset import Subset
from training.evaluation.ood_sets import CONTROL, IMAGES, SOUNDS, known_sets, ood_rows, saved_as
from training.evaluation.other_data import every_row_in_shape_of, in_channels, in_shape, in_shape_of
from training.options import nearest

JPEG_SETS = ("cifar10",)
"""Data sets whose images were JPEG files."""
MOST_ROWS = 5000
"""Most rows of sets that are made of the test rows, and of public ones."""
MADE_OF_BYTES = 2**28
"""Pixels of the test rows that sets are made of, where memory should not hold all of the data."""
OTHERS = "others"
AGAINST = (
    f"sets made of the test rows: of images {', '.join(IMAGES)}, of sounds {', '.join(SOUNDS)} (default: all of them,"
    f" and the control {CONTROL}); {OTHERS}, what a model of a part such as mnist[label=0] never saw; your own"
    " rows, all of them: of images folder:PATH, wds:PATTERN, csv:FILE or the faulty ones of mvtec:PATH, of sounds"
    " audio:PATH; or, for images, other data:"
    f" {', '.join(name for name in WITHOUT if name != 'fsdd')}"
)
"""Help of the option."""


@dataclass(frozen=True)
class Sample:
    """How many rows are taken of each set, and which.

    Attributes:
        num_rows: at most; None: `MOST_ROWS` of the test rows and of public sets, and all of the user's own rows.
        seed: draws them, and what is random in the sets.
    """

    num_rows: int | None = None
    seed: int = 0

    def of(self, rows: Values, most: int | None = None) -> Values:
        """Some of the rows, in their order.

        Args:
            rows: to draw from.
            most: to take where no number was asked for; None: all.
        """
        return self.taken(Rows(rows), most).values

    def taken(self, rows: Rows, most: int | None = None) -> Rows:
        """The same with what is known of each row."""
        num = self.num_rows or most
        some = rows.take(np.sort(np.random.default_rng(self.seed).permutation(len(rows))[:num]))
        return replace(some, values=held(some.values, MADE_OF_BYTES))

    def made_of(self, rows: Values) -> Values:
        """Test rows that sets are made of, which lie in memory."""
        fitting = rows_within(rows, MADE_OF_BYTES) if is_lazy(rows) else len(rows)
        return np.asarray(Sample(min(self.num_rows or MOST_ROWS, fitting), self.seed).of(rows))


def check_set(name: str, origin: DataOrigin) -> None:
    """Raises ValueError if the name is that of no set for a model of such a run; nothing is loaded."""
    of_sounds = isinstance(origin.shape, AudioShape)
    made = (*(SOUNDS if of_sounds else IMAGES), CONTROL, OTHERS)
    if name == OTHERS and Subset.parse(origin.data) is None:
        raise ValueError(f"against: got {OTHERS} for a model of all of {origin.data}, expected one of a part of it")
    if name in made or name == origin.data:
        return
    if of_sounds and not name.startswith("audio:"):
        known = (*made, "audio:PATH")
        raise ValueError(f"against: got {name!r}, expected one of {', '.join(known)}{nearest(name, known)}")
    if not of_sounds and re.match(r"(fsdd|audio)\b", name):
        raise ValueError(f"against: got {name!r}, which are sounds, expected images for a model of {origin.data}")
    try:
        check_spec(name, also=made)
    except DataError as error:
        raise ValueError(f"against: no set made of the test rows is called so ({', '.join(made)}); {error}") from error


def ood_set(name: str, origin: DataOrigin, id_rows: Values, sample: Sample) -> Values:
    """The rows of one set; made of the in-distribution rows as many as these, of the user's own all."""
    if name == CONTROL:
        return id_rows
    if name in known_sets(id_rows):
        return ood_rows(name, id_rows, sample.seed)
    if name == OTHERS:
        subset = Subset.parse(origin.data)
        assert subset is not None  # or `check_set` would have rejected it
        return sample.of(subset.others(whole_of(subset, origin)).values, MOST_ROWS)
    if (own := own_set(name, origin, sample)) is not None:
        return own.values
    if name == origin.data:
        return id_rows  # the rest was trained on
    return sample.of(in_shape_of(origin, name).test.values, MOST_ROWS)


def own_set(name: str, origin: DataOrigin, sample: Sample) -> Rows | None:
    """Rows of the user's own, with their names and kinds; None of other sets.

    Of the data that the model was made of only what is marked as faulty: the faulty rows of MVTec's layout, those of a
    list that have a mask.
    """
    if name == origin.data and not has_faulty(name):
        return None
    own = every_row_in_shape_of(origin, name)
    return None if own is None else sample.taken(own)


def whole_of(subset: Subset, origin: DataOrigin) -> Data:
    """The data set that an encoder was made with a part of, split as the part was."""
    shape = origin.shape
    if isinstance(shape, AudioShape):
        named = subset.base.startswith("audio:")
        return load_data(
            subset.base,
            seed=origin.seed,
            group_by=origin.group_by,
            calibration=origin.calibration,
            sample_rate_hz=shape.sample_rate_hz if named else None,
            num_samples=shape.num_samples,
        )
    whole = load_data(
        subset.base, **in_shape(shape), seed=origin.seed, group_by=origin.group_by, calibration=origin.calibration
    )
    return in_channels(whole, shape.channels)


def is_jpeg(data: Data, name: str) -> bool:
    """Whether one side of the comparison was a file of JPEG, and the sides come from different files."""
    return name != OTHERS and any(spec.split("[")[0] in JPEG_SETS for spec in (data.spec, name))


def id_rows_of(id_rows: Values, data: Data, names: Sequence[str]) -> Iterator[tuple[str, Values]]:
    """The in-distribution rows as they are, under the empty name, and as JPEG files if a set needs them so."""
    yield "", id_rows
    if any(is_jpeg(data, name) for name in names):
        # Images that were JPEG files stay as they are: the control asks what another saving does to them.
        yield "JPEG", id_rows if data.spec.split("[")[0] in JPEG_SETS else saved_as(id_rows, "JPEG")


def as_files(rows: Values, data: Data, name: str) -> Values:
    """Saves and reads the rows: as JPEG where one side of the comparison is; else only the control, as PNG."""
    if rows.dtype == np.uint8 and is_jpeg(data, name):
        return changed_rows(rows, lambda some: saved_as(some, "JPEG"))
    return saved_as(rows, "PNG") if rows.dtype == np.uint8 and name == CONTROL else rows
