"""`advhash attack --method code-inversion`: what codes of a federation give away."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from advhash.attacks.inversion.code_inversion import CodeInversion
from advhash.attacks.inversion.decoders import observe
from advhash.data.dataset import Progress, Split, silent
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.attack.record import dataset_info, run_info, victim_info
from advhash.experiments.config import AttackConfig
from advhash.experiments.detect.federation import roc_rows
from advhash.experiments.invert.parts import (
    Seen,
    class_decoder,
    correct,
    leakage,
    matching,
    party_bits,
    sample_pictures,
    swept,
    undefended,
    write_samples,
)
from advhash.experiments.invert.plan import (
    SAMPLES,
    auxiliary_rows,
    check_before_training,
    inversion_plan,
    is_inversion_method,
    resolve_inversion,
)
from advhash.experiments.invert.transcripts import attack_transcript
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained
from advhash.experiments.prepare.victim import train
from advhash.measures.intervals import (
    CONFIDENCE,
    RESAMPLES,
    Difference,
    Metric,
    mean_metric,
    paired_difference,
    rate_metric,
    single_metric,
)
from advhash.measures.reconstruction import (
    class_means,
    pixel_distances,
    reconstruction_columns,
    reidentified,
)
from advhash.measures.sanity import Flag
from advhash.registry import INVERSIONS
from advhash.reports.inversion.record import (
    SCHEMA,
    Attacker,
    InversionInfo,
    InversionProtocol,
    InversionRecord,
    SweepPoint,
    World,
)
from advhash.reports.page.render import render
from advhash.storage.files import write_json
from advhash.storage.run_folder import RunFolder, environment, new_run_id
from advhash.victims.federated.hashvfl import HashVFL

__all__ = ["inversion_plan", "invert", "is_inversion_method"]

Floats = npt.NDArray[np.float64]
WORLDS = {
    "codes": "one code a sample, as the server gets it",
    "embeddings": "the real values before the sign, which are never sent: a control",
    "undefended": "the embeddings that the undefended twin sends",
}


def invert(
    config: AttackConfig, out: Path | None = None, progress: Progress = silent
) -> InversionRecord:
    """Reconstruct, measure, and write the run folder (`out`, by default `runs/<id>`).

    Raises AdvhashError; then no folder is left.
    """
    check_before_training(config)
    seconds: dict[str, float] = {}
    began = time.perf_counter()
    trained = train(config, progress)
    config, party = resolve_inversion(config, trained)
    twin = undefended(trained, config, progress)
    seconds["victims"] = time.perf_counter() - began
    folder = RunFolder.start(out or Path("runs") / new_run_id(f"hashvfl-{config.attack.name}"))
    try:
        folder.write_text("config.toml", config.to_toml())
        write_json(folder.path / "env.json", environment())
        record = _into(folder, config, trained, twin, party, seconds, progress)
        folder.write_text("metrics.json", record.dumps())
        render([folder.path], folder.path / "report.html")
        folder.finish()
    except BaseException:
        folder.abandon()
        raise
    return record


def _into(
    folder: RunFolder,
    config: AttackConfig,
    trained: Trained,
    twin: Trained,
    party: str,
    seconds: dict[str, float],
    progress: Progress,
) -> InversionRecord:
    victim, data, seed = trained.victim, trained.data, config.seed
    assert isinstance(victim, HashVFL)
    assert isinstance(twin.victim, HashVFL)
    boot = derive_seed(seed, "bootstrap")
    settings = config.attack.settings
    count = config.protocol.queries or SAMPLES
    rows = choose_queries(data.query, count, derive_seed(seed, "queries"))
    attacked = data.query.take(rows)
    auxiliary = auxiliary_rows(data, settings["auxiliary"])
    began = time.perf_counter()
    worlds = {
        name: _seen(
            own, settings, "codes" if name == "codes" else "embeddings", auxiliary, data.validation,
            attacked, party, derive_seed(seed, "attack"), progress,
        )
        for name, own in (("codes", victim), ("embeddings", victim), ("undefended", twin.victim))
    }  # fmt: skip
    seconds["reconstruction"] = time.perf_counter() - began
    every = data.query.rows(torch.arange(len(data.query)))
    inputs, kinds = every.inputs[party], every.labels.argmax(dim=1)
    true, labels = inputs[rows], kinds[rows]
    known = auxiliary.rows(torch.arange(len(auxiliary))).inputs[party]
    known_labels = auxiliary.labels.argmax(dim=1)
    own_class = class_means(known, known_labels, labels)
    base = reconstruction_columns(own_class, true)
    score = "ssim" if victim.is_image(party) else "mse"
    class_only = {
        loss: reconstruction_columns(
            class_decoder(
                victim, data, auxiliary, labels, party, settings, seed, progress, loss=loss
            ),
            true,
        )
        for loss in told_losses(settings, score)
    }
    candidates, draw = int(settings["candidates"]), derive_seed(seed, "candidates")
    hits: dict[str, Floats] = {}
    shown = []
    for name, world in worlds.items():
        rated = []
        for attacker, found in world.found.items():
            columns = reconstruction_columns(found, true)
            columns["hit"], chance = reidentified(
                pixel_distances(found, inputs), rows, kinds, candidates=candidates, seed=draw
            )  # fmt: skip
            world.columns[attacker] = columns
            informed = class_only[loss_of(attacker)]
            rated.append(rate(attacker, world.method, columns, base, boot, informed))
        shown.append(World(name=name, text=WORLDS[name], attackers=rated))
        hits[name] = world.columns[world.method.chosen]["hit"]
    matched, picked = matching(victim, worlds["codes"], data, rows, party, settings, draw)
    told = None
    if settings["transcript"]:
        began = time.perf_counter()
        told = attack_transcript(trained, config, party, candidates, progress)
        shown += told.worlds
        seconds["transcript"] = time.perf_counter() - began
    right = correct(victim, data.query, seed)
    right_twin = correct(twin.victim, data.query, seed)
    best = {name: world.columns[world.method.chosen] for name, world in worlds.items()}
    head = matched if picked == "matching" else hits["codes"]

    def mean(values: Floats) -> Metric | None:
        return None if np.isnan(values).all() else mean_metric(values, boot)

    def gain(values: Floats, floor: Floats) -> Difference | None:
        return None if np.isnan(values).all() else paired_difference(values, floor, boot)

    privacy = {name: single_metric(value) for name, value in victim.privacy().items()}
    metrics: dict[str, Metric | None] = {
        "accuracy": rate_metric(right, boot),
        "accuracy_undefended": rate_metric(right_twin, boot),
        "ssim_codes": mean(best["codes"]["ssim"]),
        "ssim_embeddings": mean(best["embeddings"]["ssim"]),
        "ssim_undefended": mean(best["undefended"]["ssim"]),
        "ssim_class_mean": mean(base["ssim"]),
        "ssim_class_decoder": mean(class_only["mse"]["ssim"]),
        "mse_codes": mean(best["codes"]["mse"]),
        "mse_embeddings": mean(best["embeddings"]["mse"]),
        "mse_undefended": mean(best["undefended"]["mse"]),
        "mse_class_mean": mean(base["mse"]),
        "reidentification": rate_metric(head, boot),
        "reidentification_chance": mean(chance),
        "reidentification_by_picture": rate_metric(hits["codes"], boot),
        "reidentification_by_code": rate_metric(matched, boot),
        "reidentification_undefended": rate_metric(hits["undefended"], boot),
        **privacy,
        **({} if told is None else told.metrics),
    }
    differences = {
        "accuracy_loss": paired_difference(right_twin, right, boot),
        "gain_codes": gain(best["codes"][score], base[score]),
        "gain_codes_over_class_decoder": gain(
            best["codes"][score], class_only[loss_of(worlds["codes"].method.chosen)][score]
        ),
        "gain_embeddings": gain(best["embeddings"][score], base[score]),
        "gain_undefended": gain(best["undefended"][score], base[score]),
        "reidentification_over_chance": paired_difference(head, chance, boot),
        **({} if told is None else told.differences),
    }
    if "ssim" in class_only:
        alone, trained_on = class_only["ssim"]["ssim"], worlds["codes"].columns["decoder-ssim"]
        metrics |= {"ssim_class_decoder_ssim": mean(alone)}
        differences |= {
            "gain_decoder_ssim": gain(trained_on["ssim"], base["ssim"]),
            "gain_class_decoder_ssim": gain(alone, base["ssim"]),
            "gain_decoder_ssim_over_class_decoder": gain(trained_on["ssim"], alone),
        }
    write_samples(folder.path / "samples.parquet", rows, labels, worlds, base, matched)
    began = time.perf_counter()
    sweep = swept(trained, config, settings, boot, progress)
    if sweep and (victim.bits, victim.parties) not in {(p.bits, p.parties) for p in sweep}:
        sweep.append(
            SweepPoint(
                bits=victim.bits,
                parties=victim.parties,
                accuracy=rate_metric(right, boot),
                accuracy_undefended=rate_metric(right_twin, boot),
            )
        )
    seconds["sweep"] = time.perf_counter() - began
    card = trained.card
    return InversionRecord(
        schema_=SCHEMA,
        command="attack",
        run=run_info(folder.final, seed, config.device, seconds),
        victim=victim_info(trained),
        attack=_info(config),
        dataset=dataset_info(data),
        protocol=InversionProtocol(
            party=party,
            samples=len(attacked),
            validation=len(data.validation),
            auxiliary=len(auxiliary),
            candidates=candidates,
            transcript_samples=0 if told is None else told.samples,
            transcript_bytes=0 if told is None else told.bytes,
            confidence=CONFIDENCE,
            resamples=RESAMPLES,
        ),
        flags=[Flag(**flag) for flag in card.get("flags", [])],
        metrics=metrics,
        differences=differences,
        worlds=shown,
        bits=[party_bits(victim, data, name) for name in victim.bounds],
        leakage=leakage(victim, data, party, told, derive_seed(seed, "leakage"), boot),
        sweep=sweep,
        detection=roc_rows(victim, data, seed, boot),
        pictures=sample_pictures(folder.path, data, attacked, rows, true, own_class, worlds),
    )


def _info(config: AttackConfig) -> InversionInfo:
    entry = INVERSIONS[config.attack.name]
    return InversionInfo(
        kind="inversion",
        name=entry.name,
        settings=config.attack.settings,
        source=entry.source,
        summary=entry.summary,
        knowledge=sorted(entry.build.knowledge),  # type: ignore[attr-defined]
        deviations=entry.deviations,
    )


def _seen(
    victim: HashVFL,
    settings: dict[str, Any],
    observed: str,
    auxiliary: Split,
    validation: Split,
    attacked: Split,
    party: str,
    seed: int,
    progress: Progress,
) -> Seen:
    method: CodeInversion = INVERSIONS.create("code-inversion", {**settings, "observed": observed})
    method.fit(victim, auxiliary, validation, party, seed=seed, progress=progress)
    sent = observe(victim, attacked, party, method.observed, seed=derive_seed(seed, "attacked"))
    found = {
        name: member.reconstruct(victim, sent, party, seed=seed)
        for name, member in method.members.items()
    }
    return Seen(victim, method, found)


def loss_of(attacker: str) -> Literal["mse", "ssim"]:
    """What the decoder that stands against an attacker is trained by: the same where it learns."""
    return "ssim" if attacker == "decoder-ssim" else "mse"


def told_losses(settings: dict[str, Any], score: str) -> list[Literal["mse", "ssim"]]:
    """Of the decoders that are told the class: one for each loss that an attacker uses."""
    both = score == "ssim" and "decoder-ssim" in settings["attackers"]
    return ["mse", "ssim"] if both else ["mse"]


def rate(
    name: str,
    method: CodeInversion,
    columns: dict[str, Floats],
    base: dict[str, Floats],
    seed: int,
    informed: dict[str, Floats],
) -> Attacker:
    """The figures of one attacker, and its gain over the class mean and over who is told the class.

    informed: figures of a decoder that is told the class, trained by the attacker's loss
    """
    pictures = not np.isnan(columns["ssim"]).all()
    return Attacker(
        name=name,
        chosen=name == method.chosen,
        validation=method.merits[name],
        ssim=mean_metric(columns["ssim"], seed) if pictures else None,
        psnr=mean_metric(columns["psnr"], seed) if pictures else None,
        mse=mean_metric(columns["mse"], seed),
        reidentification=rate_metric(columns["hit"], seed),
        gain=paired_difference(columns["ssim"], base["ssim"], seed) if pictures else None,
        gain_over_told=(
            paired_difference(columns["ssim"], informed["ssim"], seed) if pictures else None
        ),
    )
