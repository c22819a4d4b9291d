"""A checkpoint of somebody else becomes one of ours: recognised, filled, tried, written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advhash.codes.packed import HashCodes
from advhash.data.images.decode import decode, quietly, reason
from advhash.data.load import load_dataset
from advhash.data.paths import PICTURES
from advhash.errors import CheckpointError, DataError, UsageError
from advhash.measures.encoding import distinct_codes
from advhash.registry import VICTIMS, is_external
from advhash.storage.checkpoint import PICKLES, read_card, save_victim
from advhash.storage.files import partial_folder, sha256, storage_errors
from advhash.storage.foreign_model import ForeignModel, open_model
from advhash.storage.foreign_text import visible
from advhash.storage.run_folder import environment
from advhash.victims.image.hash_layer import HashLayer
from advhash.victims.networks.classifiers import NORMALISATIONS, Classifier
from advhash.victims.networks.layouts import COUNTER, Layout, empty_classifier, recognise

NAME = "hash-layer"
TRIED = 8  # pictures
LISTED = 4  # names in a message
SCALE = re.compile(r"((module|model|net|network)\.)*scale")  # of the network, not of a layer
SHOWN = 64  # bits of a code that is shown


def import_checkpoint(
    file: Path,
    out: Path,
    *,
    architecture: str | None = None,
    normalise: str | None = None,
    part: str | None = None,
    scale: float | None = None,
    image_size: int = 224,
    pictures: Path | None = None,
) -> dict[str, Any]:
    """Write the network in a file as a new checkpoint folder, whole or not at all.

    architecture, normalise: as the victim `hash-layer` takes them; None: as the file shows
    part:       which of several models in the file
    scale:      β of tanh(β·z); None: as the file has it, else 1
    image_size: pixels a side that the network is fed
    pictures:   a folder of pictures to try it on; None: digits

    Nothing in the file runs. Returns what `advhash import --json` prints.

    Raises CheckpointError: no model, or one that does not fit; UsageError: what must be said, after
    it was tried; DataError, StorageError.
    """
    _check_new(out)
    if normalise is not None and normalise not in NORMALISATIONS:
        known = ", ".join(NORMALISATIONS)
        raise UsageError(f"expected --normalise {known}, got {normalise!r}")
    images = _pictures(pictures, image_size)
    with open_model(file, part) as model:
        layout = recognise(model.shapes, architecture, image_size)
        _compare(file, layout, model, image_size)
        beta = _scale(model) if scale is None else scale
        chosen = normalise or layout.normalise
        settings: dict[str, Any] = {
            "bits": layout.bits,
            "architecture": layout.architecture,
            "hidden": layout.hidden,
            "normalise": chosen or "none",
            "image_size": image_size,
            "scale": beta,
        }
        with torch.random.fork_rng(devices=[]):  # the random weights are overwritten
            victim: HashLayer = VICTIMS.create(NAME, settings)
        _fill(file, victim.network, layout, model)
        called = model.called
    victim.eval()
    trials = {
        name: _trial(victim.network, images, name)
        for name in ([chosen] if chosen else NORMALISATIONS)
    }
    del images
    if chosen is None:
        undecided = UsageError(
            f"expected --normalise {', '.join(NORMALISATIONS)}: what the code of {file.name} did "
            "to pixels before its network is not in the file"
        )
        for name, trial in trials.items():
            undecided.add_note(f"--normalise {name}: {trial_text(trial)}")
        raise undecided
    source = {"file": file.name, "sha256": sha256(file), "layout": layout.publisher}
    with storage_errors(out), partial_folder(out) as folder:
        save_victim(
            folder,
            victim,
            name=NAME,
            settings={**settings, "hidden": list(layout.hidden)},
            source=f"imported from {visible(file.name)}, names of {layout.publisher}",
            imported={**source, "not_called": list(called)},
            environment=environment(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        folder.rename(out)
    return {
        "schema": "advhash/import/1",
        "command": "import",
        "checkpoint": str(out),
        "victim": {"name": NAME, "settings": read_card(out)["settings"]},
        "source": source,
        "tensors": len(layout.sources),
        "not_called": list(called),
        "trial": trials[chosen],
    }


def trial_text(trial: Mapping[str, Any]) -> str:
    """A trial in a line."""
    return (
        f"{trial['distinct']} of {trial['pictures']} codes distinct, "
        f"{100 * trial['ones']:.0f} % ones, median |z| {trial['median']:.3g}, "
        f"first code {trial['first_code']}"
    )


def _check_new(out: Path) -> None:
    """Raise UsageError where a checkpoint of that name would not be found, or is there."""
    if str(out) in VICTIMS:
        raise UsageError(f"--as {out}: a victim of advhash has this name; choose another")
    if is_external(str(out)) or out.suffix.lower() in PICKLES:
        raise UsageError(
            f"--as {out}: --victim takes it for a function or a pickle; choose a plain name"
        )
    if out.exists() or out.is_symlink():
        raise UsageError(f"expected a new folder for --as, got {out}, which exists")


def _compare(file: Path, layout: Layout, model: ForeignModel, image_size: int) -> None:
    """Raise CheckpointError unless the file has the tensors of the network, and no others."""
    network = empty_classifier(layout.architecture, layout.bits, layout.hidden, image_size)
    expected = {
        name: tuple(value.shape)
        for name, value in network.state_dict().items()
        if not name.endswith(COUNTER) and name != "hash_layer.bias"  # without one: zeros
    }
    does_not_fit = f"{file} does not fit {layout.architecture}"
    missing = sorted(expected.keys() - layout.sources.keys())
    if missing:
        raise CheckpointError(
            f"{does_not_fit}: {len(missing)} tensors are missing, first {missing[0]!r}; expected "
            f"another --arch or a whole file"
        )
    extra = [name for name in layout.extra if not name.endswith(COUNTER)]
    if extra:
        raise CheckpointError(
            f"{does_not_fit}, which has no {_listed(extra)}: expected another --arch, or a file "
            "without them"
        )
    for name, value in network.state_dict().items():
        for source in layout.sources.get(name, ()):
            shape = model.shapes[source]
            if shape != tuple(value.shape):
                features = network.hash_layer.in_features
                turned = shape == tuple(value.shape)[::-1] or (
                    name == "hash_layer.weight" and shape[0] == features
                )
                hint = " (transposed?)" if turned else ""
                raise CheckpointError(
                    f"{does_not_fit}: expected {tuple(value.shape)} in {_shown(source)}, got "
                    f"{shape}{hint}; expected another --arch or the weights as torch keeps them"
                )


def _fill(file: Path, network: Classifier, layout: Layout, model: ForeignModel) -> None:
    """Copy the tensors of the file into a network. Raises CheckpointError."""
    tensors = network.state_dict()
    if "hash_layer.bias" not in layout.sources:
        nn.init.zeros_(network.hash_layer.bias)
    for name, sources in layout.sources.items():
        target, value = tensors[name], model.read(sources[0])
        if value.is_floating_point() != target.is_floating_point():
            raise CheckpointError(
                f"{file}: expected {target.dtype} in {_shown(sources[0])}, got {value.dtype}: save "
                "the weights as they were before they were quantised"
            )
        target.copy_(value)
        if target.numel() and not all(map(torch.isfinite, torch.aminmax(target))):
            raise CheckpointError(
                f"{file}: expected finite weights, got NaN or infinity in {_shown(sources[0])}"
            )
        for other in sources[1:]:
            if model.places[other] != model.places[sources[0]] and not torch.equal(
                model.read(other).to(target.dtype), target
            ):
                raise CheckpointError(
                    f"{file}: {_shown(sources[0])} and {_shown(other)} stand for one tensor "
                    "and differ: the file mixes two networks; save the state_dict() of one"
                )


def _scale(model: ForeignModel) -> float:
    """β, which HashNet's code keeps as a plain number of the module."""
    scales = [value for name, value in model.numbers.items() if SCALE.fullmatch(name)]
    return scales[0] if scales and scales[0] > 0 else 1.0


def _trial(network: Classifier, images: Tensor, normalise: str) -> dict[str, Any]:
    """What comes of pictures that are normalised in one way."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in NORMALISATIONS[normalise])
    with torch.no_grad():
        values = torch.cat([network.codes((image[None] - mean) / std) for image in images])
    if not bool(torch.isfinite(values).all()):
        raise CheckpointError("the network gives NaN or infinity on pictures: expected numbers")
    if not bool(values.any()):
        raise CheckpointError(
            "the network gives 0 for every picture: expected weights that were trained, not zeros"
        )
    codes = HashCodes.from_relaxed(values)
    bits = (values[0] > 0).numpy()[:SHOWN]
    return {
        "pictures": len(images),
        "distinct": distinct_codes(codes),
        "ones": float((values > 0).float().mean()),
        "median": float(values.abs().median()),
        "first_code": np.packbits(bits).tobytes().hex() + " …" * (values.shape[1] > SHOWN),
    }


def _pictures(folder: Path | None, size: int) -> Tensor:
    """(N,3,size,size) in [0,1] to try a network on. Raises DataError, UsageError."""
    if not 1 <= size <= 1024:
        raise UsageError(f"expected --image-size from 1 to 1024, got {size}")
    if folder is None:
        data = load_dataset("digits", {}).validation
        images = data.rows(torch.arange(TRIED)).inputs["image"]
        return torch.nn.functional.interpolate(images, (size, size), mode="bilinear")
    try:
        files = sorted(path for path in folder.iterdir() if path.name.lower().endswith(PICTURES))
    except OSError as error:
        raise DataError(f"expected a folder of pictures, got {folder}: {reason(error)}") from None
    if not files:
        raise DataError(f"expected pictures in {folder}, got none")
    try:
        with quietly():
            decoded = [decode(file, size, "centre") for file in files[:TRIED]]
    except Exception as error:  # Pillow raises anything on damaged files
        raise DataError(f"a picture of {folder} cannot be read: {reason(error)}") from None
    return torch.from_numpy(np.stack(decoded)).float() / 255


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(_shown(name) for name in names[:LISTED]) + more


def _shown(name: str) -> str:
    return repr(visible(name[:100]))
