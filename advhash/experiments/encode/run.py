"""`advhash encode`: what the codes of a victim encode, beside controls on the same pictures."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from advhash.attacks.base import Attack, AttackData
from advhash.data.dataset import Progress, silent
from advhash.errors import UsageError
from advhash.experiments.attack.perturb import attack_queries, choose_queries
from advhash.experiments.attack.record import (
    Outcome,
    attack_info,
    budget_info,
    dataset_info,
    run_info,
    victim_info,
)
from advhash.experiments.attack.run import resolve
from advhash.experiments.config import AttackConfig, DatasetConfig, MethodConfig, TrainConfig
from advhash.experiments.encode.coders import Encoding, Sets, coders_of, measured, measured_pixels
from advhash.experiments.encode.config import EncodeConfig
from advhash.experiments.encode.detection import detected
from advhash.experiments.prepare.fit_attack import FittedAttack, fit_attack
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained, cache_identity
from advhash.experiments.prepare.victim import plan_victim, train
from advhash.measures.encoding import NEIGHBOURS, first_labels
from advhash.measures.sanity import Flag
from advhash.registry import ATTACKS, VICTIMS
from advhash.reports.encoding import ENCODING, EncodingRecord, Site
from advhash.reports.page.render import render
from advhash.storage.cache import content_key
from advhash.storage.files import write_json
from advhash.storage.run_folder import RunFolder, environment, new_run_id
from advhash.victims.base import HashVictim
from advhash.victims.neural.neural_code import ActivationCode

__all__ = ["encode"]


def encode(
    config: EncodeConfig, out: Path | None = None, progress: Progress = silent
) -> EncodingRecord:
    """Measure, and write the run folder. Raises AdvhashError."""
    began = time.perf_counter()
    training = TrainConfig.build(
        {
            "seed": config.seed,
            "device": config.device,
            "victim": config.victim.model_dump(),
            "dataset": config.dataset.model_dump(),
        }
    ).trusting(config.trust_code)
    planned = plan_victim(training)
    if planned is not None:  # a wrong victim must not cost a training
        _check(config, VICTIMS.create(config.victim.name, planned[1]))
    trained = train(training, progress)
    _check(config, trained.victim)
    folder = RunFolder.start(out or Path("runs") / new_run_id(f"{trained.card['name']}-encode"))
    try:
        folder.identify(content_key({**cache_identity(trained), "config": config.model_dump()}))
        write_json(folder.path / "env.json", environment())
        record = _measured(folder, config, trained, began, progress)
        shown = config.model_copy(
            update={
                "victim": trained.replay,
                "dataset": DatasetConfig.build(
                    {"name": trained.data.name, **trained.data.settings}
                ),
            }
        )
        folder.write_text("config.toml", shown.to_toml())
        folder.write_text("metrics.json", record.dumps())
        render([folder.path], folder.path / "report.html")
        folder.finish()
    except BaseException:
        folder.abandon(keep=False)
        raise
    return record


def _check(config: EncodeConfig, victim: HashVictim) -> None:
    """Raise UsageError where the victim takes no images or the attack cannot move them."""
    victim.check_modality("image")
    if config.attack is not None:
        method: Attack = ATTACKS.create(config.attack.name, config.attack.settings)
        if not method.can_move(victim, "image"):
            raise UsageError(f"--method: expected an attack on images, got {config.attack.name}")
        method.check_gradients(victim)


def _measured(
    folder: RunFolder, config: EncodeConfig, trained: Trained, began: float, progress: Progress
) -> EncodingRecord:
    victim, data, seed = trained.victim, trained.data, config.seed
    boot = derive_seed(seed, "bootstrap")
    rows = choose_queries(data.query, config.queries, derive_seed(seed, "queries"))
    batch = data.query.rows(rows)
    fitted, moved, flags = _moved(folder, config, trained, progress)
    train_split = data.train
    generator = torch.Generator().manual_seed(derive_seed(seed, "noise images"))
    sets = Sets(
        train_split,
        first_labels(train_split.labels.numpy()),
        batch.inputs["image"],
        first_labels(batch.labels.numpy()),
        torch.rand(batch.inputs["image"].shape, generator=generator),
        moved,
    )
    ways, more = coders_of(trained, sets, config)
    coders = []
    for number, (label, kind, bits, way) in enumerate(ways):
        progress("encoding", number, len(ways))
        coders.append(measured(label, kind, bits, way, sets, boot))
    progress("encoding", len(ways), len(ways))
    coders.append(measured_pixels(sets, boot))
    flags += more
    several = int((data.query.labels.sum(dim=1) > 1).sum())
    if several:
        flags.append(
            Flag(
                "several_labels",
                "info",
                f"{several} of {len(data.query)} queries have several labels: the class of a "
                "picture is the first of them.",
            )
        )
    detection, odd = detected(trained, batch, sets, config, boot)
    flags += odd
    networks = [one.victim for *_, one in ways if isinstance(one, Encoding)]
    coder = next((one for one in networks if isinstance(one, ActivationCode)), None)
    return EncodingRecord(
        schema_=ENCODING,
        command="encode",
        run=run_info(folder.final, seed, str(victim.device), {"all": time.perf_counter() - began}),
        victim=victim_info(trained),
        attack=None if fitted is None else attack_info(*fitted),
        budget=None
        if fitted is None
        else budget_info(fitted[1].budget, eight_bit=config.budget.eight_bit),
        dataset=dataset_info(data),
        train=len(train_split),
        test=len(rows),
        neighbours=NEIGHBOURS,
        chance=float(np.bincount(sets.test_classes).max() / len(rows)),
        sites=[] if coder is None else _sites(coder),
        flags=flags,
        metrics=dict(coders[0].metrics),
        coders=coders,
        detection=detection,
    )


def _moved(
    folder: RunFolder, config: EncodeConfig, trained: Trained, progress: Progress
) -> tuple[tuple[str, FittedAttack, Outcome] | None, Tensor | None, list[Flag]]:
    """The test pictures as the attack moves them on the victim; DHTA unless one is named."""
    table = config.attack
    if table is None:
        if not trained.victim.differentiable:
            text = "The victim has no gradients: no moved pictures, unless --method names an attack"
            return None, None, [Flag("not_attacked", "info", f"{text} on codes alone.")]
        table = MethodConfig(name="dhta")
    alone = resolve(
        AttackConfig.build(
            {
                "seed": config.seed,
                "device": config.device,
                "victim": trained.replay.model_dump(),
                "attack": table.model_dump(),
                "dataset": config.dataset.model_dump(),
                "budget": config.budget.model_dump(),
                "protocol": {"query_modality": "image", "queries": config.queries},
            }
        ).trusting(config.trust_code),
        trained,
    )
    database = str(alone.protocol.database)
    codes = trained.victim.database_codes(trained.data, database)
    fitted = fit_attack(
        alone, trained, AttackData(trained.data, codes, database, "image"), progress
    )
    outcome = attack_queries(folder.part, alone, trained, fitted, progress)
    return (table.name, fitted, outcome), outcome.moved, []


def _sites(victim: ActivationCode) -> list[Site]:
    return [
        Site(name=layer.name, size=layer.size, kept=part.stop - part.start, smooth=layer.smooth)
        for layer, part in victim.sections
    ]
