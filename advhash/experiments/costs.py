"""What earlier work took: a line of the cache for each training and cell, to foretell the next.

Only ever a hint: the file can be deleted, lines that cannot be read are passed over.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advhash.storage.cache import cache_root


def note_cost(kind: str, names: Sequence[str], amount: int, seconds: float) -> None:
    """Add what a piece of work took. `names`: what it was, from the most to the least telling.

    amount: what the seconds grow with, e.g. queries
    """
    file = cache_root() / "costs.jsonl"
    line = json.dumps([kind, list(names), amount, round(seconds, 3)]) + "\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
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
        rates: dict[tuple[str, ...], list[float]] = {}
        try:
            lines = (cache_root() / "costs.jsonl").read_text("utf-8").splitlines()
        except (OSError, ValueError):
            lines = []
        for line in lines:
            try:
                kind, names, amount, seconds = json.loads(line)
                rate = float(seconds) / int(amount)
                named = [str(name) for name in names]
            except (ValueError, TypeError, ZeroDivisionError):
                continue
            for count in range(len(named) + 1):
                rates.setdefault((str(kind), *named[:count]), []).append(rate)
        return cls(rates)

    def estimate(self, kind: str, names: Sequence[str], amount: int) -> float | None:
        """Seconds, by the median of the work that shares most of the first names; None: unknown."""
        count = self.shared(kind, names)
        if count is None:
            return None
        return statistics.median(self.rates[kind, *names[:count]]) * amount

    def shared(self, kind: str, names: Sequence[str]) -> int | None:
        """How many of the first names the nearest work has; None: there is no such work."""
        for count in range(len(names), -1, -1):
            if (kind, *names[:count]) in self.rates:
                return count
        return None


def foretold(works: Sequence[tuple[str, Sequence[str], int]]) -> dict[str, Any]:
    """What works (kind, names, amount) may take, by what earlier ones took, for `--dry-run`.

    seconds: None where nothing is known of a work; uncertain: known by its kind alone
    """
    costs = Costs.read()
    guesses = [costs.estimate(*work) for work in works]
    known = [guess for guess in guesses if guess is not None]
    return {
        "seconds": round(sum(known), 1) if len(known) == len(guesses) else None,
        "seconds_known": round(sum(known), 1),
        "unknown_costs": len(guesses) - len(known),
        "uncertain_costs": sum(costs.shared(kind, names) == 0 for kind, names, _ in works),
    }
