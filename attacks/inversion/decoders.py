"""Reconstruction: from what a party sent back to what it holds. Not a perturbation, no budget.

All attackers here see a code and know the bottom model that made it (the threat model of HashVFL).
What they are given may also be the real values before the sign: the control that tells whether the
attack works where nothing defends.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Self, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advhash.attacks.base import Knowledge, frozen
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Modality, Split
from advhash.errors import UsageError
from advhash.measures.reconstruction import structural_similarity
from advhash.victims.base import HashVictim
from advhash.victims.federated.ends import derived
from advhash.victims.federated.hashvfl import HashVFL, straight_through
from advhash.victims.objectives import sign
from advhash.victims.training.descent import seeded

Observed = Literal["codes", "embeddings"]
BLOCK = 256
PATIENCE = 12  # epochs of a decoder without progress
REFINED = 4  # one epoch of SSIM for so many of squared error: it costs far more


def observe(
    victim: HashVictim,
    split: Split,
    modality: Modality,
    observed: Observed,
    *,
    seed: int = 0,
    noise: bool = True,
) -> Tensor:
    """(N,K) what is seen of the rows of a split: what is sent, or the real values before the sign.

    Noise that the victim adds to codes is drawn by `seed`: splits that are compared need seeds of
    their own, or equal places get equal noise. Without `noise`, codes as whoever has the model and
    the inputs can make them.
    """
    parts = []
    with frozen(victim), torch.no_grad():
        for place, batch in enumerate(split.batches(BLOCK)):
            inputs = batch.inputs[modality].to(victim.device)
            if observed == "embeddings":
                part = victim.relax(inputs, modality)
            elif isinstance(victim, HashVFL) and noise:
                part = victim.send(inputs, modality, seed=derived(seed, place))
            else:
                part = sign(victim.relax(inputs, modality))
            parts.append(part.cpu())
    return torch.cat(parts)


@dataclass(frozen=True)
class Material:
    """What a reconstruction learns from; `validation` only to choose and to stop."""

    victim: HashVictim
    auxiliary: Split
    validation: Split
    modality: Modality
    seed: int
    progress: Progress

    def inputs(self, split: Split) -> Tensor:
        """(N, …) of all rows of a split, as the victim sees them."""
        return split.rows(torch.arange(len(split))).inputs[self.modality]


class Inversion(ABC):
    """A reconstruction. Its constructor takes explicit keywords, stored unchanged.

    knowledge: what the attacker has, besides what was sent
    observed:  "codes" or "embeddings", what `fit` and `reconstruct` are given
    """

    knowledge: ClassVar[Knowledge]
    observed: Observed = "codes"

    @abstractmethod
    def learn(self, material: Material) -> None:
        """Learn from inputs that the attacker has. Raises UsageError where it cannot."""

    @final
    def fit(
        self,
        victim: HashVictim,
        auxiliary: Split,
        validation: Split,
        modality: Modality,
        *,
        seed: int = 0,
        progress: Progress = silent,
    ) -> Self:
        """Learn from inputs that the attacker has; `validation` only to choose and to stop.

        Raises UsageError: inputs that it cannot learn from.
        """
        self.learn(Material(victim, auxiliary, validation, modality, seed, progress))
        return self

    @abstractmethod
    def run(self, victim: HashVictim, sent: Tensor, modality: Modality) -> Tensor:
        """(N, …) inputs for (N,K) of what was sent."""

    @final
    def reconstruct(
        self, victim: HashVictim, codes: Tensor, modality: Modality, *, seed: int = 0
    ) -> Tensor:
        """(N, …) inputs within the victim's bounds, on the CPU, from (N,K) of what was sent.

        Raises UsageError: a modality that the victim lacks, codes of another length.
        """
        victim.check_modality(modality)
        if codes.dim() != 2 or codes.shape[1] != victim.bits:
            raise UsageError(f"expected codes (N,{victim.bits}), got {tuple(codes.shape)}")
        with frozen(victim), seeded(seed):
            drawn = self.run(victim, codes.to(victim.device).clone(), modality).detach().cpu()
        if len(drawn) != len(codes) or not bool(drawn.isfinite().all()):
            raise RuntimeError(f"{type(self).__name__}.run returned {tuple(drawn.shape)}, or NaN")
        return drawn.clamp(*victim.bounds[modality])


def total_variation(images: Tensor) -> Tensor:
    """Mean |difference| of neighbouring pixels of (N,3,H,W); 0 for tables."""
    if images.dim() != 4:
        return images.new_zeros(())
    return images.diff(dim=2).abs().mean() + images.diff(dim=3).abs().mean()


class Neighbours(Inversion):
    """The mean of the `count` auxiliary inputs whose own code is nearest; 1 is the nearest itself.

    Ties beyond `count` are all taken in, so that the order of the rows decides nothing.
    """

    knowledge: ClassVar[Knowledge] = frozenset({"weights", "query codes", "auxiliary data"})

    def __init__(self, *, count: int = 10, observed: Observed = "codes") -> None:
        if count < 1:
            raise ValueError(f"expected count >= 1, got {count}")
        self.count = count
        self.observed = observed
        self._seen: Tensor | None = None
        self._inputs: Tensor | None = None

    def learn(self, material: Material) -> None:
        """Hash the auxiliary inputs: the attacker has the model, so no noise lies on these."""
        auxiliary, modality = material.auxiliary, material.modality
        self._seen = observe(material.victim, auxiliary, modality, self.observed, noise=False)
        self._inputs = material.inputs(auxiliary)

    def run(self, victim: HashVictim, sent: Tensor, modality: Modality) -> Tensor:
        """(N, …). Raises UsageError before `fit`."""
        if self._seen is None or self._inputs is None:
            raise UsageError("Neighbours: call fit before reconstruct")
        return nearest_mean(sent.cpu(), self._seen, self._inputs, self.count)


def nearest_mean(sent: Tensor, seen: Tensor, inputs: Tensor, count: int) -> Tensor:
    """(N, …) means of the `count` of (M, …) inputs whose (M,K) codes are nearest to `sent`."""
    far = torch.cdist(sent.double(), seen.double()).round(decimals=6)
    last = far.kthvalue(min(count, len(seen)), dim=1, keepdim=True).values
    weight = (far <= last).float()
    weight = weight / weight.sum(dim=1, keepdim=True)
    return (weight @ inputs.flatten(1)).view(len(sent), *inputs.shape[1:])


@dataclass(kw_only=True, eq=False, repr=False)
class GradientInversion(Inversion):
    """Descend the distance between what the input would send and what was sent.

    surrogate: of the sign: "ste", the straight-through estimator; "tanh", tanh(κ·ṽ); "identity",
               for embeddings
    start:     "grey", 0.5 everywhere, as published; or "neighbours": the mean of the auxiliary
               inputs with the nearest codes
    steps, learning_rate: Adam (amsgrad)
    smoothness, size: weights of total variation and of the mean square, published 1 and 0.1

    Kept is the first iterate with the fewest wrong bits, of embeddings the one of lowest loss. From
    the attack released
    with HashVFL (Qiu et al., 2024), which matches embeddings even where codes are sent.

    Deviations:
    - codes are matched where codes are sent; total variation is a mean, not a sum;
    - a start from neighbours, fewer and longer steps.
    """

    knowledge: ClassVar[Knowledge] = frozenset(
        {"weights", "gradients", "query codes", "auxiliary data"}
    )

    surrogate: Literal["ste", "tanh", "identity"] = "tanh"
    kappa: float = 2.0
    start: Literal["grey", "neighbours"] = "neighbours"
    steps: int = 150
    learning_rate: float = 0.01
    smoothness: float = 0.1
    size: float = 0.0
    observed: Observed = "codes"

    def __post_init__(self) -> None:
        above = self.learning_rate > 0 and self.kappa > 0
        if self.steps < 1 or not above or min(self.smoothness, self.size) < 0:
            raise ValueError(
                "expected steps >= 1, learning_rate > 0, kappa > 0, weights >= 0, got "
                f"steps={self.steps}, learning_rate={self.learning_rate}, kappa={self.kappa}, "
                f"smoothness={self.smoothness}, size={self.size}"
            )
        self._neighbours = Neighbours(observed=self.observed)
        self._shape: tuple[int, ...] = ()

    def learn(self, material: Material) -> None:
        """Where the descent starts."""
        self._neighbours.learn(material)
        self._shape = tuple(material.auxiliary.tensor(material.modality).shape[1:])

    def run(self, victim: HashVictim, sent: Tensor, modality: Modality) -> Tensor:
        """(N, …). Raises UsageError before `fit`."""
        if not self._shape:
            raise UsageError("GradientInversion: call fit before reconstruct")
        low, high = victim.bounds[modality]
        if self.start == "neighbours":
            begin = self._neighbours.run(victim, sent, modality).to(sent.device)
        else:
            middle = 0.5 if math.isfinite(high) else 0.0
            begin = torch.full((len(sent), *self._shape), middle, device=sent.device)
        moved = begin.clone().requires_grad_()
        optimiser = torch.optim.Adam([moved], self.learning_rate, amsgrad=True)
        best = begin.clone()
        least = torch.full((len(sent),), math.inf, device=sent.device)
        for step in range(self.steps + 1):
            real = victim.relax(moved, modality)
            gap = (self._soft(real) - sent).square().mean(dim=1)
            with torch.no_grad():  # once all bits are right, a code has no more to say
                wrong = ((real > 0) != (sent > 0)).sum(dim=1).to(gap)
                judged = wrong if self.observed == "codes" else gap.detach()
                better = judged < least
                best[better], least[better] = moved[better], judged[better]
            if step == self.steps:
                break
            prior = self.smoothness * total_variation(moved) + self.size * moved.square().mean()
            optimiser.zero_grad()
            (gap.mean() + prior).backward()
            optimiser.step()
            with torch.no_grad():
                moved.clamp_(low, high)
        return best

    def _soft(self, real: Tensor) -> Tensor:
        if self.surrogate == "identity":
            return real
        if self.surrogate == "ste":
            return straight_through(real)
        return torch.tanh(self.kappa * real)


@dataclass(kw_only=True, eq=False, repr=False)
class Decoder(Inversion):
    """A network from what was sent to the input, trained on auxiliary inputs.

    hidden: width of its two hidden layers
    epochs: at most; the weights that fit the validation inputs best are kept
    loss:   "mse"; or "ssim", of images: trained by squared error first, then on 1 − SSIM for a
            quarter of the epochs
    """

    knowledge: ClassVar[Knowledge] = frozenset({"weights", "query codes", "auxiliary data"})

    hidden: int = 256
    epochs: int = 60
    loss: Literal["mse", "ssim"] = "mse"
    observed: Observed = "codes"

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.epochs < 1:
            raise ValueError(f"expected hidden, epochs >= 1, got {self.hidden}, {self.epochs}")
        self._network: nn.Module | None = None

    def learn(self, material: Material) -> None:
        """Train it on the auxiliary inputs and what they would send."""

        def pairs(split: Split, own: int) -> tuple[Tensor, Tensor]:
            seed = derived(material.seed, own)
            seen = observe(material.victim, split, material.modality, self.observed, seed=seed)
            return seen, material.inputs(split)

        self._network = fit_decoder(
            *pairs(material.auxiliary, 0),
            *pairs(material.validation, 1),
            hidden=self.hidden,
            epochs=self.epochs,
            loss=self.loss,
            seed=material.seed,
            progress=material.progress,
        )

    def run(self, victim: HashVictim, sent: Tensor, modality: Modality) -> Tensor:
        """(N, …). Raises UsageError before `fit`."""
        if self._network is None:
            raise UsageError("Decoder: call fit before reconstruct")
        return decode(self._network, sent.cpu())


def fit_decoder(
    seen: Tensor,
    inputs: Tensor,
    held_seen: Tensor,
    held_inputs: Tensor,
    *,
    hidden: int,
    epochs: int,
    seed: int,
    loss: Literal["mse", "ssim"] = "mse",
    learning_rate: float = 1e-3,
    batch_size: int = 64,
    progress: Progress = silent,
) -> nn.Module:
    """(N,F) of what was seen → (N, …) inputs by `Decoder`'s loss; the best on held-out ones.

    Features are standardised; the output starts at the mean input.
    Raises UsageError: SSIM of tables.
    """
    if loss == "ssim" and inputs.dim() != 4:
        raise UsageError("a decoder trained on SSIM draws images: expected images, got a table")
    mean, scale = seen.mean(dim=0), seen.std(dim=0).clamp_min(1e-3)
    middle = inputs.mean(dim=0)
    with seeded(seed):
        network = nn.Sequential(
            _Standard(mean, scale),
            *(nn.Linear(seen.shape[1], hidden), nn.ReLU()),
            *(nn.Linear(hidden, hidden), nn.ReLU()),
            nn.Linear(hidden, middle.numel()),
            nn.Unflatten(1, tuple(middle.shape)),
        )
        last = network[5]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.copy_(middle.flatten())
        phases: list[tuple[str, Callable[[Tensor, Tensor], Tensor], int]]
        phases = [("mse", F.mse_loss, epochs), ("ssim", _unlike, -(-epochs // REFINED))]
        for name, measure, most in phases if loss == "ssim" else phases[:1]:
            optimiser = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=1e-2)
            best, kept, stale = math.inf, {}, 0
            if name == "ssim":  # never worse than what it refines
                kept = {key: values.clone() for key, values in network.state_dict().items()}
                with torch.no_grad():
                    best = measure(network.eval()(held_seen), held_inputs).item()
            for epoch in range(most):
                network.train()
                for rows in torch.randperm(len(seen)).split(batch_size):
                    optimiser.zero_grad()
                    measure(network(seen[rows]), inputs[rows]).backward()
                    optimiser.step()
                with torch.no_grad():
                    gap = measure(network.eval()(held_seen), held_inputs).item()
                if gap < best:
                    best, stale = gap, 0
                    kept = {key: values.clone() for key, values in network.state_dict().items()}
                else:
                    stale += 1
                progress("decoder", epoch + 1, most, **{name: gap})
                if stale == PATIENCE:
                    break
            network.load_state_dict(kept)
    return network.eval()


def _unlike(drawn: Tensor, true: Tensor) -> Tensor:
    """1 − mean SSIM of images, which may leave [0,1] while they are learnt."""
    return 1 - structural_similarity(drawn, true).mean()


def decode(network: nn.Module, seen: Tensor) -> Tensor:
    """(N, …) inputs for (N,F) of what was seen."""
    with torch.no_grad():
        drawn: Tensor = network(seen)
    return drawn


class _Standard(nn.Module):
    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, values: Tensor) -> Tensor:
        standard: Tensor = (values - self.mean) / self.scale
        return standard
