"""Functions of the user from texts to codes: what they are given, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from few_texts import write_texts

from advhash.attacks.words import synonyms
from advhash.data.text.characters import as_characters
from advhash.errors import DataError, UsageError
from advhash.experiments.attack.run import attack
from advhash.experiments.config import AttackConfig, TrainConfig
from advhash.experiments.prepare.victim import train
from advhash.victims.external import ExternalVictim, stated_modality

TEXTS = ["a dog", "the cat sleeps", "red", "zebra crossing"]
SOURCE = '''
"""A hash of texts: signs of random projections of the letters."""
import numpy as np

AXES = np.random.default_rng(0).normal(size=(26, 24))

def letters(texts: list[str]):
    counts = [[text.lower().count(chr(97 + at)) for at in range(26)] for text in texts]
    return np.where(np.array(counts) @ AXES > 0, 1, -1)
'''


def letters(texts: list[str]) -> np.ndarray[Any, Any]:
    assert all(isinstance(text, str) for text in texts)
    return np.array([[text.count(letter) - 0.5 for letter in "aeiou"] for text in texts])


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "letter_hash.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("letter_hash", None)


def brought(function: Callable[[Any], Any]) -> ExternalVictim:
    return ExternalVictim(function, name="my:hash", sample=as_characters(TEXTS, 20))


def test_a_function_is_given_the_texts() -> None:
    victim = brought(letters)
    assert victim.bounds.keys() == {"text"}
    assert victim.bits == 5
    relaxed = victim.relax(as_characters(["ooo", "tea"], 9), "text")
    assert (relaxed > 0).tolist() == [
        [False, False, False, True, False], [True, True, False, False, False],
    ]  # fmt: skip
    assert not victim.differentiable
    assert "takes texts" in victim.no_gradient


@pytest.mark.parametrize(
    "codes",
    [np.eye(4) > 0, np.eye(4, dtype=int), 2 * np.eye(4, dtype=np.int8) - 1, np.eye(4) - 0.5],
)
def test_all_kinds_of_codes_give_the_same_bits(codes: Any) -> None:
    relaxed = brought(lambda texts: codes[: len(texts)]).relax(as_characters(TEXTS, 20), "text")
    assert torch.equal(relaxed > 0, torch.eye(4) > 0)


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda texts: np.packbits(np.ones((len(texts), 16), bool), axis=1), "np.unpackbits"),
        (
            lambda texts: (np.arange(8 * len(texts)).reshape(-1, 8) - 9).astype(np.int8),
            "unpackbits",
        ),
        (lambda texts: np.ones((1, 8)), r"codes for a list of 4 texts, got \(1, 8\)"),
        (lambda texts: np.full((len(texts), 8), np.nan), "finite codes"),
        (lambda texts: texts, "numpy makes no array|return one tensor or array"),
        (lambda texts: texts.shape, "called with a list of 4 texts, it raised AttributeError"),
    ],
)
def test_what_is_no_code_is_refused(give: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        brought(give)
    assert "\n" not in str(refused.value)


def test_what_a_function_says_of_its_input() -> None:
    def pictures(images: torch.Tensor) -> None: ...

    def nothing(given): ...  # type: ignore[no-untyped-def]

    assert stated_modality(letters) == "text"
    assert stated_modality(pictures) == "image"
    assert stated_modality(nothing) is None
    nothing.modality = "text"  # type: ignore[attr-defined]
    assert stated_modality(nothing) == "text"


def test_a_run_on_a_function_of_texts(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its texts come as they are, words by nearness move them, words by gradients refuse."""
    near = {"dog": ["hound"], "park": ["garden"], "man": ["person"], "big": ["large"]}
    monkeypatch.setattr(synonyms, "near_words", lambda known, most, similarity: near)
    monkeypatch.setattr(ExternalVictim, "default_texts", str(write_texts(module / "texts.csv")))
    config = {
        "victim": {"name": "letter_hash:letters"},
        "attack": {"name": "synonyms-untargeted"},
        "budget": {"norm": "l0", "eps": 1},
        "protocol": {"queries": 8},
    }
    given = AttackConfig.build(config).trusting(True)
    record = attack(given, module / "run")
    assert record.protocol.query_modality == "text"
    assert record.victim.name == "letter_hash:letters"
    before, after = (record.metrics[name] for name in ("map", "map_adversarial"))
    assert before is not None
    assert after is not None
    gradient = AttackConfig.build({**config, "attack": {"name": "hotflip"}}).trusting(True)
    with pytest.raises(UsageError, match=r"needs gradients: .*takes texts.*synonyms, token-noise"):
        attack(gradient, module / "other")
    pictures = {"victim": config["victim"], "dataset": {"name": "digits"}}
    with pytest.raises(DataError, match="needs texts: 'digits' has image"):
        train(TrainConfig.build(pictures).trusting(True))
