"""What plants items: centres against slow loops, codes that vectors reach, copies that are near."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from advhash.attacks.poisoning.base import Poisoning, Seen, Surface, vectors_of_codes
from advhash.attacks.poisoning.hubs import code_centres, float_centres, majorities
from advhash.attacks.poisoning.judges import Judges
from advhash.codes.hamming import distances, neighbours
from advhash.codes.packed import HashCodes
from advhash.codes.vectors import Vectors, unit_rows
from advhash.errors import UsageError
from advhash.registry import POISONINGS, QUANTISERS
from advhash.stores.served import Served
from advhash.victims.encoders.quantisers import Cut

TOPICS = np.random.default_rng(3).standard_normal((8, 40)).astype(np.float32) + 0.3


def rows(count: int, seed: int, positive: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = TOPICS[rng.integers(0, 8, count)] + 0.8 * rng.standard_normal((count, 40))
    return unit_rows(np.maximum(values, 0) if positive else values)


def seen(
    quantise: str = "sign",
    bits: int = 40,
    ranks: Surface = "codes",
    candidates: int | None = None,
    positive: bool = False,
) -> Seen:
    corpus, known = rows(500, 0, positive), rows(120, 1, positive)
    generator = torch.Generator().manual_seed(0)
    cut: Cut = QUANTISERS.create(quantise).fit(torch.from_numpy(corpus), bits, generator)

    def vectors(floats: np.ndarray) -> Vectors:
        real = cut(torch.from_numpy(floats))
        return Vectors(HashCodes.from_relaxed(real), floats, real.numpy())

    return Seen(vectors(known), vectors(corpus), cut, 1.0, ranks, candidates=candidates)


@pytest.mark.parametrize("method", POISONINGS.names())
def test_items_are_unit_vectors_with_the_codes_of_the_quantiser(method: str) -> None:
    what = seen("mean")
    planter: Poisoning = POISONINGS.create(method)
    if planter.plants != "vectors":
        pytest.skip("pictures are planted by a victim")
    items, again = (planter.plant(what, 6, 5).vectors for _ in range(2))
    assert len(items) == (1 if planter.single else 6)
    assert np.allclose(np.linalg.norm(items.floats, axis=1), 1, atol=1e-5)
    assert np.array_equal(what.vectors(items.floats).codes.words, items.codes.words)
    assert np.array_equal(items.floats, again.floats)


def test_majorities_are_those_of_a_slow_loop() -> None:
    codes = HashCodes.pack(np.random.default_rng(0).random((60, 9)) < 0.5)
    places = np.random.default_rng(1).integers(0, 5, 60)
    places[places == 3] = 4
    bits = majorities(codes, places, 5, codes[:5]).unpack()
    for place in range(5):
        mine = codes.unpack()[places == place]
        expected = codes.unpack()[place] if not len(mine) else 2 * mine.sum(axis=0) > len(mine)
        assert bits[place].tolist() == expected.tolist()


def test_centres_are_nearer_to_their_points_than_beginnings() -> None:
    what = seen()
    drawn = what.known.codes[np.arange(8)]
    centres, places = code_centres(what.known.codes, 8, 25, np.random.default_rng(0))
    ours, theirs = (
        distances(what.known.codes, each).min(axis=1).sum() for each in (centres, drawn)
    )
    assert ours < 0.8 * theirs
    assert set(places) == set(range(8))
    units = what.known.floats
    means = float_centres(units, 8, 25, np.random.default_rng(0))
    assert (units @ means.T).max(axis=1).sum() > (units @ units[:8].T).max(axis=1).sum()
    assert np.allclose(np.linalg.norm(means, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("quantise", "bits"), [("sign", 40), ("mean", 40), ("median", 40), ("itq", 24), ("lsh", 64)]
)
def test_a_vector_is_found_for_nearly_every_code_of_a_cluster(quantise: str, bits: int) -> None:
    what = seen(quantise, bits)
    wanted, places = code_centres(what.known.codes, 8, 25, np.random.default_rng(0))
    begun = np.stack([what.known.floats[places == place].mean(axis=0) for place in range(8)])
    got = what.vectors(vectors_of_codes(wanted, begun, what.cut, 1.0)).codes
    before = what.vectors(unit_rows(begun)).codes
    wrong, first = (np.bitwise_count(each.words ^ wanted.words).sum() for each in (got, before))
    assert wrong <= first
    assert wrong <= (0 if quantise == "sign" else 0.04 * bits * 8)


def test_hubs_lie_nearer_to_unseen_queries_than_documents_do() -> None:
    what = seen()
    unseen = what.vectors(rows(200, 2))
    near = {}
    for surface in ("codes", "floats"):
        items = POISONINGS.create("hubs", {"surface": surface}).plant(what, 8, 0).vectors
        near[surface] = (
            distances(unseen.codes, items.codes).min(axis=1).mean(),
            (unseen.floats @ items.floats.T).max(axis=1).mean(),
        )
    documents = what.corpus[:8]
    bits = distances(unseen.codes, documents.codes).min(axis=1).mean()
    cosine = (unseen.floats @ documents.floats.T).max(axis=1).mean()
    assert max(each[0] for each in near.values()) < 0.9 * bits
    assert min(each[1] for each in near.values()) > 1.1 * cosine
    assert near["floats"][1] > near["codes"][1]  # means of directions are made for cosines


@pytest.mark.parametrize("ranks", ["codes", "floats"])
@pytest.mark.parametrize("held", [False, True])
def test_judges_find_what_a_search_of_corpus_and_item_finds(ranks: Surface, held: bool) -> None:
    """Of a query that is a document, without this document."""
    for candidates in (None, 10, 20) if ranks == "floats" else (None,):
        what = seen(ranks=ranks, candidates=candidates)
        queries = what.corpus[:40] if held else what.vectors(rows(40, 2))
        noise = np.random.default_rng(4).standard_normal((30, 40))
        items = what.vectors(unit_rows(TOPICS[np.arange(30) % 8] + 0.5 * noise))
        ours = Judges.of(queries, what, held=held).finds(items)
        for query in range(40):
            kept = np.delete(np.arange(500), query) if held else np.arange(500)
            documents = what.corpus[kept]
            for item in range(30):
                every = Vectors.concatenate([documents, items[item : item + 1]])
                order = np.arange(len(every))
                if candidates or ranks == "codes":
                    far = distances(queries.codes[query : query + 1], every.codes)[0]
                    order = np.lexsort((order, far))[: candidates or 10]
                if ranks == "floats":
                    near = every.floats[order] @ queries.floats[query]
                    order = order[np.argsort(-near, kind="stable")[:10]]
                assert ours[item, query] == (len(documents) in order)
        assert 0.01 < ours.mean() < 0.9


@pytest.mark.parametrize(
    ("positive", "candidates", "knows", "better", "worse"),
    [
        (False, None, "queries", "floats", "codes"),
        (True, 20, "queries", "codes", "floats"),
        (True, 20, "corpus", "codes", "floats"),
    ],
)
def test_auto_clusters_what_more_unseen_queries_find_items_by(
    positive: bool, candidates: int | None, knows: str, better: str, worse: str
) -> None:
    """Bits rank items of floats, and floats rank those of codes where no value is below 0."""
    what = seen(ranks="floats" if candidates else "codes", candidates=candidates, positive=positive)
    unseen = what.vectors(rows(300, 2, positive))
    rescore = [{"name": "float", "multiplier": 2}] if candidates else []
    reached = {}
    for surface in ("auto", better, worse):
        items = POISONINGS.create("hubs", {"surface": surface, "knows": knows}).plant(what, 8, 0)
        assert items.surface == (better if surface == "auto" else surface)
        with Served({"name": "exact"}, rescore) as served:
            served.add(np.arange(500), what.corpus)
            served.add(500 + np.arange(8), items.vectors)
            ids, _ = served.search(unseen, 10)
        reached[surface] = (ids >= 500).any(axis=1).mean()
    assert reached["auto"] == reached[better] > reached[worse] + 0.05


def test_free_pairs_are_at_least_as_near_on_both_sides() -> None:
    what = seen("mean")
    one, free = (
        POISONINGS.create("hubs", {"pairs": pairs, "surface": "floats"}).plant(what, 8, 0).vectors
        for pairs in ("one", "free")
    )
    assert np.array_equal(one.floats, free.floats)
    own = [distances(what.known.codes, each.codes).min(axis=1).mean() for each in (one, free)]
    assert own[1] < own[0]


def test_the_corpus_alone_is_enough_to_know_what_is_asked() -> None:
    what = seen()
    blind = Seen(what.known[:2], what.corpus, what.cut, 1.0, "codes")
    items = POISONINGS.create("hubs", {"knows": "corpus"}).plant(blind, 8, 0).vectors
    assert neighbours(what.known.codes, items.codes, 1)[1].mean() < 0.3 * 40
    for ranks in ("codes", "floats"):
        few = replace(blind, corpus=what.corpus[:10], ranks=ranks)
        for sample in (1, 2, 10):
            method = POISONINGS.create("hubs", {"knows": "corpus", "sample": sample})
            assert len(method.plant(few, 1, 0).vectors) == 1


def test_copies_lie_within_a_few_bits_of_what_is_found_most() -> None:
    what = seen()
    items = POISONINGS.create("copies").plant(what, 10, 0).vectors
    nearest, far = neighbours(items.codes, what.corpus.codes, 1)
    assert far.max() <= 6
    assert np.allclose(
        (items.floats * what.corpus.floats[nearest[:, 0]]).sum(axis=1), 0.995, atol=1e-4
    )
    found = np.bincount(neighbours(what.known.codes, what.corpus.codes, 10)[0].ravel())
    assert found[nearest[:, 0]].min() >= np.sort(found)[-10]


def test_a_method_says_how_many_it_can_plant_and_refuses_what_is_no_likeness() -> None:
    most = {name: POISONINGS.create(name).most(120, 500, 0) for name in ("hubs", "copies")}
    assert most == {"hubs": 120, "copies": 500}
    assert POISONINGS.create("hubs", {"knows": "corpus"}).most(2, 500, 0) == 500
    with pytest.raises(UsageError, match="expected a likeness above 0"):
        POISONINGS.create("copies", {"likeness": 1.5})
