"""What attacks are tried on: a module that uses these has its own fixtures `data` and `victim`."""

from __future__ import annotations

import pytest
import torch
from few_digits import served_images
from torch import Tensor

from advhash.attacks.base import AttackData
from advhash.data import Batch, Dataset
from advhash.targets import choose_targets
from advhash.victims.base import HashVictim


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
