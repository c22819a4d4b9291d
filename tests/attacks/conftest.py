"""What attacks are tried on, where a module has no `data` or `victim` of its own."""

from __future__ import annotations

import pytest
import torch
from few_digits import few_digits, served_images
from torch import Tensor

from advhash.attacks.base import AttackData
from advhash.data import Batch, Dataset
from advhash.targets import choose_targets
from advhash.victims.base import HashVictim
from advhash.victims.image.pairwise import DPSH


@pytest.fixture(scope="module")
def data() -> Dataset:
    return few_digits(700, 600, 30)


@pytest.fixture(scope="module")
def victim(data: Dataset) -> HashVictim:
    return DPSH(bits=16, image_size=16, epochs=4, batch_size=32).fit(data, seed=0)


@pytest.fixture(scope="module")
def served(victim: HashVictim, data: Dataset) -> AttackData:
    return served_images(victim, data)


@pytest.fixture(scope="module")
def queries(data: Dataset) -> Batch:
    return data.query.rows(torch.arange(len(data.query)))


@pytest.fixture(scope="module")
def targets(queries: Batch, served: AttackData) -> Tensor:
    chosen = choose_targets("disjoint", queries.labels.numpy(), served.labels.numpy(), seed=0)
    return torch.from_numpy(chosen)
