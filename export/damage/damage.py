"""All kinds of damage, done to some rows.

Shape legend: N rows, H height, W width, C channels, T samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.damage.images.bent import bent
from export.damage.images.blur import blur
from export.damage.images.cast import cast
from export.damage.images.clouds import clouds
from export.damage.images.cut_paste import cut_paste
from export.damage.images.faded import faded
from export.damage.images.grain import grain
from export.damage.images.halves import halves
from export.damage.images.jigsaw import jigsaw
from export.damage.images.scar import scar
from export.damage.images.shading import shading
from export.damage.images.spot import spot
from export.damage.images.swap import swap
from export.damage.parts import Damage, Given
from export.damage.sounds.backwards import backwards
from export.damage.sounds.band import band
from export.damage.sounds.burst import burst
from export.damage.sounds.clipping import clipping
from export.damage.sounds.dropout import dropout
from export.damage.sounds.speed import speed
from export.damage.sounds.splice import splice
from training.data.rows import Values


def _named(*kinds: Damage) -> dict[str, Damage]:
    return {kind.__name__: kind for kind in kinds}


KINDS_OF_IMAGES = _named(
    *(cut_paste, scar, spot, shading, clouds, swap, faded, blur, grain, cast),
    *(jigsaw, halves, bent),
)
KINDS_OF_SOUNDS = _named(burst, dropout, splice, band, backwards, clipping, speed)


@dataclass(frozen=True)
class Damaged:
    """Rows that damage changed.

    Attributes:
        values: as `Rows.values`.
        source_N: which of the rows given each was.
        kinds_N: names.
        severity_N: from 0, faint, to 1, plain.
    """

    values: Values
    source_N: NDArray[np.int64]
    kinds_N: NDArray[np.str_]
    severity_N: NDArray[np.float64]


def damage(rows: Values, seed: int = 0, kinds: dict[str, Damage] | None = None) -> Damaged:
    """Damages each row once, the kinds in turn; what was left as it was is left out.

    Args:
        rows: usual ones, two at least, in memory: uint8 [N, H, W, C] or int16 [N, T].
        seed: draws all that is random.
        kinds: by name; default: all that there are for such rows.

    Raises:
        ValueError: neither images nor sounds, or fewer than two.
    """
    if (str(rows.dtype), rows.ndim) not in (("uint8", 4), ("int16", 2)):
        raise ValueError(f"rows: got {rows.dtype} {list(rows.shape)}, expected uint8 [N, H, W, C] or int16 [N, T]")
    if len(rows) < 2:
        raise ValueError(f"rows: got {len(rows)}, expected 2 or more: a part of one may be put into another")
    if kinds is None:
        kinds = KINDS_OF_IMAGES if rows.dtype == np.uint8 else KINDS_OF_SOUNDS
    rng, names = np.random.default_rng(seed), list(kinds)
    severities_N = rng.permutation((np.arange(len(rows)) + 0.5) / len(rows))
    others_N = (np.arange(len(rows)) + rng.integers(1, len(rows), len(rows))) % len(rows)
    out, source, names_of = np.empty_like(rows), list[int](), list[str]()
    for row, own in enumerate(rng.spawn(len(rows))):
        name = names[row % len(names)]
        changed = kinds[name](Given(rows[row], rows[others_N[row]], float(severities_N[row]), own))
        if not np.array_equal(changed, rows[row]):
            out[len(source)] = changed
            source.append(row)
            names_of.append(name)
    source_N = np.array(source, np.int64)
    return Damaged(out[: len(source)], source_N, np.array(names_of, np.str_), severities_N[source_N])
