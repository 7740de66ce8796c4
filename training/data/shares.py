"""How many rows calibrate, and where they come from.

A p-value of n calibration rows is 1 / (n + 1) at the smallest: 19 rows for a level of 5 %. A tenth of 150 images is 15,
and no score of theirs could ever be flagged. So as many calibrate as the level needs, up to a half of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from training.data.errors import DataError

TENTH = 0.1
"""Of the rows calibrates unless that is too few, as of every set in runs that are older than the choice."""
LARGEST_DRAWN = 0.5
"""Share that is taken without being asked for: the rest is what detectors are fitted on."""
LARGEST_SHARE = 0.8
"""Share that may be asked for: a tenth is for test, and something must train."""
MOST_CROSSED = 2_000
"""Of more rows fitting several times takes long, and a half of them is many."""
ROUNDING = 1e-9
DEFAULT_ALPHA = 0.05


@dataclass(frozen=True)
class Calibration:
    """What calibrates. Part of what a run or an import is: the same splits come out again.

    Attributes:
        share: of the rows; None: a tenth, or as many as `alpha` needs where that is too few, up to a half.
        alpha: level that p-values must be able to reach.
        data: spec of other rows, which calibrate in place of any of the set's own.
        crosses: whether few rows calibrate crosswise: then none is set aside where a tenth is too few.
    """

    share: float | None = None
    alpha: float = DEFAULT_ALPHA
    data: str | None = None
    crosses: bool = False

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share <= LARGEST_SHARE:
            raise DataError(f"calibration_share: got {self.share:g}, expected above 0 and at most {LARGEST_SHARE:g}")
        if self.share is not None and self.data is not None:
            raise DataError(f"calibration_share: got {self.share:g} beside calibration_data, expected one of the two")
        if not 0 < self.alpha < 1:
            raise DataError(f"alpha: got {self.alpha:g}, expected between 0 and 1")

    @property
    def needed(self) -> int:
        """The fewest rows of which a p-value can be as small as alpha."""
        return max(1, math.ceil(1 / self.alpha * (1 - ROUNDING)) - 1)

    def num_of(self, num_units: int, num_test: int) -> int:
        """How many of so many units calibrate; one at least is left to train."""
        most = max(1, num_units - num_test - 1)
        if self.data is not None:
            return 0
        if self.share is not None:
            return max(1, min(most, int(num_units * self.share * (1 + ROUNDING))))
        tenth = max(1, int(num_units * TENTH))
        if tenth >= self.needed:
            return tenth
        if self.crosses and num_units <= MOST_CROSSED:
            return 0
        return self.needed if self.needed <= num_units * LARGEST_DRAWN else tenth

    def without_data(self) -> Calibration:
        """Where the rows come from a set that has them itself."""
        return replace(self, data=None)

    def told(self, num_calibration: int, num_training: int, num_all: int) -> str:
        """What so many rows can promise, in a few words.

        Args:
            num_calibration: rows that calibrate and nothing else.
            num_training: units of the others, which calibrate where `crosses`.
            num_all: rows in all.
        """
        crosswise = num_calibration == 0 and self.crosses
        num = num_training if crosswise else num_calibration
        said = "all of them to calibrate crosswise" if crosswise else f"{num:,} to calibrate"
        said += f" (smallest p-value {1 / (num + 1):.2g}"
        if num >= self.needed:
            return f"{said})"
        enough = math.ceil(self.needed / (1 - TENTH) if self.crosses else self.needed / LARGEST_DRAWN)
        wanted = f"{enough:,} images" if num_all < enough and self.data is None else f"{self.needed:,} to calibrate"
        return f"{said}: no scores at alpha {self.alpha:g}, which takes {wanted})"
