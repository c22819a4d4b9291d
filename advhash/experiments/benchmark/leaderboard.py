"""Figures over seeds and queries, and who is better than whom: the tables of a benchmark.

A sample is one attack run: a seed of the victim, a seed of the attack, and what each query gave.
Queries are those of the data set's query split, the same rows for whoever is compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from advhash.measures.hierarchical import crossed_mean, crossed_ratio
from advhash.measures.intervals import Metric, mean_metric, ratio_metric
from advhash.measures.paired_runs import SEED, Queries
from advhash.reports.headline import HEADLINES

Floats = npt.NDArray[np.float64]
TARGETED = ("map", "map_chance", "map_adversarial", "tmap", "tmap_chance", "tmap_clean")
UNTARGETED = ("map", "map_chance", "map_adversarial")


@dataclass(frozen=True)
class Sample:
    """One finished cell. victim_seed: None where no seed was drawn for the victim."""

    victim_seed: int | None
    attack_seed: int
    queries: Queries


@dataclass(frozen=True)
class Axes:
    """What the samples of a comparison have in common."""

    victim_seeds: list[int | None]
    attack_seeds: list[int]
    rows: npt.NDArray[np.int64]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Axes:
        return cls(
            [*sorted({sample.victim_seed for sample in samples if sample.victim_seed is not None})]
            or [None],
            sorted({sample.attack_seed for sample in samples}),
            np.unique(np.concatenate([sample.queries.rows for sample in samples])),
        )


def stacked(samples: Sequence[Sample], name: str, axes: Axes | None = None) -> Floats:
    """(V,A,1,N) values of a figure: victim seeds × attack seeds × 1 × queries, NaN where unknown.

    A victim without a seed stands for each seed of those that it is compared with.
    """
    axes = axes or Axes.of(samples)
    values = np.full((len(axes.victim_seeds), len(axes.attack_seeds), 1, len(axes.rows)), np.nan)
    for sample in samples:
        rows = np.searchsorted(axes.rows, sample.queries.rows)
        attack = axes.attack_seeds.index(sample.attack_seed)
        seed = sample.victim_seed
        victim = slice(None) if seed is None else axes.victim_seeds.index(seed)
        values[victim, attack, 0, rows] = sample.queries.columns[name]
    return values


def overall(victims: Sequence[Sequence[Sample]], name: str, axes: Axes | None = None) -> Floats:
    """As `stacked`, of the mean over victims, which are no sample of anything: none is drawn."""
    axes = axes or Axes.of([sample for samples in victims for sample in samples])
    return np.asarray(np.mean([stacked(samples, name, axes) for samples in victims], axis=0))


def mean_over(values: Floats) -> Metric:
    """The mean of (V,A,1,N) values with its interval, see `summary`."""
    alone = values.shape[:2] == (1, 1)
    return (
        mean_metric(values.ravel(), SEED) if alone else crossed_mean(values, SEED, same_seeds=True)
    )


def summary(samples: Sequence[Sample], goal: str) -> dict[str, Metric]:
    """Every figure over all samples with its interval: over queries, and over seeds where several.

    One sample: the figures and intervals of its run. Several: `hierarchical.crossed_mean`.
    """
    targeted = goal == "targeted"
    columns = {name: stacked(samples, name) for name in (TARGETED if targeted else UNTARGETED)}
    if targeted:
        columns["tmap_ceiling"] = stacked(samples, "tmap_ceiling")
    figures = {name: mean_over(values) for name, values in columns.items()}
    if targeted:
        value, floor, ceiling = (columns[name] for name in ("tmap", "tmap_clean", "tmap_ceiling"))
        figures["tmap_normalised"] = (
            ratio_metric(value.ravel(), floor.ravel(), ceiling.ravel(), SEED)
            if len(samples) == 1
            else crossed_ratio(value - floor, ceiling - floor, SEED, same_seeds=True)
        )
    return figures


def ranks(
    entries: Mapping[str, Sequence[Sequence[Sample]]], goal: str, *, strongest: bool
) -> dict[str, int]:
    """1 + how many entries are ahead of each; those that cannot be told apart share a rank.

    entries:   of each, the samples on each of its victims; their mean is what counts
    strongest: the strongest attack comes first, else the victim that is moved least

    Ahead: the 95 % interval of the paired difference, over the same seeds and queries, is above 0.
    No interval is adjusted for the number of pairs, and with few seeds each is too narrow where
    seeds are what varies, see `hierarchical_mean`: a rank orders, it proves nothing.
    """
    if not entries:
        return {}
    axes = Axes.of([sample for victims in entries.values() for some in victims for sample in some])
    values = {
        label: overall(victims, HEADLINES[goal].main, axes) for label, victims in entries.items()
    }
    sign = HEADLINES[goal].sign * (1 if strongest else -1)
    ahead = dict.fromkeys(entries, 1)
    for label, own in values.items():
        for other, theirs in values.items():
            if label != other and (mean_over(sign * (theirs - own)).low or 0) > 0:
                ahead[label] += 1
    return ahead
