"""What a comparison found, in a few sentences: which is better in what. Which to take is not said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from export.comparison.examination import Comparison
from export.comparison.figures import Better, Figure
from export.report.words import between, count, percent
from training.evaluation.ood_sets import CONTROL


def summary(found: Comparison) -> tuple[str, ...]:
    """The sentences; a difference whose 95 % interval holds none is called a tie."""
    return (
        f"A is {found.a.name}, B is {found.b.name}; figures are of {found.num_test:,} test rows of {found.data}.",
        *_classes(found.classes),
        *_sets(found),
        *_alarms(found),
        *_alike(found),
        *_costs(found.costs),
    )


def _classes(figures: Sequence[Figure]) -> Iterator[str]:
    if not figures:
        return
    parts = []
    for side in ("A", "B"):
        better = [one for one in figures if one.better == side]
        if better:
            said = "; ".join(f"{one.name} {_pair(one, side)}" for one in better)
            parts.append(f"better with {side}: {said}")
    ties = [one.name for one in figures if one.better == "tie"]
    parts += [f"{'ties' if len(ties) > 1 else 'a tie'}: {', '.join(ties)}"] if ties else []
    yield f"Classes, {'; '.join(parts)}."


def _pair(figure: Figure, first: Better) -> str:
    a, b = (percent(value) for value in (figure.a or 0.0, figure.b or 0.0))
    return f"({a} against {b})" if first == "A" else f"({b} against {a})"


def _sets(found: Comparison) -> Iterator[str]:
    sets = [one for one in found.sets if one.name != CONTROL]
    if not sets:
        return
    parts = []
    for side in ("A", "B"):
        better = [one.name for one in sets if one.auroc.better == side]
        parts += [f"{side} tells {', '.join(better)} better"] if better else []
    ties = [one.name for one in sets if one.auroc.better == "tie"]
    parts += [f"{'ties are' if len(ties) > 1 else 'a tie is'} {', '.join(ties)}"] if ties else []
    yield f"Out of distribution, by AUROC over {count(len(sets), 'set')}: {'; '.join(parts)}."


def _alarms(found: Comparison) -> Iterator[str]:
    if not found.false_alarms:
        return
    parts = []
    for one in found.false_alarms:
        said = f"{one.side} flags {percent(one.share)}"
        if one.band:
            inside = one.band[0] <= one.share <= one.band[1]
            said += f" ({'within' if inside else 'outside'} what chance allows, {between((one.band[0], one.band[1]))})"
        parts.append(said)
    yield f"False alarms on test rows at alpha {percent(found.alpha)}: {', '.join(parts)}."


def _alike(found: Comparison) -> Iterator[str]:
    alike = found.alignment
    of_neighbours = (
        f"{percent(alike.neighbours_kept)} of the {alike.num_neighbours} nearest rows are the same in both"
        f" (by chance {percent(alike.chance)})"
    )
    cka = "" if alike.cka is None else f", linear CKA is {alike.cka:.2f}"
    yield f"Alike: {of_neighbours}{cka}."


def _costs(figures: Sequence[Figure]) -> Iterator[str]:
    times = [one for one in figures if one.name.startswith("ms")]
    sizes = [one for one in figures if one not in times]
    yield f"Cost: {'; '.join([_of_costs('CPU time', times), *(_of_costs(one.name, [one]) for one in sizes)])}."


def _of_costs(name: str, figures: Sequence[Figure]) -> str:
    """What the cheaper one takes, if it is cheaper by each of the figures."""
    (cheaper, *others) = {one.better for one in figures}
    if others:
        return f"{name}, {', '.join(_of_costs(one.name, [one]) for one in figures)}"
    if cheaper == "tie":
        return f"{name}: a tie"
    shares = sorted(min(one.a, one.b) / max(one.a, one.b) for one in figures if one.a and one.b)
    much = percent(shares[0]) if len(shares) == 1 else f"{percent(shares[0])} to {percent(shares[-1])}"
    return f"{name}: {cheaper} takes {much} of the other's"
