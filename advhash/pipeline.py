"""Where the parts meet: victim, attack and report become one run folder."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from advhash.attacking import attack_queries, noise_precision
from advhash.attacks.base import Attack, AttackData
from advhash.budget import expect_room
from advhash.cache import cache_root, content_key
from advhash.codes import HashCodes
from advhash.config import (
    AttackConfig,
    BudgetConfig,
    DatasetConfig,
    MethodConfig,
    ProtocolConfig,
    read_toml,
)
from advhash.data import Dataset, Progress, silent
from advhash.datasets import image_grid
from advhash.errors import RunError, UsageError
from advhash.files import write_bytes, write_json
from advhash.fitting import FittedAttack, fit_attack
from advhash.hardening import check_defense, prepare
from advhash.poisoning import check_poison, poison_metrics
from advhash.recording import Metrics, Outcome, Scores, make_record, write_queries
from advhash.registry import ATTACKS, INVERSIONS, VICTIMS
from advhash.reports.ceiling import target_ceilings
from advhash.reports.html import render
from advhash.reports.measures import (
    codec_columns,
    distance_metrics,
    retrieval_columns,
    retrieval_metrics,
)
from advhash.reports.operating import (
    names_pictures,
    operating_columns,
    operating_metrics,
)
from advhash.reports.record import Record
from advhash.reports.retrieval import build_examples
from advhash.reports.victim import joint_metrics
from advhash.runs import RunFolder, environment, new_run_id
from advhash.sanity import Flag, check_attack, check_indicators, check_targets, check_victim
from advhash.stats import Metric, mean_metric, single_metric
from advhash.training import (
    Trained,
    cache_identity,
    derive_seed,
    plan_victim,
    resolve_device,
)
from advhash.victims.base import HashVictim
from advhash.victims.hashvfl import HashVFL

__all__ = ["attack", "attack_plan", "check", "resolve", "resume", "save_image_grid"]

T = TypeVar("T")


def attack(
    config: AttackConfig,
    out: Path | None = None,
    progress: Progress = silent,
    folder: RunFolder | None = None,
) -> Record:
    """Run one attack and write its run folder (`out`, by default `runs/<id>`).

    Raises AdvhashError. On any failure the folder keeps its `.partial` name if a batch was
    finished, and is removed otherwise.
    """
    seconds: dict[str, float] = {}
    check(config)  # a wrong name or value must not cost a training
    trained = _timed(seconds, "victim", lambda: prepare(config, progress))
    config = resolve(config, trained)
    if folder is None:
        label = f"{trained.card['name']}-{config.attack.name}".replace(":", ".")
        folder = RunFolder.start(out or Path("runs") / new_run_id(label))
    try:
        folder.write_text("config.toml", config.to_toml())
        folder.identify(content_key({**cache_identity(trained), "config": config.to_toml()}))
        write_json(folder.path / "env.json", environment())
        record = _attack_into(folder, config, trained, seconds, progress)
        folder.write_text("metrics.json", record.dumps())
        render([folder.path], folder.path / "report.html")
        folder.finish()
    except BaseException as error:
        if folder.abandon() and not isinstance(error, RunError):
            error.add_note(f"finished batches are kept: continue with --resume {folder.final}")
        raise
    return record


def resume(given: Path, progress: Progress = silent, *, trust_code: bool = False) -> Record:
    """Continue an interrupted run from its own config. Raises RunError, ConfigError.

    trust_code: whether a function that the config names as victim may be imported
    """
    folder = RunFolder.resume(given)
    config = AttackConfig.build(read_toml(folder.path / "config.toml")).trusting(trust_code)
    if config.attack.name in {entry.name for entry in INVERSIONS}:
        raise RunError(
            f"a reconstruction is made in one go: expected no --resume, delete {folder.path} and "
            "run it again (its victims are kept)"
        )
    return attack(config, progress=progress, folder=folder)


def _attack_into(
    folder: RunFolder,
    config: AttackConfig,
    trained: Trained,
    seconds: dict[str, float],
    progress: Progress,
) -> Record:
    victim, data, protocol = trained.victim, trained.data, config.protocol
    modality, database = protocol.query_modality, str(protocol.database)
    codes = {name: victim.database_codes(data, name) for name in victim.directions}
    seen = AttackData(data, codes[database], database, modality)
    fitted = _timed(seconds, "fit", lambda: fit_attack(config, trained, seen, progress))
    outcome = _timed(
        seconds, "attack", lambda: attack_queries(folder, config, trained, fitted, progress)
    )
    scores = _timed(seconds, "metrics", lambda: _score(config, trained, codes, outcome, progress))
    boot = derive_seed(config.seed, "bootstrap")
    metrics: Metrics = {
        **scores.metrics[f"{modality}-{database}"],
        **distance_metrics(outcome.columns, boot),
        "seconds_fit": single_metric(fitted.seconds),
        "seconds_per_image": single_metric(outcome.seconds / len(outcome.rows)),
    }
    if modality == "image":
        after = codec_columns(
            victim,
            outcome.moved,
            modality,
            codes[database],
            wanted=outcome.labels if outcome.targets is None else outcome.targets,
            database_labels=data.database.labels.numpy(),
            targeted=outcome.targets is not None,
            ties=protocol.ties,
            top_k=protocol.top_k,
            empty=protocol.empty,
        )
        outcome.columns.update(after)
        metrics |= {name: mean_metric(values, boot) for name, values in after.items()}
    sent = fitted.attack.summarise(outcome.notes).get("queries_per_image")
    if sent is not None:
        metrics["queries_per_image"] = single_metric(sent)
    if isinstance(victim, HashVFL):
        clean = data.query.rows(outcome.rows)
        metrics |= joint_metrics(victim, clean, outcome.moved, modality, outcome.targets, boot)
    if modality == "image" and names_pictures(data.database.labels):
        aimed = outcome.targets is not None
        point = operating_columns(
            victim,
            outcome.moved,
            outcome.clean_codes,
            outcome.codes,
            seen,
            outcome.labels if outcome.targets is None else outcome.targets,
        )
        rate = protocol.false_positive_rate
        metrics |= operating_metrics(point, seen, victim, rate, targeted=aimed, seed=boot)
        outcome.columns.update(point)
    if protocol.poison:
        metrics |= poison_metrics(folder, config, trained, fitted, codes[database], progress)
    flags = _flags(config, trained, fitted, outcome, scores, metrics, codes[database])
    main = scores.columns[database]
    examples = build_examples(
        folder.path,
        dataset=data,
        modality=modality,
        rows=outcome.rows.numpy(),
        adversarial=outcome.moved if modality == "image" else None,
        texts=(outcome.clean, outcome.moved) if modality == "text" else None,
        clean_codes=outcome.clean_codes,
        adversarial_codes=outcome.codes,
        database_codes=codes[database],
        targets=None if outcome.targets is None else torch.from_numpy(outcome.targets),
        score=-main["map_adversarial"] if outcome.targets is None else main["tmap"],
        linf=outcome.columns["linf"],
    )
    write_queries(folder.path / "queries.parquet", outcome, scores)
    return make_record(
        config,
        trained,
        fitted,
        outcome,
        scores,
        metrics=metrics,
        flags=flags,
        examples=examples,
        folder=folder.final,
        seconds=seconds,
    )


def _score(
    config: AttackConfig,
    trained: Trained,
    codes: dict[str, HashCodes],
    outcome: Outcome,
    progress: Progress,
) -> Scores:
    """Average precisions against every database of the victim, and their means."""
    protocol, data = config.protocol, trained.data
    columns, metrics = {}, {}
    for name, database_codes in codes.items():
        ceiling = None
        if outcome.targets is not None:
            ceiling = target_ceilings(
                trained.victim,
                AttackData(data, database_codes, name, protocol.query_modality),
                outcome.targets,
                ties=protocol.ties,
                top_k=protocol.top_k,
                identity=cache_identity(trained),
                progress=progress,
            )
        columns[name] = retrieval_columns(
            outcome.clean_codes,
            outcome.codes,
            database_codes,
            labels=outcome.labels,
            database_labels=data.database.labels.numpy(),
            targets=outcome.targets,
            ceiling=ceiling,
            ties=protocol.ties,
            top_k=protocol.top_k,
            empty=protocol.empty,
        )
        metrics[f"{protocol.query_modality}-{name}"] = retrieval_metrics(
            columns[name], derive_seed(config.seed, "bootstrap")
        )
    chance = columns[str(protocol.database)]["map_chance"]
    return Scores(columns, metrics, int((np.isnan(chance) | (chance == 0)).sum()))


def _flags(
    config: AttackConfig,
    trained: Trained,
    fitted: FittedAttack,
    outcome: Outcome,
    scores: Scores,
    metrics: Metrics,
    database: HashCodes,
) -> list[Flag]:
    """All sanity checks of victim, targets and attack."""
    targets = outcome.targets
    noise = None
    if config.attack.name not in ("noise", "token-noise"):
        found = noise_precision(config, trained, fitted, outcome, database)
        noise = None if found is None else float(np.nanmean(found))
    flags = [Flag(**flag) for flag in trained.card.get("flags", [])]
    flags += check_victim(
        metrics["map"] or Metric(),
        metrics["map_chance"] or Metric(),
        scores.empty_queries,
        len(outcome.rows),
    )
    if targets is not None:
        flags += check_targets(outcome.labels, targets)
    flags += check_attack(metrics, noise, fitted.budget, targets is not None)
    flags += check_indicators(fitted.attack.summarise(outcome.notes))
    if not config.budget.eight_bit:
        flags.append(
            Flag(
                "float_pixels",
                "warning",
                "Pixels were not rounded to 8 bits after the attack; gradient attacks search on "
                "the 8-bit grid all the same.",
            )
        )
    return flags


def check(config: AttackConfig) -> None:
    """Refuse, before any training, whatever can be seen from the config. Raises AdvhashError."""
    check_defense(config)
    method: Attack = ATTACKS.create(config.attack.name, config.attack.settings)
    method.check_budget(config.budget.resolve(method.default_budget))
    planned = plan_victim(config)
    if planned is not None:
        victim = VICTIMS.create(config.victim.name, planned[1])
        _check_threat(config, victim, method, planned[0])


def _check_threat(
    config: AttackConfig, victim: HashVictim, method: Attack, data: Dataset
) -> ProtocolConfig:
    """The protocol with the attacked direction and the moved modality written out.

    Raises UsageError: a direction or a modality that victim or attack lack, more planted items
    than there are; ConfigError: a radius that moves no picture, or binds none.
    """
    database = config.protocol.database or victim.default_database
    if database not in victim.directions:
        raise UsageError(
            f"--database: expected one of {', '.join(victim.directions)}, got {database!r}"
        )
    modality = victim.query_modality(config.protocol.query_modality)
    victim.check_modality(modality)
    if not method.can_move(victim, modality):
        raise UsageError(
            f"--query-modality: {config.attack.name} attacks "
            f"{', '.join(sorted(method.modalities))}, got {modality!r}"
        )
    method.check_gradients(victim)
    if victim.is_image(modality):
        values = data.database.inputs[modality][0].numel()
        budget = config.budget.resolve(method.default_budget)
        expect_room(budget, values, eight_bit=config.budget.eight_bit)
    if "l0" in method.norms and victim.bounds[modality][0] < 0:
        raise UsageError(
            f"{config.attack.name} changes words: expected texts with words, got embeddings; "
            "use --set dataset.text=words"
        )
    protocol = config.protocol.model_copy(update={"query_modality": modality, "database": database})
    planned = config.model_copy(update={"protocol": protocol})
    check_poison(planned, method.goal, database, len(data.validation))
    return protocol


def resolve(config: AttackConfig, trained: Trained) -> AttackConfig:
    """The config with every default written out, so that its file replays the run.

    Raises UsageError: a direction or a modality that victim or attack lack.
    """
    victim, data = trained.victim, trained.data
    settings = ATTACKS.settings(config.attack.name, config.attack.settings)
    method: Attack = ATTACKS.create(config.attack.name, settings)
    budget = config.budget.resolve(method.default_budget)
    protocol = _check_threat(config, victim, method, data)
    return config.model_copy(
        update={
            "device": str(victim.device),
            "victim": trained.replay,
            "attack": MethodConfig.build({"name": config.attack.name, **settings}),
            "dataset": DatasetConfig.build({"name": data.name, **data.settings}),
            "budget": BudgetConfig(
                norm=budget.norm,
                eps="none" if math.isinf(budget.eps) else budget.eps,
                eight_bit=config.budget.eight_bit,
            ),
            "protocol": protocol,
        }
    )


def attack_plan(config: AttackConfig) -> dict[str, Any]:
    """What `--dry-run` prints: everything validated, nothing trained, no run written."""
    settings = ATTACKS.settings(config.attack.name, config.attack.settings)
    method: Attack = ATTACKS.create(config.attack.name, settings)
    check(config)
    planned = plan_victim(config)
    if planned is None:
        trained = prepare(config)
        resolve(config, trained)
        data = trained.data
        place = {"checkpoint": str(trained.folder)} if trained.folder else {"name": trained.name}
        victim: dict[str, Any] = {**place, "trained": True}
    else:
        data, victim_settings, key = planned
        victim = {
            "name": config.victim.name,
            "settings": victim_settings,
            "trained": (cache_root() / "victims" / key).is_dir(),
        }
    return {
        "schema": "advhash/plan/1",
        "command": "attack",
        "seed": config.seed,
        "device": str(resolve_device(config.device)),
        "victim": victim,
        "defense": None if config.defense is None else config.defense.model_dump(),
        "attack": {"name": config.attack.name, "settings": settings},
        "dataset": {"name": data.name, "database": len(data.database)},
        "budget": str(config.budget.resolve(method.default_budget)),
        "protocol": config.protocol.model_dump(mode="json"),
        "queries": min(config.protocol.queries or len(data.query), len(data.query)),
    }


def save_image_grid(data: Dataset, file: Path) -> None:
    """Write samples of a data set as a PNG. Raises DataError, StorageError."""
    buffer = io.BytesIO()
    image_grid(data).save(buffer, format="PNG")
    write_bytes(file, buffer.getvalue())


def _timed(seconds: dict[str, float], name: str, work: Callable[[], T]) -> T:
    """Run and note the wall seconds."""
    start = time.perf_counter()
    result = work()
    seconds[name] = time.perf_counter() - start
    return result
