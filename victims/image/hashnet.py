"""HashNet: hashing by continuation, the scale of its tanh growing while it trains."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advhash.data.dataset import Modality
from advhash.registry import VICTIMS
from advhash.victims.base import expect_positive
from advhash.victims.image.pairwise import PROSGAN_CODE, ImageHashing
from advhash.victims.networks.backbones import PRETRAINED
from advhash.victims.objectives import label_overlap, weighted_likelihood


@VICTIMS.register(
    "hashnet",
    source="Cao et al., ICCV 2017 (arXiv 1702.00758)",
    presets={"paper": {**PROSGAN_CODE, "final_scale": 10.0}, "pretrained": PRETRAINED},
)
@dataclass(kw_only=True, eq=False, repr=False)
class HashNet(ImageHashing):
    """Hashing by continuation: tanh(β·z) nears the sign while β grows; rare pairs weigh more.

    Minimises mean w_ij·[log(1+e^θ) − S_ij·θ], θ = α·⟨h_i, h_j⟩, h = tanh(β·z), over all pairs of a
    batch, where z (B,K) are the outputs of the network and S = 1 where two rows share a label. w
    gives similar and dissimilar pairs equal weight in sum; see `weighted_likelihood` and
    docs/victims/hashnet.md.

    `relax` gives β·z: its signs are those of z, tanh of it is the paper's output, and its gradient
    does not vanish as that of tanh(β·z) does. β is the buffer `scale`, hence in the checkpoint.

    alpha:       of the likelihood; None is 10/K
    stages:      how many values β takes, in equal shares of the epochs, one an epoch at most
    final_scale: β of the last stage; the first is 1, and β² grows in equal steps

    Deviations:
    - pairs inside a batch; released code of others pairs it with the last codes of all rows;
    - stages of equal length, of one cosine decay, instead of training each until it converges;
    - β ends at a finite value, by default at 3, which is less than the schedule of released code
      reaches: the larger β, the more images there are on which tanh(β·z) has no gradient left in
      float32, while MAP on `openmoji` did not rise.
    """

    epochs: int = 30
    alpha: float | None = None
    stages: int = 10
    final_scale: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_positive(stages=self.stages, alpha=1.0 if self.alpha is None else self.alpha)
        if self.final_scale < 1:
            raise ValueError(f"expected final_scale >= 1, got {self.final_scale}")
        self.register_buffer("scale", torch.tensor(1.0))

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        return self.get_buffer("scale") * super().relax(inputs, modality)

    def advance(self, epoch: int) -> None:
        stages = min(self.stages, self.epochs)
        share = epoch * stages // self.epochs / max(stages - 1, 1)
        self.get_buffer("scale").fill_(math.sqrt(1 + share * (self.final_scale**2 - 1)))

    def objective(self, codes: Tensor, labels: Tensor) -> Tensor:
        soft = torch.tanh(codes)
        alpha = 10 / self.bits if self.alpha is None else self.alpha
        return weighted_likelihood(soft, soft, label_overlap(labels, labels), alpha)
