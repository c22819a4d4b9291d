"""Orders of categories: what they bring, and when a row comes."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from advhash.data import Dataset
from advhash.data.load import load_dataset
from advhash.errors import DataError
from advhash.experiments.lifelong.orders import arrived_rows, draw_orders, stage_of


@pytest.fixture(scope="module")
def emoji() -> Dataset:
    return load_dataset("openmoji", {})


@pytest.mark.parametrize("increments", [1, 2, 3])
def test_each_increment_brings_its_share_and_what_implies_it(
    emoji: Dataset, increments: int
) -> None:
    labels = emoji.database.labels.bool()
    share = {name: labels[:, column] for column, name in enumerate(emoji.classes)}
    for seed in range(60):
        orders = draw_orders(emoji, 3, increments, 0.08, seed)
        assert len(set(orders)) == 3
        for order in orders:
            names = list(itertools.chain(*order))
            assert len(names) == len(set(names))
            for increment in order:
                new = torch.stack([share[name] for name in increment]).any(dim=0)
                assert 0.08 <= float(new.float().mean()) <= 0.20
            for new_name, old in itertools.product(names, set(emoji.classes) - set(names)):
                if share[old].sum() < share[new_name].sum():  # no old one nearly inside a new one
                    inside = share[new_name][share[old]].float().mean()
                    assert float(inside) < 0.9, (old, new_name)


def test_the_seed_decides_and_orders_differ_from_the_start(emoji: Dataset) -> None:
    assert draw_orders(emoji, 2, 2, 0.08, 3) == draw_orders(emoji, 2, 2, 0.08, 3)
    assert draw_orders(emoji, 2, 2, 0.08, 3) != draw_orders(emoji, 2, 2, 0.08, 4)
    for seed in range(20):
        first = [set(order[0]) for order in draw_orders(emoji, 3, 2, 0.08, seed)]
        assert first[0] != first[1] != first[2] != first[0]


def test_too_much_is_a_data_error(emoji: Dataset) -> None:
    with pytest.raises(DataError, match="expected categories for 30 increments of 8 %"):
        draw_orders(emoji, 1, 30, 0.08, 0)
    one = dataclasses.replace(
        emoji,
        classes=("all",),
        database=dataclasses.replace(
            emoji.database, labels=torch.ones(len(emoji.database), 1, dtype=torch.uint8)
        ),
    )
    with pytest.raises(DataError, match="ask for fewer or smaller increments"):
        draw_orders(one, 1, 1, 0.08, 0)


def test_a_row_comes_with_the_last_of_its_categories(emoji: Dataset) -> None:
    (order,) = draw_orders(emoji, 1, 2, 0.08, 1)
    stages = stage_of(emoji.database.labels, emoji.classes, order)
    place = {name: number for number, names in enumerate(order, 1) for name in names}
    for row in range(0, len(emoji.database), 37):
        carried = [emoji.classes[c] for c in emoji.database.labels[row].nonzero()[:, 0].tolist()]
        assert int(stages[row]) == max((place.get(name, 0) for name in carried), default=0)
    for stage in range(3):
        rows = arrived_rows(emoji, order, stage)
        assert rows.tolist() == (stages <= stage).nonzero()[:, 0].tolist()
