"""`advhash encode`: what the codes of a victim encode, beside controls on the same pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from advhash.attacks.base import Attack
from advhash.data.dataset import Dataset
from advhash.errors import UsageError, counted
from advhash.experiments.attack.record import dataset_info, run_info, victim_info
from advhash.experiments.attack.run import resolve
from advhash.experiments.config import AttackConfig, MethodConfig, TrainConfig
from advhash.experiments.encode.coders import CoderCell, label_of, slots_of
from advhash.experiments.encode.config import EncodeConfig
from advhash.experiments.encode.detection import DetectionCell
from advhash.experiments.encode.pictures import MovedPictures, PlannedSets, Sets
from advhash.experiments.experiment import Experiment, Part, Place, Plan
from advhash.experiments.prepare.code_key import code_version
from advhash.experiments.prepare.planned import PlannedVictim
from advhash.experiments.prepare.trained import Trained
from advhash.measures.encoding import NEIGHBOURS
from advhash.measures.sanity import Flag, check_count
from advhash.registry import ATTACKS, EXPERIMENTS
from advhash.reports.encoding import ENCODING, Coder, Detection, EncodingRecord, Site
from advhash.reports.record import AttackInfo, BudgetInfo
from advhash.shared_labels import label_counts
from advhash.storage.cache import content_key
from advhash.storage.cells import Result

CODE = ("experiments.attack", "experiments.detect", "experiments.encode")
NOT_ATTACKED = Flag(
    "not_attacked",
    "info",
    "The victim has no gradients: no moved pictures, unless --method names an attack on codes "
    "alone.",
)
EncodeCell = MovedPictures | CoderCell | DetectionCell


@dataclass(frozen=True, kw_only=True)
class EncodePlan(Plan[EncodeConfig, EncodeCell]):
    """Pictures that are moved, where they are, then coders, then detectors."""


@EXPERIMENTS.register("encode", source="after He, Lei, Ji, Tao, 2021 (arXiv 2101.05490)")
class Encode(Experiment[EncodeConfig, EncodeCell, EncodePlan, EncodingRecord]):
    """Whether codes tell pictures apart, and whether those of a class lie together."""

    name, config, record, code = "encode", EncodeConfig, EncodingRecord, CODE
    lasts = False
    stage = "encoding"

    def plan(self, config: EncodeConfig) -> EncodePlan:
        return _plan(config)

    def compute(self, cell: EncodeCell, place: Place) -> Result:
        return cell.compute(place)

    def judge(self, plan: EncodePlan, results: Sequence[Result], place: Place) -> EncodingRecord:
        return _record(plan, results, place)


def _plan(config: EncodeConfig) -> EncodePlan:
    """Refuse, before any training, what can be seen from the config. Raises AdvhashError."""
    known = PlannedVictim.of(config.turned_into(TrainConfig))
    known.data.expect_one_size("advhash encode")
    known.victim.check_modality("image")
    attack = _attack(config, known)
    resolved = known.written(config)
    if attack is not None:
        resolved.attack, resolved.budget = attack.attack, attack.budget
    moved = None if attack is None else MovedPictures(attack, _key("moved", resolved, known))
    learnt = known.victim.learns
    drawn = learnt and (known.ready is None or known.ready.folder is not None)
    cells: list[EncodeCell] = [] if moved is None else [moved]
    cells += [
        CoderCell(slot, resolved, _key(slot, resolved, known))
        for slot in slots_of(known.victim, trained=drawn)
    ]
    cells.append(DetectionCell(resolved, _key("detection", resolved, known)))
    parts: dict[str, Part] = {"victim": known}
    if moved is not None:
        parts["moved"] = moved
    parts["sets"] = PlannedSets(resolved, moved is not None)
    return EncodePlan(
        config=resolved,
        cells=cells,
        parts=parts,
        label=f"{known.called}-encode".replace(":", "."),
        shown=_shown(resolved, known),
    )


def _attack(config: EncodeConfig, known: PlannedVictim) -> AttackConfig | None:
    """What moves the pictures, with every default; None where nothing does.

    Raises AdvhashError: an attack on something else, or one that the victim or the budget forbids.
    """
    table = config.attack
    if table is None:
        if not known.victim.differentiable:
            return None
        table = MethodConfig(name="dhta")
    method: Attack = ATTACKS.create(table.name, table.settings)
    if not method.can_move(known.victim, "image"):
        raise UsageError(f"--method: expected an attack on images, got {table.name}")
    method.check_gradients(known.victim)
    method.check_data(known.data)
    method.check_budget(config.budget.resolve(method.default_budget))
    protocol = {"query_modality": "image", "queries": config.queries}
    alone = config.turned_into(AttackConfig, attack=table.model_dump(), protocol=protocol)
    return resolve(alone, known)


def _key(cell: str, config: EncodeConfig, known: PlannedVictim) -> str:
    attack = config.attack
    return content_key(
        {
            "cell": cell,
            "victim": known.identity,
            "attack": attack and [attack.name, attack.settings, ATTACKS[attack.name].digest],
            "budget": config.budget.model_dump(),
            "queries": config.queries,
            "most_bits": config.most_bits,
            "seed": config.seed,
            "threads": torch.get_num_threads(),
            "code": code_version(*CODE),
        }
    )


def _shown(config: EncodeConfig, known: PlannedVictim) -> dict[str, Any]:
    test = len(known.data.query)
    return {
        "victim": config.victim.model_dump(),
        "defense": None if config.defense is None else config.defense.model_dump(),
        "attack": None if config.attack is None else config.attack.model_dump(),
        "budget": config.budget.model_dump(mode="json"),
        "dataset": {**known.data.named, "train": len(known.data.train_labels)},
        "test": min(config.queries or test, test),
    }


def _record(plan: EncodePlan, results: Sequence[Result], place: Place) -> EncodingRecord:
    trained: Trained = place.part("victim")
    sets: Sets = place.part("sets")
    pairs = list(zip(plan.cells, results, strict=True))
    moved = next(
        (result.document for cell, result in pairs if isinstance(cell, MovedPictures)), None
    )
    coded = {cell.slot: result.document for cell, result in pairs if isinstance(cell, CoderCell)}
    (odd,) = (result.document for cell, result in pairs if isinstance(cell, DetectionCell))
    coders = [
        Coder.model_validate(document["coder"]) for document in coded.values() if document["coder"]
    ]
    if coded.get("network", {"coder": None})["coder"] is None:  # one code alone has a SimHash
        several, _ = label_of("simhash of the code", trained.called)
        coders = [
            coder.model_copy(update={"label": "SimHash"}) if coder.label == several else coder
            for coder in coders
        ]
    sites = [document["sites"] for document in coded.values() if document.get("sites")]
    return EncodingRecord(
        schema_=ENCODING,
        command="encode",
        run=run_info(
            place.final,
            plan.config.seed,
            str(trained.victim.device),
            {"all": place.seconds["all"]},
        ),
        victim=victim_info(trained),
        attack=None if moved is None else AttackInfo.model_validate(moved["attack"]),
        budget=None if moved is None else BudgetInfo.model_validate(moved["budget"]),
        dataset=dataset_info(trained.data),
        train=len(sets.train),
        test=len(sets.test),
        neighbours=NEIGHBOURS,
        chance=float(np.bincount(sets.test_classes).max() / len(sets.test)),
        sites=[Site.model_validate(site) for site in sites[0]] if sites else [],
        flags=[
            *check_count(plan.config.queries, len(sets.test)),
            *([] if moved is not None else [NOT_ATTACKED]),
            *_flags(coded, trained),
            *_several_labels(trained.data),
            *(Flag(**flag) for flag in odd["flags"]),
        ],
        metrics=dict(coders[0].metrics),
        coders=coders,
        detection=[Detection.model_validate(row) for row in odd["rows"]],
    )


def _flags(coded: dict[Any, dict[str, Any]], trained: Trained) -> list[Flag]:
    """What is missing among the coders, and what is odd about them."""
    name, flags = trained.called, []
    if "code at initialisation" not in coded:
        flags.append(
            Flag("no_initial_network", "info", f"{name} is not trained: no code before training.")
        )
    networks = [coded[slot] for slot in coded if slot.startswith("network")]
    missing = next((network["why"] for network in networks if network["coder"] is None), None)
    if missing is not None:
        flags.append(Flag("no_neural_code", "info", f"No neural code of {name}: {missing}."))
    smooth = sum(coded[slot].get("smooth", 0) for slot in ("code", "network") if slot in coded)
    if smooth:
        flags.append(
            Flag(
                "smooth_activations",
                "info",
                f"Smooth activations (GELU, SiLU …) of {counted(smooth, 'layer')} are thresholded "
                "at 0, where nothing breaks.",
            )
        )
    return flags


def _several_labels(data: Dataset) -> list[Flag]:
    several = int((label_counts(data.query.labels) > 1).sum())
    if not several:
        return []
    return [
        Flag(
            "several_labels",
            "info",
            f"Several labels belong to {several} of {len(data.query)} queries: the class of a "
            "picture is the first of them.",
        )
    ]
