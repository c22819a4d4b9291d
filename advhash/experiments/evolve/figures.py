"""The figures of a search run: what arms reach and save, over repeats, and what to flag."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from advhash.measures.intervals import (
    Difference,
    Metric,
    mean_metric,
    paired_difference,
    rate_metric,
    ratio_of_means,
)
from advhash.measures.sanity import Flag
from advhash.reports.evolve import HeldOut, SearchResult

Floats = npt.NDArray[np.float64]
Domain = Literal["attack", "nas"]
COSTLY = 0.05  # a hash of an evaluation


class _Arms:
    """The searches of each arm, in the order of their repeats, so that arms are paired."""

    def __init__(self, results: Sequence[SearchResult]) -> None:
        self._results = results

    def of(self, arm: str) -> list[SearchResult]:
        return [result for result in self._results if result.arm == arm]

    def best(self, arm: str, figure: str = "fitness") -> Floats:
        """A figure of the best candidate of each search; NaN where there was none."""
        return np.array([result.figures.get(figure, np.nan) for result in self.of(arm)])

    def rate(self, arm: str) -> Floats:
        """Candidates a second; NaN where there was none."""
        return np.array(
            [
                result.candidates / result.seconds if result.seconds else np.nan
                for result in self.of(arm)
            ]
        )

    def hits(self, arm: str) -> Floats:
        return np.array(
            [result.lookups.get("full", 0) / max(1, result.candidates) for result in self.of(arm)]
        )


def search_metrics(
    domain: Domain, results: Sequence[SearchResult], boot: int
) -> dict[str, Metric | None]:
    """Over repeats; boot: seed of the bootstrap. See docs/functional_hashing.md for each."""
    arms = _Arms(results)
    cached, uncached = arms.of("cached"), arms.of("uncached")
    reached = [_reached(result, plain) for result, plain in zip(cached, uncached, strict=True)]
    checked, false = (
        sum(result.checked for result in cached),
        sum(result.false for result in cached),
    )
    metrics: dict[str, Metric | None] = {
        "speedup": mean_metric(arms.rate("cached") / arms.rate("uncached"), boot),
        "hit_rate": mean_metric(arms.hits("cached"), boot),
        "repeat_rate": mean_metric(
            [result.repeated / max(1, result.candidates) for result in cached], boot
        ),
        "best_fitness": mean_metric(arms.best("cached"), boot),
        "best_fitness_uncached": mean_metric(arms.best("uncached"), boot),
        "time_to_uncached": mean_metric(
            [
                1.0 if seconds is None else min(1.0, seconds / plain.seconds)
                for seconds, plain in zip(reached, uncached, strict=True)
            ],
            boot,
        ),
        "reached_uncached": rate_metric([seconds is not None for seconds in reached], boot),
        "false_hit_rate": rate_metric(np.arange(checked) < false, boot),
        "hash_overhead": _overhead(cached, boot),
        "candidates": mean_metric([result.candidates for result in cached], boot),
        "candidates_uncached": mean_metric([result.candidates for result in uncached], boot),
    }
    if domain == "nas":
        for figure in ("test", "mean"):
            metrics[f"best_{figure}"] = mean_metric(arms.best("cached", figure), boot)
            metrics[f"best_{figure}_uncached"] = mean_metric(arms.best("uncached", figure), boot)
        metrics |= {
            "speedup_structure": mean_metric(arms.rate("structure") / arms.rate("uncached"), boot),
            "speedup_over_structure": mean_metric(
                arms.rate("cached") / arms.rate("structure"), boot
            ),
            "hit_rate_structure": mean_metric(arms.hits("structure"), boot),
        }
        for arm in ("structure", "random", "hill-climbing"):
            metrics[f"best_fitness_{arm.replace('-', '_')}"] = mean_metric(arms.best(arm), boot)
    return metrics


def search_differences(
    domain: Domain, results: Sequence[SearchResult], boot: int
) -> dict[str, Difference]:
    """Differences between the best candidates of two arms, paired over repeats."""
    arms = _Arms(results)
    pairs = {"best_gain": ("uncached", "fitness")}
    if domain == "nas":
        pairs |= {
            "best_gain_over_structure": ("structure", "fitness"),
            "mean_gain": ("uncached", "mean"),
            "mean_gain_over_structure": ("structure", "mean"),
        }
    return {
        name: paired_difference(arms.best("cached", figure), arms.best(other, figure), boot)
        for name, (other, figure) in pairs.items()
    }


def _reached(cached: SearchResult, uncached: SearchResult) -> float | None:
    """Seconds after which a search is as good as the other at its end; None where never."""
    wanted = uncached.figures.get("fitness", math.inf)
    return next((seconds for seconds, best in cached.improvements if best >= wanted), None)


def _overhead(results: Sequence[SearchResult], boot: int) -> Metric:
    """Seconds of one hash by those of one evaluation."""
    hashes, evaluations = [], []
    for result in results:
        cache = result.cache
        evaluated = cache["misses"] + cache["partial_hits"]
        hashes.append(cache["hash_seconds"] / max(1.0, evaluated + cache["full_hits"]))
        evaluations.append(cache["evaluation_seconds"] / max(1.0, evaluated))
    return ratio_of_means(hashes, evaluations, boot)


def search_flags(
    results: Sequence[SearchResult],
    metrics: Mapping[str, Metric | None],
    held_out: Sequence[HeldOut],
) -> list[Flag]:
    """What a reader must know."""
    flags = []
    empty = [result for result in results if result.candidates == 0]
    if empty:
        flags.append(
            Flag(
                "no_candidate",
                "error",
                f"{len(empty)} of {len(results)} searches ended before their first candidate: "
                "give them more search.seconds.",
            )
        )
    overhead = metrics.get("hash_overhead")
    if overhead is not None and overhead.value is not None and overhead.value > COSTLY:
        flags.append(
            Flag(
                "costly_hash",
                "warning",
                f"A hash costs {100 * overhead.value:.1f} % of an evaluation: more than 5 %.",
            )
        )
    for trial in held_out:
        if trial.difference.low is None or trial.difference.low <= 0:
            flags.append(
                Flag(
                    "not_better",
                    "info",
                    f"The attack that was found does not beat dhta on {trial.victim}: the interval "
                    "of the difference is not above zero.",
                )
            )
    return flags
