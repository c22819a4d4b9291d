"""`advhash list`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from advhash.cli.options import Json
from advhash.cli.terminal import tell
from advhash.errors import UnknownName
from advhash.storage.places import GET_ZOO

FOLDERS = {  # of victims → what they hash
    "image": "of pictures",
    "cross_modal": "of pictures and texts",
    "encoders": "of pictures or texts, with an encoder of somebody else",
    "perceptual": "of pictures that nothing was trained for",
    "federated": "of parties that share no data",
    "neural": "whose code is which units fire",
}
KINDS = (
    *("victims", "attacks", "inversions", "datasets", "defenses", "detectors"),
    *("poisonings", "stores", "rescorers", "quantisers", "zoo"),
)


def list_entries(
    kind: Annotated[str | None, typer.Argument(help=f"One of {', '.join(KINDS)}.")] = None,
    as_json: Json = False,
) -> None:
    """Victims, attacks, data sets, defences, detectors and stores, grouped by data and goal."""
    from advhash import registry
    from advhash.cli.console import print_entries, print_json

    if kind is not None and kind not in KINDS:
        raise UnknownName("kind", kind, KINDS)
    list(registry.ZOO.brought())  # a package of checkpoints imports nothing heavy
    rows = [
        {"kind": table.removesuffix("s"), **vars(row)}
        for table in ([kind] if kind else KINDS)
        for row in getattr(registry, table.upper()).rows()
    ]
    if as_json:
        print_json({"schema": "advhash/list/1", "entries": rows})
        return
    headings = {table.removesuffix("s"): table for table in KINDS}
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for row in rows:
        entry = (row["name"], row["summary"], row["source"])
        groups.setdefault(headings[row["kind"]] + _of(row), []).append(entry)
    if groups:
        print_entries(groups)
    if kind in (None, "zoo") and not registry.ZOO.names():
        tell(f"zoo: no trained victims are installed; {GET_ZOO}")


def _of(row: Mapping[str, Any]) -> str:
    """What victims hash; what attacks change, and their goal. Empty for all else."""
    from advhash.registry import ATTACKS, VICTIMS

    if row["presets"] is None:
        return " of installed packages"
    if row["kind"] == "attack":
        method = ATTACKS.describe(row["name"])
        changed = {"image": "pictures", "text": "texts"}
        on = " and ".join(changed[name] for name in method.fact("modalities"))
        return f" on {on}, {method.fact('goal')}"
    if row["kind"] == "victim":
        module = VICTIMS.describe(row["name"]).module
        return next(
            (f" {hash_}" for folder, hash_ in FOLDERS.items() if f".{folder}." in module), ""
        )
    return ""
