"""`advhash detect`: detectors, clean rows, abnormal rows, and the attacker who knows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from advhash.errors import UsageError
from advhash.experiments.attack.record import file_document
from advhash.experiments.attack.run import PlannedAttack, Served
from advhash.experiments.config import AttackConfig, MethodConfig, TrainConfig
from advhash.experiments.config_text import method_label
from advhash.experiments.detect.cell import DetectorCell, Inputs, InputsCell
from advhash.experiments.detect.config import DetectConfig
from advhash.experiments.detect.federation import distances, plan_slices
from advhash.experiments.detect.images import EVERY, judges_codes, plan_images, shown_changes
from advhash.experiments.detect.protocol import Planned, query_labels
from advhash.experiments.experiment import Experiment, Part, Place, Plan
from advhash.experiments.prepare.code_key import code_version
from advhash.experiments.prepare.planned import PlannedVictim
from advhash.experiments.prepare.trained import Trained
from advhash.measures.roc import ALLOWED
from advhash.measures.sanity import check_count, check_repeats, check_threshold
from advhash.registry import ATTACKS, DETECTORS, EXPERIMENTS
from advhash.reports.detection import DETECT, DetectionRecord
from advhash.storage.cache import content_key
from advhash.storage.cells import Result
from advhash.victims.federated.hashvfl import HashVFL
from advhash.victims.training.acceleration import precision

CODE = ("experiments.attack", "experiments.detect")
OF_FEDERATIONS, OF_IMAGES = "code-max", "flips"  # the detectors without a name
Cells = InputsCell | DetectorCell


@EXPERIMENTS.register("detect", source="the registered detector")
class Detection(Experiment[DetectConfig, Cells, Plan[DetectConfig, Cells], DetectionRecord]):
    """How well abnormal inputs are told from clean ones, and who gets past all the same."""

    name, config, record, code = "detect", DetectConfig, DetectionRecord, CODE
    lasts, alone = False, True

    def plan(self, config: DetectConfig) -> Plan[DetectConfig, Cells]:
        given = config.detector
        if config.attack is not None:
            ATTACKS.create(config.attack.name, config.attack.settings)
            if config.inputs is not None:
                raise UsageError("--method makes the abnormal inputs: expected no --inputs")
        if config.other is not None and config.inputs != "ood":
            raise UsageError("--other names the data of --inputs ood: expected no other inputs")
        if given is not None and not judges_codes(given.name):
            distances(config, given)
        known = PlannedVictim.of(config.turned_into(TrainConfig))
        known.data.expect_one_size("advhash detect")
        federation = isinstance(known.victim, HashVFL)
        chosen = given or MethodConfig(name=OF_FEDERATIONS if federation else OF_IMAGES)
        plan = plan_images if judges_codes(chosen.name) else plan_slices
        return _plan(plan(known.written(config), chosen, known), known)

    def compute(self, cell: Cells, place: Place) -> Result:
        return cell.compute(place)

    def judge(
        self, plan: Plan[DetectConfig, Cells], results: Sequence[Result], place: Place
    ) -> DetectionRecord:
        config, trained = plan.config, place.part("victim")
        inputs, *documents = (result.document for result in results)
        assert config.detector is not None
        document = file_document(DETECT, self.name, config, trained, place)
        document |= _document(config, trained, inputs)
        if judges_codes(config.detector.name) and not place.alone:
            document["shown_changes"] = shown_changes(
                config, trained.data, results[0], place.folder
            )
        tables = {
            cell.detector.name: table
            for cell, table in zip(plan.cells[1:], documents, strict=True)
            if isinstance(cell, DetectorCell)
        }
        document["flags"] += [
            vars(flag)
            for name, table in tables.items()
            for flag in check_threshold(name, table["threshold"], table["highest"])
        ]
        if config.detector.name == EVERY:
            return DetectionRecord.from_document({**document, "detectors": tables})
        return DetectionRecord.from_document({**document, **documents[0]})


def _plan(planned: Planned, known: PlannedVictim) -> Plan[DetectConfig, Cells]:
    config, attack = planned.config, planned.config.attack
    parts: dict[str, Part] = {"victim": known, "codes": Served()}
    if attack is not None:
        threat = {"query_modality": planned.moved, "database": planned.database}
        parts["fit"] = PlannedAttack(config.turned_into(AttackConfig, protocol=threat))
    names = tuple(parts)
    count = min(config.queries or len(known.data.query), len(known.data.query))
    made = str(config.inputs) if attack is None else method_label(attack)
    content = _content(planned, known)
    inputs = InputsCell(config, content_key(content), names, (made, *known.names), count)
    cells: list[Cells] = [inputs]
    for detector in planned.detectors:
        own = {
            "inputs": content,
            "detector": detector.model_dump(mode="json"),
            "digest": DETECTORS[detector.name].digest,
            "adaptive": config.adaptive.model_dump(mode="json"),
        }
        label = (method_label(detector), made, *known.names)
        cells.append(
            DetectorCell(config, detector, content_key(own), (*names, "inputs"), label, count)
        )
    return Plan(
        config=config,
        cells=cells,
        parts=parts | {"inputs": Inputs(Detection.name, inputs)},
        label=f"{known.called}-detect".replace(":", "."),
        shown={
            "victim": {"name": known.name, "settings": known.settings},
            "defense": None if config.defense is None else config.defense.model_dump(),
            "detectors": [detector.model_dump() for detector in planned.detectors],
            "inputs": config.inputs if attack is None else attack.name,
            "attack": None if attack is None else attack.model_dump(),
            "budget": config.budget.model_dump(),
            "adaptive": config.adaptive.model_dump(),
            "dataset": {**known.data.named, "database": len(known.data.database)},
            "queries": count,
        },
    )


def _content(planned: Planned, known: PlannedVictim) -> dict[str, Any]:
    """What determines the abnormal inputs."""
    config, attack = planned.config, planned.config.attack
    return {
        "victim": known.identity,
        "precision": precision(torch.device(known.device)),
        "attack": None if attack is None else attack.model_dump(mode="json"),
        "method": None if attack is None else ATTACKS[attack.name].digest,
        "inputs": config.inputs,
        "other": planned.other,
        "budget": config.budget.model_dump(mode="json"),
        "queries": config.queries,
        "seed": config.seed,
        "threads": torch.get_num_threads(),
        "code": code_version(*CODE),
    }


def _document(config: DetectConfig, trained: Trained, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What the JSON document says beside the figures of detectors; inputs: of their cell."""
    data, attack = trained.data, config.attack
    count = min(config.queries or len(data.query), len(data.query))
    assert config.detector is not None
    return {
        "detector": _described(config.detector),
        "inputs": config.inputs if attack is None else attack.name,
        "attack": None if attack is None else _described(attack),
        "budget": inputs["budget"],
        "clean": count,
        "abnormal": count,
        "validation": len(data.validation),
        "threshold": None,
        "allowed_false_alarms": ALLOWED,
        "flags": [
            *trained.card.get("flags", []),
            *(vars(flag) for flag in check_repeats(query_labels(config, trained.data))),
            *(vars(flag) for flag in check_count(config.queries, count)),
        ],
    }


def _described(method: MethodConfig) -> dict[str, Any]:
    """A detector or an attack as the document has it."""
    return {"name": method.name, "settings": method.settings}
