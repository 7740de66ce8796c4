"""What a number of calibration rows can promise: the smallest p-value, and the band of the real false-alarm rate.

    python -m benchmarks.results.bands            a second; prints the tables of docs/guides/alpha.md

With one calibration set of n rows the share of in-distribution rows that is flagged at alpha is a draw of
Beta(k, n + 1 - k), k = floor(alpha (n + 1)): see `latentserve/conformal.py`. Exact, nothing is simulated; only the
levels of the conditional guarantee depend on its adjustment (Simes, delta 0.1, as exported).
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy.stats import beta

from latentserve.conformal import adjustments, num_small_p_values

ROWS = (19, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)
ALPHAS = (0.01, 0.05, 0.1)
LEVEL = 0.95
DELTA = 0.1


@dataclass(frozen=True)
class Band:
    """What n calibration rows promise at one alpha.

    Attributes:
        mean: false-alarm rate on average over calibration sets, k / (n + 1); never above alpha.
        low: 2.5 % of calibration sets have a lower rate.
        high: 2.5 % have a higher one.
    """

    mean: float
    low: float
    high: float


def band(num_calibration_rows: int, alpha: float) -> Band | None:
    """The band of the real false-alarm rate; None if no p-value is as small as alpha, so that nothing is flagged."""
    k = num_small_p_values(num_calibration_rows, alpha)
    if k == 0:
        return None
    rate = beta(k, num_calibration_rows + 1 - k)
    low, high = rate.interval(LEVEL)
    return Band(k / (num_calibration_rows + 1), float(low), float(high))


def table() -> str:
    """One row for each number of calibration rows, as Markdown."""
    heads = [f"alpha {alpha:.0%}".replace("%", " %") for alpha in ALPHAS]
    lines = [f"| calibration rows | smallest p | {' | '.join(heads)} |", "| ---: | ---: |" + " --- |" * len(ALPHAS)]
    for num in ROWS:
        cells = [_cell(band(num, alpha)) for alpha in ALPHAS]
        lines.append(f"| {num:,} | {1 / (num + 1):.2g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def conditional_table() -> str:
    """The smallest alpha of the conditional guarantee for each number of calibration rows, as Markdown."""
    lines = ["| calibration rows | smallest conditional p |", "| ---: | ---: |"]
    lines += [f"| {num:,} | {adjustments(num, DELTA, 'simes')[0]:.2g} |" for num in ROWS]
    return "\n".join(lines)


def _cell(found: Band | None) -> str:
    if found is None:
        return "flags nothing"
    return f"{found.low * 100:.2f} % to {found.high * 100:.2f} %, mean {found.mean * 100:.2f} %"


if __name__ == "__main__":
    print(table(), conditional_table(), sep="\n\n")
