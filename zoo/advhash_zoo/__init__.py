"""Trained victims for `--victim zoo:NAME` and `ah.load("zoo:NAME")`: a checkpoint folder each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from advhash.registry import ZOO

HERE = Path(__file__).parent


def _giver(folder: Path, card: Mapping[str, Any]) -> Callable[[], Path]:
    """A function that gives the folder and says what lies there."""

    def give() -> Path:
        return folder

    data = card["data"]
    defenses = "".join(f" + {defense['name']}" for defense in card.get("defenses", []))
    learnt = "trained on" if card["history"] else "which learns nothing, with"
    give.__doc__ = (
        f"{card['name']}{defenses}, {card['bits']} bits, {learnt} {data['name']} "
        f"({data['licence']})."
    )
    return give


for _file in sorted(HERE.glob("*/card.json")):
    _card = json.loads(_file.read_text("utf-8"))
    ZOO.register(_file.parent.name, source=_card["source"])(_giver(_file.parent, _card))
