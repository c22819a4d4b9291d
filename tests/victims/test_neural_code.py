"""Neural codes: which units are bits, what hooks see, and that every attack runs on them."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from few_digits import dhta_gain
from torch import Tensor, nn

from advhash.cli import app
from advhash.codes.metrics import retrieval_average_precision
from advhash.data import Dataset
from advhash.data.load import load_dataset
from advhash.errors import ConfigError, DataError, UsageError
from advhash.measures.encoding import redundancy_ratio
from advhash.registry import VICTIMS
from advhash.storage.checkpoint import load_victim, save_victim
from advhash.victims.image.pairwise import DPH
from advhash.victims.neural.activations import layers_of, pattern, recorded
from advhash.victims.neural.neural_code import NeuralCode, NeuralCodeOf


@pytest.fixture(scope="module")
def digits() -> Dataset:
    whole = load_dataset("digits", {"size": 16})
    return replace(whole, train_rows=whole.train_rows[:400])


def small(**settings: object) -> NeuralCode:
    given = {"classes": 10, "image_size": 16, "epochs": 3, "width": 32, **settings}
    victim: NeuralCode = VICTIMS.create("neural-code", given)
    return victim


@pytest.fixture(scope="module")
def trained(digits: Dataset) -> NeuralCode:
    return small(width=48, epochs=8).fit(digits, seed=0)


class TestActivations:
    def test_a_bit_is_whether_the_unit_fires(self, trained: NeuralCode, digits: Dataset) -> None:
        """Against the outputs of the ReLU, read in the plainest way."""
        images = digits.query.rows(torch.arange(20)).inputs["image"]
        with torch.no_grad():
            fired = trained.network[0](images) > 0  # the last layer of the body is the ReLU
        expected = fired[:, trained.kept].numpy()
        assert np.array_equal(trained.encode(images, "image").unpack(), expected)
        with torch.no_grad():
            assert np.array_equal((trained.relax(images, "image") > 0).numpy(), expected)

    def test_in_place_and_repeated_modules(self) -> None:
        torch.manual_seed(0)
        act = nn.ReLU(inplace=True)
        network = nn.Sequential(nn.Linear(4, 5), act, nn.Linear(5, 6), act).eval()
        inputs = torch.randn(7, 4, requires_grad=True)
        sites = layers_of(network, lambda: network(torch.zeros(1, 4)))
        assert [(one.name, one.size) for one in sites] == [("1", 5), ("1#1", 6)]
        with recorded(network) as found:
            network(inputs)
        assert bool((found["1"] < 0).any())  # not what the ReLU would have left there
        (gradient,) = torch.autograd.grad(found["1#1"].sum(), inputs)
        assert bool(gradient.abs().sum() > 0)
        assert not any(module._forward_pre_hooks for module in network.modules())

    def test_smooth_ones_are_marked_and_gates_left_out(self) -> None:
        network = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Sigmoid(), nn.SiLU(), nn.LeakyReLU())
        sites = layers_of(network, lambda: network(torch.zeros(1, 4)))
        assert [one.smooth for one in sites] == [True, True, False]
        assert small(backbone="test_vit", epochs=0).smooth == [
            f"0.network.blocks.{block}.mlp.act" for block in range(6)
        ]
        assert small().smooth == []

    def test_thresholds_elsewhere_than_at_zero_are_no_layers(self) -> None:
        """The output is above 0 for other inputs than those above 0."""
        network = nn.Sequential(nn.Linear(4, 5), nn.Threshold(0.5, 0.0), nn.ReLU())
        sites = layers_of(network, lambda: network(torch.zeros(1, 4)))
        assert [one.name for one in sites] == ["2"]

    def test_functions_are_not_seen(self) -> None:
        class Hidden(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.relu(x)

        network = Hidden()
        with pytest.raises(UsageError, match="activation modules"):
            layers_of(network, lambda: network(torch.zeros(1, 4)))

    def test_pattern_refuses_nan(self) -> None:
        values = torch.tensor([[1.0, float("nan")]])
        with pytest.raises(ValueError, match="NaN"):
            pattern([values], [torch.tensor([0])])


class TestBits:
    def test_constant_bits_are_dropped(self, digits: Dataset) -> None:
        victim = small(width=64, epochs=2)
        for _ in victim.learn(digits, seed=0):
            pass
        victim.eval()
        layer = victim.network[0][1]
        with torch.no_grad():
            victim.network[0][2].bias[:3] = torch.tensor([50.0, -50.0, 50.0])
        assert isinstance(layer, nn.Linear)
        victim.keep_bits(digits.train, seed=0)
        assert not bool(victim.kept[:3].any())
        assert victim.bits == int(victim.kept.sum()) >= 55
        share = victim.encode_split(digits.train, "image").unpack().mean(axis=0)
        assert ((share > 0) & (share < 1)).all()

    def test_spread_is_the_root_mean_square(self, trained: NeuralCode, digits: Dataset) -> None:
        images = digits.train.rows(torch.arange(len(digits.train))).inputs["image"]
        with torch.no_grad():
            (layer,) = trained.entering(images)
            expected = layer[:, trained.kept] / layer.square().mean().sqrt()
            assert torch.allclose(trained.relax(images, "image"), expected, rtol=1e-4)
            trained.steepness = 3.0
            assert torch.allclose(trained.relax(images, "image"), 3 * expected, rtol=1e-4)
            trained.steepness = 1.0

    def test_at_most_so_many_bits_drawn_by_the_seed(self, digits: Dataset) -> None:
        found = [
            small(epochs=1, preset="cnn", width=4, most_bits=50).fit(digits, seed=seed)
            for seed in (0, 0, 1)
        ]
        assert [victim.bits for victim in found] == [50, 50, 50]
        assert torch.equal(found[0].kept, found[1].kept)
        assert not torch.equal(found[0].kept, found[2].kept)
        assert len(found[0].sections) == 3
        assert found[0].sections[-1][1].stop == 50

    def test_a_code_that_never_varies_is_kept(self, digits: Dataset) -> None:
        victim = small(epochs=0)
        nn.init.zeros_(victim.network[0][1].weight)
        victim.keep_bits(digits.train, seed=0)
        assert victim.bits == 32
        assert redundancy_ratio(victim.encode_split(digits.query, "image")) == 299 / 300

    def test_layers_by_name(self) -> None:
        assert small(depth=3).bits == 96
        assert small(depth=3, layers="last").bits == 32
        assert small(depth=3, layers="0.3, 0.9").bits == 64
        with pytest.raises(UsageError, match=r"no layer '0.4'.*Known: all, last, 0.3, 0.6, 0.9"):
            small(depth=3, layers="0.4")

    def test_checkpoint_keeps_the_mask(
        self, trained: NeuralCode, digits: Dataset, tmp_path: Path
    ) -> None:
        settings = VICTIMS.settings(
            "neural-code", {"classes": 10, "image_size": 16, "width": 48, "epochs": 8}
        )
        save_victim(tmp_path, trained, name="neural-code", settings=settings)
        loaded, card = load_victim(tmp_path)
        assert loaded.bits == trained.bits == card["bits"]
        codes = [one.encode_split(digits.query, "image") for one in (loaded, trained)]
        assert np.array_equal(codes[0].words, codes[1].words)
        assert copy.deepcopy(loaded).bits == loaded.bits

    def test_a_short_training_begins_a_long_one(self, digits: Dataset) -> None:
        short = small(epochs=2).fit(digits, seed=4)
        longer = small(epochs=5)
        for epoch in longer.learn(digits, seed=4):
            if epoch == 2:
                part = copy.deepcopy(longer)
        part.keep_bits(digits.train, seed=4)
        codes = [one.encode_split(digits.query, "image") for one in (short, part)]
        assert np.array_equal(codes[0].words, codes[1].words)

    def test_refusals(self) -> None:
        for settings in ({"width": 0}, {"epochs": -1}, {"steepness": 0.0}, {"most_bits": 0}):
            with pytest.raises(ConfigError, match="expected"):
                small(**settings)
        with pytest.raises(ConfigError, match="unknown backbone 'resnt18'"):
            small(backbone="resnt18")
        with pytest.raises(DataError, match="expected a data set with images"):
            NeuralCode.data_arguments(load_dataset("breast_cancer", {}))
        with pytest.raises(UsageError, match="expected a modality"):
            small().encode(torch.zeros(1, 5), "text")


class TestAsVictim:
    def test_retrieves_and_classifies(self, trained: NeuralCode, digits: Dataset) -> None:
        codes = trained.encode_split(digits.query, "image")
        labels = digits.query.labels.numpy()
        score = retrieval_average_precision(
            codes, trained.database_codes(digits, "image"), labels, digits.database.labels.numpy()
        )
        assert float(score.mean()) > 0.5  # chance: 0.10
        batch = digits.query.rows(torch.arange(300))
        with torch.no_grad():
            right = trained.logits(batch.inputs["image"]).argmax(1) == batch.labels.argmax(1)
        assert float(right.float().mean()) > 0.85

    def test_can_be_attacked(self, trained: NeuralCode, digits: Dataset) -> None:
        assert dhta_gain(trained, digits) > 0.2

    def test_several_labels(self) -> None:
        whole = load_dataset("openmoji", {"size": 16})
        whole = replace(whole, train_rows=whole.train_rows[:300])
        arguments = NeuralCode.data_arguments(whole)
        victim = NeuralCode(**arguments, width=32, epochs=5).fit(whole, seed=0)  # type: ignore[arg-type]
        first, last = victim.history[0]["loss"], victim.history[-1]["loss"]
        assert float(last) < float(first)

    def test_inside_another_victim(self, digits: Dataset) -> None:
        hashed = DPH(bits=12, image_size=16, epochs=2).fit(digits, seed=0)
        inside = NeuralCodeOf(hashed, image_size=16, most_bits=500).fit(digits, seed=0)
        assert inside.bits == 500
        assert dhta_gain(inside, digits) > 0
        before = hashed.encode_split(digits.query, "image")
        assert np.array_equal(before.words, hashed.encode_split(digits.query, "image").words)
        with pytest.raises(UsageError, match="activation modules"):
            NeuralCodeOf(VICTIMS.create("phash", {}), image_size=32)


def test_attack_from_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = (
        *("attack", "--victim", "neural-code", "--method", "dhta", "--eps", "16/255"),
        *("--set", "victim.epochs=3", "--set", "dataset.size=16", "--set", "attack.steps=5"),
        *("--queries", "20", "-q", "--json", "--out", str(tmp_path / "run")),
    )
    monkeypatch.setattr(sys, "argv", ["advhash", *arguments])
    app.main()  # ends with SystemExit where it fails
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["tmap"]["value"] > metrics["tmap_clean"]["value"]
