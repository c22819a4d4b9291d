"""What counts as a hash here: perceptual ones, checkpoints and functions of the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from advhash.codes.packed import HashCodes
from advhash.errors import UsageError, nearest
from advhash.experiments.config import VictimConfig
from advhash.experiments.config_text import method_label, parse_method
from advhash.registry import VICTIMS, is_external
from advhash.storage.checkpoint import load_victim
from advhash.storage.files import sha256
from advhash.storage.places import checkpoint_folder
from advhash.victims.base import HashVictim
from advhash.victims.external import ExternalVictim, import_function, source_file, stated_size
from advhash.victims.perceptual.hashes import PerceptualHash
from advhash.victims.perceptual.resampling import Picture

ALL = ("pdq", "phash", "dhash", "ahash", "whash", "blockhash")
SIDE = 224  # of pictures for a model that says nothing


@dataclass(frozen=True)
class NamedHash:
    """A hash as the user named it.

    label:    what a run calls it
    given:    the text
    identity: what determines its codes
    """

    label: str
    given: str
    identity: str

    def build(self) -> ReadyHash:
        """Load it. Raises AdvhashError."""
        return _built(self.given)


@dataclass(frozen=True)
class ReadyHash:
    """A hash that can be asked.

    side: at which a model is given its pictures, stretched; None: it takes any size
    """

    victim: HashVictim
    side: int | None = None

    @property
    def bits(self) -> int:
        return self.victim.bits

    def code(self, picture: Picture) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        """(ceil(K/8),) the code of a picture, packed, the most significant bit first."""
        if isinstance(self.victim, PerceptualHash):
            return np.packbits(self.victim.bits_of(picture))
        return np.packbits(self.victim.encode(self.tensor(picture.image), "image").unpack()[0])

    def tensor(self, image: Image.Image) -> torch.Tensor:
        """(1,3,H,W) in [0,1], as the hash is given a picture."""
        if self.side is not None:
            image = image.resize((self.side, self.side), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def named_hashes(given: Sequence[str], *, trust_code: bool) -> list[NamedHash]:
    """The hashes that texts name. Raises AdvhashError for what cannot be one."""
    hashes: dict[str, NamedHash] = {}
    for text in given:
        for part in ALL if text == "all" else (text,):
            named = _named(part, trust_code=trust_code)
            hashes.setdefault(named.label, named)
    return list(hashes.values())


def _named(text: str, *, trust_code: bool) -> NamedHash:
    if is_external(text):
        if not trust_code:
            raise UsageError(
                f"{text} is code of yours, which runs with all your rights: add --trust-code"
            )
        victim = _external(text)
        file = source_file(text)
        digest = sha256(file) if file is not None and file.is_file() else ""
        probe = victim.encode(torch.rand(4, 3, SIDE, SIDE, generator=_generator()), "image")
        return NamedHash(text, text, f"{text} {digest} {probe.words.tobytes().hex()}")
    if VICTIMS.is_place(text):
        _, card = load_victim(checkpoint_folder(text))
        return NamedHash(f"{card['name']} ({Path(text).name})", text, str(card["files"]))
    table = VictimConfig.build(parse_method(text))
    build: Any = VICTIMS[table.name].build if table.name in VICTIMS else None
    if build is None or not issubclass(build, PerceptualHash):
        raise UsageError(
            f"--hash {text}: {nearest(table.name, ALL)}expected a hash that needs no training "
            f"({', '.join(ALL)}), a checkpoint folder of `advhash train`, or module:function"
        )
    VICTIMS.create(table.name, table.settings)  # refuses settings
    written = table.written(VICTIMS)
    return NamedHash(method_label(table), text, str(sorted(written.settings.items())))


def _built(text: str) -> ReadyHash:
    if is_external(text):
        victim: HashVictim = _external(text)
        assert isinstance(victim, ExternalVictim)
        return ReadyHash(victim, stated_size(victim.function) or SIDE)
    if VICTIMS.is_place(text):
        victim, card = load_victim(checkpoint_folder(text))
        sizes = (card.get("data") or {}).get("settings") or {}
        side = sizes.get("size") or card.get("image_size") or SIDE
        return ReadyHash(victim, int(side))
    table = VictimConfig.build(parse_method(text))
    return ReadyHash(VICTIMS.create(table.name, table.settings))


def _external(text: str) -> ExternalVictim:
    function = import_function(text)
    side = stated_size(function) or SIDE
    sample = torch.rand(4, 3, side, side, generator=_generator())
    return ExternalVictim(function, name=text, sample=sample)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def unpacked(octets: torch.Tensor, bits: int) -> HashCodes:
    """Codes of (N, ceil(K/8)) packed bytes as `ReadyHash.code` gives them."""
    return HashCodes.pack(np.unpackbits(octets.numpy(), axis=1, count=bits))
