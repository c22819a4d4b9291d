"""Attacks on labels that are groups: what a column for each would give, to the last bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import advhash as ah
from advhash.data import Dataset, Split
from advhash.data.load import load_dataset
from advhash.errors import DataError
from advhash.registry import VICTIMS
from advhash.shared_labels import NO_GROUP, as_groups, columns


def grouped_data() -> Dataset:
    """Emoji in groups of up to four rows, across the splits; some rows belong to none."""
    data = load_dataset("openmoji", {"size": 32})
    rows = {"database": 160, "validation": 24, "query": 24}

    def part(name: str, split: Split) -> Split:
        numbers = np.arange(rows[name]) % 50
        numbers[numbers > 45] = NO_GROUP
        kept = split.take(torch.arange(rows[name]))
        return replace(kept, labels=torch.from_numpy(as_groups(numbers)))

    return replace(
        data,
        database=part("database", data.database),
        validation=part("validation", data.validation),
        query=part("query", data.query),
        train_rows=torch.arange(100),
        classes=(),
        increments=(),
    )


def in_columns(data: Dataset) -> Dataset:
    """The same data with a column for each group."""

    def part(split: Split) -> Split:
        return replace(split, labels=columns(split.labels, 46).to(torch.uint8))

    names = tuple(f"group {number}" for number in range(46))
    return replace(
        data,
        database=part(data.database),
        validation=part(data.validation),
        query=part(data.query),
        classes=names,
    )


@pytest.fixture(scope="module")
def data() -> Dataset:
    return grouped_data()


class Linear(torch.nn.Module):
    """Random projections: their codes say something of the pictures, and nothing is trained."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.projection = torch.nn.Linear(3 * 32 * 32, 24)

    def forward(self, images: Tensor) -> Tensor:
        codes: Tensor = self.projection((images - 0.9).flatten(1))
        return codes


def figures(result: ah.AttackResult) -> dict[str, tuple[float | None, float | None, float | None]]:
    return {
        name: (metric.value, metric.low, metric.high)
        for name, metric in result.metrics.items()
        if metric is not None and "seconds" not in name
    }


METHODS: dict[str, dict[str, int]] = {
    "dhta": {"steps": 3},
    "p2p": {"steps": 3},
    "tha": {"steps": 3, "prototype_steps": 20, "hidden": 32},
    "mainstay": {"steps": 3},
    "sdha": {"steps": 3},
    "cgat": {"steps": 3},
    "mainstay-untargeted": {"steps": 3},
    "blend": {},
}


@pytest.mark.parametrize("name", METHODS)
def test_figures_are_those_of_columns(name: str, data: Dataset) -> None:
    found = []
    for given in (data, in_columns(data)):
        victim = ah.bring(Linear(), given, name="linear")
        few = {"queries": 12}
        made = ah.attack(victim, method=name, eps="8/255", protocol=few, **METHODS[name])
        found.append((figures(made), made.adversarial))
    (ours, moved), (expected, other) = found
    assert ours == expected
    assert torch.equal(moved, other)
    assert "map" in ours


def test_many_groups_need_no_column(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ceiling leaves out the anchor that a network reads them for; tha is refused."""
    monkeypatch.setattr("advhash.attacks.gradient.anchors.MOST_COLUMNS", 40)
    victim = ah.bring(Linear(), data, name="linear")
    made = ah.attack(victim, method="dhta", eps="8/255", protocol={"queries": 6}, steps=2)
    ceiling = made.metrics["tmap_ceiling"]
    assert ceiling is not None
    assert 0 < (ceiling.value or 0) <= 1
    with pytest.raises(DataError, match=r"at most 40 labels, one input each: .* got 46; use"):
        ah.attack(victim, method="tha", eps="8/255")


def test_targets_of_groups_are_groups(data: Dataset) -> None:
    victim = ah.bring(Linear(), data, name="linear")
    batch = data.query.rows([0, 1])
    made = ah.attack(
        victim, batch, method="p2p", eps="8/255", targets=np.array([[7], [9]]), steps=1
    )
    assert made.targets is not None
    assert made.targets.tolist() == [[7], [9]]
    with pytest.raises(DataError, match=r"labels of target 1 \(groups 99\)"):
        ah.attack(victim, batch, method="p2p", targets=np.array([[7], [99]]))
    with pytest.raises(DataError, match=r"expected groups as labels, int32"):
        ah.attack(victim, replace(batch, labels=torch.zeros(2, 3)), method="p2p")


@pytest.mark.parametrize("name", ["prosgan", "ta-apgdt"])
def test_what_learns_classes_is_refused(name: str, data: Dataset) -> None:
    victim = ah.bring(Linear(), data, name="linear")
    with pytest.raises(DataError, match="learns classes: expected data with classes"):
        ah.attack(victim, method=name)


def test_victims_that_learn_classes_are_refused(data: Dataset) -> None:
    for name in ("csq", "neural-code", "hashvfl", "dlcmh"):
        with pytest.raises(DataError, match=r"learns classes: .* 46 groups of rows that belong"):
            VICTIMS[name].build.data_arguments(data)  # type: ignore[attr-defined]
