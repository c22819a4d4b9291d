"""`advhash detect` of image hashing: who is told from clean queries, and who gets past."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash import __version__
from advhash.attacking import choose_queries
from advhash.attacks.base import Attack, AttackData
from advhash.attacks.baselines import Noise
from advhash.attacks.descent import GradientAttack
from advhash.attacks.gradient import DHTA
from advhash.attacks.hiding import HAG
from advhash.budget import Budget
from advhash.codes import HashCodes
from advhash.config import AttackConfig, DetectConfig, MethodConfig
from advhash.data import Batch, Progress, silent
from advhash.defenses.adaptive_codes import AdaptiveHiding, AdaptiveTargeted, Success
from advhash.defenses.code_detectors import CodeDetector
from advhash.detection import (
    AT_ONE_PERCENT,
    area_under_roc,
    average_precision,
    roc_curve,
    threshold_at,
)
from advhash.errors import UsageError
from advhash.fitting import fit_attack
from advhash.registry import ATTACKS, DETECTORS
from advhash.stats import Metric, mean_metric
from advhash.targets import choose_targets
from advhash.training import Trained, derive_seed
from advhash.victims.base import HashVictim

__all__ = ["code_detectors", "detect_images", "judges_codes", "noise_like"]

Floats = npt.NDArray[np.float64]
SCHEMA = "advhash/detect/1"
RATE = 0.05
EVERY = "all"  # --detector all: one table, as the attacked images are the costly part
DEFAULT_ATTACK = "prosgan"
MOVED = "image"


def code_detectors() -> list[str]:
    """The detectors that judge codes of any victim of images, not the parties of a federation."""
    return [one.name for one in DETECTORS if issubclass(one.build, CodeDetector)]  # type: ignore[arg-type]


def judges_codes(name: str) -> bool:
    """Whether a name of `--detector` is one of `code_detectors`, or stands for all of them."""
    return name == EVERY or name in code_detectors()


@dataclass(frozen=True)
class _Inputs:
    """Clean queries, what an attack made of them, and noise of the L2 size of each."""

    clean: Batch
    moved: Batch
    noisy: Batch
    targets: Tensor | None
    data: AttackData
    attack: Attack
    budget: Budget
    success: Success
    moved_codes: HashCodes
    clean_codes: HashCodes


def detect_images(
    config: DetectConfig, trained: Trained, progress: Progress = silent
) -> dict[str, Any]:
    """The JSON document: `metrics` of the detector, or `detectors`, a table of all of them.

    Raises AdvhashError.
    """
    every = config.detector.name == EVERY
    if every and config.detector.settings:
        raise UsageError("--detector all takes no settings: name one detector to set its own")
    names = code_detectors() if every else [config.detector.name]
    if config.other is not None or "inputs" in config.model_fields_set:
        raise UsageError(
            "--inputs and --other make abnormal slices of a federation: expected neither here, but "
            "--method, or nothing for unbounded prosgan"
        )
    victim, data, seed = trained.victim, trained.data, config.seed
    victim.check_modality(MOVED)
    began = time.perf_counter()
    settings = config.detector.settings
    built = {
        name: DETECTORS.create(name, settings).fit(victim, data.database, MOVED) for name in names
    }
    inputs = _attacked(config, trained, progress)
    found = {}
    for number, (name, detector) in enumerate(built.items()):
        found[name] = _figures(detector, trained, inputs, seed)
        progress("detectors", number + 1, len(built))
    document = {
        "schema": SCHEMA,
        "command": "detect",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "seed": seed,
        "victim": {"name": trained.card["name"], "settings": trained.card["settings"]},
        "defenses": list(trained.defenses),
        "dataset": {"name": data.name, "settings": dict(data.settings)},
        "detector": {"name": config.detector.name, "settings": settings},
        "inputs": DEFAULT_ATTACK if config.attack is None else config.attack.name,
        "attack": None if config.attack is None else config.attack.model_dump(),
        "budget": str(inputs.budget),
        "clean": len(inputs.clean),
        "abnormal": len(inputs.moved),
        "validation": len(data.validation),
        "false_alarm_rate": RATE,
        "seconds": round(time.perf_counter() - began, 2),
    }
    if every:
        return {**document, "threshold": None, "detectors": found}
    return {**document, **found[names[0]]}


def _attacked(config: DetectConfig, trained: Trained, progress: Progress) -> _Inputs:
    victim, data, seed = trained.victim, trained.data, config.seed
    chosen_attack = config.attack or MethodConfig(name=DEFAULT_ATTACK)
    name, settings = chosen_attack.name, chosen_attack.settings
    attack_config = AttackConfig.build(
        {
            "seed": seed,
            "device": config.device,
            "victim": config.victim.model_dump(),
            "attack": chosen_attack.model_dump(),
            "budget": config.budget.model_dump(),
            "protocol": {"query_modality": MOVED, "database": victim.default_database},
        }
    )
    method: Attack = ATTACKS.create(name, settings)
    if not method.can_move(victim, MOVED):
        raise UsageError(f"--method: {name} does not move images; expected one that does")
    method.check_gradients(victim)
    seen = AttackData(
        data, victim.database_codes(data, victim.default_database), victim.default_database, MOVED
    )
    fitted = fit_attack(attack_config, trained, seen, progress)
    clean = data.query.rows(
        choose_queries(data.query, config.queries, derive_seed(seed, "queries"))
    )
    targets = None
    if fitted.attack.goal == "targeted":
        chosen = choose_targets(
            "disjoint", clean.labels.numpy(), seen.labels.numpy(), derive_seed(seed, "targets")
        )
        targets = torch.from_numpy(chosen)
    moved = fitted.attack.perturb(
        victim, clean, targets, fitted.budget, MOVED, seed=derive_seed(seed, "batch 0")
    )
    own = victim.encode(clean.inputs[MOVED], MOVED)
    labels = clean.labels if targets is None else targets
    batch = moved.batch.to("cpu")
    return _Inputs(
        clean,
        batch,
        noise_like(victim, clean, batch, derive_seed(seed, "noise")),
        targets,
        seen,
        fitted.attack,
        fitted.budget,
        Success(seen, labels, own, goal=fitted.attack.goal),
        moved.codes,
        own,
    )


def noise_like(victim: HashVictim, clean: Batch, moved: Batch, seed: int) -> Batch:
    """Noise in a random direction, of each image as long in L2 as its attack before clipping."""
    far = (moved.inputs[MOVED] - clean.inputs[MOVED]).flatten(1).norm(dim=1).tolist()
    parts = []
    for row, size in enumerate(far):
        one = Batch(
            {name: values[row : row + 1] for name, values in clean.inputs.items()},
            clean.labels[row : row + 1],
            clean.index[row : row + 1],
        )
        if size > 0:
            budget = Budget("l2", size)
            one = Noise().perturb(victim, one, None, budget, MOVED, seed=seed + row).batch.to("cpu")
        parts.append(one.inputs[MOVED])
    return Batch({**clean.inputs, MOVED: torch.cat(parts)}, clean.labels, clean.index)


def _figures(
    detector: CodeDetector, trained: Trained, inputs: _Inputs, seed: int
) -> dict[str, Any]:
    """Threshold, metrics with intervals and ROC of one fitted detector."""
    victim, boot = trained.victim, derive_seed(seed, "bootstrap")
    rows = trained.data.validation
    batches = (rows.rows(torch.arange(len(rows))), inputs.clean, inputs.moved, inputs.noisy)
    validation, normal, strange, noisy = (
        detector.score(victim, one, MOVED).double().numpy() for one in batches
    )
    threshold = threshold_at(validation, RATE)
    reached, accepted = inputs.success.of(inputs.moved_codes).numpy(), strange <= threshold
    before = inputs.success.of(inputs.clean_codes).numpy() & (normal <= threshold)
    metrics: dict[str, Metric | None] = {
        "accepted_adaptive": None,
        "success_and_accepted": mean_metric(reached & accepted, boot),
        "success": mean_metric(reached, boot),
        "success_adaptive": None,
        "auroc": area_under_roc(strange, normal, boot),
        "auroc_noise": area_under_roc(strange, noisy, boot),
        "average_precision": average_precision(strange, normal, boot),
        "tpr_at_5fpr": mean_metric(strange > threshold, boot),
        "tpr_at_1fpr": None,
        "false_alarms": mean_metric(normal > threshold, boot),
        "flagged_noise": mean_metric(noisy > threshold, boot),
        "success_and_accepted_clean": mean_metric(before, boot),
    }
    if min(len(normal), len(validation)) >= AT_ONE_PERCENT:
        metrics["tpr_at_1fpr"] = mean_metric(strange > threshold_at(validation, 0.01), boot)
    if victim.differentiable:
        won, both = _adaptive(detector, trained, inputs, threshold, validation, seed)
        metrics["success_adaptive"] = mean_metric(won, boot)
        metrics["accepted_adaptive"] = mean_metric(both, boot)
    fpr, tpr = roc_curve(strange, normal)
    return {
        "threshold": threshold,
        "metrics": {name: None if one is None else vars(one) for name, one in metrics.items()},
        "roc": {"fpr": fpr, "tpr": tpr},
    }


def _adaptive(
    detector: CodeDetector,
    trained: Trained,
    inputs: _Inputs,
    threshold: float,
    validation: Floats,
    seed: int,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Of each query, whether the adaptive attacker succeeds, and is accepted as well."""
    targeted = inputs.targets is not None
    plain: GradientAttack = DHTA() if targeted else HAG()
    attack = (AdaptiveTargeted if targeted else AdaptiveHiding)(
        attack=plain,
        detector=detector,
        threshold=threshold,
        first=inputs.attack,
        spread=max(float(validation.std()), 1e-6),
    )
    attack.fit(trained.victim, inputs.data, inputs.budget)
    moved = attack.perturb(
        trained.victim, inputs.clean, inputs.targets, inputs.budget, MOVED,
        seed=derive_seed(seed, "batch 0"),
    )  # fmt: skip
    score = detector.score(trained.victim, moved.batch, MOVED).numpy()
    reached = inputs.success.of(moved.codes).numpy()
    return reached, reached & (score <= threshold)
