"""The trained head: its loss against a loop, its pairs, and that it ranks better than others."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from advhash.codes.hamming import histograms
from advhash.codes.metrics import average_precision
from advhash.codes.packed import HashCodes
from advhash.data import Dataset, Split
from advhash.errors import ConfigError
from advhash.registry import QUANTISERS
from advhash.shared_labels import as_groups
from advhash.victims.encoders.head import Head, _Partners
from advhash.victims.encoders.quantisers import Cut, Quantiser

GROUPS, EACH, SIZE = 40, 5, 16


def rows(seed: int) -> tuple[Tensor, Tensor]:
    """Features whose first four numbers tell the group, under noise that is larger elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(GROUPS, 4, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(GROUPS * EACH, SIZE, generator=generator)
    noise[:, :4] *= 0.3
    noise[:, :4] += centres.repeat_interleave(EACH, dim=0)
    mixing = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(8)))[0]
    return noise @ mixing, torch.from_numpy(as_groups(np.repeat(np.arange(GROUPS), EACH)))


def precision(cut: Cut) -> float:
    features, labels = rows(1)
    codes = HashCodes.from_relaxed(cut(features))
    counts = histograms(codes, codes, labels.numpy(), labels.numpy())
    return float(average_precision(counts).mean())


def learnt(name: str, seed: int = 0, **settings: object) -> Cut:
    quantiser: Quantiser = QUANTISERS.create(name, settings)
    features, labels = rows(0)
    return quantiser.fit_labelled(features, labels, 12, torch.Generator().manual_seed(seed))


def test_it_ranks_what_shares_a_label_first() -> None:
    head = precision(learnt("head", steps=150, pairs=32))
    assert head > precision(learnt("itq")) + 0.1
    assert head > precision(learnt("lsh")) + 0.1


def test_only_the_generator_decides() -> None:
    first, again, other = (learnt("head", seed, steps=3, pairs=8) for seed in (0, 0, 1))
    assert torch.equal(first.projection, again.projection)  # type: ignore[arg-type]
    assert not torch.equal(first.projection, other.projection)  # type: ignore[arg-type]


def test_the_loss_against_a_loop() -> None:
    values = torch.randn(6, 5, generator=torch.Generator().manual_seed(3))
    shared = torch.eye(6, dtype=torch.bool)
    for i, j in ((0, 1), (2, 3), (4, 5), (0, 4)):
        shared[i, j] = shared[j, i] = True
    head = Head(temperature=0.5)
    codes = [[math.copysign(1, value) / math.sqrt(5) for value in row] for row in values.tolist()]
    total = 0.0
    for i in range(6):

        def near(j: int, i: int = i) -> float:
            return math.exp(
                sum(a * b for a, b in zip(codes[i], codes[j], strict=True)) * 5**0.5 / 0.5
            )

        partner = i ^ 1
        others = sum(near(j) for j in range(6) if not bool(shared[i, j]))
        total -= math.log(near(partner) / (near(partner) + others)) / 6
    assert float(head.loss(values, shared)) == pytest.approx(total, rel=1e-5)
    moved = values.clone().requires_grad_()
    head.loss(moved, shared).backward()
    assert bool((moved.grad != 0).any())  # type: ignore[union-attr]


def test_without_the_sign_floats_are_ranked() -> None:
    values = torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
    shared = torch.eye(4, dtype=torch.bool)
    rival = Head(sign=False)
    assert float(rival.loss(values, shared)) == pytest.approx(float(rival.loss(7 * values, shared)))
    assert float(rival.loss(values, shared)) != pytest.approx(float(Head().loss(values, shared)))


@pytest.mark.parametrize("groups", [True, False])
def test_pairs_share_a_label_and_differ(groups: bool) -> None:
    numbers = np.array([0, 1, 0, 2, 1, 0, 3])
    hot = np.eye(4, dtype=np.uint8)[numbers]
    hot[6] = [0, 1, 0, 0]
    labels = as_groups(np.where(numbers == 3, 1, numbers)) if groups else hot
    draw = _Partners(labels)
    drawn: Counter[tuple[int, ...]] = Counter()
    for seed in range(100):
        pairs = draw(2, torch.Generator().manual_seed(seed)).view(-1, 2)
        for pair in pairs.tolist():
            drawn[tuple(sorted(pair))] += 1
    assert set(drawn) == {(0, 2), (0, 5), (2, 5), (1, 4), (1, 6), (4, 6)}


def test_rows_without_a_shared_label_are_refused() -> None:
    features, _ = rows(0)
    lone = torch.from_numpy(as_groups(np.arange(len(features))))
    with pytest.raises(ConfigError, match="share a label: expected some"):
        Head().fit_labelled(features, lone, 8, torch.Generator())
    with pytest.raises(ConfigError, match="learns from labels"):
        Head().fit(features, 8, torch.Generator())


def test_an_encoder_takes_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Saved and read again like other cuts; more bits than features are allowed."""
    tiny = pytest.importorskip("tiny_text_models")
    pytest.importorskip("transformers")
    from advhash.data.text.characters import as_characters
    from advhash.registry import VICTIMS
    from advhash.storage.checkpoint import load_victim, save_victim

    folder, kept = tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("kept")
    tiny.bert(folder)
    texts = [f"{a} {b}" for a in tiny.WORDS[:6] for b in tiny.WORDS[6:12]]
    labels = torch.from_numpy(as_groups(np.arange(36) // 6))
    part = Split({"text": as_characters(texts, 30)}, labels, (), tuple(texts))
    data = Dataset(
        "pairs", {}, part, torch.arange(36), part, part, (), text_kind="characters"
    )  # fmt: skip
    settings = VICTIMS.settings(
        "encoder", {"encoder": f"hf:{folder}", "quantise": "head", "bits": 40}
    )
    settings |= VICTIMS["encoder"].build.source_arguments(settings)  # type: ignore[attr-defined]
    victim = VICTIMS.create("encoder", settings)
    victim._quantiser.steps = 100
    victim.fit(data, seed=0)
    save_victim(kept, victim, name="encoder", settings=settings)
    again, _ = load_victim(kept)
    given = part.inputs["text"]
    assert torch.equal(victim.relax(given, "text"), again.relax(given, "text"))
    counts = histograms(*[victim.encode(given, "text")] * 2, labels.numpy(), labels.numpy())
    assert float(average_precision(counts).mean()) > 0.6  # by chance 0.14
