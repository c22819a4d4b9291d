"""Texts as characters: there and back, and how many words changed, against plain recursion."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings, strategies as st

from advhash.budget import Budget
from advhash.data.load import load_dataset
from advhash.data.text.characters import (
    ROOM,
    are_characters,
    as_characters,
    as_strings,
    changed_words,
    exchanged,
    within,
    word_spans,
)
from advhash.data.text.edits import WordBudget, spelled

PLAIN = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)
WORDS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=5)


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(PLAIN, min_size=1, max_size=4))
def test_texts_come_back(texts: list[str]) -> None:
    assert as_strings(as_characters(texts)) == texts


def test_what_is_no_character_is_replaced() -> None:
    rows = torch.tensor([[0xD800, 65, 0x110000, -5, 66, 0, 67]], dtype=torch.int32)
    assert as_strings(rows) == ["\ufffdA\ufffd\ufffdB"]
    assert as_strings(as_characters(["a\0b\ud800"])) == ["a\ufffdb\ufffd"]
    assert as_strings(as_characters(["four", "a"], 2)) == ["fo", "a"]
    assert are_characters(rows)
    assert not are_characters(rows.long())


def slow(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """The least number of words put in, taken out or exchanged, by trying all."""

    @functools.cache
    def cost(left: tuple[str, ...], right: tuple[str, ...]) -> int:
        if not left or not right:
            return len(left) + len(right)
        return min(
            cost(left[1:], right[1:]) + (left[0] != right[0]),
            cost(left[1:], right) + 1,
            cost(left, right[1:]) + 1,
        )

    return cost(one, other)


@settings(max_examples=200, deadline=None)
@given(one=WORDS, other=WORDS, most=st.integers(1, 4))
def test_changed_words_are_counted_as_by_hand(one: list[str], other: list[str], most: int) -> None:
    clean, moved = " ".join(one), "  ".join(other)
    assert changed_words(clean, moved) == slow(tuple(one), tuple(other))
    kept = within(clean, moved, most)
    assert changed_words(clean, kept) <= most
    if changed_words(clean, moved) <= most:
        assert kept == moved


def test_the_first_changes_are_kept() -> None:
    assert within("a b  c d", "x b  y z", 2) == "x b  y d"
    assert within("a b c", "x y", 1) == "a b c"
    assert exchanged("a  dog, runs", 1, "cat,") == "a  cat, runs"
    assert word_spans(" two words ") == [(1, 4), (5, 10)]


def test_a_budget_of_words_projects_texts() -> None:
    clean = as_characters(["a dog runs", "one two"], 20)
    moved = as_characters(["the cat sleeps", "one two three"], 20)
    budget = WordBudget(Budget("l0", 2))
    assert budget.distance(clean, moved).tolist() == [3, 1]
    projected = budget.project(clean, moved, (0, 0x10FFFF))
    assert as_strings(projected) == ["the cat runs", "one two three"]
    assert projected.dtype == torch.int32
    assert spelled(moved[0], ()) == ["the", "cat", "sleeps"]


def test_a_data_set_with_its_texts_as_they_are() -> None:
    data = load_dataset("openmoji", {"text": "characters"})
    batch = data.query.rows(torch.arange(5)).inputs["text"]
    assert data.text_kind == "characters"
    assert as_strings(batch) == list(data.query.texts[:5])
    longest = max(len(text) for part in data.stored.values() for text in part.texts)
    assert batch.shape == (5, longest + ROOM)
    assert data.fingerprint() != load_dataset("openmoji", {}).fingerprint()


def test_nothing_is_derived_in_characters() -> None:
    from advhash.errors import UsageError
    from advhash.victims.perceptual.hashes import DHash

    with pytest.raises(UsageError, match="only an encoder of texts has a gradient"):
        DHash().differentiable_inputs(as_characters(["a"]), "text")
