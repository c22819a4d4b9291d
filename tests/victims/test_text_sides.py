"""Encoders of texts and dual ones as victims: features as their own libraries give them."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import tiny_text_models as tiny
import torch
from tiny_text_models import TEXTS
from torch import Tensor

from advhash.data import Dataset, Split
from advhash.data.text.characters import as_characters
from advhash.errors import DataError, UsageError
from advhash.experiments.config import AttackConfig, TrainConfig
from advhash.experiments.prepare.victim import plan_victim, train
from advhash.registry import VICTIMS
from advhash.storage.checkpoint import load_victim, save_victim
from advhash.victims.encoders.encoded import Encoded

pytest.importorskip("transformers")
needs_sentences = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None,
    reason="sentence-transformers is not installed",
)
LENGTH = 80


def encoder(name: str, **settings: Any) -> Encoded:
    made: Encoded = VICTIMS.create("encoder", {"encoder": name, "quantise": "sign", **settings})
    return made


def scene(*kinds: str) -> Dataset:
    """A few texts, each with a picture where asked for; two classes."""
    generator = np.random.default_rng(0)
    words = tiny.WORDS

    def split(rows: int) -> Split:
        texts = tuple(
            " ".join(generator.choice(words, generator.integers(2, 8)).tolist())
            for _ in range(rows)
        )
        inputs: dict[str, Tensor] = {}
        if "image" in kinds:
            pixels = generator.integers(0, 256, (rows, 3, 32, 32), dtype=np.uint8)
            inputs["image"] = torch.from_numpy(pixels)
        if "text" in kinds:
            inputs["text"] = as_characters(texts, LENGTH)
        labels = np.eye(2, dtype=np.uint8)[np.arange(rows) % 2]
        return Split(inputs, torch.from_numpy(labels), texts=texts)

    return Dataset(
        "small", {}, split(60), torch.arange(40), split(8), split(12), ("one", "two"),
        text_kind="characters" if "text" in kinds else "words",
    )  # fmt: skip


# Features


@needs_sentences
@pytest.mark.parametrize(
    ("pooling", "dense"), [("cls", False), (("max", "mean"), True), ("lasttoken", True)]
)
def test_a_folder_of_sentence_transformers(pooling: Any, dense: bool, tmp_path: Path) -> None:
    """Pooling, linear layers, unit length and the number of tokens as the folder states them."""
    theirs = tiny.sentences(tmp_path, pooling, dense)
    wanted = theirs.encode(list(TEXTS), convert_to_tensor=True, show_progress_bar=False)
    victim = encoder(f"st:{tmp_path / 'model'}")
    ours = victim.relax(as_characters(TEXTS, LENGTH), "text")
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
    assert victim.tokens(as_characters(TEXTS, LENGTH)).ids.shape[1] == 9


@needs_sentences
def test_the_prompt_of_a_folder_stands_before_every_text(tmp_path: Path) -> None:
    theirs = tiny.sentences(tmp_path)
    theirs.prompts = {"query": "the big dog ", "document": "a ", "other": ""}
    theirs.default_prompt_name = "query"
    theirs.save(str(tmp_path / "prompted"))
    wanted = theirs.encode(list(TEXTS), convert_to_tensor=True, show_progress_bar=False)
    victim = encoder(f"st:{tmp_path / 'prompted'}")
    shown = as_characters(TEXTS, LENGTH)
    torch.testing.assert_close(victim.relax(shown, "text"), wanted, atol=1e-5, rtol=1e-5)
    assert victim.tokens(shown).words[1].tolist()[:8] == [-1, -1, -1, -1, 0, 1, 2, 3]
    assert [flag.name for flag in victim.flags()] == ["prompts"]
    assert "('a ')" in victim.flags()[0].message
    assert not encoder(f"st:{tmp_path / 'prompted'}", document_prompt="a ").flags()


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_dual_encoder_has_two_sides(kind: str, tmp_path: Path) -> None:
    """Or the one that is wanted alone, with the same values."""
    tiny.dual(kind, tmp_path)
    victim = encoder(f"hf:{tmp_path}")
    ours = victim.relax(as_characters(TEXTS, LENGTH), "text")
    assert victim.directions == ("image", "text")
    alone = encoder(f"hf:{tmp_path}", side="text")
    assert alone.directions == ("text",)
    assert torch.equal(alone.relax(as_characters(TEXTS, LENGTH), "text"), ours)


def test_words_of_tokens_are_those_of_the_text(tmp_path: Path) -> None:
    """Pieces and signs belong to the word that they stand in; so do those behind white space."""
    tiny.bert(tmp_path)
    victim = encoder(f"hf:{tmp_path}")
    words = victim.tokens(as_characters(["a  snowboarders , dog, cat"], LENGTH)).words
    assert words.tolist() == [[-1, 0, 1, 1, 1, 1, 2, 3, 3, 4, -1]]
    whole = victim.whole_words()
    assert [word for word in whole if word] == list(tiny.WORDS)
    assert len(whole) == len(victim.token_vectors)


# The cut


def test_each_side_of_a_dual_encoder_has_its_centre_and_all_share_axes(tmp_path: Path) -> None:
    tiny.dual("clip", tmp_path)
    data = scene("image", "text")
    victim = encoder(f"hf:{tmp_path}", quantise="mean").fit(data, seed=0)
    for side in ("image", "text"):
        codes = torch.cat([victim.relax(b.inputs[side], side) for b in data.train.batches(64)])
        assert float(codes.mean(dim=0).abs().max()) < 1e-4
    assert not torch.allclose(victim.centre[0], victim.centre[1], atol=1e-2)
    rotated = encoder(f"hf:{tmp_path}", quantise="itq", bits=8).fit(data, seed=0)
    features = {side: rotated.split_features(data.query, side) for side in ("image", "text")}
    for row, (side, values) in enumerate(features.items()):
        by_hand = (values - rotated.centre[row]) @ rotated.axes
        given = data.query.rows(torch.arange(12)).inputs[side]
        torch.testing.assert_close(rotated.relax(given, side), by_hand, atol=1e-4, rtol=1e-4)


def test_a_checkpoint_needs_no_folder(tmp_path: Path) -> None:
    """Neither the structure, nor the tokeniser, nor how texts are pooled is read again."""
    for name, kinds in (("bert", ("text",)), ("clip", ("image", "text"))):
        source, kept = tmp_path / name, tmp_path / f"{name} kept"
        tiny.bert(source) if name == "bert" else tiny.dual(name, source)
        settings = VICTIMS.settings("encoder", {"encoder": f"hf:{source}", "quantise": "itq"})
        settings |= Encoded.source_arguments({**settings, "bits": 8}) | {"bits": 8}
        victim = VICTIMS.create("encoder", settings).fit(scene(*kinds), seed=0)
        kept.mkdir()
        save_victim(kept, victim, name="encoder", settings=settings)
        shutil.rmtree(source)
        again, _ = load_victim(kept)
        given = as_characters(TEXTS, LENGTH)
        assert torch.equal(victim.relax(given, "text"), again.relax(given, "text"))
        assert again.directions == victim.directions
        assert Encoded.view(scene(*kinds), settings).name == "small"
        assert again.whole_words() == victim.whole_words()


def test_queries_and_documents_have_prompts_of_their_own(tmp_path: Path) -> None:
    """As E5 reads them: two sides of one text, whose codes compare."""
    tiny.bert(tmp_path / "bert")
    name, texts = f"hf:{tmp_path / 'bert'}", as_characters(TEXTS, LENGTH)
    prompts = {"prompt": "a small ", "document_prompt": "the "}
    settings = VICTIMS.settings(
        "encoder", {"encoder": name, "quantise": "itq", "bits": 8, **prompts}
    )
    settings |= Encoded.source_arguments(settings)
    data = Encoded.view(scene("text"), settings)
    victim = VICTIMS.create("encoder", settings).fit(data, seed=0)
    plain = encoder(name)
    for side, prompt in (("text", "a small "), ("document", "the ")):
        read = victim.embedded(texts, side)
        prompted = plain.embedded(as_characters([prompt + text for text in TEXTS]), "text")
        assert torch.allclose(read, prompted, atol=1e-5)
    assert victim.default_database == "document"
    assert victim.query_modality("image") == "text"
    served = victim.database_codes(data, "document")
    assert np.array_equal(served.words, victim.encode_split(data.database, "document").words)
    assert not np.array_equal(served.words, victim.encode_split(data.database, "text").words)
    _, gradient = victim.loss_gradient(texts, "document", lambda codes: codes.sum())
    assert gradient.shape[1] == victim.tokens(texts, "document").ids.shape[1]
    (tmp_path / "kept").mkdir()
    save_victim(tmp_path / "kept", victim, name="encoder", settings=settings)
    again, _ = load_victim(tmp_path / "kept")
    for side in ("text", "document"):
        assert torch.equal(victim.relax(texts, side), again.relax(texts, side))


@needs_sentences
def test_a_prompt_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    pictures = {"encoder": "timm:test_resnet", "pretrained": False, "document_prompt": "a"}
    with pytest.raises(UsageError, match="expected no prompt, as it reads no texts"):
        VICTIMS.create("encoder", pictures)
    tiny.sentences(tmp_path)
    file = tmp_path / "model/1_Pooling/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "include_prompt": False}))
    with pytest.raises(UsageError, match="leaves prompts out of its pooling"):
        encoder(f"st:{tmp_path / 'model'}", prompt="query: ")


@pytest.mark.parametrize("what", ["weights", "tokeniser", "pooling"])
@needs_sentences
def test_a_folder_that_changed_is_another_victim(what: str, tmp_path: Path) -> None:
    tiny.sentences(tmp_path)
    folder = tmp_path / "model"
    config = TrainConfig.build({"victim": {"name": f"st:{folder}"}})

    def key() -> str:
        planned = plan_victim(config)
        assert planned is not None
        return planned[2]

    first = key()
    assert key() == first
    if what == "weights":
        file = folder / "model.safetensors"
        moved = {name: value + 0.5 for name, value in safetensors.torch.load_file(file).items()}
        safetensors.torch.save_file(moved, file, metadata={"format": "pt"})
    elif what == "tokeniser":
        file = folder / "tokenizer.json"
        file.write_text(file.read_text().replace('"dog"', '"fox"'))
    else:
        file = next(folder.glob("1_Pooling/config.json"))
        file.write_text(json.dumps({**json.loads(file.read_text()), "pooling_mode": "max"}))
    assert key() != first


def test_the_gradient_foretells_another_token(tmp_path: Path) -> None:
    """Against a finite step of one token's vector, put in by hand."""
    model = tiny.bert(tmp_path).double()
    victim = encoder(f"hf:{tmp_path}").double()
    texts = as_characters(TEXTS[:3], LENGTH)
    goal = torch.linspace(-1, 1, victim.bits, dtype=torch.double)
    relaxed, gradient = victim.loss_gradient(texts, "text", lambda codes: (codes @ goal).sum())
    assert torch.equal(relaxed, victim.relax(texts, "text"))
    tokens = victim.tokens(texts)
    assert gradient.shape == (*tokens.ids.shape, 16)
    vectors = victim.token_vectors[tokens.ids]
    step = torch.zeros_like(vectors)
    step[2, 3] = victim.token_vectors[7] - vectors[2, 3]

    def loss(moved: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = model(inputs_embeds=moved, attention_mask=tokens.mask).last_hidden_state
        real = tokens.mask.unsqueeze(2)
        features = ((hidden * real).sum(dim=1) / real.sum(dim=1)).float().double()
        return features @ goal

    small = 1e-3
    with torch.no_grad():
        moved = (loss(vectors + small * step) - loss(vectors - small * step)) / (2 * small)
    assert float(moved[2]) == pytest.approx(float((gradient * step).sum()), rel=1e-2)
    assert float(moved[:2].abs().max()) < 1e-4


# By name


def test_texts_are_read_as_they_are_without_being_asked_for(tmp_path: Path) -> None:
    """`--victim hf:…` alone trains on the default texts, and its card has both directions' MAP."""
    tiny.bert(tmp_path)
    trained = train(TrainConfig.build({"victim": {"name": f"hf:{tmp_path}", "bits": None}}))
    assert trained.data.text_kind == "characters"
    assert trained.data.name == "openmoji"
    assert "map_text_text" in trained.card["metrics"]
    assert trained.victim.query_modality("image") == "text"
    assert trained.victim.default_database == "text"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("st:", "expected the name of a model behind st:"),
        ("st:no-such-package", "expected a folder, an installed package or an id of the hub"),
        ("st:/no/such/folder", "expected a folder, an installed package or an id of the hub"),
        ("st:nobody/nothing", "expected a model on this machine"),
        ("st:json", r"expected a package with modules\.json"),
    ],
)
def test_encoders_that_are_not_there_are_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        encoder(name)
    assert "\n" not in str(refused.value)


def test_a_missing_tokeniser_is_refused(tmp_path: Path) -> None:
    tiny.bert(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"expected a tokeniser in .*tokenizer\.json") as refused:
        encoder(f"hf:{tmp_path}")
    assert "\n" not in str(refused.value)
    clip = tmp_path / "clip"
    tiny.dual("clip", clip)
    (clip / "tokenizer.json").unlink()
    assert encoder(f"hf:{clip}", side="image").directions == ("image",)
    with pytest.raises(UsageError, match="expected a tokeniser"):
        encoder(f"hf:{clip}")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "transformers" else found(name),
    )
    with pytest.raises(UsageError, match=r"pip install transformers` \(the extra \[hf\]\)"):
        encoder(f"st:{tmp_path}")


@needs_sentences
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("module", "expected the modules Transformer, Pooling, Dense, Normalize"),
        ("pooling", "expected a pooling of cls, max, mean"),
        ("json", r"expected modules\.json of sentence-transformers"),
        ("weights", "safetensors"),
        ("outside", "expected modules inside"),
    ],
)
def test_a_folder_that_says_something_else_is_refused(
    what: str, message: str, tmp_path: Path
) -> None:
    tiny.sentences(tmp_path)
    folder = tmp_path / "model"
    modules = folder / "modules.json"
    if what in ("module", "outside"):
        change = {"type": "my.own.Module"} if what == "module" else {"path": "../bert"}
        listed = json.loads(modules.read_text())
        listed[1] |= change
        modules.write_text(json.dumps(listed))
    elif what == "pooling":
        (folder / "1_Pooling/config.json").write_text('{"pooling_mode": "weightedmean"}')
    elif what == "json":
        modules.write_text("[{]")
    else:
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match=message) as refused:
        encoder(f"st:{folder}")
    assert "\n" not in str(refused.value)


def test_data_that_lack_a_side_are_refused(tmp_path: Path) -> None:
    tiny.dual("clip", tmp_path / "clip")
    tiny.bert(tmp_path / "bert")
    pictures = {"victim": {"name": f"hf:{tmp_path / 'clip'}"}, "dataset": {"name": "digits"}}
    with pytest.raises(DataError, match=r"reads image and text: .*victim\.side=image"):
        plan_victim(TrainConfig.build(pictures))
    texts = {**pictures, "victim": {"name": f"hf:{tmp_path / 'bert'}"}}
    with pytest.raises(DataError, match="expected a data set with texts, got 'digits'"):
        plan_victim(TrainConfig.build(texts))
    words = {**texts, "dataset": {"name": "openmoji", "text": "words"}}
    with pytest.raises(DataError, match=r"dataset\.text=characters"):
        plan_victim(AttackConfig.build({**words, "attack": {"name": "hotflip"}}))
    with pytest.raises(UsageError, match=r"expected victim\.side=text, got image"):
        encoder(f"hf:{tmp_path / 'bert'}", side="image")


def test_a_victim_of_words_refuses_texts_as_they_are() -> None:
    config = {"victim": {"name": "dcmh"}, "dataset": {"name": "openmoji", "text": "characters"}}
    with pytest.raises(DataError, match=r"set dataset\.text=words"):
        plan_victim(TrainConfig.build(config))


def test_texts_that_are_all_alike_are_refused(tmp_path: Path) -> None:
    tiny.bert(tmp_path)
    data = scene("text")
    same = replace(data.database, inputs={"text": as_characters(["a dog"] * 60, LENGTH)})
    with pytest.raises(DataError, match="features that differ"):
        encoder(f"hf:{tmp_path}").fit(replace(data, database=same), seed=0)
