"""An attack from Python: the same stages as those of `advhash attack`, on objects in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from advhash.api.batch import Asked
from advhash.api.figures import Figures
from advhash.api.result import AttackResult, bits_changed
from advhash.attacks.base import AttackData
from advhash.compute.progress import Progress
from advhash.experiments.attack.columns import distance_metrics
from advhash.experiments.attack.measure import examples, flags, measure
from advhash.experiments.attack.perturb import Aimed, attack_batches, joined_outcome
from advhash.experiments.attack.record import Attacked, make_record, write_queries
from advhash.experiments.config import AttackConfig
from advhash.experiments.prepare.fit_attack import fit_attack
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained, cache_identity
from advhash.measures.intervals import Metric, mean_metric
from advhash.measures.sanity import gravest_first
from advhash.reports.page.render import render
from advhash.storage.files import write_json
from advhash.storage.run_folder import RunFolder, environment


def _attacked(
    config: AttackConfig,
    trained: Trained,
    asked: Asked,
    served: AttackData,
    progress: Progress,
) -> Attacked:
    """The attack, fitted on the data of the victim, and what it makes of the queries."""
    fitted = fit_attack(config, trained, served, progress)
    before = replace(trained, data=asked.data)
    aimed = Aimed(asked.rows, asked.targets)
    made = attack_batches(config, before, fitted, aimed, piece=_made, progress=progress)
    return Attacked(config, before, fitted, joined_outcome(config, before, fitted, aimed, [made]))


def without_database(
    config: AttackConfig, trained: Trained, asked: Asked, progress: Progress
) -> AttackResult:
    """Attack the batch by itself: distances and codes, no figures of retrieval."""
    modality = config.protocol.query_modality
    codes = trained.victim.encode_split(trained.data.database, modality)
    served = AttackData(trained.data, codes, modality, modality)
    attacked = _attacked(config, trained, asked, served, progress)
    boot = derive_seed(config.seed, "bootstrap")
    return _result(attacked, asked, distance_metrics(attacked.outcome.columns, boot))


def with_database(
    config: AttackConfig,
    trained: Trained,
    asked: Asked,
    folder: RunFolder | None,
    progress: Progress,
) -> AttackResult:
    """Attack and measure as `advhash attack` does; a run folder is written where one is given.

    config: with every default written out
    """
    start = time.perf_counter()
    victim, database = trained.victim, str(config.protocol.database)
    codes = victim.served_codes(trained.data)
    served = AttackData(trained.data, codes[database], database, config.protocol.query_modality)
    attacked = _attacked(config, trained, asked, served, progress)
    if not asked.labelled:  # no relevant rows: no MAP, rather than one of 0
        unknown = {"empty": "skip", "noise_control": asked.targets is not None}
        protocol = config.protocol.model_copy(update=unknown)
        scored = config.model_copy(update={"protocol": protocol})
        attacked = replace(attacked, config=scored)
    measured = measure(attacked, codes, cache_identity(trained), progress)
    raised = flags(attacked, measured, codes[database])
    if not asked.labelled:
        raised = [flag for flag in raised if flag.name != "empty_queries"]
    shown = []
    if folder is not None:
        shown = examples(attacked, measured.scores.columns, codes[database], folder.path)
    record = make_record(
        attacked,
        measured.scores,
        metrics=measured.metrics,
        flags=raised,
        examples=shown,
        folder=Path() if folder is None else folder.final,
        seconds={"attack": time.perf_counter() - start},
    )
    if asked.given:
        stated = record.protocol.model_copy(update={"targets": "given"})
        record = record.model_copy(update={"protocol": stated})
    if folder is not None:
        if asked.replays and trained.folder is not None:
            folder.write_text("config.toml", config.to_toml())
        write_json(folder.path / "env.json", environment())
        write_queries(folder.path / "queries.parquet", attacked.outcome, measured.scores.columns)
        folder.write_text("metrics.json", record.dumps())
        render([folder.path], folder.path / "report.html", foreign=False)
    attacked.outcome.columns.update(measured.scores.columns[database])
    result = _result(attacked, asked, measured.metrics)
    return replace(
        result,
        title=f"{result.title}, {trained.data.called}",
        messages=tuple(flag.message for flag in gravest_first(raised)),
        record=record,
        folder=None if folder is None else folder.final,
    )


def _made(name: str, make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    return make()


def _result(attacked: Attacked, asked: Asked, metrics: Mapping[str, Metric | None]) -> AttackResult:
    config, outcome = attacked.config, attacked.outcome
    changed = bits_changed(outcome)
    boot = derive_seed(config.seed, "bootstrap")
    return AttackResult(
        title=f"{config.attack.name} ({attacked.fitted.budget}) on {attacked.trained.called}",
        modality=config.protocol.query_modality,
        index=asked.index,
        clean=outcome.clean,
        adversarial=outcome.moved,
        clean_codes=outcome.clean_codes,
        codes=outcome.codes,
        targets=outcome.targets,
        columns={**outcome.columns, "bits_changed": changed},
        metrics=Figures(
            {**metrics, "bits_changed": mean_metric(changed, boot)},
            pictures=config.protocol.query_modality == "image",
        ),
    )
