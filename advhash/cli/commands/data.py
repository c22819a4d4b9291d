"""`advhash data list` and `advhash data show`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from advhash.cli.commands.list import list_entries
from advhash.cli.options import (
    Json,
    Settings,
    complete_datasets,
    tables,
)
from advhash.cli.terminal import tell
from advhash.errors import ConfigError

data_app = typer.Typer(help="Look at the data sets.", no_args_is_help=True)


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """The data sets that can be used without downloading anything."""
    list_entries("datasets", as_json)


@data_app.command("show")
def data_show(
    name: Annotated[str, typer.Argument(autocompletion=complete_datasets)],
    image_grid: Annotated[
        Path | None, typer.Option("--image-grid", help="Write a PNG of samples to this file.")
    ] = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """The card of a data set: counts, labels, chance, licence, warnings."""
    from advhash.registry import DATASETS

    given = tables(settings)
    if set(given) - {"dataset"}:
        raise ConfigError(f"--set: expected dataset.key=value, got {' '.join(settings or [])}")
    if not DATASETS.is_place(name):
        DATASETS.describe(name).check(DATASETS.kind, given.get("dataset", {}))

    from advhash.cli.console import print_json
    from advhash.data.load import load_dataset, save_image_grid

    data = load_dataset(name, given.get("dataset", {}))
    if image_grid is not None:
        save_image_grid(data, image_grid)
    if as_json:
        print_json({"schema": "advhash/dataset/1", "name": data.name, "card": dict(data.card)})
    else:
        print_card(data.called, data.card)


def print_card(name: str, card: Mapping[str, Any]) -> None:
    """A data card, one line an entry, nested entries indented."""
    lines = [name]

    def add(value: Mapping[str, Any], indent: str) -> None:
        for key, item in value.items():
            if isinstance(item, Mapping):
                lines.append(f"{indent}{key}:")
                add(item, indent + "  ")
            elif isinstance(item, list | tuple):
                lines.append(f"{indent}{key}: {', '.join(str(part) for part in item)}")
            else:
                shown = f"{item:.4f}" if isinstance(item, float) else item
                lines.append(f"{indent}{key}: {shown}")

    add(card, "  ")
    for line in lines:
        tell(line)
