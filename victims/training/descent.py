"""Training: seeds, order of rows, one optimiser with its decay, light augmentation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advhash.data.dataset import Modality, Split
from advhash.errors import UsageError
from advhash.victims.training.acceleration import accelerated, add_gradients, joined, share

Decay = Literal["cosine", "linear", "exponential"]
Optimiser = Literal["adamw", "adam", "sgd"]


class Augmenting(Protocol):
    """A victim that says whether its images are augmented."""

    augmentation: bool

    @property
    def device(self) -> torch.device: ...

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor: ...


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's global generator at `seed` inside, as it was before outside."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def random_batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """All of 0 … count−1 in random order, `size` at a time; a last lone row is left out.

    A lone row has no statistics for batch normalisation.
    """
    for batch in torch.randperm(count, generator=generator).split(size):
        if len(batch) > 1 or count == 1:
            yield batch


class Descent:
    """One optimiser over some parameters, its learning rate decaying over `epochs`.

    decay: "cosine" to 0 after a warm-up over 2 % of the steps; "linear" to 0; "exponential", a
           factor of 0.95 an epoch
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        epochs: int,
        steps: int,
        learning_rate: float,
        weight_decay: float = 0.0,
        optimiser: Optimiser = "adamw",
        decay: Decay = "cosine",
    ) -> None:
        kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
            "adamw": torch.optim.AdamW,
            "adam": torch.optim.Adam,
            "sgd": torch.optim.SGD,
        }
        self.parameters = list(parameters)
        self.accelerator = accelerated(self.parameters[0].device)
        self.optimiser = kinds[optimiser](
            self.parameters, lr=learning_rate, weight_decay=weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: _factor(decay, step / max(steps, 1), epochs)
        )
        self._accelerated = self.accelerator.prepare_optimizer(self.optimiser)

    def outputs(self, count: int, forward: Callable[[slice], Tensor]) -> Tensor:
        """(B,K) float32 outputs of a batch of `count` rows, in mixed precision where that is on.

        forward(part): of those rows of the batch, this process's share
        """
        with self.accelerator.autocast():
            values = forward(share(self.accelerator, count))
        return joined(self.accelerator, values.float(), count)

    def step(self, loss: Tensor) -> float:
        """One step down the gradient of `loss`, whose value is returned."""
        self._accelerated.zero_grad()
        self.accelerator.backward(loss)
        add_gradients(self.accelerator, self.parameters)
        self._accelerated.step()
        if not self._accelerated.step_was_skipped:  # fp16: the gradient was too large for it
            self.schedule.step()
        return loss.item()

    def epoch(self, batches: Iterable[Tensor], loss: Callable[[Tensor], Tensor]) -> float:
        """One step a batch of row numbers. Returns the mean of `loss(rows)`.

        Of several processes each needs two rows: smaller batches are left out. Raises UsageError
        where none is left.
        """
        processes = self.accelerator.num_processes
        least = 2 * processes if processes > 1 else 1
        values = [self.step(loss(rows)) for rows in batches if len(rows) >= least]
        if processes > 1 and not values:
            raise UsageError(
                f"expected batches of at least {least} rows for {processes} processes: raise "
                "victim.batch_size or start fewer"
            )
        return sum(values) / max(len(values), 1)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON-able numbers to go on from."""
        tensors = {
            f"{number}/{name}": value
            for number, values in self.optimiser.state_dict()["state"].items()
            for name, value in values.items()
            if isinstance(value, Tensor)
        }
        scaler = self.accelerator.scaler
        return tensors, {
            "rates": [group["lr"] for group in self.optimiser.param_groups],
            "schedule": self.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        state: dict[int, dict[str, Tensor]] = {}
        for place, value in tensors.items():
            number, name = place.split("/")
            state.setdefault(int(number), {})[name] = value
        groups = self.optimiser.state_dict()["param_groups"]
        for group, rate in zip(groups, numbers["rates"], strict=True):
            group["lr"] = rate
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        self.schedule.load_state_dict(dict(numbers["schedule"]))
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(numbers["scaler"])


def batch_outputs(
    victim: Augmenting,
    descent: Descent,
    items: Split,
    rows: Tensor,
    modality: Modality,
    generator: torch.Generator,
) -> Tensor:
    """(B,K) real codes of the given rows; images lightly augmented where that is set."""

    def codes(part: slice) -> Tensor:
        inputs = items.rows(rows[part]).inputs[modality]
        if modality == "image" and victim.augmentation:
            inputs = augment(inputs, generator, batch=len(rows), part=part)
        return victim.relax(inputs.to(victim.device), modality)

    return descent.outputs(len(rows), codes)


def _factor(decay: Decay, epoch: float, epochs: int) -> float:
    """What the learning rate is multiplied by, `epoch` epochs after the start."""
    done = min(epoch / max(epochs, 1), 1.0)
    if decay == "exponential":
        return float(0.95**epoch)
    if decay == "linear":
        return 1 - done
    return min(1.0, (done + 1e-3) / 0.02) * (1 + math.cos(math.pi * done)) / 2


def augment(
    images: Tensor,
    generator: torch.Generator,
    *,
    rotation: float = 10.0,
    scale: float = 0.1,
    shift: float = 0.06,
    contrast: float = 0.15,
    batch: int | None = None,
    part: slice = slice(None),
) -> Tensor:
    """Each of (B,3,H,W) images in [0,1] rotated (degrees), scaled, shifted (share of the side)
    and changed in contrast by a uniform random amount up to the one given.

    What comes in from outside repeats the border: white for emoji, black for digits.

    batch, part: where the images are a part of a batch; the generator moves on by all of it
    """
    count = len(images) if batch is None else batch
    noise = torch.rand(5, count, generator=generator, device=generator.device) * 2 - 1
    angle, zoom, across, down, gain = noise[:, part].to(images.device)
    angle = angle * rotation * math.pi / 180
    zoom = 1 + zoom * scale
    theta = torch.stack(
        [
            torch.stack([angle.cos() * zoom, -angle.sin() * zoom, across * shift * 2], dim=1),
            torch.stack([angle.sin() * zoom, angle.cos() * zoom, down * shift * 2], dim=1),
        ],
        dim=1,
    )  # (B,2,3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    stretched: Tensor = (moved - mean) * (1 + gain.view(-1, 1, 1, 1) * contrast) + mean
    return stretched.clamp(0, 1)
