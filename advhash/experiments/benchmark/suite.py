"""From the file of a suite to its cells: every attack of every grid with all its seeds.

A cell is one attack run. Its key names everything that decides over its figures, so that a cell is
computed once, whichever suite it stands in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from advhash.data.dataset import Dataset
from advhash.defenses.base import Wrapping
from advhash.errors import ConfigError, UnknownName, UsageError, nearest
from advhash.experiments.attack.run import check_attack_config
from advhash.experiments.benchmark.config import GridConfig, SuiteConfig
from advhash.experiments.config import AttackConfig, BudgetConfig
from advhash.experiments.config_text import method_label, read_toml
from advhash.experiments.prepare.code_key import code_version
from advhash.experiments.prepare.hardened import DEFAULT, foresee
from advhash.experiments.prepare.seeds import resolve_device
from advhash.experiments.prepare.trained import cache_identity
from advhash.registry import ATTACKS, DEFENSES, VICTIMS
from advhash.storage.cache import content_key
from advhash.victims.base import HashVictim
from advhash.victims.training.acceleration import precision

__all__ = ["Cell", "Suite", "load_suite", "plan_suite", "shipped_suites"]

UNDEFENDED = "none"
SHIPPED = Path(__file__).with_name("suites")


@dataclass(frozen=True)
class Cell:
    """One attack run, and how tables name what it is made of.

    data:        the data set with its settings
    dataset:     the same with the settings of the protocol in which cells of the suite differ
    training:    names the victim with its defence, as far as they are trained here
    queries:     how many are attacked
    victim_seed: drawn by the suite; None for a victim that no seed decides over, or with its own
    """

    key: str
    training: str
    config: AttackConfig
    data: str
    dataset: str
    victim: str
    method: str
    budget: str
    goal: str
    queries: int
    victim_seed: int | None
    attack_seed: int

    @property
    def names(self) -> tuple[str, str, str]:
        """From the most telling to the least about what it costs."""
        return self.method, self.data, self.victim


@dataclass(frozen=True)
class Suite:
    """A suite with its cells, checked."""

    config: SuiteConfig
    cells: list[Cell]


def shipped_suites() -> list[str]:
    """Names of the suites that come with the package."""
    return sorted(file.stem for file in SHIPPED.glob("*.toml"))


def load_suite(name: str) -> dict[str, Any]:
    """The tables of a suite: one that is shipped, or a file. Raises UsageError, ConfigError."""
    if name in shipped_suites():
        return read_toml(SHIPPED / f"{name}.toml")
    file = Path(name)
    if not file.is_file():
        raise UsageError(
            f"--suite: expected a file or one of {', '.join(shipped_suites())}, got {name!r}: "
            f"{nearest(name, shipped_suites())}no such file"
        )
    return read_toml(file)


def plan_suite(config: SuiteConfig) -> Suite:
    """All cells, each checked, before anything is trained.

    Raises UsageError for a cell that cannot be: it names the cell, put it in a grid of its own; and
    for different cells that tables would call the same.
    """
    device = str(resolve_device(config.device))
    config = config.model_copy(update={"device": device})
    cells: dict[str, Cell] = {}
    for grid in config.grids:
        for cell in _cells(config, grid):
            cells.setdefault(cell.key, cell)
    named = _by_protocol(list(cells.values()))
    called: dict[tuple[object, ...], str] = {}
    for cell in named:
        names = (*cell.names, cell.dataset, cell.budget, cell.victim_seed, cell.attack_seed)
        if called.setdefault(names, cell.key) != cell.key:
            raise UsageError(
                f"two different cells are both called {cell.method}, {cell.budget}, on "
                f"{cell.victim}, {cell.dataset}: put them into suites of their own"
            )
    return Suite(config, named)


def _by_protocol(cells: list[Cell]) -> list[Cell]:
    """Figures of different protocols are not compared: their data sets are called differently."""
    settings = [cell.config.protocol.model_dump(mode="json") for cell in cells]
    apart = [name for name in settings[0] if len({repr(one[name]) for one in settings}) > 1]
    return [
        replace(
            cell,
            dataset=", ".join(
                [cell.dataset, *(f"{name}={one[name]}" for name in apart if one[name] is not None)]
            ),
        )
        for cell, one in zip(cells, settings, strict=True)
    ]


def _cells(suite: SuiteConfig, grid: GridConfig) -> Iterator[Cell]:
    hardens = any(one.name != UNDEFENDED for one in grid.defenses)
    if grid.defense_budget != BudgetConfig() and not hardens:
        raise UsageError(
            "defense_budget is what a defence is trained against: name one in defenses"
        )
    for dataset, victim, defense in product(grid.datasets, grid.victims, grid.defenses):
        plain = defense.name == UNDEFENDED
        base = AttackConfig(
            device=suite.device,
            victim=victim,
            defense=None if plain else defense,
            defense_budget=BudgetConfig() if plain else grid.defense_budget,
            attack=grid.attacks[0],
            dataset=dataset,
            protocol=grid.protocol,
        ).trusting(suite.trust_code)
        label = method_label(victim)
        if not plain:
            label += f" + {method_label(defense)}"
            if DEFENSES.create(defense.name, defense.settings).takes_budget:
                label += _trained_at(grid.defense_budget)
        with _telling(label, parts=not plain):
            known = _Victim.plan(base)
        drawn = known.learns and victim.seed is None
        for attack, budget in product(grid.attacks, grid.budgets or [BudgetConfig()]):
            one = base.model_copy(update={"attack": attack, "budget": budget})
            with _telling(f"{label} on {known.data.name}, {method_label(attack)}", parts=True):
                check_attack_config(one, known.fresh, known.data)
            for victim_seed, seed in product(
                range(suite.victim_seeds if drawn else 1), range(suite.attack_seeds)
            ):
                trained = victim.model_copy(
                    update={"seed": suite.seed + victim_seed} if drawn else {}
                )
                yield _cell(
                    one.model_copy(update={"seed": suite.seed + seed, "victim": trained}),
                    known,
                    label,
                    drawn=drawn,
                )


@contextmanager
def _telling(what: str, *, parts: bool) -> Iterator[None]:
    """Say which part of a grid is refused, and what to do where `parts` do not go together."""
    try:
        yield
    except UsageError as error:
        advice = ""
        if parts and not isinstance(error, ConfigError | UnknownName):
            advice = "; what does not go together belongs into grids of their own"
        raise UsageError(f"{what}: {error}{advice}") from None


def _trained_at(budget: BudgetConfig) -> str:
    return "" if budget == BudgetConfig() else f" at {budget.resolve(DEFAULT)}"


@dataclass(frozen=True)
class _Victim:
    """What is known of a victim before any training.

    identity: names it without its seed
    fresh:    as it is before training, or as it comes
    learns:   whether a seed decides over it
    """

    identity: dict[str, Any]
    fresh: HashVictim
    learns: bool
    data: Dataset

    @classmethod
    def plan(cls, config: AttackConfig) -> _Victim:
        device, foreseen = resolve_device(config.device), foresee(config)
        code = code_version("experiments.attack", "experiments.benchmark")
        fresh, data = foreseen.victim, foreseen.data
        if foreseen.ready is not None:  # a checkpoint, or a function of the user
            identity, learns = {**cache_identity(foreseen.ready), "code": code}, False
            if config.defense is not None:
                identity["precision"] = precision(device)
        else:
            identity = {
                "victim": config.victim.name,
                "method": VICTIMS[config.victim.name].digest,
                "settings": foreseen.settings,
                "data": data.fingerprint(),
                "code": code,
                "device": device.type,
                "precision": precision(device),
            }
            learns = any(True for _ in fresh.parameters())
        if config.defense is not None:  # one that only wraps the victim learns nothing
            defense = DEFENSES.create(config.defense.name, config.defense.settings)
            learns = learns or not isinstance(defense, Wrapping)
        return cls(identity, fresh, learns, data)


def _cell(config: AttackConfig, known: _Victim, victim: str, *, drawn: bool) -> Cell:
    settings = ATTACKS.settings(config.attack.name, config.attack.settings)
    attack = ATTACKS.create(config.attack.name, settings)
    defense = config.defense
    training = {
        **known.identity,
        "seed": config.victim_seed if known.learns else None,
        "defense": None
        if defense is None
        else [
            defense.name,
            DEFENSES.settings(defense.name, defense.settings),
            DEFENSES[defense.name].digest,
            repr(config.defense_budget.resolve(DEFAULT))
            if DEFENSES.create(defense.name, defense.settings).takes_budget
            else None,
        ],
    }
    budget = config.budget.resolve(attack.default_budget)
    identity = {
        "victim": training,
        "attack": config.attack.name,
        "method": ATTACKS[config.attack.name].digest,
        "settings": settings,
        "seed": config.seed,
        "budget": repr(budget),
        "eight_bit": config.budget.eight_bit,
        "protocol": config.protocol.model_dump(mode="json"),
    }
    data = method_label(config.dataset.model_copy(update={"name": known.data.name}))
    return Cell(
        key=content_key(identity),
        training=content_key(training),
        config=config,
        data=data,
        dataset=data,
        victim=victim,
        method=method_label(config.attack),
        budget=f"{budget}{'' if config.budget.eight_bit else ' unrounded'}",
        goal=attack.goal,
        queries=min(config.protocol.queries or len(known.data.query), len(known.data.query)),
        victim_seed=config.victim_seed if drawn else None,
        attack_seed=config.seed,
    )
