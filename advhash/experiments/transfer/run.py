"""`advhash transfer`: attacks made on one victim, judged on all.

Every source × method × target. The target is judged as it would serve: its own codes of the moved
query, its own database hashed by itself (scoring against the source's database is a known error of
published code). Queries and targets are the same in every cell, and cells on the diagonal are what
`advhash attack` gives for the same seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from advhash.attacks.base import Attack
from advhash.experiments.attack.perturb import Aimed
from advhash.experiments.attack.run import resolve
from advhash.experiments.config import AttackConfig
from advhash.experiments.experiment import Experiment, Place, Plan
from advhash.experiments.transfer.cell import CODE, Move, move_queries
from advhash.experiments.transfer.config import LabelledMethod, Settings, TransferConfig
from advhash.experiments.transfer.matrix import judge_moves, matrix_record
from advhash.experiments.transfer.members import (
    PlannedMember,
    labels_of,
    planned_ensembles,
    planned_members,
)
from advhash.registry import ATTACKS, EXPERIMENTS
from advhash.reports.transfer import TransferRecord
from advhash.storage.cells import Result


class Matrix(Experiment[Settings, Move, Plan[Settings, Move], TransferRecord]):
    """Every method on every victim, judged on all: the cells are the moved queries."""

    record, code, lasts, stage = TransferRecord, CODE, False, "attacks"

    def compute(self, cell: Move, place: Place) -> Result:
        return move_queries(cell, place)


@EXPERIMENTS.register("transfer", source="Papernot, McDaniel, Goodfellow, 2016 (arXiv 1605.07277)")
class Transfer(Matrix[TransferConfig]):
    """Attacks made on one victim, judged on all: the source × target matrix."""

    name, config = "transfer", TransferConfig

    def plan(self, config: TransferConfig) -> Plan[TransferConfig, Move]:
        return plan_matrix(config)

    def judge(
        self, plan: Plan[TransferConfig, Move], results: Sequence[Result], place: Place
    ) -> TransferRecord:
        return matrix_record(plan, results, judge_moves(plan, results, place), place)


def plan_matrix(config: TransferConfig) -> Plan[TransferConfig, Move]:
    """The matrix with every default written out but a budget that each method has of its own.

    "image", which is asked for by default, is the first party's part of a federation.

    Raises AdvhashError, before any training: what `planned_members` refuses, and what
    `advhash attack` would refuse of a victim and a method.
    """
    methods = labels_of(config.attacks)
    members = planned_members(config)
    identities = {member.label: member.planned.identity for member in members}
    ensembles = planned_ensembles(config, members, identities)
    sources = [[member] for member in members] + ensembles
    cells = [
        _planned_move(config, source, identities, table, label)
        for table, label in zip(config.attacks, methods, strict=True)
        for source in sources
    ]
    labels = [[member.label for member in ensemble] for ensemble in ensembles]
    first = cells[0].config
    written = config.model_copy(
        update={
            "device": first.device,
            "victims": [member.table for member in members],
            "attacks": [
                LabelledMethod.build({**cell.config.attack.model_dump(), "label": cell.method})
                for cell in cells[:: len(sources)]
            ],
            "sources": labels,
            "dataset": first.dataset,
            "protocol": config.protocol.model_copy(
                update={
                    name: getattr(first.protocol, name)
                    for name in ("query_modality", "store", "rescore")
                }
            ),
        }
    )
    data = members[0].planned.data
    queries = config.protocol.queries
    return Plan(
        config=written,
        cells=cells,
        parts={member.label: member for member in members},
        shown={
            "victims": {
                member.label: {**table.model_dump(exclude={"label"}), "database": member.database}
                for member, table in zip(members, written.victims, strict=True)
            },
            "methods": {
                cell.method: {
                    **cell.config.attack.model_dump(),
                    "budget": str(cell.attack().budget),
                }
                for cell in cells[:: len(sources)]
            },
            **({"sources": labels} if labels else {}),
            "dataset": {**data.named, "database": len(data.database)},
            "protocol": written.protocol.model_dump(mode="json"),
            "queries": min(queries or len(data.query), len(data.query)),
        },
    )


def _planned_move(
    config: TransferConfig,
    source: Sequence[PlannedMember],
    identities: Mapping[str, dict[str, Any]],
    table: LabelledMethod,
    label: str,
) -> Move:
    """The attack as `advhash attack` would run it, with its victim's own database.

    source: one victim, or the members of an ensemble; its config is that of the first
    """
    member, labels = source[0], tuple(part.label for part in source)
    asked = member.planned.config.turned_into(
        AttackConfig,
        attack=table.model_dump(exclude={"label"}),
        budget=config.budget.model_dump(),
        protocol={**config.protocol.model_dump(), "database": member.database},
    )
    resolved = resolve(asked, member.planned)
    method: Attack = ATTACKS.create(resolved.attack.name, resolved.attack.settings)
    Aimed.of(resolved, member.planned.data, method)  # refuses queries for which no target is left
    return Move(
        method=label,
        source=",".join(labels),
        config=resolved,
        victim=identities[member.label]
        if len(source) == 1
        else {"ensemble": [identities[name] for name in labels]},
        members=labels,
    )
