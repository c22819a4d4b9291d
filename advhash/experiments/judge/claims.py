"""What an adversarial set claims of itself: figures, targets, codes, in a JSON or CSV file.

    claims.json   {"name": …, "figures": {"tmap": 0.95}, "targets": {ID: CLASS or [CLASS, …]}}
    claims.csv    columns id, target, code, and figures of each picture, whose mean is the claim

Codes are not read: every picture is hashed anew. A claim stands for what rounds to the digits that
it is written with.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from advhash.data.dataset import Dataset
from advhash.errors import DataError, nearest
from advhash.experiments.judge.pictures import ForeignPictures, bare, shown
from advhash.shared_labels import (
    Labels,
    are_groups,
    label_counts,
    label_numbers,
    label_sets,
)
from advhash.storage.documents import read_json, read_text, reason
from advhash.storage.places import user_path

NAMES = ("claims.json", "claims.csv")
KEYS = ("name", "figures", "targets", "codes")
CODE = ("code", "codes")
FINEST = 300  # digits behind the point that a float tells from none


@dataclass(frozen=True)
class Stated:
    """A figure as it is claimed.

    rounding: how far what was rounded may lie from it: half of its last digit
    """

    value: float
    rounding: float

    @classmethod
    def read(cls, text: str) -> Stated:
        """The figure of a text. Raises ValueError: none, or none that is finite.

        >>> Stated.read("37.1")
        Stated(value=37.1, rounding=0.05)
        """
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"expected a finite number, got {text}")
        mantissa, _, exponent = text.strip().lower().partition("e")
        digits = len(mantissa.partition(".")[2]) - int(exponent or 0)  # behind the point
        return cls(value, 0.5 * 10.0 ** -min(max(digits, 0), FINEST))


@dataclass(frozen=True)
class Claims:
    """What is claimed of a set.

    figures: name → what is claimed of the mean over all pictures
    targets: id → names of classes, or of the picture to be taken for
    codes:   whether codes are claimed
    ids:     the pictures whose mean the figures are; None: the whole set
    """

    name: str = ""
    figures: Mapping[str, Stated] = field(default_factory=dict)
    targets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    codes: bool = False
    ids: tuple[str, ...] | None = None


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
    _expect_once(map(str, targets))
    values = {name: Stated.read(repr(item)) for name, item in figures.items()}
    return Claims(str(body.get("name", "")), values, listed, "codes" in body)


def _expect_once(names: Iterable[str]) -> None:
    double = [name for name, count in Counter(map(bare, names)).items() if count > 1]
    if double:
        raise ValueError(f"more than one entry for {shown(double)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _table(file: Path) -> Claims:
    rows = list(csv.DictReader(io.StringIO(read_text(file).removeprefix("\ufeff"))))
    heads = [name for name in (rows[0] if rows else {}) if name]
    if "id" not in heads:
        raise ValueError(f"the columns {', '.join(heads) or 'none'}")
    if not all(row["id"] for row in rows):
        raise ValueError("a row without an id")
    _expect_once(row["id"] for row in rows)
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
            stated = [Stated.read(row[name]) for row in rows]
        except (TypeError, ValueError):
            raise ValueError(f"no finite number in every row of {name!r}") from None
        value = float(np.mean([item.value for item in stated]))
        figures[name] = Stated(value, float(np.mean([item.rounding for item in stated])))
    ids = tuple(bare(row["id"]) for row in rows)
    return Claims("", figures, targets, bool(set(CODE) & set(heads)), ids)


def expect_same_pictures(claims: Claims, foreign: ForeignPictures) -> None:
    """Raise DataError where claimed figures are means over other pictures than those of the set."""
    if not claims.figures or claims.ids is None:
        return
    more = [name for name in claims.ids if name not in set(foreign.ids)]
    fewer = [name for name in foreign.ids if name not in set(claims.ids)]
    if more or fewer:
        parts = [
            f"{len(names)} {what}: {shown(names)}"
            for names, what in ((more, "rows of others"), (fewer, "pictures without a row"))
            if names
        ]
        raise DataError(
            f"expected figures of the {len(foreign.ids)} pictures of the set, as their mean is the "
            f"claim, got {' and '.join(parts)}; keep one row for each picture"
        )


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
    sets = label_sets(data.database.labels.numpy())[0]
    groups = are_groups(sets)
    called = [bare(name) for name in data.database.names] if groups else data.classes
    places = {name: place for place, name in enumerate(called)}
    targets = np.zeros((len(foreign.ids), sets.shape[1]), sets.dtype)
    for at, name in enumerate(foreign.ids):
        aims = [bare(aim) for aim in known[name]] if groups else known[name]
        _expect_target(name, aims, places, data, groups=groups)
        if groups:
            row = data.database.labels[places[aims[0]]][None].numpy()
            held = label_sets(row)[0]  # in the order of those of the database
            targets[at] = held[0] if len(held) else row[0]
        else:
            targets[at, [places[aim] for aim in aims]] = 1
    _expect_ceilings(foreign.ids, targets, sets, data)
    return targets


def _expect_target(
    name: str, aims: Sequence[str], places: Mapping[str, int], data: Dataset, *, groups: bool
) -> None:
    """Raise DataError for a target without a class or with an unknown one; pictures: just one."""
    what = "the name of a picture in the database" if groups else "a class"
    if not aims or (groups and len(aims) > 1):
        raise DataError(
            f"target of {name!r}: expected {what} of {data.name}, got "
            f"{f'{len(aims)} of them: {shown(aims)}' if aims else 'none'}"
        )
    for aim in aims:
        if aim not in places:
            raise DataError(
                f"target of {name!r}: expected {what} of {data.name}, got {aim!r}: "
                f"{nearest(aim, list(places))}".rstrip(": ")
            )


def _expect_ceilings(names: Sequence[str], targets: Labels, sets: Labels, data: Dataset) -> None:
    """Raise DataError for the first target whose labels no row of the database has exactly.

    The ceiling of t-MAP is known for the label sets of the database and for no others.
    """
    offered = {row.tobytes() for row in sets}
    for name, target in zip(names, targets, strict=True):
        if target.tobytes() in offered:
            continue
        if are_groups(sets):
            raise DataError(
                f"target of {name!r}: expected a picture of {data.name} with a label, got one "
                "without any"
            )
        score = (sets.astype(int) @ target) * (len(target) + 1) - label_counts(sets).astype(int)
        raise DataError(
            f"target of {name!r}: expected the classes of some row in the database of "
            f"{data.name}, all of them and no other, got {_classes(target, data)}; the nearest row "
            f"has {_classes(sets[score.argmax()], data)}"
        )


def _classes(labels: npt.NDArray[np.integer[Any]], data: Dataset) -> str:
    return ", ".join(repr(data.classes[number]) for number in label_numbers(labels))
