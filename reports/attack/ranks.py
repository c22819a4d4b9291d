"""Ranks of attack runs, with ties where the differences query by query leave the order open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from advhash.reports.attack.pairs import Pair, headline
from advhash.reports.record import Record

SETTLED = 0.05  # p, adjusted for all pairs of the page, below which an order is settled


@dataclass(frozen=True)
class Standing:
    """A run by its place on the page, and its rank, "2" or a range such as "2–3"."""

    run: int
    rank: str
    metric: str


def standings(records: Sequence[Record], pairs: Sequence[Pair]) -> list[Standing]:
    """The largest set of runs of one task, the strongest attack first; [] where no two were paired.

    A run is below as many others as were shown to be stronger, and above as many as were shown to
    be weaker: its rank is a range where that leaves a choice.
    """
    groups: list[set[int]] = []
    for pair in pairs:
        both = {pair.first, pair.second}
        joined = [group for group in groups if group & both]
        groups = [group for group in groups if not group & both]
        groups.append(both.union(*joined))
    if not groups:
        return []
    group = max(groups, key=len)
    stronger = dict.fromkeys(group, 0)
    weaker = dict.fromkeys(group, 0)
    metric = headline(records[min(group)])
    sign = 1 if metric == "tmap" else -1  # MAP that stays high is a weak attack
    for pair in pairs:
        value, p = pair.difference.value, pair.adjusted
        if pair.first not in group or value is None or p is None or p >= SETTLED:
            continue
        ahead, behind = (pair.first, pair.second) if sign * value > 0 else (pair.second, pair.first)
        stronger[behind] += 1
        weaker[ahead] += 1

    def strength(place: int) -> float:
        found = records[place].metrics.get(metric)
        return sign * (found.value if found is not None and found.value is not None else 0.0)

    ranked = []
    for place in sorted(group, key=lambda place: (-strength(place), place)):
        best, worst = 1 + stronger[place], len(group) - weaker[place]
        ranked.append(Standing(place, str(best) if best == worst else f"{best}–{worst}", metric))
    return ranked
