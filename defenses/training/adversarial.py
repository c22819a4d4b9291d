"""Adversarial training: inner attack × outer loss, on a victim that is trained already.

Every published scheme is L_clean(x) + λ·L_adv(x'), x' what an inner attack makes of x against the
present weights; they differ in the attack and in L_adv. The inner attacks are those that the
toolkit attacks with, inside the same harness, with fewer steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advhash.attacks.base import Attack, AttackData
from advhash.attacks.gradient.anchors import centre_codes
from advhash.attacks.gradient.descent import GradientAttack
from advhash.attacks.gradient.hiding import CGAT, MainstayUntargeted
from advhash.attacks.gradient.targeted import THA
from advhash.attacks.prosgan.prosgan import ProSGAN
from advhash.budget import Budget
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Batch
from advhash.defenses.training.continued import Continued, clean_loss, kept_codes
from advhash.registry import DEFENSES
from advhash.targets import choose_targets
from advhash.victims.base import HashVictim, expect_positive
from advhash.victims.objectives import pairwise_gap, quantisation, shared_label, sign
from advhash.victims.training.descent import random_batches, seeded
from advhash.victims.training.phase import Phase

FAST: dict[str, Any] = {"steps": 1, "step": 1.25}  # Wong et al., ICLR 2020


@dataclass(kw_only=True, eq=False, repr=False)
class AdversarialTraining(Continued):
    """Goes on training a victim with the adversarial images of its own training rows.

    warmup: share of the epochs over which the radius rises to that of the budget
    weight: λ

    L_clean: see `Continued`.

    Deviations of all:
    - it starts from the trained victim, with AdamW
    - x and x' form one batch, so that the statistics of batch normalisation are those of both
    - the radius rises over the first epochs, and images are augmented
    - of several steps x' is the best iterate; of one step, as published, what it gives
    Deviations of the defaults only:
    - λ is 5 where 1 is published: with 1, photographs are hardly hardened (docs/defenses)
    """

    warmup: float = 0.25
    weight: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.warmup <= 1 or not self.weight >= 0:
            raise ValueError(
                f"expected warmup in [0,1] and weight >= 0, got {self.warmup:g} and {self.weight:g}"
            )

    def inner(self) -> Attack:
        """The attack that makes x'."""
        raise NotImplementedError

    def outer(self, moved: Tensor, clean: Tensor, labels: Tensor, data: AttackData) -> Tensor:
        """L_adv of the real codes (B,K) of x' and x, the rows' labels (B,C)."""
        raise NotImplementedError

    def fitted_before(self, epoch: int) -> int:
        """The last epoch, 1 … `epoch`, before which the inner attack is fitted anew."""
        return epoch

    def check(self, victim: HashVictim) -> None:
        """Raise UsageError: no pictures, no gradients, no weights to train."""
        super().check(victim)
        self.inner().check_gradients(victim)

    def harden(
        self,
        victim: HashVictim,
        data: AttackData,
        budget: Budget,
        *,
        seed: int = 0,
        progress: Progress = silent,
    ) -> HashVictim:
        """A copy of the victim, trained on. Same victim, data, settings and seed: same weights.

        Raises UsageError: no weights to train, no gradients, a modality that cannot be moved.
        """
        attack, hardened = self.inner(), self.copied(victim, data.modality)
        if isinstance(attack, GradientAttack):
            attack.single = attack.steps == 1
        with seeded(seed):
            self._train(hardened, attack, data, budget, seed, progress)
        return hardened.eval()

    def _train(
        self,
        victim: HashVictim,
        attack: Attack,
        data: AttackData,
        budget: Budget,
        seed: int,
        progress: Progress,
    ) -> None:
        train, modality = data.dataset.train, data.modality
        kept = kept_codes(victim, data)
        descent = self.descent(victim, len(train))
        generator = torch.Generator().manual_seed(seed)
        phase = Phase(f"harden {modality}", victim, progress)

        def epoch_loss(
            served: AttackData, now: Budget, terms: list[tuple[float, float]]
        ) -> Callable[[Tensor], Tensor]:
            def loss(rows: Tensor) -> Tensor:
                batch = self.clean_batch(train, rows, modality, generator)
                moved = self._moved(victim, attack, batch, served, now, generator)
                both = torch.stack([batch.inputs[modality].to(victim.device), moved], dim=1)

                def codes(part: slice) -> Tensor:
                    pairs = both[part]
                    return victim.relax(pairs.flatten(0, 1), modality).view(len(pairs), 2, -1)

                u, v = descent.outputs(len(rows), codes).unbind(dim=1)
                labels = batch.labels.to(victim.device)
                first = clean_loss(victim, u, labels, None if kept is None else kept[rows])
                second = self.outer(v, u, labels, served)
                terms.append((first.item(), second.item()))
                return first + self.weight * second

            return loss

        # what the inner attack was fitted to: after a kill between two fits it is fitted again
        start = {name: value.clone() for name, value in victim.state_dict().items()}
        fitted = 0
        for epoch in phase.epochs(
            self.epochs, descents={"all": descent}, generator=generator, tensors=start
        ):
            now = Budget(budget.norm, budget.eps * self._ramp(epoch))
            served = self._served(victim, data)
            if fitted != self.fitted_before(epoch):
                fitted = self.fitted_before(epoch)
                source, known = victim, served
                if fitted == epoch:
                    for name, value in victim.state_dict().items():
                        start[name].copy_(value)
                else:
                    source = copy.deepcopy(victim)
                    source.load_state_dict(start)
                    known = self._served(source, data)
                then = Budget(budget.norm, budget.eps * self._ramp(fitted))
                seen = attack.outlook(source, known)
                attack.fit(*seen, then, seed=seed + fitted)
            terms: list[tuple[float, float]] = []
            loss = epoch_loss(served, now, terms)
            total = descent.epoch(random_batches(len(train), self.batch_size, generator), loss)
            first, second = torch.tensor(terms).mean(dim=0).tolist()
            phase.note(loss=total, clean=first, adversarial=second)

    def _ramp(self, epoch: int) -> float:
        """The share of the radius that training has reached."""
        return min(1.0, epoch / max(1.0, self.warmup * self.epochs))

    @staticmethod
    def _served(victim: HashVictim, data: AttackData) -> AttackData:
        """The database as the victim serves it with its present weights."""
        codes = victim.database_codes(data.dataset, data.database)
        return AttackData(data.dataset, codes, data.database, data.modality)

    @staticmethod
    def _moved(
        victim: HashVictim,
        attack: Attack,
        batch: Batch,
        served: AttackData,
        budget: Budget,
        generator: torch.Generator,
    ) -> Tensor:
        seed = int(torch.randint(2**31, (), generator=generator))
        targets = None
        if attack.goal == "targeted":
            drawn = choose_targets(
                "disjoint",
                batch.labels.numpy(),
                served.labels.numpy(),
                seed,
                rows=batch.index.cpu().numpy(),
            )
            targets = torch.from_numpy(drawn)
        result = attack.move(victim, batch, targets, budget, served.modality, seed=seed)
        return result.inputs[served.modality]


@dataclass(kw_only=True, eq=False, repr=False)
class Descending(AdversarialTraining):
    """With an inner attack by gradients.

    steps, step: of it; a step as a fraction of the radius
    """

    steps: int = 7
    step: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_positive(steps=self.steps, step=self.step)


def expect_weight(value: float) -> None:
    """Raise ValueError for a quantisation weight below 0."""
    if value < 0:
        raise ValueError(f"expected quantisation_weight >= 0, got {value:g}")


def held_at_centre(moved: Tensor, labels: Tensor, data: AttackData, *, graded: bool) -> Tensor:
    """−mean(h'∘c) of real codes u' (B,K), c the centre of the codes that share a label."""
    centres = centre_codes(data, labels, graded=graded).to(moved)
    return -(torch.tanh(moved) * centres).mean()


def held_at_mainstay(
    moved: Tensor, labels: Tensor, data: AttackData, quantisation_weight: float
) -> Tensor:
    """−mean(h'∘m) + w·mean (h' − sign h')², m the mainstay code (Yuan et al., TIFS 2023)."""
    soft = torch.tanh(moved)
    held = held_at_centre(moved, labels, data, graded=True)
    return held + quantisation_weight * quantisation(soft, sign(soft))


@DEFENSES.register("cgat", source="Wang et al., WWW 2023", presets={"fast": FAST})
class CgAT(Descending):
    """CgAT: x' leaves the centre of its labels' codes, training holds it there.

    L_adv = −mean(h'∘c), h' = tanh u', c = sign(mean b of rows that share a label − mean b of the
    others).

    Deviations:
    - published are 30 epochs of SGD at 0.01 and centres of the training rows; here of the database
    """

    def inner(self) -> Attack:
        return CGAT(steps=self.steps, rule="sign", step=self.step, alphas=(1.0,), random_start=True)

    def outer(self, moved: Tensor, clean: Tensor, labels: Tensor, data: AttackData) -> Tensor:
        return held_at_centre(moved, labels, data, graded=False)


@DEFENSES.register("saat", source="Yuan et al., TIFS 2023", presets={"fast": FAST})
@dataclass(kw_only=True, eq=False, repr=False)
class SAAT(Descending):
    """SAAT: semantic-aware adversarial training; x' is held at its mainstay code.

    L_adv = −mean(h'∘m) + μ/λ·mean (h' − sign h')², m the mainstay code: the centre c of `cgat` with
    rows weighted by the cosine of their labels.

    quantisation_weight: μ/λ

    Deviations:
    - published are 20 epochs of SGD at 0.05 and mainstay codes of the training rows; here of the
      database
    """

    quantisation_weight: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_weight(self.quantisation_weight)

    def inner(self) -> Attack:
        return MainstayUntargeted(
            steps=self.steps, rule="sign", step=self.step, alphas=(1.0,), random_start=True
        )

    def outer(self, moved: Tensor, clean: Tensor, labels: Tensor, data: AttackData) -> Tensor:
        return held_at_mainstay(moved, labels, data, self.quantisation_weight)


@DEFENSES.register("atrdh", source="Wang et al., SIGIR 2021", presets={"fast": FAST})
@dataclass(kw_only=True, eq=False, repr=False)
class ATRDH(Descending):
    """ATRDH: x' aims at another label, training keeps its similarities to the clean codes.

    L_adv = mean (⟨h'_i, h_j⟩/K − S_ij)² over the batch, S = 1 where two rows share a label, else
    −1. The inner attack is `tha`: targeted, toward the code of a PrototypeNet.

    refresh: epochs between two fits of the PrototypeNet

    Deviations:
    - the PrototypeNet is fitted anew every `refresh` epochs, not trained along with the victim
    - published are 100 epochs of Adam at 1e-4, and pairs with the codes of all training rows
    """

    refresh: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_positive(refresh=self.refresh)

    def inner(self) -> Attack:
        return THA(steps=self.steps, rule="sign", step=self.step, alphas=(1.0,), random_start=True)

    def fitted_before(self, epoch: int) -> int:
        return epoch - (epoch - 1) % self.refresh

    def outer(self, moved: Tensor, clean: Tensor, labels: Tensor, data: AttackData) -> Tensor:
        return pairwise_gap(torch.tanh(moved), torch.tanh(clean), shared_label(labels, labels))


@DEFENSES.register("generated", source="advhash, after Wang et al., CVPR 2021")
@dataclass(kw_only=True, eq=False, repr=False)
class Generated(AdversarialTraining):
    """Adversarial training against bounded ProS-GAN: one forward pass makes x'.

    L_adv is that of `saat`. The generator is fitted to the present weights every `refresh` epochs,
    under the radius of that epoch.

    quantisation_weight: μ/λ
    refresh:          epochs between two fits
    generator_epochs: of each fit

    Deviations:
    - its own method: no published defence trains against ProS-GAN
    """

    quantisation_weight: float = 1e-4
    refresh: int = 5
    generator_epochs: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_weight(self.quantisation_weight)
        expect_positive(refresh=self.refresh, generator_epochs=self.generator_epochs)

    def inner(self) -> Attack:
        return ProSGAN(bounded=True, epochs=self.generator_epochs)

    def fitted_before(self, epoch: int) -> int:
        return epoch - (epoch - 1) % self.refresh

    def outer(self, moved: Tensor, clean: Tensor, labels: Tensor, data: AttackData) -> Tensor:
        return held_at_mainstay(moved, labels, data, self.quantisation_weight)
