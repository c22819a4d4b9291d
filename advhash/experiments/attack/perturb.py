"""The queries of a run: which ones, and what an attack makes of them, batch by batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.attacks.base import Attack, AttackData
from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Batch, Split
from advhash.data.text.edits import WordBudget
from advhash.experiments.attack.columns import distance_columns, precisions
from advhash.experiments.attack.record import Attacked, Outcome
from advhash.experiments.config import AttackConfig
from advhash.experiments.prepare.fit_attack import FittedAttack
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained
from advhash.registry import ATTACKS
from advhash.targets import choose_targets

# The tensors of a piece of the work, by its name: read where they were kept, made where not.
Piece = Callable[[str, Callable[[], Mapping[str, Tensor]]], Mapping[str, Tensor]]

NOTE = "note "  # before the name of what the attack noted, among the tensors of a piece


def choose_queries(split: Split, count: int | None, seed: int) -> Tensor:
    """Rows of the query split: all, or `count` drawn without replacement, in order."""
    if count is None or count >= len(split):
        return torch.arange(len(split))
    drawn = np.random.default_rng(seed).choice(len(split), size=count, replace=False)
    return torch.from_numpy(np.sort(drawn))


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
    protocol, split = config.protocol, trained.data.query
    rows = choose_queries(split, protocol.queries, derive_seed(config.seed, "queries"))
    targets = None
    if fitted.attack.goal == "targeted":
        targets = choose_targets(
            protocol.targets,
            split.labels[rows].numpy(),
            trained.data.database.labels.numpy(),
            derive_seed(config.seed, "targets"),
            rows=rows.numpy(),
        )
    return attack_rows(
        config,
        trained,
        fitted,
        rows,
        targets,
        piece=lambda name, make: piece(f"{prefix}{name}", make),
        progress=progress,
    )


def attack_rows(
    config: AttackConfig,
    trained: Trained,
    fitted: FittedAttack,
    rows: Tensor,
    targets: npt.NDArray[np.uint8] | None,
    *,
    piece: Piece,
    progress: Progress = silent,
) -> Outcome:
    """Attack the given rows of the query split, toward the given (N,C) targets, batch by batch."""
    protocol, victim, split = config.protocol, trained.victim, trained.data.query
    modality = protocol.query_modality
    labels = split.labels[rows].numpy()

    seed = derive_seed(config.seed, "attack queries")  # with their numbers it names their draws

    def perturb(batch: Batch, start: int) -> dict[str, Tensor]:
        aim = None if targets is None else torch.from_numpy(targets[start : start + len(batch)])
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
            "words": torch.from_numpy(result.codes.words.view(np.int64)),
            "overrun": result.overrun.cpu(),
            "seconds": torch.tensor(time.perf_counter() - begin, dtype=torch.float64),
            **{f"{NOTE}{name}": kept for name, kept in fitted.attack.notes().items()},
        }

    clean, clean_codes = [], []
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(rows), protocol.batch_size):
        batch = split.rows(rows[start : start + protocol.batch_size])
        clean.append(batch.inputs[modality])
        clean_codes.append(victim.encode(batch.inputs[modality], modality))
        block = piece(f"{start:08d}", lambda b=batch, s=start: perturb(b, s))  # type: ignore[misc]
        for name, values in block.items():
            parts.setdefault(name, []).append(values)
        progress("attacking queries", start + len(batch), len(rows))
    moved = torch.cat(parts["moved"])
    columns = distance_columns(
        torch.cat(clean), moved, "image" if victim.is_image(modality) else modality
    )
    if modality == "text" and fitted.budget.norm == "l0":
        measure = WordBudget(fitted.budget, trained.data.vocabulary)
        columns["words_changed"] = measure.distance(torch.cat(clean), moved).double().numpy()
    columns["overrun"] = torch.cat(parts["overrun"]).double().numpy()
    words = torch.cat(parts["words"]).numpy().view(np.uint64)
    return Outcome(
        rows=rows,
        labels=labels,
        targets=targets,
        clean=torch.cat(clean),
        moved=moved,
        clean_codes=HashCodes.concatenate(clean_codes),
        codes=HashCodes(words, victim.bits),
        columns=columns,
        seconds=sum(float(value) for value in parts["seconds"]),
        notes={
            name.removeprefix(NOTE): torch.cat(kept)
            for name, kept in parts.items()
            if name.startswith(NOTE)
        },
    )


def noise_precision(attacked: Attacked, database: HashCodes) -> npt.NDArray[np.float64] | None:
    """(N,) average precision, for the target or else the own labels, of queries changed at random.

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
    codes = []
    for start in range(0, len(outcome.rows), protocol.batch_size):
        moved = noise.perturb(
            victim,
            data.query.rows(outcome.rows[start : start + protocol.batch_size]),
            None,
            budget,
            modality,
            seed=derive_seed(config.seed, "noise"),
            vocabulary=data.vocabulary,
        )
        codes.append(moved.codes)
    return precisions(
        HashCodes.concatenate(codes),
        database,
        outcome.labels if outcome.targets is None else outcome.targets,
        data.database.labels.numpy(),
        scoring=protocol.scoring,
    )
