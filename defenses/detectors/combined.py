"""All code detectors in one score: logistic regression on clean, noisy and attacked items."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advhash.attacks.base import Attack, AttackData
from advhash.attacks.black_box.baselines import Noise
from advhash.attacks.gradient.anchors import label_sets
from advhash.attacks.gradient.targeted import DHTA
from advhash.budget import Budget
from advhash.chance import Chance
from advhash.data.dataset import Batch, Dataset, Modality, Split
from advhash.defenses.detectors.image_codes import (
    Centre,
    CodeDetector,
    Exact,
    Flips,
    Margin,
    Nearest,
    Rarity,
)
from advhash.errors import DataError
from advhash.registry import DETECTORS
from advhash.victims.base import HashVictim
from advhash.victims.objectives import shared_label

ABNORMAL = 2  # of them for each clean item: one of noise, one of an attack


@dataclass
class _Scale:
    centre: Tensor
    spread: Tensor
    weights: Tensor
    bias: float


@DETECTORS.register("combined", source="after Ma et al., ICLR 2018 (logistic regression of scores)")
class Combined(CodeDetector):
    """log-odds Σ w_i (score_i − mean_i)/std_i + b of margin (low, high), nearest, centre, exact,
    rarity and flips.

    rows: clean rows, drawn evenly from those that `fit` gets, that the regression learns from
    eps: L∞ radius in [0,1] pixels of the noise and of the attack that it learns from
    steps: of that attack

    Class 0 are clean rows, class 1 the same rows under uniform noise of `eps` and under `dhta`
    (Bai et al., ECCV 2020) within `eps` toward other label sets. No query is seen, nor any attack
    that the detector is judged by unless that is `dhta` itself. Images only.

    The single detectors learn from the other rows, so that no row meets its own code.

    Deviations:
    - scores of codes stand where Ma et al. have the local intrinsic dimension of each layer
    """

    def __init__(self, *, rows: int = 150, eps: float = 16 / 255, steps: int = 20) -> None:
        if rows < 2 or not 0 < eps <= 1 or steps < 1:
            raise ValueError(
                f"expected rows >= 2, eps in (0, 1] and steps >= 1, got {rows}, {eps}, {steps}"
            )
        self.rows, self.eps, self.steps = rows, eps, steps

    def learn(self, victim: HashVictim, clean: Split, modality: Modality) -> None:
        kept = min(self.rows, len(clean) // 2)
        if kept < 2:
            raise DataError(f"combined learns from half the rows: expected 4, got {len(clean)}")
        held = torch.linspace(0, len(clean) - 1, kept).round().long()
        rest = torch.ones(len(clean), dtype=torch.bool)
        rest[held] = False
        known = clean.take(rest.nonzero().flatten())
        self._parts: list[CodeDetector] = [
            part.fit(victim, known, modality)
            for part in (
                Margin(), Margin(side="high"), Nearest(), Centre(), Exact(two_sided=True),
                Rarity(), Flips(),
            )
        ]  # fmt: skip
        batch = clean.rows(held)
        values = [
            torch.stack([part.score(victim, items, modality) for part in self._parts], dim=1)
            for items in (batch, *self._abnormal(victim, known, batch, modality))
        ]
        truth = torch.cat([torch.full((len(batch),), float(n > 0)) for n in range(ABNORMAL + 1)])
        table = torch.cat(values)
        centre, spread = table.mean(dim=0), table.std(dim=0).clamp_min(1e-6)
        from sklearn.linear_model import LogisticRegression  # takes a second to import

        model = LogisticRegression(class_weight="balanced")
        model.fit(((table - centre) / spread).numpy(), truth.numpy())
        weights = torch.from_numpy(model.coef_[0]).float()
        self._scale = _Scale(centre, spread, weights, float(model.intercept_[0]))

    def _abnormal(
        self, victim: HashVictim, known: Split, batch: Batch, modality: Modality
    ) -> list[Batch]:
        """Noise and dhta of `batch`, the anchors from the `known` rows."""
        budget = Budget("linf", self.eps)
        data = Dataset("known", {}, known, torch.arange(len(known)), known, known, ())
        codes = victim.encode_split(known, modality)
        seen = AttackData(data, codes, modality, modality)
        sets = label_sets(known.labels)
        order = Chance(0, batch.index).uniform(len(sets))
        order[shared_label(batch.labels.cpu(), sets) > 0] = -1.0
        if bool((order.amax(dim=1) < 0).any()):
            raise DataError("combined attacks toward other labels: expected a disjoint label set")
        targets = sets[order.argmax(dim=1)]
        method: Attack = DHTA(steps=self.steps)
        method.fit(*method.outlook(victim, seen), budget)
        moved = [
            Noise().perturb(victim, batch, None, budget, modality, seed=0),
            method.perturb(victim, batch, targets, budget, modality, seed=0),
        ]
        return [result.batch for result in moved]

    def penalty(
        self, victim: HashVictim, inputs: Tensor, relaxed: Tensor, modality: Modality
    ) -> Tensor:
        values = [part.penalty(victim, inputs, relaxed, modality) for part in self._parts]
        known = self._scale
        table = (torch.stack(values, dim=1) - known.centre.to(relaxed)) / known.spread.to(relaxed)
        return table @ known.weights.to(relaxed) + known.bias
