"""Image hashing: objectives against slow loops, hash centres, HashNet's scale, smoke trainings."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from few_digits import dhta_gain
from torch import Tensor

from advhash.attacks.base import AttackData
from advhash.codes import HashCodes
from advhash.codes.metrics import Scoring, retrieval_average_precision
from advhash.data import Dataset
from advhash.data.load import load_dataset
from advhash.errors import ConfigError, DataError
from advhash.experiments.config import TrainConfig
from advhash.experiments.prepare.ceiling import target_ceilings
from advhash.experiments.prepare.trained import export_checkpoint
from advhash.experiments.prepare.victim import train
from advhash.experiments.prepare.worth import code_figures, victim_flags
from advhash.registry import VICTIMS
from advhash.storage.checkpoint import load_victim, save_victim
from advhash.storage.model_card import PAGE, model_card
from advhash.victims.base import HashVictim
from advhash.victims.image.csq import CSQ, hash_centres
from advhash.victims.image.hashnet import HashNet
from advhash.victims.image.pairwise import DPH, ImageHashing
from advhash.victims.objectives import (
    central_similarity,
    centroids,
    label_overlap,
    log_cosh_quantisation,
    pairwise_gap,
    sign,
    weighted_likelihood,
)

NAMES = [entry.name for entry in VICTIMS if issubclass(entry.build, ImageHashing)]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", {"size": 16})


@pytest.fixture(scope="module")
def trained(digits: Dataset) -> dict[str, HashVictim]:
    """Every image hash after a few seconds of training."""
    few = replace(digits, train_rows=digits.train_rows[:600])
    small = {"bits": 16, "epochs": 6, "batch_size": 32}
    victims = {}
    for name in NAMES:
        given = {**VICTIMS[name].build.data_arguments(digits), **small}
        victims[name] = VICTIMS.create(name, given).fit(few, seed=0)
    return victims


def mean_ap(victim: HashVictim, data: Dataset) -> float:
    scores = retrieval_average_precision(
        victim.encode_split(data.query, "image"),
        victim.database_codes(data, "image"),
        data.query.labels.numpy(),
        data.database.labels.numpy(),
    )
    return float(scores.mean())


def logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value))


class TestObjectives:
    def test_label_overlap(self) -> None:
        first = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.uint8)
        second = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.uint8)
        expected = torch.tensor([[1 / 3, 1, 0], [0, 0, 0]])
        torch.testing.assert_close(label_overlap(first, second), expected)

    def test_pairwise_gap(self, generator: torch.Generator) -> None:
        codes, others = torch.randn(3, 5, generator=generator), torch.randn(4, 5)
        similar = torch.tensor([[1.0, 0, 0, 1]] * 3)
        total = 0.0
        for i in range(3):
            for j in range(4):
                wanted = 1 if similar[i, j] else -1
                total += (float(codes[i] @ others[j]) / 5 - wanted) ** 2
        assert float(pairwise_gap(codes, others, similar)) == pytest.approx(total / 12)

    def test_weighted_likelihood(self, generator: torch.Generator) -> None:
        codes, others = torch.randn(3, 5, generator=generator), torch.randn(4, 5)
        overlap = torch.tensor([[0.5, 0, 0, 1], [0, 0, 0, 0], [0.25, 0, 0, 0]])
        total = 0.0
        for i in range(3):
            for j in range(4):
                likely = logistic(0.3 * float(codes[i] @ others[j]))
                c = float(overlap[i, j])
                weight, likelihood = (c * 12 / 3, likely) if c > 0 else (12 / 9, 1 - likely)
                total -= weight * math.log(likelihood)
        found = weighted_likelihood(codes, others, overlap, 0.3)
        assert float(found) == pytest.approx(total / 12, rel=1e-5)

    @pytest.mark.parametrize("overlap", [0.0, 1.0])
    def test_one_sided_batches_are_finite(self, overlap: float) -> None:
        codes = torch.ones(2, 3)
        loss = weighted_likelihood(codes, codes, torch.full((2, 2), overlap), 1.0)
        assert float(loss) == pytest.approx(-math.log(logistic(3 if overlap else -3)), rel=1e-5)

    def test_rare_pairs_weigh_as_much_as_frequent_ones(self) -> None:
        """The mistake on one similar pair costs what that on 99 dissimilar ones costs."""
        codes, others = torch.zeros(1, 2), torch.zeros(100, 2)
        overlap = torch.zeros(1, 100)
        overlap[0, 0] = 1
        codes.requires_grad_()
        others[0] = torch.tensor([1.0, 0])
        others[1:] = torch.tensor([0, 1.0])
        (gradient,) = torch.autograd.grad(weighted_likelihood(codes, others, overlap, 1.0), codes)
        assert float(gradient[0, 0]) == pytest.approx(-float(gradient[0, 1]))

    def test_central_similarity(self, generator: torch.Generator) -> None:
        codes = torch.randn(3, 5, generator=generator)
        aims = sign(torch.randn(3, 5, generator=generator))
        total = 0.0
        for u, aim in zip(codes.flatten().tolist(), aims.flatten().tolist(), strict=True):
            h = (math.tanh(u) + 1) / 2
            total -= math.log(h if aim > 0 else 1 - h)
        assert float(central_similarity(codes, aims)) == pytest.approx(total / 15, rel=1e-5)

    def test_log_cosh_quantisation(self, generator: torch.Generator) -> None:
        codes = torch.randn(3, 5, generator=generator)
        total = sum(
            math.log(math.cosh(abs(2 * (math.tanh(u) + 1) / 2 - 1) - 1))
            for u in codes.flatten().tolist()
        )
        assert float(log_cosh_quantisation(codes)) == pytest.approx(total / 15, rel=1e-5)
        assert float(log_cosh_quantisation(torch.tensor([[50.0, -50]]))) == 0

    def test_centroids(self) -> None:
        centres = torch.tensor([[1.0, 1, -1], [1, -1, -1], [-1, -1, -1]])
        ties = torch.tensor([-1.0, 1, 1])
        labels = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]])
        expected = [[1, 1, -1], [1, 1, -1], [-1, -1, -1], [1, -1, -1], [-1, 1, 1]]
        assert centroids(labels, centres, ties).tolist() == expected

    def test_gradients_are_those_of_the_formulas(self, generator: torch.Generator) -> None:
        codes = torch.randn(3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
        others = torch.randn(5, 4, dtype=torch.float64, generator=generator)
        overlap = torch.rand(3, 5, dtype=torch.float64, generator=generator).round(decimals=1)
        aims = sign(torch.randn(3, 4, dtype=torch.float64, generator=generator)).double()
        check = torch.autograd.gradcheck
        assert check(lambda u: pairwise_gap(u, others, (overlap > 0.5).double()), codes)
        assert check(lambda u: weighted_likelihood(u, others, overlap, 0.7), codes)
        assert check(lambda u: central_similarity(u, aims), codes)
        assert check(log_cosh_quantisation, codes)

    def test_a_step_down_the_gradient_goes_where_it_should(self) -> None:
        """Similar codes come nearer, dissimilar ones part, codes go to their centre and to ±1."""
        similar = torch.tensor([[1.0, 0], [0, 1]])

        def step(loss: Any, codes: Tensor) -> Tensor:
            codes = codes.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(codes), codes)
            return codes.detach() - 0.05 * gradient

        codes = torch.tensor([[0.3, 0.2, -0.1], [0.2, -0.1, 0.4]])
        other = torch.tensor([[0.4, -0.2, 0.3], [0.1, 0.5, 0.2]])
        for loss in (
            lambda u: pairwise_gap(u, other, similar),
            lambda u: weighted_likelihood(u, other, similar, 1.0),
        ):
            before, after = codes @ other.T, step(loss, codes) @ other.T
            assert bool((after - before)[similar == 1].gt(0).all())
            assert bool((after - before)[similar == 0].lt(0).all())
        aims = torch.tensor([[1.0, -1, 1], [-1, -1, 1]])
        moved = step(lambda u: central_similarity(u, aims), codes) - codes
        assert torch.equal(moved.sign(), aims)
        assert bool((step(log_cosh_quantisation, codes).abs() > codes.abs()).all())

    def test_dph_is_what_its_formula_says(self) -> None:
        """The objective of a batch, through the class, equals the formula by hand."""
        victim = DPH(bits=4)
        codes = torch.randn(3, 4)
        labels = torch.tensor([[1, 0], [1, 1], [0, 1]])
        soft = codes.tanh()
        total = 0.0
        for i in range(3):
            for j in range(3):
                wanted = 1 if bool((labels[i] & labels[j]).any()) else -1
                total += (float(soft[i] @ soft[j]) / 4 - wanted) ** 2
        assert float(victim.objective(codes, labels)) == pytest.approx(total / 9, rel=1e-5)


class TestHashCentres:
    @pytest.mark.parametrize(("classes", "bits"), [(10, 16), (16, 16), (33, 32), (32, 16)])
    def test_hadamard(self, classes: int, bits: int) -> None:
        centres = hash_centres(classes, bits)
        products = centres @ centres.T
        assert centres.shape == (classes, bits)
        assert torch.equal(products.diagonal(), torch.full((classes,), float(bits)))
        products.fill_diagonal_(0)  # orthogonal: K/2 apart; the second K are opposites: K apart
        assert set(products.unique().tolist()) <= ({0.0} if classes <= bits else {0.0, -bits})

    @pytest.mark.parametrize(("classes", "bits"), [(10, 12), (33, 16), (60, 48), (4, 2), (8, 3)])
    def test_bernoulli(self, classes: int, bits: int) -> None:
        torch.manual_seed(3)
        centres = hash_centres(classes, bits)
        assert set(centres.unique().tolist()) == {-1.0, 1.0}
        assert len(centres.unique(dim=0)) == classes
        torch.manual_seed(3)
        assert torch.equal(hash_centres(classes, bits), centres)

    def test_bernoulli_is_fair(self) -> None:
        torch.manual_seed(0)
        centres = hash_centres(200, 100)
        assert float(centres.mean()) == pytest.approx(0, abs=0.02)
        distance = (100 - centres @ centres.T) / 2
        apart = distance[~torch.eye(200, dtype=torch.bool)]
        assert float(apart.mean()) == pytest.approx(50, abs=0.5)

    def test_too_few_bits(self) -> None:
        with pytest.raises(ConfigError, match="expected bits >= 4 for 10 classes"):
            VICTIMS.create("csq", {"classes": 10, "bits": 3})


class TestCSQ:
    def test_centres_are_part_of_the_checkpoint(self, tmp_path: Path) -> None:
        settings = {"classes": 10, "bits": 12}
        torch.manual_seed(5)
        victim = VICTIMS.create("csq", settings).eval()
        save_victim(tmp_path, victim, name="csq", settings=VICTIMS.settings("csq", settings))
        loaded, _ = load_victim(tmp_path)
        for name in ("centres", "ties"):
            assert torch.equal(loaded.get_buffer(name), victim.get_buffer(name))

    def test_codes_go_to_the_centres(self, trained: dict[str, HashVictim], digits: Dataset) -> None:
        victim = trained["csq"]
        codes = torch.from_numpy(victim.database_codes(digits, "image").signs())
        nearest = (codes @ victim.get_buffer("centres").T).argmax(dim=1)
        right = nearest == digits.database.labels.argmax(dim=1)
        assert float(right.float().mean()) > 0.7

    def test_the_seed_draws_the_centres(self, digits: Dataset) -> None:
        few = replace(digits, train_rows=digits.train_rows[:64])
        drawn = [
            CSQ(classes=10, bits=12, image_size=16, epochs=1)
            .fit(few, seed=seed)
            .get_buffer("centres")
            for seed in (1, 1, 2)
        ]
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])


class TestHashNet:
    def test_the_scale_grows_stage_by_stage(self) -> None:
        victim = HashNet(bits=4, epochs=10, stages=5, final_scale=9)
        found = []
        for epoch in range(10):
            victim.advance(epoch)
            found.append(float(victim.get_buffer("scale")) ** 2)
        assert found == pytest.approx([1, 1, 21, 21, 41, 41, 61, 61, 81, 81], rel=1e-5)
        assert float(HashNet(bits=4).get_buffer("scale")) == 1

    def test_one_stage_is_plain_tanh(self) -> None:
        victim = HashNet(bits=4, epochs=3, stages=1)
        victim.advance(2)
        assert float(victim.get_buffer("scale")) == 1

    def test_fewer_epochs_than_stages_reach_the_final_scale(self) -> None:
        victim = HashNet(bits=4, epochs=2, stages=10, final_scale=10)
        victim.advance(1)
        assert float(victim.get_buffer("scale")) == 10

    def test_training_leaves_the_final_scale_in_the_checkpoint(
        self, trained: dict[str, HashVictim], tmp_path: Path
    ) -> None:
        """A plain attribute would be lost: the published trap."""
        victim = trained["hashnet"]
        scale = float(victim.get_buffer("scale"))
        assert scale == 3
        settings = VICTIMS.settings("hashnet", {"bits": 16, "image_size": 16, "epochs": 6})
        save_victim(tmp_path, victim, name="hashnet", settings=settings)
        loaded, _ = load_victim(tmp_path)
        assert float(loaded.get_buffer("scale")) == scale
        images = torch.rand(4, 3, 16, 16)
        with torch.no_grad():
            assert torch.equal(loaded.relax(images, "image"), victim.relax(images, "image"))

    def test_relax_keeps_a_gradient_at_any_scale_and_the_sanity_checks_flag_it(
        self, trained: dict[str, HashVictim], digits: Dataset
    ) -> None:
        victim = trained["hashnet"]
        scale = victim.get_buffer("scale")
        kept = scale.clone()
        codes = victim.encode_split(digits.query, "image")
        try:
            scale.fill_(1e6)  # frozen high, as in published pickles
            flags = {flag.name for flag in victim_flags(victim, digits)}
            assert {"vanishing_gradient", "saturated_codes"} <= flags
            images = digits.query.rows(torch.arange(8)).inputs["image"].requires_grad_()
            (gradient,) = torch.autograd.grad(victim.relax(images, "image").sum(), images)
            assert bool((gradient.flatten(1).abs().sum(dim=1) > 0).all())
            again = victim.encode_split(digits.query, "image")
            assert np.array_equal(again.words, codes.words)
        finally:
            scale.copy_(kept)
        assert "vanishing_gradient" not in {flag.name for flag in victim_flags(victim, digits)}

    def test_refusals(self) -> None:
        for settings in ({"alpha": -1.0}, {"stages": 0}, {"final_scale": 0.5}):
            with pytest.raises(ConfigError, match="expected"):
                VICTIMS.create("hashnet", settings)


class TestEveryImageHash:
    @pytest.mark.parametrize("name", NAMES)
    def test_beats_chance_within_seconds(
        self, name: str, trained: dict[str, HashVictim], digits: Dataset
    ) -> None:
        assert mean_ap(trained[name], digits) > 0.6  # chance: 0.10

    @pytest.mark.parametrize("name", ["csq", "hashnet"])  # they count labels, others only compare
    def test_learns_from_several_labels(self, name: str) -> None:
        whole = load_dataset("openmoji", {"size": 16})
        whole = replace(whole, train_rows=whole.train_rows[:640])
        given = {**VICTIMS[name].build.data_arguments(whole), "bits": 16, "epochs": 5}
        victim = VICTIMS.create(name, given).fit(whole, seed=0)
        assert mean_ap(victim, whole) > 0.25  # chance: 0.14

    @pytest.mark.parametrize("name", NAMES)
    def test_can_be_attacked(
        self, name: str, trained: dict[str, HashVictim], digits: Dataset
    ) -> None:
        assert dhta_gain(trained[name], digits) > 0.2

    def test_a_perfect_database_has_a_ceiling_of_one(
        self, trained: dict[str, HashVictim], digits: Dataset
    ) -> None:
        """Its average precision sums to 1.0000000000000004: no sign of a damaged cache."""
        real = hash_centres(10, 16)[digits.database.labels.argmax(dim=1)]
        real[::17, 0] *= -1
        real[::18, 1] *= -1  # own class: distance 0 to 2; others: at least 6
        codes = HashCodes.from_relaxed(real)
        served = AttackData(digits, codes, "image", "image")
        found = target_ceilings(
            trained["csq"], served, np.eye(10, dtype=np.uint8), scoring=Scoring(),
            identity={"test": "perfect"},
        )  # fmt: skip
        assert found.max() == 1
        assert found.min() > 1 - 1e-9

    @pytest.mark.parametrize("name", NAMES)
    def test_tables_are_refused(self, name: str) -> None:
        with pytest.raises(DataError, match="expected a data set with images, got 'breast_cancer'"):
            VICTIMS[name].build.data_arguments(load_dataset("breast_cancer", {}))

    @pytest.mark.parametrize("name", NAMES)
    def test_settings_are_kept_under_their_names(self, name: str) -> None:
        given = {"classes": 3} if name == "csq" else {}
        settings = VICTIMS.settings(name, given)
        victim = VICTIMS.create(name, given)
        assert {key: getattr(victim, key) for key in settings} == settings
        assert "__main__" not in repr(victim)
        assert len(Counter([victim, victim])) == 1  # hashable, as modules are

    def test_shared_deviations_are_listed_once(self) -> None:
        for name in NAMES:
            listed = VICTIMS[name].deviations
            assert len(listed) == len(set(listed))
            assert any("ImageNet weights" in text for text in listed), name


class TestCodeFigures:
    def test_by_hand(self) -> None:
        codes = HashCodes.pack([[0, 0, 1], [0, 1, 1], [0, 1, 1], [0, 1, 0]])
        found = code_figures(codes)
        entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
        assert (found["rows"], found["distinct"]) == (4, 3)
        assert found["balance"] == pytest.approx((0 + 0.5 + 0.5) / 3)
        assert found["entropy"] == pytest.approx(2 * entropy / 3)

    def test_best_and_worst(self) -> None:
        best = code_figures(HashCodes.pack([[0, 1], [1, 0]]))
        assert (best["balance"], best["entropy"]) == (1, 1)
        worst = code_figures(HashCodes.pack([[0, 1], [0, 1]]))
        assert (worst["balance"], worst["entropy"], worst["distinct"]) == (0, 0, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `advhash train --out` leaves."""
    config = TrainConfig.build(
        {
            "victim": {"name": "dph", "epochs": 1, "bits": 12},
            "dataset": {"name": "digits", "size": 16},
        }
    )
    return export_checkpoint(train(config), tmp_path_factory.mktemp("card") / "victim")


class TestModelCard:
    def test_page_says_what_the_card_says(self, folder: Path) -> None:
        from huggingface_hub import ModelCard

        card = json.loads((folder / "card.json").read_text())
        page = (folder / PAGE).read_text()
        read = ModelCard.load(folder / PAGE, ignore_metadata_errors=False).data
        assert (read.license, read.datasets, read.library_name) == (
            "cc-by-4.0",
            ["digits"],
            "advhash",
        )
        results = {result.metric_name: result.metric_value for result in read.eval_results}
        assert results == {
            key: round(metric["value"], 4) for key, metric in card["metrics"].items()
        }
        metric = card["metrics"]["map_image_image"]
        figure = f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"
        assert f"| image → image | {figure} |" in page
        assert f"Chance: {card['metrics']['map_chance']['value']:.3f}" in page
        codes = card["codes"]["image"]
        assert (
            f"| image | 1347 | {codes['distinct']} | {codes['balance']:.3f} | "
            f"{codes['entropy']:.3f} |"
        ) in page
        for text in VICTIMS["dph"].deviations:
            assert f"- {text}" in page
        for flag in card["flags"]:
            assert f"`{flag['name']}`" in page
        assert "Attribution: Optical Recognition of Handwritten Digits" in page
        assert "1197 of its rows trained on" in page

    def test_loading_needs_and_reads_no_page(self, folder: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(folder, tmp_path / "victim"))
        (copy / PAGE).write_text("---\nlicense: [\n---\n")
        load_victim(copy)
        (copy / PAGE).unlink()
        load_victim(copy)

    def test_names_of_strangers_stay_text(self, folder: Path) -> None:
        card = json.loads((folder / "card.json").read_text())
        odd = "/home/a|b/<script>alert(1)</script>`x`\n# title"
        card["data"] |= {"name": odd, "settings": {"root": odd}, "attribution": odd, "licence": odd}
        page = model_card(card)
        body = page.split("---\n", 2)[2]
        assert "\n# title" not in body
        outside = [part for place, part in enumerate(body.split("`")) if place % 2 == 0]
        assert not any("<" in part for part in outside)


class TestRetrieval:
    """Full trainings with default settings, against docs/victims/table.md."""

    @pytest.mark.slow
    @pytest.mark.parametrize("name", NAMES)
    def test_digits(self, name: str) -> None:
        data = load_dataset("digits", {})
        given = VICTIMS[name].build.data_arguments(data)
        assert mean_ap(VICTIMS.create(name, given).fit(data, seed=0), data) >= 0.95
