"""From the file of a suite to its cells: every attack of every grid with all its seeds.

A cell is one attack run. Its key names everything that determines its figures, so that a cell is
computed once, whichever suite it stands in.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from advhash.attacks.base import Attack
from advhash.errors import ConfigError, UnknownName, UsageError
from advhash.experiments.attack.run import (
    AttackCell,
    PlannedAttack,
    Served,
    cell_identity,
    planned_cell,
)
from advhash.experiments.benchmark.config import GridConfig, SuiteConfig
from advhash.experiments.benchmark.searches import PlannedSearches, plan_searches
from advhash.experiments.config import AttackConfig, BudgetConfig
from advhash.experiments.config_text import method_label
from advhash.experiments.experiment import Part
from advhash.experiments.prepare.hardened import DEFAULT
from advhash.experiments.prepare.planned import PlannedVictim
from advhash.experiments.prepare.seeds import resolve_device
from advhash.registry import ATTACKS, DEFENSES
from advhash.storage.cache import content_key

UNDEFENDED = "none"
THREADS = 1  # of each process: figures are the same for any executor and number of workers


@dataclass(frozen=True)
class SuiteCell:
    """One attack run, and how tables name what it is made of.

    attack:      what is computed; its figures do not depend on the suite
    data:        the data set with its settings
    dataset:     the same with the settings of the protocol in which cells of the suite differ
    queries:     how many are attacked
    victim_seed: drawn by the suite; None for a victim that no seed determines, or with its own
    """

    key: str
    attack: AttackCell
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

    kind: ClassVar[str] = "attack"

    @property
    def names(self) -> tuple[str, ...]:
        """From the most telling to the least about what it costs."""
        return self.config.attack.name, self.method, self.data, self.victim

    @property
    def amount(self) -> float:
        return self.queries * self.attack.passes

    @property
    def parts(self) -> tuple[str, ...]:
        return self.attack.parts


@dataclass(frozen=True)
class Suite:
    """A suite with its cells, checked. searches: of stores, whose cells come behind the others."""

    config: SuiteConfig
    cells: list[SuiteCell]
    parts: dict[str, Part]
    searches: list[PlannedSearches] = field(default_factory=list)


def plan_suite(config: SuiteConfig) -> Suite:
    """All cells, each checked, before anything is trained.

    Raises UsageError for a cell that cannot be: it names the cell, put it in a grid of its own; and
    for different cells that tables would call the same.
    """
    device = str(resolve_device(config.device))
    config = config.model_copy(update={"device": device})
    cells: dict[str, SuiteCell] = {}
    parts: dict[str, Part] = {}
    for grid in config.grids:
        for cell in _cells(config, grid, parts):
            cells.setdefault(cell.key, cell)
    named = _by_protocol(_by_place(list(cells.values())))
    called: dict[tuple[object, ...], str] = {}
    for cell in named:
        names = (*cell.names[1:], cell.dataset, cell.budget, cell.victim_seed, cell.attack_seed)
        if called.setdefault(names, cell.key) != cell.key:
            raise UsageError(
                f"two different cells are both called {cell.method}, {cell.budget}, on "
                f"{cell.victim}, {cell.dataset}: put them into suites of their own"
            )
    searches = plan_searches(config, device, THREADS, parts)
    return Suite(config, named, parts, searches)


def _by_place(cells: list[SuiteCell]) -> list[SuiteCell]:
    """Folders and files of one name are called with as many folders above as tell them apart."""
    places: dict[str, set[Path]] = {}
    for cell in cells:
        places.setdefault(cell.dataset, set()).add(_place(cell))
    return [
        replace(cell, dataset=f"{_above(_place(cell), places[cell.dataset])}{cell.dataset}")
        for cell in cells
    ]


def _place(cell: SuiteCell) -> Path:
    return Path(str(cell.config.dataset.settings.get("root") or ""))


def _above(place: Path, places: Set[Path]) -> str:
    """The last folders above a place, which no other of its name has: `2024/` of `2024/photos`."""
    others = [other.parent.parts for other in places if other != place]
    own = place.parent.parts
    for count in range(len(own) + 1):
        tail = own[len(own) - count :]
        if all(other[max(len(other) - count, 0) :] != tail for other in others):
            return "".join(f"{folder}/" for folder in tail)
    return ""  # built in, beside a folder of that name


def _by_protocol(cells: list[SuiteCell]) -> list[SuiteCell]:
    """Figures of different protocols are not compared: their data sets are called differently."""
    if not cells:
        return []
    settings = [cell.config.protocol.model_dump(mode="json") for cell in cells]
    apart = [name for name in settings[0] if len({repr(setting[name]) for setting in settings}) > 1]
    return [
        replace(
            cell,
            dataset=", ".join(
                [
                    cell.dataset,
                    *(f"{name}={setting[name]}" for name in apart if setting[name] is not None),
                ]
            ),
        )
        for cell, setting in zip(cells, settings, strict=True)
    ]


def _cells(suite: SuiteConfig, grid: GridConfig, parts: dict[str, Part]) -> Iterator[SuiteCell]:
    hardens = any(defense.name != UNDEFENDED for defense in grid.defenses)
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
            known = PlannedVictim.of(base)
        drawn = known.learns and victim.seed is None
        identity, names = known.identity, (label, known.names[1])
        for attack, budget in product(grid.attacks, grid.budgets or [BudgetConfig()]):
            config = base.model_copy(update={"attack": attack, "budget": budget})
            with _telling(f"{label} on {known.data.called}, {method_label(attack)}", parts=True):
                planned = planned_cell(config, known)
            for victim_seed, seed in product(
                range(suite.victim_seeds if drawn else 1), range(suite.attack_seeds)
            ):
                trained = suite.seed + victim_seed if drawn else None
                yield _cell(
                    config, planned, known, identity, names, trained, suite.seed + seed, parts
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


def _cell(
    config: AttackConfig,
    planned: AttackCell,
    known: PlannedVictim,
    identity: dict[str, Any],
    names: tuple[str, str],
    victim_seed: int | None,
    seed: int,
    parts: dict[str, Part],
) -> SuiteCell:
    """The cell of these seeds; its parts are added to those of the suite.

    names: what tables call the victim, and the data set with its settings
    victim_seed: that is drawn; None for a victim that no seed determines, or with its own
    """
    victim, data = names
    attack: Attack = ATTACKS.create(config.attack.name, config.attack.settings)
    given = {} if victim_seed is None else {"seed": victim_seed}
    seeded, resolved = (
        written.model_copy(update={"seed": seed, "victim": written.victim.model_copy(update=given)})
        for written in (config, planned.config)
    )
    if known.learns:  # the seed of the victim, else that of the run
        identity = {**identity, "seed": seeded.victim_seed}
    key = content_key(cell_identity(resolved, identity, THREADS))
    trained = content_key(identity)
    codes, fit = f"codes {trained}", f"fit {trained} {content_key(_fitting(resolved, attack))}"
    if trained not in parts:
        parts[trained] = (
            known if victim_seed is None and not known.learns else (replace(known, config=seeded))
        )
        parts[codes] = Served(trained)
    parts.setdefault(fit, PlannedAttack(resolved, trained, codes, planned.fitting))
    budget = config.budget.resolve(attack.default_budget)
    return SuiteCell(
        key=key,
        attack=AttackCell(resolved, key, trained, codes, fit),
        config=seeded,
        data=data,
        dataset=data,
        victim=victim,
        method=method_label(config.attack),
        budget=f"{budget}{'' if config.budget.eight_bit else ' unrounded'}",
        goal=attack.goal,
        queries=planned.queries,
        victim_seed=victim_seed,
        attack_seed=seed,
    )


def _fitting(config: AttackConfig, attack: Attack) -> dict[str, Any]:
    """What determines the fitted attack beside the victim."""
    return {
        "attack": config.attack.model_dump(),
        "seed": config.seed,
        "budget": repr(config.budget.resolve(attack.default_budget)),
        "direction": [config.protocol.database, config.protocol.query_modality],
    }
