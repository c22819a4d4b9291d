"""What an adversarial set claims of itself: figures, targets, codes, in a JSON or CSV file.

    claims.json   {"name": …, "figures": {"tmap": 0.95}, "targets": {ID: CLASS or [CLASS, …]}}
    claims.csv    columns id, target, code, and figures of each picture, whose mean is the claim

Codes are not read: every picture is hashed anew.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from advhash.data.dataset import Dataset
from advhash.errors import DataError, nearest
from advhash.experiments.judge.pictures import ForeignPictures, bare, shown
from advhash.shared_labels import Labels, are_groups
from advhash.storage.documents import read_json, read_text, reason
from advhash.storage.places import user_path

NAMES = ("claims.json", "claims.csv")
KEYS = ("name", "figures", "targets", "codes")
CODE = ("code", "codes")


@dataclass(frozen=True)
class Claims:
    """What is claimed of a set.

    figures: name → the value claimed of the mean over all pictures
    targets: id → names of classes, or of the picture to be taken for
    codes:   whether codes are claimed
    """

    name: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    targets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    codes: bool = False


def read_claims(pictures: Path, file: str | None) -> Claims:
    """The claims in a file, or those beside the pictures; none where there is none.

    Raises DataError.
    """
    if file is not None:
        place = user_path(file)
    else:
        beside = [pictures / name for name in NAMES] if pictures.is_dir() else []
        known = [place for place in beside if place.is_file()]
        if not known:
            return Claims()
        place = known[0]
    try:
        claims = _table(place) if place.suffix.lower() == ".csv" else _document(place)
    except (OSError, ValueError) as error:
        raise DataError(
            f"expected claims in {place}, JSON or a CSV with a column id, got {reason(error)}"
        ) from None
    return claims


def _document(file: Path) -> Claims:
    body = read_json(file)
    if not isinstance(body, dict):
        raise ValueError("no JSON object")
    for key in body:
        if key not in KEYS:
            raise ValueError(f"the key {key!r}: {nearest(key, KEYS)}known: {', '.join(KEYS)}")
    figures, targets = body.get("figures", {}), body.get("targets", {})
    if not isinstance(figures, dict) or not all(_is_number(item) for item in figures.values()):
        raise ValueError("figures that are not numbers by their names")
    if not isinstance(targets, dict):
        raise ValueError("targets that are not given by ids")
    listed = {
        bare(str(name)): tuple(map(str, aim if isinstance(aim, list) else [aim]))
        for name, aim in targets.items()
    }
    values = {name: float(item) for name, item in figures.items()}
    return Claims(str(body.get("name", "")), values, listed, "codes" in body)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _table(file: Path) -> Claims:
    rows = list(csv.DictReader(io.StringIO(read_text(file).removeprefix("\ufeff"))))
    heads = [name for name in (rows[0] if rows else {}) if name]
    if "id" not in heads:
        raise ValueError(f"the columns {', '.join(heads) or 'none'}")
    targets = {
        bare(row["id"]): tuple(part.strip() for part in row["target"].split(";"))
        for row in rows
        if row.get("target")
    }
    figures = {}
    for name in heads:
        if name in ("id", "target", *CODE):
            continue
        try:
            figures[name] = float(np.mean([float(row[name]) for row in rows]))
        except (TypeError, ValueError):
            raise ValueError(f"no number in every row of {name!r}") from None
    return Claims("", figures, targets, bool(set(CODE) & set(heads)))


def targets_of(claims: Claims, foreign: ForeignPictures, data: Dataset) -> Labels | None:
    """(N,C) or (N,L) labels of the target of each picture; None where none is claimed.

    Raises DataError: a target that is no class and no picture, or pictures without one.
    """
    known: Mapping[str, Sequence[str]] = claims.targets
    if not known and foreign.targets is not None:
        known = {name: (aim,) for name, aim in zip(foreign.ids, foreign.targets, strict=True)}
    if not known:
        return None
    without = [name for name in foreign.ids if name not in known]
    if without:
        raise DataError(
            f"expected the target of each picture, as some have one, got {len(without)} without: "
            f"{shown(without)}"
        )
    labels = data.database.labels
    groups = are_groups(labels)
    rows = {bare(name): row for row, name in enumerate(data.database.names)} if groups else {}
    targets = np.zeros((len(foreign.ids), labels.shape[1]), labels.numpy().dtype)
    for place, name in enumerate(foreign.ids):
        for aim in known[name]:
            if groups and bare(aim) in rows:
                targets[place] = labels[rows[bare(aim)]].numpy()
            elif not groups and aim in data.classes:
                targets[place, data.classes.index(aim)] = 1
            else:
                what = "the name of a picture in the database" if groups else "a class"
                names = list(rows) if groups else list(data.classes)
                raise DataError(
                    f"target of {name!r}: expected {what} of {data.name}, got {aim!r}: "
                    f"{nearest(aim, names)}".rstrip(": ")
                )
    return targets
