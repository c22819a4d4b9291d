"""Targeted gradient attacks toward one anchor code: p2p, dhta and tha.

Each is an anchor × objective × step rule of `GradientAttack`; `hiding.py` has the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from advhash.attacks.base import AttackData
from advhash.attacks.gradient.anchors import (
    expect_reachable,
    fit_prototype,
    label_columns,
    voted,
)
from advhash.attacks.gradient.descent import GradientAttack
from advhash.attacks.gradient.prototype import PrototypeNet
from advhash.budget import Budget
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset
from advhash.errors import UsageError
from advhash.registry import ATTACKS
from advhash.shared_labels import columns
from advhash.victims.base import HashVictim
from advhash.victims.training.descent import seeded

STAGES = (0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # α of HAG, a tenth of the steps each
PIXEL = 1 / 8  # a step of 1/255 in the published ball of 8/255

PAPER_DHTA: dict[str, Any] = {
    "steps": 2000,
    "rule": "l2",
    # the published step is 1 in L2 for ε = 0.032 on 3·224² values, as a fraction of the ball
    "step": 1 / (0.032 * math.sqrt(3 * 224 * 224)),
    "alphas": STAGES,
}
PAPER_THA: dict[str, Any] = {
    "steps": 100,
    "rule": "sign",
    "step": PIXEL,
    "alphas": (1.0,),
    "prototype_steps": 30_000,
    "hidden": 4096,
    "feature": 512,
    "learning_rate": 1e-4,
}


class Voted(GradientAttack):
    """Toward the majority of database codes of the target.

    Deviations:
    - ε is a radius in [0,1] pixels, not in ImageNet-normalised space, where the published 0.032 is
      about 1.8/255
    - where no database row carries exactly the target's labels, the nearest label sets serve
    Deviations of the defaults only:
    - 100 sign steps of a tenth of the radius, α from 0.5 to 1.5, where 2,000 steps along the
      L2-normalised gradient with α from 0.1 to 1 are published
    """


@ATTACKS.register("dhta", source="Bai et al., ECCV 2020", presets={"paper": PAPER_DHTA})
@dataclass(kw_only=True, eq=False, repr=False)
class DHTA(Voted):
    """Deep hashing targeted attack: toward the majority of 9 codes of the target.

    votes: how many database codes the anchor is the majority of, drawn anew for each query
    """

    votes: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.votes < 1:
            raise ValueError(f"expected votes >= 1, got votes={self.votes}")

    def anchors(self, labels: Tensor) -> Tensor:
        return voted(self.served, labels, self.votes, self.chance(len(labels)))


@ATTACKS.register("p2p", source="Bai et al., ECCV 2020", presets={"paper": PAPER_DHTA})
class P2P(Voted):
    """Point to point: toward the code of one database item of the target."""

    def anchors(self, labels: Tensor) -> Tensor:
        return voted(self.served, labels, 1, self.chance(len(labels)))


@ATTACKS.register("tha", source="Wang et al., SIGIR 2021", presets={"paper": PAPER_THA})
@dataclass(kw_only=True, eq=False, repr=False)
class THA(GradientAttack):
    """Targeted hashing attack: toward the code that a PrototypeNet gives the target's labels.

    prototype_steps, hidden, feature, learning_rate: training and size of the PrototypeNet, which
        learns from the labels and codes of the training rows

    Deviations:
    - the published loss leaves out pairs by a triangle of the batch that has no meaning there; here
      every pair of a label set and a training row counts
    Deviations of the defaults only:
    - a PrototypeNet of 1,024 and 256 units trained for 600 steps at 1e-3, where 4,096 and 512 units
      and 30,000 steps at 1e-4 are published
    - steps of a tenth of the radius with α from 0.5 to 1.5, where steps of 1/255 without tanh(α·)
      are published
    """

    trains: ClassVar[bool] = True
    settings_of_run = frozenset(setting.name for setting in fields(GradientAttack))
    fit_depends_on_budget = False  # annotated, it would become a setting

    prototype_steps: int = 600
    hidden: int = 1024
    feature: int = 256
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.prototype_steps, self.hidden, self.feature) < 1 or not self.learning_rate > 0:
            raise ValueError(
                "expected prototype_steps, hidden, feature >= 1 and learning_rate > 0, got "
                f"{self.prototype_steps}, {self.hidden}, {self.feature} and {self.learning_rate}"
            )
        self._network: PrototypeNet | None = None

    def check_data(self, data: Dataset) -> None:
        label_columns(data)

    def fit(
        self,
        victim: HashVictim,
        data: AttackData,
        budget: Budget,
        *,
        seed: int = 0,
        progress: Progress = silent,
    ) -> Self:
        """Train the PrototypeNet."""
        super().fit(victim, data, budget)
        self.history = []

        def report(step: int, loss: float) -> None:
            self.history.append({"phase": "prototype", "step": step, "loss": loss})

        with seeded(seed):
            self._network = fit_prototype(
                data,
                hidden=self.hidden,
                feature=self.feature,
                steps=self.prototype_steps,
                circle=True,
                batch_size=32,
                learning_rate=self.learning_rate,
                device=victim.device,
                report=report,
                progress=progress,
            )
        return self

    def effort(self, data: Dataset) -> float:
        """The steps of the PrototypeNet's training."""
        return float(self.prototype_steps)

    def state(self) -> Mapping[str, Tensor]:
        assert self._network is not None
        return {name: values.contiguous() for name, values in self._network.state_dict().items()}

    def restore(self, victim: HashVictim, data: AttackData, state: Mapping[str, Tensor]) -> Self:
        super().fit(victim, data, self.default_budget)
        network = PrototypeNet(
            label_columns(data.dataset), data.codes.bits, hidden=self.hidden, feature=self.feature
        )
        network.load_state_dict(dict(state))
        self._network = network.to(victim.device).eval()
        return self

    def anchors(self, labels: Tensor) -> Tensor:
        expect_reachable(self.served.labels, labels)
        if self._network is None:
            raise UsageError("THA: call fit or restore before run")
        with torch.no_grad():
            device = next(self._network.parameters()).device
            read = columns(labels, label_columns(self.served.dataset)).to(device).float()
            return torch.where(self._network(read)[1] > 0, 1.0, -1.0)
