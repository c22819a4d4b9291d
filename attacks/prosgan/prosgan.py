"""ProS-GAN: prototype-supervised adversarial network (Wang et al., CVPR 2021).

1. A PrototypeNet learns, for each label set, a feature and a prototype code p.
2. A generator turns image and feature into an image whose code is p: one forward pass a query.
   It minimises   w_rec·MSE + 5·(1 − mean(h∘p)) + LSGAN,   by default with w_ssim·(1 − SSIM) added.
3. A discriminator, updated at every third step, predicts [labels, real or fake].

`bounded` trains the generator inside the budget of the run, which the published method lacks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from advhash.attacks.base import Attack, AttackData, Goal, Knowledge, frozen
from advhash.attacks.gradient.anchors import expect_reachable, fit_prototype, label_sets, majority
from advhash.attacks.gradient.channels import Channelled, channels
from advhash.attacks.gradient.descent import GradientAttack
from advhash.attacks.gradient.objectives import (
    hash_term,
    hash_term_tmm,
    lsgan,
    reconstruction,
    soft_code,
    typical_size,
)
from advhash.attacks.gradient.precision import Precision, Reduced, reduced_passes
from advhash.attacks.gradient.prototype import PrototypeNet
from advhash.attacks.prosgan.networks import (
    Decay,
    Discriminator,
    Generator,
    decayed,
    descend,
    multiply_adds,
    risen,
    within,
)
from advhash.attacks.prosgan.settings import FREE, HARD, PAPER
from advhash.attacks.prosgan.validation import split_sets, validated
from advhash.budget import Budget, Norm, parse_eps, round_toward
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Batch, Dataset, Modality
from advhash.errors import RefusedError, UsageError
from advhash.measures.reconstruction import structural_similarity
from advhash.registry import ATTACKS
from advhash.victims.base import HashVictim, expect_positive
from advhash.victims.training.descent import seeded

SIZES = (  # of at least 1
    *("epochs", "batch_size", "lifts", "shrink", "prototype_steps"),
    *("width", "hidden", "feature", "discriminator_width", "discriminator_depth"),
)
WEIGHTS = ("downs", "blocks", "rec_weight", "ssim_weight", "hash_weight")  # of at least 0
DISCRIMINATOR_EVERY = 3
BETAS = (0.5, 0.999)
PICTURE = 1e8  # multiplications in the time that a picture takes whatever the size of the networks
VALIDATE_EPOCHS = 5
TERMS = {"cvpr": (hash_term, 5.0), "tmm": (hash_term_tmm, 1.0)}  # with the published weight


@ATTACKS.register("prosgan", source="Wang et al., CVPR 2021", presets={"paper": PAPER})
@dataclass(kw_only=True, eq=False, repr=False)
class ProSGAN(Attack):
    """Prototype-supervised GAN: one forward pass moves any query toward any target.

    epochs, batch_size, learning_rate: Adam (.5,.999) on generator and discriminator
    decay:         "cosine" to 0, or "linear" to 0 over the second half, as published
    rec_weight:    weight of the squared distance; without a budget this alone keeps it small
    ssim_weight:   weight of 1 − SSIM, which the published loss lacks
    rec_warmup:    share of the steps over which both weights rise from a tenth
    objective, hash_weight, alpha: h = tanh(α·u/s), s the mean |u| of the training images;
                   "cvpr" is 1 − mean h∘p, of weight 5, "tmm" mean (1 − h∘p)², of weight 1
    discriminator: False trains without it
    prototype:     "prototype" conditions on PrototypeNet's feature and aims at its code;
                   "majority" conditions on and aims at the majority code of the label set
    width … residual, discriminator_width, discriminator_depth: see `networks.py`
    hidden, feature, prototype_steps, prototype_learning_rate: of PrototypeNet
    theta_scale, positive_share: of its loss, see `prototype_loss`; a share of 0 is as published
    bounded:       train inside the L∞ or L2 budget of the run, so that the projection takes nothing
                   away; another budget then needs another fit. Epochs, learning_rate, rec_weight,
                   ssim_weight, alpha, discriminator, offset and width have other defaults: see
                   `Mode`
    radii:         the least and the largest ε, e.g. "2/255", "16/255": with `bounded`, one
                   generator, which is told ε, is trained for all L∞ budgets between them
    survive:       what happens to pictures before they are hashed, e.g. "jpeg75", by one name or
                   several: the generator learns from the codes of what comes back
    refine:        gradient steps from the generator's image toward the code, each a forward and a
                   backward pass through the victim; 0 is one forward pass of the generator
    precision:     "bf16" trains with the passes of all networks in bfloat16, where the
                   processor computes in it; their weights stay in float32
    held_out:      share of the label sets, drawn by the seed, that no network is trained on; the
                   last row of the history compares them, on validation rows, with the others

    Deviations of every preset:
    - as published there is no bound; under a budget the output is projected, the overrun reported
    - real codes are divided by their mean size before tanh, since the victims' are unbounded
    - target sets without a label are left out
    - with `bounded`, which is not published, the change is drawn into the ball by `within`, and by
      default there is neither discriminator nor reconstruction, and the condition also has a map
      of its own to the output
    Deviations of the defaults only:
    - the condition also reaches each residual block, without which generators of high weights
      settle on leaving the image as it is
    - 1 − SSIM is minimised beside the squared distance, which alone spreads noise over flat areas
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
    trains: ClassVar[bool] = True
    reads_classes: ClassVar[bool] = True
    takes_one_size: ClassVar[bool] = True
    settings_of_run: ClassVar[frozenset[str]] = frozenset({"refine"})

    epochs: int | None = None
    batch_size: int = 48
    learning_rate: float | None = None
    decay: Decay = "cosine"
    rec_weight: float | None = None
    ssim_weight: float | None = None
    rec_warmup: float = 0.5
    hash_weight: float | None = None
    objective: Literal["cvpr", "tmm"] = "cvpr"
    alpha: float | None = None
    discriminator: bool | None = None
    prototype: Literal["prototype", "majority"] = "prototype"
    width: int | None = None
    downs: int = 1
    blocks: int = 4
    lifts: int = 2
    shrink: int = 2
    residual: bool = True
    modulated: bool | None = None
    offset: bool | None = None
    discriminator_width: int = 8
    discriminator_depth: int = 4
    hidden: int = 1024
    feature: int = 256
    prototype_steps: int = 600
    prototype_learning_rate: float = 1e-3
    theta_scale: float = 0.125
    positive_share: float = 0.75
    bounded: bool = False
    radii: tuple[str, ...] = ()
    survive: str | tuple[str, ...] = ()
    refine: int = 0
    precision: Precision = "no"
    held_out: float = 0.0

    def __post_init__(self) -> None:
        self._mode = mode = (HARD if self.bounded else FREE).changed(self)
        for name in (*SIZES, *WEIGHTS):
            value, least = getattr(mode, name, getattr(self, name)), int(name in SIZES)
            if value is not None and value < least:
                raise ValueError(f"expected {name} of at least {least}, got {value}")
        expect_positive(theta_scale=self.theta_scale)
        if min(mode.learning_rate, self.prototype_learning_rate) < 0:
            raise ValueError(
                f"expected learning rates >= 0, got {self.learning_rate} and "
                f"{self.prototype_learning_rate}"
            )
        if not 0 <= self.positive_share < 1:
            raise ValueError(f"expected positive_share in [0,1), got {self.positive_share}")
        if not 0 <= self.rec_warmup <= 1 or not mode.alpha > 0:
            raise ValueError(
                f"expected rec_warmup in [0,1] and alpha > 0, got {self.rec_warmup} and "
                f"{self.alpha}"
            )
        if self.refine < 0:
            raise ValueError(f"expected refine >= 0, got {self.refine}")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"expected held_out in [0,1), got {self.held_out}")
        channels(self.survive)
        self.fit_depends_on_budget = self.bounded and not self.radii
        if self.bounded:
            self.norms = frozenset({"linf", "l2"})
        if self.radii:
            self._know_radii()
        self.history = []
        self._data: AttackData | None = None
        self._generator: Generator | None = None
        self._prototype_net: PrototypeNet | None = None

    def _know_radii(self) -> None:
        bounds = [parse_eps(radius) for radius in self.radii]
        if not self.bounded or len(bounds) != 2 or not 0 < bounds[0] < bounds[1] <= 1:
            raise ValueError(
                "expected as attack.radii two eps in ascending order, up to 1, and attack.bounded, "
                f"got {', '.join(self.radii)}{'' if self.bounded else ' without bounded'}"
            )
        self.norms, self.eps_range = frozenset({"linf"}), (bounds[0], bounds[1])

    def fit(
        self,
        victim: HashVictim,
        data: AttackData,
        budget: Budget,
        *,
        seed: int = 0,
        progress: Progress = silent,
    ) -> Self:
        """Train PrototypeNet, then generator and discriminator, on the training rows.

        Raises UsageError: `bounded` without a bound, a `held_out` that leaves no label set.
        """
        self.check_budget(budget)
        self.history = []
        self._data = data
        victim = Channelled.behind(self.survive, Reduced.of(self.precision, victim))
        sets, unseen = split_sets(label_sets(data.labels), self.held_out, seed)
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
                    sets=sets,
                    report=lambda step, loss: self.history.append(
                        {"phase": "prototype", "step": float(step), "loss": loss}
                    ),
                    progress=progress,
                )
            self._generator = self._build_generator(victim, data)
            self._train(victim, data, self._generator, sets, budget, progress)
            if len(unseen):
                self._report_unseen(victim, data, sets, unseen, budget)
        return self

    def effort(self, data: Dataset) -> float:
        """Pictures that the generator sees, each counted by what a step on it costs.

        A picture counts 1 for what no width changes, as the victim's passes, and more by the
        multiplications of generator and critic; so does a step of PrototypeNet.
        """
        mode, side = self._mode, data.database.tensor("image").shape[-1]
        classes, pictures = data.train_labels.shape[1], mode.epochs * len(data.train_labels)
        with torch.device("meta"):
            condition = self.feature if self.prototype == "prototype" else 64
            generator = self._generator_of(condition, side)
            picture = torch.empty(1, 3, side, side)
            feature = torch.empty(1, condition + bool(self.radii))
            products = multiply_adds(generator, picture, feature)
            if mode.discriminator:
                critic = self._critic_of(classes, side)
                products += multiply_adds(critic, picture)
        layers = self.hidden * (self.feature + classes)
        steps = self.prototype_steps * (self.prototype == "prototype")
        return pictures * (1 + 3 * products / PICTURE) + steps * (1 + 64 * 3 * layers / PICTURE)

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
        """(B,3,H,W) in [0,1]: inside the budget where `bounded`, else of any distance.

        Raises UsageError: before `fit`; `bounded` without a bound; DataError: a target that no row
        shares a label with.
        """
        self.check_budget(budget)
        if self._generator is None or self._data is None or targets is None:
            raise UsageError("ProSGAN: call fit or restore before run")
        expect_reachable(self._data.labels, targets)
        condition, codes = self.supervise(targets)
        clean = batch.inputs["image"]
        with torch.no_grad():
            images = self.generate(clean, condition, budget)
        if not self.refine:
            return images
        return Refinement.of(self.refine, self.survive, codes).descend(
            Channelled.behind(self.survive, victim), clean, targets, budget, start=images
        )

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

    def generate(self, images: Tensor, condition: Tensor, budget: Budget) -> Tensor:
        """(B,3,H,W) the generator's images in [0,1], drawn into the budget where `bounded`."""
        assert self._generator is not None
        radius = images.new_full((len(images), 1), budget.eps)
        raw = self._generator(images, self._with_radius(condition, radius))
        return self._limited(images, raw, budget.norm, radius)

    def _with_radius(self, condition: Tensor, radius: Tensor) -> Tensor:
        """(B,F) conditions with ε, from −1 to 1 over the logarithm of `radii`, where it varies."""
        if not self.radii:
            return condition
        least, most = self.eps_range
        place = (radius / least).log() / math.log(most / least)
        return torch.cat([condition, 2 * place - 1], dim=1)

    def _radius(self, count: int, budget: Budget, device: torch.device) -> Tensor:
        """(count,1) the ε of a step: the budget's, or drawn from `radii` by their logarithm."""
        if not self.radii:
            return torch.full((count, 1), budget.eps, device=device)
        least, most = self.eps_range
        return least * (most / least) ** torch.rand(count, 1).to(device)

    def _limited(self, images: Tensor, raw: Tensor, norm: Norm, radius: Tensor) -> Tensor:
        return (
            within(images, raw, norm, radius[:, :, None, None]) if self.bounded else raw.clamp(0, 1)
        )

    def _build_generator(self, victim: HashVictim, data: AttackData) -> Generator:
        condition = self.feature if self.prototype == "prototype" else victim.bits
        side = data.dataset.database.tensor("image").shape[-1]
        return self._generator_of(condition, side).to(victim.device)

    def _generator_of(self, condition: int, side: int) -> Generator:
        return Generator(
            condition + bool(self.radii),
            side,
            width=self._mode.width,
            downs=self.downs,
            blocks=self.blocks,
            lifts=self.lifts,
            shrink=self.shrink,
            residual=self.residual,
            modulated=self._mode.modulated,
            offset=self._mode.offset,
        )

    def _critic_of(self, classes: int, side: int) -> Discriminator:
        return Discriminator(
            classes, side, width=self.discriminator_width, depth=self.discriminator_depth
        )

    def _train(
        self,
        victim: HashVictim,
        data: AttackData,
        generator: Generator,
        sets: Tensor,
        budget: Budget,
        progress: Progress,
    ) -> None:
        train, device, mode = data.dataset.train, victim.device, self._mode
        sets = sets.to(device)
        conditions, codes = self.supervise(sets)
        scale = typical_size(victim, train)
        critic = self._critic_of(sets.shape[1], train.tensor("image").shape[-1]).to(device)

        def judged(pictures: Tensor) -> Tensor:
            with reduced_passes(self.precision, device):
                scores: Tensor = critic(pictures)
                return scores.float()

        maker = torch.optim.Adam(generator.parameters(), mode.learning_rate, BETAS, fused=True)
        judge = torch.optim.Adam(critic.parameters(), mode.learning_rate, BETAS, fused=True)
        hash_loss, published = TERMS[self.objective]
        hash_weight = published if self.hash_weight is None else self.hash_weight
        steps, step = mode.epochs * -(-len(train) // self.batch_size), 0
        for epoch in range(mode.epochs):
            seen: dict[str, list[float]] = {}
            for rows in torch.randperm(len(train)).split(self.batch_size):
                for group in (*maker.param_groups, *judge.param_groups):
                    group["lr"] = mode.learning_rate * decayed(self.decay, step / steps)
                batch = train.rows(rows).to(device)
                images = batch.inputs["image"]
                drawn = torch.randint(len(sets), (len(rows),)).to(device)
                radius = self._radius(len(rows), budget, device)
                with reduced_passes(self.precision, device):
                    raw = generator(images, self._with_radius(conditions[drawn], radius)).float()
                moved = self._limited(images, raw, budget.norm, radius)
                terms: dict[str, Tensor] = {}
                if mode.discriminator:
                    if step % DISCRIMINATOR_EVERY == 0:
                        with parametrize.cached():  # one spectral norm for both
                            real = lsgan(judged(images), batch.labels, real=True)
                            fake = lsgan(judged(moved.detach()), sets[drawn], real=False)
                        terms["discriminator"] = (real + fake) / 2
                        descend(judge, terms["discriminator"])
                    critic.requires_grad_(False)  # their gradients of this term would be dropped
                    terms["gan"] = lsgan(judged(moved), sets[drawn], real=True)
                    critic.requires_grad_(True)
                soft = soft_code(victim.relax(moved, "image"), mode.alpha, scale)
                terms["hash"] = hash_loss(soft, codes[drawn])
                seen_as = moved if self.bounded else raw
                terms["reconstruction"] = reconstruction(seen_as, images)
                visible = mode.rec_weight * terms["reconstruction"]
                if mode.ssim_weight:
                    terms["unlikeness"] = 1 - structural_similarity(seen_as, images).mean()
                    visible = visible + mode.ssim_weight * terms["unlikeness"]
                risen_to = risen(self.rec_warmup, step / steps)
                loss = hash_weight * terms["hash"] + risen_to * visible
                descend(maker, loss + terms["gan"] if mode.discriminator else loss)
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
                row |= self._validate(victim, data, label_sets(data.labels), budget)
            self.history.append({"phase": "generator", **row})
            progress("generator", epoch + 1, mode.epochs, **row)

    def _validate(
        self, victim: HashVictim, data: AttackData, sets: Tensor, budget: Budget
    ) -> dict[str, float]:
        """Figures of the validation split, as `perturb` would return its images where `bounded`."""

        def move(images: Tensor, targets: Tensor) -> Tensor:
            moved = self.generate(images, self.supervise(targets)[0], budget)
            if not self.bounded:
                return moved
            inside = budget.project(images, moved, victim.bounds["image"])
            return round_toward(images, inside)

        return validated(victim, data, sets, move, lambda targets: self.supervise(targets)[1])

    def _report_unseen(
        self, victim: HashVictim, data: AttackData, seen: Tensor, unseen: Tensor, budget: Budget
    ) -> None:
        """Figures for targets that training saw, for held-out ones, and for these unattacked."""
        aim = self.supervise
        row: dict[str, float] = {"unseen_sets": float(len(unseen))}
        for name, sets in (("seen", seen), ("unseen", unseen)):
            merit = self._validate(victim, data, sets, budget)
            row |= {f"{name}_{key.removeprefix('validation_')}": v for key, v in merit.items()}
            still = validated(victim, data, sets, lambda images, _: images, lambda t: aim(t)[1])
            row[f"{name}_tmap_clean"] = still["validation_tmap"]
        self.history.append({"phase": "held out", **row})


@dataclass(kw_only=True, eq=False, repr=False)
class Refinement(GradientAttack):
    """Some gradient steps toward the codes that a generator aimed at.

    codes: (B,K) ±1
    """

    codes: Tensor
    alphas: tuple[float, ...] = (1.0,)

    @classmethod
    def of(cls, steps: int, survive: str | tuple[str, ...], codes: Tensor) -> Refinement:
        """A descent of `steps` steps toward (B,K) codes, that can cross the ball in all of them."""
        step = min(0.5, max(0.1, 2 / steps))
        return cls(codes=codes, steps=steps, step=step, survive=survive)

    def anchors(self, labels: Tensor) -> Tensor:
        return self.codes


def part_of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): values
        for name, values in state.items()
        if name.startswith(prefix)
    }
