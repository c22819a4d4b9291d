"""ProS-GAN: prototype-supervised adversarial network (Wang et al., CVPR 2021).

1. A PrototypeNet learns, for each label set, a feature and a prototype code p.
2. A generator turns image and feature into an image whose code is p: one forward pass a query.
   It minimises   w_rec·MSE + 5·(1 − mean(h∘p)) + LSGAN.
3. A discriminator, updated at every third step, predicts [labels, real or fake].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from advhash.attacks.anchors import fit_prototype, label_sets, majority
from advhash.attacks.base import Attack, AttackData, Goal, Knowledge, frozen
from advhash.attacks.objectives import hash_term, hash_term_tmm, lsgan, reconstruction, soft_code
from advhash.attacks.prosgan_networks import (
    Decay,
    Discriminator,
    Generator,
    PrototypeNet,
    decayed,
    descend,
    risen,
)
from advhash.budget import Budget
from advhash.codes import HashCodes
from advhash.data import Batch, Modality, Progress, Split, silent
from advhash.errors import RefusedError, UsageError
from advhash.metrics import retrieval_average_precision
from advhash.registry import ATTACKS
from advhash.targets import choose_targets
from advhash.victims.base import HashVictim, expect_positive
from advhash.victims.fit import seeded

__all__ = ["DISCRIMINATOR_EVERY", "ProSGAN"]

DISCRIMINATOR_EVERY = 3
BETAS = (0.5, 0.999)
VALIDATION_ROWS = 96
VALIDATE_EPOCHS = 5
TERMS = {"cvpr": (hash_term, 5.0), "tmm": (hash_term_tmm, 1.0)}  # with the published weight

PAPER = {
    "epochs": 100,
    "batch_size": 24,
    "learning_rate": 1e-4,
    "decay": "linear",
    "rec_weight": 100.0,
    "rec_warmup": 0.0,
    "alpha": 1.0,
    "width": 64,
    "downs": 2,
    "blocks": 6,
    "lifts": 4,
    "shrink": 1,
    "residual": False,
    "discriminator_width": 64,
    "discriminator_depth": 5,
    "hidden": 4096,
    "feature": 512,
    "prototype_steps": 30_000,
    "prototype_learning_rate": 1e-4,
    "theta_scale": 0.5,
    "positive_share": 0.0,
}


@ATTACKS.register("prosgan", source="Wang et al., CVPR 2021", presets={"paper": PAPER})
class ProSGAN(Attack):
    """Prototype-supervised GAN: one forward pass moves any query toward any target.

    epochs, batch_size, learning_rate: Adam (.5,.999) on generator and discriminator
    decay:         "cosine" to 0, or "linear" to 0 over the second half, as published
    rec_weight:    weight of the squared distance; without a budget this alone keeps it small
    rec_warmup:    share of the steps over which that weight rises from a tenth
    objective, hash_weight, alpha: h = tanh(α·u/s), s the mean |u| of the training images;
                   "cvpr" is 1 − mean h∘p, of weight 5, "tmm" mean (1 − h∘p)², of weight 1
    discriminator: False trains without it
    prototype:     "prototype" conditions on PrototypeNet's feature and aims at its code;
                   "majority" conditions on and aims at the majority code of the label set
    width … residual, discriminator_width, discriminator_depth: see `prosgan_networks`
    hidden, feature, prototype_steps, prototype_learning_rate: of PrototypeNet
    theta_scale, positive_share: of its loss, see `prototype_loss`; a share of 0 is as published

    Deviations of every preset:
    - as published there is no bound; under a budget the output is projected, the overrun reported
    - real codes are divided by their mean size before tanh, since the victims' are unbounded
    - target sets without a label are left out
    Deviations of the defaults only:
    - small networks that work on the folded image and add a residual to it, where the published
      generator paints the whole image
    - the reconstruction weight rises over the first part and the rate decays as a cosine; the
      reconstruction is measured before clipping to [0,1]
    - the pairs of PrototypeNet's likelihood are balanced and θ is a quarter of the published one:
      else, where few rows share a target's label, its code lies far from the code of any image
    """

    goal: ClassVar[Goal] = "targeted"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"image"})
    knowledge: ClassVar[Knowledge] = frozenset(
        {"weights", "gradients", "database codes", "labels", "auxiliary data"}
    )
    default_budget: ClassVar[Budget] = Budget("none", math.inf)
    fit_depends_on_budget: ClassVar[bool] = False
    trains: ClassVar[bool] = True

    def __init__(
        self,
        *,
        epochs: int = 30,
        batch_size: int = 48,
        learning_rate: float = 3e-3,
        decay: Decay = "cosine",
        rec_weight: float = 15.0,
        rec_warmup: float = 0.5,
        hash_weight: float | None = None,
        objective: Literal["cvpr", "tmm"] = "cvpr",
        alpha: float = 1.0,
        discriminator: bool = True,
        prototype: Literal["prototype", "majority"] = "prototype",
        width: int = 16,
        downs: int = 1,
        blocks: int = 4,
        lifts: int = 2,
        shrink: int = 2,
        residual: bool = True,
        discriminator_width: int = 8,
        discriminator_depth: int = 4,
        hidden: int = 1024,
        feature: int = 256,
        prototype_steps: int = 600,
        prototype_learning_rate: float = 1e-3,
        theta_scale: float = 0.125,
        positive_share: float = 0.75,
    ) -> None:
        counts = (epochs, batch_size, width, lifts, shrink, discriminator_depth, prototype_steps)
        sizes = (hidden, feature, discriminator_width)
        if (
            min(*counts, *sizes) < 1
            or min(downs, blocks) < 0
            or min(rec_weight, hash_weight or 0) < 0
        ):
            raise ValueError("expected positive sizes and counts and weights >= 0")
        expect_positive(theta_scale=theta_scale)
        if min(learning_rate, prototype_learning_rate) < 0:
            raise ValueError(
                f"expected learning rates >= 0, got {learning_rate} and {prototype_learning_rate}"
            )
        if not 0 <= positive_share < 1:
            raise ValueError(f"expected positive_share in [0,1), got {positive_share}")
        if not 0 <= rec_warmup <= 1 or not alpha > 0:
            raise ValueError(
                f"expected rec_warmup in [0,1] and alpha > 0, got {rec_warmup} and {alpha}"
            )
        self.epochs, self.batch_size = epochs, batch_size
        self.learning_rate, self.decay = learning_rate, decay
        self.rec_weight, self.rec_warmup = rec_weight, rec_warmup
        self.hash_weight, self.objective, self.alpha = hash_weight, objective, alpha
        self.discriminator, self.prototype = discriminator, prototype
        self.width, self.downs, self.blocks, self.lifts = width, downs, blocks, lifts
        self.shrink, self.residual = shrink, residual
        self.discriminator_width = discriminator_width
        self.discriminator_depth = discriminator_depth
        self.hidden, self.feature = hidden, feature
        self.prototype_steps = prototype_steps
        self.prototype_learning_rate = prototype_learning_rate
        self.theta_scale, self.positive_share = theta_scale, positive_share
        self.history = []
        self._data: AttackData | None = None
        self._generator: Generator | None = None
        self._prototype_net: PrototypeNet | None = None

    def fit(
        self,
        victim: HashVictim,
        data: AttackData,
        budget: Budget,
        *,
        seed: int = 0,
        progress: Progress = silent,
    ) -> Self:
        """Train PrototypeNet, then generator and discriminator, on the training rows."""
        self.history = []
        self._data = data
        with seeded(seed), frozen(victim):
            if self.prototype == "prototype":
                self._prototype_net = fit_prototype(
                    data,
                    hidden=self.hidden,
                    feature=self.feature,
                    steps=self.prototype_steps,
                    scale=self.theta_scale,
                    positive_share=self.positive_share or None,
                    learning_rate=self.prototype_learning_rate,
                    device=victim.device,
                    report=lambda step, loss: self.history.append(
                        {"phase": "prototype", "step": float(step), "loss": loss}
                    ),
                    progress=progress,
                )
            self._generator = self._build_generator(victim, data)
            self._train(victim, data, self._generator, progress)
        return self

    def state(self) -> Mapping[str, Tensor]:
        """Weights of the generator and of PrototypeNet."""
        parts = {"generator": self._generator, "prototype": self._prototype_net}
        return {
            f"{part}.{name}": values.detach().contiguous()
            for part, network in parts.items()
            if network is not None
            for name, values in network.state_dict().items()
        }

    def restore(self, victim: HashVictim, data: AttackData, state: Mapping[str, Tensor]) -> Self:
        """The inverse of `state`. Raises RuntimeError where the sizes differ from the settings."""
        self._data = data
        self._generator = self._build_generator(victim, data)
        self._generator.load_state_dict(part_of(state, "generator."))
        if self.prototype == "prototype":
            self._prototype_net = PrototypeNet(
                data.labels.shape[1], victim.bits, hidden=self.hidden, feature=self.feature
            ).to(victim.device)
            self._prototype_net.load_state_dict(part_of(state, "prototype."))
        return self

    def run(
        self, victim: HashVictim, batch: Batch, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        """(B,3,H,W) in [0,1], of any distance. Raises UsageError before `fit`."""
        if self._generator is None or targets is None:
            raise UsageError("ProSGAN: call fit or restore before run")
        condition, _ = self.supervise(targets)
        with torch.no_grad():
            return self.generate(batch.inputs["image"], condition)

    def supervise(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(B,C) targets → (B,F) condition of the generator, (B,K) ±1 code to reach."""
        if self.prototype == "majority":
            assert self._data is not None
            codes = majority(self._data, targets, targets.device).to(targets.device)
            return codes, codes
        assert self._prototype_net is not None
        with torch.no_grad():
            feature, codes, _ = self._prototype_net(targets.float())
        return feature, torch.where(codes > 0, 1.0, -1.0)

    def generate(self, images: Tensor, condition: Tensor) -> Tensor:
        """(B,3,H,W) the generator's images, clipped to [0,1]."""
        assert self._generator is not None
        moved: Tensor = self._generator(images, condition)
        return moved.clamp(0, 1)

    def _build_generator(self, victim: HashVictim, data: AttackData) -> Generator:
        generator = Generator(
            self.feature if self.prototype == "prototype" else victim.bits,
            data.dataset.database.inputs["image"].shape[-1],
            width=self.width,
            downs=self.downs,
            blocks=self.blocks,
            lifts=self.lifts,
            shrink=self.shrink,
            residual=self.residual,
        )
        return generator.to(victim.device)

    def _train(
        self, victim: HashVictim, data: AttackData, generator: Generator, progress: Progress
    ) -> None:
        train, device = data.dataset.train, victim.device
        sets = label_sets(data.labels).to(device)
        conditions, codes = self.supervise(sets)
        scale = typical_size(victim, train)
        critic = Discriminator(
            sets.shape[1],
            train.inputs["image"].shape[-1],
            width=self.discriminator_width,
            depth=self.discriminator_depth,
        ).to(device)
        maker = torch.optim.Adam(generator.parameters(), self.learning_rate, BETAS)
        judge = torch.optim.Adam(critic.parameters(), self.learning_rate, BETAS)
        hash_loss, published = TERMS[self.objective]
        hash_weight = published if self.hash_weight is None else self.hash_weight
        steps, step = self.epochs * -(-len(train) // self.batch_size), 0
        for epoch in range(self.epochs):
            seen: dict[str, list[float]] = {}
            for rows in torch.randperm(len(train)).split(self.batch_size):
                for group in (*maker.param_groups, *judge.param_groups):
                    group["lr"] = self.learning_rate * decayed(self.decay, step / steps)
                batch = train.rows(rows).to(device)
                images = batch.inputs["image"]
                drawn = torch.randint(len(sets), (len(rows),)).to(device)
                raw = generator(images, conditions[drawn])
                moved = raw.clamp(0, 1)
                terms: dict[str, Tensor] = {}
                if self.discriminator:
                    if step % DISCRIMINATOR_EVERY == 0:
                        real = lsgan(critic(images), batch.labels, real=True)
                        fake = lsgan(critic(moved.detach()), sets[drawn], real=False)
                        terms["discriminator"] = (real + fake) / 2
                        descend(judge, terms["discriminator"])
                    terms["gan"] = lsgan(critic(moved), sets[drawn], real=True)
                soft = soft_code(victim.relax(moved, "image"), self.alpha, scale)
                terms["hash"] = hash_loss(soft, codes[drawn])
                terms["reconstruction"] = reconstruction(raw, images)
                weight = self.rec_weight * risen(self.rec_warmup, step / steps)
                loss = hash_weight * terms["hash"] + weight * terms["reconstruction"]
                descend(maker, loss + terms["gan"] if self.discriminator else loss)
                for name, term in terms.items():
                    seen.setdefault(name, []).append(term.item())
                step += 1
            means = {name: sum(values) / len(values) for name, values in seen.items()}
            if not all(math.isfinite(value) for value in means.values()):
                raise RefusedError(
                    f"the training of ProS-GAN diverged in epoch {epoch + 1}: expected finite "
                    "losses; lower attack.learning_rate"
                )
            row = {"step": float(step), **means}
            if (epoch + 1) % VALIDATE_EPOCHS == 0 or step == steps:
                row |= self._validate(victim, data)
            self.history.append({"phase": "generator", **row})
            progress("generator", epoch + 1, self.epochs, **row)

    def _validate(self, victim: HashVictim, data: AttackData) -> dict[str, float]:
        """t-MAP, mean Hamming distance to the prototype and RMSE on rows of the validation split.

        Targets are uniform over the label sets of the database, as published.
        """
        batch = data.dataset.validation.rows(
            torch.arange(min(VALIDATION_ROWS, len(data.dataset.validation)))
        ).to(victim.device)
        labels = data.labels.numpy()
        wanted = choose_targets("uniform", batch.labels.cpu().numpy(), labels, seed=0)
        targets = torch.from_numpy(wanted).to(victim.device)
        condition, codes = self.supervise(targets)
        with torch.no_grad():
            moved = self.generate(batch.inputs["image"], condition)
            relaxed = victim.relax(moved, "image")
        precision = retrieval_average_precision(
            HashCodes.from_relaxed(relaxed), data.codes, wanted, labels
        )
        return {
            "validation_tmap": float(precision.mean()),
            "validation_hamming": ((relaxed > 0) != (codes > 0)).sum(dim=1).float().mean().item(),
            "validation_rmse": (moved - batch.inputs["image"]).square().mean().sqrt().item(),
        }


def typical_size(victim: HashVictim, split: Split) -> Tensor:
    """(1,1) mean |u| of the real codes of at most 512 images."""
    images = split.rows(torch.arange(min(512, len(split)))).inputs["image"]
    with torch.no_grad():
        sizes = [victim.relax(part.to(victim.device), "image").abs() for part in images.split(128)]
    return torch.cat(sizes).mean().clamp_min(1e-6).view(1, 1)


def part_of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): values
        for name, values in state.items()
        if name.startswith(prefix)
    }
