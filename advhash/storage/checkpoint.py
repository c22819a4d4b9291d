"""Checkpoints: `model.safetensors` and `card.json` in one folder. Never a pickle.

The card names the victim, its settings, its defences, its data and the SHA-256 of the weights.
Loading builds the victim from the registry without memory for its tensors, compares the names and
shapes of those in the file with what that victim has, and only then builds it and reads them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook

from advhash import __version__
from advhash.errors import AdvhashError, CheckpointError
from advhash.registry import DEFENSES, VICTIMS
from advhash.storage.card import SCHEMA, check_card
from advhash.storage.documents import expect_file, read_json, reason
from advhash.storage.files import sha256, storage_errors, write_text

if TYPE_CHECKING:
    from advhash.victims.base import HashVictim

CARD, WEIGHTS = "card.json", "model.safetensors"
DIGEST = "sha256 of the tensors"
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".npy", ".joblib")
_MAX_CARD = 16 * 2**20
SPARE_TENSORS = 1000
Shapes = Mapping[str, tuple[int, ...]]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, signature: str = "") -> None:
    """Save tensors as safetensors. Raises StorageError.

    signature: what they are, whose digest together with theirs goes into the metadata
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {DIGEST: tensors_digest(plain, signature)} if signature else None
    with storage_errors(path):
        try:
            path.write_bytes(safetensors.torch.save(plain, metadata))
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def read_tensors(path: Path, *, signature: str = "") -> dict[str, Tensor]:
    """Load safetensors. Raises CheckpointError where the file is missing or damaged.

    signature: also where they are not what `write_tensors` wrote under this signature
    """
    try:
        expect_file(path)
        with safetensors.safe_open(path, framework="pt") as stored:
            digest = (stored.metadata() or {}).get(DIGEST)
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"expected safetensors in {path}, got {reason(error)}") from None
    if signature and digest != tensors_digest(tensors, signature):
        raise CheckpointError(f"the stored values of {path} are not those that were written")
    return tensors


def tensors_digest(tensors: Mapping[str, Tensor], signature: str) -> str:
    """SHA-256 of a signature and of names, types, shapes and values."""
    digest = hashlib.sha256(f"{signature}\n".encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_victim(
    folder: Path, victim: HashVictim, *, name: str, settings: Mapping[str, Any], **card: Any
) -> None:
    """Write weights and card into an existing folder. Further keywords go into the card."""
    _write_weights(folder / WEIGHTS, victim.state_dict())
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


def _write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Save weights without a copy of them in memory. Raises StorageError.

    For a folder that nobody reads yet: what a kill leaves in it has a name of safetensors' own.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with storage_errors(path):
        path.touch()
        mode = path.stat().st_mode  # as the umask has it; safetensors writes for the owner alone
        try:
            safetensors.torch.save_file(plain, path)
        except safetensors.SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        path.chmod(mode)


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a checkpoint folder. Raises CheckpointError with what to do instead."""
    if folder.suffix.lower() in PICKLES:
        raise CheckpointError(
            f"expected a checkpoint folder ({WEIGHTS} and {CARD}), got {folder}: pickled models "
            "are refused since they can run code; `advhash import FILE --as NAME` reads many "
            "without running them, or train with `advhash train`"
        )
    if not folder.exists():
        raise CheckpointError(f"expected a checkpoint folder, got {folder}: no such folder")
    if not folder.is_dir():
        raise CheckpointError(f"expected a checkpoint folder, got {folder}: a file")
    file = folder / CARD
    if not file.is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES)
        refused = "which are refused: try `advhash import FILE --as NAME`"
        held = f"pickles ({', '.join(pickles[:3])}), {refused}" if pickles else "none"
        raise CheckpointError(f"expected {CARD} in checkpoint {folder}, got {held}")
    try:
        return check_card(read_json(file, _MAX_CARD))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"expected a victim card in {file}, got {reason(error)}") from None


def load_victim(folder: Path, *, foreign: bool = True) -> tuple[HashVictim, dict[str, Any]]:
    """Registry + weights, strict. Returns the victim (eval mode, on the CPU) and its card.

    foreign: whether a stranger may have written the card: what it asks for is built on torch's meta
             device first, where tensors have shapes and no values, and takes memory only where the
             file has all its tensors. A folder of the cache, whose digests were checked, is ours.

    Raises CheckpointError: missing, truncated, altered or foreign files.
    """
    card = read_card(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise CheckpointError(f"expected {WEIGHTS} in checkpoint {folder}, got none")
    if sha256(weights) != card["files"].get(WEIGHTS):
        raise CheckpointError(
            f"expected {weights} with the SHA-256 of its card, got another one: truncated or "
            "altered; copy the checkpoint again or train it anew"
        )
    stored = _shapes(weights)
    try:
        if (
            foreign and not VICTIMS[card["name"]].digest
        ):  # a package's victim may need values to be built
            with torch.device("meta"), _at_most(len(stored), weights):
                _compare(weights, card, stored, _assembled(card))
        with torch.random.fork_rng(devices=[]):  # the random weights are overwritten below
            victim = _assembled(card)
    except CheckpointError:
        raise
    except AdvhashError as error:
        raise CheckpointError(f"checkpoint {folder} does not fit this advhash: {error}") from None
    except (RuntimeError, TypeError) as error:  # torch refuses the sizes that the card asks for
        if not foreign:
            raise  # a bug of ours
        raise CheckpointError(
            f"checkpoint {folder} does not fit this advhash: {reason(error)}"
        ) from None
    _compare(weights, card, stored, victim)
    tensors = read_tensors(weights)
    wanted = victim.state_dict()
    kinds = [name for name, value in tensors.items() if value.dtype != wanted[name].dtype]
    if kinds:
        raise CheckpointError(f"{weights}: expected {wanted[kinds[0]].dtype} in {kinds[0]!r}")
    floats = (value for value in tensors.values() if value.is_floating_point())
    if not all(bool(torch.isfinite(value).all()) for value in floats):
        raise CheckpointError(f"{weights}: expected finite weights, got NaN or infinity")
    victim.load_state_dict(tensors, strict=True)
    victim.history = card.get("history", [])
    return victim.eval(), card


def _assembled(card: Mapping[str, Any]) -> HashVictim:
    """The victim of a card with random weights, behind its defences. Raises AdvhashError."""
    settings = dict(card["settings"])
    if "pretrained" in settings:  # the weights are here: fetch none
        settings["pretrained"] = False
    victim: HashVictim = VICTIMS.create(card["name"], settings)
    for applied in card.get("defenses", []):
        defense = DEFENSES.create(applied["name"], applied["settings"])
        if hasattr(defense, "wrap"):  # it trained nothing: it stands around the victim
            victim = defense.wrap(victim)
    return victim


def _shapes(weights: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a file, by name. Raises CheckpointError."""
    try:
        with safetensors.safe_open(weights, framework="pt") as stored:
            return {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"expected safetensors in {weights}, got {reason(error)}") from None


def _compare(weights: Path, card: Mapping[str, Any], stored: Shapes, victim: HashVictim) -> None:
    """Raise CheckpointError where a file has other tensors than a victim."""
    expected = {name: tuple(value.shape) for name, value in victim.state_dict().items()}
    odd = sorted(name for name in {*stored, *expected} if stored.get(name) != expected.get(name))
    if odd:
        raise CheckpointError(
            f"{weights} does not fit victim {card['name']!r}: {len(odd)} tensors differ, first "
            f"{odd[0]!r}: expected {expected.get(odd[0], 'none')}, got {stored.get(odd[0], 'none')}"
        )


@contextmanager
def _at_most(tensors: int, weights: Path) -> Iterator[None]:
    """Stop a victim that is being built as soon as it has many more tensors than a file."""
    made = 0

    def count(*_: object) -> None:
        nonlocal made
        made += 1
        if made > SPARE_TENSORS + 2 * tensors:  # some modules build a tensor and replace it
            raise CheckpointError(
                f"{weights} does not fit its card, which asks for more than {made} tensors: "
                f"expected those of the card, got {tensors}"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
