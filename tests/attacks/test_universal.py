"""One perturbation per target set: the same for every query, and better than noise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from advhash.attacks.base import AttackData
from advhash.attacks.black_box.baselines import Noise
from advhash.attacks.universal import Universal
from advhash.budget import Budget
from advhash.codes import HashCodes
from advhash.codes.metrics import retrieval_average_precision
from advhash.data import Batch
from advhash.errors import ConfigError, DataError, UsageError
from advhash.registry import ATTACKS
from advhash.victims.base import HashVictim

QUERIES = 30
BUDGETS = [Budget("linf", 16 / 255), Budget("l2", 1.5)]


@pytest.fixture(scope="module")
def fitted(victim: HashVictim, served: AttackData) -> Universal:
    return Universal(steps=30, batch_size=16).fit(victim, served, BUDGETS[0], seed=0)


def tmap(codes: HashCodes, targets: Tensor, served: AttackData) -> float:
    scores = retrieval_average_precision(
        codes, served.codes, targets.numpy(), served.labels.numpy()
    )
    return float(scores.mean())


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_beats_noise_and_clean_queries(
    budget: Budget, fitted: Universal, victim: HashVictim, queries: Batch, targets: Tensor,
    served: AttackData,
) -> None:  # fmt: skip
    result = fitted.perturb(victim, queries, targets, budget)
    assert float(result.overrun.max()) == 0
    noise = Noise().perturb(victim, queries, None, budget).codes
    clean = victim.encode(queries.inputs["image"], "image")
    reached = tmap(result.codes, targets, served)
    assert reached > tmap(noise, targets, served) + 0.1
    assert reached > tmap(clean, targets, served) + 0.1


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_one_change_serves_every_query(
    budget: Budget, fitted: Universal, victim: HashVictim, targets: Tensor
) -> None:
    """Grey images are never clipped, so what is added to them is seen as it is."""
    grey = Batch(
        {"image": torch.linspace(0.4, 0.6, 6).view(6, 1, 1, 1).expand(6, 3, 16, 16).clone()},
        torch.zeros(6, 10), torch.arange(6),
    )  # fmt: skip
    aims = targets[:1].expand(6, -1)
    raw = fitted.run(victim, grey, aims, budget) - grey.inputs["image"]
    assert torch.allclose(raw, raw[:1].expand_as(raw), atol=1e-6)
    other = targets[(targets != targets[0]).any(dim=1)][:1].expand(6, -1)
    assert not torch.allclose(fitted.run(victim, grey, other, budget) - grey.inputs["image"], raw)
    assert float(budget.distance(torch.zeros(1, 3, 16, 16), raw[:1])) > 0.9 * budget.eps


def test_neither_batch_nor_order_of_targets_matters(
    victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    """A batch of one gives what the whole batch gave: a set is learnt by itself."""
    settings = {"steps": 4, "batch_size": 8}
    whole = Universal(**settings).fit(victim, served, BUDGETS[0], seed=5)  # type: ignore[arg-type]
    alone = Universal(**settings).fit(victim, served, BUDGETS[0], seed=5)  # type: ignore[arg-type]
    everything = whole.perturb(victim, queries, targets, BUDGETS[0]).batch.inputs["image"]
    one = Batch({"image": queries.inputs["image"][-1:]}, queries.labels[-1:], queries.index[-1:])
    last = alone.perturb(victim, one, targets[-1:], BUDGETS[0]).batch.inputs["image"]
    assert torch.equal(everything[-1:], last)
    distinct = len(torch.unique(targets, dim=0))
    assert len(whole.history) == distinct > 1
    assert len(alone.history) == 1
    other = Universal(**settings).fit(victim, served, BUDGETS[0], seed=6)  # type: ignore[arg-type]
    again = other.perturb(victim, one, targets[-1:], BUDGETS[0]).batch.inputs["image"]
    assert not torch.equal(last, again)


def test_a_set_is_learnt_once_for_each_budget(
    victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    attack = Universal(steps=2, batch_size=4).fit(victim, served, BUDGETS[0])
    first = attack.perturb(victim, queries, targets, BUDGETS[0]).batch.inputs["image"]
    learnt = len(attack.history)
    assert torch.equal(
        attack.perturb(victim, queries, targets, BUDGETS[0]).batch.inputs["image"], first
    )
    assert len(attack.history) == learnt
    attack.perturb(victim, queries, targets, Budget("linf", 8 / 255))
    assert len(attack.history) == 2 * learnt


def test_a_query_equal_to_its_target_stays_inside(
    fitted: Universal, victim: HashVictim, queries: Batch
) -> None:
    own = queries.labels
    result = fitted.perturb(victim, queries, own, BUDGETS[0])
    assert bool((result.distance <= BUDGETS[0].eps + 1e-6).all())


def test_refusals(fitted: Universal, victim: HashVictim, queries: Batch, targets: Tensor) -> None:
    with pytest.raises(UsageError, match="l0"):
        fitted.perturb(victim, queries, targets, Budget("l0", 5))
    nowhere = torch.zeros_like(targets)
    with pytest.raises(DataError, match="shares a label"):
        fitted.perturb(victim, queries, nowhere, BUDGETS[0])
    with pytest.raises(ConfigError, match="momentum"):
        ATTACKS.create("universal", {"momentum": 1.0})
    with pytest.raises(ConfigError, match="eps"):
        Budget("linf", 0.0)


def test_without_a_bound(fitted: Universal, victim: HashVictim, queries: Batch) -> None:
    unbounded = Budget("none", math.inf)
    target = torch.eye(10, dtype=torch.uint8)[:1].expand(QUERIES, -1)
    result = fitted.perturb(victim, queries, target, unbounded)
    assert float(result.distance.max()) > BUDGETS[0].eps
