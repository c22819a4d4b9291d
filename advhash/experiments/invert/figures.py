"""What the record of a reconstruction run holds: balance, leakage, rows and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from advhash.attacks.inversion.decoders import observe
from advhash.data.dataset import Dataset, Split
from advhash.experiments.attack.examples import picture
from advhash.measures.intervals import (
    Difference,
    Metric,
    mean_metric,
    paired_difference,
    rate_metric,
)
from advhash.measures.reconstruction import clustered, nearest_class
from advhash.reports.inversion.record import Attacker, PartyBits, Picture
from advhash.storage.cells import Result
from advhash.storage.files import storage_errors
from advhash.storage.tables import write_table
from advhash.victims.federated.hashvfl import HashVFL

Floats = npt.NDArray[np.float64]
GRID_ROWS = 10


@dataclass
class Seen:
    """What each attacker made of the samples of one world, and which one validation data chose.

    merits: of each attacker on validation data, None where it is no number
    """

    drawn: dict[str, Tensor]
    merits: dict[str, float | None]
    chosen: str
    columns: dict[str, dict[str, Floats]] = field(default_factory=dict)

    @classmethod
    def of(cls, result: Result) -> Seen:
        """What a cell of a world kept."""
        merits = dict(result.document["merits"])
        drawn = {name: result.tensors[f"found/{name}"] for name in merits}
        return cls(drawn, merits, result.document["chosen"])


def rated_attacker(
    name: str,
    chosen: bool,
    merit: float | None,
    columns: Mapping[str, Floats],
    base: Mapping[str, Floats],
    seed: int,
    informed: Mapping[str, Floats] | None = None,
) -> Attacker:
    """The figures of one attacker, and its gain over the class mean and over who is told the class.

    Rows of tables gain in MSE, see `gained`.

    merit:    on validation data; None where it is no number
    informed: figures of a decoder that is told the class, trained by the attacker's loss
    """

    pictures: dict[str, Any] = dict.fromkeys(("ssim", "psnr"))
    score = "mse" if np.isnan(columns["ssim"]).all() else "ssim"
    if score == "ssim":
        pictures = {key: mean_metric(columns[key], seed) for key in ("ssim", "psnr")}
        if informed is not None:
            over_class = paired_difference(columns["ssim"], informed["ssim"], seed)
            pictures["gain_over_told"] = over_class
    return Attacker(
        name=name,
        chosen=chosen,
        validation=merit,
        mse=mean_metric(columns["mse"], seed),
        reidentification=rate_metric(columns["hit"], seed),
        gain=gained(score, columns[score], base[score], seed),
        **pictures,
    )


def gained(score: str, values: Floats, floor: Floats, seed: int) -> Difference:
    """How much nearer to the truth an attacker is than a floor, paired: above 0, it gains.

    score: "ssim", which rises, or "mse", which falls; values, floor: (N,) of it
    """
    falls = score == "mse"
    return paired_difference(*((floor, values) if falls else (values, floor)), seed)


def columns_of(data: Dataset, party: str) -> list[str]:
    """Names of the columns of a table that a party of a federation holds, where they are known."""
    names, start = data.card.get("columns"), 0
    widths = {name: data.database.tensor(name).shape[-1] for name in data.modalities}
    if not isinstance(names, list) or len(names) != sum(widths.values()):
        return []
    for name, width in widths.items():
        if name == party:
            return [str(column) for column in names[start : start + width]]
        start += width
    return []


def correct(victim: HashVFL, split: Split, seed: int) -> Floats:
    """(N,) of 0/1: whether the joint prediction is right."""
    right = victim.predict_split(split, seed=seed) == split.labels.argmax(dim=1)
    return right.double().numpy()


def party_bits(victim: HashVFL, data: Dataset, party: str) -> PartyBits:
    labels = data.database.labels.argmax(dim=1)
    return PartyBits(
        party=party,
        means=victim.encode_split(data.database, party).signs().mean(axis=0).tolist(),
        wanted=victim.class_codes.cpu()[labels].mean(dim=0).tolist(),
    )


def leakage(
    victim: HashVFL, data: Dataset, party: str, gradients: Floats | None, seed: int, boot: int
) -> dict[str, Metric]:
    """How often the label can be read: from a code by class codes or blindly, from gradients.

    gradients: (n,) of 0/1, whether it was read from them; None without a transcript
    """
    labels = data.query.labels.argmax(dim=1)
    codes = observe(victim, data.query, party, "codes", seed=seed)
    near = nearest_class(codes, victim.class_codes.cpu()) == labels
    common = data.database.labels.argmax(dim=1).bincount().argmax()
    picked = {
        "nearest_class_code": rate_metric(near.double().numpy(), boot),
        "clustering": rate_metric(clustered(codes, labels, len(data.classes), seed), boot),
        "most_common_class": rate_metric((labels == common).double().numpy(), boot),
    }
    if gradients is not None:
        picked["gradients"] = rate_metric(gradients, boot)
    return picked


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
    write_table(file, table)


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
    columns |= {f"codes: {name}": drawn for name, drawn in worlds["codes"].drawn.items()}
    for name in ("embeddings", "undefended"):
        columns[name] = worlds[name].drawn[worlds[name].chosen]
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
