"""What a cell carries of its data to any process, and how it finds them again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

import torch

from advhash.data.dataset import Dataset
from advhash.data.load import load_dataset
from advhash.errors import DataError
from advhash.victims.training.acceleration import precision


@dataclass(frozen=True, kw_only=True)
class DataCell:
    """Data set, device and number of threads, which determine figures wherever they are taken.

    fingerprint: of the data that the run began with
    """

    dataset: str
    dataset_settings: dict[str, Any]
    fingerprint: str
    device: str
    threads: int

    @classmethod
    def of(cls, data: Dataset, device: str, **more: Any) -> Self:
        """A cell on these data, with the threads of this process."""
        return cls(
            dataset=data.name,
            dataset_settings=dict(data.settings),
            fingerprint=data.fingerprint(),
            device=device,
            threads=torch.get_num_threads(),
            **more,
        )

    def data(self) -> Dataset:
        """The same data. Raises DataError where they are others now."""
        data = load_dataset(self.dataset, self.dataset_settings)
        if data.fingerprint() != self.fingerprint:
            raise DataError(
                f"expected the data of {self.dataset!r} that the run began with, got others: their "
                "files have changed, or a worker sees other ones"
            )
        return data

    def content(self, *names: str) -> dict[str, Any]:
        """For the key: every field but those of these names, which determine nothing."""
        parts = dataclasses.asdict(self)
        for name in names:
            del parts[name]
        return {**parts, "precision": precision(torch.device(self.device))}
