"""The two phases of DLCMH's training. Symbols are those of Xu et al., IEEE TCSVT 2024."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from advhash.data.dataset import Dataset, Modality, Split
from advhash.errors import UsageError, nearest
from advhash.victims.cross_modal.base import network_outputs
from advhash.victims.cross_modal.lifelong_networks import LifelongNetworks
from advhash.victims.objectives import (
    discrete_codes,
    lifelong_hashing,
    quantisation,
    sign,
    similarity_gap,
)
from advhash.victims.training.descent import batch_outputs, random_batches
from advhash.victims.training.phase import Phase

Loss = Callable[[Tensor], Tensor]  # of row numbers (B,)


def columns(data: Dataset, names: Sequence[str]) -> Tensor:
    """(C,) bool: the label columns of the named categories. Raises UsageError."""
    for name in names:
        if name not in data.classes:
            raise UsageError(f"unknown category {name!r}: {nearest(name, data.classes)}")
    return torch.tensor([name in names for name in data.classes])


def arrivals(data: Dataset, seen: Tensor, frozen: Tensor) -> tuple[Tensor, Tensor]:
    """Database rows to hash next, in ascending order, and the training rows among them.

    seen (C,) bool: the categories known now; a row with any other waits.
    frozen (M,) bool: the rows that have a code.

    Raises UsageError where fewer than two training rows arrive.
    """
    foreign = (data.database.labels.bool() & ~seen.cpu()).any(dim=1)
    waiting = ~foreign & ~frozen.cpu()
    trained = data.rows_trained_on("a victim that stores codes of the database")
    train = trained[waiting[trained]]
    if len(train) < 2:
        raise UsageError(
            "expected at least 2 training items that have no code yet and no other new category, "
            f"got {len(train)}"
        )
    return waiting.nonzero()[:, 0], train


def learn_original(
    victim: LifelongNetworks, items: Split, generator: torch.Generator, phase: Phase
) -> dict[Modality, Tensor]:
    """Phase 1: each epoch the label, the image and the text network in turn, then the codes.

    Returns Bx and By, (N,K) of ±1: the codes learnt for the images and the texts of all items.
    """
    labels = items.labels.to(victim.device)
    F, G, H = (torch.randn(len(items), victim.bits, device=victim.device) for _ in range(3))
    Bx, By = sign(F + H), sign(G + H)
    own, gamma, mu = victim.own_weight, victim.text_weight, victim.quantisation_weight
    names = ("label", *victim.bounds)
    descents = {name: victim.descent(name, items=len(items), phase=1) for name in names}

    def label_loss(rows: Tensor) -> Tensor:
        h = descents["label"].outputs(
            len(rows), lambda part: victim.label_network(labels[rows[part]].float())
        )
        H[rows] = h.detach()
        S = victim.compare(labels[rows], labels)
        gaps = similarity_gap(h, F, S) + gamma * similarity_gap(h, G, S)
        fit = (quantisation(h, Bx[rows]) + quantisation(h, By[rows])) / 2
        return own * similarity_gap(h, H, S) + gaps + mu * fit

    def modality_loss(modality: Modality, U: Tensor, B: Tensor) -> Loss:
        def loss(rows: Tensor) -> Tensor:
            u = batch_outputs(victim, descents[modality], items, rows, modality, generator)
            U[rows] = u.detach()
            S = victim.compare(labels[rows], labels)
            gaps = own * similarity_gap(u, U, S) + similarity_gap(u, H, S)
            return gaps + mu * quantisation(u, B[rows])

        return loss

    losses: dict[str, Loss] = {
        "label": label_loss,
        "image": modality_loss("image", F, Bx),
        "text": modality_loss("text", G, By),
    }
    victim.train()
    tensors = {"F": F, "G": G, "H": H, "Bx": Bx, "By": By}
    for _ in phase.epochs(victim.epochs, descents=descents, generator=generator, tensors=tensors):
        figures = {}
        for name, loss in losses.items():
            batches = random_batches(len(items), victim.batch_size, generator)
            figures[name] = descents[name].epoch(batches, loss)
        Bx.copy_(sign(2 * F + H))
        By.copy_(sign(2 * G + H))
        phase.note(**figures)
    victim.eval()
    # codes and weights of the same moment: F, G and H once more, from clean inputs
    outputs = network_outputs(victim, items)
    with torch.no_grad():
        H = victim.label_network(labels.float()).cpu()
    return {modality: sign(2 * values + H) for modality, values in outputs.items()}


def learn_increment(
    victim: LifelongNetworks,
    *,
    old: Split,
    new: Split,
    labels: Tensor,
    known: Mapping[Modality, Tensor],
    sample: Tensor,
    generator: torch.Generator,
    phase: Phase,
) -> dict[Modality, Tensor]:
    """Phase 2: each epoch, for the image and then the text, the network and then its new codes.

    labels: (N,C) of all items, O known ones and then the new ones
    known: (O,K) of ±1 for each modality: constants, the codes of the known items
    sample: (m,) positions among the N; `old` has the rows of those below O, in this order
    new: the N−O rows of the new items

    Returns B_new, (N−O,K) of ±1 for each modality.
    """
    count = len(known["image"])
    known = {modality: codes.to(victim.device) for modality, codes in known.items()}
    labels = labels.to(victim.device)
    similarity = victim.compare(labels[sample], labels)  # S (m,N)
    items = joined(old, new)
    rows_of_sample = sample - count + len(old)  # of new ones, in `items`
    rows_of_sample[sample < count] = torch.arange(len(old))
    relaxed = network_outputs(victim, items)
    outputs = {name: values[rows_of_sample].to(victim.device) for name, values in relaxed.items()}
    # One start for both modalities, for nothing else ties their new codes to each other: the
    # outputs of both, summed over items in proportion to their similarity.
    start = sign(
        victim.compare(labels[count:], labels[count:])
        @ (relaxed["image"] + relaxed["text"])[len(old) :].to(victim.device)
    )
    learnt = {modality: start.clone() for modality in known}
    descents = {name: victim.descent(name, items=len(sample), phase=2) for name in known}

    def modality_loss(modality: Modality) -> Loss:
        codes = torch.cat([known[modality], learnt[modality]])

        def loss(rows: Tensor) -> Tensor:
            drawn = rows_of_sample[rows]
            u = batch_outputs(victim, descents[modality], items, drawn, modality, generator)
            outputs[modality][rows] = u.detach()
            return lifelong_hashing(
                u,
                known[modality],
                learnt[modality],
                similarity[rows],
                codes[sample[rows]],  # Ω
                pull=victim.quantisation_pull,
                balance_weight=victim.balance_weight,
            )

        return loss

    victim.train()
    tensors = {f"outputs of {name}": values for name, values in outputs.items()}
    tensors |= {f"codes of {name}": values for name, values in learnt.items()}
    for _ in phase.epochs(
        victim.increment_epochs, descents=descents, generator=generator, tensors=tensors
    ):
        figures = {}
        for modality, descent in descents.items():
            batches = random_batches(len(sample), victim.batch_size, generator)
            figures[modality] = descent.epoch(batches, modality_loss(modality))
            Z = outputs[modality].tanh()
            spread = torch.zeros(len(labels), victim.bits, device=victim.device)
            spread[sample] = Z  # Ẑ: 0 for the rows not drawn
            learnt[modality].copy_(
                discrete_codes(
                    learnt[modality],
                    Z,
                    similarity[:, count:],
                    victim.quantisation_pull * spread[count:],
                )
            )
        phase.note(**figures)
    victim.eval()
    return learnt


def joined(first: Split, second: Split) -> Split:
    """The rows of both, in memory."""
    return Split(
        {name: torch.cat([first.tensor(name), second.tensor(name)]) for name in first.inputs},
        torch.cat([first.labels, second.labels]),
    )


def draw_sample(
    old: int, new: int, size: int, new_share: float, generator: torch.Generator
) -> Tensor:
    """(m,) distinct positions in [seen ; unseen] in random order, m = min(size, old + new).

    new_share: the least share of new ones, as far as there are enough; 0 draws uniformly
    """
    order = torch.randperm(old + new, generator=generator)
    first = order[order >= old][: int(size * new_share)]
    rest = order[~torch.isin(order, first)][: size - len(first)]
    drawn = torch.cat([first, rest])
    return drawn[torch.randperm(len(drawn), generator=generator)]
