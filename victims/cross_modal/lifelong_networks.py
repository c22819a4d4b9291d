"""What both phases of DLCMH train: an image, a text and a label network, and their settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from advhash.victims.base import expect_positive
from advhash.victims.cross_modal.base import CrossModalHashing
from advhash.victims.networks.text_encoders import code_layer
from advhash.victims.objectives import cosine_label_similarity, shared_label
from advhash.victims.training.descent import Decay, Descent, Optimiser

Similarity = Literal["cosine", "binary"]


@dataclass(kw_only=True, eq=False, repr=False)
class LifelongNetworks(CrossModalHashing):
    """The networks of DLCMH. Symbols are those of Xu et al., IEEE TCSVT 2024.

    classes:    from the data
    similarity: how labels are compared: by their cosine, or as 1 where they share one (ablation)
    own_weight, text_weight, quantisation_weight: η, γ and μ of phase 1
    epochs, optimiser, decay, learning_rate: of phase 1; batch_size, weight_decay: of both phases
    increment_epochs, increment_optimiser, increment_decay, increment_learning_rate: of phase 2
    quantisation_pull, balance_weight: α and β of phase 2
    """

    classes: int
    similarity: Similarity = "cosine"
    epochs: int = 30
    learning_rate: float = 2e-3
    own_weight: float = 0.3
    text_weight: float = 1.0
    quantisation_weight: float = 0.03
    increment_epochs: int = 12
    increment_optimiser: Optimiser = "adamw"
    increment_decay: Decay = "cosine"
    increment_learning_rate: float = 2e-3
    quantisation_pull: float = 600.0
    balance_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_positive(
            increment_epochs=self.increment_epochs,
            increment_learning_rate=self.increment_learning_rate,
        )

    def _build(self) -> None:
        super()._build()
        self.label_network = nn.Sequential(
            nn.Linear(self.classes, self.width),
            nn.ReLU(),
            nn.Dropout(self.dropout),
            code_layer(self.width, self.bits),
        )

    def compare(self, first: Tensor, second: Tensor) -> Tensor:
        """S (A,B) in [0,1] of multi-hot labels (A,C) and (B,C)."""
        binary = self.similarity == "binary"
        return (shared_label if binary else cosine_label_similarity)(first, second)

    def descent(self, name: str, *, items: int, phase: Literal[1, 2]) -> Descent:
        """The optimiser of one network ("image", "text", "label") in one phase."""
        first = phase == 1
        return Descent(
            self.get_submodule(f"{name}_network").parameters(),
            epochs=self.epochs if first else self.increment_epochs,
            steps=-(-items // self.batch_size),
            learning_rate=self.learning_rate if first else self.increment_learning_rate,
            weight_decay=self.weight_decay,
            optimiser=self.optimiser if first else self.increment_optimiser,
            decay=self.decay if first else self.increment_decay,
        )
