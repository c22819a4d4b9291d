"""`advhash defend`: a victim with and without a defence under the adaptive worst case.

A matrix of `advhash transfer`: both victims attacked by autohash, targeted and not, each judged on
both, so that pictures made for the undefended victim give the figure without an adaptive attacker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from advhash.attacks.base import Attack, AttackData
from advhash.attacks.gradient.anchors import anchor_codes
from advhash.budget import Budget
from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress
from advhash.errors import UsageError
from advhash.experiments.attack.columns import precisions
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.attack.record import Metrics
from advhash.experiments.defend.config import TARGETED, UNTARGETED, DefendConfig
from advhash.experiments.experiment import Place, Plan
from advhash.experiments.prepare.hardened import DEFAULT
from advhash.experiments.prepare.planned import PlannedVictim
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.worth import code_figures
from advhash.experiments.transfer.cell import Move
from advhash.experiments.transfer.matrix import Column, judge_moves, matrix_record, members_of
from advhash.experiments.transfer.members import Member
from advhash.experiments.transfer.run import Matrix, plan_matrix
from advhash.measures.intervals import mean_metric, ratio_of_means
from advhash.measures.sanity import Flag, check_collapse
from advhash.registry import ATTACKS, EXPERIMENTS
from advhash.reports.elements.verdict import percent
from advhash.reports.transfer import Check, Defense, TransferRecord
from advhash.shared_labels import Labels
from advhash.storage.cells import Result
from advhash.targets import choose_targets

Floats = npt.NDArray[np.float64]
CHECKED = 30  # queries of the checks
SENT = 500  # queries a picture that the attacker without gradients may send
SLACK = 0.02  # by which a sequence may rise without being a sign


@EXPERIMENTS.register("defend", source="Athalye, Carlini, Wagner, ICML 2018")
class Defend(Matrix[DefendConfig]):
    """A victim with and without a defence under the adaptive worst case, and whether to believe it.

    The two are attacked and judged as by `advhash transfer`; the checks are made beside it.
    """

    name, config = "defend", DefendConfig

    def plan(self, config: DefendConfig) -> Plan[DefendConfig, Move]:
        budget = config.budget.resolve(DEFAULT)
        if budget.norm not in ("linf", "l2"):  # the checks halve and double it
            raise UsageError(f"defend: expected linf or l2 with a radius, got {budget}")
        plan = plan_matrix(config.matrix())
        for part in plan.parts.values():
            if isinstance(part, PlannedVictim):
                part.data.expect_one_size("advhash defend")
        return Plan(
            config=config.written(plan.config),
            cells=plan.cells,
            parts=plan.parts,
            shown=plan.shown,
        )

    def judge(
        self, plan: Plan[DefendConfig, Move], results: Sequence[Result], place: Place
    ) -> TransferRecord:
        columns = judge_moves(plan, results, place)
        record = matrix_record(plan, results, columns, place)
        return _with_defense(record, plan, columns, place)


def _with_defense(
    record: TransferRecord,
    plan: Plan[DefendConfig, Move],
    columns: Sequence[Column],
    place: Place,
) -> TransferRecord:
    """The record of the matrix, the checks and the figures of the defence with it."""
    config = plan.config
    boot = derive_seed(config.seed, "bootstrap")
    plain, hardened = members = members_of(plan, place)
    checks = _checks(config, hardened, place.progress)
    defense = Defense(
        checkpoint=str(hardened.trained.folder),
        undefended=plain.label,
        defended=hardened.label,
        codes={member.label: _codes(member) for member in members},
        training={member.label: member.trained.card.get("seconds") for member in members},
        checks=checks,
    )
    flags = [
        Flag("masked_gradient", "warning", f"{check.question} It does not: {_points(check)}.")
        for check in checks
        if not check.passed
    ]
    codes = defense.codes
    flags += check_collapse(*(codes[member.label]["distinct"] for member in (hardened, plain)))
    return record.model_copy(
        update={
            "command": "defend",
            "metrics": {
                **_metrics(plain.label, hardened.label, columns, boot),
                **_rehashed(config, hardened, columns, boot),
            },
            "flags": [*record.flags, *flags],
            "defense": defense,
        }
    )


def _codes(member: Member) -> dict[str, float]:
    """How the database codes of a victim use their bits: from its card, where it has them."""
    figures: dict[str, float] | None = member.trained.card.get("codes", {}).get(member.database)
    return figures or code_figures(member.codes)


def _points(check: Check) -> str:
    return ", ".join(f"{name}: {percent(metric.value)}" for name, metric in check.points.items())


def _metrics(plain: str, hardened: str, columns: Sequence[Column], boot: int) -> Metrics:
    """The headline, over queries: clean, robust, without an adaptive attacker, and ratios."""
    at = {(column.method, column.source, column.target): column.columns for column in columns}
    metrics: Metrics = {}
    drops, gains = [], []
    for victim, end in ((hardened, ""), (plain, "_undefended")):
        hidden, aimed = at[UNTARGETED, victim, victim], at[TARGETED, victim, victim]
        metrics[f"map_clean{end}"] = mean_metric(hidden["map"], boot)
        metrics[f"map_robust{end}"] = mean_metric(hidden["map_adversarial"], boot)
        metrics[f"tmap_clean{end}"] = mean_metric(aimed["tmap_clean"], boot)
        metrics[f"tmap_robust{end}"] = mean_metric(aimed["tmap"], boot)
        drops.append(hidden["map"] - hidden["map_adversarial"])
        gains.append(aimed["tmap"] - aimed["tmap_clean"])
    moved = at[UNTARGETED, plain, hardened], at[TARGETED, plain, hardened]
    metrics["map_nonadaptive"] = mean_metric(moved[0]["map_adversarial"], boot)
    metrics["tmap_nonadaptive"] = mean_metric(moved[1]["tmap"], boot)
    clean = [at[UNTARGETED, victim, victim]["map"] for victim in (hardened, plain)]
    metrics["map_kept"] = ratio_of_means(clean[0], clean[1], boot)
    metrics["map_drop_ratio"] = ratio_of_means(drops[0], drops[1], boot)
    metrics["tmap_gain_ratio"] = ratio_of_means(gains[0], gains[1], boot)
    return metrics


def _rehashed(
    config: DefendConfig, member: Member, columns: Sequence[Column], boot: int
) -> Metrics:
    """The robust figures against a database hashed anew, where the victim serves stored codes."""
    data, protocol = member.trained.data, config.protocol
    codes = member.trained.victim.rehashed_codes(data, member.database)
    if np.array_equal(codes.words, member.codes.words):
        return {}
    metrics: Metrics = {}
    for column in columns:
        if column.source == column.target == member.label:
            scores = precisions(
                column.codes,
                codes,
                column.wanted,
                data.database.labels.numpy(),
                scoring=protocol.scoring,
            )
            name = "tmap" if column.goal == "targeted" else "map"
            metrics[f"{name}_robust_rehashed"] = mean_metric(scores, boot)
    return metrics


def _checks(config: DefendConfig, member: Member, progress: Progress) -> list[Check]:
    """Signs of a masked gradient on the defended victim (Athalye et al., ICML 2018)."""
    boot = derive_seed(config.seed, "bootstrap")
    budget = config.budget.resolve(DEFAULT)
    half, twice = (Budget(budget.norm, factor * budget.eps) for factor in (0.5, 2.0))
    hide, aim = "mainstay-untargeted", "mainstay"
    plans: list[tuple[str, str, list[tuple[str, str, dict[str, object], Budget]]]] = [
        (
            "radius",
            "A larger radius should lower the MAP of attacked queries.",
            [(str(ball), hide, {}, ball) for ball in (half, budget, twice)],
        ),
        (
            "steps",
            "More steps should lower the MAP of attacked queries.",
            [(f"{n} steps", hide, {"steps": n}, budget) for n in (10, 30, 100)],
        ),
        (
            "black box",
            "Gradients should lower the MAP of attacked queries at least as far as queries alone.",
            [
                (f"square, {SENT} queries", "square-untargeted", {"queries": SENT}, budget),
                ("mainstay, 100 steps", hide, {}, budget),
            ],
        ),
    ]
    checks = []
    run, clean, most = _runner(config, member)
    for number, (name, question, points) in enumerate(plans):
        scores = {text: run(method, settings, ball) for text, method, settings, ball in points}
        if name == "radius":
            scores = {"clean": clean, **scores}
        means = [float(values.mean()) for values in scores.values()]
        falls = all(later <= before + SLACK for before, later in pairwise(means))
        if name == "radius":  # a gradient that is zero leaves all as it was
            falls = falls and means[-1] < means[0] - SLACK
        metrics = {text: mean_metric(values, boot) for text, values in scores.items()}
        checks.append(Check(name=name, question=question, points=metrics, passed=falls))
        progress("masking checks", number + 1, len(plans) + 1)
    free = run(aim, {"steps": 200}, Budget("none", float("inf")))
    checks.append(
        Check(
            name="no bound",
            question="Without a bound a targeted attack should come near the ceiling.",
            points={"t-MAP": mean_metric(free, boot), "ceiling": mean_metric(most, boot)},
            passed=float(free.mean()) >= 0.9 * float(most.mean()),
        )
    )
    progress("masking checks", len(plans) + 1, len(plans) + 1)
    return checks


def _runner(
    config: DefendConfig, member: Member
) -> tuple[Callable[[str, dict[str, object], Budget], Floats], Floats, Floats]:
    """What attacks some queries and gives their average precisions; those of the clean queries.

    At last those of the majority codes of their targets: the ceiling.
    """
    trained, protocol = member.trained, config.protocol
    victim, data = trained.victim, trained.data
    modality = victim.query_modality(protocol.query_modality)
    seed = derive_seed(config.seed, "checks")
    count = min(CHECKED, protocol.queries or CHECKED)
    batch = data.query.rows(choose_queries(data.query, count, seed))
    labels, database_labels = batch.labels.numpy(), data.database.labels.numpy()
    seen = AttackData(data, member.codes, member.database, modality)
    targets = choose_targets("disjoint", labels, database_labels, seed, rows=batch.index.numpy())

    def scored(codes: HashCodes, wanted: Labels) -> Floats:
        return precisions(
            codes,
            member.codes,
            wanted,
            database_labels,
            scoring=protocol.scoring,
        )

    def run(method: str, settings: dict[str, object], budget: Budget) -> Floats:
        attack: Attack = ATTACKS.create(method, settings)
        attack.fit(*attack.outlook(victim, seen), budget, seed=seed)
        aimed = attack.goal == "targeted"
        aims = torch.from_numpy(targets) if aimed else None
        moved = attack.perturb(victim, batch, aims, budget, modality, seed=seed)
        return scored(moved.codes, targets if aimed else labels)

    clean = scored(victim.encode(batch.inputs[modality], modality), labels)
    best = anchor_codes("majority", victim, seen, torch.from_numpy(targets), seed=seed)
    return run, clean, scored(HashCodes.from_relaxed(best), targets)
