"""`Attack.perturb` against attacks that break every rule, and `HashVictim.encode`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advhash.attacks.base import Attack, Goal, Knowledge, Perturbed, frozen
from advhash.budget import Budget, Norm
from advhash.data import Batch, Dataset, Modality, Progress, silent
from advhash.errors import UsageError
from advhash.victims.base import HashVictim

Script = Callable[[HashVictim, Batch, Tensor | None, Budget], Tensor]
EIGHT = Budget("linf", 8 / 255)
UNBOUNDED = Budget("none", math.inf)


class Tiny(HashVictim):
    """Two modalities, batch normalisation, dropout: everything that a flag can spoil."""

    def __init__(self) -> None:
        super().__init__()
        self.bits = 8
        self.bounds = {"image": (0.0, 1.0), "text": (0.0, math.inf)}
        self.history = []
        self.image = nn.Sequential(
            nn.Flatten(), nn.Linear(48, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 8)
        )
        self.text = nn.Linear(5, 8)

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        codes: Tensor = (self.image if modality == "image" else self.text)(inputs)
        return codes

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        return self


class Scripted(Attack):
    """Does what a function says."""

    goal: ClassVar[Goal] = "untargeted"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"image", "text"})
    knowledge: ClassVar[Knowledge] = frozenset()
    norms: ClassVar[frozenset[Norm]] = frozenset({"linf", "l2", "l0", "none"})

    def __init__(self, script: Script) -> None:
        self.script = script
        self.history = []

    def run(
        self, victim: HashVictim, batch: Batch, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        return self.script(victim, batch, targets, budget)


class Aimed(Scripted):
    goal: ClassVar[Goal] = "targeted"


class ImagesOnly(Scripted):
    modalities: ClassVar[frozenset[Modality]] = frozenset({"image"})


@pytest.fixture
def victim() -> HashVictim:
    """With flags set in a pattern that nothing but a real restoration gives back."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        victim = Tiny()
    victim.train()
    victim.image[2].eval()
    victim.text.weight.requires_grad_(False)
    return victim


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (6, 3, 4, 4), generator=generator).float() / 255
    text = torch.randint(0, 3, (6, 5), generator=generator).float()
    labels = torch.randint(0, 2, (6, 3), generator=generator, dtype=torch.uint8)
    return Batch({"image": images, "text": text}, labels, torch.arange(6))


def perturb(
    script: Script, victim: HashVictim, batch: Batch, budget: Budget, **more: Any
) -> Perturbed:
    return Scripted(script).perturb(victim, batch, None, budget, **more)


def add(value: float) -> Script:
    return lambda victim, batch, targets, budget: batch.inputs["image"] + value


def unchanged(victim: HashVictim, batch: Batch, targets: Tensor | None, budget: Budget) -> Tensor:
    return batch.inputs["image"]


def flags(victim: HashVictim) -> tuple[list[bool], list[bool]]:
    return (
        [module.training for module in victim.modules()],
        [parameter.requires_grad for parameter in victim.parameters()],
    )


class TestBudgetAndGrid:
    @pytest.mark.parametrize(
        ("norm", "eps"),
        [("linf", 8 / 255), ("linf", 0.0313), ("l2", 0.5), ("l0", 5), ("none", math.inf)],
    )
    @pytest.mark.parametrize("value", [-7.0, -0.2, 0.2, 7.0])
    def test_a_wild_result_is_brought_back_and_measured(
        self, victim: HashVictim, batch: Batch, norm: Norm, eps: float, value: float
    ) -> None:
        budget = Budget(norm, eps)
        result = perturb(add(value), victim, batch, budget)
        clean, moved = batch.inputs["image"], result.batch.inputs["image"]
        assert moved.min() >= 0
        assert moved.max() <= 1
        assert torch.equal(result.distance, budget.distance(clean, moved))
        assert (result.distance <= eps + 1e-6).all()
        assert (result.distance > 0).all()
        stored = (moved * 255).round().to(torch.uint8)
        assert torch.equal(stored.float() / 255, moved)  # trap 26: 8 bits hold it
        far = budget.distance(clean, clean + value)
        expected = torch.zeros(6) if norm == "none" else far - eps
        assert torch.allclose(result.overrun, expected, atol=1e-4)

    def test_eight_steps_are_used_to_the_full(self, victim: HashVictim, batch: Batch) -> None:
        result = perturb(add(1.0), victim, batch, EIGHT)
        steps = (result.batch.inputs["image"] - batch.inputs["image"]) * 255
        room = (1 - batch.inputs["image"]) * 255
        assert torch.allclose(steps, room.clamp(max=8), atol=1e-3)

    @pytest.mark.parametrize(
        ("norm", "eps"), [("linf", 8 / 255), ("linf", 1.0), ("l2", 0.5), ("l2", 60.0), ("l0", 9)]
    )
    def test_an_attack_that_keeps_its_budget_has_no_overrun(self, norm: Norm, eps: float) -> None:
        """Not even by float error, which grows with the radius: it would raise a flag."""
        budget = Budget(norm, eps)
        generator = torch.Generator().manual_seed(2)
        large = torch.randint(256, (4, 3, 224, 224), generator=generator) / 255
        noise = 3 * torch.randn(large.shape, generator=generator)

        def projected(victim: HashVictim, batch: Batch, targets: object, budget: Budget) -> Tensor:
            return budget.project(batch.inputs["image"], batch.inputs["image"] + noise, (-99, 99))

        labels = torch.zeros(4, 2, dtype=torch.uint8)
        batch = Batch({"image": large}, labels, torch.arange(4))
        result = perturb(projected, Brightness(), batch, budget)
        assert result.overrun.tolist() == [0.0] * 4

    def test_a_change_below_one_step_vanishes_and_the_code_with_it(self) -> None:
        """Trap 14: the code is that of the image that is returned, not of the iterate before."""
        dark = Batch(
            {"image": torch.zeros(2, 3, 4, 4)},
            torch.zeros(2, 1, dtype=torch.uint8),
            torch.arange(2),
        )
        rounded = perturb(add(0.9 / 255), Brightness(), dark, EIGHT)
        exact = perturb(add(0.9 / 255), Brightness(), dark, EIGHT, eight_bit=False)
        assert rounded.codes.unpack().tolist() == [[False], [False]]
        assert rounded.distance.tolist() == [0.0, 0.0]
        assert exact.codes.unpack().tolist() == [[True], [True]]
        assert exact.distance.tolist() == pytest.approx([0.9 / 255] * 2)

    def test_codes_are_hashed_again_in_eval_mode(self, victim: HashVictim, batch: Batch) -> None:
        result = perturb(add(0.1), victim, batch, UNBOUNDED)
        victim.eval()
        with torch.no_grad():
            relaxed = victim.relax(result.batch.inputs["image"], "image")
        assert np.array_equal(result.codes.unpack(), (relaxed > 0).numpy())

    def test_text_changes_by_whole_words_within_the_budget(
        self, victim: HashVictim, batch: Batch
    ) -> None:
        def more(victim: HashVictim, batch: Batch, targets: object, budget: Budget) -> Tensor:
            return batch.inputs["text"].round() + torch.tensor([1.3, -9.0, 0.2, 0.1, 0.0])

        whole = Batch(
            {**batch.inputs, "text": batch.inputs["text"].round()}, batch.labels, batch.index
        )
        result = perturb(more, victim, whole, Budget("l0", 2), modality="text")
        clean, moved = whole.inputs["text"], result.batch.inputs["text"]
        assert torch.equal(moved[:, 0], clean[:, 0] + 1)
        assert torch.equal(moved[:, 1], (clean[:, 1] - 2).clamp_min(0))
        assert torch.equal(moved[:, 2:], clean[:, 2:])
        assert (result.distance <= 2).all()
        assert torch.equal(result.batch.inputs["image"], batch.inputs["image"])
        assert len(result.codes) == 6

    def test_double_precision_is_taken(self, victim: HashVictim, batch: Batch) -> None:
        def double(victim: HashVictim, batch: Batch, targets: object, budget: Budget) -> Tensor:
            return batch.inputs["image"].double() + 0.1

        moved = perturb(double, victim, batch, EIGHT).batch.inputs["image"]
        assert moved.dtype == torch.float32


class Brightness(HashVictim):
    """One bit: whether any pixel is brighter than a fifth of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.bits, self.bounds, self.history = 1, {"image": (0.0, 1.0)}, []
        self.floor = nn.Parameter(torch.tensor(0.2 / 255))

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        return inputs.flatten(1).amax(dim=1, keepdim=True) - self.floor

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        return self


class TestNothingElseChanges:
    def test_what_the_attack_writes_into_its_batch_is_its_own(
        self, victim: HashVictim, batch: Batch
    ) -> None:
        """Else an attack could choose the labels that it is scored with."""
        targets = torch.tensor([[1, 0, 0]] * 6, dtype=torch.uint8)

        def vandal(victim: HashVictim, batch: Batch, targets: Tensor | None, b: Budget) -> Tensor:
            assert targets is not None
            for values in (*batch.inputs.values(), batch.labels, batch.index, targets):
                values.fill_(1)
            return batch.inputs["image"]

        before = batch.to("cpu"), targets.clone()
        copies = {name: values.clone() for name, values in batch.inputs.items()}
        labels, index = batch.labels.clone(), batch.index.clone()
        result = Aimed(vandal).perturb(victim, batch, targets, EIGHT)
        for found in (batch, before[0]):
            assert all(torch.equal(found.inputs[name], copies[name]) for name in copies)
            assert torch.equal(found.labels, labels)
            assert torch.equal(found.index, index)
        assert torch.equal(targets, before[1])
        assert torch.equal(result.batch.labels, labels)
        assert torch.equal(result.batch.index, index)
        assert torch.equal(result.batch.inputs["text"], copies["text"])
        assert (result.overrun > 0).all()  # measured from the true clean image

    def test_inside_everything_is_frozen(self, victim: HashVictim, batch: Batch) -> None:
        seen = []

        def look(victim: HashVictim, batch: Batch, targets: object, budget: Budget) -> Tensor:
            seen.append(flags(victim))
            return batch.inputs["image"]

        perturb(look, victim, batch, EIGHT)
        ((training, wanted),) = seen
        assert not any(training)
        assert not any(wanted)

    def test_trap_16_train_mode_and_gradients_that_are_left_on_are_restored(
        self, victim: HashVictim, batch: Batch
    ) -> None:
        before = flags(victim)
        assert len(set(before[0])) == len(set(before[1])) == 2  # a pattern, not all alike

        def careless(victim: HashVictim, batch: Batch, targets: object, budget: Budget) -> Tensor:
            victim.train().requires_grad_(True)
            return batch.inputs["image"]

        perturb(careless, victim, batch, EIGHT)
        assert flags(victim) == before

    def test_they_are_restored_after_an_exception_too(
        self, victim: HashVictim, batch: Batch
    ) -> None:
        before = flags(victim)

        def broken(victim: HashVictim, batch: Batch, targets: object, budget: Budget) -> Tensor:
            torch.rand(7)
            raise KeyError("bug")

        torch.manual_seed(3)
        expected = torch.random.get_rng_state()
        with pytest.raises(KeyError):
            perturb(broken, victim, batch, EIGHT)
        assert flags(victim) == before
        assert torch.equal(torch.random.get_rng_state(), expected)

    def test_a_gradient_attack_leaves_no_gradient_in_the_parameters(
        self, victim: HashVictim, batch: Batch
    ) -> None:
        def descend(victim: HashVictim, batch: Batch, targets: object, budget: Budget) -> Tensor:
            image = batch.inputs["image"].requires_grad_()
            victim.relax(image, "image").sum().backward()
            assert image.grad is not None
            return image + image.grad.sign() * budget.eps

        result = perturb(descend, victim, batch, EIGHT)
        assert not result.batch.inputs["image"].requires_grad
        assert all(parameter.grad is None for parameter in victim.parameters())
        assert (result.distance > 0).all()

    def test_frozen_yields_the_victim_itself(self, victim: HashVictim) -> None:
        before = flags(victim)
        with frozen(victim) as inside:
            assert inside is victim
            assert flags(victim) != before
        assert flags(victim) == before


class TestChance:
    @staticmethod
    def noise(victim: HashVictim, batch: Batch, targets: object, budget: Budget) -> Tensor:
        return torch.rand_like(batch.inputs["image"])

    def image(self, victim: HashVictim, batch: Batch, seed: int) -> Tensor:
        return perturb(self.noise, victim, batch, UNBOUNDED, seed=seed).batch.inputs["image"]

    def test_same_seed_same_output_whatever_the_global_state(
        self, victim: HashVictim, batch: Batch
    ) -> None:
        torch.manual_seed(1)
        first = self.image(victim, batch, seed=5)
        torch.manual_seed(2)
        torch.rand(3)
        assert torch.equal(self.image(victim, batch, seed=5), first)
        assert not torch.equal(self.image(victim, batch, seed=6), first)

    def test_the_global_generator_is_as_it_was(self, victim: HashVictim, batch: Batch) -> None:
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        self.image(victim, batch, seed=5)
        assert torch.equal(torch.rand(3), expected)


class TestRefusals:
    @pytest.mark.parametrize(
        "script",
        [
            lambda v, b, t, e: torch.full_like(b.inputs["image"], math.nan),
            lambda v, b, t, e: torch.full_like(b.inputs["image"], -math.inf),
            lambda v, b, t, e: b.inputs["image"][:3],
            lambda v, b, t, e: b.inputs["image"][:, :1],
            lambda v, b, t, e: b.inputs["image"].flatten(1),
        ],
        ids=["nan", "infinity", "too few rows", "one channel", "flat"],
    )
    def test_a_result_that_is_no_image_is_a_bug_of_the_attack(
        self, victim: HashVictim, batch: Batch, script: Script
    ) -> None:
        before = flags(victim)
        with pytest.raises(RuntimeError, match=r"Scripted.run returned \("):
            perturb(script, victim, batch, EIGHT)
        assert flags(victim) == before

    def test_one_bad_pixel_is_enough(self, victim: HashVictim, batch: Batch) -> None:
        def spoilt(victim: HashVictim, batch: Batch, targets: object, budget: Budget) -> Tensor:
            image = batch.inputs["image"]
            image[5, 2, 3, 3] = math.nan
            return image

        with pytest.raises(RuntimeError, match="finite: False"):
            perturb(spoilt, victim, batch, EIGHT)

    def test_targets_are_for_targeted_attacks(self, victim: HashVictim, batch: Batch) -> None:
        targets = torch.ones(6, 3, dtype=torch.uint8)
        with pytest.raises(UsageError, match="this one is untargeted"):
            Scripted(unchanged).perturb(victim, batch, targets, EIGHT)
        with pytest.raises(UsageError, match="this one is targeted"):
            Aimed(unchanged).perturb(victim, batch, None, EIGHT)
        assert len(Aimed(unchanged).perturb(victim, batch, targets, EIGHT).codes) == 6

    def test_a_modality_that_the_victim_lacks(self, victim: HashVictim, batch: Batch) -> None:
        with pytest.raises(
            UsageError, match=r"modality of the victim \(image, text\), got 'sound'"
        ):
            perturb(unchanged, victim, batch, EIGHT, modality="sound")

    def test_a_modality_that_the_attack_lacks(self, victim: HashVictim, batch: Batch) -> None:
        with pytest.raises(UsageError, match=r"that ImagesOnly attacks \(image\), got 'text'"):
            ImagesOnly(unchanged).perturb(victim, batch, None, EIGHT, "text")


class TestEncode:
    def test_it_is_deterministic_in_train_mode_too(self, victim: HashVictim, batch: Batch) -> None:
        codes = [victim.encode(batch.inputs["image"], "image").words for _ in range(5)]
        assert all(np.array_equal(codes[0], again) for again in codes)

    def test_it_leaves_the_flag_of_each_module_as_it_was(
        self, victim: HashVictim, batch: Batch
    ) -> None:
        """A frozen batch normalisation inside a victim in training stays frozen."""
        before = flags(victim)
        victim.encode(batch.inputs["image"], "image")
        assert flags(victim) == before

    def test_it_leaves_the_statistics_alone(self, victim: HashVictim, batch: Batch) -> None:
        before = {name: values.clone() for name, values in victim.state_dict().items()}
        victim.encode(batch.inputs["image"], "image")
        assert all(torch.equal(before[name], v) for name, v in victim.state_dict().items())

    def test_flags_are_restored_where_the_victim_fails(self, victim: HashVictim) -> None:
        before = flags(victim)
        with pytest.raises(RuntimeError):
            victim.encode(torch.zeros(2, 1), "image")
        assert flags(victim) == before

    def test_an_unknown_modality_is_refused(self, victim: HashVictim, batch: Batch) -> None:
        with pytest.raises(UsageError, match="expected a modality of the victim"):
            victim.encode(batch.inputs["image"], "sound")

    def test_a_broken_victim_gives_no_codes(self, victim: HashVictim, batch: Batch) -> None:
        nn.init.constant_(victim.image[4].bias, math.nan)
        with pytest.raises(ValueError, match="NaN"):
            victim.encode(batch.inputs["image"], "image")
