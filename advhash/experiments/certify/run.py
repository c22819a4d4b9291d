"""`advhash certify`: what randomised smoothing certifies of a victim, beside what it is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.codes.hamming import histograms
from advhash.codes.metrics import (
    average_precision,
    chance_average_precision,
    precision_within,
)
from advhash.codes.packed import HashCodes
from advhash.data.dataset import Batch, Dataset
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
from advhash.experiments.attack.record import file_document
from advhash.experiments.certify.config import CertifyConfig
from advhash.experiments.config import TrainConfig, queries_asked
from advhash.experiments.experiment import Experiment, Place, Plan
from advhash.experiments.prepare.code_key import code_version
from advhash.experiments.prepare.planned import PlannedVictim
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained
from advhash.experiments.prepare.worth import code_figures
from advhash.measures.intervals import Metric, mean_metric
from advhash.measures.sanity import Flag, check_codes, check_collapse, check_count, check_victim
from advhash.registry import DEFENSES, EXPERIMENTS
from advhash.reports.certificates import CERTIFY, CertificateRecord
from advhash.shared_labels import shares
from advhash.storage.cache import content_key
from advhash.storage.cells import Result
from advhash.storage.run_folder import environment
from advhash.victims.base import HashVictim
from advhash.victims.training.acceleration import precision

CODE = ("experiments.attack", "experiments.certify")
CERTIFIED = "image"
BLOCK = 10  # queries of a cell
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CodesCell:
    """Codes of the database and of the queries, smoothed and not.

    config: with every default written out
    names:  by which the cost is learnt
    """

    config: CertifyConfig
    key: str
    names: tuple[str, ...]

    def compute(self, place: Place) -> Result:
        trained: Trained = place.part("victim")
        victim, images = _smoothed(self.config, trained.victim), _queries(self.config, trained.data)
        columns = {}
        for name, model in (("smoothed", victim), ("unsmoothed", victim.victim)):
            columns[f"{name} database"] = model.database_codes(
                trained.data, str(self.config.database)
            )
            columns[f"{name} queries"] = model.encode(images.inputs[CERTIFIED], CERTIFIED)
        return Result(None, {name: _kept(codes) for name, codes in columns.items()})


@dataclass(frozen=True)
class CertificateCell:
    """Certificates of the queries from `start` to `stop`.

    config: with every default written out
    names, amount: by which the cost is learnt
    """

    config: CertifyConfig
    start: int
    stop: int
    key: str
    names: tuple[str, ...]

    @property
    def amount(self) -> int:
        return (self.stop - self.start) * (self.config.samples + self.config.selection)

    def compute(self, place: Place) -> Result:
        trained: Trained = place.part("victim")
        batch = _queries(self.config, trained.data)
        certificate = certify(
            _smoothed(self.config, trained.victim),
            batch.inputs[CERTIFIED][self.start : self.stop],
            samples=self.config.samples,
            selection=self.config.selection,
            alpha=self.config.alpha,
            seed=derive_seed(self.config.seed, "certificate"),
            first=self.start,
            progress=place.progress,
        )
        tensors = {"codes": _kept(certificate.codes), "lower": torch.from_numpy(certificate.lower)}
        return Result(None, tensors)


Cells = CodesCell | CertificateCell


@EXPERIMENTS.register("certify", source="Cohen et al., ICML 2019, bit by bit")
class Certification(
    Experiment[CertifyConfig, Cells, Plan[CertifyConfig, Cells], CertificateRecord]
):
    """What randomised smoothing certifies of a victim, beside what it is worth.

    A victim that is not smoothed yet is wrapped by `smoothing`, behind its other defences.
    """

    name, config, record, code = "certify", CertifyConfig, CertificateRecord, CODE
    alone = True

    def plan(self, config: CertifyConfig) -> Plan[CertifyConfig, Cells]:
        known = PlannedVictim.of(config.turned_into(TrainConfig))
        known.data.expect_one_size("advhash certify")
        ready = _smoothed(config, known.victim)
        resolved = _resolved(config, known, ready)
        return Plan(
            config=resolved,
            cells=_cells(resolved, known, ready),
            parts={"victim": known},
            label=f"{known.called}-certify".replace(":", "."),
            shown={
                "victim": {"name": known.name, "settings": known.settings},
                "defense": None if config.defense is None else config.defense.model_dump(),
                "dataset": {**known.data.named, "database": len(known.data.database)},
                "database": resolved.database,
                "smoothing": {"sigma": ready.sigma, "votes": ready.votes, "seed": ready.seed},
                "samples": config.samples,
                "within": resolved.within,
                "radii": config.radii,
                "queries": len(_queries(config, known.data)),
            },
        )

    def compute(self, cell: Cells, place: Place) -> Result:
        return cell.compute(place)

    def judge(
        self, plan: Plan[CertifyConfig, Cells], results: Sequence[Result], place: Place
    ) -> CertificateRecord:
        codes, *blocks = (result.tensors for result in results)
        config, trained = plan.config, place.part("victim")
        document = _document(
            config, trained, {n: _again(stored) for n, stored in codes.items()}, blocks
        )
        head = file_document(CERTIFY, self.name, config, trained, place)
        return CertificateRecord.from_document(head | document)


def _resolved(config: CertifyConfig, known: PlannedVictim, victim: Smoothed) -> CertifyConfig:
    """The config with every default written out. Raises UsageError: a radius, a database.

    victim: behind the smoothing
    """
    within = victim.bits // 4 if config.within is None else config.within
    if within > victim.bits:
        raise UsageError(f"--within: expected at most {victim.bits} bits, got {within}")
    if config.database is not None and config.database not in victim.directions:
        raise UsageError(
            f"--database: expected one of {', '.join(victim.directions)}, got {config.database!r}"
        )
    smoothed = isinstance(known.victim, Smoothed)  # what it brings cannot be set again
    return known.written(config).model_copy(
        update={
            "database": config.database or victim.default_database,
            "sigma": None if smoothed else victim.sigma,
            "votes": None if smoothed else victim.votes,
            "within": within,
            "queries": queries_asked(config, len(known.data.query)),
        }
    )


def _cells(config: CertifyConfig, known: PlannedVictim, victim: Smoothed) -> list[Cells]:
    """The codes, then blocks of queries: no draw of one depends on another."""
    count = len(_queries(config, known.data))
    shared = {
        "victim": known.identity,
        "precision": precision(torch.device(known.device)),
        "sigma": victim.sigma,
        "seed": config.seed,
        "queries": count,
        "threads": torch.get_num_threads(),
        "code": code_version(*CODE),
    }
    served = {"votes": victim.votes, "noise": victim.seed, "database": config.database}
    drawn = {name: getattr(config, name) for name in ("samples", "selection", "alpha")}
    names = known.names
    cells: list[Cells] = [
        CodesCell(config, content_key({**shared, **served}), ("codes", *names)),
    ]
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        key = content_key({**shared, **drawn, "rows": [start, stop]})
        cells.append(CertificateCell(config, start, stop, key, ("certificates", *names)))
    return cells


def _queries(config: CertifyConfig, data: Dataset) -> Batch:
    rows = choose_queries(data.query, config.queries, derive_seed(config.seed, "queries"))
    return data.query.rows(rows)


def _kept(codes: HashCodes) -> Tensor:
    """(N,K) bits, for the cache."""
    return torch.from_numpy(codes.unpack())


def _again(bits: Tensor) -> HashCodes:
    return HashCodes.pack(bits.numpy())


def _document(
    config: CertifyConfig,
    trained: Trained,
    codes: Mapping[str, HashCodes],
    blocks: Sequence[Mapping[str, Tensor]],
) -> dict[str, Any]:
    """The JSON document: what is certified at each radius, and what the smoothed hash is worth.

    codes: of a `CodesCell`; blocks: of each `CertificateCell`
    """
    victim, data = _smoothed(config, trained.victim), trained.data
    within, direction = config.within, str(config.database)
    assert within is not None
    stored, stored_bare = (codes[f"{kind} database"] for kind in ("smoothed", "unsmoothed"))
    boot = derive_seed(config.seed, "bootstrap")
    labels = _queries(config, data).labels.numpy()
    database_labels = data.database.labels.numpy()
    relevant = shares(labels, database_labels)
    certificate = Certificate(
        _again(torch.cat([block["codes"] for block in blocks])),
        torch.cat([block["lower"] for block in blocks]).numpy(),
        victim.sigma,
        config.alpha,
    )

    def kept(held: Bools, rows: Bools) -> Metric:
        return mean_metric(certified_recall(held, certificate.codes, stored, rows, within), boot)

    counts = histograms(codes["smoothed queries"], stored, labels, database_labels)
    plain = histograms(codes["unsmoothed queries"], stored_bare, labels, database_labels)
    chance = chance_average_precision(counts.relevant_rows, len(stored))
    every = np.ones((len(labels), victim.bits), dtype=np.bool_)
    metrics = {
        "map_clean": mean_metric(average_precision(counts), boot),
        "map_clean_unsmoothed": mean_metric(average_precision(plain), boot),
        "map_chance": mean_metric(chance, boot),
        "precision_clean": mean_metric(precision_within(counts, within), boot),
        "recall_clean": kept(every, relevant),
        "irrelevant_clean": kept(every, ~relevant),
        "bits_abstained": mean_metric((~certificate.held(0)).sum(axis=1), boot),
    }
    most = largest_radius(victim.sigma, config.samples, config.alpha, victim.bits)
    sane = check_codes(stored, stored[:0], len(np.unique(database_labels, axis=0)))
    empty = int((~relevant.any(axis=1)).sum())
    worth = check_victim(metrics["map_clean"], metrics["map_chance"], empty, len(labels))
    figures = {"smoothed": code_figures(stored), "unsmoothed": code_figures(stored_bare)}
    undefended = (trained.card.get("undefended") or {}).get("codes") or {}
    if direction in undefended:  # of the victim before it was hardened
        figures["undefended"] = undefended[direction]
    return {
        "database": direction,
        "queries": len(labels),
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
                    for name, metric in _at(
                        config, certificate, radius, relevant, kept, boot
                    ).items()
                },
            }
            for radius in config.radii
        ],
        "codes": figures,
        "flags": [
            vars(flag)
            for flag in [
                *check_count(config.queries, len(labels)),
                *sane,
                *worth,
                *_flags(config, most, figures),
            ]
        ],
        "environment": environment(),
    }


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
    certificate: Certificate,
    radius: float,
    relevant: Bools,
    kept: Callable[[Bools, Bools], Metric],
    boot: int,
) -> dict[str, Metric]:
    """What holds whatever an attack within the L2 `radius` does."""
    held = certificate.held(radius)
    fresh = certificate.held_when_served(radius, votes=config.served_votes, level=config.level)
    return {
        "bits_certified": mean_metric(held.sum(axis=1), boot),
        "flips_bound": mean_metric(certificate.flips(radius), boot),
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
                f"No bit can be certified at {', '.join(f'{radius:g}' for radius in beyond)}, "
                "whatever the hash: with these samples, alpha and sigma radii end below "
                f"{most:.3g}.",
            )
        )
    before = codes.get("undefended", codes["unsmoothed"])
    return flags + check_collapse(codes["smoothed"]["distinct"], before["distinct"])
