"""Texts and pictures that are planted: inside their budgets, and nearer to queries than before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_text_models as tiny
import torch

from advhash.attacks.poisoning.base import Inputs, Planted, Poisoning, Seen, Surface
from advhash.attacks.poisoning.inputs import Pull, embedder
from advhash.budget import Budget
from advhash.codes.hamming import distances
from advhash.codes.packed import HashCodes
from advhash.codes.vectors import Vectors, unit_rows
from advhash.data import Dataset, Split
from advhash.data.load import load_dataset
from advhash.data.text.characters import as_characters, as_strings
from advhash.errors import UsageError
from advhash.registry import POISONINGS, VICTIMS
from advhash.victims.encoders.encoded import DOCUMENT, Encoded

pytest.importorskip("transformers")
LENGTH, TOKENS = 80, 5


def texts(rows: int, seed: int) -> Split:
    """Texts of four of six words, of two kinds: the words of one are rare in the other."""
    rng = np.random.default_rng(seed)
    said = []
    for row in range(rows):
        weights = np.where(np.arange(len(tiny.WORDS)) % 2 == row % 2, 4.0, 1.0)
        chosen = rng.choice(tiny.WORDS, 4, replace=False, p=weights / weights.sum())
        said.append(" ".join(chosen))
    labels = torch.zeros(rows, 1, dtype=torch.uint8)
    return Split({"text": as_characters(said, LENGTH)}, labels, (), tuple(said))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoded, Dataset]:
    folder = tmp_path_factory.mktemp("bert")
    tiny.bert(folder)
    victim: Encoded = VICTIMS.create("encoder", {"encoder": f"hf:{folder}", "quantise": "mean"})
    data = Dataset(
        "small texts", {}, texts(100, 0), torch.arange(100), texts(4, 1), texts(60, 2), ("any",),
        text_kind="characters",
    )  # fmt: skip
    return victim.fit(data, seed=0), data


@pytest.fixture(scope="module")
def viewer() -> tuple[Encoded, Dataset]:
    data = load_dataset("digits", {})
    data = replace(
        data,
        database=data.database.take(torch.arange(120)),
        train_rows=torch.arange(120),
        validation=data.validation.take(torch.arange(12)),
        query=data.query.take(torch.arange(40)),
    )
    torch.manual_seed(0)
    settings = {"encoder": "timm:test_resnet", "pretrained": False, "quantise": "lsh", "bits": 48}
    victim: Encoded = VICTIMS.create("encoder", settings)
    return victim.fit(data, seed=0), data


def vectors(victim: Encoded, split: Split, modality: str) -> Vectors:
    with torch.no_grad():
        floats = embedder(victim).relax(split.unit(modality, split.inputs[modality]), modality)
        real = victim.cut_of(modality)(floats)
    return Vectors(HashCodes.from_relaxed(real), floats.numpy(), real.numpy())


def seen(made: tuple[Encoded, Dataset], modality: str, ranks: Surface, budget: Budget) -> Seen:
    victim, data = made
    known, corpus = (vectors(victim, split, modality) for split in (data.query, data.database))
    inputs = Inputs(victim, data.query, data.database, data.validation, budget)
    return Seen(known, corpus, victim.cut_of(modality), 1.0, ranks, inputs)


def planted(name: str, what: Seen, count: int, **settings: Any) -> Planted:
    method: Poisoning = POISONINGS.create(name, settings)
    return method.plant(what, count, 0)


def far(items: Vectors, queries: Vectors, ranks: Surface) -> float:
    """Mean distance of queries to the nearest item."""
    if ranks == "codes":
        return float(distances(queries.codes, items.codes).min(axis=1).mean())
    return float(1 - (unit_rows(queries.floats) @ unit_rows(items.floats).T).max(axis=1).mean())


def test_what_is_pulled_at_are_mean_distances(reader: tuple[Encoded, Dataset]) -> None:
    points = vectors(reader[0], reader[1].query, "text")
    places = np.arange(60) % 3
    item = points[np.array([7, 8])]
    for ranks, real in (("codes", item.real), ("floats", item.floats)):
        pull = Pull.toward(points, places, 3, ranks)  # type: ignore[arg-type]
        left = pull.left(torch.from_numpy(real), torch.tensor([2, 0]))
        for place, value in zip((2, 0), left, strict=True):
            mine, one = points[places == place], item[np.array([0 if place == 2 else 1])]
            if ranks == "codes":
                expected = distances(one.codes, mine.codes).mean() / points.codes.bits
            else:
                mean = unit_rows(mine.floats).mean(axis=0)
                expected = 1 - unit_rows(one.floats)[0] @ mean / np.linalg.norm(mean)
            assert np.isclose(float(value), expected, atol=1e-5)


def test_an_encoder_without_its_cut_gives_embeddings_and_leaves_the_victim_as_it_was(
    reader: tuple[Encoded, Dataset],
) -> None:
    victim, data = reader
    rows = data.query.tensor("text")[:5]
    bare = victim.uncut()
    with torch.no_grad():
        before = victim.relax(rows, "text")
        assert torch.equal(bare.relax(rows, "text"), victim.embedded(rows, "text"))
        assert not torch.equal(before, bare.relax(rows, "text"))
        assert torch.equal(victim.relax(rows, "text"), before)


@pytest.mark.parametrize("ranks", ["codes", "floats"])
def test_a_text_keeps_its_tokens_and_comes_nearer_to_queries(
    ranks: Surface, reader: tuple[Encoded, Dataset]
) -> None:
    victim = reader[0]
    what = seen(reader, "text", ranks, Budget("l0", TOKENS))
    made, again = (planted("hub-text", what, 2) for _ in range(2))
    said = as_strings(torch.stack(list(made.inputs)))
    assert said == as_strings(torch.stack(list(again.inputs)))
    tokens = victim.tokeniser()(said)
    assert ((tokens.words >= 0).sum(dim=1) <= TOKENS).all()
    stored = vectors(
        victim, Split({"text": torch.stack(list(made.inputs))}, torch.zeros(2, 1)), "text"
    )
    assert np.array_equal(stored.codes.words, made.vectors.codes.words)
    begun = planted("hub-text", what, 2, candidates=1, beam=1, steps=1)
    unseen = vectors(victim, texts(80, 9), "text")
    drawn = np.mean([far(what.corpus[np.array([i, i + 1])], unseen, ranks) for i in range(20)])
    assert far(made.vectors, what.known, ranks) <= far(begun.vectors, what.known, ranks)
    assert far(made.vectors, unseen, ranks) < 0.9 * drawn


def test_texts_are_planted_as_documents_where_these_have_a_prompt(
    tmp_path: Path, reader: tuple[Encoded, Dataset]
) -> None:
    victim, data = reader
    assert victim.reading_documents() is victim
    tiny.bert(tmp_path)
    settings = {"encoder": f"hf:{tmp_path}", "quantise": "mean", "document_prompt": "the dog "}
    prompted: Encoded = VICTIMS.create("encoder", settings)
    prompted.fit(prompted.view(data, settings), seed=0)
    reads, rows = prompted.reading_documents(), data.query.tensor("text")[:5]
    with torch.no_grad():
        as_query, as_document = (prompted.relax(rows, side) for side in ("text", DOCUMENT))
        assert torch.equal(reads.relax(rows, "text"), as_document)
        assert torch.equal(prompted.relax(rows, "text"), as_query)
    assert not torch.equal(as_query, as_document)
    known, corpus = vectors(prompted, data.query, "text"), vectors(reads, data.database, "text")
    inputs = Inputs(reads, data.query, data.database, data.validation, Budget("l0", TOKENS))
    what = Seen(known, corpus, prompted.cut_of(DOCUMENT), 1.0, "codes", inputs)
    made = planted("hub-text", what, 1, candidates=4, beam=1, steps=2)
    stored = prompted.encode(torch.stack(list(made.inputs)), DOCUMENT)
    assert np.array_equal(stored.words, made.vectors.codes.words)


@pytest.mark.parametrize(("ranks", "items"), [("codes", 2), ("floats", 1)])
def test_a_picture_stays_in_its_budget_and_comes_nearer_to_queries(
    ranks: Surface, items: int, viewer: tuple[Encoded, Dataset]
) -> None:
    """A budget below half a step of 8 bits leaves the pictures that it begins as."""
    own = viewer[1].validation.tensor("image").short()
    near = {}
    for eps in (0.1, 24):
        what = seen(viewer, "image", ranks, Budget("linf", eps / 255))
        made = planted("hub-image", what, items, file="", steps=8, step=0.04)
        change = [
            int((own - image.short()).abs().flatten(1).amax(dim=1).min()) for image in made.inputs
        ]
        assert (max(change) == 0) if eps < 1 else (0 < max(change) <= eps)
        near[eps] = far(made.vectors, what.known, ranks)
    assert near[24] < 0.97 * near[0.1], near


def test_the_store_gets_what_the_file_holds(viewer: tuple[Encoded, Dataset]) -> None:
    """What is kept of an item is the picture that came through the file, and its code."""
    what = seen(viewer, "image", "codes", Budget("linf", 24 / 255))
    plain, through = (planted("hub-image", what, 3, file=file, steps=2) for file in ("", "jpeg30"))
    kept = torch.stack(list(through.inputs)).float() / 255
    assert np.array_equal(viewer[0].encode(kept, "image").words, through.vectors.codes.words)
    assert not torch.equal(torch.stack(list(plain.inputs)).float() / 255, kept)
    assert len({image.numpy().tobytes() for image in through.inputs}) == 3


@pytest.mark.parametrize(
    ("name", "modality", "budget", "message"),
    [
        ("hub-text", "image", Budget("l0", 5), "expected an encoder of texts"),
        ("hub-text", "text", Budget("linf", 0.1), "expected a number of tokens"),
        ("hub-image", "text", Budget("linf", 0.1), "expected a victim of pictures"),
        ("hub-image", "image", Budget("l0", 5), "expected a budget on pixels"),
    ],
)
def test_inputs_that_cannot_be_made_are_refused(
    name: str, modality: str, budget: Budget, message: str, reader: tuple[Encoded, Dataset]
) -> None:
    method: Poisoning = POISONINGS.create(name)
    with pytest.raises(UsageError, match=message):
        method.check_inputs(reader[0], modality, budget)


def test_a_picture_needs_one_that_it_begins_as_and_gradients(
    viewer: tuple[Encoded, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert POISONINGS.create("hub-image").most(40, 120, 12) == 12
    assert POISONINGS.create("hub-text").most(40, 120, 0) == 40
    monkeypatch.setattr(viewer[0], "differentiable", False)
    with pytest.raises(UsageError, match="needs gradients"):
        POISONINGS.create("hub-image").check_inputs(viewer[0], "image", Budget("linf", 0.1))
