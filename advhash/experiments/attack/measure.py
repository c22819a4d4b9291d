"""From attacked queries to the figures of a run, and from these to its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from advhash.attacks.base import AttackData
from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress, silent
from advhash.data.images.mixed import as_tensor
from advhash.experiments.attack.columns import (
    Columns,
    codec_columns,
    distance_metrics,
    retrieval_columns,
    retrieval_metrics,
)
from advhash.experiments.attack.examples import build_examples
from advhash.experiments.attack.operating import (
    BITS,
    hits,
    names_pictures,
    nearest,
    operating_columns,
    operating_metrics,
)
from advhash.experiments.attack.perturb import noise_codes, noise_precision
from advhash.experiments.attack.record import Attacked, Metrics, Scores, at_threshold
from advhash.experiments.attack.served import database_vectors, search_of, served_columns
from advhash.experiments.prepare.ceiling import target_ceilings
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.worth import joint_metrics
from advhash.measures.intervals import Floats, Metric, mean_metric, ratio_metric, single_metric
from advhash.measures.sanity import (
    Flag,
    check_attack,
    check_count,
    check_indicators,
    check_repeats,
    check_targets,
    check_victim,
)
from advhash.reports.headline import headline_of, is_control
from advhash.reports.record import Example
from advhash.victims.federated.hashvfl import HashVFL


@dataclass(frozen=True)
class Measured:
    """All figures of attacked queries: by direction, and those of the headline direction."""

    scores: Scores
    metrics: Metrics


def measure(
    attacked: Attacked,
    codes: Mapping[str, HashCodes],
    identity: dict[str, object],
    progress: Progress = silent,
) -> Measured:
    """Retrieval, distances, codecs, operating points; their columns are added to the outcome.

    codes:    of the database, by direction
    identity: what names victim, data and code for the cache of ceilings
    """
    config, outcome = attacked.config, attacked.outcome
    victim, data, protocol = attacked.trained.victim, attacked.trained.data, config.protocol
    modality, database = protocol.query_modality, str(protocol.database)
    seen = AttackData(data, codes[database], database, modality)
    wanted = outcome.labels if outcome.targets is None else outcome.targets
    targeted = outcome.targets is not None
    boot = derive_seed(config.seed, "bootstrap")
    scores = _score(attacked, codes, identity, progress)
    metrics: Metrics = {
        **scores.metrics[f"{modality}-{database}"],
        **distance_metrics(outcome.columns, boot),
        "seconds_fit": single_metric(attacked.fitted.seconds),
        "seconds_per_image": single_metric(outcome.seconds / len(outcome.rows)),
    }
    if modality == "image":
        after = codec_columns(
            victim,
            outcome.moved,
            modality,
            codes[database],
            wanted=wanted,
            database_labels=data.database.labels.numpy(),
            targeted=targeted,
            scoring=protocol.scoring,
            survive=getattr(attacked.fitted.attack, "survive", ()),
        )
        outcome.columns.update(after)
        metrics |= {name: mean_metric(values, boot) for name, values in after.items()}
        if targeted:
            known = scores.columns[database]
            span = known["tmap_clean"], known["tmap_ceiling"]
            metrics |= {
                name.replace("tmap", "tmap_normalised"): ratio_metric(values, *span, boot)
                for name, values in after.items()
            }
    sent = attacked.fitted.attack.summarise(outcome.notes).get("queries_per_image")
    if sent is not None:
        metrics["queries_per_image"] = single_metric(sent)
    if isinstance(victim, HashVFL):
        clean = data.query.rows(outcome.rows)
        metrics |= joint_metrics(
            victim, clean, as_tensor(outcome.moved), modality, outcome.targets, boot
        )
    if modality == "image" and names_pictures(data.database.labels):
        point = operating_columns(
            victim,
            outcome.moved,
            outcome.clean_codes,
            outcome.codes,
            seen,
            outcome.labels,
            outcome.targets,
        )
        judged, hits = operating_metrics(
            point, seen, victim, protocol, targeted=targeted, seed=boot
        )
        metrics |= judged
        outcome.columns.update(point | hits)
    return Measured(scores, metrics)


def _score(
    attacked: Attacked,
    codes: Mapping[str, HashCodes],
    identity: dict[str, object],
    progress: Progress,
) -> Scores:
    """Average precisions against every database of the victim, and their means."""
    config, trained, outcome = attacked.config, attacked.trained, attacked.outcome
    protocol, data = config.protocol, trained.data
    columns, metrics = {}, {}
    search = search_of(protocol)
    for name, database_codes in codes.items():
        ceiling = None
        if outcome.targets is not None:
            ceiling = target_ceilings(
                trained.victim,
                AttackData(data, database_codes, name, protocol.query_modality),
                outcome.targets,
                scoring=protocol.scoring,
                identity=identity,
                progress=progress,
            )
        columns[name] = retrieval_columns(
            outcome.clean_codes,
            outcome.codes,
            database_codes,
            labels=outcome.labels,
            database_labels=data.database.labels.numpy(),
            targets=outcome.targets,
            ceiling=ceiling,
            scoring=protocol.scoring,
        )
        if search is not None and name == protocol.database:
            served, _ = served_columns(
                search,
                trained.victim,
                {
                    "": (outcome.clean, outcome.clean_codes),
                    "_adversarial": (outcome.moved, outcome.codes),
                },
                database_vectors(search, trained, name, database_codes),
                modality=protocol.query_modality,
                labels=outcome.labels,
                targets=outcome.targets,
                database_labels=data.database.labels.numpy(),
            )
            columns[name] |= served
        metrics[f"{protocol.query_modality}-{name}"] = retrieval_metrics(
            columns[name], derive_seed(config.seed, "bootstrap")
        )
    chance = columns[str(protocol.database)]["map_chance"]
    return Scores(columns, metrics, int((np.isnan(chance) | (chance == 0)).sum()))


def flags(attacked: Attacked, measured: Measured, database: HashCodes) -> list[Flag]:
    """All sanity checks of victim, targets and attack."""
    config, fitted, outcome = attacked.config, attacked.fitted, attacked.outcome
    targets, metrics = outcome.targets, measured.metrics
    raised = [Flag(**flag) for flag in attacked.trained.card.get("flags", [])]
    raised += check_victim(
        metrics["map"] or Metric(),
        metrics["map_chance"] or Metric(),
        measured.scores.empty_queries,
        len(outcome.rows),
    )
    raised += check_repeats(outcome.labels)
    raised += check_count(
        config.protocol.queries,
        len(outcome.rows),
        "an original counts once, whatever its copies (protocol.start)"
        if config.protocol.start == "originals"
        else "the data hold no more",
    )
    if targets is not None:
        raised += check_targets(outcome.labels, targets)
    rate = headline_of(fitted.attack.goal, at_threshold=True).main if at_threshold(attacked) else ""
    gained, noise = _beside_noise(attacked, measured, database, rate)
    raised += check_attack(
        metrics,
        noise,
        fitted.budget,
        targets is not None,
        mean_metric(gained, derive_seed(config.seed, "bootstrap")),
        gradients="gradients" in fitted.attack.knowledge,
        rate=rate,
    )
    raised += check_indicators(fitted.attack.summarise(outcome.notes), len(outcome.rows))
    if config.protocol.query_modality == "image" and not config.budget.eight_bit:
        raised.append(
            Flag(
                "float_pixels",
                "warning",
                "Pixels were not rounded to 8 bits after the attack; gradient attacks search on "
                "the 8-bit grid all the same.",
            )
        )
    return raised


def _beside_noise(
    attacked: Attacked, measured: Measured, database: HashCodes, rate: str
) -> tuple[Floats, float | None]:
    """(N,) what the attack gains for each query, and the same figure of noise; None: no control.

    rate: as `check_attack` has it
    """
    config, outcome = attacked.config, attacked.outcome
    targeted, served = outcome.targets is not None, str(config.protocol.database)
    control = not is_control(config.attack.name)
    if not rate:
        known = measured.scores.columns[served]
        more, less = ("tmap", "tmap_clean") if targeted else ("map", "map_adversarial")
        figures = noise_precision(attacked, database) if control else None
        return known[more] - known[less], _mean(figures)
    data = AttackData(attacked.trained.data, database, served, config.protocol.query_modality)
    threshold = (measured.metrics["threshold_bits"] or Metric()).value
    clean = hits(outcome.columns[f"{BITS}clean"], threshold, targeted=targeted)
    codes = noise_codes(attacked, database) if control else None
    if codes is None:
        return outcome.columns[rate] - clean, None
    wanted = outcome.labels if outcome.targets is None else outcome.targets
    figures = hits(nearest(codes, data, wanted), threshold, targeted=targeted)
    return outcome.columns[rate] - clean, _mean(figures)


def _mean(figures: Floats | None) -> float | None:
    return None if figures is None or np.isnan(figures).all() else float(np.nanmean(figures))


def examples(
    attacked: Attacked, scores: Mapping[str, Columns], database: HashCodes, folder: Path
) -> list[Example]:
    """What some queries retrieve before and after the attack; pictures go into the run folder."""
    config, outcome = attacked.config, attacked.outcome
    modality = config.protocol.query_modality
    main = scores[str(config.protocol.database)]
    score = -main["map_adversarial"] if outcome.targets is None else main["tmap"]
    if at_threshold(attacked):  # nearer to the target, or farther from the own picture
        far = outcome.columns["bits_adversarial"].astype(np.float64)
        score = far if outcome.targets is None else -far
    texts = None
    if modality == "text":
        texts = (as_tensor(outcome.clean), as_tensor(outcome.moved))
    return build_examples(
        folder,
        dataset=attacked.trained.data,
        modality=modality,
        rows=outcome.rows.numpy(),
        adversarial=outcome.moved if modality == "image" else None,
        texts=texts,
        clean_codes=outcome.clean_codes,
        adversarial_codes=outcome.codes,
        database_codes=database,
        targets=None if outcome.targets is None else torch.from_numpy(outcome.targets),
        score=score,
        linf=outcome.columns["linf"],
    )
