"""Folders of pictures whose classes say nothing: each picture is the only one of its identity.

A threshold on the Hamming distance asks whether two pictures are the same one. A folder of class
folders, or of folders of any depth, is therefore read by `near_duplicates` for a hash that needs no
classes. A data set that is named stays what it is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from PIL import Image

from advhash.attacks.collision import Collision, Evasion
from advhash.data.images.decode import FORMATS, quietly
from advhash.data.load import is_path
from advhash.data.paths import PICTURES, Reads, reader_of
from advhash.data.readers.shared import SIZES
from advhash.errors import CheckpointError, DataError, UnknownName
from advhash.experiments.config import AttackConfig, DatasetConfig, Hardened, VictimConfig
from advhash.registry import ATTACKS, VICTIMS, is_external
from advhash.storage.checkpoint import read_card
from advhash.storage.places import checkpoint_folder, user_path
from advhash.victims.base import HashVictim
from advhash.victims.external import ExternalVictim
from advhash.victims.perceptual.hashes import PerceptualHash

logger = logging.getLogger(__name__)


def victim_kind(victim: VictimConfig) -> type[HashVictim]:
    """The class of a victim, which says what it reads. Raises UnknownName, CheckpointError."""
    if is_external(victim.name):
        return ExternalVictim
    name = victim.name
    if not VICTIMS.is_place(name):
        kind: type[HashVictim] = VICTIMS[name].build  # type: ignore[assignment]
        return kind
    folder = checkpoint_folder(name)
    try:
        kind = VICTIMS[str(read_card(folder)["name"])].build  # type: ignore[assignment]
    except UnknownName as error:
        raise CheckpointError(f"checkpoint {folder} does not fit this advhash: {error}") from None
    return kind


def asks_identities(config: Hardened, threshold: int | None) -> bool:
    """Whether a run asks of two pictures if they are the same one, of a hash without classes.

    It does so where it states a threshold, and where a perceptual hash is evaded or collided with.
    """
    name = config.victim.name
    if VICTIMS.is_place(name) and not is_external(name) and not checkpoint_folder(name).exists():
        return False  # which its reader refuses
    kind = victim_kind(config.victim)
    if kind.reads.classes:
        return False
    if threshold is not None:
        return True
    return (
        isinstance(config, AttackConfig)
        and issubclass(kind, PerceptualHash)
        and ATTACKS[config.attack.name].build in (Collision, Evasion)
    )


def by_identity(
    dataset: DatasetConfig, *, whole: bool = False, size: int | Literal["stored"] | None = None
) -> DatasetConfig:
    """A folder of pictures as near-duplicates, which is logged; any other data set as it is.

    whole: whether all pictures are read, where no setting says how many
    size:  at which they are read, where no setting says it; None: as the reader has it
    """
    if dataset.name is None or not is_path(dataset.name):
        return dataset
    place = user_path(dataset.name).resolve()
    if not place.is_dir() or "root" in dataset.settings:
        return dataset
    try:
        reader = reader_of(place, Reads(classes=False)).reader
    except DataError:
        if next(_pictures(place), None) is None:
            return dataset  # which its reader refuses
        reader = "folder"
    more: dict[str, object] = {} if size is None else {"size": size}
    if whole:
        more["pictures"] = sum(1 for _ in _pictures(place))
    if reader == "near_duplicates":
        return DatasetConfig.build({**more, **dataset.model_dump()})
    if reader != "folder":
        return dataset
    logger.info("%s: pictures, each of its own identity, read by 'near_duplicates'", place)
    return DatasetConfig.build(
        {**more, **dataset.settings, "name": "near_duplicates", "root": str(place)}
    )


def _pictures(folder: Path) -> Iterator[Path]:
    """Pictures of any depth, hidden ones left out."""
    for place, inside, names in os.walk(folder):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(PICTURES) and not name.startswith("."):
                yield Path(place, name)


def size_of_set(place: Path) -> int | Literal["stored"] | None:
    """The size at which the originals of a folder of changed pictures are read.

    The side of its pictures where all are squares of one size that a reader offers, else "stored";
    None where it holds no picture that can be read.
    """
    sizes = set()
    with quietly():
        for file in _pictures(place):
            try:
                with Image.open(file, formats=FORMATS) as opened:
                    sizes.add(opened.size)
            except Exception:  # a broken one is refused with all of the set
                return None
    if not sizes:
        return None
    width, height = next(iter(sizes))
    if len(sizes) == 1 and width == height and SIZES[0] <= width <= SIZES[1]:
        return width
    return "stored"
