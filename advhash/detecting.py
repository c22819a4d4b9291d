"""`advhash detect`: detectors of abnormal inputs in a federation, and who gets past them."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash import __version__
from advhash.abnormal import KINDS, abnormal_batch
from advhash.attacking import choose_queries
from advhash.attacks.base import Attack, AttackData
from advhash.budget import Budget
from advhash.config import AttackConfig, DetectConfig, TrainConfig
from advhash.data import Batch, Dataset, Progress, Split, silent
from advhash.defenses.adaptive import AdaptiveSlice
from advhash.defenses.detectors import (
    PROBE_BITS,
    CodeDistance,
    any_code_accepted,
    enumerated,
)
from advhash.detecting_images import detect_images, judges_codes
from advhash.detection import (
    AT_ONE_PERCENT,
    area_under_roc,
    average_precision,
    roc_curve,
    threshold_at,
)
from advhash.errors import UsageError
from advhash.fitting import fit_attack
from advhash.registry import ATTACKS, DETECTORS, VICTIMS
from advhash.reports.inversion import Roc
from advhash.stats import Metric, mean_metric
from advhash.targets import choose_targets
from advhash.training import Trained, derive_seed, plan_victim, train
from advhash.victims.hashvfl import HashVFL

__all__ = ["detect", "roc_rows"]

Floats = npt.NDArray[np.float64]
SCHEMA = "advhash/detect/1"
RATE = 0.05
BLOCK = 256
MOVED = "party0"


def scores(detector: CodeDistance, victim: HashVFL, split_or_batch: Split | Batch) -> Floats:
    """(N,) float64 of all rows."""
    batches = (
        [split_or_batch]
        if isinstance(split_or_batch, Batch)
        else list(split_or_batch.batches(BLOCK))
    )
    found = [detector.score(victim, batch.to(victim.device), MOVED) for batch in batches]
    return torch.cat(found).double().numpy()


def roc_rows(victim: HashVFL, data: Dataset, seed: int, boot: int) -> list[Roc]:
    """ROC of every detector on every kind of abnormal input, for the page of a run."""
    clean = data.query.rows(torch.arange(len(data.query)))
    rows = []
    for kind in KINDS:
        odd = abnormal_batch(kind, victim, data, clean, derive_seed(seed, f"abnormal {kind}"))
        for entry in DETECTORS:
            if not issubclass(entry.build, CodeDistance) or victim.parties < 2:  # type: ignore[arg-type]
                continue
            detector: CodeDistance = DETECTORS.create(entry.name)
            detector.fit(victim, data.validation, MOVED)
            threshold = threshold_at(scores(detector, victim, data.validation), RATE)
            normal, strange = (scores(detector, victim, batch) for batch in (clean, odd))
            fpr, tpr = roc_curve(strange, normal)
            rows.append(
                Roc(
                    inputs=kind,
                    detector=entry.name,
                    auroc=area_under_roc(strange, normal, boot),
                    tpr_at_5fpr=mean_metric(strange > threshold, boot),
                    false_alarms=mean_metric(normal > threshold, boot),
                    fpr=fpr,
                    tpr=tpr,
                )
            )
    return rows


def detect(config: DetectConfig, progress: Progress = silent) -> dict[str, Any]:
    """The JSON document: figures with intervals, thresholds, the adaptive attacker, the probe.

    Raises AdvhashError.
    """
    if config.attack is not None:
        ATTACKS.create(config.attack.name, config.attack.settings)
    if judges_codes(config.detector.name):
        return detect_images(config, train(_training(config), progress), progress)
    detector = DETECTORS.create(config.detector.name, config.detector.settings)
    if not isinstance(detector, CodeDistance):
        raise UsageError(
            f"--detector: expected one that compares codes of parties, got {config.detector.name}"
        )
    if config.other is not None and (config.inputs != "ood" or config.attack is not None):
        raise UsageError("--other names the data of --inputs ood: expected no other inputs")
    began = time.perf_counter()
    training = _training(config)
    planned = plan_victim(training)
    if planned is not None:  # a wrong victim must not cost a training
        detector.of(VICTIMS.create(config.victim.name, planned[1]))
    trained = train(training, progress)
    victim, data, seed = trained.victim, trained.data, config.seed
    boot = derive_seed(seed, "bootstrap")
    own = detector.of(victim)
    detector.fit(own, data.validation, MOVED)
    rows = choose_queries(data.query, config.queries, derive_seed(seed, "queries"))
    clean = data.query.rows(rows)
    labels = clean.labels.argmax(dim=1)
    before = own.predict(clean.inputs).cpu()
    validation = scores(detector, own, data.validation)
    threshold = threshold_at(validation, RATE)
    normal = scores(detector, own, clean)
    odd, wanted, budget = _abnormal(config, trained, own, clean, progress)
    strange = scores(detector, own, odd)
    after = own.predict(odd.inputs).cpu()
    metrics: dict[str, Metric | None] = {
        "auroc": area_under_roc(strange, normal, boot),
        "average_precision": average_precision(strange, normal, boot),
        "tpr_at_5fpr": mean_metric(strange > threshold, boot),
        "false_alarms": mean_metric(normal > threshold, boot),
        "tpr_at_1fpr": None,
        "accuracy": mean_metric((before == labels).double().numpy(), boot),
        "accuracy_abnormal": mean_metric((after == labels).double().numpy(), boot),
    }
    if len(normal) >= AT_ONE_PERCENT and len(validation) >= AT_ONE_PERCENT:
        metrics["tpr_at_1fpr"] = mean_metric(strange > threshold_at(validation, 0.01), boot)
    if wanted is not None:
        reached = after == wanted
        metrics["success"] = mean_metric(reached.double().numpy(), boot)
        accepted = reached.numpy() & (strange <= threshold)
        metrics["success_and_accepted"] = mean_metric(accepted, boot)
    metrics |= _adaptive(config, own, detector, threshold, clean, normal, before, boot, progress)
    fpr, tpr = roc_curve(strange, normal)
    probe = enumerated(own) if own.parties == 2 and own.bits <= PROBE_BITS else None
    return {
        "schema": SCHEMA,
        "command": "detect",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "seed": seed,
        "victim": {"name": trained.card["name"], "settings": trained.card["settings"]},
        "dataset": {"name": data.name, "settings": dict(data.settings)},
        "detector": {"name": config.detector.name, "settings": config.detector.settings},
        "inputs": config.inputs if config.attack is None else config.attack.name,
        "attack": None if config.attack is None else config.attack.model_dump(),
        "budget": None if budget is None else str(budget),
        "clean": len(normal),
        "abnormal": len(strange),
        "validation": len(validation),
        "threshold": threshold,
        "false_alarm_rate": RATE,
        "seconds": round(time.perf_counter() - began, 2),
        "metrics": {
            name: None if metric is None else vars(metric) for name, metric in metrics.items()
        },
        "roc": {"fpr": fpr, "tpr": tpr},
        "probe": probe,
    }


def _training(config: DetectConfig) -> TrainConfig:
    return TrainConfig.build(
        {
            "seed": config.seed,
            "device": config.device,
            "victim": config.victim.model_dump(),
            "dataset": config.dataset.model_dump(),
        }
    ).trusting(config.trust_code)


def _abnormal(
    config: DetectConfig, trained: Trained, victim: HashVFL, clean: Batch, progress: Progress
) -> tuple[Batch, Tensor | None, Budget | None]:
    """The abnormal inputs, the classes an attack wanted, and its budget."""
    data, seed = trained.data, config.seed
    if config.attack is None:
        odd = abnormal_batch(
            config.inputs, victim, data, clean, derive_seed(seed, f"abnormal {config.inputs}"),
            other=config.other,
        )  # fmt: skip
        return odd, None, None
    attack_config = AttackConfig.build(
        {
            "seed": seed,
            "device": config.device,
            "victim": config.victim.model_dump(),
            "attack": config.attack.model_dump(),
            "budget": config.budget.model_dump(),
            "protocol": {"query_modality": MOVED, "database": MOVED},
        }
    )
    seen = AttackData(data, victim.database_codes(data, MOVED), MOVED, MOVED)
    method: Attack = ATTACKS.create(config.attack.name, config.attack.settings)
    if not method.can_move(victim, MOVED):
        raise UsageError(
            f"--method: {config.attack.name} attacks {', '.join(sorted(method.modalities))}; "
            "expected one that moves images, and a victim of images"
        )
    fitted = fit_attack(attack_config, trained, seen, progress)
    targets = None
    if fitted.attack.goal == "targeted":
        chosen = choose_targets(
            "disjoint", clean.labels.numpy(), seen.labels.numpy(), derive_seed(seed, "targets")
        )
        targets = torch.from_numpy(chosen)
    moved = fitted.attack.perturb(
        victim, clean, targets, fitted.budget, MOVED, seed=derive_seed(seed, "batch 0")
    )
    wanted = None if targets is None else targets.long().argmax(dim=1)
    return moved.batch.to("cpu"), wanted, fitted.budget


def _adaptive(
    config: DetectConfig,
    victim: HashVFL,
    detector: CodeDistance,
    threshold: float,
    clean: Batch,
    normal: Floats,
    before: Tensor,
    boot: int,
    progress: Progress,
) -> dict[str, Metric | None]:
    """The share of queries whose prediction becomes wrong and which is accepted, by one party."""
    labels = clean.labels.argmax(dim=1)
    attack = AdaptiveSlice(detector=detector, threshold=threshold)
    budget = config.budget.resolve(Budget("none", math.inf))
    moved = attack.perturb(
        victim, clean, None, budget, MOVED, seed=derive_seed(config.seed, "adaptive")
    )
    after = victim.predict(moved.batch.inputs).cpu()
    passed = scores(detector, victim, moved.batch) <= threshold
    wrong = (after != labels).numpy()
    progress("adaptive attacker", 1, 1)
    found: dict[str, Metric | None] = {
        "accepted_adaptive": mean_metric(wrong & passed, boot),
        "wrong_adaptive": mean_metric(wrong, boot),
        "accepted_clean_errors": mean_metric(
            (before != labels).numpy() & (normal <= threshold), boot
        ),
        "accepted_any_code": None,
    }
    if victim.parties == 2 and victim.bits <= PROBE_BITS:
        with torch.no_grad():
            sent = victim.sent(clean.inputs).cpu()
        bound = any_code_accepted(victim, sent, labels, detector, threshold)
        found["accepted_any_code"] = mean_metric(bound.double().numpy(), boot)
    return found
