"""`advhash certify`: what randomised smoothing certifies of a victim, beside what it is worth."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import (
    Field,
)

from advhash import __version__
from advhash.codes.hamming import histograms
from advhash.codes.metrics import (
    average_precision,
    chance_average_precision,
    precision_within,
)
from advhash.data.dataset import Progress, silent
from advhash.defenses.wrappers.smoothing import (
    Certificate,
    Smoothed,
    Smoothing,
    certified_recall,
    certify,
    largest_radius,
)
from advhash.errors import UsageError
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.config import Hardened, TrainConfig
from advhash.experiments.prepare.hardened import foresee, prepare
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.worth import code_figures
from advhash.measures.intervals import Metric, mean_metric
from advhash.measures.sanity import Flag, check_codes, check_collapse, check_victim
from advhash.registry import DEFENSES
from advhash.reports.certificates import CERTIFY
from advhash.storage.run_folder import environment
from advhash.victims.base import HashVictim

__all__ = ["certify_queries"]

CERTIFIED = "image"
Bools = npt.NDArray[np.bool_]


def certify_queries(config: CertifyConfig, progress: Progress = silent) -> dict[str, Any]:
    """The JSON document: what is certified at each radius, and what the smoothed hash is worth.

    A victim that is not smoothed yet is wrapped by `smoothing`, behind its other defences.

    Raises AdvhashError.
    """
    began = time.perf_counter()
    training = _training(config)
    foreseen = foresee(training)
    _refuse(config, foreseen.victim)
    trained = prepare(training, progress, foreseen)
    victim, data = _smoothed(config, trained.victim), trained.data
    bare = victim.victim
    within = _within(config, victim)
    direction = config.database or victim.default_database
    stored, stored_bare = (one.database_codes(data, direction) for one in (victim, bare))
    boot = derive_seed(config.seed, "bootstrap")
    rows = choose_queries(data.query, config.queries, derive_seed(config.seed, "queries"))
    batch = data.query.rows(rows)
    images, labels = batch.inputs[CERTIFIED], batch.labels.numpy()
    database_labels = data.database.labels.numpy()
    relevant = labels.astype(np.int64) @ database_labels.T.astype(np.int64) > 0
    found = certify(
        victim,
        images,
        samples=config.samples,
        selection=config.selection,
        alpha=config.alpha,
        seed=derive_seed(config.seed, "certificate"),
        progress=progress,
    )

    def kept(held: Bools, rows: Bools) -> Metric:
        return mean_metric(certified_recall(held, found.codes, stored, rows, within), boot)

    counts = histograms(victim.encode(images, CERTIFIED), stored, labels, database_labels)
    plain = histograms(bare.encode(images, CERTIFIED), stored_bare, labels, database_labels)
    chance = chance_average_precision(counts.relevant_rows, len(stored))
    every = np.ones((len(images), victim.bits), dtype=np.bool_)
    metrics = {
        "map_clean": mean_metric(average_precision(counts), boot),
        "map_clean_unsmoothed": mean_metric(average_precision(plain), boot),
        "map_chance": mean_metric(chance, boot),
        "precision_clean": mean_metric(precision_within(counts, within), boot),
        "recall_clean": kept(every, relevant),
        "irrelevant_clean": kept(every, ~relevant),
        "bits_abstained": mean_metric((~found.held(0)).sum(axis=1), boot),
    }
    most = largest_radius(victim.sigma, config.samples, config.alpha, victim.bits)
    sane = check_codes(stored, stored[:0], len(np.unique(database_labels, axis=0)))
    empty = int((~relevant.any(axis=1)).sum())
    worth = check_victim(metrics["map_clean"], metrics["map_chance"], empty, len(images))
    codes = {"smoothed": code_figures(stored), "unsmoothed": code_figures(stored_bare)}
    undefended = (trained.card.get("undefended") or {}).get("codes") or {}
    if direction in undefended:  # of the victim before it was hardened
        codes["undefended"] = undefended[direction]
    return {
        "schema": CERTIFY,
        "command": "certify",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "seed": config.seed,
        "victim": {"name": trained.card["name"], "settings": trained.card["settings"]},
        "defenses": list(trained.defenses),
        "dataset": {"name": data.name, "settings": dict(data.settings)},
        "database": direction,
        "queries": len(images),
        "smoothing": {"sigma": victim.sigma, "votes": victim.votes, "seed": victim.seed},
        "samples": config.samples,
        "selection": config.selection,
        "alpha": config.alpha,
        "within": within,
        "served": {"votes": config.served_votes, "level": config.level},
        "largest_radius": most,
        "metrics": {name: vars(metric) for name, metric in metrics.items()},
        "radii": [
            {
                "radius": radius,
                "metrics": {
                    name: vars(metric)
                    for name, metric in _at(config, found, radius, relevant, kept, boot).items()
                },
            }
            for radius in config.radii
        ],
        "codes": codes,
        "flags": [vars(flag) for flag in [*sane, *worth, *_flags(config, most, codes)]],
        "environment": environment(),
        "seconds": round(time.perf_counter() - began, 2),
    }


def _training(config: CertifyConfig) -> TrainConfig:
    names = ("seed", "device", "victim", "defense", "defense_budget", "dataset")
    return TrainConfig.build(config.model_dump(include=set(names))).trusting(config.trust_code)


def _refuse(config: CertifyConfig, victim: HashVictim) -> None:
    """Refuse what must not cost a training."""
    ready = _smoothed(config, victim)
    _within(config, ready)
    if config.database is not None and config.database not in ready.directions:
        raise UsageError(
            f"--database: expected one of {', '.join(ready.directions)}, got {config.database!r}"
        )


def _within(config: CertifyConfig, victim: HashVictim) -> int:
    within = victim.bits // 4 if config.within is None else config.within
    if within > victim.bits:
        raise UsageError(f"--within: expected at most {victim.bits} bits, got {within}")
    return within


def _smoothed(config: CertifyConfig, victim: HashVictim) -> Smoothed:
    given = {
        name: value
        for name, value in (("sigma", config.sigma), ("votes", config.votes))
        if value is not None
    }
    if isinstance(victim, Smoothed):
        if given:
            raise UsageError(
                "the victim is smoothed already: expected no --sigma and no --votes; to certify "
                "under other noise, name the victim without the defence"
            )
        return victim
    defense: Smoothing = DEFENSES.create("smoothing", given)
    wrapped = defense.wrap(victim)
    assert isinstance(wrapped, Smoothed)
    return wrapped


def _at(
    config: CertifyConfig,
    found: Certificate,
    radius: float,
    relevant: Bools,
    kept: Callable[[Bools, Bools], Metric],
    boot: int,
) -> dict[str, Metric]:
    """What holds whatever an attack within the L2 `radius` does."""
    held = found.held(radius)
    fresh = found.held_when_served(radius, votes=config.served_votes, level=config.level)
    return {
        "bits_certified": mean_metric(held.sum(axis=1), boot),
        "flips_bound": mean_metric(found.flips(radius), boot),
        "recall_certified": kept(held, relevant),
        "irrelevant_certified": kept(held, ~relevant),
        "bits_served": mean_metric(fresh.sum(axis=1), boot),
        "recall_served": kept(fresh, relevant),
    }


def _flags(config: CertifyConfig, most: float, codes: dict[str, dict[str, float]]) -> list[Flag]:
    flags = []
    beyond = [radius for radius in config.radii if radius >= most]
    if beyond:
        flags.append(
            Flag(
                "radius_out_of_reach",
                "warning",
                f"No bit can be certified at {', '.join(f'{one:g}' for one in beyond)}, whatever "
                f"the hash: with these samples, alpha and sigma radii end below {most:.3g}.",
            )
        )
    before = codes.get("undefended", codes["unsmoothed"])
    return flags + check_collapse(codes["smoothed"]["distinct"], before["distinct"])


class CertifyConfig(Hardened):
    """`advhash certify`: what randomised smoothing certifies of a victim of images.

    sigma, votes: of the smoothing around the victim; None: its own where it is smoothed, else the
        defaults of `smoothing`
    samples, selection, alpha: of the certificate, see `advhash.defenses.wrappers.smoothing.certify`
    radii:      L2, in [0,1] pixels
    within:     T, the Hamming radius that is searched; None: a quarter of the bits
    served_votes, level: of a server that draws its noise anew, see `held_when_served`
    """

    command: Literal["certify"] = "certify"
    database: str | None = None
    queries: int | None = Field(default=100, ge=1)
    sigma: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    votes: int | None = Field(default=None, ge=1)
    samples: int = Field(default=1000, ge=1)
    selection: int = Field(default=100, ge=1)
    alpha: float = Field(default=0.001, gt=0, lt=1)
    radii: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default=[0.25, 0.5, 1.0], min_length=1
    )
    within: int | None = Field(default=None, ge=0)
    served_votes: int = Field(default=101, ge=1)
    level: float = Field(default=0.01, gt=0, lt=1)
