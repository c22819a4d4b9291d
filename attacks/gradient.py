"""The registered gradient attacks: each an anchor × objective × step rule of `GradientAttack`.

Targeted: p2p, dhta, tha, sdha, mainstay. Untargeted: hag, cgat, sdha-untargeted,
mainstay-untargeted. An attack by labels away from the query's own ones knows those labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from advhash.attacks.anchors import (
    centre_codes,
    expect_reachable,
    fit_prototype,
    relevant_codes,
    voted,
)
from advhash.attacks.base import AttackData, Goal, Knowledge
from advhash.attacks.descent import Aim, GradientAttack
from advhash.attacks.objectives import hamming_hiding, surrogate_distance, unsettled
from advhash.attacks.prosgan_networks import PrototypeNet
from advhash.attacks.steps import Rule, step_length, stepped
from advhash.budget import Budget
from advhash.data import Progress, silent
from advhash.errors import UsageError
from advhash.registry import ATTACKS
from advhash.victims.base import HashVictim
from advhash.victims.fit import seeded

__all__ = [
    "CGAT",
    "DHTA",
    "HAG",
    "P2P",
    "SDHA",
    "THA",
    "GradientAttack",
    "Mainstay",
    "MainstayUntargeted",
    "SDHAUntargeted",
    "step_length",
    "stepped",
]

UNTARGETED: Knowledge = frozenset(
    {"weights", "gradients", "query labels", "database codes", "labels"}
)
STAGES = (0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # α of HAG, a tenth of the steps each
PIXEL = 1 / 8  # a step of 1/255 in the published ball of 8/255

PAPER: dict[str, dict[str, Any]] = {
    "dhta": {
        "steps": 2000,
        "rule": "l2",
        # the published step is 1 in L2 for ε = 0.032 on 3·224² values, as a fraction of the ball
        "step": 1 / (0.032 * math.sqrt(3 * 224 * 224)),
        "alphas": STAGES,
    },
    "tha": {
        "steps": 100,
        "rule": "sign",
        "step": PIXEL,
        "alphas": (1.0,),
        "prototype_steps": 30_000,
        "hidden": 4096,
        "feature": 512,
        "learning_rate": 1e-4,
    },
    # 100 times the gradient in pixels of 0 to 255, hence of [0,1] / 255², in a ball of 10/255
    "hag": {"steps": 2000, "rule": "plain", "step": 100 / (255 * 10), "alphas": STAGES},
    "sdha": {"steps": 1500, "rule": "adam", "step": 0.01 * 255 / 8, "alphas": STAGES},
    "cgat": {
        "steps": 7,
        "rule": "sign",
        "step": 2 * PIXEL,
        "alphas": (1.0,),
        "random_start": True,
    },
    "mainstay": {
        "steps": 100,
        "rule": "sign",
        "step": PIXEL,
        "alphas": STAGES,
        "random_start": True,
    },
}


@ATTACKS.register("dhta", source="Bai et al., ECCV 2020", presets={"paper": PAPER["dhta"]})
class DHTA(GradientAttack):
    """Deep hashing targeted attack: toward the majority of 9 codes of the target.

    votes: how many database codes the anchor is the majority of, drawn anew for each query

    Deviations:
    - ε is a radius in [0,1] pixels, not in ImageNet-normalised space, where the published 0.032 is
      about 1.8/255
    - where no database row carries exactly the target's labels, the nearest label sets serve
    Deviations of the defaults only:
    - 100 sign steps of a tenth of the radius, α from 0.5 to 1.5, where 2,000 steps along the
      L2-normalised gradient with α from 0.1 to 1 are published
    """

    def __init__(
        self,
        *,
        votes: int = 9,
        steps: int = 100,
        rule: Rule = "auto",
        step: float = 0.1,
        alphas: tuple[float, ...] = (0.5, 0.7, 1.0, 1.5),
        momentum: float = 0.0,
        diversity: float = 0.0,
        random_start: bool = False,
        restarts: int = 1,
    ) -> None:
        if votes < 1:
            raise ValueError(f"expected votes >= 1, got votes={votes}")
        super().__init__(
            steps=steps,
            rule=rule,
            step=step,
            alphas=alphas,
            momentum=momentum,
            diversity=diversity,
            random_start=random_start,
            restarts=restarts,
        )
        self.votes = votes

    def anchors(self, labels: Tensor) -> Tensor:
        return voted(self.served, labels, self.votes)


@ATTACKS.register("p2p", source="Bai et al., ECCV 2020", presets={"paper": PAPER["dhta"]})
class P2P(GradientAttack):
    """Point to point: toward the code of one database item of the target.

    Deviations:
    - ε is a radius in [0,1] pixels, not in ImageNet-normalised space, where the published 0.032 is
      about 1.8/255
    - where no database row carries exactly the target's labels, the nearest label sets serve
    Deviations of the defaults only:
    - 100 sign steps of a tenth of the radius, α from 0.5 to 1.5, where 2,000 steps along the
      L2-normalised gradient with α from 0.1 to 1 are published
    """

    def anchors(self, labels: Tensor) -> Tensor:
        return voted(self.served, labels, 1)


@ATTACKS.register("tha", source="Wang et al., SIGIR 2021", presets={"paper": PAPER["tha"]})
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
    fit_depends_on_budget: ClassVar[bool] = False

    def __init__(
        self,
        *,
        prototype_steps: int = 600,
        hidden: int = 1024,
        feature: int = 256,
        learning_rate: float = 1e-3,
        steps: int = 100,
        rule: Rule = "auto",
        step: float = 0.1,
        alphas: tuple[float, ...] = (0.5, 0.7, 1.0, 1.5),
        momentum: float = 0.0,
        diversity: float = 0.0,
        random_start: bool = False,
        restarts: int = 1,
    ) -> None:
        if min(prototype_steps, hidden, feature) < 1 or not learning_rate > 0:
            raise ValueError(
                "expected prototype_steps, hidden, feature >= 1 and learning_rate > 0, got "
                f"{prototype_steps}, {hidden}, {feature} and {learning_rate}"
            )
        super().__init__(
            steps=steps,
            rule=rule,
            step=step,
            alphas=alphas,
            momentum=momentum,
            diversity=diversity,
            random_start=random_start,
            restarts=restarts,
        )
        self.prototype_steps = prototype_steps
        self.hidden = hidden
        self.feature = feature
        self.learning_rate = learning_rate
        self._network: PrototypeNet | None = None

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

    def state(self) -> Mapping[str, Tensor]:
        assert self._network is not None
        return {name: values.contiguous() for name, values in self._network.state_dict().items()}

    def restore(self, victim: HashVictim, data: AttackData, state: Mapping[str, Tensor]) -> Self:
        super().fit(victim, data, self.default_budget)
        network = PrototypeNet(
            data.labels.shape[1], data.codes.bits, hidden=self.hidden, feature=self.feature
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
            return torch.where(self._network(labels.to(device).float())[1] > 0, 1.0, -1.0)


@ATTACKS.register("hag", source="Yang et al., TCYB 2018", presets={"paper": PAPER["hag"]})
class HAG(GradientAttack):
    """Hamming adversary generation: away from the query's own code, bit by bit. Untargeted.

    It needs no label and no database: the code to reach is the opposite of the query's.

    Deviations:
    - bits are masked by each image's own code; published is one image at a time
    Deviations of the defaults only:
    - 100 sign steps of a tenth of the radius, α from 0.5 to 1.5, where 2,000 plain steps of 100
      times the gradient (pixels of 0 to 255, ε = 10) with α from 0.1 to 1 are published
    """

    goal: ClassVar[Goal] = "untargeted"
    knowledge: ClassVar[Knowledge] = frozenset({"weights", "gradients", "query codes"})

    def aim(self, clean: Tensor, own: Tensor, labels: Tensor) -> Aim:
        anchors = torch.where(own > 0, -1.0, 1.0)
        return Aim(anchors, lambda codes, images, rows: hamming_hiding(codes, own[rows]))


@ATTACKS.register("cgat", source="Wang et al., WWW 2023", presets={"paper": PAPER["cgat"]})
class CGAT(GradientAttack):
    """The attack inside CgAT: away from the centre of the codes that share a label. Untargeted.

    Deviations:
    - the centre is that of the whole database, not of the training rows
    Deviations of the defaults only:
    - 100 steps of a tenth of the radius from the image itself, α from 0.5 to 1.5, where 7 steps of
      2/255 from a random start without tanh(α·) are published
    """

    goal: ClassVar[Goal] = "untargeted"
    knowledge: ClassVar[Knowledge] = UNTARGETED

    def anchors(self, labels: Tensor) -> Tensor:
        return -centre_codes(self.served, labels, graded=False)


@ATTACKS.register("mainstay", source="Yuan et al., TIFS 2023", presets={"paper": PAPER["mainstay"]})
class Mainstay(GradientAttack):
    """The mainstay attack of SAAT: toward the label-weighted centre of the target's codes.

    Deviations:
    - the mainstay code is that of the whole database, not of the training rows
    - the mean over unsettled bits is taken for each image, not over the batch
    - targeted, the untargeted objective with the opposite code; the published code's own targeted
      form, −(s + 2)·s for s < 1/2, has no slope where a bit is most wrong
    Deviations of the defaults only:
    - 100 steps of a tenth of the radius from the image itself, α from 0.5 to 1.5, where 100 steps
      of 1/255 from a random start with α from 0.1 to 1 are published
    """

    def anchors(self, labels: Tensor) -> Tensor:
        expect_reachable(self.served.labels, labels)
        return centre_codes(self.served, labels, graded=True)

    def loss(self, codes: Tensor, anchors: Tensor) -> Tensor:
        return unsettled(codes, anchors)


@ATTACKS.register(
    "mainstay-untargeted", source="Yuan et al., TIFS 2023", presets={"paper": PAPER["mainstay"]}
)
class MainstayUntargeted(Mainstay):
    """The mainstay attack of SAAT away from the centre of the query's own labels. Untargeted."""

    goal: ClassVar[Goal] = "untargeted"
    knowledge: ClassVar[Knowledge] = UNTARGETED

    def anchors(self, labels: Tensor) -> Tensor:
        return -centre_codes(self.served, labels, graded=True)


@ATTACKS.register("sdha", source="Lu et al., ICMR 2021", presets={"paper": PAPER["sdha"]})
class SDHA(GradientAttack):
    """Smart attack on deep hashing: a relaxed Hamming distance to every code of the target.

    MSE to the clean image plus 25/K times the mean relaxed distance to the codes that share a label
    with the target, each weighted by its Hamming distance to the power 0.3.

    Deviations:
    - no official code was found; formula and settings follow the port in SAAT's repository
    - the codes are those of the whole database, not of the training rows
    - an image rests once its code is the majority of those codes
    Deviations of the defaults only:
    - 100 sign steps of a tenth of the radius, α from 0.5 to 1.5, where 1,500 Adam steps of 0.01
      with α from 0.1 to 1 are published
    """

    def aim(self, clean: Tensor, own: Tensor, labels: Tensor) -> Aim:
        expect_reachable(self.served.labels, labels)
        codes, relevant, _ = (part.to(own) for part in relevant_codes(self.served, labels))

        def objective(soft: Tensor, images: Tensor, rows: Tensor) -> Tensor:
            distance = surrogate_distance(
                soft, codes, relevant[rows], sharpness=10, power=0.3, far=False
            )
            return squared_change(images, clean[rows]) + 25 / own.shape[1] * distance

        return Aim(torch.where(relevant @ codes > 0, 1.0, -1.0), objective)


@ATTACKS.register(
    "sdha-untargeted", source="Lu et al., ICMR 2021", presets={"paper": PAPER["sdha"]}
)
class SDHAUntargeted(GradientAttack):
    """Smart attack on deep hashing, away from every code of the query's labels. Untargeted.

    MSE to the clean image minus 25/K times the mean relaxed distance to the codes that share a
    label with the query, each weighted by its Hamming distance to the power -1/2.

    Deviations:
    - no official code was found; formula and settings follow the port in SAAT's repository
    - the codes are those of the whole database, not of the training rows; a query whose labels no
      row has, which finds nothing anyway, stays as it is
    - an image rests once its code is the opposite of the majority of those codes
    Deviations of the defaults only:
    - 100 sign steps of a tenth of the radius, α from 0.5 to 1.5, where 1,500 Adam steps of 0.01
      with α from 0.1 to 1 are published
    """

    goal: ClassVar[Goal] = "untargeted"
    knowledge: ClassVar[Knowledge] = UNTARGETED

    def aim(self, clean: Tensor, own: Tensor, labels: Tensor) -> Aim:
        codes, relevant, _ = (part.to(own) for part in relevant_codes(self.served, labels))

        def objective(soft: Tensor, images: Tensor, rows: Tensor) -> Tensor:
            distance = surrogate_distance(
                soft, codes, relevant[rows], sharpness=5, power=-0.5, far=True
            )
            return squared_change(images, clean[rows]) - 25 / own.shape[1] * distance

        return Aim(torch.where(relevant @ codes > 0, -1.0, 1.0), objective)


def squared_change(images: Tensor, clean: Tensor) -> Tensor:
    """(b,) mean squared change of (b,3,H,W) [0,1] images."""
    return ((images - clean) ** 2).flatten(1).mean(dim=1)
