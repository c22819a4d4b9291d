"""Attacks of torchattacks on codes: a head turns codes into logits, the attack stays as published.

torchattacks (3.5.1) attacks classifiers and fixes its losses. A hash becomes a classifier by one of
two heads; each has an allow-list of the attacks that are right on it, every entry tested. The
package is optional and imported when an attack runs.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from advhash.attacks.base import Goal, Knowledge
from advhash.attacks.black_box.nes import CODES_OF_TARGETS
from advhash.attacks.bridge.heads import AnchorHead, CodeHead, PrototypeHead, own_codes
from advhash.attacks.goals import GoalAttack
from advhash.attacks.gradient.anchors import vote
from advhash.budget import Budget, Norm
from advhash.data.dataset import Batch, Modality
from advhash.errors import UsageError
from advhash.registry import ATTACKS
from advhash.victims.base import HashVictim, expect_positive

WHITE_BOX: Knowledge = frozenset({"weights", "gradients"})
NORMS = {"linf": "Linf", "l2": "L2"}  # as torchattacks spells them


def load_torchattacks() -> Any:
    """The package. Raises UsageError with the line that installs it."""
    try:
        return importlib.import_module("torchattacks")
    except ImportError:
        raise UsageError(
            "expected torchattacks for the ta-… attacks, got none: "
            "pip install --no-deps torchattacks==3.5.1"
        ) from None


class TorchAttack(GoalAttack):
    """Runs an attack of torchattacks 3.5.1 on a head; the harness projects, rounds and measures.

    The share of the images that came back as they were is the indicator "unmoved".

    Deviations:
    - the logits of the source are ±⟨h, anchor⟩/K, or ⟨h, prototype⟩/K of each class
    - a step is a fraction of the budget's radius; what is not a setting is torchattacks' default,
      but `ta-pgd` starts at the image itself
    - an image on which torchattacks divides by a gradient of zero stays clean
    - torchattacks draws for the whole batch at once, so figures depend on `protocol.batch_size`
    """

    couples_queries: ClassVar[bool] = True

    goal: ClassVar[Goal] = "targeted"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"image"})
    knowledge: ClassVar[Knowledge] = WHITE_BOX | {"database codes", "labels"}
    norms: frozenset[Norm] = frozenset({"linf", "l2"})

    def run(
        self, victim: HashVictim, batch: Batch, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        """(B,3,H,W). Raises UsageError: torchattacks is not installed, targeted before `fit`."""
        clean = batch.inputs["image"].contiguous()
        # It prints where it finds no device.
        with self.drawing(batch), contextlib.redirect_stdout(io.StringIO()):
            moved = self.attacked(victim, clean.clone(), targets, budget)
        finite = moved.isfinite().flatten(1).all(dim=1)
        moved = torch.where(finite.view(-1, 1, 1, 1), moved, clean)
        self.note("unmoved", (moved == clean).flatten(1).all(dim=1))
        return moved

    @abstractmethod
    def attacked(
        self, victim: HashVictim, clean: Tensor, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        """Build head and attack, and call it."""


def on(clean: Tensor, attack: Any) -> Any:
    """The attack on the device of the images: it looks for parameters, which some hashes lack."""
    attack.set_device(clean.device)
    return attack


@dataclass(kw_only=True, eq=False, repr=False)
class IterativeAttack(TorchAttack):
    """A `TorchAttack` by gradients.

    steps: iterations
    alpha: how steep the relaxation of codes is (see `AnchorHead`)
    """

    steps: int = 100
    alpha: float = 1.0

    def __post_init__(self) -> None:
        expect_positive(**vars(self))  # the settings, and as yet nothing else
        self.history = []


@dataclass(kw_only=True, eq=False, repr=False)
class StepAttack(IterativeAttack):
    """An iterative attack of torchattacks on `AnchorHead`: `kind` in L∞, `kind_l2` in L2.

    step: length of a step as a fraction of the budget's radius
    """

    kind: ClassVar[str]
    kind_l2: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}

    step: float = 0.1

    def attacked(
        self, victim: HashVictim, clean: Tensor, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        goals = self.goals(own_codes(victim, clean), targets)
        attack = getattr(load_torchattacks(), self.kind if budget.norm == "linf" else self.kind_l2)(
            AnchorHead(victim, clean, goals, self.alpha),
            eps=budget.eps,
            alpha=self.step * budget.eps,
            steps=self.steps,
            **self.options,
        )
        moved: Tensor = on(clean, attack)(clean, torch.ones_like(goals[:, 0], dtype=torch.long))
        return moved


@dataclass(kw_only=True, eq=False, repr=False)
class NesterovAttack(StepAttack):
    """A `StepAttack` that looks ahead, with the published 10 steps of a quarter of the radius.

    It looks ahead by the sum of all earlier steps, which after 100 of them lies far outside the
    budget: t-MAP falls, so more steps are no better.
    """

    steps: int = 10
    step: float = 0.25


class AutoPGD(IterativeAttack):
    """Auto-PGD on `AnchorHead`: the step halves by itself; the iterate of highest loss is kept."""

    def attacked(
        self, victim: HashVictim, clean: Tensor, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        goals = self.goals(own_codes(victim, clean), targets)
        head = AnchorHead(victim, clean, goals, self.alpha)
        attack = load_torchattacks().APGD(
            head, norm=NORMS[budget.norm], eps=budget.eps, steps=self.steps
        )
        ones = torch.ones_like(goals[:, 0], dtype=torch.long)
        # Its plain call drops the images that agree with their goal in half of the bits already.
        moved: Tensor = on(clean, attack).perturb(clean, ones, best_loss=True)[1]
        return moved


class RandomSquares(TorchAttack):
    """Square attack of torchattacks on `CodeHead`; one square is drawn for the whole batch.

    It never stops early, so "queries_per_image" is `queries`.

    queries: images that are sent for each query image, the clean one included
    """

    knowledge: ClassVar[Knowledge] = CODES_OF_TARGETS

    def __init__(self, *, queries: int = 1000) -> None:
        if queries < 3:
            raise ValueError(f"expected queries >= 3, got {queries}")
        self.queries = queries
        self.history = []

    def attacked(
        self, victim: HashVictim, clean: Tensor, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        goals = self.goals(own_codes(victim, clean), targets)
        attack = load_torchattacks().Square(
            CodeHead(victim, goals),
            norm=NORMS[budget.norm],
            eps=budget.eps,
            n_queries=self.queries - 2,  # besides the clean image and the first stripes
        )
        on(clean, attack).init_hyperparam(clean)
        ones = torch.ones_like(goals[:, 0], dtype=torch.long)
        moved: Tensor = attack.attack_single_run(clean, ones)[1]
        self.note("queries_per_image", torch.full((len(clean),), float(self.queries)))
        return moved


class ClassAPGD(IterativeAttack):
    """Targeted APGD on `PrototypeHead`: into the region of each other class, until one is reached.

    `steps` are for each class, of which there are at most 9, as in AutoAttack.

    The prototype of a class is the majority of the codes of all database rows that carry its
    label; an image is of the class of the nearest one. The loss is the targeted difference of
    logits ratio.
    """

    goal: ClassVar[Goal] = "untargeted"
    reads_classes: ClassVar[bool] = True
    classes: ClassVar[tuple[int, int]] = (4, 10)  # which the loss needs, and which are tried

    def attacked(
        self, victim: HashVictim, clean: Tensor, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        prototypes = self.prototypes().to(clean)
        head = PrototypeHead(victim, clean, prototypes, self.alpha)
        with torch.no_grad():
            nearest = head(clean).argmax(dim=1)
        attack = load_torchattacks().APGDT(
            head,
            norm=NORMS[budget.norm],
            eps=budget.eps,
            steps=self.steps,
            n_classes=min(len(prototypes), self.classes[1]),
            seed=torch.initial_seed() % 2**31,  # it seeds the generator itself
        )
        moved: Tensor = on(clean, attack)(clean, nearest)
        return moved

    def prototypes(self) -> Tensor:
        """(C,K) ±1, of the classes that some database row carries. Raises UsageError."""
        signs, labels = torch.from_numpy(self.served.codes.signs()), self.served.labels
        voted = [vote(signs[column > 0]) for column in labels.T if bool(column.any())]
        if len(voted) < self.classes[0]:
            raise UsageError(
                f"ta-apgdt: expected at least {self.classes[0]} classes in the database, "
                f"got {len(voted)}; use ta-apgd-untargeted"
            )
        return torch.stack(voted)


def register(
    name: str, source: str, title: str, base: type[TorchAttack], **facts: Any
) -> type[TorchAttack]:
    """A subclass with these facts under this name."""
    made: type[TorchAttack] = type(
        title.replace(" ", ""), (base,), {"__module__": __name__, **facts}
    )
    way = "toward the target's anchor" if made.goal == "targeted" else "away from its own code"
    made.__doc__ = f"{title} of torchattacks: {way}."
    ATTACKS.register(name, source=source)(made)
    return made


def register_both(
    name: str, source: str, title: str, base: type[TorchAttack], **facts: Any
) -> None:
    """The targeted attack, and the one away from the query's own code, which needs no database."""
    made = register(name, source, title, base, **facts)
    knows = made.knowledge - {"database codes", "labels"}
    register(f"{name}-untargeted", source, title, made, goal="untargeted", knowledge=knows)


LINF: frozenset[Norm] = frozenset({"linf"})
# On AnchorHead. Left out: attacks that stop at, or drop, images of another class.
register_both(
    "ta-pgd",
    "Madry et al., ICLR 2018",
    "PGD",
    StepAttack,
    kind="PGD",
    kind_l2="PGDL2",
    options={"random_start": False},
)
for kind, source in {
    "MIFGSM": "Dong et al., CVPR 2018",
    "DIFGSM": "Xie et al., CVPR 2019",
    "TIFGSM": "Dong et al., CVPR 2019",
    "NIFGSM": "Lin et al., ICLR 2020",
    "SINIFGSM": "Lin et al., ICLR 2020",
    "VMIFGSM": "Wang and He, CVPR 2021",
}.items():
    base = NesterovAttack if "NI" in kind else StepAttack
    register(f"ta-{kind.lower()}", source, kind, base, kind=kind, norms=LINF)
CROCE = "Croce and Hein, ICML 2020"
register_both("ta-apgd", CROCE, "APGD", AutoPGD)
# On CodeHead
register_both("ta-square", "Andriushchenko et al., ECCV 2020", "Square attack", RandomSquares)
# On PrototypeHead. Left out: FAB and DeepFool, whose least perturbations 8 bits round away.
register("ta-apgdt", CROCE, "Targeted APGD", ClassAPGD)
