"""Trains and measures the victims of `victims.toml`, each into a folder of the package beside it.

    python zoo/make.py [NAME …] [--out FOLDER]

A folder is written whole or not at all, and one of the same recipe is kept: the same command goes
on where it was stopped. One thread gives the same weights on every machine with the same packages.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import advhash as ah
from advhash.errors import UnknownName
from advhash.experiments.config import TrainConfig
from advhash.experiments.detect.config import DetectConfig
from advhash.experiments.detect.run import Detection
from advhash.experiments.experiment import run
from advhash.experiments.prepare.hardened import prepare
from advhash.experiments.prepare.trained import Trained, export_checkpoint
from advhash.storage.checkpoint import CARD, read_card
from advhash.storage.files import partial_folder, write_json, write_text
from advhash.storage.model_card import PAGE, model_card

HERE = Path(__file__).parent
QUERIES = 60
OF_DETECTION = ("detected", "false_alarms", "success_adaptive", "accepted_adaptive")


def recipes() -> dict[str, dict[str, Any]]:
    """What is made, by name."""
    return tomllib.loads((HERE / "victims.toml").read_text("utf-8"))


def make(name: str, recipe: Mapping[str, Any], out: Path) -> Path:
    """The folder of one victim: weights, card and page, with its robustness on the card."""
    folder = out / name
    if (folder / CARD).is_file() and read_card(folder).get("recipe") == recipe:
        return folder
    tables = {key: recipe[key] for key in ("victim", "dataset", "defense") if key in recipe}
    trained = prepare(TrainConfig.build(tables))
    with partial_folder(folder) as partial:
        place = export_checkpoint(trained, partial / "checkpoint")
        card = read_card(place)
        figures = list(robustness(trained, recipe, partial))
        card |= {"commit": commit(), "recipe": recipe, "robustness": figures}
        write_json(place / CARD, card)
        write_text(place / PAGE, model_card(card, name))
        if folder.is_dir():  # of another recipe
            folder.rename(partial / "before")
        place.rename(folder)
    return folder


def commit() -> str:
    """The commit that is checked out, and whether files differ from it."""
    said = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(said, capture_output=True, text=True, check=True).stdout.strip()


def robustness(trained: Trained, recipe: Mapping[str, Any], place: Path) -> Iterator[Any]:
    """What each attack does to a victim, as the card states it."""
    for asked in recipe.get("attacks", []):
        result = ah.attack(trained, protocol={"queries": QUERIES}, **asked)
        assert result.record is not None
        led = result.record.headline()
        figures = {key: asdict(value) for key in led.figures if (value := result.metrics.get(key))}
        yield {"attack": asked["method"], "budget": result.record.budget.text, "metrics": figures}
    if "detect" in recipe:
        asked = recipe["detect"]
        config = DetectConfig.build(
            {
                **{key: recipe[key] for key in ("victim", "dataset")},
                "detector": {"name": asked["detector"]},
                "adaptive": {"steps": asked["steps"]},
                "queries": QUERIES,
            }
        )
        record = run(Detection(), config, place / "detection.json")
        measured = {name: record.metrics.get(name) for name in OF_DETECTION}
        figures = {name: asdict(metric) for name, metric in measured.items() if metric}
        yield {
            "attack": f"{asked['detector']}, evaded",
            "budget": record.budget,
            "metrics": figures,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=Path, default=HERE / "advhash_zoo")
    given, known = parser.parse_args(), recipes()
    for name in given.names or known:
        if name not in known:
            raise UnknownName("victim of the zoo", name, known)
        folder = make(name, known[name], given.out)
        size = sum(file.stat().st_size for file in folder.iterdir())
        card = json.loads((folder / CARD).read_text("utf-8"))
        print(f"{name}: {size / 1e6:.2f} MB, {card['seconds']} s of training", flush=True)


if __name__ == "__main__":
    main()
