"""One data set seen by P parties: each holds other columns of the same rows, in the same order.

Images are cut into vertical strips of neighbouring columns, tables into neighbouring features, or
where the data set says (`Dataset.parties`), so that a column stays with one party. The
modalities of the view are "party0" … "party(P−1)"; rows, splits and labels stay as they were, so
the data were split into training and query rows before they were cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from advhash.data.dataset import Dataset, Modality, Split
from advhash.errors import ConfigError, DataError

CUT = ("image", "table", "text")  # what can be cut, the first that a data set has


def party_names(parties: int) -> tuple[Modality, ...]:
    """The modalities of P parties.

    >>> party_names(2)
    ('party0', 'party1')
    """
    return tuple(f"party{number}" for number in range(parties))


def is_view(data: Dataset) -> bool:
    """Whether the data are cut already."""
    return "party0" in data.database.inputs


def whole_shape(data: Dataset) -> tuple[int, ...]:
    """(3,H,W) of the images or (F,) of the table, whether it is cut already or not.

    Raises DataError: there is nothing to cut.
    """
    inputs = {name: data.database.tensor(name) for name in data.modalities}
    if is_view(data):
        return tuple(joined({name: values[:1] for name, values in inputs.items()}).shape[1:])
    return tuple(inputs[_whole(data)].shape[1:])


def _whole(data: Dataset) -> Modality:
    for name in CUT:
        if name in data.database.inputs:
            return name
    raise DataError(
        f"expected images or a table to share out among parties, got {data.name!r} with "
        f"{', '.join(data.modalities)}"
    )


def party_view(data: Dataset, parties: int) -> Dataset:
    """The same rows with modalities "party0" …: strips of images, groups of features.

    Where the data do not say who holds what, the first parties get one column more if P does not
    divide their number. A view of P parties is returned as it is.

    Raises ConfigError: fewer columns than parties, or a view of another number of parties.
    DataError: nothing to cut.
    """
    if is_view(data):
        if len(data.database.inputs) != parties:
            raise ConfigError(
                f"expected a view of {parties} parties, got {len(data.database.inputs)}"
            )
        return data
    name, columns = _whole(data), whole_shape(data)[-1]
    if not 1 <= parties <= columns:
        raise ConfigError(
            f"victim.parties: expected 1 to {columns}, the columns of {data.name!r}, got {parties}"
        )

    if data.parties and len(data.parties) != parties:
        raise ConfigError(
            f"victim.parties: expected {len(data.parties)}, as {data.name!r} shares its columns "
            f"out (dataset.parties), got {parties}"
        )

    def cut(split: Split) -> Split:
        whole = split.tensor(name) if name == "image" else split.tensor(name).float()
        if data.parties:
            parts = torch.split(whole, list(data.parties), dim=-1)
        else:
            parts = torch.tensor_split(whole, parties, dim=-1)
        inputs = {f"party{number}": part.contiguous() for number, part in enumerate(parts)}
        return replace(split, inputs=inputs, digests={})

    return replace(data, **{split: cut(part) for split, part in data.stored.items()})  # type: ignore[arg-type]


def joined(inputs: Mapping[Modality, Tensor]) -> Tensor:
    """(B, …, W) the parties' parts side by side again.

    >>> joined({"party1": torch.tensor([[3]]), "party0": torch.tensor([[1, 2]])}).tolist()
    [[1, 2, 3]]
    """
    return torch.cat([inputs[name] for name in party_names(len(inputs))], dim=-1)
