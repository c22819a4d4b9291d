"""The random numbers of queries: the same for any block, order and process, and random."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest
from torch import Tensor

from advhash.chance import Chance

DRAWS: dict[str, Callable[[Chance], Tensor]] = {
    "uniform": lambda chance: chance.uniform(3, 5, low=-0.2, high=0.3),
    "normal": lambda chance: chance.normal(7),
    "integers": lambda chance: chance.integers(1000, 2),
    "signs": lambda chance: chance.signs(1, 4, 3),
    "shares": lambda chance: torch.from_numpy(chance.shares()),
    "sample": lambda chance: chance.sample(50, 9),
}
GOLDEN = "[[93035, 372700, 989927], [14191, 398233, 86842]] [[6, 0, 2, 1], [0, 4, 7, 8]]"
QUERIES = torch.tensor([5, 0, 17, 3, 10**12, 4, 1])


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_blocks_order_and_what_others_draw_change_no_bit(draw: Callable[[Chance], Tensor]) -> None:
    chance = Chance(9, QUERIES)
    first, second = draw(chance), draw(chance)
    assert not torch.equal(first, second)
    for place, query in enumerate(QUERIES):
        alone = Chance(9, query[None])
        assert torch.equal(draw(alone)[0], first[place])
        assert torch.equal(draw(alone)[0], second[place])
    turned = Chance(9, QUERIES.flip(0))
    assert torch.equal(draw(turned).flip(0), first)
    busy = Chance(9, QUERIES)
    busy[torch.tensor([0, 2])].uniform(100)  # of other queries
    assert torch.equal(draw(busy[1:2])[0], first[1])
    assert torch.equal(draw(busy[torch.tensor([3, 1])])[1], second[1])
    assert not torch.equal(draw(Chance(10, QUERIES)), first)


def test_other_processes_and_machines_draw_the_same() -> None:
    """Written down once: the words of SplitMix64 are defined to the last bit."""
    program = (
        "import torch\nfrom advhash.chance import Chance\n"
        "chance = Chance(7, torch.tensor([3, 4]))\n"
        "print(chance.integers(10**6, 3).tolist(), chance.sample(9, 4).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    chance = Chance(7, torch.tensor([3, 4]))
    here = f"{chance.integers(10**6, 3).tolist()} {chance.sample(9, 4).tolist()}"
    assert done.stdout.strip() == here == GOLDEN


def test_splitmix_gives_its_published_numbers() -> None:
    """The first three outputs of the reference implementation for the seed 1234567."""
    chance = Chance(0, torch.tensor([0]))
    chance._starts[:] = 1234567
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert chance.words(3)[0].tolist() == expected


def test_numbers_are_spread_as_they_should_be() -> None:
    chance = Chance(0, torch.arange(2000))
    uniform = chance.uniform(20, low=2, high=4)
    assert 2 <= float(uniform.min()) < 2.001 < 3.999 < float(uniform.max()) <= 4
    assert kstest((uniform.flatten().numpy() - 2) / 2, "uniform").pvalue > 0.01
    assert kstest(chance.normal(20).flatten().numpy(), "norm").pvalue > 0.01
    assert chisquare(np.bincount(chance.integers(7, 20).flatten().numpy())).pvalue > 0.01
    assert abs(float(chance.signs(20).mean())) < 0.02
    assert kstest(chance.shares(), "uniform").pvalue > 0.01
    across = np.corrcoef(chance.uniform(2000).numpy())
    assert np.abs(across - np.eye(2000)).max() < 0.13  # of two queries


def test_samples_are_without_replacement_and_equally_likely() -> None:
    drawn = Chance(3, torch.arange(6000)).sample(10, 4)
    assert all(len(set(row)) == 4 for row in drawn.tolist())
    for column in drawn.T:
        assert chisquare(np.bincount(column.numpy(), minlength=10)).pvalue > 0.001
    whole = Chance(3, torch.arange(50)).sample(5, 9)
    assert torch.equal(whole.sort(dim=1).values, torch.arange(5).expand(50, 5))
