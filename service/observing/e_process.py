"""An e-process (test martingale) against the hypothesis that scored rows are exchangeable with calibration rows.

It bets on exact `ranks`. Why not on the p-values as they are? They all compare with ONE calibration set, and given this
set they are not uniform but off by about 1 / sqrt(n): a bettor who waits long enough wins without any shift (`python -m
benchmarks.results.monitor` shows it). Source: Vovk, Nouretdinov and Gammerman, Testing exchangeability on-line (ICML
2003).
"""

from __future__ import annotations

SHARES, EXPONENTS = (0.1, 0.4), (0.05, 0.2, 0.5)
"""One bettor for each pair: a share of the rows has p-values with the density k p^(k - 1), the rest are uniform."""
AT_ONCE, HALF_LIFE_ROWS = 0.5, 1000
"""Half the wealth is bet from the first row. The rest follows row by row, half of it within 1,000 rows and always some
to come, so that a shift after a long time without one meets wealth that has not been lost yet."""
MOST_WEALTH = 1e12
"""What is won beyond this is discarded, so that the wealth falls soon after a shift has ended."""


class EProcess:
    """Bets a wealth of 1 on small p-values, row by row.

    Bets are fair: each pays 1 on average over a uniform p-value. Only the bin of a p-value is known, so a bet pays its
    mean over the bin, which is as fair and draws nothing at random.

    Attributes:
        wealth: what the bettors hold and what has not been bet yet; never 0.
    """

    def __init__(self) -> None:
        num_bettors = len(SHARES) * len(EXPONENTS)
        self.wealth = 1.0
        self._held = [AT_ONCE / num_bettors] * num_bettors
        self._reserve = 1 - AT_ONCE
        self._num_rows = 0

    def bet(self, low: float, high: float) -> None:
        """Settles the bets on one p-value, known to lie between low and high."""
        self._num_rows += 1
        reserve = (1 - AT_ONCE) / (1 + self._num_rows / HALF_LIFE_ROWS)
        fresh = (self._reserve - reserve) / len(self._held)
        self._reserve = reserve
        width = high - low
        gains = [(high**k - low**k) / width - 1 for k in EXPONENTS]
        factors = [1 + share * gain for share in SHARES for gain in gains]
        held = [(before + fresh) * factor for before, factor in zip(self._held, factors, strict=True)]
        total = sum(held)
        if total > MOST_WEALTH:
            held = [one * (MOST_WEALTH / total) for one in held]
            total = MOST_WEALTH
        self._held = held
        self.wealth = total + reserve
