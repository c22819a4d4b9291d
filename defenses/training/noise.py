"""Training under Gaussian noise: what a victim needs before it is smoothed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advhash.attacks.base import AttackData
from advhash.budget import Budget
from advhash.compute.progress import Progress, silent
from advhash.defenses.training.continued import Continued, clean_loss, kept_codes
from advhash.registry import DEFENSES
from advhash.victims.base import HashVictim, expect_positive
from advhash.victims.training.descent import random_batches, seeded
from advhash.victims.training.phase import Phase


@DEFENSES.register("noise", source="Cohen et al., ICML 2019 (training of the base classifier)")
@dataclass(kw_only=True, eq=False, repr=False)
class NoiseTraining(Continued):
    """Goes on training under noise: L = L_clean(clip(x + η)), η ~ N(0, σ²I), as `smoothing` hashes.

    sigma: standard deviation of the noise, in [0,1] pixels

    No attacker is trained against: no budget determines it, and it costs as much as plain
    training. By itself it certifies nothing: `advhash certify` and `smoothing` do.

    Deviations:
    - it starts from the trained victim; published is training under noise from the start
    """

    takes_budget: ClassVar[bool] = False

    sigma: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_positive(sigma=self.sigma)

    def harden(
        self,
        victim: HashVictim,
        data: AttackData,
        budget: Budget,
        *,
        seed: int = 0,
        progress: Progress = silent,
    ) -> HashVictim:
        """A copy of the victim, trained on. Same victim, data, settings and seed: same weights."""
        hardened, modality = self.copied(victim, data.modality), data.modality
        train, kept = data.dataset.train, kept_codes(hardened, data)
        low, high = hardened.bounds[modality]
        generator = torch.Generator().manual_seed(seed)
        descent = self.descent(hardened, len(train))

        def loss(rows: Tensor) -> Tensor:
            batch = self.clean_batch(train, rows, modality, generator)
            images = batch.inputs[modality]
            noise = torch.randn(images.shape, generator=generator)
            noisy = (images + self.sigma * noise).clamp(low, high).to(hardened.device)

            def codes(part: slice) -> Tensor:
                return hardened.relax(noisy[part], modality)

            labels = batch.labels.to(hardened.device)
            outputs = descent.outputs(len(rows), codes)
            return clean_loss(hardened, outputs, labels, None if kept is None else kept[rows])

        with seeded(seed):
            phase = Phase(f"harden {modality}", hardened, progress)
            for _ in phase.epochs(self.epochs, descents={"all": descent}, generator=generator):
                batches = random_batches(len(train), self.batch_size, generator)
                phase.note(loss=descent.epoch(batches, loss))
        return hardened.eval()
