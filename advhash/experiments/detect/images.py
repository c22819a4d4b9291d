"""`advhash detect` of image hashing: who is told from clean queries, and who gets past."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.attacks.base import Attack, AttackData, Goal
from advhash.attacks.black_box.baselines import Noise
from advhash.attacks.gradient.descent import GradientAttack
from advhash.attacks.gradient.hiding import HAG
from advhash.attacks.gradient.targeted import DHTA
from advhash.budget import Budget
from advhash.codes.packed import HashCodes
from advhash.data.dataset import Batch, Dataset
from advhash.defenses.detectors.adaptive_images import (
    STEPS,
    AdaptiveHiding,
    AdaptiveTargeted,
    Success,
)
from advhash.defenses.detectors.image_codes import CodeDetector
from advhash.errors import ConfigError, UsageError
from advhash.experiments.attack.changes import Change, write_change
from advhash.experiments.config import MethodConfig
from advhash.experiments.detect.config import AdaptiveConfig, DetectConfig
from advhash.experiments.detect.inputs import PAIRED, abnormal_images, other_data
from advhash.experiments.detect.protocol import (
    UNBOUNDED,
    Planned,
    clean_queries,
    disjoint_targets,
    kept_batch,
    kept_batch_again,
    written,
)
from advhash.experiments.experiment import Place
from advhash.experiments.prepare.fit_attack import FittedAttack
from advhash.experiments.prepare.planned import PlannedVictim
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained
from advhash.measures.intervals import Metric, rate_metric
from advhash.measures.roc import (
    DeployedRule,
    area_under_roc,
    average_precision,
    operating_metrics,
    roc_curve,
)
from advhash.registry import ATTACKS, DETECTORS
from advhash.storage.cells import Result
from advhash.victims.base import HashVictim
from advhash.victims.federated.hashvfl import HashVFL

Floats = npt.NDArray[np.float64]
EVERY = "all"  # --detector all: one table, as the attacked images are the costly part
BY_DEFAULT = MethodConfig(name="prosgan")  # the attack where neither attack nor inputs are named
MOVED = "image"
SHOWN = 3  # abnormal inputs on a page
STEPS_ALONE = "--adaptive: expected steps alone for a hash of images"


def code_detectors() -> list[str]:
    """The detectors that judge codes of any victim of images, not the parties of a federation."""
    return [entry.name for entry in DETECTORS if issubclass(entry.build, CodeDetector)]  # type: ignore[arg-type]


def judges_codes(name: str) -> bool:
    """Whether a name of `--detector` is one of `code_detectors`, or stands for all of them."""
    return name == EVERY or name in code_detectors()


@dataclass(frozen=True)
class ImageInputs:
    """Clean queries and an abnormal input for each.

    attack: the fitted attack that moved them; None where nobody attacked
    codes:  of the moved queries, None likewise; noisy: noise of the L2 size of each attack
    targets, success: of the adaptive attacker, and of the attack where there is one
    """

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

    @classmethod
    def read(cls, config: DetectConfig, place: Place, made: Result) -> ImageInputs:
        """What `move_images` made, with what judges it."""
        trained: Trained = place.part("victim")
        victim, data, kept = trained.victim, trained.data, dict(made.tensors)
        served = victim.default_database
        seen = AttackData(data, place.part("codes")[served], served, MOVED)
        clean = clean_queries(config, data)
        own = victim.encode(clean.inputs[MOVED], MOVED)
        fitted: FittedAttack | None = None if config.attack is None else place.part("fit")
        targets = _targets(config, fitted, data)
        goal: Goal = "targeted" if fitted is None else fitted.attack.goal
        noisy, codes = kept.pop("noisy", None), kept.pop("codes", None)
        return cls(
            clean=clean,
            moved=kept_batch_again(kept, clean),
            noisy=None if noisy is None else _with(clean, noisy),
            targets=targets,
            data=seen,
            attack=None if fitted is None else fitted.attack,
            budget=config.budget.resolve(UNBOUNDED),
            success=Success(seen, clean.labels if targets is None else targets, own, goal=goal),
            codes=None if codes is None else HashCodes.pack(codes.numpy()),
            clean_codes=own,
        )


def plan_images(config: DetectConfig, given: MethodConfig, known: PlannedVictim) -> Planned:
    """One detector of a hash of images, or all.

    Raises UsageError, ConfigError, UnknownName, before any training, for what fits no hash of
    images.
    """
    victim, data, other = known.victim, known.data, None
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
        given = written(DETECTORS, given)
    more = config.adaptive.model_dump(exclude_none=True)
    if set(more) - {"steps"}:
        raise ConfigError(f"{STEPS_ALONE}, got {', '.join(more)}")
    if more.get("steps", 1) < 1:
        raise ConfigError(f"{STEPS_ALONE}, at least 1, got {more['steps']}")
    update: dict[str, Any] = {
        "detector": given,
        "adaptive": AdaptiveConfig(steps=more.get("steps", STEPS)),
    }
    if config.inputs is not None:
        update["budget"] = config.budget.written(UNBOUNDED)
        if config.inputs == "ood":
            shape = tuple(data.query.tensor(MOVED).shape[1:])
            other = other_data(data, shape, config.other)
            update["other"] = config.other or other.name
        disjoint_targets(config, data)  # refuses queries for which no target is left
    else:
        method = written(ATTACKS, config.attack or BY_DEFAULT)
        attack: Attack = ATTACKS.create(method.name, method.settings)
        if not attack.can_move(victim, MOVED):
            raise UsageError(
                f"--method: {method.name} does not move images; expected one that does"
            )
        attack.check_gradients(victim)
        attack.check_data(data)
        attack.check_budget(config.budget.resolve(attack.default_budget))
        if attack.goal == "targeted":
            disjoint_targets(config, data)
        update |= {"attack": method, "budget": config.budget.written(attack.default_budget)}
    fingerprint = None if other is None else other.fingerprint()
    detectors, served = _each(given, victim), victim.default_database
    return Planned(config.model_copy(update=update), detectors, MOVED, served, fingerprint)


def _each(given: MethodConfig, victim: HashVictim) -> list[MethodConfig]:
    """The detectors that a name stands for."""
    if given.name != EVERY:
        return [given]
    listed = [name for name in code_detectors() if DETECTORS.create(name).listed(victim)]
    return [written(DETECTORS, MethodConfig(name=name)) for name in listed]


def move_images(config: DetectConfig, place: Place) -> Result:
    """The abnormal inputs; of an attack also their codes, and noise of the same L2."""
    trained: Trained = place.part("victim")
    victim, data, seed = trained.victim, trained.data, config.seed
    clean, budget = clean_queries(config, data), str(config.budget.resolve(UNBOUNDED))
    if config.attack is None:  # mixed, noisy or foreign pictures
        kind = str(config.inputs)
        drawn = derive_seed(seed, f"abnormal {kind}")
        odd = abnormal_images(kind, data, clean, drawn, other=config.other)
        return Result({"budget": budget}, kept_batch(odd))
    fitted: FittedAttack = place.part("fit")
    targets = _targets(config, fitted, data)
    moved = fitted.attack.perturb(
        victim, clean, targets, fitted.budget, MOVED, seed=derive_seed(seed, "batch 0")
    )
    batch = moved.batch.to("cpu")
    noisy = noise_like(victim, clean, batch, derive_seed(seed, "noise"))
    more = {"codes": torch.from_numpy(moved.codes.unpack()), "noisy": noisy.inputs[MOVED]}
    return Result({"budget": budget}, kept_batch(batch) | more)


def _targets(config: DetectConfig, fitted: FittedAttack | None, data: Dataset) -> Tensor | None:
    """(B,C) target labels; None of an attack that has none. The adaptive attacker has them."""
    if fitted is not None and fitted.attack.goal != "targeted":
        return None
    return disjoint_targets(config, data)


def shown_changes(
    config: DetectConfig, data: Dataset, made: Result, folder: Path
) -> list[dict[str, Any]]:
    """The first SHOWN clean queries and what was made of them, written into a run folder.

    Nothing where abnormal inputs are not made of the clean ones. Raises StorageError.
    """
    if config.attack is None and config.inputs not in PAIRED:
        return []
    clean = clean_queries(config, data)
    moved = kept_batch_again(made.tensors, clean)
    shown = []
    for number, row in enumerate(clean.index[:SHOWN].tolist()):
        change = Change.of_tensors(*(batch.inputs[MOVED][number] for batch in (clean, moved)))
        name = data.query.names[row] if data.query.names else f"query {row}"
        files = write_change(folder, str(number), change.images)
        shown.append({"name": name, "linf": change.linf, "l2": change.l2, "files": files})
    return shown


def _with(batch: Batch, images: Tensor) -> Batch:
    return Batch({**batch.inputs, MOVED: images}, batch.labels, batch.index)


def noise_like(victim: HashVictim, clean: Batch, moved: Batch, seed: int) -> Batch:
    """Noise in a random direction, of each image as long in L2 as its attack before clipping."""
    far = (moved.inputs[MOVED] - clean.inputs[MOVED]).flatten(1).norm(dim=1).tolist()
    parts = []
    for row, size in enumerate(far):
        single = Batch(
            {name: values[row : row + 1] for name, values in clean.inputs.items()},
            clean.labels[row : row + 1],
            clean.index[row : row + 1],
        )
        if size > 0:
            budget = Budget("l2", size)
            noisy = Noise().perturb(victim, single, None, budget, MOVED, seed=seed + row)
            single = noisy.batch.to("cpu")
        parts.append(single.inputs[MOVED])
    return _with(clean, torch.cat(parts))


def judge_images(config: DetectConfig, given: MethodConfig, place: Place) -> dict[str, Any]:
    """Rule, metrics with intervals and ROC of one detector, and who gets past it."""
    trained: Trained = place.part("victim")
    inputs: ImageInputs = place.part("inputs")
    victim, boot = trained.victim, derive_seed(config.seed, "bootstrap")
    detector: CodeDetector = DETECTORS.create(given.name, given.settings)
    detector.fit(victim, detector.fitted_on(trained.data), MOVED)
    rows = trained.data.validation
    batches = (rows.rows(torch.arange(len(rows))), inputs.clean, inputs.moved)
    validation, normal, strange = (
        detector.score(victim, batch, MOVED).double().numpy() for batch in batches
    )
    paired = inputs.attack is not None or config.inputs in PAIRED
    rule, operating = operating_metrics(validation, strange, normal, boot, paired=paired)
    before = inputs.success.of(inputs.clean_codes).numpy() & rule.accepts(normal)
    metrics: dict[str, Metric | None] = {
        **operating,
        "accepted_adaptive": None,
        "success_and_accepted": None,
        "success": None,
        "success_adaptive": None,
        "auroc": area_under_roc(strange, normal, boot, paired=paired),
        "auroc_noise": None,
        "average_precision": average_precision(strange, normal, boot, paired=paired),
        "flagged_noise": None,
        "success_and_accepted_clean": rate_metric(before, boot),
    }
    if inputs.codes is not None:
        reached = inputs.success.of(inputs.codes).numpy()
        metrics["success"] = rate_metric(reached, boot)
        metrics["success_and_accepted"] = rate_metric(reached & rule.accepts(strange), boot)
    if inputs.noisy is not None:
        noisy = detector.score(victim, inputs.noisy, MOVED).double().numpy()
        metrics["auroc_noise"] = area_under_roc(strange, noisy, boot, paired=paired)
        metrics["flagged_noise"] = rate_metric(rule.flags(noisy), boot)
    adaptive = None
    if victim.differentiable:
        attack = adaptive_attack(detector, inputs, rule, validation, config)
        adaptive = {"steps": attack.steps, "step": attack.step, "weights": list(attack.weights)}
        won, both = _adaptive(attack, trained, inputs, rule, config)
        metrics["success_adaptive"] = rate_metric(won, boot)
        metrics["accepted_adaptive"] = rate_metric(both, boot)
    fpr, tpr = roc_curve(strange, normal)
    return {
        "threshold": rule.threshold,
        "highest": detector.highest(victim),
        "flagged": rule.flags(strange)[:SHOWN].tolist(),
        "adaptive": adaptive,
        "metrics": {
            name: None if metric is None else vars(metric) for name, metric in metrics.items()
        },
        "roc": {"fpr": fpr, "tpr": tpr},
    }


def adaptive_attack(
    detector: CodeDetector,
    inputs: ImageInputs,
    rule: DeployedRule,
    validation: Floats,
    config: DetectConfig,
) -> AdaptiveTargeted:
    targeted = inputs.targets is not None
    plain: GradientAttack = DHTA() if targeted else HAG()
    return (AdaptiveTargeted if targeted else AdaptiveHiding)(
        attack=plain,
        detector=detector,
        threshold=rule.threshold,
        first=inputs.attack,
        spread=max(float(validation.std()), 1e-6),
        **config.adaptive.model_dump(exclude_none=True),
    )


def _adaptive(
    attack: AdaptiveTargeted,
    trained: Trained,
    inputs: ImageInputs,
    rule: DeployedRule,
    config: DetectConfig,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Whether the adaptive attacker succeeds with each query, and is accepted as well."""
    attack.fit(trained.victim, inputs.data, inputs.budget)
    moved = attack.perturb(
        trained.victim, inputs.clean, inputs.targets, inputs.budget, MOVED,
        seed=derive_seed(config.seed, "batch 0"),
    )  # fmt: skip
    score = attack.detector.score(trained.victim, moved.batch, MOVED).double().numpy()
    reached = inputs.success.of(moved.codes).numpy()
    return reached, reached & rule.accepts(score)
