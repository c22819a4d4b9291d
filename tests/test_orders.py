"""Orders of categories: what they bring, and when a row comes."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from advhash.data import Dataset
from advhash.datasets import load_dataset
from advhash.errors import DataError
from advhash.orders import arrived_rows, draw_order, stage_of


@pytest.fixture(scope="module")
def emoji() -> Dataset:
    return load_dataset("openmoji", {})


@pytest.mark.parametrize("seed", range(6))
def test_each_increment_brings_its_share_and_what_implies_it(emoji: Dataset, seed: int) -> None:
    order = draw_order(emoji, 2, 0.08, seed)
    names = list(itertools.chain(*order))
    assert len(names) == len(set(names))
    labels = emoji.database.labels.bool()
    for increment in order:
        new = labels[:, [emoji.classes.index(name) for name in increment]].any(dim=1)
        assert 0.08 <= float(new.float().mean()) <= 0.20
    for new, old in itertools.product(names, set(emoji.classes) - set(names)):
        inside = labels[:, emoji.classes.index(old)]
        outside = labels[:, emoji.classes.index(new)]
        if inside.sum() < outside.sum():  # no old category lies nearly inside a new one
            assert float(outside[inside].float().mean()) < 0.9, (old, new)


def test_the_seed_decides(emoji: Dataset) -> None:
    assert draw_order(emoji, 2, 0.08, 3) == draw_order(emoji, 2, 0.08, 3)
    assert len({draw_order(emoji, 2, 0.08, seed) for seed in range(8)}) > 4


def test_too_much_is_a_data_error(emoji: Dataset) -> None:
    with pytest.raises(DataError, match="expected categories for 30 increments of 8 %"):
        draw_order(emoji, 30, 0.08, 0)
    one = dataclasses.replace(
        emoji,
        classes=("all",),
        database=dataclasses.replace(
            emoji.database, labels=torch.ones(len(emoji.database), 1, dtype=torch.uint8)
        ),
    )
    with pytest.raises(DataError, match="ask for fewer or smaller increments"):
        draw_order(one, 1, 0.08, 0)


def test_a_row_comes_with_the_last_of_its_categories(emoji: Dataset) -> None:
    order = draw_order(emoji, 2, 0.08, 1)
    stages = stage_of(emoji.database.labels, emoji.classes, order)
    place = {name: number for number, names in enumerate(order, 1) for name in names}
    for row in range(0, len(emoji.database), 37):
        carried = [emoji.classes[c] for c in emoji.database.labels[row].nonzero()[:, 0].tolist()]
        assert int(stages[row]) == max((place.get(name, 0) for name in carried), default=0)
    for stage in range(3):
        rows = arrived_rows(emoji, order, stage)
        assert rows.tolist() == (stages <= stage).nonzero()[:, 0].tolist()
