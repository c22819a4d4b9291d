"""Checkpoints: `model.safetensors` and `card.json` in one folder. Never a pickle.

The card names the victim, its settings, its defences, its data and the SHA-256 of the weights.
Loading builds the victim from the registry, compares names, shapes and types of all tensors with
what that victim has, and only then reads them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from advhash import __version__
from advhash.errors import AdvhashError, CheckpointError
from advhash.registry import DEFENSES, VICTIMS
from advhash.storage.files import sha256, storage_errors, write_text

if TYPE_CHECKING:
    from advhash.victims.base import HashVictim

SCHEMA = "advhash/victim/1"
CARD, WEIGHTS = "card.json", "model.safetensors"
DIGEST = "sha256 of the tensors"
_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".npy", ".joblib")
_MAX_CARD = 16 * 2**20


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, signed: bool = False) -> None:
    """Save tensors as safetensors; `signed`: their digest in its metadata. Raises StorageError."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {DIGEST: tensors_digest(plain)} if signed else None
    with storage_errors(path):
        try:
            path.write_bytes(safetensors.torch.save(plain, metadata))
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def read_tensors(path: Path, *, signed: bool = False) -> dict[str, Tensor]:
    """Load safetensors. Raises CheckpointError where the file is missing or damaged.

    signed: also where the values are not those that `write_tensors` wrote
    """
    try:
        with safetensors.safe_open(path, framework="pt") as stored:
            digest = (stored.metadata() or {}).get(DIGEST)
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"expected safetensors in {path}, got {_line(error)}") from None
    if signed and digest != tensors_digest(tensors):
        raise CheckpointError(f"the stored values of {path} are not those that were written")
    return tensors


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_victim(
    folder: Path, victim: HashVictim, *, name: str, settings: Mapping[str, Any], **card: Any
) -> None:
    """Write weights and card into an existing folder. Further keywords go into the card."""
    write_tensors(folder / WEIGHTS, victim.state_dict())
    body = {
        "schema": SCHEMA,
        "name": name,
        "settings": dict(settings),
        "bits": victim.bits,
        "modalities": sorted(victim.bounds),
        "version": __version__,
        "files": {WEIGHTS: sha256(folder / WEIGHTS)},
        "history": victim.history,
        **card,
    }
    write_text(folder / CARD, json.dumps(body, indent=1, allow_nan=False, ensure_ascii=False))


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a checkpoint folder. Raises CheckpointError with what to do instead."""
    if folder.suffix.lower() in _PICKLES:
        raise CheckpointError(
            f"expected a checkpoint folder ({WEIGHTS} and {CARD}), got {folder}: pickled models "
            "are refused since they can run code; train with `advhash train` or convert the "
            "weights to safetensors"
        )
    if not folder.exists():
        raise CheckpointError(f"expected a checkpoint folder, got {folder}: no such folder")
    if not folder.is_dir():
        raise CheckpointError(f"expected a checkpoint folder, got {folder}: a file")
    file = folder / CARD
    if not file.is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in _PICKLES)
        held = f"pickles ({', '.join(pickles[:3])}), which are refused" if pickles else "none"
        raise CheckpointError(f"expected {CARD} in checkpoint {folder}, got {held}")
    try:
        if file.stat().st_size > _MAX_CARD:
            raise ValueError(f"a file above {_MAX_CARD} bytes")
        card = json.loads(file.read_text("utf-8"))
        if not isinstance(card, dict) or card.get("schema") != SCHEMA:
            schema = card.get("schema") if isinstance(card, dict) else type(card).__name__
            raise ValueError(f"schema {schema!r}, not {SCHEMA!r}")
        for key, kind in (("name", str), ("settings", dict), ("files", dict)):
            if not isinstance(card.get(key), kind):
                raise ValueError(f"no {kind.__name__} under {key!r}")
        _check_notes(card)
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"expected a victim card in {file}, got {_line(error)}") from None
    return dict(card)


def _check_notes(card: Mapping[str, Any]) -> None:
    """Raise ValueError where history, flags or data are not as `save_victim` writes them."""
    rows = card.get("history", [])
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and all(isinstance(v, str | int | float) for v in row.values())
        for row in rows
    ):
        raise ValueError("no list of flat rows under 'history'")
    flags = card.get("flags", [])
    levels = {"info", "warning", "error"}
    if not isinstance(flags, list) or not all(
        isinstance(flag, dict)
        and set(flag) == {"name", "level", "message"}
        and flag["level"] in levels
        for flag in flags
    ):
        raise ValueError("no list of flags under 'flags'")
    defenses = card.get("defenses", [])
    if not isinstance(defenses, list) or not all(
        isinstance(defense, dict)
        and isinstance(defense.get("name"), str)
        and isinstance(defense.get("settings"), dict)
        for defense in defenses
    ):
        raise ValueError("no list of defences under 'defenses'")
    data = card.get("data")
    if data is not None and not (
        isinstance(data, dict)
        and isinstance(data.get("name"), str)
        and isinstance(data.get("settings"), dict)
    ):
        raise ValueError("no data set under 'data'")


def load_victim(folder: Path) -> tuple[HashVictim, dict[str, Any]]:
    """Registry + weights, strict. Returns the victim (eval mode, on the CPU) and its card.

    Raises CheckpointError: missing, truncated, altered or foreign files.
    """
    card = read_card(folder)
    settings = dict(card["settings"])
    if "pretrained" in settings:  # the weights are here: fetch none
        settings["pretrained"] = False
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise CheckpointError(f"expected {WEIGHTS} in checkpoint {folder}, got none")
    if sha256(weights) != card["files"].get(WEIGHTS):
        raise CheckpointError(
            f"expected {weights} with the SHA-256 of its card, got another one: truncated or "
            "altered; copy the checkpoint again or train it anew"
        )
    try:
        with torch.random.fork_rng(devices=[]):  # the random weights are overwritten below
            victim: HashVictim = VICTIMS.create(card["name"], settings)
            for applied in card.get("defenses", []):
                defense = DEFENSES.create(applied["name"], applied["settings"])
                if hasattr(defense, "wrap"):  # it trained nothing: it stands around the victim
                    victim = defense.wrap(victim)
    except AdvhashError as error:
        raise CheckpointError(f"checkpoint {folder} does not fit this advhash: {error}") from None
    except (RuntimeError, TypeError) as error:  # torch refuses the sizes that the card asks for
        raise CheckpointError(
            f"checkpoint {folder} does not fit this advhash: {_line(error)}"
        ) from None
    wanted = victim.state_dict()
    try:
        with safetensors.safe_open(weights, framework="pt") as stored:
            shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"expected safetensors in {weights}, got {_line(error)}") from None
    expected = {name: tuple(value.shape) for name, value in wanted.items()}
    if shapes != expected:
        odd = sorted(
            name for name in {*shapes, *expected} if shapes.get(name) != expected.get(name)
        )
        raise CheckpointError(
            f"{weights} does not fit victim {card['name']!r}: {len(odd)} tensors differ, first "
            f"{odd[0]!r}: expected {expected.get(odd[0], 'none')}, got {shapes.get(odd[0], 'none')}"
        )
    tensors = read_tensors(weights)
    kinds = [name for name, value in tensors.items() if value.dtype != wanted[name].dtype]
    if kinds:
        raise CheckpointError(f"{weights}: expected {wanted[kinds[0]].dtype} in {kinds[0]!r}")
    floats = (value for value in tensors.values() if value.is_floating_point())
    if not all(bool(torch.isfinite(value).all()) for value in floats):
        raise CheckpointError(f"{weights}: expected finite weights, got NaN or infinity")
    victim.load_state_dict(tensors, strict=True)
    history = card.get("history", [])
    victim.history = history if isinstance(history, list) else []
    return victim.eval(), card


def _line(error: Exception) -> str:
    """The first line of an error's text, shortened."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
