"""What a reconstruction run is, before anything is trained: what is refused, and its stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from advhash.attacks.inversion.code_inversion import TABLES
from advhash.errors import ConfigError, UsageError
from advhash.experiments.config import TrainConfig
from advhash.experiments.experiment import Plan
from advhash.experiments.invert.cells import (
    SAMPLES,
    ClassDecoder,
    Loss,
    Stage,
    Sweep,
    TranscriptAttack,
    World,
    auxiliary_rows,
)
from advhash.experiments.invert.config import InvertConfig
from advhash.experiments.prepare.planned import PlannedVictim
from advhash.registry import INVERSIONS, VICTIMS
from advhash.victims.federated.hashvfl import HashVFL

InvertPlan = Plan[InvertConfig, Stage]
WORLDS = {
    "codes": "one code a sample, as the server gets it",
    "embeddings": "the real values before the sign, which are never sent: a control",
    "undefended": "the embeddings that the undefended twin sends",
}


def plan_inversion(config: InvertConfig) -> InvertPlan:
    """Refuse, before any training, what can be seen from the config. Raises AdvhashError."""
    attack = config.attack.written(INVERSIONS)
    INVERSIONS.create(attack.name, attack.settings)
    known = PlannedVictim.of(config.turned_into(TrainConfig))
    party = _checked(config, known, attack.settings)
    twin = PlannedVictim.of(_variant(known, protection="none"))
    seen = {"query_modality": party, "database": party}
    protocol = config.protocol.model_copy(update=seen)
    resolved = known.written(config).model_copy(update={"attack": attack, "protocol": protocol})
    return InvertPlan(
        config=resolved,
        cells=_stages(resolved, known, twin),
        parts={"victim": known, "twin": twin},
        label=f"hashvfl-{config.attack.name}",
        shown=_shown(resolved, known),
    )


def _stages(config: InvertConfig, known: PlannedVictim, twin: PlannedVictim) -> list[Stage]:
    """The cells, of a config with every default."""
    own, settings = _own(known), config.attack.settings
    shared: dict[str, Any] = {
        "config": config,
        "victims": {"victim": known.identity, "twin": twin.identity},
        "threads": torch.get_num_threads(),
    }
    score: Loss = "ssim" if known.victim.is_image(config.protocol.query_modality) else "mse"
    stages: list[Stage] = [World(name=name, **shared) for name in WORLDS]
    stages += [ClassDecoder(loss=loss, **shared) for loss in _told_losses(settings, score)]
    if settings["transcript"]:
        stages.append(TranscriptAttack(**shared))
    for bits, parties in _sweep_pairs(own, settings):
        ours, bare = (
            PlannedVictim.of(_variant(known, bits=bits, parties=parties, protection=protection))
            for protection in (own["protection"], "none")
        )
        stages.append(
            Sweep(
                bits=bits,
                parties=parties,
                planned=(replace(ours, foreseen=None), replace(bare, foreseen=None)),
                identities=(ours.identity, bare.identity),
                **shared,
            )
        )
    return stages


def _checked(config: InvertConfig, known: PlannedVictim, settings: Mapping[str, Any]) -> str:
    """The attacked party.

    Raises UsageError: not a federation, the undefended one, no such party, a budget, no auxiliary
    rows, no attacker of tables, a transcript of a hardened victim, a sweep over victims that cannot
    be.
    """
    method, victim = config.attack.name, known.victim
    if not isinstance(victim, HashVFL):
        raise UsageError(
            f"{method} reconstructs what parties of a federation hold: expected --victim hashvfl, "
            f"got {known.name}"
        )
    if not victim.binary:
        raise UsageError(
            f"{method} needs a victim that hashes: expected victim.protection hash or laplace, got "
            "none (its undefended twin is trained along)"
        )
    if config.budget.norm is not None or config.budget.eps is not None:
        raise UsageError(f"{method} moves no input: expected no --norm and no --eps")
    party = victim.query_modality(config.protocol.query_modality)
    victim.check_modality(party)
    auxiliary_rows(known.data, settings["auxiliary"])
    if not victim.is_image(party) and set(settings["attackers"]) == {"decoder-ssim"}:
        raise UsageError(TABLES)
    hardened = config.defense is not None or (known.ready is not None and known.ready.defenses)
    if hardened and settings["transcript"]:
        raise UsageError(
            "a victim that was hardened sent other messages than a plain training does: expected "
            "attack.transcript=false"
        )
    own = _own(known)
    for bits, parties in _sweep_pairs(own, settings):
        try:
            VICTIMS.create("hashvfl", {**own, "bits": bits, "parties": parties})
        except ConfigError as error:
            raise UsageError(
                f"attack.sweep_bits or attack.sweep_parties, bits={bits}, parties={parties}: "
                f"{error}"
            ) from None
    return party


def _own(known: PlannedVictim) -> dict[str, Any]:
    """All settings of the victim."""
    settings = known.settings if known.ready is None else known.ready.card["settings"]
    return dict(settings or {})


def _variant(known: PlannedVictim, **changed: Any) -> TrainConfig:
    """What trains the same victim on the same data with other settings.

    Hardened like the victim by the defence of the config; never where it has no protection.
    """
    config, ready = known.config, known.ready
    seed = config.victim_seed
    if ready is not None:
        seed = int(ready.card.get("seed", config.seed))
    bare: dict[str, Any] = (
        {"defense": None, "defense_budget": {}} if changed["protection"] == "none" else {}
    )
    return config.turned_into(
        TrainConfig,
        seed=seed,
        victim={"name": known.name, **_own(known), **changed},
        dataset=known.dataset.model_dump(),
        **bare,
    )


def _sweep_pairs(own: Mapping[str, Any], settings: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(K, P) of every victim of the sweeps, each once; `own` are the settings of the victim."""
    pairs = [(bits, own["parties"]) for bits in settings["sweep_bits"]]
    pairs += [(own["bits"], parties) for parties in settings["sweep_parties"]]
    return list(dict.fromkeys(pairs))


def _told_losses(settings: Mapping[str, Any], score: Loss) -> list[Loss]:
    """The decoders that are told the class: one for each loss that an attacker uses."""
    both = score == "ssim" and "decoder-ssim" in settings["attackers"]
    return ["mse", "ssim"] if both else ["mse"]


def _shown(config: InvertConfig, known: PlannedVictim) -> dict[str, Any]:
    return {
        "victim": known.shown,
        "defense": None if config.defense is None else config.defense.model_dump(),
        "attack": {
            "kind": "inversion",
            "name": config.attack.name,
            "settings": config.attack.settings,
        },
        "dataset": {**known.data.named, "database": len(known.data.database)},
        "budget": None,
        "protocol": {"party": config.protocol.query_modality},
        "samples": min(config.protocol.queries or SAMPLES, len(known.data.query)),
    }
