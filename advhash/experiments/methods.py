"""What a config names, checked against the registries: nothing is imported to refuse it.

The plan of a run checks again, with the methods themselves and their data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from advhash.budget import Budget, Norm
from advhash.errors import UnknownName
from advhash.experiments.attack.radii import split_eps
from advhash.experiments.config import (
    AttackConfig,
    BudgetConfig,
    DatasetConfig,
    MethodConfig,
    Run,
    Table,
    VictimConfig,
)
from advhash.experiments.transfer.config import LabelledVictim
from advhash.registry import ATTACKS, DATASETS, DEFENSES, VICTIMS, Registry, is_external, is_zoo
from advhash.storage.places import checkpoint_folder

STAND_INS = ("none", "all")  # no defence, in a list of them; every detector


def check_methods(config: Run) -> None:
    """Refuse names and settings that no method has, and radii that are none.

    A checkpoint, a function of the user and data at a path pass: what they are is seen later. One
    that the zoo lacks does not.

    Raises UnknownName, ConfigError, UsageError.
    """
    _check(config, config.registries, several=isinstance(config, AttackConfig))


def _check(
    table: Table, registries: Mapping[str, Registry[Any]], *, several: bool, above: str = ""
) -> None:
    """The tables of a table. several: whether `eps` may hold several radii; above: its name."""
    tables = list(_tables(table))
    for name, inner in tables:
        if isinstance(inner, VictimConfig):
            _check_victim(inner, above + name)
        elif isinstance(inner, MethodConfig):
            if name in registries:
                _check_method(inner, registries[name], above + name, partly=name == "rival")
        elif isinstance(inner, DatasetConfig):
            victims = [victim for _, victim in tables if isinstance(victim, VictimConfig)]
            _check_dataset(inner, above + name, victims)
        elif not isinstance(inner, BudgetConfig):
            whole = f"{name}." if name in type(table).model_fields else ""
            _check(inner, registries, several=False, above=whole)
    if registries.get("attack") is not ATTACKS:  # no input is moved: the plan refuses any budget
        return
    words = any(_moves_words(inner) for name, inner in tables if name == "attack")
    for name, inner in tables:
        if isinstance(inner, BudgetConfig):
            _check_budget(inner, "l0" if words and name == "budget" else "linf", several=several)


def _tables(table: Table) -> Iterator[tuple[str, Table]]:
    """The tables in a table by their names, those of a list in the singular."""
    for name in type(table).model_fields:
        value = getattr(table, name)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Table):
                yield name.removesuffix("s") if item is not value else name, item


def _check_method(
    table: MethodConfig, registry: Registry[Any], called: str, *, partly: bool = False
) -> None:
    """called: the table; partly: whether further settings come from the data."""
    if table.name not in STAND_INS:
        known = registry.describe(table.name)
        known.check(registry.kind, table.settings, partly=partly, table=called)


def _check_victim(table: VictimConfig, called: str) -> None:
    if is_zoo(table.name):
        checkpoint_folder(table.name)
    if is_external(table.name) or VICTIMS.is_place(table.name):
        return
    given = table.settings
    if isinstance(table, LabelledVictim):
        budget, defense = given.pop("defense_budget", {}), given.pop("defense", None)
        _check_budget(BudgetConfig.build(budget), "linf", several=False)
        if defense is not None:
            named = {"name": defense} if isinstance(defense, str) else defense
            _check_method(MethodConfig.build(named), DEFENSES, "defense")
    try:
        described = VICTIMS.describe(table.name)
    except UnknownName as error:
        error.args = (
            f"{error}; or the path of a checkpoint folder (no folder {table.name!r} is here), "
            "zoo:NAME, module:function",
        )
        raise
    described.check(VICTIMS.kind, given, partly=True, table=called)


def _check_dataset(table: DatasetConfig, called: str, victims: Sequence[VictimConfig]) -> None:
    """victims: where all have the same default data set, a table without a name means that one."""
    defaults = {
        VICTIMS.describe(victim.name).fact("default_dataset")
        for victim in victims
        if victim.name in VICTIMS
    }
    name = table.name or (defaults.pop() if len(defaults) == 1 else None)
    if name is not None and not DATASETS.is_place(name):
        DATASETS.describe(name).check(DATASETS.kind, table.settings, table=called)


def _moves_words(table: Table) -> bool:
    """Whether a radius without a norm counts words for this attack."""
    return (
        isinstance(table, MethodConfig)
        and table.name in ATTACKS
        and "l0" in ATTACKS.describe(table.name).fact("norms")
    )


def _check_budget(table: BudgetConfig, norm: Norm, *, several: bool) -> None:
    """norm: of a radius without one; several: whether `eps` may hold several radii."""
    radii = split_eps(table.eps) if several and isinstance(table.eps, str) else [table.eps]
    for eps in radii:
        table.model_copy(update={"eps": eps}).resolve(Budget(norm, 1))
