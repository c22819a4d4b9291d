"""Gradient attacks that hide a query, and two that have a targeted form: away from a code or to it.

hag from the query's own code; cgat, sdha-untargeted and mainstay-untargeted from the codes of its
labels; sdha and mainstay toward those of a target. Anchor × objective × step rule, like `gradient`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from advhash.attacks.base import Goal, Knowledge
from advhash.attacks.gradient.anchors import centre_codes, expect_reachable, relevant_codes
from advhash.attacks.gradient.descent import Aim, GradientAttack
from advhash.attacks.gradient.objectives import hamming_hiding, surrogate_distance, unsettled
from advhash.attacks.gradient.targeted import PIXEL, STAGES
from advhash.registry import ATTACKS

KNOWS_LABELS: Knowledge = frozenset(
    {"weights", "gradients", "query labels", "database codes", "labels"}
)
# 100 times the gradient in pixels of 0 to 255, hence of [0,1] / 255², in a ball of 10/255
PAPER_HAG: dict[str, Any] = {
    "steps": 2000,
    "rule": "plain",
    "step": 100 / (255 * 10),
    "alphas": STAGES,
}
PAPER_SDHA: dict[str, Any] = {
    "steps": 1500,
    "rule": "adam",
    "step": 0.01 * 255 * PIXEL,
    "alphas": STAGES,
}
PAPER_CGAT: dict[str, Any] = {
    "steps": 7,
    "rule": "sign",
    "step": 2 * PIXEL,
    "alphas": (1.0,),
    "random_start": True,
}
PAPER_MAINSTAY: dict[str, Any] = {
    "steps": 100,
    "rule": "sign",
    "step": PIXEL,
    "alphas": STAGES,
    "random_start": True,
}


@ATTACKS.register("hag", source="Yang et al., TCYB 2018", presets={"paper": PAPER_HAG})
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


@ATTACKS.register("cgat", source="Wang et al., WWW 2023", presets={"paper": PAPER_CGAT})
class CGAT(GradientAttack):
    """The attack inside CgAT: away from the centre of the codes that share a label. Untargeted.

    Deviations:
    - the centre is that of the whole database, not of the training rows
    Deviations of the defaults only:
    - 100 steps of a tenth of the radius from the image itself, α from 0.5 to 1.5, where 7 steps of
      2/255 from a random start without tanh(α·) are published
    """

    goal: ClassVar[Goal] = "untargeted"
    knowledge: ClassVar[Knowledge] = KNOWS_LABELS

    def anchors(self, labels: Tensor) -> Tensor:
        return -centre_codes(self.served, labels, graded=False)


@ATTACKS.register("mainstay", source="Yuan et al., TIFS 2023", presets={"paper": PAPER_MAINSTAY})
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
    "mainstay-untargeted", source="Yuan et al., TIFS 2023", presets={"paper": PAPER_MAINSTAY}
)
class MainstayUntargeted(Mainstay):
    """The mainstay attack of SAAT away from the centre of the query's own labels. Untargeted."""

    goal: ClassVar[Goal] = "untargeted"
    knowledge: ClassVar[Knowledge] = KNOWS_LABELS

    def anchors(self, labels: Tensor) -> Tensor:
        return -centre_codes(self.served, labels, graded=True)


@ATTACKS.register("sdha", source="Lu et al., ICMR 2021", presets={"paper": PAPER_SDHA})
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


@ATTACKS.register("sdha-untargeted", source="Lu et al., ICMR 2021", presets={"paper": PAPER_SDHA})
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
    knowledge: ClassVar[Knowledge] = KNOWS_LABELS

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
