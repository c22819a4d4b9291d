"""Central similarity quantisation: every class has a code to go to, far from all others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.linalg import hadamard
from torch import Tensor

from advhash.data.dataset import Dataset
from advhash.registry import VICTIMS
from advhash.victims.image.pairwise import ImageHashing
from advhash.victims.networks.backbones import PRETRAINED
from advhash.victims.objectives import central_similarity, centroids, log_cosh_quantisation


def hash_centres(classes: int, bits: int) -> Tensor:
    """(C,K) of ±1: a hash centre a class; draws from torch's generator where it must.

    Where K is a power of two: the first rows of the Hadamard matrix H_K, any two at distance K/2,
    and for K < C ≤ 2K those of −H_K after them. Else every bit is ±1 with probability 1/2 (any two
    rows K/2 apart on average), a row that repeats an earlier one being drawn again.

    Raises ValueError where K bits have fewer than C codes.
    """
    if bits & (bits - 1) == 0 and classes <= 2 * bits:
        matrix = torch.from_numpy(hadamard(bits)).float()
        return torch.cat([matrix, -matrix])[:classes]
    if classes > 2**bits:
        least = (classes - 1).bit_length()
        raise ValueError(f"expected bits >= {least} for {classes} classes, got {bits}")
    rows: dict[tuple[float, ...], None] = {}
    while len(rows) < classes:
        rows[tuple(random_signs(bits).tolist())] = None
    return torch.tensor(list(rows))


def random_signs(bits: int) -> Tensor:
    """(K,) of ±1 with probability 1/2 each."""
    return torch.randint(0, 2, (bits,)).float() * 2 - 1


@VICTIMS.register(
    "csq",
    source="Yuan et al., CVPR 2020 (arXiv 1908.00347)",
    presets={
        "paper": {
            "backbone": "resnet50",
            "bits": 64,
            "epochs": 100,
            "augmentation": False,
        },
        "pretrained": PRETRAINED,
    },
)
@dataclass(kw_only=True, eq=False, repr=False)
class CSQ(ImageHashing):
    """Central similarity quantisation: each image is drawn to the hash centre of its labels.

    Minimises the binary cross-entropy between h = (tanh u + 1)/2 and the centre's bits plus
    λ·mean log cosh(|2h − 1| − 1), where u (B,K) are the real codes of a batch. The centre of
    several labels is the majority of theirs, bit by bit. `relax` gives u. Centres and tie-breaking
    bits are buffers, hence in the checkpoint. See `hash_centres` and docs/victims/csq.md.

    classes: from the data
    quantisation_weight: λ

    Deviations:
    - means over bits in both terms; the paper sums the second, so λ is on another scale;
    - rows without a label share one random centre.
    """

    classes: int
    epochs: int = 30
    quantisation_weight: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes < 1:
            raise ValueError(f"expected classes >= 1, got {self.classes}")
        self.register_buffer("centres", torch.zeros(self.classes, self.bits))
        self.register_buffer("ties", torch.zeros(self.bits))
        if not self.get_buffer("ties").is_meta:  # where there are shapes alone
            self.begin()

    @classmethod
    def data_arguments(cls, data: Dataset) -> dict[str, object]:
        return {**super().data_arguments(data), "classes": data.class_count("csq")}

    def begin(self) -> None:
        self.get_buffer("centres").copy_(hash_centres(self.classes, self.bits))
        self.get_buffer("ties").copy_(random_signs(self.bits))

    def objective(self, codes: Tensor, labels: Tensor) -> Tensor:
        aims = centroids(labels, self.get_buffer("centres"), self.get_buffer("ties"))
        return central_similarity(codes, aims) + (
            self.quantisation_weight * log_cosh_quantisation(codes)
        )
