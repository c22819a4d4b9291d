"""An attacker who knows the gate before a store gets more past it than one who does not."""

from __future__ import annotations

import numpy as np
import torch

from advhash.attacks.poisoning.base import Planted, Poisoning, Seen
from advhash.codes.packed import HashCodes
from advhash.codes.vectors import Vectors
from advhash.experiments.poison.adaptive import UNAWARE, _strongest, evading
from advhash.stores.admission import Gate
from advhash.victims.encoders.quantisers import Cut

CENTRES = np.random.default_rng(9).random((8, 64)) < 0.5


def codes(rows: int, seed: int, noise: float = 0.15) -> HashCodes:
    rng = np.random.default_rng(seed)
    return HashCodes.pack(CENTRES[rng.integers(0, 8, rows)] ^ (rng.random((rows, 64)) < noise))


DOCUMENTS, PROBES = codes(400, 0), codes(120, 1)


class FromCentres(Poisoning):
    """The n-th lot has noise of its own around each centre: more items are found less."""

    knowledge = ("the centres",)

    def plant(self, seen: Seen, count: int, seed: int) -> Planted:
        rng = np.random.default_rng(seed)
        noise = rng.random((count, 64)) < 0.08 * np.log2(count / 4)
        made = HashCodes.pack(CENTRES[np.arange(count) % 8] ^ noise)
        return Planted(Vectors(made, made.signs(), made.signs()))


def test_who_knows_the_gate_passes_it_where_others_do_not() -> None:
    known = Vectors(PROBES, PROBES.signs(), PROBES.signs())
    corpus = Vectors(DOCUMENTS, DOCUMENTS.signs(), DOCUMENTS.signs())
    seen = Seen(known, corpus, Cut(torch.zeros(64)), 1.0, "codes")
    gate = Gate.fit(codes(120, 7), DOCUMENTS, "rate", 0.1, 0)

    def fit(probes: HashCodes) -> Gate:
        return Gate.fit(probes, DOCUMENTS, "rate", 0.1, 0)

    def reached(items: Planted) -> int:
        taken = items.vectors.codes[~gate.refuses(items.vectors.codes)]
        return int(gate.finds(taken).any(axis=0).sum())

    blind = FromCentres().plant(seen, 4, 0)
    knowing = evading(FromCentres(), seen, 4, 100, fit, 0)
    assert gate.refuses(blind.vectors.codes).sum() >= 3
    assert len(knowing.vectors) == 4
    assert reached(knowing) > reached(blind) + 5
    assert len(evading(FromCentres(), seen, 4, 4, fit, 0).vectors) == 4


class BitsForShow(Poisoning):
    """A lot of 16: the first 8 lie where no query finds them by floats, as fewer items all do."""

    knowledge = ("the centres",)

    def plant(self, seen: Seen, count: int, seed: int) -> Planted:
        rows = np.arange(count)
        level = np.where(rows % 8 == 0, 0, 0.12)[:, None]
        noise = np.random.default_rng(seed).random((8, 64))[rows % 8] < level
        made = HashCodes.pack(CENTRES[rows % 8] ^ noise)
        side = np.where(rows < 8, -1, 1)[:, None]
        return Planted(Vectors(made, side * made.signs(), made.signs()))


def test_items_are_chosen_by_what_ranks_and_by_no_gain_that_chance_gives() -> None:
    """By their bits both halves of the lot of 16 are alike."""
    known = Vectors(PROBES, PROBES.signs(), PROBES.signs())
    corpus = Vectors(DOCUMENTS, DOCUMENTS.signs(), DOCUMENTS.signs())
    seen = Seen(known, corpus, Cut(torch.zeros(64)), 1.0, "floats")

    def items(share: float) -> Vectors:
        def fit(probes: HashCodes) -> Gate:
            return Gate.fit(probes, DOCUMENTS, "cap", share, 0)

        return evading(BitsForShow(), seen, 8, 16, fit, 0).vectors

    unaware = BitsForShow().plant(seen, 8, 0).vectors
    assert np.array_equal(items(1.0).floats, unaware.floats)  # a cap that refuses none of them
    knowing = items(0.1)
    assert (knowing.floats == knowing.codes.signs()).all()

    reached = {UNAWARE: np.arange(80) < 30, (2, 1.0): (np.arange(80) + 79) % 80 < 31}
    assert _strongest(reached) == UNAWARE
    reached[4, 1.0] = np.arange(80) < 36
    assert _strongest(reached) == (4, 1.0)
