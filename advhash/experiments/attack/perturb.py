"""The queries of a run: which ones, and what an attack makes of them, batch by batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.attacks.base import Attack, AttackData, frozen
from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Batch, Dataset, Split
from advhash.data.images.mixed import MixedPictures, as_tensor, in_order, to_unit
from advhash.data.text.edits import WordBudget
from advhash.experiments.attack.columns import distance_columns, precisions
from advhash.experiments.attack.record import (
    SIZES,
    Attacked,
    Outcome,
    clean_inputs,
    moved_inputs,
)
from advhash.experiments.config import AttackConfig
from advhash.experiments.prepare.fit_attack import FittedAttack
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained
from advhash.registry import ATTACKS
from advhash.shared_labels import Labels
from advhash.targets import choose_targets
from advhash.victims.memory import rows_at_once

# The tensors of a piece of the work, by its name: read where they were kept, made where not.
Piece = Callable[[str, Callable[[], Mapping[str, Tensor]]], Mapping[str, Tensor]]

NOTE = "note "  # before the name of what the attack noted, among the tensors of a piece


def choose_queries(split: Split, count: int | None, seed: int) -> Tensor:
    """Rows of the query split: all, or `count` drawn without replacement, in order."""
    if count is None or count >= len(split):
        return torch.arange(len(split))
    drawn = np.random.default_rng(seed).choice(len(split), size=count, replace=False)
    return torch.from_numpy(np.sort(drawn))


@dataclass(frozen=True)
class Aimed:
    """Which rows of the query split are attacked, and toward what.

    targets: (N,C); None when untargeted
    """

    rows: Tensor
    targets: Labels | None

    @classmethod
    def of(cls, config: AttackConfig, data: Dataset, attack: Attack) -> Aimed:
        """The queries of a run and their targets, decided by its seed.

        Raises DataError: a query for which the rule leaves no target.
        """
        protocol, split = config.protocol, data.query
        rows = choose_queries(split, protocol.queries, derive_seed(config.seed, "queries"))
        if attack.goal != "targeted":
            return cls(rows, None)
        targets = choose_targets(
            protocol.targets,
            split.labels[rows].numpy(),
            data.database.labels.numpy(),
            derive_seed(config.seed, "targets"),
            rows=rows.numpy(),
        )
        return cls(rows, targets)


def attack_queries(
    piece: Piece,
    config: AttackConfig,
    trained: Trained,
    fitted: FittedAttack,
    progress: Progress,
    *,
    prefix: str = "",
) -> Outcome:
    """Attack the queries batch by batch; a finished batch is on disk and never made twice.

    prefix: of the names of the pieces, where one cell has several attacks
    """
    aimed = Aimed.of(config, trained.data, fitted.attack)

    def named(name: str, make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        return piece(f"{prefix}{name}", make)

    parts = attack_batches(config, trained, fitted, aimed, piece=named, progress=progress)
    return joined_outcome(config, trained, fitted, aimed, [parts])


def attack_batches(
    config: AttackConfig,
    trained: Trained,
    fitted: FittedAttack,
    aimed: Aimed,
    block: tuple[int, int] | None = None,
    *,
    piece: Piece,
    progress: Progress = silent,
) -> dict[str, Tensor]:
    """What the attack makes of queries `block` of those aimed at, batch by batch.

    block: its first query and the one behind its last; None: all. It begins at a multiple of the
        batch size, so that queries stand beside the same ones however they are divided
    """
    protocol, victim, split = config.protocol, trained.victim, trained.data.query
    modality, rows, targets = protocol.query_modality, aimed.rows, aimed.targets
    first, stop = block or (0, len(rows))
    seed = derive_seed(config.seed, "attack queries")  # with their numbers it names their draws

    def perturb(batch: Batch, places: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        aim = None if targets is None else torch.from_numpy(targets[places])
        clean_codes = victim.encode(batch.inputs[modality], modality)
        fitted.attack.forget()
        begin = time.perf_counter()
        result = fitted.attack.perturb(
            victim,
            batch,
            aim,
            fitted.budget,
            modality,
            seed=seed,
            eight_bit=config.budget.eight_bit,
            vocabulary=trained.data.vocabulary,
        )
        return {
            "moved": result.batch.inputs[modality].cpu(),
            "clean_words": torch.from_numpy(clean_codes.words.view(np.int64)),
            "words": torch.from_numpy(result.codes.words.view(np.int64)),
            "overrun": result.overrun.cpu(),
            "seconds": torch.tensor([time.perf_counter() - begin], dtype=torch.float64),
            **{f"{NOTE}{name}": kept for name, kept in fitted.attack.notes().items()},
        }

    def at_once(batch: Batch) -> int:
        if "gradients" not in fitted.attack.knowledge or fitted.attack.couples_queries:
            return len(batch)
        with frozen(victim):
            return rows_at_once(victim, batch.inputs[modality], modality)

    def block_of(start: int, end: int) -> dict[str, Tensor]:
        places = np.arange(start, end)
        if split.mixed is None:
            return perturb(split.rows(rows[start:end]), places)
        groups = []
        for group in split.groups(rows[start:end], end - start):
            most = at_once(split.rows(rows[places[group.numpy()]]))
            groups += [part.numpy() for part in group.split(most)]
        parts = [perturb(split.rows(rows[places[group]]), places[group]) for group in groups]
        return _of_several_sizes(parts, np.concatenate(groups).argsort())

    size = protocol.batch_size
    if split.mixed is None and stop > first:
        size = at_once(split.rows(rows[first : min(first + size, stop)]))
    batches = []
    for start in range(first, stop, size):
        end = min(start + size, stop)
        batches.append(piece(f"{start:08d}", lambda s=start, e=end: block_of(s, e)))  # type: ignore[misc]
        progress("attacking queries", end, len(rows))
    return joined(batches)


def _of_several_sizes(
    parts: Sequence[Mapping[str, Tensor]], order: npt.NDArray[np.int64]
) -> dict[str, Tensor]:
    """Results of batches of one size each, in the order of their queries.

    The moved pictures lie one behind the other, with their sizes: in 8 bits where they are.
    """
    images = [image for part in parts for image in part["moved"]]
    moved = MixedPictures.of([images[place] for place in order.tolist()])
    octets = (moved.flat * 255).round().to(torch.uint8)
    exact = torch.equal(to_unit(octets), moved.flat)
    together = joined([{key: part[key] for key in part if key != "moved"} for part in parts])
    of_queries = {key: together[key][order] for key in ("clean_words", "words", "overrun")}
    sizes = torch.from_numpy(moved.sizes)
    return {**together, **of_queries, "moved": octets if exact else moved.flat, SIZES: sizes}


def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all parts, name by name, in order."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: torch.cat([part[name] for part in parts if name in part]) for name in names}


def joined_outcome(
    config: AttackConfig,
    trained: Trained,
    fitted: FittedAttack,
    aimed: Aimed,
    blocks: Sequence[Mapping[str, Tensor]],
) -> Outcome:
    """The outcome of all queries, of which `attack_batches` made these blocks, in order."""
    parts, victim, split = joined(blocks), trained.victim, trained.data.query
    modality = config.protocol.query_modality
    clean, moved = clean_inputs(split, aimed.rows, modality), moved_inputs(parts)
    columns = distance_columns(clean, moved, "image" if victim.is_image(modality) else modality)
    if modality == "text" and fitted.budget.norm == "l0":
        measure = WordBudget(fitted.budget, trained.data.vocabulary)
        columns["words_changed"] = (
            measure.distance(as_tensor(clean), as_tensor(moved)).double().numpy()
        )
    columns["overrun"] = parts["overrun"].double().numpy()

    def codes(name: str) -> HashCodes:
        return HashCodes(parts[name].numpy().view(np.uint64), victim.bits)

    return Outcome(
        rows=aimed.rows,
        labels=split.labels[aimed.rows].numpy(),
        targets=aimed.targets,
        clean=clean,
        moved=moved,
        clean_codes=codes("clean_words"),
        codes=codes("words"),
        columns=columns,
        seconds=float(parts["seconds"].sum()),
        notes={
            name.removeprefix(NOTE): kept for name, kept in parts.items() if name.startswith(NOTE)
        },
    )


def noise_codes(attacked: Attacked, database: HashCodes) -> HashCodes | None:
    """(N,K) codes of the queries changed at random.

    Under the same budget; of text, words that are not forbidden to the attack. None without a
    budget, where the control is switched off, and for what has no such control.
    """
    config, fitted, outcome = attacked.config, attacked.fitted, attacked.outcome
    victim, data, protocol = attacked.trained.victim, attacked.trained.data, config.protocol
    modality, budget = protocol.query_modality, fitted.budget
    words = modality == "text" and budget.norm == "l0"
    known = words or victim.is_image(modality)
    if not protocol.noise_control or budget.norm == "none" or not known:
        return None
    noise: Attack = ATTACKS.create("noise")
    if words:
        shared = ("forbidden", "label_words")
        kept = {name: fitted.settings[name] for name in shared if name in fitted.settings}
        noise = ATTACKS.create("token-noise", kept)
        noise.fit(victim, AttackData(data, database, str(protocol.database), modality), budget)
    codes, groups = [], data.query.groups(outcome.rows, protocol.batch_size)
    for places in groups:
        moved = noise.perturb(
            victim,
            data.query.rows(outcome.rows[places]),
            None,
            budget,
            modality,
            seed=derive_seed(config.seed, "noise"),
            vocabulary=data.vocabulary,
        )
        codes.append(moved.codes)
    return HashCodes.concatenate(codes)[in_order(groups)]


def noise_precision(attacked: Attacked, database: HashCodes) -> npt.NDArray[np.float64] | None:
    """(N,) average precision of `noise_codes`, for the target or else the own labels."""
    codes, outcome = noise_codes(attacked, database), attacked.outcome
    if codes is None:
        return None
    return precisions(
        codes,
        database,
        outcome.labels if outcome.targets is None else outcome.targets,
        attacked.trained.data.database.labels.numpy(),
        scoring=attacked.config.protocol.scoring,
    )
