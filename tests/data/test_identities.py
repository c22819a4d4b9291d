"""Folders whose sub-folders are one thing each: identities, of which one row is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import advhash as ah
from advhash.data import Dataset
from advhash.data.load import load_dataset
from advhash.errors import DataError

PRODUCTS = 30


def draw(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(noise).resize((24, 24)).save(file)


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of each of 30 products, but one of every fifth."""
    root = tmp_path_factory.mktemp("products")
    for product in range(PRODUCTS):
        for view in range(1 if product % 5 == 0 else 3):
            draw(root / f"product {product:02}" / f"{view}.png", 10 * product + view)
    return root


@pytest.fixture(scope="module")
def data(products: Path) -> Dataset:
    return load_dataset("folder", {"root": str(products), "labels": "identities"})


def test_each_query_has_its_others_in_the_database_and_was_never_learnt(data: Dataset) -> None:
    assert data.grouped
    database = data.database.labels.flatten().tolist()
    learnt = set(data.train_labels.flatten().tolist())
    asked = [*data.query.labels.flatten().tolist(), *data.validation.labels.flatten().tolist()]
    assert len(asked) == len(set(asked)) == round(PRODUCTS * 0.15) + round(PRODUCTS * 0.10)
    for identity in asked:
        assert database.count(identity) == 2
        assert identity not in learnt
    assert len(learnt) == PRODUCTS - len(asked)
    names = {*data.query.names, *data.validation.names, *data.database.names}
    assert len(names) == 6 + 24 * 3
    assert data.card["groups"] == {
        "count": PRODUCTS,
        "rows": {"smallest": 1, "median": 3, "largest": 3},
        "of_one_row": 6,
    }
    assert data.card["queries_without_relevant"] == 0


def test_it_is_attacked(data: Dataset) -> None:
    victim = ah.train("dhash", {"name": "folder", **data.settings})
    made = ah.attack(victim, method="collision", eps="16/255", steps=5)
    assert made.targets is not None
    assert not (made.targets == data.query.labels.numpy()[made.index]).any()
    assert made.metrics["tmap"] is not None


def test_groups_of_one_are_refused(tmp_path: Path, products: Path) -> None:
    for number in range(20):
        draw(tmp_path / f"product {number}" / "only.png", number)
    settings = {"root": str(tmp_path)}
    with pytest.raises(DataError, match=r"two different rows or more, got 20 of one: a"):
        load_dataset("folder", {**settings, "labels": "identities"})
    with pytest.raises(DataError, match=r"say so by --set dataset\.labels=identities"):
        load_dataset("folder", settings)
    draw(tmp_path / "product 0" / "same.png", 0)  # equal pictures are no second one
    with pytest.raises(DataError, match="got 20 of one"):
        load_dataset("folder", {**settings, "labels": "identities"})


def test_victims_that_learn_pairs_learn_identities(data: Dataset) -> None:
    tables = {"name": "folder", **data.settings}
    victim = ah.train("dpsh", tables, bits=16, epochs=1)
    assert victim.data.grouped
    with pytest.raises(DataError, match="csq learns classes"):
        ah.train("csq", tables, bits=16, epochs=1)
