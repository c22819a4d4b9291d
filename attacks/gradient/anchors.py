"""Anchor codes: the code in ±1^K that a targeted attack tries to reach, one for each target.

A target is a set of labels, (C,) multi-hot. Its candidates are the database rows that carry
exactly this set; where there is none, the rows that share the most of its labels, and among these
those with the fewest other labels. Codes and labels are those of the attacked direction
(`AttackData.codes`), so in a database of fused codes the anchors are fused codes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from advhash.attacks.base import AttackData
from advhash.attacks.gradient.objectives import circle_loss, prototype_loss
from advhash.attacks.gradient.prototype import PrototypeNet
from advhash.chance import Chance
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset
from advhash.errors import DataError, UnknownName
from advhash.shared_labels import (
    MOST_COLUMNS,
    are_groups,
    columns,
    label_counts,
    label_numbers,
    label_sets as label_sets_of,
)
from advhash.victims.base import HashVictim
from advhash.victims.objectives import shared_counts, shared_label
from advhash.victims.training.descent import seeded

SETS_AT_ONCE = 256  # of labels, each with a weight for every row
Anchor = Callable[[AttackData, Tensor, torch.device], Tensor]


def expect_reachable(labels: Tensor, targets: Tensor) -> None:
    """Raise DataError for the first of (B,C) targets that shares no label with any (M,C) row."""
    if are_groups(labels):
        wanted = targets.to(labels.device)
        reached = (torch.isin(wanted, labels) & (wanted >= 0)).any(dim=1)
    else:
        offered = labels.bool().any(dim=0)
        reached = (targets.to(offered.device).bool() & offered).any(dim=1)
    missed = (~reached).nonzero().flatten()
    if len(missed):
        raise DataError(
            "expected a target that shares a label with some database row, "
            f"got labels {label_numbers(targets[missed[0]].cpu().numpy())}"
        )


def candidate_rows(labels: Tensor, target: Tensor) -> Tensor:
    """(R,) the rows of (M,C) labels nearest to a (C,) target set: exact matches where they exist.

    Raises DataError where no row shares a label with the target: nothing could be retrieved.
    """
    expect_reachable(labels, target[None])
    shared = shared_counts(labels, target[None].to(labels))[:, 0]
    score = shared * (labels.shape[1] + 1) - label_counts(labels).float()
    return (score == score.max()).nonzero().flatten()


def vote(codes: Tensor) -> Tensor:
    """(K,) majority of (n,K) ±1 codes. A tied bit is −1: as everywhere, a bit is 1 iff > 0."""
    return torch.where(codes.sum(dim=0) > 0, 1.0, -1.0)


def _signs(data: AttackData) -> Tensor:
    return torch.from_numpy(data.codes.signs())


def voted(
    data: AttackData, targets: Tensor, count: int | None, chance: Chance | None = None
) -> Tensor:
    """(T,K) majority of `count` random candidates of each target (all where None).

    chance: of each target, which may be that of a query; by default targets count from 0
    """
    signs, labels = _signs(data), data.labels
    chance = chance or Chance(torch.initial_seed(), torch.arange(len(targets)))
    anchors = []
    for place, target in enumerate(targets.cpu()):
        rows = candidate_rows(labels, target)
        if count is not None:
            rows = rows[chance[place : place + 1].sample(len(rows), count)[0].cpu()]
        anchors.append(vote(signs[rows]))
    return torch.stack(anchors)


def centre_codes(data: AttackData, labels: Tensor, *, graded: bool) -> Tensor:
    """(B,K) ±1 the centre of the codes that share a label with (B,C) label sets, away from others.

    sign(Σ w·b/Σw − Σ v·b/Σv) over the database, v = 1 for rows without a shared label. `graded`: w
    is the cosine of the label sets (mainstay code, SAAT, Yuan et al., IEEE TIFS 2023), else 1 for
    any shared label (CgAT, Wang et al., WWW 2023). An empty side counts 0.
    """
    signs, rows = _signs(data), data.labels
    sets, places = torch.unique(labels.cpu(), dim=0, return_inverse=True)
    shared = shared_counts(sets, rows)
    if graded:
        size = label_counts(sets).float().sqrt()[:, None] * label_counts(rows).float().sqrt()
        weight = shared / size.clamp_min(1e-8)
    else:
        weight = (shared > 0).float()
    other = (shared == 0).float()
    near = weight @ signs / weight.sum(dim=1, keepdim=True).clamp_min(1e-8)
    far = other @ signs / other.sum(dim=1, keepdim=True).clamp_min(1e-8)
    return torch.where(near - far > 0, 1.0, -1.0)[places]


def relevant_codes(data: AttackData, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct database codes (U,K) ±1, and how many rows have each.

    Of these (B,U) those that share a label with each of (B,C) label sets, and (U,) all rows.
    """
    codes, places, counts = torch.unique(
        _signs(data), dim=0, return_inverse=True, return_counts=True
    )
    relevant = torch.zeros(len(labels), len(codes))
    relevant.index_add_(1, places, shared_label(labels.cpu(), data.labels))
    return codes, relevant, counts.float()


def p2p(data: AttackData, targets: Tensor, device: torch.device) -> Tensor:
    """The code of one random candidate: P2P (Bai et al., ECCV 2020)."""
    return voted(data, targets, 1)


def dhta(data: AttackData, targets: Tensor, device: torch.device) -> Tensor:
    """Majority of 9 candidates, fewer where fewer exist: DHTA (Bai et al., ECCV 2020)."""
    return voted(data, targets, 9)


def majority(data: AttackData, targets: Tensor, device: torch.device) -> Tensor:
    """Majority of all candidates."""
    return voted(data, targets, None)


def centre(data: AttackData, targets: Tensor, device: torch.device) -> Tensor:
    """What tells the codes of a target from all others: the mainstay code, see `centre_codes`."""
    parts = targets.split(SETS_AT_ONCE)
    return torch.cat([centre_codes(data, part, graded=True) for part in parts])


def prototype(data: AttackData, targets: Tensor, device: torch.device) -> Tensor:
    """The code that a PrototypeNet gives the label set: ProS-GAN (Wang et al., CVPR 2021)."""
    network = fit_prototype(data, device=device)
    with torch.no_grad():
        read = columns(targets, label_columns(data.dataset)).to(device).float()
        return torch.where(network(read)[1] > 0, 1.0, -1.0).cpu()


def anchors_for(data: AttackData) -> list[str]:
    """The registered anchors that these data have: groups may be too many for some."""
    crowded = _are_crowded(data.dataset)
    return [name for name in ANCHORS if not (crowded and name in OF_FEW_SETS)]


ANCHORS: dict[str, Anchor] = {
    "centre": centre,
    "dhta": dhta,
    "majority": majority,
    "p2p": p2p,
    "prototype": prototype,
}
OF_FEW_SETS = ("centre", "prototype")  # a network's inputs, or sums over all rows for each set


def anchor_codes(
    name: str, victim: HashVictim, data: AttackData, targets: Tensor, *, seed: int = 0
) -> Tensor:
    """(T,K) ±1 codes of a registered anchor for (T,C) targets, on the CPU.

    Only `seed` determines the draws. A PrototypeNet is trained on the victim's device.

    Raises UnknownName; DataError where a target shares no label with the database.
    """
    if name not in ANCHORS:
        raise UnknownName("anchor", name, ANCHORS)
    with seeded(seed):
        return ANCHORS[name](data, targets, victim.device)


def label_sets(labels: Tensor) -> Tensor:
    """(S,C) the distinct non-empty label sets of (M,C) labels."""
    return torch.from_numpy(label_sets_of(labels.cpu().numpy())[0].copy()).to(labels.device)


def label_columns(data: Dataset) -> int:
    """How many inputs a network has that reads labels: one a class, or one a group.

    Raises DataError: more groups than a network reads.
    """
    if _are_crowded(data):
        raise DataError(
            f"a PrototypeNet reads at most {MOST_COLUMNS:,} labels, one input each: expected no "
            f"more groups in {data.name!r}, got {data.label_count:,}; use dhta or p2p"
        )
    return data.label_count


def _are_crowded(data: Dataset) -> bool:
    return data.grouped and data.label_count > MOST_COLUMNS


def fit_prototype(
    data: AttackData,
    *,
    hidden: int = 1024,
    feature: int = 256,
    steps: int = 600,
    scale: float = 0.125,
    positive_share: float | None = 0.75,
    circle: bool = False,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    device: torch.device | str = "cpu",
    sets: Tensor | None = None,
    report: Callable[[int, float], None] = lambda step, loss: None,
    progress: Progress = silent,
) -> PrototypeNet:
    """Train a PrototypeNet on the label sets of the database against the codes of its train rows.

    Where it holds none of them, all its rows take their place.

    sets: (S,C) the label sets to train on, instead of all of the database
    Adam (.5,.999); the rate falls tenfold after 1/2 and 3/4 of the steps, as published. Published
    are scale 1/2 and no positive_share: where few rows share a label with a target, the many
    others then push its code to where no image has one. `circle` takes THA's loss instead, which
    has neither. Draws from the global generator, which the caller seeds.
    """
    rows = data.dataset.train_rows
    if data.dataset.training is not None:
        rows = torch.arange(len(data.dataset.database))
    codes, labels = _signs(data)[rows].to(device), data.labels[rows].to(device)
    sets = (label_sets(data.labels) if sets is None else sets).to(device)
    if not are_groups(labels):
        labels, sets = labels.float(), sets.float()
    count = label_columns(data.dataset)
    network = PrototypeNet(count, codes.shape[1], hidden=hidden, feature=feature).to(device)
    optimiser = torch.optim.Adam(network.parameters(), learning_rate, betas=(0.5, 0.999))
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [steps // 2, steps * 3 // 4])
    for step in range(steps):
        drawn = sets[torch.randint(len(sets), (batch_size,)).to(device)]
        targets = columns(drawn, count).float()
        _, hashes, predicted = network(targets)
        similar = shared_label(drawn, labels)
        if circle:
            loss = circle_loss(hashes, codes, similar)
        else:
            loss = prototype_loss(
                hashes,
                predicted,
                targets,
                codes,
                similar,
                scale=scale,
                positive_share=positive_share,
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            report(step, loss.item())
            progress("prototype", step + 1, steps, loss=loss.item())
    return network.eval()
