"""DCMH: its objective against loops, its codes, its refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from advhash.codes.metrics import retrieval_average_precision
from advhash.data import Dataset
from advhash.data.load import load_dataset
from advhash.errors import ConfigError, DataError, UsageError
from advhash.registry import VICTIMS
from advhash.victims.cross_modal import dcmh
from advhash.victims.cross_modal.base import network_outputs
from advhash.victims.cross_modal.code_table import fuse
from advhash.victims.cross_modal.dcmh import DCMH
from advhash.victims.objectives import cross_modal_hashing, shared_label, sign


@pytest.fixture(scope="module")
def emoji() -> Dataset:
    """164 real items in the database, 133 of them to train on."""
    whole = load_dataset("openmoji", {})
    database = whole.database.take(torch.arange(0, len(whole.database), 9))
    rows = torch.arange(len(database))
    return replace(whole, name="tiny", database=database, train_rows=rows[rows % 5 != 4])


def tiny(data: Dataset, **settings: Any) -> DCMH:
    arguments: dict[str, Any] = DCMH.data_arguments(data)
    return DCMH(**{**arguments, "epochs": 2, "width": 32, "bits": 12, **settings})


@pytest.fixture(scope="module")
def trained(emoji: Dataset) -> DCMH:
    return tiny(emoji).fit(emoji, seed=3)


class TestObjective:
    @staticmethod
    def drawn(dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
        """codes (3,5), others (4,5), similar (3,4), signs (3,5), rest (5,)"""
        generator = torch.Generator().manual_seed(7)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=dtype)

        return (
            normal(3, 5),
            normal(4, 5),
            (normal(3, 4) > 0).to(dtype),
            sign(normal(3, 5)).to(dtype),
            normal(5),
        )

    @pytest.mark.parametrize(("gamma", "eta"), [(0.0, 0.0), (2.0, 0.0), (0.0, 3.0), (0.5, 0.25)])
    def test_by_loops(self, gamma: float, eta: float) -> None:
        codes, others, similar, signs, rest = self.drawn()
        total = 0.0
        for i in range(3):
            for j in range(4):
                theta = sum(float(codes[i, k] * others[j, k]) for k in range(5)) / 2
                total -= float(similar[i, j]) * theta - math.log(1 + math.exp(theta))
            total += gamma * sum(float(signs[i, k] - codes[i, k]) ** 2 for k in range(5))
        for k in range(5):
            total += eta * (sum(float(codes[i, k]) for i in range(3)) + float(rest[k])) ** 2
        found = cross_modal_hashing(
            codes, others, similar, signs, rest, quantisation_weight=gamma, balance_weight=eta
        )
        assert float(found) == pytest.approx(total / 12)

    def test_published_gradient(self) -> None:
        """½ Σ_j (σ(θ)·g_j − S·g_j) + 2γ(f − b) + 2η·F1, equation (3) of the paper."""
        codes, others, similar, signs, rest = self.drawn()
        codes.requires_grad_()
        loss = cross_modal_hashing(
            codes, others, similar, signs, rest, quantisation_weight=0.7, balance_weight=0.3
        )
        (gradient,) = torch.autograd.grad(loss, codes)
        with torch.no_grad():
            sigma = torch.sigmoid(codes @ others.T / 2)
            expected = (sigma - similar) @ others / 2 + 2 * 0.7 * (codes - signs)
            expected += 2 * 0.3 * (codes.sum(dim=0) + rest)
        torch.testing.assert_close(gradient * 12, expected)

    def test_gradcheck(self) -> None:
        codes, *others = self.drawn()

        def loss(values: Tensor) -> Tensor:
            return cross_modal_hashing(values, *others, quantisation_weight=1.0, balance_weight=1.0)

        assert torch.autograd.gradcheck(loss, codes.requires_grad_())

    def test_large_outputs_do_not_overflow(self) -> None:
        codes, others, similar, signs, rest = self.drawn(torch.float32)
        loss = cross_modal_hashing(
            1e4 * codes, others, similar, signs, rest, quantisation_weight=0, balance_weight=0
        )
        assert bool(loss.isfinite())


class TestTraining:
    def test_buffers_and_codes(self, emoji: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
        """What each batch is held against: last outputs of all items, and B = sign(F + G).

        The buffers are kept here a second time, from what the loss is given.
        """
        seen: list[tuple[Tensor, ...]] = []
        real = dcmh.cross_modal_hashing

        def watched(*given: Tensor, **weights: float) -> Tensor:
            seen.append(tuple(value.detach().clone() for value in given))
            return real(*given, **weights)

        drawn: list[Tensor] = []
        batches = dcmh.random_batches

        def watched_batches(*given: Any) -> Any:
            for rows in batches(*given):
                drawn.append(rows)
                yield rows

        monkeypatch.setattr(dcmh, "cross_modal_hashing", watched)
        monkeypatch.setattr(dcmh, "random_batches", watched_batches)
        tiny(emoji, epochs=3, batch_size=50).fit(emoji, seed=1)
        count, steps = len(emoji.train_rows), 3  # of 50, 50 and 33 rows
        assert len(seen) == len(drawn) == 3 * 2 * steps
        labels = emoji.train.labels
        own = {
            "image": torch.full((count, 12), math.nan),
            "text": torch.full((count, 12), math.nan),
        }
        codes = None
        for number, ((batch, others, similar, signs, rest), rows) in enumerate(
            zip(seen, drawn, strict=True)
        ):
            epoch, step = divmod(number, 2 * steps)
            modality, other = ("image", "text") if step < steps else ("text", "image")
            own[modality][rows] = batch
            if epoch or modality == "text":  # the other network has been over all rows
                torch.testing.assert_close(others, own[other])
            if epoch:
                left = own[modality].sum(dim=0) - batch.sum(dim=0)
                torch.testing.assert_close(rest, left, rtol=1e-4, atol=1e-4)
                assert codes is not None
                assert torch.equal(signs, codes[rows])
            assert torch.equal(similar, shared_label(labels[rows], labels))
            if step == 2 * steps - 1:
                codes = sign(own["image"] + own["text"])

    def test_both_networks_learn_and_losses_fall(self, emoji: Dataset) -> None:
        victim = tiny(emoji, epochs=8)
        before = {name: value.clone() for name, value in victim.named_parameters()}
        victim.fit(emoji, seed=0)
        for network in ("image_network", "text_network"):
            assert any(
                not torch.equal(value, before[name])
                for name, value in victim.named_parameters()
                if name.startswith(network)
            )
        for modality in ("image", "text"):
            assert float(victim.history[-1][modality]) < float(victim.history[1][modality])

    def test_fused_codes(self, emoji: Dataset, trained: DCMH) -> None:
        outputs = network_outputs(trained, emoji.database)
        wanted = fuse(
            sign(outputs["image"]), sign(outputs["text"]), outputs["image"] + outputs["text"]
        )
        assert np.array_equal(trained.database_codes(emoji, "fused").unpack(), wanted.numpy() > 0)
        for modality in ("image", "text"):
            found = trained.database_codes(emoji, modality)
            again = trained.encode_split(emoji.database, modality)
            assert np.array_equal(found.words, again.words)

    def test_other_data_are_hashed_as_they_come(self, emoji: Dataset, trained: DCMH) -> None:
        fewer = replace(emoji, database=emoji.database.take(torch.arange(20)))
        whole = trained.database_codes(emoji, "fused")
        assert np.array_equal(trained.database_codes(fewer, "fused").words, whole.words[:20])


class TestRefusals:
    def test_data(self, emoji: Dataset, trained: DCMH) -> None:
        digits = load_dataset("digits", {})
        with pytest.raises(DataError, match="dcmh needs images and text: 'digits' has image"):
            DCMH.data_arguments(digits)
        with pytest.raises(DataError, match="dcmh needs images and text"):
            trained.fit(digits, seed=0)
        with pytest.raises(UsageError, match="expected a direction"):
            trained.database_codes(emoji, "sound")

    @pytest.mark.parametrize("setting", ["bits", "epochs", "batch_size", "learning_rate"])
    def test_settings(self, emoji: Dataset, setting: str) -> None:
        given = {**DCMH.data_arguments(emoji), setting: 0}
        with pytest.raises(ConfigError, match=f"expected {setting} above 0"):
            VICTIMS.create("dcmh", given)


def test_paper_preset(emoji: Dataset) -> None:
    paper = VICTIMS.settings("dcmh", {"preset": "paper", **DCMH.data_arguments(emoji)})
    assert (paper["epochs"], paper["batch_size"], paper["width"]) == (500, 128, 8192)
    assert paper["learning_rate"] == pytest.approx(0.0316, abs=1e-4)
    assert paper["quantisation_weight"] == paper["balance_weight"] == 1
    with pytest.raises(ConfigError, match="'cnnf' takes images of 224 px"):
        VICTIMS.create("dcmh", {"preset": "paper", **DCMH.data_arguments(emoji)})


@pytest.mark.slow
def test_retrieval_on_openmoji() -> None:
    """Full training, against the figures in docs/victims/dcmh.md."""
    data = load_dataset("openmoji", {})
    arguments: dict[str, Any] = DCMH.data_arguments(data)
    victim = DCMH(**arguments).fit(data, seed=0)
    for query, database in (("image", "text"), ("text", "image"), ("image", "image")):
        scores = retrieval_average_precision(
            victim.encode_split(data.query, query),
            victim.database_codes(data, database),
            data.query.labels.numpy(),
            data.database.labels.numpy(),
        )
        assert float(scores.mean()) >= 0.5  # chance: .140
