"""Attacks as genomes: `evolved`, whose every part is plain data that a search can change.

Anchor × small program × step rule × step × schedule × momentum × diversity × start. Written as the
settings of an attack, a genome is a config that `advhash attack --config` runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any, Literal, Self

from torch import Tensor

from advhash.attacks.base import AttackData, frozen
from advhash.attacks.evolved.programs import (
    PUBLISHED,
    mutated_program,
    parse_program,
    run_program,
    written_program,
)
from advhash.attacks.gradient.anchors import centre_codes, expect_reachable, voted
from advhash.attacks.gradient.descent import Aim, GradientAttack
from advhash.attacks.gradient.steps import Rule
from advhash.attacks.gradient.targeted import STAGES
from advhash.budget import Budget
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Batch, Dataset, Modality
from advhash.errors import ConfigError
from advhash.functional.functional_hash import FunctionalHash
from advhash.registry import ATTACKS
from advhash.victims.base import HashVictim

AnchorName = Literal["centre", "dhta", "majority", "p2p"]
GRID = 4096  # of movements in a functional hash: 16 steps between two of the 8-bit grid
VOTES: Mapping[str, int | None] = {"dhta": 9, "majority": None, "p2p": 1}
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "anchor": ("centre", "dhta", "majority", "p2p"),
    "rule": ("auto", "sign", "l2", "plain", "adam"),
    "step": (0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    "alphas": ((0.5,), (1.0,), (2.0,), (0.5, 0.7, 1.0, 1.5), (1.5, 1.0, 0.7, 0.5), STAGES),
    "momentum": (0.0, 0.5, 0.9, 1.0),
    "diversity": (0.0, 0.3, 0.7),
    "random_start": (False, True),
}


@ATTACKS.register("evolved", source="advhash evolve; Gillard et al., arXiv 2302.05433")
@dataclass(kw_only=True, eq=False, repr=False)
class Evolved(GradientAttack):
    """Toward an anchor by the objective that a small program computes: what `advhash evolve` finds.

    anchor:  "dhta" (majority of 9 codes of the target), "p2p" (one), "majority" (all) or "centre"
             (the label-weighted centre, as mainstay)
    program: lines such as "multiply h b" over the soft code h, the anchor b and the soft code o of
             the clean image; the mean over bits of the last one is minimised. The default is the
             objective of dhta. See docs/functional_hashing.md.

    Deviations:
    - published searches are over learning algorithms and networks, not over attacks
    """

    anchor: AnchorName = "dhta"
    program: tuple[str, ...] = PUBLISHED["similarity"]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._lines = parse_program(self.program)

    def anchors(self, labels: Tensor) -> Tensor:
        if self.anchor == "centre":
            expect_reachable(self.served.labels, labels)
            return centre_codes(self.served, labels, graded=True)
        return voted(self.served, labels, VOTES[self.anchor], self.chance(len(labels)))

    def aim(self, clean: Tensor, own: Tensor, labels: Tensor) -> Aim:
        anchors = self.anchors(labels).to(own.device)
        return Aim(
            anchors,
            lambda codes, images, rows: run_program(self._lines, codes, anchors[rows], own[rows]),
        )


@dataclass(frozen=True, kw_only=True)
class Genome:
    """What a search varies of `evolved`; the number of steps follows from the search's budget."""

    anchor: str
    program: tuple[str, ...]
    rule: Rule
    step: float
    alphas: tuple[float, ...]
    momentum: float
    diversity: float
    random_start: bool

    def steps(self, budget: int) -> int:
        """Steps that cost no more passes than `budget` steps without diversity, but at least 1.

        A step is a forward and a backward pass; with diversity it is a second forward pass too.
        """
        return max(1, budget * 2 // 3) if self.diversity else budget

    def settings(self) -> dict[str, Any]:
        """Plain JSON or TOML."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }


def random_genome(chance: Random) -> Genome:
    """Settings at random, and a published objective with up to 4 mutations."""
    program = parse_program(PUBLISHED[chance.choice(sorted(PUBLISHED))])
    for _ in range(chance.randrange(5)):
        program = mutated_program(program, chance)
    drawn = {name: chance.choice(values) for name, values in CHOICES.items()}
    return Genome(program=written_program(program), **drawn)


def mutated_genome(genome: Genome, chance: Random) -> Genome:
    """One line of the program or, half of the time, one setting is another."""
    values = {name: getattr(genome, name) for name in (*CHOICES, "program")}
    if chance.random() < 0.5:
        values["program"] = written_program(mutated_program(parse_program(genome.program), chance))
    else:
        name = chance.choice(sorted(CHOICES))
        values[name] = chance.choice([choice for choice in CHOICES[name] if choice != values[name]])
    return Genome(**values)


def read_genome(document: Any) -> Genome:
    """A genome from plain JSON or TOML, of a stranger perhaps: checked, and nothing is executed.

    Raises ConfigError.
    """
    names = {*CHOICES, "program"}
    if not isinstance(document, Mapping) or set(document) != names:
        raise ConfigError(f"expected a genome with exactly {', '.join(sorted(names))}")
    settings = ATTACKS.settings("evolved", document)
    ATTACKS.create("evolved", document)
    return Genome(**{name: settings[name] for name in names})


class _Listening(HashVictim):
    """`victim` that notes all real codes that it gives, in `heard`."""

    def __init__(self, victim: HashVictim) -> None:
        super().__init__()
        self.victim = victim
        self.bits, self.bounds = victim.bits, victim.bounds
        self.differentiable, self.no_gradient = victim.differentiable, victim.no_gradient
        self.history = []
        self.heard: list[Tensor] = []

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        codes = self.victim.relax(inputs, modality)
        self.heard.append(codes.detach())
        return codes

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """The victim is trained already."""
        return self


@dataclass(frozen=True)
class _Watching(Budget):
    """A budget that notes how far all that it projects has moved, in `seen`, on a grid of 1/4096.

    Images are rounded to 8 bits toward the clean one, so in few steps a slow attack gives the codes
    of one that does nothing; what is projected is not rounded yet. The grid keeps the noise of
    arithmetic out.
    """

    seen: list[Tensor] = field(default_factory=list, compare=False, repr=False)

    def project(self, clean: Tensor, moved: Tensor, bounds: tuple[float, float]) -> Tensor:
        inside = super().project(clean, moved, bounds)
        self.seen.append(((inside - clean) * GRID).round().detach())
        return inside


@dataclass(frozen=True)
class Canary:
    """What genomes are told apart by: `steps` steps on B images toward (B,C) targets.

    identity: names victim, data and whatever else determines a fitness; part of every key

    The key holds all real codes and movements seen on the way, and the images at the end, chance
    fixed, so that genomes share it iff they act alike: dead lines, exchanged operands, and under a
    sign rule every positive factor.
    """

    victim: HashVictim
    data: AttackData
    batch: Batch
    targets: Tensor
    budget: Budget
    identity: Mapping[str, Any]
    steps: int = 3
    bits: int = 24

    def key(self, genome: Genome) -> str:
        """The functional hash of a genome."""
        protocol = {**self.identity, "budget": str(self.budget), "steps": self.steps}
        return FunctionalHash((), protocol, self.bits)(lambda: self._behaviour(genome))

    def _behaviour(self, genome: Genome) -> list[Tensor]:
        victim = _Listening(self.victim)
        attack = Evolved(steps=self.steps, **asdict(genome))
        budget = _Watching(self.budget.norm, self.budget.eps)
        attack.fit(victim, self.data, budget)
        batch, targets = self.batch.to(victim.device), self.targets.to(victim.device)
        with frozen(victim):  # `perturb` would encode once more, a seventh of the cost
            images = attack.run(victim, batch, targets, budget)
        return [*victim.heard, *budget.seen, images]
