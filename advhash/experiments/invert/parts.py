"""The parts of a reconstruction run: twins, controls, balance, leakage, sweeps and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from advhash.attacks.inversion.code_inversion import CodeInversion
from advhash.attacks.inversion.decoders import decode, fit_decoder, observe
from advhash.data.dataset import Dataset, Progress, Split, silent
from advhash.experiments.config import AttackConfig, TrainConfig
from advhash.experiments.invert.transcripts import Told
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained
from advhash.experiments.prepare.victim import train
from advhash.measures.intervals import Metric, rate_metric
from advhash.measures.reconstruction import clustered, nearest_class, pixel_distances, reidentified
from advhash.reports.attack.examples import picture
from advhash.reports.inversion.record import PartyBits, Picture, SweepPoint
from advhash.storage.files import storage_errors
from advhash.victims.federated.hashvfl import HashVFL

__all__ = [
    "Seen",
    "class_decoder",
    "correct",
    "leakage",
    "matching",
    "party_bits",
    "sample_pictures",
    "sweep_pairs",
    "swept",
    "undefended",
    "variant",
    "write_pictures",
    "write_samples",
]

Floats = npt.NDArray[np.float64]
GRID_ROWS = 10


@dataclass
class Seen:
    """The samples of one world, and what each attacker made of them."""

    victim: HashVFL
    method: CodeInversion
    found: dict[str, Tensor]
    columns: dict[str, dict[str, Floats]] = field(default_factory=dict)


def correct(victim: HashVFL, split: Split, seed: int) -> Floats:
    """(N,) of 0/1: whether the joint prediction is right."""
    right = victim.predict_split(split, seed=seed) == split.labels.argmax(dim=1)
    return right.double().numpy()


def variant(
    trained: Trained, config: AttackConfig, changed: dict[str, Any], progress: Progress
) -> Trained:
    card, data = trained.card, trained.data
    return train(
        TrainConfig.build(
            {
                "seed": int(card.get("seed", config.seed)),
                "device": config.device,
                "victim": {"name": card["name"], **card["settings"], **changed},
                "dataset": {"name": data.name, **data.settings},
            }
        ),
        progress,
    )


def undefended(trained: Trained, config: AttackConfig, progress: Progress = silent) -> Trained:
    """The twin without a defence: same settings, seed and data, real embeddings."""
    return variant(trained, config, {"protection": "none"}, progress)


def party_bits(victim: HashVFL, data: Dataset, party: str) -> PartyBits:
    labels = data.database.labels.argmax(dim=1)
    return PartyBits(
        party=party,
        means=victim.encode_split(data.database, party).signs().mean(axis=0).tolist(),
        wanted=victim.class_codes.cpu()[labels].mean(dim=0).tolist(),
    )


def leakage(
    victim: HashVFL, data: Dataset, party: str, told: Told | None, seed: int, boot: int
) -> dict[str, Metric]:
    """How often the label can be read: from a code by class codes or blindly, from gradients."""
    labels = data.query.labels.argmax(dim=1)
    codes = observe(victim, data.query, party, "codes", seed=seed)
    near = nearest_class(codes, victim.class_codes.cpu()) == labels
    common = data.database.labels.argmax(dim=1).bincount().argmax()
    found = {
        "nearest_class_code": rate_metric(near.double().numpy(), boot),
        "clustering": rate_metric(clustered(codes, labels, len(data.classes), seed), boot),
        "most_common_class": rate_metric((labels == common).double().numpy(), boot),
    }
    if told is not None:
        found["gradients"] = rate_metric(told.label_from_gradients, boot)
    return found


def sweep_pairs(own: Mapping[str, Any], settings: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(K, P) of every victim of the sweeps, each once; `own` are the settings of the victim."""
    pairs = [(bits, own["parties"]) for bits in settings["sweep_bits"]]
    pairs += [(own["bits"], parties) for parties in settings["sweep_parties"]]
    return list(dict.fromkeys(pairs))


def swept(
    trained: Trained, config: AttackConfig, settings: dict[str, Any], boot: int, progress: Progress
) -> list[SweepPoint]:
    """Accuracy of victims of other K and P, and of their undefended twins."""
    own = trained.card["settings"]
    points = []
    for bits, parties in sweep_pairs(own, settings):
        figures = []
        for protection in (own["protection"], "none"):
            changed = {"bits": bits, "parties": parties, "protection": protection}
            other = variant(trained, config, changed, progress)
            assert isinstance(other.victim, HashVFL)
            figures.append(rate_metric(correct(other.victim, other.data.query, config.seed), boot))
        points.append(
            SweepPoint(
                bits=bits, parties=parties, accuracy=figures[0], accuracy_undefended=figures[1]
            )
        )
    return points


def write_samples(
    file: Path,
    rows: Tensor,
    labels: Tensor,
    worlds: Mapping[str, Seen],
    base: dict[str, Floats],
    matched: Floats,
) -> None:
    """`samples.parquet`: one row a reconstructed input, every figure that a mean was taken of."""
    table: dict[str, Any] = {"query": rows.numpy(), "label": labels.numpy()}
    table |= {f"{name}:class_mean": values for name, values in base.items()}
    table["hit:codes:matching"] = matched
    for name, world in worlds.items():
        for attacker, columns in world.columns.items():
            table |= {f"{column}:{name}:{attacker}": v for column, v in columns.items()}
    with storage_errors(file):
        pq.write_table(pa.table(table), file)


def sample_pictures(
    folder: Path,
    data: Dataset,
    attacked: Split,
    rows: Tensor,
    true: Tensor,
    own_class: Tensor,
    worlds: Mapping[str, Seen],
) -> list[Picture]:
    """The grid: the first sample of each class, and what every attacker made of it."""
    if true.dim() != 4:
        return []
    labels = attacked.labels.argmax(dim=1)
    first = [int((labels == label).nonzero()[0, 0]) for label in labels.unique()][:GRID_ROWS]
    columns: dict[str, Tensor] = {"original": true, "class mean": own_class}
    columns |= {f"codes: {name}": found for name, found in worlds["codes"].found.items()}
    for name in ("embeddings", "undefended"):
        columns[name] = worlds[name].found[worlds[name].method.chosen]
    return write_pictures(folder, data, attacked, rows, first, columns)


def write_pictures(
    folder: Path,
    data: Dataset,
    attacked: Split,
    rows: Tensor,
    places: Sequence[int],
    columns: dict[str, Tensor],
) -> list[Picture]:
    """Write the PNGs of a grid, one file a cell. Raises StorageError."""
    samples = folder / "samples"
    grid = []
    with storage_errors(samples):
        samples.mkdir(exist_ok=True)
        for place in places:
            files = {}
            for number, (column, images) in enumerate(columns.items()):
                name = f"samples/{int(rows[place]):06d}-{number:02d}.png"
                picture(images[place]).save(folder / name, optimize=True)
                files[column] = name
            kinds = [data.classes[c] for c in attacked.labels[place].nonzero().flatten().tolist()]
            name = attacked.names[place] if attacked.names else f"query {int(rows[place])}"
            grid.append(Picture(name=name, labels=", ".join(kinds), files=files))
    return grid


def matching(
    victim: HashVFL,
    codes: Seen,
    data: Dataset,
    rows: Tensor,
    party: str,
    settings: dict[str, Any],
    seed: int,
) -> tuple[Floats, str]:
    """Re-identification without a picture: the candidate whose own code is nearest.

    rows: of the query split, which are attacked; candidates are drawn from the whole split, so that
          chance does not hang on how many are attacked

    Also says which of the two ways the validation rows favour: "matching" or "picture".
    """

    def hits(split: Split, truth: Tensor, found: Tensor | None) -> Floats:
        inputs = split.rows(torch.arange(len(split))).inputs[party]
        if found is None:
            sent = observe(victim, split, party, "codes", seed=seed)[truth]
            exact = torch.from_numpy(victim.encode(inputs, party).signs())
            far = torch.cdist(sent.double(), exact.double()).round(decimals=6)
        else:
            far = pixel_distances(found, inputs)
        return reidentified(
            far, truth, split.labels.argmax(dim=1), candidates=int(settings["candidates"]),
            seed=seed,
        )[0]  # fmt: skip

    held = observe(victim, data.validation, party, "codes", seed=seed)
    drawn = codes.method.reconstruct(victim, held, party, seed=seed)
    every = torch.arange(len(data.validation))
    by_code, by_picture = (hits(data.validation, every, found).mean() for found in (None, drawn))
    return hits(data.query, rows, None), "matching" if by_code > by_picture else "picture"


def class_decoder(
    victim: HashVFL,
    data: Dataset,
    auxiliary: Split,
    labels: Tensor,
    party: str,
    settings: dict[str, Any],
    seed: int,
    progress: Progress,
    *,
    loss: Literal["mse", "ssim"] = "mse",
) -> Tensor:
    """(N, …) by a decoder that is told the class code alone: what training by itself adds."""
    table = victim.class_codes.cpu()

    def pairs(split: Split) -> tuple[Tensor, Tensor]:
        inputs = split.rows(torch.arange(len(split))).inputs[party]
        return table[split.labels.argmax(dim=1)], inputs

    network = fit_decoder(
        *pairs(auxiliary), *pairs(data.validation), hidden=256,
        epochs=int(settings["decoder_epochs"]), seed=derive_seed(seed, "attack"), progress=progress,
        loss=loss,
    )  # fmt: skip
    return decode(network, table[labels]).clamp(*victim.bounds[party])
