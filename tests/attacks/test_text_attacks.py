"""Attacks on text: what a changed word is, the contract, each rule against an explicit loop."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from advhash.attacks.base import Attack, AttackData, Goal, Knowledge
from advhash.attacks.words.edits import BagEdits, TokenEdits
from advhash.attacks.words.hotflip import HotFlip, TokenNoise, label_words
from advhash.budget import Budget, Norm
from advhash.codes import HashCodes
from advhash.codes.metrics import retrieval_average_precision
from advhash.data import Batch, Dataset, Modality, Split, TextKind
from advhash.data.readers import openmoji
from advhash.data.text.edits import WordBudget, lexicon, spelled
from advhash.data.text.kinds import PADDING, UNKNOWN
from advhash.errors import ConfigError, DataError, UsageError
from advhash.experiments.attack.run import attack
from advhash.experiments.config import AttackConfig, BudgetConfig
from advhash.registry import ATTACKS
from advhash.reports.page.render import page
from advhash.targets import choose_targets
from advhash.victims.base import HashVictim
from advhash.victims.networks.text_encoders import text_bounds, text_encoder

NAMES = [
    entry.name
    for entry in ATTACKS
    if "text" in entry.build.modalities and not entry.name.startswith("synonyms")
]  # synonyms stand in texts as they are, see test_attacks_on_characters.py
KINDS: tuple[TextKind, ...] = ("words", "tokens")
CLASSES = ("animal", "plant", "tool", "music")
WORDS = 8  # of each class, the first being its name
COMMON = ("big", "small", "red", "old", "new", "one")  # words of every class
LENGTH, QUERIES = 7, 30
TWO = Budget("l0", 2)


def vocabulary(kind: TextKind) -> tuple[str, ...]:
    own = [
        name if number == 0 else f"{name}{number}" for name in CLASSES for number in range(WORDS)
    ]
    known = tuple(f"word:{word}" for word in (*own, *COMMON))
    return ("[padding]", "[unknown]", *known) if kind == "tokens" else known


def scene(kind: TextKind) -> Dataset:
    """Texts of three words of their class and two common ones; a query has an unknown one too."""
    generator = np.random.default_rng(0)
    known = vocabulary(kind)
    offset = len(known) - len(vocabulary("words"))

    def split(rows: int) -> Split:
        texts, labels = [], np.zeros((rows, len(CLASSES)), np.uint8)
        for row in range(rows):
            label = row % len(CLASSES)
            labels[row, label] = 1
            own = generator.choice(WORDS, 3, replace=False) + label * WORDS
            common = generator.choice(len(COMMON), 2, replace=False) + len(CLASSES) * WORDS
            texts.append(np.concatenate([own, common]) + offset)
        if kind == "tokens":
            ids = np.full((rows, LENGTH), PADDING)
            ids[:, :5] = texts
            ids[:, 5] = UNKNOWN
            values = torch.from_numpy(ids)
        else:
            counts = np.zeros((rows, len(known)), np.uint8)
            counts[np.arange(rows)[:, None], texts] = 1
            values = torch.from_numpy(counts)
        return Split({"text": values}, torch.from_numpy(labels))

    database = split(160)
    return Dataset(
        "small texts", {}, database, torch.arange(160), split(8), split(QUERIES), CLASSES,
        card={"giveaway_words": {"tool": [{"word": "tool1", "precision": 1.0, "recall": 0.5}]}},
        vocabulary=known, text_kind=kind,
    )  # fmt: skip


class TextHash(HashVictim):
    """The text networks of dlcmh and dcmh as they begin: texts with the same words are near."""

    def __init__(self, kind: TextKind, bits: int = 24) -> None:
        super().__init__()
        size = len(vocabulary(kind))
        self.bits, self.history = bits, []
        self.bounds = {"text": text_bounds(kind, size)}
        torch.manual_seed(3)
        self.network = text_encoder(
            kind, text_size=size, bits=bits, width=64, dropout=0.0, word_dropout=0.0,
            normalise_text=True,
        )  # fmt: skip
        database = scene(kind).database.rows(torch.arange(160)).inputs["text"]
        with torch.no_grad():  # balanced bits, so that codes differ
            self.register_buffer("middle", self.network.eval()(database).median(dim=0).values)

    middle: Tensor

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        codes: Tensor = self.network(inputs) - self.middle
        return codes

    def fit(self, data: Dataset, *, seed: int, progress: object = None) -> TextHash:  # type: ignore[override]
        return self


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> TextKind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def data(kind: TextKind) -> Dataset:
    return scene(kind)


@pytest.fixture
def victim(kind: TextKind) -> HashVictim:
    return TextHash(kind).eval()


@pytest.fixture
def served(victim: HashVictim, data: Dataset) -> AttackData:
    return AttackData(data, victim.database_codes(data, "text"), "text", "text")


@pytest.fixture
def queries(data: Dataset) -> Batch:
    return data.query.rows(torch.arange(QUERIES))


@pytest.fixture
def targets(queries: Batch, served: AttackData) -> Tensor:
    chosen = choose_targets("disjoint", queries.labels.numpy(), served.labels.numpy(), seed=0)
    return torch.from_numpy(chosen)


def moved_by(
    name: str, victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor,
    budget: Budget = TWO, seed: int = 0, **settings: object,
) -> tuple[Tensor, HashCodes, Tensor]:  # fmt: skip
    """Texts, codes and distances of an attack that was fitted."""
    method: Attack = ATTACKS.create(name, settings).fit(victim, served, budget)
    aims = targets if method.goal == "targeted" else None
    result = method.perturb(
        victim, queries, aims, budget, "text", seed=seed, vocabulary=served.dataset.vocabulary
    )
    return result.batch.inputs["text"], result.codes, result.distance


def precision(codes: HashCodes, labels: Tensor, served: AttackData) -> float:
    marks = served.labels.numpy()
    return float(retrieval_average_precision(codes, served.codes, labels.numpy(), marks).mean())


def edits(clean: list[str], moved: list[str]) -> tuple[Counter[str], Counter[str]]:
    """Words taken out and put in."""
    before, after = Counter(clean), Counter(moved)
    return before - after, after - before


# What a changed word is


def emoji_texts() -> tuple[tuple[str, ...], list[list[str]]]:
    texts = [["fox", "face"], ["fox", "red"], ["face", "red", "box"], ["box", "ox"], ["ox", "fox"]]
    return openmoji.vocabulary(texts), texts


def test_grams_come_and_go_with_their_word() -> None:
    """A text changed through the lexicon is what counting the changed text gives."""
    known, texts = emoji_texts()
    assert any(feature.startswith("gram:") for feature in known)
    words = lexicon(known, len(known))
    counts = torch.from_numpy(openmoji.count_features(texts, known)).float()
    for row, text in enumerate(texts):
        for out, new in itertools.product(text, words.words):
            if out not in words.words or new in text:
                continue
            swap = torch.tensor([[words.words.index(out), words.words.index(new)]])
            changed = words.changed(counts[row : row + 1], swap, torch.tensor([[-1.0, 1.0]]))
            after = [word for word in text if word != out] + [new]
            expected = torch.from_numpy(openmoji.count_features([after], known)).float()
            assert torch.equal(changed, expected)


def test_scores_are_the_change_by_one_more_word() -> None:
    known, _ = emoji_texts()
    words = lexicon(known, len(known))
    gradient = torch.randn(2, len(known), generator=torch.Generator().manual_seed(0))
    scores = words.scores(gradient)
    for place, word in enumerate(words.words):
        counts = torch.from_numpy(openmoji.count_features([[word]], known)).float()[0]
        assert torch.allclose(scores[:, place], gradient @ counts, atol=1e-5)


def test_distance_of_counts_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, moved = (
        torch.randint(0, 3, (20, 6), generator=generator).float() for _ in range(2)
    )  # fmt: skip
    found = WordBudget(TWO).distance(clean, moved).tolist()
    for row in range(20):
        out = sum(max(a - b, 0) for a, b in zip(clean[row], moved[row], strict=True))
        new = sum(max(b - a, 0) for a, b in zip(clean[row], moved[row], strict=True))
        assert found[row] == max(out, new)


def test_distance_of_tokens_is_the_number_of_places() -> None:
    clean, moved = torch.tensor([[5, 6, 0], [5, 6, 0]]), torch.tensor([[5, 7, 0], [6, 5, 0]])
    assert WordBudget(TWO).distance(clean, moved).tolist() == [1, 2]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_projected_counts_are_a_text_near_the_clean_one(most: int) -> None:
    known, texts = emoji_texts()
    clean = torch.from_numpy(openmoji.count_features(texts, known)).float()
    noise = 3 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    budget = WordBudget(Budget("l0", most), known)
    moved = budget.project(clean, clean + noise, (0.0, 255.0))
    assert float(budget.distance(clean, moved).max()) == most
    words = lexicon(known, len(known))
    for row, text in enumerate(texts):
        rare = [word for word in text if word not in words.words]
        after = spelled(moved[row], known) + rare
        expected = torch.zeros(len(known))
        for feature, times in openmoji.features(after).items():
            if feature in known:
                expected[known.index(feature)] = times
        assert torch.equal(moved[row], expected)


def test_projected_tokens_stay_in_the_vocabulary_and_as_long() -> None:
    clean = torch.tensor([[5, 6, 7, 0], [5, 0, 0, 0]])
    wild = torch.tensor([[-3, 99, 8, 4], [0, 9, 9, 9]])
    moved = WordBudget(TWO).project(clean, wild, (0.0, 9.0))
    # 99 is no token and becomes the last; −3 would be padding; what was padding stays
    assert moved.tolist() == [[5, 9, 8, 0], [5, 0, 0, 0]]
    one = WordBudget(Budget("l0", 1)).project(clean, wild, (0.0, 9.0))
    assert one.tolist() == [[5, 9, 7, 0], [5, 0, 0, 0]]
    assert one.dtype == torch.int64


def test_what_lies_inside_stays(kind: TextKind, queries: Batch, data: Dataset) -> None:
    clean = queries.inputs["text"]
    moved = clean.roll(1, dims=0)
    far = WordBudget(Budget("l0", 50), data.vocabulary)
    assert torch.equal(far.project(clean, moved, text_bounds(kind, 50)), moved)


# Single edits against all of them


def test_edits_of_counts_against_all_edits() -> None:
    known = lexicon((), 6)
    free = torch.tensor([True, True, True, True, False, True])
    clean = torch.tensor([[1.0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0]])
    gradient = torch.randn(2, 6, generator=torch.Generator().manual_seed(4))
    found = BagEdits(known, free).best(clean, clean, gradient, 100)
    for row in range(2):
        words = int(clean[row].sum())
        allowed = {}
        gone = [None, *(w for w in range(6) if clean[row, w] and free[w])]
        come = [None, *(w for w in range(6) if not clean[row, w] and free[w])]
        for out, new in itertools.product(gone, come):
            if new is None and (out is None or words < 2):
                continue
            text = clean[row].clone()
            if out is not None:
                text[out] -= 1
            if new is not None:
                text[new] += 1
            allowed[tuple(text.tolist())] = float((gradient[row] * (clean[row] - text)).sum())
        ranked = sorted(allowed, key=lambda text: -allowed[text])
        listed = [tuple(text) for text in found[row].tolist()]
        assert listed[: len(ranked)] == ranked
        assert set(listed[len(ranked) :]) <= {tuple(clean[row].tolist())}


def test_edits_of_tokens_against_all_edits() -> None:
    leaving = torch.tensor([False, True, True, True, False, True])
    entering = torch.tensor([False, False, True, True, False, True])
    clean = torch.tensor([[2, 4, 1, 0]])
    gradient = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(4))
    found = TokenEdits(leaving, entering).best(clean, clean, gradient, 100)[0].tolist()
    allowed = {}
    for place, word in itertools.product((0, 2), (3, 5)):  # 2 stands there already
        text = clean[0].tolist()
        allowed[(place, word)] = float(gradient[0, place, text[place]] - gradient[0, place, word])
    ranked = sorted(allowed, key=lambda edit: -allowed[edit])
    for text, (place, word) in zip(found, ranked, strict=False):
        assert text == [*clean[0, :place], word, *clean[0, place + 1 :]]
    assert all(text == clean[0].tolist() for text in found[len(ranked) :])


def test_a_changed_word_rests() -> None:
    """Two edits are two changed words, never one word changed twice."""
    everywhere = torch.ones(6, dtype=torch.bool)
    clean, now = torch.tensor([[2, 3]]), torch.tensor([[4, 3]])
    gradient = torch.randn(1, 2, 6)
    tried = TokenEdits(everywhere, everywhere).best(now, clean, gradient, 50)[0]
    assert set(tried[:, 0].tolist()) == {4}
    bag, swapped = torch.tensor([[1.0, 1, 0, 0]]), torch.tensor([[0.0, 1, 1, 0]])
    tried = BagEdits(lexicon((), 4), everywhere[:4]).best(swapped, bag, torch.randn(1, 4), 50)[0]
    assert set(tried[:, 0].tolist()) == {0.0}
    assert set(tried[:, 2].tolist()) == {1.0}


# The contract, for every registered attack on text


@pytest.mark.parametrize("name", NAMES)
def test_the_moved_text_is_a_text_inside_the_budget(
    name: str, kind: TextKind, victim: HashVictim, served: AttackData, queries: Batch,
    targets: Tensor,
) -> None:  # fmt: skip
    clean, known = queries.inputs["text"], served.dataset.vocabulary
    kept = {*CLASSES, "tool1", "red"}
    moved, codes, distance = moved_by(name, victim, served, queries, targets, forbidden=("red",))
    assert moved.shape == clean.shape
    assert moved.dtype == clean.dtype
    assert np.array_equal(codes.words, victim.encode(moved, "text").words)
    assert not torch.equal(moved, clean)
    if kind == "tokens":
        assert torch.equal(moved == PADDING, clean == PADDING)
        assert not bool(((moved == UNKNOWN) & (clean != UNKNOWN)).any())
        assert 0 <= int(moved.min()) <= int(moved.max()) < len(known)
    else:
        assert torch.equal(moved, moved.round().clamp(0, 255))
    for row in range(QUERIES):
        gone, come = edits(spelled(clean[row], known), spelled(moved[row], known))
        assert max(gone.total(), come.total()) <= distance[row] <= 2
        assert not kept & (gone.keys() | come.keys())


@pytest.mark.parametrize("name", NAMES)
def test_leaves_everything_else_untouched(
    name: str, victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    before = queries.inputs["text"].clone()
    weights = {key: values.clone() for key, values in victim.state_dict().items()}
    victim.train()
    state = torch.random.get_rng_state()
    moved_by(name, victim, served, queries, targets)
    assert all(module.training for module in victim.modules())
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(before, queries.inputs["text"])
    assert all(torch.equal(values, victim.state_dict()[key]) for key, values in weights.items())
    assert all(values.grad is None and values.requires_grad for values in victim.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_only_the_seed_decides(
    name: str, victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    torch.manual_seed(1)
    first = moved_by(name, victim, served, queries, targets, seed=3)[0]
    torch.manual_seed(2)
    assert torch.equal(first, moved_by(name, victim, served, queries, targets, seed=3)[0])


@pytest.mark.parametrize("words", [1, 3])
def test_hotflip_beats_random_words(
    words: int, victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    budget = Budget("l0", words)
    given = (victim, served, queries, targets, budget)
    noise = [moved_by("token-noise", *given, seed=seed)[1] for seed in range(8)]

    def by_chance(labels: Tensor) -> float:
        return float(np.mean([precision(one, labels, served) for one in noise]))

    aimed = moved_by("hotflip", *given)[1]
    assert precision(aimed, targets, served) > by_chance(targets) + 0.1
    away = moved_by("hotflip-untargeted", *given)[1]
    own = queries.labels
    assert precision(away, own, served) < by_chance(own) - 0.05


def test_random_words_use_the_whole_budget(
    victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    moved, _, distance = moved_by("token-noise", victim, served, queries, targets)
    assert distance.tolist() == [2.0] * QUERIES
    assert len(moved.unique(dim=0)) > QUERIES / 2


def test_words_of_labels_may_be_allowed(
    victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    known = served.dataset.vocabulary
    assert label_words(served.dataset) == {*CLASSES, "tool1"}
    moved = moved_by("hotflip", victim, served, queries, targets, label_words=True)[0]
    changes = [
        edits(spelled(before, known), spelled(after, known))
        for before, after in zip(queries.inputs["text"], moved, strict=True)
    ]
    touched = {word for gone, come in changes for word in (*gone, *come)}
    assert touched & {*CLASSES, "tool1"}


def test_more_candidates_are_never_worse_for_one_word(
    victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    """Every text that is tried with 1 candidate is tried with 200, toward the same anchors."""
    one = Budget("l0", 1)
    wrong = []
    for count in (1, 200):
        method = HotFlip(candidates=count).fit(victim, served, one)
        anchors = torch.ones(QUERIES, victim.bits)
        method.anchors = lambda relaxed, aims: anchors  # type: ignore[method-assign]  # noqa: B023
        codes = method.perturb(victim, queries, targets, one, "text").codes
        wrong.append((codes.signs() < 0).sum(axis=1))
    assert (wrong[1] <= wrong[0]).all()
    assert (wrong[1] < wrong[0]).any()


def test_a_query_at_its_anchor_rests(
    victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    method = HotFlip().fit(victim, served, TWO)
    method.anchors = lambda relaxed, aims: relaxed.sign()  # type: ignore[method-assign]
    result = method.perturb(victim, queries, targets, TWO, "text")
    assert torch.equal(result.batch.inputs["text"], queries.inputs["text"])
    assert result.distance.tolist() == [0.0] * QUERIES


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_one_and_more_words_than_the_text_has(
    name: str, kind: TextKind, victim: HashVictim, served: AttackData, data: Dataset
) -> None:
    one = data.query.rows(torch.arange(1))
    aims = torch.tensor([[0, 0, 0, 1]], dtype=torch.uint8)
    _, _, distance = moved_by(name, victim, served, one, aims, Budget("l0", 100))
    assert float(distance) >= 1
    if kind == "tokens":
        assert float(distance) <= 6


class Cheat(Attack):
    """Returns whatever it likes."""

    goal: ClassVar[Goal] = "untargeted"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})
    knowledge: ClassVar[Knowledge] = frozenset()
    norms: ClassVar[frozenset[Norm]] = frozenset({"l0"})

    def run(
        self, victim: HashVictim, batch: Batch, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        return batch.inputs["text"] * -7 + 3


def test_the_harness_trusts_no_attack(victim: HashVictim, queries: Batch, data: Dataset) -> None:
    result = Cheat().perturb(victim, queries, None, TWO, "text", vocabulary=data.vocabulary)
    assert float(result.overrun.min()) > 0
    assert float(result.distance.max()) <= 2
    low, high = victim.bounds["text"]
    assert low <= float(result.batch.inputs["text"].min())
    assert float(result.batch.inputs["text"].max()) <= high


# What is refused


@pytest.mark.parametrize("name", NAMES)
def test_budgets_that_are_refused(
    name: str, victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    for budget, words in ((Budget("linf", 0.5), "budget in l0"), (Budget("l0", 0.5), "1 word")):
        with pytest.raises(UsageError, match=words):
            moved_by(name, victim, served, queries, targets, budget)


@pytest.mark.parametrize("name", NAMES)
def test_before_fit(name: str, victim: HashVictim, queries: Batch, targets: Tensor) -> None:
    method: Attack = ATTACKS.create(name)
    aims = targets if method.goal == "targeted" else None
    with pytest.raises(UsageError, match="fit"):
        method.perturb(victim, queries, aims, TWO, "text")


def test_settings_that_are_refused(victim: HashVictim, served: AttackData) -> None:
    with pytest.raises(ConfigError, match="candidates >= 1"):
        ATTACKS.create("hotflip", {"candidates": 0})
    with pytest.raises(ConfigError, match="single words in lower case, got 'Red'"):
        HotFlip(forbidden=("Red",)).fit(victim, served, TWO)
    HotFlip(forbidden=("黑狗", "собака")).fit(victim, served, TWO)


def test_embeddings_have_no_words(victim: HashVictim, served: AttackData) -> None:
    sentences = replace(served, dataset=replace(served.dataset, text_kind="sentence"))
    with pytest.raises(ConfigError, match="text=words or text=tokens"):
        TokenNoise().fit(victim, sentences, TWO)


def test_a_target_that_no_row_has(
    victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    with pytest.raises(DataError, match="shares a label with some database row"):
        moved_by("hotflip", victim, served, queries, torch.zeros_like(targets))


def test_victims_without_text_or_gradients(
    victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    method = HotFlip().fit(victim, served, TWO)
    with pytest.raises(UsageError, match="expected a modality of the victim"):
        method.perturb(victim, queries, targets, TWO, "image")
    victim.differentiable = False
    with pytest.raises(UsageError, match="needs gradients"):
        method.perturb(victim, queries, targets, TWO, "text")
    moved_by("token-noise", victim, served, queries, targets)  # needs none


def test_eps_of_an_attack_on_words_counts_words() -> None:
    assert BudgetConfig(eps="3").resolve(HotFlip.default_budget) == Budget("l0", 3)
    with pytest.raises(ConfigError, match="positive"):
        BudgetConfig(eps="0").resolve(HotFlip.default_budget)


# The whole way


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_text_queries(kind: TextKind, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "victim": {"name": "dcmh", "bits": 16, "epochs": 20, "width": 128, "freeze_backbone": True,
                   "augmentation": False},
        "attack": {"name": "hotflip"},
        "dataset": {"name": "openmoji", "text": kind},
        "protocol": {"query_modality": "text", "database": "text", "queries": 30},
    }  # fmt: skip
    record = attack(AttackConfig.build(settings), tmp_path / "run")
    assert record.budget.text == "2 words"
    changed, covered = (record.metrics[name] for name in ("words_changed", "tmap_normalised"))
    assert changed is not None
    assert 0 < (changed.value or 0) <= 2
    assert covered is not None  # the victim is small: its ceiling is low
    assert (covered.value or 0) > 0.3
    assert "weaker_than_noise" not in {flag.name for flag in record.flags}
    shown = [example for example in record.examples if example.words_before]
    assert any(example.words_before != example.words_after for example in shown)
    assert "<ins>" in page([tmp_path / "run"])
    settings["dataset"]["text"] = "sentence"
    with pytest.raises(UsageError, match="changes words"):
        attack(AttackConfig.build(settings), tmp_path / "other")
