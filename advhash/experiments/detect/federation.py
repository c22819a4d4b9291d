"""`advhash detect` of a federation: whose slices are told from clean ones, and who gets past."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.attacks.base import Attack
from advhash.compute.progress import Progress
from advhash.data.dataset import Batch, Dataset, Split
from advhash.defenses.detectors.adaptive_federated import AdaptiveSlice
from advhash.defenses.detectors.federated import (
    PROBE_BITS,
    CodeDistance,
    any_code_accepted,
    enumerated,
    replay_scores,
)
from advhash.errors import ConfigError, UsageError
from advhash.experiments.config import MethodConfig
from advhash.experiments.detect.config import AdaptiveConfig, DetectConfig
from advhash.experiments.detect.inputs import (
    KINDS,
    PAIRED,
    abnormal_batch,
    check_inputs,
    other_data,
)
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
from advhash.measures.intervals import Metric, rate_metric, single_metric
from advhash.measures.roc import (
    DeployedRule,
    area_under_roc,
    average_precision,
    operating_metrics,
    roc_curve,
    rule_metrics,
)
from advhash.registry import ATTACKS, DETECTORS
from advhash.reports.inversion.record import Roc
from advhash.storage.cells import Result
from advhash.victims.base import HashVictim
from advhash.victims.federated.hashvfl import HashVFL
from advhash.victims.training.descent import seeded

Floats = npt.NDArray[np.float64]
BLOCK = 256
MOVED = "party0"
BY_DEFAULT = "mixed"
LEVELS = 51  # thresholds of the acceptance curve at most


def judged(
    detector: CodeDistance, victim: HashVFL, rows: Split | Batch, seed: int
) -> tuple[Floats, Tensor]:
    """(N,) scores and (N,) predictions of one message a row; noise is drawn by the seed."""
    scores, predicted = [], []
    with seeded(seed), torch.no_grad():
        for batch in [rows] if isinstance(rows, Batch) else rows.batches(BLOCK):
            inspected = detector.inspect(victim, victim.sent(batch.to(victim.device).inputs))
            scores.append(inspected[0].cpu())
            predicted.append(inspected[1].cpu())
    return torch.cat(scores).double().numpy(), torch.cat(predicted)


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
            validation, normal, strange = (
                judged(detector, victim, rows, derive_seed(seed, f"noise {name}"))[0]
                for name, rows in (("validation", data.validation), ("clean", clean), (kind, odd))
            )
            rule, paired = DeployedRule.set_on(validation), kind in PAIRED
            fpr, tpr = roc_curve(strange, normal)
            rows.append(
                Roc(
                    inputs=kind,
                    detector=entry.name,
                    auroc=area_under_roc(strange, normal, boot, paired=paired),
                    **rule_metrics(rule, strange, normal, boot, paired=paired),
                    threshold=rule.threshold,
                    highest=detector.highest(victim),
                    fpr=fpr,
                    tpr=tpr,
                )
            )
    return rows


@dataclass(frozen=True)
class SliceInputs:
    """Clean queries and an abnormal input for each; `wanted`: the classes an attack wants."""

    clean: Batch
    odd: Batch
    wanted: Tensor | None

    @classmethod
    def read(cls, config: DetectConfig, place: Place, made: Result) -> SliceInputs:
        """What `move_slices` made."""
        data: Dataset = place.part("victim").data
        clean = clean_queries(config, data)
        targets = _targets(config, place)
        wanted = None if targets is None else targets.long().argmax(dim=1)
        return cls(clean, kept_batch_again(made.tensors, clean), wanted)


def plan_slices(config: DetectConfig, given: MethodConfig, known: PlannedVictim) -> Planned:
    """One detector of a federation.

    The budget is written out where nobody attacks: an attack and the adaptive attacker have budgets
    of their own. Raises AdvhashError for what can be refused before training.
    """
    detector = distances(config, given)
    victim = check(config, detector, known.victim, known.data)
    table, other = written(DETECTORS, given), None
    update: dict[str, Any] = {
        "detector": table,
        "adaptive": _settings(adaptive_attack(config, detector, 0.0)),
    }
    if config.attack is not None:
        update["attack"] = written(ATTACKS, config.attack)
    else:
        kind = config.inputs or BY_DEFAULT
        update |= {"inputs": kind, "budget": config.budget.written(UNBOUNDED)}
        if kind == "ood" and victim.is_image(MOVED):
            other = other_data(known.data, victim.shape, config.other)
            update["other"] = config.other or other.name
    fingerprint = None if other is None else other.fingerprint()
    return Planned(config.model_copy(update=update), [table], MOVED, MOVED, fingerprint)


def distances(config: DetectConfig, given: MethodConfig) -> CodeDistance:
    """The detector of a federation; what it and its attacker refuse must not cost a training."""
    detector = DETECTORS.create(given.name, given.settings)
    if not isinstance(detector, CodeDistance):
        raise UsageError(
            f"--detector: expected one that compares codes of parties, got {given.name}"
        )
    adaptive_attack(config, detector, 0.0)
    config.budget.resolve(UNBOUNDED)
    return detector


def move_slices(config: DetectConfig, place: Place) -> Result:
    """The abnormal inputs, and the budget of the attack where there is one."""
    trained: Trained = place.part("victim")
    victim, data, seed = CodeDistance.of(trained.victim), trained.data, config.seed
    clean = clean_queries(config, data)
    if config.attack is None:
        kind = str(config.inputs)
        drawn = derive_seed(seed, f"abnormal {kind}")
        odd = abnormal_batch(kind, victim, data, clean, drawn, other=config.other)
        return Result({"budget": None}, kept_batch(odd))
    fitted: FittedAttack = place.part("fit")
    targets = _targets(config, place)
    moved = fitted.attack.perturb(
        victim, clean, targets, fitted.budget, MOVED, seed=derive_seed(seed, "batch 0")
    )
    return Result({"budget": str(fitted.budget)}, kept_batch(moved.batch))


def _targets(config: DetectConfig, place: Place) -> Tensor | None:
    """(B,C) of a targeted attack."""
    if config.attack is None or place.part("fit").attack.goal != "targeted":
        return None
    return disjoint_targets(config, place.part("victim").data)


def judge_slices(config: DetectConfig, given: MethodConfig, place: Place) -> dict[str, Any]:
    """Rule, metrics with intervals, ROC and probe of the detector, and who gets past it."""
    trained: Trained = place.part("victim")
    victim, data, seed = trained.victim, trained.data, config.seed
    inputs: SliceInputs = place.part("inputs")
    boot = derive_seed(seed, "bootstrap")
    detector = distances(config, given)
    own = detector.of(victim)
    detector.fit(own, data.validation, MOVED)
    clean = inputs.clean
    labels = clean.labels.argmax(dim=1)
    validation, _ = judged(detector, own, data.validation, derive_seed(seed, "noise validation"))
    normal, before = judged(detector, own, clean, derive_seed(seed, "noise clean"))
    strange, after = judged(detector, own, inputs.odd, derive_seed(seed, "noise abnormal"))
    paired = config.attack is not None or config.inputs in PAIRED
    rule, metrics = operating_metrics(validation, strange, normal, boot, paired=paired)
    metrics |= {
        "auroc": area_under_roc(strange, normal, boot, paired=paired),
        "average_precision": average_precision(strange, normal, boot, paired=paired),
        "accuracy": rate_metric((before == labels).double().numpy(), boot),
        "accuracy_abnormal": rate_metric((after == labels).double().numpy(), boot),
    }
    if inputs.wanted is not None:
        reached = after == inputs.wanted
        metrics["success"] = rate_metric(reached.double().numpy(), boot)
        accepted = reached.numpy() & rule.accepts(strange)
        metrics["success_and_accepted"] = rate_metric(accepted, boot)
    attack = adaptive_attack(config, detector, rule.threshold)
    evading, wrong = _evading(config, own, attack, clean, place.progress)
    errors = (before != labels).numpy()
    metrics |= {
        "accepted_adaptive": rate_metric(wrong & rule.accepts(evading), boot),
        "wrong_adaptive": rate_metric(wrong, boot),
        "accepted_clean_errors": rate_metric(errors & rule.accepts(normal), boot),
        "accepted_any_code": _any_code(own, detector, clean, rule.threshold, boot),
    }
    swapped = _replayed(own, detector, data, clean)
    if swapped is not None:
        metrics["accepted_replay"] = rate_metric(rule.accepts(swapped), boot)
    metrics |= {name: single_metric(value) for name, value in own.privacy().items()}
    fpr, tpr = roc_curve(strange, normal)
    probe = enumerated(own) if own.parties == 2 and own.bits <= PROBE_BITS else None
    return {
        "threshold": rule.threshold,
        "highest": detector.highest(own),
        "metrics": {
            name: None if metric is None else vars(metric) for name, metric in metrics.items()
        },
        "roc": {"fpr": fpr, "tpr": tpr},
        "adaptive": _settings(attack).model_dump(),
        "acceptance": [
            {
                "threshold": level,
                "false_alarms": vars(rate_metric(normal > level, boot)),
                "accepted_adaptive": vars(rate_metric(wrong & (evading <= level), boot)),
                "accepted_replay": (
                    None if swapped is None else vars(rate_metric(swapped <= level, boot))
                ),
            }
            for level in levels(validation)
        ],
        "probe": probe,
    }


def check(
    config: DetectConfig, detector: CodeDistance, victim: HashVictim, data: Dataset
) -> HashVFL:
    """The victim, trained or not. Raises UsageError: not this victim, these inputs, this method."""
    own = detector.of(victim)
    if config.attack is None:
        check_inputs(config.inputs or BY_DEFAULT, own, data, config.other)
        return own
    method: Attack = ATTACKS.create(config.attack.name, config.attack.settings)
    if not method.can_move(own, MOVED):
        raise UsageError(
            f"--method: {config.attack.name} attacks {', '.join(sorted(method.modalities))}; "
            "expected one that moves images, and a victim of images"
        )
    if method.goal == "targeted":
        disjoint_targets(config, data)  # refuses queries for which no target is left
    return own


def levels(clean: Floats) -> list[float]:
    """Thresholds to show acceptance at: every score of clean rows, quantiles of many.

    >>> levels(np.array([3.0, 1.0, 1.0]))
    [1.0, 3.0]
    """
    values = np.unique(clean)
    if len(values) > LEVELS:
        values = np.unique(np.quantile(clean, np.linspace(0, 1, LEVELS), method="inverted_cdf"))
    return [float(value) for value in values]


def adaptive_attack(
    config: DetectConfig, detector: CodeDistance, threshold: float
) -> AdaptiveSlice:
    """Raises ConfigError: a setting that the attacker refuses."""
    settings = config.adaptive.model_dump(exclude_none=True)
    try:
        return AdaptiveSlice(detector=detector, threshold=threshold, **settings)
    except ValueError as error:
        raise ConfigError(f"--adaptive: {error}") from None


def _settings(attack: AdaptiveSlice) -> AdaptiveConfig:
    """Every setting of the adaptive attacker."""
    return AdaptiveConfig(**{name: getattr(attack, name) for name in AdaptiveConfig.model_fields})


def _evading(
    config: DetectConfig, victim: HashVFL, attack: AdaptiveSlice, clean: Batch, progress: Progress
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """(N,) scores of the queries that the adaptive attacker moved, and whether it is wrong then.

    The noise of the message that is judged is not the noise that the attack has seen.
    """
    budget = config.budget.resolve(UNBOUNDED)
    moved = attack.perturb(
        victim, clean, None, budget, MOVED, seed=derive_seed(config.seed, "adaptive")
    )
    progress("adaptive attacker", 1, 1)
    scores, predicted = judged(
        attack.detector, victim, moved.batch, derive_seed(config.seed, "noise adaptive")
    )
    return scores, (predicted != clean.labels.argmax(dim=1)).numpy()


def _replayed(
    victim: HashVFL, detector: CodeDistance, data: Dataset, clean: Batch
) -> Floats | None:
    """(N,) see `replay_scores`: party 0 sends codes of its database rows. None where codes get
    noise, which is not known before it is sent.
    """
    if victim.protection != "hash":
        return None
    pool = torch.from_numpy(victim.encode_split(data.database, MOVED).signs())
    with torch.no_grad():
        sent = victim.sent(clean.inputs)
    labels = clean.labels.argmax(dim=1)
    return replay_scores(victim, sent, labels, detector, pool).double().numpy()


def _any_code(
    victim: HashVFL, detector: CodeDistance, clean: Batch, threshold: float, boot: int
) -> Metric | None:
    """The bound on every attacker, where all codes can be tried and are sent without noise."""
    if victim.parties != 2 or victim.bits > PROBE_BITS or victim.protection != "hash":
        return None
    with torch.no_grad():
        sent = victim.sent(clean.inputs).cpu()
    bound = any_code_accepted(victim, sent, clean.labels.argmax(dim=1), detector, threshold)
    return rate_metric(bound.numpy(), boot)
