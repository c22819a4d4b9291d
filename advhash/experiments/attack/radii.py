"""Several budgets in one command: sibling runs that share victim, queries and targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advhash.budget import Budget, parse_eps
from advhash.data.dataset import Progress, silent
from advhash.errors import ConfigError, RunError
from advhash.experiments.attack.run import attack, attack_plan
from advhash.experiments.config import AttackConfig, BudgetConfig
from advhash.reports.page.render import render
from advhash.reports.record import Record
from advhash.storage.run_folder import new_run_id

__all__ = ["Siblings", "attack_budgets", "budgets_plan", "split_eps"]


@dataclass(frozen=True)
class Siblings:
    """Finished runs that differ in ε alone, in the order of ε, and the page over all of them."""

    records: Sequence[Record]
    folder: Path

    def document(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "schema": "advhash/attacks/1",
            "command": "attack",
            "report": str(self.folder / "report.html"),
            "runs": [record.document() for record in self.records],
        }


def split_eps(text: str | None) -> list[str]:
    """The parts of `--eps`: none, one, or several that differ, in ascending order.

    >>> split_eps("8/255, 2/255")
    ['2/255', '8/255']

    Raises ConfigError: an empty part, one twice, `none` among others.
    """
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    values = [parse_eps(part) for part in parts]
    if len(parts) > 1 and (len(set(values)) < len(values) or math.inf in values):
        raise ConfigError(f"--eps: expected different radii without none, got {text!r}")
    return [part for _, part in sorted(zip(values, parts, strict=True))]


def attack_budgets(
    config: AttackConfig, eps: Sequence[str], out: Path | None, progress: Progress = silent
) -> Siblings:
    """Attack under each ε: `out`/eps-<ε>/ is a run of its own, `out`/report.html shows all.

    The victim is trained once. What was finished before an interruption stays where it is.

    Raises AdvhashError.
    """
    name = f"{Path(config.victim.name).name}-{config.attack.name}-budgets".replace(":", ".")
    folder = (out or Path("runs") / new_run_id(name)).absolute()
    if folder.exists():
        raise RunError(f"expected a new folder, got {folder}, which exists: choose another --out")
    siblings = [_sibling(config, part) for part in eps]
    for sibling in siblings:
        sibling.budget.resolve(Budget("none", math.inf))  # refuse a wrong one before any run
    records, runs = [], []
    for part, sibling in zip(eps, siblings, strict=True):
        run = folder / f"eps-{part.replace('/', '_')}"
        records.append(attack(sibling, run, progress))
        runs.append(run)
    render(runs, folder / "report.html")
    return Siblings(records, folder)


def budgets_plan(config: AttackConfig, eps: Sequence[str]) -> dict[str, Any]:
    """What `--dry-run` prints: the plan of one run, with every budget."""
    plans = [attack_plan(_sibling(config, part)) for part in eps]
    return {**plans[0], "budget": [plan["budget"] for plan in plans]}


def _sibling(config: AttackConfig, eps: str) -> AttackConfig:
    budget = BudgetConfig.build({**config.budget.model_dump(), "eps": eps})
    return config.model_copy(update={"budget": budget}).trusting(config.trust_code)
