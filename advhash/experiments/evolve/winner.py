"""What a search over attacks found: judged on held-out queries, written as a config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from advhash.attacks.base import Attack
from advhash.attacks.evolved.genome import read_genome
from advhash.compute.progress import Progress
from advhash.experiments.attack.record import victim_info
from advhash.experiments.attack.run import resolve
from advhash.experiments.config import AttackConfig
from advhash.experiments.evolve.config import SearchConfig
from advhash.experiments.evolve.domain import AttackDomain, Range, make_range
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained
from advhash.measures.intervals import mean_metric, paired_difference, ratio_of_means
from advhash.registry import ATTACKS
from advhash.reports.evolve import HeldOut, SearchResult

STEPS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # of the radius: what the tuned dhta chooses from


def best_candidate(results: Sequence[SearchResult]) -> Any:
    """The best candidate of the searches with the functional cache; None where there is none."""
    searches = [result for result in results if result.arm == "cached" and result.best is not None]
    return max(searches, key=lambda result: result.figures["fitness"]).best if searches else None


def on_held_out(
    config: SearchConfig,
    place: Range,
    other: Trained,
    winner: Any,
    boot: int,
    progress: Progress,
) -> list[HeldOut]:
    """The winner and dhta on held-out queries, before the victim of the search and another.

    All have the same budget of passes: a winner with diversity takes fewer steps. dhta runs as it
    is and with the best of `STEPS`, chosen like the winner: on the queries of the search.
    """
    genome, trials = read_genome(winner), []
    steps = config.search.steps

    def dhta(step: float = 0.1) -> Attack:
        rival: Attack = ATTACKS.create("dhta", {"steps": steps, "step": step})
        return rival

    tried = [float(place.precision(dhta(step)).mean()) for step in STEPS]
    tuned = STEPS[int(np.argmax(tried))]
    for number, trained in enumerate((place.trained, other)):
        progress("held-out queries", number, 2)
        judged = make_range(
            trained,
            "query",
            config.search.held_out,
            rule=config.targets,
            budget=place.budget,
            seed=derive_seed(config.seed, "held out"),
            progress=progress,
        )
        ours = AttackDomain(judged, steps=steps, bits=0).attack(genome)
        attacks = {"winner": ours, "dhta": dhta(), "dhta_tuned": dhta(tuned)}
        arrays = {name: judged.precision(attack) for name, attack in attacks.items()}
        trials.append(
            HeldOut(
                victim=trained.card["name"],
                bits=trained.victim.bits,
                searched=number == 0,
                info=victim_info(trained),
                queries=len(judged.rows),
                tmap={
                    name: mean_metric(values, boot)
                    for name, values in (
                        *arrays.items(),
                        ("clean", judged.clean),
                        ("ceiling", judged.ceiling),
                    )
                },
                normalised={
                    name: ratio_of_means(values - judged.clean, judged.ceiling - judged.clean, boot)
                    for name, values in arrays.items()
                },
                difference=paired_difference(arrays["winner"], arrays["dhta"], boot),
                tuned_step=tuned,
                tuned_difference=paired_difference(arrays["winner"], arrays["dhta_tuned"], boot),
            )
        )
    progress("held-out queries", 2, 2)
    return trials


def exported(config: SearchConfig, place: Range, winner: Any) -> str:
    """The winner as the file that `advhash attack --config` runs."""
    steps = read_genome(winner).steps(config.search.steps)
    turned = config.turned_into(
        AttackConfig,
        attack={"name": "evolved", "steps": steps, **winner},
        budget={**config.budget.model_dump(), "eight_bit": True},  # as the search moved pictures
        protocol={"targets": config.targets, "queries": config.search.held_out},
    )
    return resolve(turned, place.trained).to_toml()
