"""What earlier work took, to foretell the next: a line of the cache for each piece of it.

Where this machine has done nothing alike, the lines of `reference_costs.jsonl` answer, which
`benchmarks/reference_costs.py` measured for every victim and attack with its defaults. Only ever a
hint: the file in the cache can be deleted, and lines that cannot be read are passed over.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, NamedTuple

from advhash.storage.cache import cache_root
from advhash.storage.documents import parse_json, read_text

# a link that another user left would lead elsewhere, and a pipe would wait for a reader
NO_DETOUR = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
KEPT = "work.jsonl"
REFERENCE = "reference_costs.jsonl"
REPEATED = ("steps", "queries", "restarts", "samples", "scales")


class Work(NamedTuple):
    """A piece of work.

    kind:   "training", "fit" or the kind of run that a cell is of
    names:  what it is, from the most telling to the least
    amount: what its seconds grow with, e.g. queries times passes through the victim
    """

    kind: str
    names: Sequence[str]
    amount: float


def passes(settings: Mapping[str, Any]) -> float:
    """How often settings of an attack ask the victim for each query, as far as numbers say so."""
    total = 1.0
    for name in REPEATED:
        times = settings.get(name, 1)
        if isinstance(times, (int, float)) and times > 0:
            total *= times
    return total * (1 + (settings.get("neighbours") or 0))


def note_cost(work: Work, seconds: float) -> None:
    """Add what a piece of work took to the file in the cache, where that can be written."""
    file = cache_root() / KEPT
    line = json.dumps([work.kind, list(work.names), work.amount, round(seconds, 3)]) + "\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | NO_DETOUR, 0o644)
        try:
            os.write(handle, line.encode())  # one write: lines of other processes stay whole
        finally:
            os.close(handle)
    except OSError:
        return


@dataclass(frozen=True)
class Costs:
    """Seconds for one unit of work, by kind and by the first names."""

    rates: Mapping[tuple[str, ...], list[float]]

    @classmethod
    def read(cls) -> Costs:
        """What this machine noted."""
        try:
            return cls.of(read_text(cache_root() / KEPT).splitlines())
        except (OSError, ValueError):
            return cls({})

    @classmethod
    def reference(cls) -> Costs:
        """What advhash brings along."""
        return cls.of((resources.files(__package__) / REFERENCE).read_text("utf-8").splitlines())

    @classmethod
    def of(cls, lines: Iterable[str]) -> Costs:
        """Lines of JSON as `note_cost` writes them."""
        rates: dict[tuple[str, ...], list[float]] = {}
        for line in lines:
            try:
                kind, names, amount, seconds = parse_json(line)
                rate = float(seconds) / float(amount)
                named = [str(name) for name in names]
            except (ValueError, TypeError, ZeroDivisionError):
                continue
            for count in range(len(named) + 1):
                rates.setdefault((str(kind), *named[:count]), []).append(rate)
        return cls(rates)

    def estimate(self, work: Work) -> float | None:
        """Seconds, by the median of the work that shares most of the first names; None: unknown."""
        count = self.shared(work)
        if count is None:
            return None
        return statistics.median(self.rates[work.kind, *work.names[:count]]) * work.amount

    def shared(self, work: Work) -> int | None:
        """How many of the first names the nearest work has; None: there is no such work."""
        for count in range(len(work.names), -1, -1):
            if (work.kind, *work.names[:count]) in self.rates:
                return count
        return None


def foretold(works: Sequence[Work]) -> dict[str, Any]:
    """What works may take, for `--dry-run`.

    seconds: None where nothing is known of a work
    seconds_known: of those that something is known of
    by_reference: how many are told by the lines that advhash brings, since this machine has done
             no work of the same name; its processor may be faster or slower
    uncertain_costs: how many are told by others of their kind alone
    """
    own, reference = Costs.read(), Costs.reference()
    seconds, borrowed, uncertain = [], 0, 0
    for work in works:
        here, there = own.shared(work), reference.shared(work)
        borrows = ((there or 0) > 0 and not here) or (here is None and there is not None)
        guess = (reference if borrows else own).estimate(work)
        if guess is not None:
            seconds.append(guess)
            borrowed += borrows
            uncertain += (there if borrows else here) == 0
    unknown = len(works) - len(seconds)
    return {
        "seconds": None if unknown else round(sum(seconds), 1),
        "seconds_known": round(sum(seconds), 1),
        "unknown_costs": unknown,
        "uncertain_costs": uncertain,
        "by_reference": borrowed,
    }
