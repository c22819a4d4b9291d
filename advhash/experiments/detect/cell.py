"""The cells of a detection: the abnormal inputs, and each detector on them, in any process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from advhash.experiments.config import MethodConfig
from advhash.experiments.detect.config import DetectConfig
from advhash.experiments.detect.federation import SliceInputs, judge_slices, move_slices
from advhash.experiments.detect.images import ImageInputs, judge_images, judges_codes, move_images
from advhash.experiments.experiment import Place
from advhash.storage.cells import CellStore, Result


@dataclass(frozen=True)
class InputsCell:
    """An abnormal input for each clean query.

    config: with every default written out
    parts:  that it needs
    names, amount: by which the cost is learnt
    """

    config: DetectConfig
    key: str
    parts: tuple[str, ...]
    names: tuple[str, ...]
    amount: int

    def compute(self, place: Place) -> Result:
        return (move_images if _of_images(self.config) else move_slices)(self.config, place)


@dataclass(frozen=True)
class Inputs:
    """The part that is what an `InputsCell` found: made by it, or read where it is done."""

    kind: str
    cell: InputsCell

    @property
    def parts(self) -> tuple[str, ...]:
        return self.cell.parts

    def build(self, place: Place) -> ImageInputs | SliceInputs:
        store = CellStore(self.kind, self.cell.key)
        made = store.result(lambda: self.cell.compute(place.at(store)))
        config = self.cell.config
        return (ImageInputs if _of_images(config) else SliceInputs).read(config, place, made)


@dataclass(frozen=True)
class DetectorCell:
    """One detector on the abnormal inputs, with the attacker who knows it; as `InputsCell`."""

    config: DetectConfig
    detector: MethodConfig
    key: str
    parts: tuple[str, ...]
    names: tuple[str, ...]
    amount: int

    def compute(self, place: Place) -> Result:
        judge = judge_images if _of_images(self.config) else judge_slices
        document: dict[str, Any] = judge(self.config, self.detector, place)
        return Result(document)


def _of_images(config: DetectConfig) -> bool:
    assert config.detector is not None
    return judges_codes(config.detector.name)
