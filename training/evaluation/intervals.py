"""95 % confidence intervals of the figures that `python -m export ood` prints.

Sources: Newcombe, Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part 2,
Statistics in Medicine 25 (2006) 559, method 5: the variance is Hanley and McNeil's (Radiology 143 (1982) 29), at each
value that the interval may hold, so that it is no point where one OOD row scores above all ID rows; Clopper and
Pearson, Biometrika 26 (1934) 404.
"""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.stats import binomtest, norm

CONFIDENCE = 0.95
TINY = 1e-12
Interval = tuple[float, float]


def auroc_interval(auroc: float, num_id: int, num_ood: int) -> Interval:
    """The interval of the AUROC of so many ID and so many OOD rows, drawn independently of each other.

    The values theta with |auroc - theta| <= z sd(theta).
    """
    z = float(norm.ppf((1 + CONFIDENCE) / 2))
    extra = (num_id + num_ood) / 2 - 1

    def excess(theta: float) -> float:
        factor = 1 + extra * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return abs(auroc - theta) - z * math.sqrt(theta * (1 - theta) * factor / (num_id * num_ood))

    # at 0 and 1 themselves the variance is none, and the equation holds of an interval that is a point
    low = 0.0 if auroc == 0 else brentq(excess, 0.0, min(auroc, 1 - TINY))
    high = 1.0 if auroc == 1 else brentq(excess, max(auroc, TINY), 1.0)
    return float(low), float(high)


def share_interval(num_of_them: int, num_rows: int) -> Interval:
    """The exact interval of a share of independent rows."""
    found = binomtest(num_of_them, num_rows).proportion_ci(CONFIDENCE, method="exact")
    return float(found.low), float(found.high)
