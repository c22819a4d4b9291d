"""A finished training becomes a checkpoint; a checkpoint meets its data again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from advhash.codes.packed import HashCodes
from advhash.compute.processes import process_count
from advhash.data.dataset import Dataset, SplitName
from advhash.data.readers.shared import SIZES
from advhash.errors import RefusedError, UsageError
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.worth import code_figures, victim_flags, victim_metrics
from advhash.measures.sanity import Flag, check_pictures
from advhash.registry import VICTIMS, data_called
from advhash.storage.checkpoint import read_card, save_victim
from advhash.storage.files import write_text
from advhash.storage.model_card import PAGE, model_card
from advhash.storage.run_folder import environment
from advhash.victims.base import HashVictim
from advhash.victims.training.acceleration import precision
from advhash.victims.training.state import TrainingState

_SPLITS: tuple[SplitName, ...] = ("train", "database", "validation", "query")
_NOTES = ("source", "licence", "attribution")  # of a data set's card, kept in the victim's


def store_victim(
    folder: Path,
    victim: HashVictim,
    data: Dataset,
    *,
    name: str,
    settings: Mapping[str, Any],
    seed: int,
    state: TrainingState,
    seconds: float,
    **more: Any,
) -> dict[str, HashCodes]:
    """Weights, card and page of a finished training. Further keywords go into the card.

    Returns the codes of the database, by direction, so that nobody hashes it again.
    """
    served = victim.served_codes(data)
    flags = victim_flags(victim, data, served) + check_pictures(
        data.pictures, largest=SIZES[1], trained_here=True
    )
    if state.problem:
        flags = [*flags, Flag("training_state", "info", state.problem)]
    metrics = victim_metrics(victim, data, served, derive_seed(seed, "bootstrap"))
    save_victim(
        folder,
        victim,
        name=name,
        settings=settings,
        source=VICTIMS[name].source,
        seed=seed,
        data={
            "name": data.name,
            "settings": dict(data.settings),
            "fingerprint": data.fingerprint(),
            "pictures": data.pictures,
            "rows": {name: len(data.split(name)) for name in _SPLITS},
            **{key: data.card[key] for key in _NOTES if key in data.card},
        },
        codes={name: code_figures(codes) for name, codes in served.items()},
        metrics={name: vars(metric) for name, metric in metrics.items()},
        flags=[vars(flag) for flag in flags],
        seconds=round(seconds, 2),
        processes=process_count(),
        precision=precision(victim.device),
        environment=environment(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        **more,
    )
    write_text(folder / PAGE, model_card(read_card(folder)))
    return served


def _check_data(folder: Path, card: dict[str, Any], data: Dataset) -> None:
    """Other splits of the victim's own data would put training rows among the queries."""
    stored = card.get("data")
    known = stored if isinstance(stored, dict) else {}
    if known.get("fingerprint") == data.fingerprint():
        return
    trained_on = data_called(str(known.get("name", "unknown data")), known.get("settings") or {})
    place = (known.get("settings") or {}).get("root")
    if (known.get("name"), place) == (data.name, data.settings.get("root")):
        raise UsageError(
            f"checkpoint {folder} was trained on {trained_on} with settings "
            f"{known.get('settings')}: other ones would put training rows among the queries; "
            "train a new victim, or attack it on another data set"
        )
    flag = Flag(
        "foreign_data",
        "warning",
        f"The victim was trained on {trained_on}, not on "
        f"{'other data of that name' if trained_on == data.called else data.called}: "
        "the database is hashed anew, and whether training rows are among the queries is unknown.",
    )
    # what was trained at one size takes no other, see `fit_data`
    fixed = "image_size" in card["settings"]
    sizes = [] if fixed else check_pictures(data.pictures, largest=SIZES[1])
    card["flags"] = [vars(raised) for raised in (flag, *sizes)]


def fit_data(folder: Path, victim: HashVictim, card: dict[str, Any], data: Dataset) -> Dataset:
    """The data as a stored victim sees them; foreign ones are flagged in its card.

    Raises UsageError: other splits of the victim's own data, or data of another shape.
    """
    data = victim.view(data, card["settings"])
    _check_data(folder, card, data)
    expected = victim.data_arguments(data)
    card_settings = {key: card["settings"].get(key) for key in expected}
    shapes = {
        key: value
        for key, value in expected.items()
        if isinstance(value, int | str) and key != "database_rows" and card_settings[key] != value
    }
    if shapes:
        key, value = next(iter(shapes.items()))
        raise UsageError(
            f"data set {data.name!r} does not fit checkpoint {folder}: expected {key} "
            f"{card_settings[key]}, got {value}"
        )
    return data


def check_converged(name: str, victim: HashVictim) -> None:
    """Raise RefusedError where the training left numbers that are none."""
    figures = [value for row in victim.history for value in row.values() if value != value]
    weights = all(bool(value.isfinite().all()) for value in victim.parameters())
    if figures or not weights:
        raise RefusedError(
            f"the training of {name} diverged (NaN): expected finite losses and weights; "
            "lower victim.learning_rate"
        )
