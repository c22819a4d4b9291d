"""From moved queries to the record of a transfer matrix: every target judges every cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from advhash.codes.packed import HashCodes
from advhash.data.images.mixed import one_picture, to_unit
from advhash.experiments.attack.changes import Change, write_change
from advhash.experiments.attack.columns import (
    PRECISIONS,
    Columns,
    retrieval_columns,
    retrieval_metrics,
)
from advhash.experiments.attack.examples import choose_examples
from advhash.experiments.attack.perturb import noise_precision
from advhash.experiments.attack.record import (
    Attacked,
    Outcome,
    budget_info,
    dataset_info,
    protocol_info,
    run_info,
    victim_info,
)
from advhash.experiments.attack.served import database_vectors, search_of, served_columns
from advhash.experiments.config import ProtocolConfig
from advhash.experiments.experiment import Place, Plan
from advhash.experiments.prepare.ceiling import target_ceilings
from advhash.experiments.prepare.fit_attack import FittedAttack
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import cache_identity
from advhash.experiments.transfer.cell import Move
from advhash.experiments.transfer.config import Settings
from advhash.experiments.transfer.members import Member
from advhash.measures.intervals import Difference, Metric, mean_metric, paired_difference
from advhash.measures.paired_runs import best_elsewhere
from advhash.measures.sanity import Flag, check_count, check_indicators, check_repeats
from advhash.reports.headline import HEADLINES, is_control
from advhash.reports.record import AttackInfo
from advhash.reports.transfer import (
    TRANSFER,
    Ensemble,
    MatrixEntry,
    Method,
    PrecisionAt,
    TransferRecord,
    TransferShown,
    Victim,
)
from advhash.shared_labels import Labels
from advhash.storage.cells import Result
from advhash.storage.tables import write_table

METHODS = 2  # whose queries are shown
RANKS = ("its best query", "its middle query")


@dataclass(frozen=True)
class Column:
    """A target and the average precisions of a cell.

    rows: (N,) of the query split; codes: (N,) of the moved queries, by the target
    wanted: (N,C) labels of targets or queries
    """

    method: str
    source: str
    target: str
    goal: str
    rows: npt.NDArray[np.int64]
    codes: HashCodes
    wanted: Labels
    columns: Columns
    noise: npt.NDArray[np.float64] | None  # of the same figure, under noise


def members_of(plan: Plan[Settings, Move], place: Place) -> list[Member]:
    """The trained victims in order."""
    return [place.part(label) for label in plan.parts]


def judge_moves(
    plan: Plan[Settings, Move], results: Sequence[Result], place: Place
) -> list[Column]:
    """Every cell judged on every victim, in the order of the cells."""
    config, members = plan.config, members_of(plan, place)
    moves = {(cell.method, cell.source): cell for cell in plan.cells}
    columns: list[Column] = []
    noises: dict[tuple[str, str], npt.NDArray[np.float64] | None] = {}
    for cell, done in zip(plan.cells, results, strict=True):
        attack = cell.attack()
        split = members[0].trained.data.query
        outcome = Outcome.from_tensors(done.tensors, split, config.protocol.query_modality)
        for target in members:
            asked = cell.method, target.label
            if asked not in noises:
                moved = Attacked(moves[asked].config, target.trained, attack, outcome)
                noises[asked] = noise_precision(moved, target.codes)
            columns.append(
                _judged(config.protocol, cell, target, attack, outcome, noises[asked], place)
            )
    return columns


def matrix_record(
    plan: Plan[Settings, Move],
    results: Sequence[Result],
    columns: Sequence[Column],
    place: Place,
) -> TransferRecord:
    """The record, and `queries.parquet` in the folder."""
    config, members = plan.config, members_of(plan, place)
    _write_queries(place.folder / "queries.parquet", columns)
    infos = [
        Method(
            label=cell.method,
            source=cell.source,
            info=AttackInfo.model_validate(done.document["info"]),
        )
        for cell, done in zip(plan.cells, results, strict=True)
    ]
    boot = derive_seed(config.seed, "bootstrap")
    ensembles = {cell.source: cell.members for cell in plan.cells if len(cell.members) > 1}
    cells = [
        _cell(column, _rivals(column, columns, ensembles.get(column.source, ())), boot)
        for column in columns
    ]
    alone = [column for column in columns if column.source not in ensembles]
    budgets = {cell.method: cell.attack().budget for cell in plan.cells}
    trained = members[0].trained
    return TransferRecord(
        schema_=TRANSFER,
        command="transfer",
        run=run_info(
            place.final,
            config.seed,
            str(trained.victim.device),
            {
                "victims": sum(place.seconds[label] for label in plan.parts),
                "attacks": sum(done.document["seconds"] for done in results),
            },
        ),
        victims=[
            Victim(label=member.label, database=member.database, info=victim_info(member.trained))
            for member in members
        ],
        ensembles=[
            Ensemble(label=label, members=list(names)) for label, names in ensembles.items()
        ],
        methods=infos,
        dataset=dataset_info(trained.data),
        budgets={
            method: budget_info(budget, eight_bit=config.budget.eight_bit)
            for method, budget in budgets.items()
        },
        protocol=protocol_info(
            config.protocol,
            targeted=any(column.goal == "targeted" for column in columns),
            database=config.protocol.database or "each victim's own",
            queries=len(columns[0].rows),
            empty_queries=int((np.nan_to_num(columns[0].columns["map_chance"]) == 0).sum()),
        ),
        flags=[
            *check_count(config.protocol.queries, len(columns[0].rows)),
            *check_repeats(trained.data.query.labels[columns[0].rows].numpy()),
            *_flags(members, cells, infos),
        ],
        metrics=_headline(list(budgets), alone, boot),
        cells=cells,
        shown_changes=_shown(plan, results, columns, place),
    )


def _shown(
    plan: Plan[Settings, Move],
    results: Sequence[Result],
    columns: Sequence[Column],
    place: Place,
) -> list[TransferShown]:
    """The best and the middle query of some methods on the first source, written into the folder.

    Raises StorageError.
    """
    modality = plan.config.protocol.query_modality
    if modality != "image":
        return []
    split = members_of(plan, place)[0].trained.data.query
    first = plan.cells[0].source
    shown: list[TransferShown] = []
    pairs = [
        (cell, done)
        for cell, done in zip(plan.cells, results, strict=True)
        if cell.source == first and not is_control(cell.method)
    ]
    for cell, done in pairs[:METHODS]:
        outcome = Outcome.from_tensors(done.tensors, split, modality)
        judged = [at for at in columns if (at.method, at.source) == (cell.method, first)]
        own = next((at for at in judged if at.target == first), judged[0])
        before, after = PRECISIONS[own.goal]
        gained = own.columns[after] - own.columns[before]
        if own.goal != "targeted":
            gained = -gained
        for rank, row in zip(RANKS, choose_examples(gained, 3).tolist(), strict=False):
            images = (to_unit(one_picture(side, row)) for side in (outcome.clean, outcome.moved))
            change = Change.of_tensors(*images)
            number = int(outcome.rows[row])
            shown.append(
                TransferShown(
                    method=cell.method,
                    source=first,
                    rank=rank,
                    name=split.names[number] if split.names else f"query {number}",
                    linf=change.linf,
                    l2=change.l2,
                    files=write_change(place.folder, str(len(shown)), change.images),
                    precision=[
                        PrecisionAt(
                            target=at.target,
                            before=_number(at.columns[before][row]),
                            after=_number(at.columns[after][row]),
                        )
                        for at in judged
                    ],
                )
            )
    return shown


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _judged(
    protocol: ProtocolConfig,
    cell: Move,
    target: Member,
    attack: FittedAttack,
    outcome: Outcome,
    noise: npt.NDArray[np.float64] | None,
    place: Place,
) -> Column:
    trained, modality = target.trained, protocol.query_modality
    ceiling = None
    if outcome.targets is not None:
        ceiling = target_ceilings(
            trained.victim,
            target.seen(modality),
            outcome.targets,
            scoring=protocol.scoring,
            identity=cache_identity(trained),
            progress=place.progress,
        )
    clean, codes = (
        trained.victim.encode_pictures(inputs, modality, batch_size=protocol.batch_size)
        for inputs in (outcome.clean, outcome.moved)
    )
    scores = retrieval_columns(
        clean,
        codes,
        target.codes,
        labels=outcome.labels,
        database_labels=trained.data.database.labels.numpy(),
        targets=outcome.targets,
        ceiling=ceiling,
        scoring=protocol.scoring,
    )
    search = search_of(protocol)
    if search is not None:
        served, _ = served_columns(
            search,
            trained.victim,
            {"": (outcome.clean, clean), "_adversarial": (outcome.moved, codes)},
            database_vectors(search, trained, target.database, target.codes),
            modality=modality,
            labels=outcome.labels,
            targets=outcome.targets,
            database_labels=trained.data.database.labels.numpy(),
        )
        scores |= served
    return Column(
        method=cell.method,
        source=cell.source,
        target=target.label,
        goal=attack.attack.goal,
        rows=outcome.rows.numpy(),
        codes=codes,
        wanted=outcome.labels if outcome.targets is None else outcome.targets,
        columns=scores,
        noise=noise,
    )


def _rivals(
    column: Column, columns: Sequence[Column], members: Sequence[str]
) -> list[npt.NDArray[np.float64]]:
    """What the members of an ensemble reach alone where it is judged on a victim outside of it."""
    if column.target in members:
        return []
    return [
        other.columns[HEADLINES[other.goal].main]
        for other in columns
        if (other.method, other.target) == (column.method, column.target)
        and other.source in members
    ]


def _cell(column: Column, rivals: Sequence[npt.NDArray[np.float64]], seed: int) -> MatrixEntry:
    """rivals: what single sources reach, where there are some to compare with"""
    scores, main = column.columns, HEADLINES[column.goal].main
    targeted = column.goal == "targeted"

    def over(base: npt.NDArray[np.float64]) -> Difference:
        ahead, behind = (scores[main], base) if targeted else (base, scores[main])
        return paired_difference(ahead, behind, seed)

    return MatrixEntry(
        method=column.method,
        source=column.source,
        target=column.target,
        metrics=retrieval_metrics(scores, seed),
        gain=over(scores["tmap_clean" if targeted else "map"]),
        over_noise=None if column.noise is None else over(column.noise),
        over_single=over(best_elsewhere(rivals, sign=HEADLINES[column.goal].sign))
        if rivals
        else None,
    )


def _headline(
    methods: Sequence[str], columns: Sequence[Column], seed: int
) -> dict[str, Metric | None]:
    """Each method on its own victims, and from one victim to others, over queries."""
    metrics: dict[str, Metric | None] = {}
    for method in methods:
        mine = [column for column in columns if column.method == method]
        main = HEADLINES[mine[0].goal].main
        for name, same in (("own", True), ("transferred", False)):
            kept = [
                column.columns[main] for column in mine if (column.source == column.target) is same
            ]
            metrics[f"{main}_{name}:{method}"] = mean_metric(np.mean(kept, axis=0), seed)
    return metrics


def _flags(
    members: Sequence[Member], cells: Sequence[MatrixEntry], methods: Sequence[Method]
) -> list[Flag]:
    flags = [
        Flag(flag["name"], flag["level"], f"{member.label}: {flag['message']}")
        for member in members
        for flag in member.trained.card.get("flags", [])
    ]
    for made in methods:
        for flag in check_indicators(made.info.indicators):
            message = f"{made.label} on {made.source}: {flag.message}"
            flags.append(Flag(flag.name, flag.level, message))
    for cell in cells:
        if cell.source == cell.target and (cell.gain.low is None or cell.gain.low <= 0):
            flags.append(
                Flag(
                    "no_effect",
                    "warning",
                    f"{cell.method} does not move {cell.source} itself: that it moves no other "
                    "victim says nothing about transfer.",
                )
            )
    return flags


def _write_queries(file: Path, columns: Sequence[Column]) -> None:
    """One row for each query of each cell: enough to compute every figure again."""
    tables = []
    names = sorted({name for column in columns for name in column.columns})
    for column in columns:
        count = len(column.rows)
        table: dict[str, Any] = {
            **{name: [getattr(column, name)] * count for name in ("method", "source", "target")},
            "query": column.rows,
        }
        absent = np.full(count, np.nan)
        table |= {name: column.columns.get(name, absent) for name in names}
        table["noise"] = absent if column.noise is None else column.noise
        tables.append(table)
    write_table(file, *tables)
