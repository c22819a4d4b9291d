"""`advhash list`."""

from __future__ import annotations

from typing import Annotated

import typer

from advhash.cli.options import Json
from advhash.cli.terminal import tell
from advhash.errors import UnknownName
from advhash.storage.places import GET_ZOO

KINDS = (
    *("victims", "attacks", "inversions", "datasets", "defenses", "detectors"),
    *("poisonings", "stores", "rescorers", "quantisers", "zoo"),
)


def list_entries(
    kind: Annotated[str | None, typer.Argument(help=f"One of {', '.join(KINDS)}.")] = None,
    as_json: Json = False,
) -> None:
    """Victims, attacks, data sets, defences, detectors and stores that are registered."""
    from advhash import registry
    from advhash.cli.console import print_json, print_rows

    if kind is not None and kind not in KINDS:
        raise UnknownName("kind", kind, KINDS)
    list(registry.ZOO.brought())  # a package of checkpoints imports nothing heavy
    rows = [
        {
            "kind": table.removesuffix("s"),
            **vars(row),
        }
        for table in ([kind] if kind else KINDS)
        for row in getattr(registry, table.upper()).rows()
    ]
    if as_json:
        print_json({"schema": "advhash/list/1", "entries": rows})
    else:
        if rows:
            print_rows(("kind", "name", "summary", "source"), rows)
        if kind in (None, "zoo") and not registry.ZOO.names():
            tell(f"zoo: no trained victims are installed; {GET_ZOO}")
