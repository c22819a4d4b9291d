"""Where the parts meet: victim, attack and report become one run folder."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from advhash.attacks.base import Attack, AttackData
from advhash.budget import expect_room
from advhash.data.dataset import Dataset, Progress, silent
from advhash.data.load import image_grid
from advhash.errors import RunError, UsageError
from advhash.experiments.attack.measure import examples, flags, measure
from advhash.experiments.attack.perturb import attack_queries
from advhash.experiments.attack.planted import check_poison, poison_metrics
from advhash.experiments.attack.record import make_record, write_queries
from advhash.experiments.config import (
    AttackConfig,
    BudgetConfig,
    DatasetConfig,
    MethodConfig,
    ProtocolConfig,
)
from advhash.experiments.config_text import read_toml
from advhash.experiments.prepare.code_key import code_version
from advhash.experiments.prepare.fit_attack import fit_attack
from advhash.experiments.prepare.hardened import foresee, prepare
from advhash.experiments.prepare.seeds import resolve_device
from advhash.experiments.prepare.trained import Trained, cache_identity
from advhash.experiments.prepare.victim import is_trained
from advhash.registry import ATTACKS, INVERSIONS
from advhash.reports.page.render import render
from advhash.reports.record import Record
from advhash.storage.cache import content_key
from advhash.storage.files import write_bytes, write_json
from advhash.storage.run_folder import RunFolder, environment, new_run_id
from advhash.victims.base import HashVictim

__all__ = [
    "attack",
    "attack_plan",
    "check_attack_config",
    "resolve",
    "resume",
    "save_image_grid",
]

T = TypeVar("T")


def attack(
    config: AttackConfig,
    out: Path | None = None,
    progress: Progress = silent,
    folder: RunFolder | None = None,
    *,
    brief: bool = False,
) -> Record:
    """Run one attack and write its run folder (`out`, by default `runs/<id>`).

    brief: figures alone, no example pictures and no page

    Raises AdvhashError. On any failure the folder keeps its `.partial` name if a batch was
    finished, and is removed otherwise.
    """
    seconds: dict[str, float] = {}
    foreseen = foresee(config)
    check_attack_config(
        config, foreseen.victim, foreseen.data
    )  # a wrong name or value must not cost a training
    trained = _timed(seconds, "victim", lambda: prepare(config, progress, foreseen))
    config = resolve(config, trained)
    if folder is None:
        label = f"{trained.card['name']}-{config.attack.name}".replace(":", ".")
        folder = RunFolder.start(out or Path("runs") / new_run_id(label))
    try:
        folder.write_text("config.toml", config.to_toml())
        code = code_version("experiments.attack")
        folder.identify(
            content_key({**cache_identity(trained), "code": code, "config": config.to_toml()})
        )
        write_json(folder.path / "env.json", environment())
        record = _attack_into(folder, config, trained, seconds, progress, brief=brief)
        folder.write_text("metrics.json", record.dumps())
        if not brief:
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
    *,
    brief: bool,
) -> Record:
    victim, data, protocol = trained.victim, trained.data, config.protocol
    modality, database = protocol.query_modality, str(protocol.database)
    codes = {name: victim.database_codes(data, name) for name in victim.directions}
    seen = AttackData(data, codes[database], database, modality)
    fitted = _timed(seconds, "fit", lambda: fit_attack(config, trained, seen, progress))
    outcome = _timed(
        seconds, "attack", lambda: attack_queries(folder.part, config, trained, fitted, progress)
    )
    identity = cache_identity(trained)
    measured = _timed(
        seconds,
        "metrics",
        lambda: measure(config, trained, fitted, codes, outcome, identity, progress),
    )
    if protocol.poison:
        measured.metrics.update(
            poison_metrics(folder.part, config, trained, fitted, codes[database], progress)
        )
    raised = flags(config, trained, fitted, outcome, measured, codes[database])
    shown = [] if brief else examples(config, trained, outcome, measured, codes[database], folder)
    write_queries(folder.path / "queries.parquet", outcome, measured.scores)
    return make_record(
        config,
        trained,
        fitted,
        outcome,
        measured.scores,
        metrics=measured.metrics,
        flags=raised,
        examples=shown,
        folder=folder.final,
        seconds=seconds,
    )


def check_attack_config(config: AttackConfig, victim: HashVictim, data: Dataset) -> ProtocolConfig:
    """Refuse, before any training, whatever can be seen from the config. Raises UsageError.

    The protocol with direction and modality written out.

    victim, data: as `foresee` knows them
    """
    method: Attack = ATTACKS.create(config.attack.name, config.attack.settings)
    method.check_budget(config.budget.resolve(method.default_budget))
    return _check_threat(config, victim, method, data)


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
    foreseen = foresee(config)
    ready, data = foreseen.ready, foreseen.data
    protocol = check_attack_config(config, foreseen.victim, data)
    if ready is not None:
        place = {"checkpoint": str(ready.folder)} if ready.folder else {"name": ready.name}
        victim: dict[str, Any] = {**place, "trained": True}
    else:
        victim = {
            "name": config.victim.name,
            "settings": foreseen.settings,
            "trained": is_trained(config),
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
        "protocol": protocol.model_dump(mode="json"),
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
