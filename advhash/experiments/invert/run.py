"""`advhash invert`: what codes of a federation give away of the inputs that they were made from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.experiments.attack.record import dataset_info, run_info, victim_info
from advhash.experiments.detect.federation import roc_rows
from advhash.experiments.experiment import Experiment, Place
from advhash.experiments.invert.cells import (
    CODE,
    ClassDecoder,
    Loss,
    Samples,
    Stage,
    Sweep,
    TranscriptAttack,
    World,
)
from advhash.experiments.invert.config import InvertConfig
from advhash.experiments.invert.figures import (
    Seen,
    columns_of,
    correct,
    gained,
    leakage,
    party_bits,
    rated_attacker,
    sample_pictures,
    write_samples,
)
from advhash.experiments.invert.plan import WORLDS, InvertPlan, plan_inversion
from advhash.experiments.invert.transcripts import TranscriptFigures
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained
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
from advhash.measures.sanity import Flag, check_count, check_threshold
from advhash.registry import EXPERIMENTS, INVERSIONS
from advhash.reports.inversion.record import (
    SCHEMA,
    InversionInfo,
    InversionProtocol,
    InversionRecord,
    Roc,
    SweepPoint,
    World as WorldRow,
)
from advhash.storage.cells import Result
from advhash.victims.federated.hashvfl import HashVFL

Floats = npt.NDArray[np.float64]
Columns = Mapping[str, Floats]


@EXPERIMENTS.register(
    "invert", source="after Qiu et al., IEEE TIFS 2024, and He et al., ACSAC 2019"
)
class Invert(Experiment[InvertConfig, Stage, InvertPlan, InversionRecord]):
    """Reconstruct what parties of a federation hold from the codes that they send."""

    name, config, record, code = "invert", InvertConfig, InversionRecord, CODE
    lasts = False
    stage = "reconstruction"

    def plan(self, config: InvertConfig) -> InvertPlan:
        return plan_inversion(config)

    def compute(self, cell: Stage, place: Place) -> Result:
        began = time.perf_counter()
        result = cell.compute(place)
        seconds = time.perf_counter() - began
        return Result({**result.document, "seconds": seconds}, result.tensors)

    def judge(self, plan: InvertPlan, results: Sequence[Result], place: Place) -> InversionRecord:
        return _record(plan, _Results.of(plan.cells, results), place)


@dataclass(frozen=True)
class _Results:
    """What the cells found, by their kinds.

    class_only: (N, …) of a decoder that is told the class, by its loss
    matched, favoured: by the nearest code (N,), and whether validation rows favour that
    gradients: (n,) of 0/1, whether they give the label away
    """

    worlds: dict[str, Seen]
    class_only: dict[Loss, Tensor]
    matched: Floats
    favoured: str
    transcript: TranscriptFigures | None
    gradients: Floats | None
    sweeps: list[tuple[Sweep, Result]]
    seconds: dict[str, float]

    @classmethod
    def of(cls, cells: Sequence[Stage], results: Sequence[Result]) -> _Results:
        pairs = list(zip(cells, results, strict=True))
        worlds = {cell.name: result for cell, result in pairs if isinstance(cell, World)}
        transcripts = [result for cell, result in pairs if isinstance(cell, TranscriptAttack)]
        codes = worlds["codes"]
        seconds = {
            name: sum(
                result.document["seconds"] for cell, result in pairs if isinstance(cell, kinds)
            )
            for name, kinds in (
                ("reconstruction", (World, ClassDecoder)),
                ("transcript", TranscriptAttack),
                ("sweep", Sweep),
            )
        }
        return cls(
            {name: Seen.of(result) for name, result in worlds.items()},
            {c.loss: result.tensors["found"] for c, result in pairs if isinstance(c, ClassDecoder)},
            codes.tensors["matched"].numpy(),
            codes.document["favoured"],
            next(
                (
                    TranscriptFigures.model_validate(transcript.document)
                    for transcript in transcripts
                ),
                None,
            ),
            next(
                (transcript.tensors["label_from_gradients"].numpy() for transcript in transcripts),
                None,
            ),
            [(cell, result) for cell, result in pairs if isinstance(cell, Sweep)],
            seconds,
        )


@dataclass(frozen=True)
class _Figures:
    """The figures of each sample that means and differences are taken of.

    score: "ssim" of images, "mse" of tables
    boot:  seed of the bootstrap
    base, class_only: columns of the class means, and of decoders that are told the class
    chance: (N,) of picking the true input among its candidates
    right, right_twin: whether victim and twin are right, on the whole query split
    """

    score: str
    boot: int
    results: _Results
    base: Columns
    class_only: Mapping[Loss, Columns]
    chance: Floats
    right: Floats
    right_twin: Floats

    def best(self, name: str) -> Columns:
        """Columns of the attacker that validation data chose in a world."""
        world = self.results.worlds[name]
        return world.columns[world.chosen]

    @property
    def hits(self) -> Floats:
        """The way to read codes that validation rows favour: by matching them or by picture."""
        results = self.results
        return results.matched if results.favoured == "matching" else self.best("codes")["hit"]

    def mean(self, values: Floats) -> Metric | None:
        return None if np.isnan(values).all() else mean_metric(values, self.boot)

    def gain(self, values: Floats, floor: Floats) -> Difference | None:
        return None if np.isnan(values).all() else gained(self.score, values, floor, self.boot)


def _record(plan: InvertPlan, results: _Results, place: Place) -> InversionRecord:
    config = plan.config
    trained: Trained = place.part("victim")
    twin: Trained = place.part("twin")
    victim, data, seed = trained.victim, trained.data, config.seed
    assert isinstance(victim, HashVFL)
    assert isinstance(twin.victim, HashVFL)
    boot, party = derive_seed(seed, "bootstrap"), config.protocol.query_modality
    samples = Samples.of(config, data)
    rows = samples.rows
    every = data.query.rows(torch.arange(len(data.query)))
    inputs, kinds = every.inputs[party], every.labels.argmax(dim=1)
    true, labels = inputs[rows], kinds[rows]
    own_class = _class_means(samples, party, labels)
    base = reconstruction_columns(own_class, true)
    class_only = {
        loss: reconstruction_columns(drawn, true) for loss, drawn in results.class_only.items()
    }
    candidates, draw = int(config.attack.settings["candidates"]), derive_seed(seed, "candidates")
    shown = []
    for name, world in results.worlds.items():
        rated = []
        for attacker, drawn in world.drawn.items():
            columns = reconstruction_columns(drawn, true)
            columns["hit"], chance = reidentified(
                pixel_distances(drawn, inputs), rows, kinds, candidates=candidates, seed=draw
            )
            world.columns[attacker] = columns
            informed = class_only[_loss_of(attacker)]
            chosen, merit = attacker == world.chosen, world.merits[attacker]
            rated.append(rated_attacker(attacker, chosen, merit, columns, base, boot, informed))
        shown.append(WorldRow(name=name, text=WORLDS[name], attackers=rated))
    transcript = results.transcript
    shown += [] if transcript is None else transcript.worlds
    figures = _Figures(
        score="ssim" if victim.is_image(party) else "mse",
        boot=boot,
        results=results,
        base=base,
        class_only=class_only,
        chance=chance,
        right=correct(victim, data.query, seed),
        right_twin=correct(twin.victim, data.query, seed),
    )
    write_samples(
        place.folder / "samples.parquet", rows, labels, results.worlds, base, results.matched
    )
    detection = roc_rows(victim, data, seed, boot)
    seconds = {"victims": place.seconds["victim"] + place.seconds["twin"], **results.seconds}
    return InversionRecord(
        schema_=SCHEMA,
        command="invert",
        run=run_info(place.final, seed, config.device, {**seconds, "all": place.seconds["all"]}),
        victim=victim_info(trained),
        attack=_info(config),
        dataset=dataset_info(data),
        protocol=InversionProtocol(
            party=party,
            columns=columns_of(data, party),
            samples=len(samples.attacked),
            validation=len(data.validation),
            auxiliary=len(samples.auxiliary),
            candidates=candidates,
            transcript_samples=0 if transcript is None else transcript.samples,
            transcript_bytes=0 if transcript is None else transcript.bytes,
            confidence=CONFIDENCE,
            resamples=RESAMPLES,
        ),
        flags=[
            *(Flag(**flag) for flag in trained.card.get("flags", [])),
            *check_count(config.protocol.queries, len(samples.attacked)),
            *_detectors_off(detection),
        ],
        metrics=_metrics(figures, victim),
        differences=_differences(figures),
        worlds=shown,
        bits=[party_bits(victim, data, name) for name in victim.bounds],
        leakage=leakage(victim, data, party, results.gradients, derive_seed(seed, "leakage"), boot),
        sweep=_sweep(figures, victim),
        detection=detection,
        pictures=sample_pictures(
            place.folder, data, samples.attacked, rows, true, own_class, results.worlds
        ),
    )


def _detectors_off(detection: list[Roc]) -> list[Flag]:
    """One flag for each detector that is off, whatever the abnormal inputs."""
    each = {row.detector: row for row in detection}
    return [
        flag
        for name, row in each.items()
        for flag in check_threshold(name, row.threshold, row.highest)
    ]


def _class_means(samples: Samples, party: str, labels: Tensor) -> Tensor:
    """(N, …) the mean of the attacker's inputs of each sample's class."""
    auxiliary = samples.auxiliary
    known = auxiliary.rows(torch.arange(len(auxiliary))).inputs[party]
    return class_means(known, auxiliary.labels.argmax(dim=1), labels)


def _metrics(figures: _Figures, victim: HashVFL) -> dict[str, Metric | None]:
    boot, transcript, mean, best = (
        figures.boot,
        figures.results.transcript,
        figures.mean,
        figures.best,
    )
    metrics: dict[str, Metric | None] = {
        "accuracy": rate_metric(figures.right, boot),
        "accuracy_undefended": rate_metric(figures.right_twin, boot),
        "ssim_codes": mean(best("codes")["ssim"]),
        "ssim_embeddings": mean(best("embeddings")["ssim"]),
        "ssim_undefended": mean(best("undefended")["ssim"]),
        "ssim_class_mean": mean(figures.base["ssim"]),
        "ssim_class_decoder": mean(figures.class_only["mse"]["ssim"]),
        "mse_codes": mean(best("codes")["mse"]),
        "mse_embeddings": mean(best("embeddings")["mse"]),
        "mse_undefended": mean(best("undefended")["mse"]),
        "mse_class_mean": mean(figures.base["mse"]),
        "reidentification": rate_metric(figures.hits, boot),
        "reidentification_chance": mean(figures.chance),
        "reidentification_by_picture": rate_metric(best("codes")["hit"], boot),
        "reidentification_by_code": rate_metric(figures.results.matched, boot),
        "reidentification_undefended": rate_metric(best("undefended")["hit"], boot),
        **{name: single_metric(value) for name, value in victim.privacy().items()},
        **({} if transcript is None else transcript.metrics),
    }
    if "ssim" in figures.class_only:
        metrics["ssim_class_decoder_ssim"] = mean(figures.class_only["ssim"]["ssim"])
    return metrics


def _differences(figures: _Figures) -> dict[str, Difference | None]:
    boot, transcript, score = figures.boot, figures.results.transcript, figures.score
    base, gain = figures.base[score], figures.gain
    codes, worlds = figures.best("codes")[score], figures.results.worlds
    informed = figures.class_only[_loss_of(worlds["codes"].chosen)][score]
    differences = {
        "accuracy_loss": paired_difference(figures.right_twin, figures.right, boot),
        "gain_codes": gain(codes, base),
        "gain_codes_over_class_decoder": gain(codes, informed),
        "gain_embeddings": gain(figures.best("embeddings")[score], base),
        "gain_undefended": gain(figures.best("undefended")[score], base),
        "reidentification_over_chance": paired_difference(figures.hits, figures.chance, boot),
        **({} if transcript is None else transcript.differences),
    }
    if "ssim" in figures.class_only:
        alone = figures.class_only["ssim"]["ssim"]
        trained_on = worlds["codes"].columns["decoder-ssim"]["ssim"]
        differences |= {
            "gain_decoder_ssim": gain(trained_on, figures.base["ssim"]),
            "gain_class_decoder_ssim": gain(alone, figures.base["ssim"]),
            "gain_decoder_ssim_over_class_decoder": gain(trained_on, alone),
        }
    return differences


def _sweep(figures: _Figures, victim: HashVFL) -> list[SweepPoint]:
    """Accuracy over K and P, with and without a defence; the run's own victim among them."""

    def point(bits: int, parties: int, right: Floats, right_twin: Floats) -> SweepPoint:
        return SweepPoint(
            bits=bits,
            parties=parties,
            accuracy=rate_metric(right, figures.boot),
            accuracy_undefended=rate_metric(right_twin, figures.boot),
        )

    sweep = []
    for cell, result in figures.results.sweeps:
        right, right_twin = (result.tensors[n].numpy() for n in ("right", "right_undefended"))
        sweep.append(point(cell.bits, cell.parties, right, right_twin))
    if sweep and (victim.bits, victim.parties) not in {(p.bits, p.parties) for p in sweep}:
        sweep.append(point(victim.bits, victim.parties, figures.right, figures.right_twin))
    return sweep


def _info(config: InvertConfig) -> InversionInfo:
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


def _loss_of(attacker: str) -> Loss:
    """What the decoder that stands against an attacker is trained by: the same where it learns."""
    return "ssim" if attacker == "decoder-ssim" else "mse"
