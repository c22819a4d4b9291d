"""The contract of an attack: an algorithm that is not trusted, inside a harness that checks it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, final

import torch
from torch import Tensor

from advhash.budget import Budget, Norm, round_toward
from advhash.chance import Chance
from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Batch, Dataset, Modality
from advhash.data.text.edits import WordBudget
from advhash.errors import UsageError
from advhash.shared_labels import without_labels
from advhash.victims.base import HashVictim, History
from advhash.victims.federated.slices import OneSlice, slice_batch, slice_data

Goal = Literal["targeted", "untargeted"]
Knowledge = frozenset[
    Literal[
        "weights",
        "gradients",
        "query codes",
        "query labels",
        "database codes",
        "labels",
        "auxiliary data",
    ]
]


@dataclass(frozen=True)
class AttackData:
    """What an attacker may look at: the training rows, and the database as the victim serves it.

    dataset:  attacks read its database, training and validation rows, never its queries
    codes:    (M,) the codes of `dataset.database` in the attacked direction
    database: the name of that direction: "image", "text" or "fused"
    modality: the modality of the queries that are attacked
    """

    dataset: Dataset
    codes: HashCodes
    database: str
    modality: Modality

    @property
    def labels(self) -> Tensor:
        """Labels of the database: (M,C) multi-hot, or (M,L) groups."""
        return self.dataset.database.labels


@dataclass(frozen=True)
class Perturbed:
    """The outcome of `Attack.perturb`.

    batch:    the adversarial items, inside the budget and the bounds, images on the 8-bit grid
    codes:    their codes, hashed again after projection and rounding
    distance: (B,) in the norm of the budget
    overrun:  (B,) how far the algorithm went beyond the budget before the projection (0: inside)
    """

    batch: Batch
    codes: HashCodes
    distance: Tensor
    overrun: Tensor


@contextmanager
def frozen(victim: HashVictim) -> Iterator[HashVictim]:
    """The victim in eval mode, without parameter gradients; both are restored."""
    training = {name: module.training for name, module in victim.named_modules()}
    wanted = [parameter.requires_grad for parameter in victim.parameters()]
    victim.eval().requires_grad_(False)
    try:
        yield victim
    finally:
        for parameter, flag in zip(victim.parameters(), wanted, strict=True):
            parameter.requires_grad_(flag)
        for name, module in victim.named_modules():
            module.training = training[name]


class Attack(ABC):
    """An attack. Its constructor takes explicit keywords, stored unchanged.

    goal:       "targeted" (reach the target's labels) or "untargeted"
    modalities: the query modalities that it can move
    knowledge:  what the attacker has
    norms:      the budgets that it can work under; settings may decide
    eps_range: the least and the largest radius that it can work under; settings may decide
    trains:     whether `fit` is costly, so that its result is cached
    settings_of_run: settings that `fit` does not read: another value needs no other fit
    fit_depends_on_budget: whether another budget needs another fit; settings may decide
    couples_queries: whether the result of a query may depend on the others of its block, so that
        figures depend on the size of blocks; of all others they do not
    reads_classes: whether it learns the classes of the data one by one
    takes_one_size: whether it needs pictures of one size, as it moves them alike or by each other
    history:    what fitting recorded, one row a report step
    """

    goal: ClassVar[Goal]
    modalities: ClassVar[frozenset[Modality]]
    knowledge: ClassVar[Knowledge]
    default_budget: ClassVar[Budget] = Budget("linf", 8 / 255)
    norms: frozenset[Norm] = frozenset({"linf", "l2", "none"})
    eps_range: tuple[float, float] = (0.0, math.inf)
    trains: ClassVar[bool] = False
    settings_of_run: ClassVar[frozenset[str]] = frozenset()
    fit_depends_on_budget: bool = True
    couples_queries: ClassVar[bool] = False
    reads_classes: ClassVar[bool] = False
    takes_one_size: ClassVar[bool] = False
    history: History

    def fit(
        self,
        victim: HashVictim,
        data: AttackData,
        budget: Budget,
        *,
        seed: int = 0,
        progress: Progress = silent,
    ) -> Self:
        """Learn what `run` needs. The default learns nothing."""
        return self

    def effort(self, data: Dataset) -> float:
        """What the seconds of `fit` grow with, for what `--dry-run` foretells."""
        return 1.0

    def state(self) -> Mapping[str, Tensor]:
        """What `fit` learnt, for the cache (only where `trains`)."""
        return {}

    def restore(self, victim: HashVictim, data: AttackData, state: Mapping[str, Tensor]) -> Self:
        """The inverse of `state`."""
        return self

    @final
    def note(self, name: str, values: Tensor) -> None:
        """Keep a value of each image (or of each of its bits) for `indicators`."""
        kept = self.__dict__.setdefault("_notes", {})
        kept.setdefault(name, []).append(values.detach().float().flatten().cpu())

    def notes(self) -> dict[str, Tensor]:
        """All values noted since `forget`, by name, so that a run can keep them with its batch."""
        return {name: torch.cat(kept) for name, kept in self.__dict__.get("_notes", {}).items()}

    def forget(self) -> None:
        """Drop all notes, as `fit` does."""
        self.__dict__.pop("_notes", None)

    def summarise(self, notes: Mapping[str, Tensor]) -> dict[str, float]:
        """What notes say of the attack: its cost, or signs that it failed. The mean of each."""
        return {name: float(kept.double().mean()) for name, kept in notes.items() if len(kept)}

    @final
    def indicators(self) -> dict[str, float]:
        """`summarise` of all images attacked since `fit`."""
        return self.summarise(self.notes())

    @final
    def can_move(self, victim: HashVictim, modality: Modality) -> bool:
        """Whether it moves this modality, by itself or as the strip of an image."""
        strip = "image" in self.modalities and victim.is_image(modality)
        return modality in self.modalities or strip

    @final
    def outlook(self, victim: HashVictim, data: AttackData) -> tuple[HashVictim, AttackData]:
        """Victim and data as `fit` and `restore` are to see them: a party's strip as an image."""
        if data.modality in self.modalities or not self.can_move(victim, data.modality):
            return victim, data
        size = data.dataset.database.tensor(data.modality).shape[2:]
        strips = slice_data(data.dataset, data.modality)
        seen = replace(data, dataset=strips, modality="image")
        return OneSlice(victim, data.modality, (size[0], size[1])), seen

    @final
    def _moved(
        self,
        victim: HashVictim,
        batch: Batch,
        targets: Tensor | None,
        budget: Budget,
        modality: Modality,
    ) -> Tensor:
        """What `run` makes of a modality of its own, or of the strip of an image."""
        if modality in self.modalities:
            return self.run(victim, batch, targets, budget)
        size = batch.inputs[modality].shape[2:]
        seen = OneSlice(victim, modality, (size[0], size[1]))
        return seen.cut(self.run(seen, slice_batch(batch, modality), targets, budget))

    @final
    def check_budget(self, budget: Budget) -> None:
        """Raise UsageError for a budget that the attack cannot work under."""
        if budget.norm not in self.norms:
            hint = "; add --eps, e.g. --eps 8/255" if budget.norm == "none" else ""
            raise UsageError(
                f"{type(self).__name__} with these settings: expected a budget in "
                f"{', '.join(sorted(self.norms))}, got {budget.norm}{hint}"
            )
        least, most = self.eps_range
        if not least <= budget.eps <= most:
            raise UsageError(
                f"{type(self).__name__} with these settings: expected an eps from "
                f"{255 * least:g}/255 to {255 * most:g}/255, for which it is trained, got "
                f"{255 * budget.eps:g}/255; change attack.radii or --eps"
            )
        if budget.norm == "l0" and (budget.eps < 1 or budget.eps % 1):
            raise UsageError(
                f"{type(self).__name__}: expected an l0 budget of 1 word (or entry) or more, a "
                f"whole number, got {budget.eps:g}; use --norm l0 --eps 2"
            )

    @final
    def check_gradients(self, victim: HashVictim) -> None:
        """Raise UsageError where the attack needs gradients and the victim has none."""
        if "gradients" in self.knowledge and not victim.differentiable:
            why = f" ({victim.no_gradient})" if victim.no_gradient else ""
            advice = "on codes alone (nes, square, blend), or give real codes made in torch"
            if self.modalities == {"text"}:
                advice = "without (synonyms, token-noise)"
            raise UsageError(
                f"{type(self).__name__} needs gradients: expected a differentiable victim, got one "
                f"without{why}; choose one {advice}"
            )

    def check_data(self, data: Dataset) -> None:
        """Raise DataError: data that the attack cannot learn from or work on."""
        if self.reads_classes:
            data.class_count(type(self).__name__)
        if self.takes_one_size:
            data.expect_one_size(type(self).__name__)

    @final
    @contextmanager
    def drawing(self, batch: Batch, salt: int = 0) -> Iterator[Chance]:
        """The random numbers of the queries of a batch, as `chance` too: for `run`.

        The seed is that of torch's generator, which `perturb` sets, and `Batch.index` names the
        queries. salt: tells apart attacks that are part of one
        """
        before = self.__dict__.get("_chance")
        drawn = Chance(torch.initial_seed() + salt, batch.index, batch.index.device)
        self.__dict__["_chance"] = drawn
        try:
            yield drawn
        finally:
            self.__dict__["_chance"] = before

    @final
    def chance(self, count: int) -> Chance:
        """What `run` draws from for `count` queries; outside of it, queries count from 0."""
        known: Chance | None = self.__dict__.get("_chance")
        return Chance(torch.initial_seed(), torch.arange(count)) if known is None else known

    @abstractmethod
    def run(
        self, victim: HashVictim, batch: Batch, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        """Moved inputs, (B, …) like `batch.inputs` of the attacked modality.

        `targets` are (B,C) labels, None when untargeted. What it draws of a query comes from
        `drawing`, so that it is the same whatever stands beside the query.
        """

    @final
    def perturb(
        self,
        victim: HashVictim,
        batch: Batch,
        targets: Tensor | None,
        budget: Budget,
        modality: Modality = "image",
        *,
        seed: int = 0,
        eight_bit: bool = True,
        vocabulary: Sequence[str] = (),
    ) -> Perturbed:
        """Run, and trust nothing: project onto budget and bounds, round, hash again, measure.

        `eight_bit=False` leaves the pixels as floats. `vocabulary` is that of the data set: an l0
        budget on text counts words. Only `seed` determines the draws, for each query with its
        `Batch.index`.

        An attack whose `knowledge` does not name the query labels sees none.

        Raises UsageError: targets missing or superfluous, a modality that attack or victim lack,
        a norm that the attack cannot keep, an attack by gradients on a victim without, pictures
        that are not on the 8-bit grid and are to be rounded to it.
        """
        moved, distance, overrun = self._inside(
            victim, batch, targets, budget, modality, seed, eight_bit, vocabulary
        )
        codes = victim.encode(moved.inputs[modality], modality)
        return Perturbed(moved, codes, distance, overrun)

    @final
    def move(
        self,
        victim: HashVictim,
        batch: Batch,
        targets: Tensor | None,
        budget: Budget,
        modality: Modality = "image",
        *,
        seed: int = 0,
    ) -> Batch:
        """The items of `perturb`, not hashed again: for training, which hashes them itself."""
        return self._inside(victim, batch, targets, budget, modality, seed, True, ())[0]

    @final
    def _inside(
        self,
        victim: HashVictim,
        batch: Batch,
        targets: Tensor | None,
        budget: Budget,
        modality: Modality,
        seed: int,
        eight_bit: bool,
        vocabulary: Sequence[str],
    ) -> tuple[Batch, Tensor, Tensor]:
        """What `run` makes of the items, inside budget and bounds; distances and overruns."""
        victim.check_modality(modality)
        self.check_gradients(victim)
        if not self.can_move(victim, modality):
            raise UsageError(
                f"expected a query modality that {type(self).__name__} attacks "
                f"({', '.join(sorted(self.modalities))}), got {modality!r}"
            )
        if (targets is not None) != (self.goal == "targeted"):
            raise UsageError(f"expected targets only for targeted attacks; this one is {self.goal}")
        self.check_budget(budget)
        batch = batch.to(victim.device)
        targets = None if targets is None else targets.to(victim.device)
        clean = batch.inputs[modality]
        bounds = victim.bounds[modality]
        rounded = victim.is_image(modality) and eight_bit
        if rounded and bool(((clean * 255).round() - clean * 255).abs().gt(1e-2).any()):
            raise UsageError(
                "expected 8-bit pictures (multiples of 1/255), whose rounding cannot leave the "
                "budget, got others; round them first, or use eight_bit=False"
            )
        devices = [victim.device] if victim.device.type == "cuda" else []
        with frozen(victim), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            inputs = {name: values.clone() for name, values in batch.inputs.items()}
            known = "query labels" in self.knowledge
            labels = batch.labels.clone() if known else without_labels(batch.labels)
            own = Batch(inputs, labels, batch.index.clone())
            aims = None if targets is None else targets.clone()
            raw = self._moved(victim, own, aims, budget, modality).detach().to(clean)
        if raw.shape != clean.shape or not bool(raw.isfinite().all()):
            raise RuntimeError(
                f"{type(self).__name__}.run returned {tuple(raw.shape)} for {tuple(clean.shape)}, "
                f"finite: {bool(raw.isfinite().all())}"
            )
        words = modality == "text" and budget.norm == "l0"
        measure = WordBudget(budget, tuple(vocabulary)) if words else budget
        slack = 1e-6 + 1e-5 * budget.eps  # float error of a norm grows with the norm
        overrun = (
            torch.zeros(len(clean), device=clean.device)
            if math.isinf(budget.eps)
            else (measure.distance(clean, raw) - budget.eps - slack).clamp_min(0)
        )
        moved = measure.project(clean, raw, bounds)
        if rounded:
            moved = round_toward(clean, moved)
        inputs = {**batch.inputs, modality: moved}
        distance = measure.distance(clean, moved)
        return Batch(inputs, batch.labels, batch.index), distance, overrun


class DatabaseAttack(Attack):
    """An attack that takes what it aims at from the database that `fit` is given."""

    _data: AttackData | None = None

    def fit(
        self,
        victim: HashVictim,
        data: AttackData,
        budget: Budget,
        *,
        seed: int = 0,
        progress: Progress = silent,
    ) -> Self:
        """Keep the database codes and labels; forget what was noted."""
        self._data = data
        self.forget()
        return self

    @property
    def served(self) -> AttackData:
        """The database that was given to `fit`. Raises UsageError before it."""
        if self._data is None:
            raise UsageError(f"{type(self).__name__}: call fit with the database before run")
        return self._data
