"""`advhash judge`: an adversarial set that any tool made, scored on our originals.

The pictures go through the harness of every attack (`Attack.perturb`), which rounds, hashes and
measures them; what the set says of itself only stands beside that. A set with a picture outside the
stated budget is refused as a whole, before any training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.attacks.base import Attack, Goal
from advhash.budget import Budget, expect_room
from advhash.codes.packed import HashCodes
from advhash.data.dataset import Batch, Dataset, Split
from advhash.data.images.mixed import MixedPictures, one_picture, to_unit
from advhash.errors import DataError, UnknownName, UsageError
from advhash.experiments.attack.identities import (
    asks_identities,
    by_identity,
    size_of_set,
    victim_kind,
)
from advhash.experiments.attack.measure import Measured, examples, flags, measure
from advhash.experiments.attack.operating import check_threshold
from advhash.experiments.attack.perturb import Aimed, attack_batches, joined_outcome
from advhash.experiments.attack.record import (
    Attacked,
    at_threshold,
    budget_info,
    dataset_info,
    protocol_info,
    run_info,
    victim_info,
    write_queries,
)
from advhash.experiments.attack.run import Served
from advhash.experiments.config import AttackConfig, DatasetConfig, TrainConfig
from advhash.experiments.experiment import Experiment, Place, Plan
from advhash.experiments.judge.claims import Claims, expect_same_pictures, read_claims, targets_of
from advhash.experiments.judge.config import JudgeConfig
from advhash.experiments.judge.pictures import ForeignPictures, Reread, paired, read_pictures
from advhash.experiments.prepare.code_key import code_version
from advhash.experiments.prepare.fit_attack import FittedAttack
from advhash.experiments.prepare.planned import PlannedVictim
from advhash.experiments.prepare.trained import Trained, cache_identity
from advhash.experiments.prepare.victim import load_data, sized
from advhash.measures.intervals import Metric
from advhash.measures.sanity import Flag
from advhash.registry import DATASETS, EXPERIMENTS
from advhash.reports.elements.verdict import percent
from advhash.reports.headline import Headline, headline_of
from advhash.reports.judge import JUDGE, Claim, JudgeRecord, SetInfo
from advhash.reports.record import Example
from advhash.reports.vocabulary import FIGURES, label_of
from advhash.shared_labels import Labels
from advhash.storage.cache import content_key
from advhash.storage.cells import Result
from advhash.storage.places import user_path
from advhash.victims.base import HashVictim

CODE = ("stores", "experiments.attack", "experiments.judge")
SET = "adversarial set"  # what the config of the harness calls the attack
CLAIMED = (  # what a figure that a set may claim is of, see `vocabulary`
    "Retrieval",
    "What was changed, and what it cost",
    "At a threshold on the distance",
)
OF_MAKING = ("seconds_fit", "seconds_per_image", "overrun")  # figures of an attack that runs here
OF_SEARCH = ("unbounded_misses_ceiling", "projected")  # flags of how an attack that runs here does


class ForeignSet(Attack):
    """Pictures that another tool made: it gives them, and knows nothing.

    pictures: (3,H,W) each, by the row of its original
    """

    goal: ClassVar[Goal] = "untargeted"
    modalities = frozenset({"image"})
    knowledge = frozenset()
    norms = frozenset({"linf", "l2", "l0", "none"})

    def __init__(self, *, pictures: dict[int, Tensor]) -> None:
        self.pictures = pictures

    def run(
        self, victim: HashVictim, batch: Batch, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        images = [to_unit(self.pictures[row]) for row in batch.index.tolist()]
        return torch.stack(images).to(victim.device)


class AimedSet(ForeignSet):
    """The same with a target for each picture."""

    goal = "targeted"


@dataclass(frozen=True)
class Paired:
    """A set that may be judged: each picture with the row of its original, and its target.

    data: what the victim searches, the originals in the place of its queries
    """

    foreign: ForeignPictures
    claims: Claims
    data: Dataset
    rows: npt.NDArray[np.int64]
    targets: Labels | None

    @classmethod
    def of(cls, config: JudgeConfig, known: PlannedVictim | Trained) -> Paired:
        """Raises DataError, UsageError, ConfigError, UnknownName for what cannot be judged."""
        place = user_path(config.pictures)
        data, others, reread = _originals(config, known)
        images = data.query.inputs["image"]
        size = None if isinstance(images, MixedPictures) else (images.shape[2], images.shape[3])
        foreign = read_pictures(place, size)
        rows = paired(foreign, data.query, others, data.name, reread)
        claims = read_claims(place, config.claims)
        _expect_figures(claims)
        expect_same_pictures(claims, foreign)
        _expect_inside(foreign, data.query, rows, config)
        return cls(foreign, claims, data, rows, targets_of(claims, foreign, data))

    @property
    def attack(self) -> ForeignSet:
        pictures = dict(zip(self.rows.tolist(), self.foreign.images, strict=True))
        kind = ForeignSet if self.targets is None else AimedSet
        return kind(pictures=pictures)

    @property
    def off_grid(self) -> int:
        """How many pictures are floats between the steps of 8 bits."""
        steps = (image.double() * 255 for image in self.foreign.images if image.is_floating_point())
        return sum(bool((step - step.round()).abs().gt(1e-3).any()) for step in steps)


def _originals(
    config: JudgeConfig, known: PlannedVictim | Trained
) -> tuple[Dataset, Split, Reread]:
    """The data that are searched with the originals as queries, and the rows that are none.

    Beside them, how originals could be read at other sizes.

    Originals are the queries; where queries are altered copies of pictures in the database, they
    are these. Raises UsageError, DataError.
    """
    data, victim = known.data, known.victim
    modality = victim.query_modality(config.protocol.query_modality)
    if modality != "image" or "image" not in data.query.inputs:
        raise UsageError(
            f"advhash judge: expected a victim that hashes whole pictures, got {known.called}, "
            f"which reads {modality}"
        )
    clean = data
    if config.dataset.name is not None and config.dataset != config.clean:
        fed = data.pictures["fed"] if data.pictures else None
        side = fed[0] if fed and fed[0] == fed[1] else None
        clean = load_data(sized(config.clean, victim, side), victim)
        if clean.classes != data.classes and clean.fingerprint() != data.fingerprint():
            raise DataError(
                f"--clean: expected originals with the classes of {data.name} "
                f"({len(data.classes)} classes), got {clean.name} with {len(clean.classes)} others"
            )
    reread = Reread(
        "dataset.size" if clean is data else "clean.size",
        stored=victim.any_size and "longest" in DATASETS[clean.name].model.model_fields,
    )
    if check_threshold(config.protocol, victim, clean).get("start") == "originals":
        return replace(data, query=clean.database), clean.query, reread
    return replace(data, query=clean.query), clean.database, reread


def _by_identity(config: JudgeConfig) -> JudgeConfig:
    """Folders of originals as near-duplicates, all of them, where the set is held to a threshold.

    Their size is that of the set, where no setting says it and the victim takes any.
    """
    if not asks_identities(config, config.protocol.threshold):
        return config
    place = user_path(config.pictures)
    size = size_of_set(place) if victim_kind(config.victim).any_size and place.is_dir() else None
    clean = by_identity(config.clean, whole=True, size=size)
    same = config.dataset == config.clean
    dataset = clean if same else by_identity(config.dataset)
    return config.model_copy(update={"clean": clean, "dataset": dataset})


def _expect_scoring_alone(config: JudgeConfig) -> None:
    """Raise UsageError for settings of a protocol that choose queries or make something."""
    for name in ("queries", "poison", "store", "rescore"):
        value = getattr(config.protocol, name)
        if value:
            raise UsageError(
                f"protocol.{name}: expected none, as the set says what is judged, got {value!r}"
            )


def _expect_figures(claims: Claims) -> None:
    known = [figure.name for about in CLAIMED for figure in FIGURES[about]]
    for name in claims.figures:
        if name not in known:
            raise UnknownName("claimed figure", name, known)


def _expect_inside(
    foreign: ForeignPictures, originals: Split, rows: npt.NDArray[np.int64], config: JudgeConfig
) -> None:
    """Raise UsageError: no budget is stated; DataError: how many lie outside, and the worst."""
    if config.budget.norm is None and config.budget.eps is None:
        raise UsageError(
            "expected the budget that the set is held to: --eps 8/255, --norm l2 --eps 2, or "
            "--norm none"
        )
    budget = config.budget.resolve(ForeignSet.default_budget)
    images = originals.inputs["image"]
    expect_room(budget, one_picture(images, 0).numel(), eight_bit=config.budget.eight_bit)
    slack = 1e-6 + 1e-5 * budget.eps  # as in `Attack.perturb`
    far = np.empty(len(rows))
    for place, (row, image) in enumerate(zip(rows.tolist(), foreign.images, strict=True)):
        clean = to_unit(one_picture(images, row))[None]
        far[place] = float(budget.distance(clean, to_unit(image)[None]))
    outside = np.flatnonzero(far > budget.eps + slack)
    if len(outside):
        worst = int(far.argmax())
        size = f"{255 * far[worst]:.1f}/255" if budget.norm == "linf" else f"{far[worst]:.4g}"
        raise DataError(
            f"expected changes within {budget}, got {len(outside)} of {len(rows)} pictures "
            f"outside, the worst {size} in {foreign.ids[worst]!r}; state the budget that the set "
            "was made for by --norm and --eps, or leave these out"
        )


@dataclass(frozen=True)
class JudgeCell:
    """All pictures of a set. config: with every default written out."""

    config: JudgeConfig
    key: str
    names: tuple[str, ...]
    pictures: int

    @property
    def parts(self) -> tuple[str, ...]:
        return ("victim", "codes")

    @property
    def amount(self) -> int:
        return self.pictures


@dataclass(frozen=True, kw_only=True)
class JudgePlan(Plan[JudgeConfig, JudgeCell]):
    """paired: what was read to refuse what cannot be judged; other processes read it again."""

    paired: Paired


@EXPERIMENTS.register("judge", source="advhash")
class Judge(Experiment[JudgeConfig, JudgeCell, JudgePlan, JudgeRecord]):
    """An adversarial set of any tool, hashed anew under a stated budget, beside its claims."""

    name, config, record, code = "judge", JudgeConfig, JudgeRecord, CODE
    lasts, stage = False, "pictures"

    def plan(self, config: JudgeConfig) -> JudgePlan:
        if not config.pictures:
            raise UsageError("expected FOLDER, the pictures that another tool changed")
        if config.clean.name is None:
            raise UsageError(
                "expected the originals of the pictures: --clean NAME or FOLDER (see "
                "`advhash list datasets`)"
            )
        _expect_scoring_alone(config)
        if config.dataset.name is None:
            table = {**config.dataset.settings, **config.clean.settings, "name": config.clean.name}
            both = DatasetConfig.build(table)
            config = config.model_copy(update={"dataset": both, "clean": both})
        config = _by_identity(config)
        known = PlannedVictim.of(config.turned_into(TrainConfig))
        judged = Paired.of(config, known)
        victim = known.victim
        database = config.protocol.database or victim.default_database
        if database not in victim.directions:
            raise UsageError(
                f"--database: expected one of {', '.join(victim.directions)}, got {database!r}"
            )
        protocol = config.protocol.model_copy(
            update={
                "query_modality": "image",
                "database": database,
                **check_threshold(config.protocol, victim, judged.data),
            }
        )
        same = config.clean == config.dataset
        resolved = known.written(config)
        resolved = resolved.model_copy(
            update={
                "clean": resolved.dataset if same else config.clean,
                "pictures": str(user_path(config.pictures).resolve()),
                "budget": config.budget.written(ForeignSet.default_budget),
                "protocol": protocol,
            }
        )
        key = content_key(
            {
                "victim": known.identity,
                "set": judged.foreign.digest,
                "targets": None if judged.targets is None else judged.targets.tolist(),
                "originals": judged.data.fingerprint(),
                "budget": resolved.budget.model_dump(),
                "protocol": protocol.model_dump(mode="json"),
                "seed": config.seed,
                "code": code_version(*CODE),
            }
        )
        count = len(judged.rows)
        return JudgePlan(
            config=resolved,
            cells=[JudgeCell(resolved, key, (SET, *known.names), count)],
            parts={"victim": known, "codes": Served()},
            label=f"{known.called}-judge".replace(":", "."),
            shown={
                "victim": known.shown,
                "dataset": {**known.data.named, "database": len(known.data.database)},
                "pictures": count,
                "originals": len(judged.data.query),
                "targeted": judged.targets is not None,
                "budget": str(resolved.budget.resolve(ForeignSet.default_budget)),
                "claims": {name: stated.value for name, stated in judged.claims.figures.items()},
            },
            paired=judged,
        )

    def compute(self, cell: JudgeCell, place: Place) -> Result:
        trained: Trained = place.part("victim")
        judged = Paired.of(cell.config, trained)
        attacked = _harness(cell.config, trained, judged)
        made = attack_batches(*attacked, piece=place.piece, progress=place.progress)
        return Result({}, made)

    def judge(self, plan: JudgePlan, results: Sequence[Result], place: Place) -> JudgeRecord:
        judged, trained = plan.paired, place.part("victim")
        config, seen, fitted, aimed = _harness(plan.config, trained, judged)
        outcome = joined_outcome(config, seen, fitted, aimed, [results[0].tensors])
        attacked = Attacked(config, seen, fitted, outcome)
        codes = place.part("codes")
        database = codes[str(config.protocol.database)]
        measured = measure(attacked, codes, cache_identity(trained), place.progress)
        metrics = {
            name: metric for name, metric in measured.metrics.items() if name not in OF_MAKING
        }
        foreign, claims = judged.foreign, judged.claims
        return JudgeRecord(
            schema_=JUDGE,
            command="judge",
            run=run_info(place.final, config.seed, config.device, place.seconds),
            set=SetInfo(
                name=claims.name or Path(plan.config.pictures).name,
                form=foreign.form,
                pictures=len(judged.rows),
                originals=len(judged.data.query),
                digest=foreign.digest,
                goal=fitted.attack.goal,
                rounded=judged.off_grid if config.budget.eight_bit else 0,
                codes_claimed=foreign.codes or claims.codes,
            ),
            claims=[
                Claim(
                    name=name,
                    claimed=stated.value,
                    rounding=stated.rounding,
                    measured=metrics.get(name),
                )
                for name, stated in claims.figures.items()
            ],
            victim=victim_info(seen),
            dataset=dataset_info(seen.data),
            budget=budget_info(fitted.budget, eight_bit=config.budget.eight_bit),
            protocol=protocol_info(
                config.protocol,
                targeted=False,
                database=str(config.protocol.database),
                queries=len(judged.rows),
                empty_queries=measured.scores.empty_queries,
                **config.protocol.model_dump(include={"threshold", "start"}),
                at_threshold=at_threshold(attacked),
            ),
            flags=[
                *_of_the_set(
                    flags(attacked, measured, database),
                    metrics,
                    headline_of(fitted.attack.goal, at_threshold=at_threshold(attacked)),
                ),
                *_flags(judged, config),
            ],
            metrics=metrics,
            metrics_by_direction=measured.scores.metrics,
            examples=_written(attacked, measured, database, place.folder),
        )


def _harness(
    config: JudgeConfig, trained: Trained, judged: Paired
) -> tuple[AttackConfig, Trained, FittedAttack, Aimed]:
    """The set as an attack that is fitted, on the originals."""
    as_attack = config.turned_into(AttackConfig, attack={"name": SET})
    attack = judged.attack
    budget = config.budget.resolve(attack.default_budget)
    fitted = FittedAttack(attack, {}, budget)
    aimed = Aimed(torch.from_numpy(judged.rows), judged.targets)
    return as_attack, replace(trained, data=judged.data), fitted, aimed


def _written(
    attacked: Attacked, measured: Measured, database: HashCodes, folder: Path
) -> list[Example]:
    """`queries.parquet`, and the examples with their pictures."""
    columns = measured.scores.columns
    write_queries(folder / "queries.parquet", attacked.outcome, columns)
    return examples(attacked, columns, database, folder)


def _of_the_set(
    raised: Sequence[Flag], metrics: Mapping[str, Metric | None], led: Headline
) -> list[Flag]:
    """The checks of an attack in the words of a set, without those of how an attack searches."""
    reached, start = (
        f"{label_of(name)} {_value(metrics.get(name))}" for name in (led.main, led.unattacked)
    )
    words = {
        "nothing_changed": "The set changes no picture: its figures are those of the originals.",
        "no_effect": "The set has no effect that the measurement can tell from none: "
        f"{reached}, {start}.",
        "weaker_than_noise": "Uniform noise under the same budget reaches as much as the set does.",
        "float_pixels": "Pixels were not rounded to 8 bits: a file may not hold them.",
    }
    return [
        replace(flag, message=words.get(flag.name, flag.message))
        for flag in raised
        if flag.name not in OF_SEARCH
    ]


def _value(metric: Metric | None) -> str:
    return percent(None if metric is None else metric.value)


def _flags(judged: Paired, config: AttackConfig) -> list[Flag]:
    """What was done to the set, and what of it was not read."""
    raised = []
    count, originals = len(judged.rows), len(judged.data.query)
    if count < originals:
        raised.append(
            Flag(
                "chosen_originals",
                "warning",
                f"The set holds {count:,} of {originals:,} originals, which its maker chose: its "
                "figures are those of the chosen ones.",
            )
        )
    if config.budget.eight_bit and judged.off_grid:
        raised.append(
            Flag(
                "rounded_set",
                "info",
                f"Floats between 8-bit steps in {judged.off_grid} of {len(judged.rows)} pictures "
                "were rounded toward their originals, as a file would have rounded "
                "them somehow.",
            )
        )
    if judged.foreign.codes or judged.claims.codes:
        raised.append(
            Flag(
                "codes_ignored",
                "info",
                "The set brings codes of its own: they were not read, every picture was hashed "
                "anew.",
            )
        )
    return raised
