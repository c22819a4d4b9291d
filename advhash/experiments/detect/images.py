"""`advhash detect` of image hashing: who is told from clean queries, and who gets past."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash import __version__
from advhash.attacks.base import Attack, AttackData
from advhash.attacks.black_box.baselines import Noise
from advhash.attacks.gradient.descent import GradientAttack
from advhash.attacks.gradient.hiding import HAG
from advhash.attacks.gradient.targeted import DHTA
from advhash.budget import Budget
from advhash.codes.packed import HashCodes
from advhash.data.dataset import Batch, Dataset, Progress, silent
from advhash.defenses.detectors.adaptive_images import AdaptiveHiding, AdaptiveTargeted, Success
from advhash.defenses.detectors.image_codes import CodeDetector
from advhash.errors import ConfigError, UsageError
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.config import AttackConfig, MethodConfig
from advhash.experiments.detect.config import DetectConfig
from advhash.experiments.detect.inputs import PAIRED, abnormal_images, other_data
from advhash.experiments.prepare.fit_attack import fit_attack
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained
from advhash.measures.intervals import Metric, rate_metric
from advhash.measures.roc import (
    AT_ONE_PERCENT,
    area_under_roc,
    average_precision,
    roc_curve,
    threshold_at,
)
from advhash.registry import ATTACKS, DETECTORS
from advhash.targets import choose_targets
from advhash.victims.base import HashVictim
from advhash.victims.federated.hashvfl import HashVFL

__all__ = [
    "check_images",
    "code_detectors",
    "described",
    "detect_images",
    "judges_codes",
    "noise_like",
]

Floats = npt.NDArray[np.float64]
SCHEMA = "advhash/detect/1"
RATE = 0.05
EVERY = "all"  # --detector all: one table, as the attacked images are the costly part
BY_DEFAULT = MethodConfig(name="prosgan")  # the attack where neither attack nor inputs are named
MOVED = "image"
STEPS_ALONE = "--adaptive: expected steps alone for a hash of images"


def code_detectors() -> list[str]:
    """The detectors that judge codes of any victim of images, not the parties of a federation."""
    return [one.name for one in DETECTORS if issubclass(one.build, CodeDetector)]  # type: ignore[arg-type]


def judges_codes(name: str) -> bool:
    """Whether a name of `--detector` is one of `code_detectors`, or stands for all of them."""
    return name == EVERY or name in code_detectors()


@dataclass(frozen=True)
class _Inputs:
    """Clean queries and an abnormal input for each.

    kind:   "mixed", "noise", "ood" or the name of the attack
    attack: the fitted attack that moved them; None where nobody attacked
    codes:  of the moved queries, None likewise; noisy: noise of the L2 size of each attack
    targets, success: of the adaptive attacker, and of the attack where there is one
    """

    kind: str
    clean: Batch
    moved: Batch
    noisy: Batch | None
    targets: Tensor | None
    data: AttackData
    attack: Attack | None
    budget: Budget
    success: Success
    codes: HashCodes | None
    clean_codes: HashCodes


def check_images(
    config: DetectConfig, given: MethodConfig, victim: HashVictim, data: Dataset
) -> None:
    """Refuse, before any training, what fits no hash of images.

    victim, data: as `foresee` gives them. Raises UsageError, ConfigError, UnknownName.
    """
    if MOVED not in victim.bounds:
        federation = isinstance(victim, HashVFL)
        raise UsageError(
            f"--detector {given.name} judges codes of pictures: expected a victim of images"
            + (", or code-max, code-sum or code-between for a federation" if federation else "")
        )
    if given.name == EVERY and given.settings:
        raise UsageError("--detector all takes no settings: name one detector to set its own")
    if given.name != EVERY:
        detector: CodeDetector = DETECTORS.create(given.name, given.settings)
        detector.check(victim, detector.fitted_on(data))
    more = config.adaptive.model_dump(exclude_none=True)
    if set(more) - {"steps"}:
        raise ConfigError(f"{STEPS_ALONE}, got {', '.join(more)}")
    if more.get("steps", 1) < 1:
        raise ConfigError(f"{STEPS_ALONE}, at least 1, got {more['steps']}")
    if config.inputs is not None:
        config.budget.resolve(Budget("none", math.inf))
        if config.inputs == "ood":
            other_data(data, tuple(data.query.inputs[MOVED].shape[1:]), config.other)
        return
    method = _method(config)
    attack: Attack = ATTACKS.create(method.name, method.settings)
    if not attack.can_move(victim, MOVED):
        raise UsageError(f"--method: {method.name} does not move images; expected one that does")
    attack.check_gradients(victim)
    attack.check_budget(config.budget.resolve(attack.default_budget))


def described(method: MethodConfig) -> dict[str, Any]:
    """A detector or an attack as the document has it."""
    return {"name": method.name, "settings": method.settings}


def _method(config: DetectConfig) -> MethodConfig:
    return config.attack or BY_DEFAULT


def detect_images(
    config: DetectConfig, given: MethodConfig, trained: Trained, progress: Progress = silent
) -> dict[str, Any]:
    """The JSON document: `metrics` of the detector, or `detectors`, a table of all of them.

    Raises AdvhashError.
    """
    victim, data, seed = trained.victim, trained.data, config.seed
    every = given.name == EVERY
    names = code_detectors() if every else [given.name]
    detectors: dict[str, CodeDetector] = {
        name: DETECTORS.create(name, given.settings) for name in names
    }
    if every:
        detectors = {name: one for name, one in detectors.items() if one.listed(victim)}
    began = time.perf_counter()
    for detector in detectors.values():
        detector.fit(victim, detector.fitted_on(data), MOVED)
    inputs = (_attacked if config.inputs is None else _odd)(config, trained, progress)
    found = {}
    for number, (name, detector) in enumerate(detectors.items()):
        found[name] = _figures(detector, trained, inputs, config)
        progress("detectors", number + 1, len(detectors))
    document = {
        "schema": SCHEMA,
        "command": "detect",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "seed": seed,
        "victim": {"name": trained.card["name"], "settings": trained.card["settings"]},
        "defenses": list(trained.defenses),
        "dataset": {"name": data.name, "settings": dict(data.settings)},
        "detector": described(given),
        "inputs": inputs.kind,
        "attack": None if config.inputs else described(_method(config)),
        "budget": str(inputs.budget),
        "clean": len(inputs.clean),
        "abnormal": len(inputs.moved),
        "validation": len(data.validation),
        "false_alarm_rate": RATE,
        "flags": trained.card.get("flags", []),
        "seconds": round(time.perf_counter() - began, 2),
    }
    if every:
        return {**document, "threshold": None, "detectors": found}
    return {**document, **found[given.name]}


def _queries(config: DetectConfig, trained: Trained) -> tuple[Batch, AttackData, HashCodes]:
    """The clean queries, the database as the victim serves it, the codes of the queries."""
    victim, data, seed = trained.victim, trained.data, config.seed
    served = victim.default_database
    seen = AttackData(data, victim.database_codes(data, served), served, MOVED)
    rows = choose_queries(data.query, config.queries, derive_seed(seed, "queries"))
    clean = data.query.rows(rows)
    return clean, seen, victim.encode(clean.inputs[MOVED], MOVED)


def _targets(clean: Batch, seen: AttackData, seed: int) -> Tensor:
    chosen = choose_targets(
        "disjoint", clean.labels.numpy(), seen.labels.numpy(), derive_seed(seed, "targets")
    )
    return torch.from_numpy(chosen)


def _attacked(config: DetectConfig, trained: Trained, progress: Progress) -> _Inputs:
    """Abnormal are the queries as an attack moves them."""
    victim, seed = trained.victim, config.seed
    method = _method(config)
    attack_config = AttackConfig.build(
        {
            "seed": seed,
            "device": config.device,
            "victim": config.victim.model_dump(),
            "attack": method.model_dump(),
            "budget": config.budget.model_dump(),
            "protocol": {"query_modality": MOVED, "database": victim.default_database},
        }
    )
    clean, seen, own = _queries(config, trained)
    fitted = fit_attack(attack_config, trained, seen, progress)
    targets = _targets(clean, seen, seed) if fitted.attack.goal == "targeted" else None
    moved = fitted.attack.perturb(
        victim, clean, targets, fitted.budget, MOVED, seed=derive_seed(seed, "batch 0")
    )
    batch = moved.batch.to("cpu")
    labels = clean.labels if targets is None else targets
    return _Inputs(
        method.name,
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


def _odd(config: DetectConfig, trained: Trained, progress: Progress) -> _Inputs:
    """Abnormal are mixed, noisy or foreign pictures; the adaptive attacker is targeted."""
    kind, seed = str(config.inputs), config.seed
    clean, seen, own = _queries(config, trained)
    drawn = derive_seed(seed, f"abnormal {kind}")
    odd = abnormal_images(kind, trained.data, clean, drawn, other=config.other)
    targets = _targets(clean, seen, seed)
    budget = config.budget.resolve(Budget("none", math.inf))
    success = Success(seen, targets, own, goal="targeted")
    return _Inputs(kind, clean, odd, None, targets, seen, None, budget, success, None, own)


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
    detector: CodeDetector, trained: Trained, inputs: _Inputs, config: DetectConfig
) -> dict[str, Any]:
    """Threshold, metrics with intervals and ROC of one fitted detector."""
    victim, boot = trained.victim, derive_seed(config.seed, "bootstrap")
    rows = trained.data.validation
    batches = (rows.rows(torch.arange(len(rows))), inputs.clean, inputs.moved)
    validation, normal, strange = (
        detector.score(victim, one, MOVED).double().numpy() for one in batches
    )
    threshold = threshold_at(validation, RATE)
    paired = inputs.attack is not None or inputs.kind in PAIRED
    before = inputs.success.of(inputs.clean_codes).numpy() & (normal <= threshold)
    metrics: dict[str, Metric | None] = {
        "accepted_adaptive": None,
        "success_and_accepted": None,
        "success": None,
        "success_adaptive": None,
        "auroc": area_under_roc(strange, normal, boot, paired=paired),
        "auroc_noise": None,
        "average_precision": average_precision(strange, normal, boot, paired=paired),
        "tpr_at_5fpr": rate_metric(strange > threshold, boot),
        "tpr_at_1fpr": None,
        "false_alarms": rate_metric(normal > threshold, boot),
        "flagged_noise": None,
        "success_and_accepted_clean": rate_metric(before, boot),
    }
    if inputs.codes is not None:
        reached = inputs.success.of(inputs.codes).numpy()
        metrics["success"] = rate_metric(reached, boot)
        metrics["success_and_accepted"] = rate_metric(reached & (strange <= threshold), boot)
    if inputs.noisy is not None:
        noisy = detector.score(victim, inputs.noisy, MOVED).double().numpy()
        metrics["auroc_noise"] = area_under_roc(strange, noisy, boot, paired=paired)
        metrics["flagged_noise"] = rate_metric(noisy > threshold, boot)
    if min(len(normal), len(validation)) >= AT_ONE_PERCENT:
        metrics["tpr_at_1fpr"] = rate_metric(strange > threshold_at(validation, 0.01), boot)
    adaptive = None
    if victim.differentiable:
        attack = adaptive_attack(detector, inputs, threshold, validation, config)
        adaptive = {"steps": attack.steps, "step": attack.step, "weights": list(attack.weights)}
        won, both = _adaptive(attack, trained, inputs, config)
        metrics["success_adaptive"] = rate_metric(won, boot)
        metrics["accepted_adaptive"] = rate_metric(both, boot)
    fpr, tpr = roc_curve(strange, normal)
    return {
        "threshold": threshold,
        "adaptive": adaptive,
        "metrics": {name: None if one is None else vars(one) for name, one in metrics.items()},
        "roc": {"fpr": fpr, "tpr": tpr},
    }


def adaptive_attack(
    detector: CodeDetector,
    inputs: _Inputs,
    threshold: float,
    validation: Floats,
    config: DetectConfig,
) -> AdaptiveTargeted:
    targeted = inputs.targets is not None
    plain: GradientAttack = DHTA() if targeted else HAG()
    return (AdaptiveTargeted if targeted else AdaptiveHiding)(
        attack=plain,
        detector=detector,
        threshold=threshold,
        first=inputs.attack,
        spread=max(float(validation.std()), 1e-6),
        **config.adaptive.model_dump(exclude_none=True),
    )


def _adaptive(
    attack: AdaptiveTargeted, trained: Trained, inputs: _Inputs, config: DetectConfig
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Of each query, whether the adaptive attacker succeeds, and is accepted as well."""
    attack.fit(trained.victim, inputs.data, inputs.budget)
    moved = attack.perturb(
        trained.victim, inputs.clean, inputs.targets, inputs.budget, MOVED,
        seed=derive_seed(config.seed, "batch 0"),
    )  # fmt: skip
    score = attack.detector.score(trained.victim, moved.batch, MOVED).numpy()
    reached = inputs.success.of(moved.codes).numpy()
    return reached, reached & (score <= attack.threshold)
