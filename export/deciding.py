"""Which score decides, and why: for the manifest, and for people."""

from __future__ import annotations

from dataclasses import replace

from export.detectors import Scorer
from latentserve.bundle import Detector

NAMED = 3
"""Detectors of the largest weights are named; the rest are counted."""


def weighed(detector: Detector, scorer: Scorer) -> Detector:
    """A detector's entry with its power and weight, if they are known."""
    power, weight = scorer.weight_of(detector.name)
    return replace(detector, power=power, weight=weight)


def why(scorer: Scorer) -> str:
    """One sentence: which column decides, and what that rests on; of a scorer whose first column was not named."""
    first, power = scorer.names[0], scorer.power
    if len(scorer.members) == 1:
        return f"{first} decides: there is no other detector"
    if power is None:
        return f"{first} decides; what detectors see was not measured: too few training rows are left for that"
    seen = f"{power.num_damaged} training rows that were damaged on purpose, and {power.num_usual} that were not"
    known = {detector.name: scorer.weight_of(detector.name) for detector in scorer.members}
    weighted = sorted(((weight, name) for name, (_, weight) in known.items() if weight), reverse=True)
    if not weighted:
        return f"{first} decides; no detector tells apart {seen}, more than chance would"
    parts = [f"{name} {weight:.0%} (AUROC {known[name][0]:.2f})" for weight, name in weighted[:NAMED]]
    rest = len(known) - len(parts)
    others = f", {rest} others {sum(weight for weight, _ in weighted[NAMED:]):.0%}" if rest else ""
    return f"{first} decides, weighted by what detectors see of {seen}: {', '.join(parts)}{others}"


def spared(scorer: Scorer) -> str:
    """One sentence: what was left out of the score, and how to keep it; of a scorer that leaves something out."""
    names = " ".join(scorer.left_out)
    return f"{names} is left out: other detectors see as much of every kind of damage (--detectors all keeps it)"
