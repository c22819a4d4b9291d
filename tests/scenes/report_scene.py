"""Small finished runs of every kind, made through the record models: what pages are tested on."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from advhash.codes import HashCodes
from advhash.data import Dataset, Split
from advhash.experiments.attack.examples import build_examples
from advhash.measures.intervals import Difference, Metric
from advhash.measures.sanity import Flag
from advhash.reports import certificates
from advhash.reports.benchmark import BenchmarkRecord
from advhash.reports.certificates import CertificateRecord
from advhash.reports.detection import DetectionRecord
from advhash.reports.encoding import FIGURES, METRICS, Coder, Detection, EncodingRecord, Site
from advhash.reports.evolve import SearchRecord
from advhash.reports.inversion.record import InversionRecord
from advhash.reports.judge import JudgeRecord
from advhash.reports.least_change import LEVELS, LeastChangeRecord
from advhash.reports.lifelong.record import VERDICT, LifelongRecord
from advhash.reports.phase import FACTORS, OUTCOMES, PhaseRecord
from advhash.reports.poison import OWN, PLANTED, PoisonRecord
from advhash.reports.record import (
    SCHEMA,
    AttackInfo,
    BudgetInfo,
    DatasetInfo,
    Protocol,
    Record,
    RunInfo,
    VictimInfo,
)
from advhash.reports.scan import ScanRecord
from advhash.reports.transfer import (
    Check,
    Defense,
    MatrixEntry,
    Method,
    PrecisionAt,
    TransferRecord,
    TransferShown,
    Victim,
)

HOSTILE = "<script>alert('x')</script>"
CLASSES = ("cat", HOSTILE, "dog")
TARGETED = {
    "map": Metric(0.8, 0.75, 0.85, 9),
    "map_chance": Metric(0.3, 0.29, 0.31, 9),
    "map_adversarial": Metric(0.4, 0.35, 0.45, 9),
    "tmap": Metric(0.7654, 0.71, 0.82, 9),
    "tmap_chance": Metric(0.3, 0.29, 0.31, 9),
    "tmap_clean": Metric(0.2345, 0.2, 0.27, 9),
    "tmap_ceiling": Metric(0.9012, 0.89, 0.91, 9),
    "tmap_normalised": Metric(0.7963, 0.7012, 0.8523, 9),
    "linf": Metric(8 / 255, 8 / 255, 8 / 255, 9),
    "l2": Metric(1.5, 1.4, 1.6, 9),
    "psnr": Metric(36.9, 36.0, 37.0, 9),
    "ssim": Metric(0.94, 0.93, 0.95, 9),
    "overrun": Metric(0.12, 0.1, 0.14, 9),
    "seconds_fit": Metric(12.0, None, None, 1),
    "seconds_per_image": Metric(0.01, None, None, 1),
}
UNTARGETED = {
    name: None if name.startswith("tmap") else metric for name, metric in TARGETED.items()
}
HISTORY: list[dict[str, float | str]] = [
    {"phase": "$bad$ <b>", "epoch": float(epoch), "loss": 2.0**-epoch, "note": "text"}
    for epoch in range(9)
]


def dataset() -> Dataset:
    """12 database rows and 6 queries of 8×8 pixels; labels cycle through the classes."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
        labels = torch.eye(3, dtype=torch.uint8)[torch.arange(count) % 3]
        return Split({"image": pixels}, labels, tuple(f"{HOSTILE} {row}" for row in range(count)))

    return Dataset("toy", {}, split(12), torch.arange(4), split(3), split(6), CLASSES)


def codes(labels: torch.Tensor) -> HashCodes:
    """Each class has a code of its own: 4 bits of 12."""
    return HashCodes.pack(labels.repeat_interleave(4, dim=1).numpy())


def make_run(folder: Path, *, goal: str = "targeted", pictures: bool = True) -> Path:
    """A finished run in which every attacked query takes the code of its target."""
    data = dataset()
    folder.mkdir(parents=True)
    targets = data.query.labels.roll(1, dims=1)
    clean = data.query.inputs["image"].float() / 255
    examples = build_examples(
        folder,
        dataset=data,
        modality="image" if pictures else "text",
        rows=np.arange(6),
        adversarial=(clean + 8 / 255).clamp(0, 1) if pictures else None,
        clean_codes=codes(data.query.labels),
        adversarial_codes=codes(targets),
        database_codes=codes(data.database.labels),
        targets=targets if goal == "targeted" else None,
        score=np.linspace(0, 1, 6),
        linf=np.full(6, 8 / 255),
        count=3,
    )
    record = Record(
        schema_=SCHEMA,
        command="attack",
        run=RunInfo(
            id=folder.name, folder=str(folder), created="2026-01-01T00:00:00+00:00", seed=0,
            device="cpu", version="0", seconds={"victim": 1.0, "fit": 2.0, "attack": 0.5},
        ),
        victim=VictimInfo(
            name="dlcmh", settings={"bits": 12}, source="a paper", summary="A victim.",
            cached=True, fingerprint="ab", history=HISTORY, deviations=["smaller backbone"],
            modalities=["image"], notes={},
        ),
        attack=AttackInfo.model_validate(
            {
                "name": "prosgan", "settings": {}, "source": "https://example.org/paper",
                "summary": "An attack.", "cached": False, "fingerprint": "cd", "history": [],
                "deviations": [], "goal": goal, "knowledge": ["weights"],
            }
        ),
        dataset=DatasetInfo(
            name="toy", settings={}, fingerprint="ef", classes=list(CLASSES), database=12,
            train=4, queries=6, attribution="Pictures by nobody",
        ),
        budget=BudgetInfo(norm="linf", eps=8 / 255, text="L∞ 8/255", eight_bit=True),
        protocol=Protocol(
            targets="disjoint" if goal == "targeted" else None,
            query_modality="image" if pictures else "text", database="fused", queries=6,
            top_k=None, ties="expected", empty="zero", empty_queries=0, confidence=0.95,
            resamples=2000,
        ),
        flags=[Flag(name="odd", level="warning", message=f"mind {HOSTILE}")],
        metrics=TARGETED if goal == "targeted" else UNTARGETED,
        metrics_by_direction={"image-text": UNTARGETED},
        examples=examples,
    )  # fmt: skip
    (folder / "metrics.json").write_text(record.dumps(), encoding="utf-8")
    return folder


def edit(folder: Path, change: Callable[[dict], None]) -> Path:
    """Rewrite the record of a run."""
    file = folder / "metrics.json"
    body = json.loads(file.read_text("utf-8"))
    change(body)
    file.write_text(json.dumps(body), encoding="utf-8")
    return folder


class Tags(HTMLParser):
    """All start tags with their attributes, and the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def every(self, tag: str, attribute: str) -> list[str | None]:
        return [given.get(attribute) for name, given in self.tags if name == tag]


# --- the other kinds ------------------------------------------------------------------------------

SHARE = Metric(0.5, 0.4, 0.6, 9)
GAIN = Difference(0.1, 0.05, 0.15, 9, 0.002)
FLAG = Flag(name="few", level="info", message=f"few {HOSTILE}")


def info(folder: Path) -> RunInfo:
    return RunInfo(
        id=folder.name, folder=str(folder), created="2026-01-01T00:00:00+00:00", seed=0,
        device="cpu", version="0", seconds={"all": 1.0},
    )  # fmt: skip


def victim_info(name: str) -> VictimInfo:
    return VictimInfo(
        name=name, settings={"bits": 12, "parties": 2}, source="a paper", summary="A victim.",
        cached=True, fingerprint="ab", history=[], deviations=[f"of {HOSTILE}"],
        modalities=["image"], notes={},
    )  # fmt: skip


def attack_info(goal: str) -> AttackInfo:
    return AttackInfo.model_validate(
        {
            "name": "dhta", "settings": {}, "source": "a paper", "summary": "An attack.",
            "cached": False, "fingerprint": "", "history": [], "deviations": [], "goal": goal,
            "knowledge": ["weights", "labels"],
        }
    )  # fmt: skip


DATA = DatasetInfo(
    name="toy", settings={}, fingerprint="ef", classes=list(CLASSES), database=12, train=4,
    queries=6, attribution="Pictures by nobody",
)  # fmt: skip
BUDGET = BudgetInfo(norm="linf", eps=8 / 255, text="L∞ 8/255", eight_bit=True)
PROTOCOL = Protocol(
    targets="disjoint", query_modality="image", database="image", queries=6, top_k=None,
    ties="expected", empty="zero", empty_queries=0, confidence=0.95, resamples=2000,
)  # fmt: skip


def written(folder: Path, record: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(record.dumps(), encoding="utf-8")
    packages = {"torch": "2.9", "timm": "1.0", "numpy": "2.0"}
    (folder / "env.json").write_text(json.dumps({"python": "3.11", "packages": packages}))
    return folder


CHANGED = ["clean.png", "change.png", "changed.png"]


def with_pictures(folder: Path, *names: str) -> Path:
    """A run folder with pictures of different colours."""
    for place, name in enumerate(names):
        Image.new("RGB", (8, 12), (40 * place, 90, 30)).save(folder / name)
    return folder


def make_transfer(folder: Path, *, defended: bool = False) -> Path:
    """Two victims, a targeted and an untargeted attack."""
    victims = ["dpsh", f"dpsh+{HOSTILE}"]
    goals = {"dhta": "targeted", "hag": "untargeted"}
    metrics: dict[str, Metric | None] = {}
    for method, goal in goals.items():
        main = "tmap" if goal == "targeted" else "map_adversarial"
        metrics |= {f"{main}_own:{method}": SHARE, f"{main}_transferred:{method}": SHARE}
    defense = None
    if defended:
        row = {"rows": 12, "distinct": 3, "balance": 0.5, "entropy": 0.9}
        defense = Defense(
            checkpoint="c", undefended=victims[0], defended=victims[1],
            codes=dict.fromkeys(victims, row), training=dict.fromkeys(victims, 3.0),
            checks=[Check(name="steps", question="Help?", points={"10": SHARE}, passed=True)],
        )  # fmt: skip
        ends = ("", "_undefended")
        names = [
            f"{n}{e}"
            for n in ("map_clean", "map_robust", "tmap_clean", "tmap_robust")
            for e in ends
        ]
        names += ["map_nonadaptive", "tmap_nonadaptive", "map_kept", "map_drop_ratio"]
        metrics |= dict.fromkeys([*names, "tmap_gain_ratio"], SHARE)
    cells = [
        MatrixEntry(method=method, source=source, target=target, metrics=dict(TARGETED), gain=GAIN,
             over_noise=GAIN)
        for method in goals for source in victims for target in victims
    ]  # fmt: skip
    folder = written(
        folder,
        TransferRecord(
            schema_="advhash/transfer/1", command="defend" if defended else "transfer",
            run=info(folder), flags=[FLAG], metrics=metrics, cells=cells, defense=defense,
            victims=[Victim(label=name, database="image", info=victim_info(name))
                     for name in victims],
            methods=[Method(label=method, source=source, info=attack_info(goal))
                     for method, goal in goals.items() for source in victims],
            dataset=DATA, budgets=dict.fromkeys(goals, BUDGET), protocol=PROTOCOL,
            shown_changes=[
                TransferShown(
                    name=HOSTILE, linf=8, l2=2.5, files=CHANGED, method="dhta", source="dpsh",
                    rank="its best query",
                    precision=[PrecisionAt(target=HOSTILE, before=0.1, after=None)],
                ),
            ],
        ),
    )  # fmt: skip
    return with_pictures(folder, *CHANGED)


def make_lifelong(folder: Path) -> Path:
    """One order, one increment, two methods, one attack."""
    victim = {"name": "dlcmh", "settings": {}, "source": "a paper", "deviations": ["smaller"]}
    table = [
        {"method": method, "stage": stage, "group": group, "direction": "mean", "view": view,
         "metric": vars(SHARE)}
        for method in ("frozen", "dlcmh") for stage in (0, 1)
        for group in (("all", "old", "new", "first") if stage else ("all",))
        for view in ("served", "untrained", "hashed")
    ]  # fmt: skip
    times = [
        {"method": "dlcmh", "stage": stage, "seconds": vars(SHARE), "cpu_seconds": vars(SHARE),
         "epochs": 1.0, "changed": 0.0}
        for stage in (0, 1)
    ]  # fmt: skip
    attacks = [
        {"attack": attack, "stage": stage, "tmap": vars(SHARE), "tmap_clean": vars(SHARE),
         "tmap_chance": vars(SHARE), "l2": vars(SHARE)}
        for attack in ("stale", "fresh") for stage in (0, 1)
    ]  # fmt: skip
    record = LifelongRecord.model_validate(
        {
            "schema_": "advhash/lifelong/1", "command": "lifelong",
            "run": info(folder).model_dump(), "victim": victim, "rival": {**victim, "name": "dcmh"},
            "attack": None, "dataset": DATA.model_dump(),
            "protocol": {"orders": [[[HOSTILE]]], "seeds": [0], "rows": [[8, 12]],
                         "queries": [[4, 2]], "confidence": 0.95, "resamples": 2000, "threads": 1},
            "flags": [], "metrics": dict.fromkeys(VERDICT, vars(SHARE)), "table": table,
            "times": times, "robustness": attacks,
        }
    )  # fmt: skip
    return written(folder, record)


def make_inversion(folder: Path) -> Path:
    """One party's digits, an attacker, a ROC curve."""
    attacker = {
        "name": "decoder", "chosen": True, "validation": 0.5, "ssim": vars(SHARE),
        "psnr": vars(SHARE), "mse": vars(SHARE), "gain": vars(GAIN),
        "reidentification": vars(SHARE),
    }  # fmt: skip
    names = ("accuracy", "accuracy_undefended", "ssim_codes", "ssim_class_mean", "mse_class_mean")
    more = ("ssim_class_decoder", "reidentification", "reidentification_chance")
    metrics = dict.fromkeys((*names, *more, "reidentification_by_code"), vars(SHARE))
    attack = attack_info("targeted").model_dump()
    for name in ("cached", "fingerprint", "history", "goal", "indicators"):
        attack.pop(name)
    record = InversionRecord.model_validate(
        {
            "schema_": "advhash/inversion/1", "command": "attack",
            "run": info(folder).model_dump(), "victim": victim_info("hashvfl").model_dump(),
            "attack": {**attack, "kind": "inversion"}, "dataset": DATA.model_dump(),
            "protocol": {"party": "party0", "samples": 2, "validation": 2, "auxiliary": 4,
                         "candidates": 2, "transcript_samples": 1, "transcript_bytes": 9,
                         "confidence": 0.95, "resamples": 2000},
            "flags": [], "metrics": metrics, "leakage": {"nearest_class_code": vars(SHARE)},
            "differences": {"accuracy_loss": vars(GAIN), "gain_codes": vars(GAIN),
                            "reidentification_over_chance": vars(GAIN)},
            "worlds": [{"name": "codes", "text": HOSTILE, "attackers": [attacker]}],
            "bits": [{"party": "party0", "means": [0.1, -0.1], "wanted": [0.0, 0.0]}],
            "sweep": [{"bits": bits, "parties": 2, "accuracy": vars(SHARE),
                       "accuracy_undefended": vars(SHARE)} for bits in (12, 24)],
            "detection": [{"inputs": "noise", "detector": "code-max", "auroc": vars(SHARE),
                           "detected": vars(SHARE), "false_alarms": vars(SHARE),
                           "fpr": [0.0, 1.0], "tpr": [0.0, 1.0]}],
            "pictures": [{"name": "0", "labels": HOSTILE, "files": {"original": "a.png"}}],
        }
    )  # fmt: skip
    written(folder, record)
    Image.new("RGB", (8, 8), (200, 30, 30)).save(folder / "a.png")
    return folder


def make_encoding(folder: Path) -> Path:
    """A code, pixels beside it, a layer, a detector."""
    coders = [
        Coder(label=label, kind=kind, bits=bits, metrics=dict.fromkeys(METRICS, SHARE),
              figures=dict.fromkeys(FIGURES, 0.5))
        for label, kind, bits in ((HOSTILE, "code", 12), ("pixels", "pixels", None))
    ]  # fmt: skip
    odd = [
        Detection(detector="novelty", inputs=kind, auroc=SHARE)
        for kind in ("adversarial", "mixed", "noise", "ood")
    ]
    record = EncodingRecord(
        schema_="advhash/encoding/1", command="encode", run=info(folder), flags=[FLAG],
        victim=victim_info("dph"), attack=attack_info("targeted"), budget=BUDGET, dataset=DATA,
        train=4, test=4, neighbours=3, chance=0.3, metrics=coders[0].metrics, coders=coders,
        sites=[Site(name="layer", size=12, kept=12, smooth=True)], detection=odd,
    )  # fmt: skip
    return written(folder, record)


def make_phase(folder: Path) -> Path:
    """Two widths at two times."""
    axes = {"width": [2.0, 4.0], "epochs": [0.0, 1.0], "sample": [6.0], "weight_decay": [0.0],
            "noise": [0.0]}  # fmt: skip
    points = [
        {"width": width, "epochs": epochs, "sample": 6, "weight_decay": 0.0, "noise": 0.0}
        for width in (2, 4) for epochs in (0, 1)
    ]  # fmt: skip
    cells = [
        {"point": point, "repeat": 0,
         "figures": {"bits": 6.0, **dict.fromkeys(OUTCOMES, 0.2 * place)}}
        for place, point in enumerate(points)
    ]  # fmt: skip
    effects = [
        {"outcome": name, "eta_squared": dict.fromkeys(FACTORS, 0.2), "repeats": None}
        for name in OUTCOMES
    ]
    record = PhaseRecord.model_validate(
        {
            "schema_": "advhash/phase/1", "command": "phase-chart",
            "run": info(folder).model_dump(), "victim": {"name": "neural-code"},
            "source": "a paper", "deviations": [HOSTILE], "attack": {"name": "dhta"},
            "budget": "L∞ 8/255", "dataset": DATA.model_dump(), "axes": axes, "repeats": 1,
            "queries": 6, "thresholds": {"under": 0.05, "sufficient": 0.01, "saturation": 0.01},
            "threads": 1, "flags": [], "metrics": {"share_under": vars(SHARE)},
            "effects": effects, "regimes": [[point, "under"] for point in points], "cells": cells,
        }
    )  # fmt: skip
    return written(folder, record)


def make_search(folder: Path) -> Path:
    """Two arms, all studies."""
    results = [
        {"arm": arm, "repeat": 0, "candidates": 3, "seconds": 2.0, "figures": {"fitness": 0.5},
         "best": {}, "lookups": {"full": 1}, "refused": 0, "checked": 1, "false": 0, "cache": {},
         "curve": [[0.5, 0.2, 0.0], [1.5, 0.5, 0.4]], "improvements": [[0.5, 0.2]],
         "repeated": 0}
        for arm in ("cached", "uncached")
    ]  # fmt: skip
    names = ("speedup", "hit_rate", "best_fitness", "best_fitness_uncached")
    more = ("time_to_uncached", "false_hit_rate", "hash_overhead")
    attacks = ("winner", "dhta", "dhta_tuned")
    record = SearchRecord.model_validate(
        {
            "schema_": "advhash/search/1", "command": "search", "run": info(folder).model_dump(),
            "domain": "attack",
            "settings": {"search": {"algorithm": "evolution", "seconds": 2.0, "steps": 3}},
            "dataset": DATA.model_dump(), "budget": BUDGET.model_dump(), "flags": [],
            "metrics": dict.fromkeys((*names, *more), vars(SHARE)), "results": results,
            "differences": {"best_gain": vars(GAIN)},
            "coarseness": [{"bits": 8, "keys": 2, "cells_per_key": 1, "collided": 0, "split": 0}],
            "noise": [{"noise": 0.1, "max_num_evals": 1, "remove_probability": 0.0,
                       "quality": vars(SHARE), "claimed": vars(SHARE), "candidates": vars(SHARE)}],
            "held_out": [{"victim": "dpsh", "searched": True,
                          "info": victim_info("dpsh").model_dump(), "queries": 6,
                          "tmap": dict.fromkeys((*attacks, "clean", "ceiling"), vars(SHARE)),
                          "normalised": dict.fromkeys(attacks, vars(SHARE)),
                          "difference": vars(GAIN), "tuned_step": 0.5,
                          "tuned_difference": vars(GAIN)}],
            "winner": {"anchor": HOSTILE},
        }
    )  # fmt: skip
    return written(folder, record)


def make_detect(file: Path) -> Path:
    """A file of `advhash detect --detector all --out`."""
    found = {
        "threshold": 2.0, "roc": {"fpr": [0.0, 1.0], "tpr": [0.0, 1.0]},
        "metrics": {"auroc": vars(SHARE), "detected": vars(SHARE), "strict_detected": None,
                    "accepted_adaptive": vars(SHARE), "false_alarms": vars(SHARE)},
    }  # fmt: skip
    record = DetectionRecord.model_validate(
        {
            "schema_": "advhash/detect/1", "command": "detect", "created": "2026-01-01T00:00:00",
            "version": "0", "seed": 0, "victim": {"name": "dpsh", "settings": {}},
            "dataset": {"name": "toy", "settings": {}}, "detector": {"name": "all", "settings": {}},
            "inputs": "prosgan", "attack": None, "budget": "unbounded", "clean": 6, "abnormal": 6,
            "validation": 3, "threshold": None, "allowed_false_alarms": 0.05, "seconds": 1.0,
            "detectors": {"nearest": found, HOSTILE: found},
        }
    )  # fmt: skip
    file.write_text(record.dumps(), encoding="utf-8")
    return file


def make_certify(file: Path) -> Path:
    """A file of `advhash certify --out`."""
    record = CertificateRecord.model_validate(
        {
            "schema_": "advhash/certify/1", "command": "certify", "created": "2026-01-01T00:00:00",
            "version": "0", "seed": 0, "victim": {"name": "dpsh", "settings": {}},
            "defenses": [{"name": HOSTILE}], "dataset": {"name": "toy", "settings": {}},
            "database": "image", "queries": 6, "smoothing": {"sigma": 0.25, "votes": 3, "seed": 0},
            "samples": 10, "selection": 10, "alpha": 0.001, "within": 2, "seconds": 1.0,
            "served": {"votes": 11, "level": 0.01}, "largest_radius": 0.4,
            "metrics": dict.fromkeys([*certificates.WORTH, "bits_abstained"], vars(SHARE)),
            "radii": [{"radius": radius, "metrics": dict.fromkeys(
                           [*certificates.BITS, *certificates.SHARES], vars(SHARE))}
                      for radius in (0.1, 0.2)],
            "codes": {"smoothed": {"distinct": 5.0}}, "environment": {},
            "flags": [{"name": "collapsed_codes", "level": "warning", "message": HOSTILE}],
        }
    )  # fmt: skip
    file.write_text(record.dumps(), encoding="utf-8")
    return file


def make_least_change(file: Path) -> Path:
    """A file of `advhash certify --victim pdq --out`: three pictures, nothing stated for one."""
    sizes: list[dict[str, Any]] = [
        {"half": True, "bound": 0.2, "real": 0.1, "attack": 0.21, "stored": 0.3},
        {"half": True, "bound": 0.4, "real": 0.0, "attack": 0.5, "stored": None},
        {"half": False, **dict.fromkeys(("bound", "real", "attack", "stored"))},
    ]
    names = [f"least_change_{name}" for name in ("bound", "real", "attack", "stored")]
    names += [f"{name}_over_bound" for name in ("real", "attack", "stored")]
    shares = dict.fromkeys(("holds_unrounded", "holds_as_run", "leaves_stored"), vars(SHARE))
    record = LeastChangeRecord.model_validate(
        {
            "schema_": "advhash/least-change/1", "command": "least-change", "version": "0",
            "created": "2026-01-01T00:00:00", "seed": 0, "seconds": 1.0, "environment": {},
            "victim": {"name": "pdq", "settings": {"shrink": 512}},
            "dataset": {"name": "toy", "settings": {}}, "bits": 256, "threshold": 31,
            "pictures": [{"picture": HOSTILE, "row": row, "height": 8, "width": 8, **size}
                         for row, size in enumerate(sizes)],
            "stated": 2, "metrics": dict.fromkeys(names, vars(SHARE)),
            "spread": {name: {"least": 0.1, "low": 0.2, "high": 0.8, "most": None}
                       for name in names},
            "levels": [{"level": level, "metrics": shares} for level in LEVELS],
            "flags": [{"name": "tied_values", "level": "warning", "message": HOSTILE}],
        }
    )  # fmt: skip
    file.write_text(record.dumps(), encoding="utf-8")
    return file


def make_benchmark(folder: Path) -> Path:
    """Two victims, two attacks, two radii; one cell failed."""
    names = ("map", "map_chance", "map_adversarial", "tmap", "tmap_chance", "tmap_clean",
             "tmap_ceiling", "tmap_normalised")  # fmt: skip
    metrics = dict.fromkeys(names, vars(SHARE))
    places = [
        {"dataset": "toy", "victim": victim, "method": method, "budget": f"L∞ {eps}/255"}
        for victim in ("dpsh", HOSTILE) for method in ("dhta", "blend") for eps in (4, 8)
    ]  # fmt: skip
    rows = [
        {**place, "norm": "linf", "eps": int(place["budget"].split()[1][0]) / 255,
         "goal": "targeted", "cells": 2, "rank": 1, "metrics": metrics, "flags": {"no_effect": 1},
         "protocol": PROTOCOL.model_dump() | {"database": "fused"}}
        for place in places
    ]  # fmt: skip
    cells = [
        {**place, "key": str(number), "victim_seed": 0, "attack_seed": 0, "status": "done",
         "seconds": 1.0, "figures": {"tmap": 0.5}}
        for number, place in enumerate(places)
    ]  # fmt: skip
    cells[-1] |= {"status": "failed", "message": HOSTILE, "trace": f"Traceback {HOSTILE}"}
    ranked = {"dataset": "toy", "budget": "L∞ 8/255", "goal": "targeted", "rank": 1}
    record = BenchmarkRecord.model_validate(
        {
            "schema_": "advhash/benchmark/1", "command": "benchmark",
            "run": info(folder).model_dump(), "name": "benchmark",
            "suite": {"victim_seeds": 1, "attack_seeds": 1}, "executor": "inline",
            "report": str(folder / "report.html"), "failed": [cells[-1]["key"]], "left": [],
            "flags": [], "rows": rows, "cells": cells, "attributions": [HOSTILE],
            "methods": [{**ranked, "method": method, "victims": ["dpsh", HOSTILE],
                         "main": vars(SHARE)} for method in ("dhta", "blend")],
            "victims": [{**ranked, "victim": victim, "method": "dhta", "metrics": metrics}
                        for victim in ("dpsh", HOSTILE)],
            "deviations": {"dpsh": [HOSTILE]}, "data": {"toy": "ef"},
        }
    )  # fmt: skip
    return written(folder, record)


def make_scan(folder: Path) -> Path:
    """Two hashes, one of them without a threshold; all lists filled."""
    rate = {"value": 1e-4, "low": 5e-5, "high": 2e-4, "n": 900}
    plain = {
        "label": HOSTILE, "bits": 64, "threshold": 8, "chosen": "interval",
        "false_positive_rate": rate, "false_positive_rate_with_marked": rate,
        "false_positive_rate_good": {**rate, "low": None, "high": None}, "resolved": True,
        "lookup_rate": rate, "bank_size": 900, "kept": 0.6, "worst_edit": "mirror",
        "curve": [{"threshold": at, "value": 1e-5 * at, "low": 0.0, "high": 1e-4 * at,
                   "resolved": at > 3} for at in range(20)],
        "edits": {"mirror": vars(SHARE)}, "pairs_within": 3, "matched_pictures": 4,
        "clusters": 2, "largest_cluster": 3,
        "nearest": [{"first": HOSTILE, "second": "b.jpg", "distance": 2, "marked": True}],
        "crowded": [{"name": HOSTILE, "matches": 40, "share": 0.1}],
        "bank": {"entries": 5, "matched": 1, "crowded": [],
                 "matches": [{"picture": HOSTILE, "entry": "row 3", "distance": 1}]},
        "evasion_at": {"pictures": 2, "moved_out": 1, "method": "gradients", "linf": [3, None],
                       "l2": [0.2, None], "names": [HOSTILE, "b.jpg"], "median_linf": 3.0,
                       "median_l2": 0.2, "shares": {"4": vars(SHARE)},
                       "after_jpeg": vars(SHARE)},
    }  # fmt: skip
    none = dict.fromkeys((
        "threshold", "false_positive_rate", "false_positive_rate_with_marked", "bank",
        "false_positive_rate_good", "lookup_rate", "kept", "worst_edit", "evasion_at",
    ))  # fmt: skip
    empty = {"label": "dhash", "edits": {}, "nearest": [], "crowded": [], "resolved": False}
    record = ScanRecord.model_validate(
        {
            "schema_": "advhash/scan/1", "command": "scan", "run": info(folder).model_dump(),
            "folder": "toy", "settings": {"upright": False}, "files": 9, "pictures": 8,
            "copies": 1, "low_quality": 1, "quality": 50, "edited": 4, "marked": 1,
            "skipped": {"broken": 1}, "left_out": {"a link": 1}, "remarks": {HOSTILE: 1},
            "edit_texts": {"mirror": "mirrored"}, "edit_kinds": {"mirror": "turned"}, "groups": 4,
            "false_positives": 2e-4, "hashes": [plain, {**plain, **none, **empty}],
            "recommendation": {"hash": HOSTILE, "threshold": 8, "reason": f"Take {HOSTILE}."},
            "shown_pairs": [{"first": HOSTILE, "second": "b.jpg", "marked": True,
                             "distances": [2, 9], "files": ["a.png", "b.png"]}],
            "shown_changes": [{"hash": HOSTILE, "name": HOSTILE, "distance": 9, "linf": 3,
                               "l2": 0.2, "files": CHANGED}],
            "flags": [vars(FLAG)], "seconds": {"all": 1.0},
        }
    )  # fmt: skip
    return with_pictures(written(folder, record), "a.png", "b.png", *CHANGED)


def make_poison(folder: Path) -> Path:
    """Two planted shares of hubs behind a store and a rescorer."""
    figures = {name: vars(SHARE) for name in (*PLANTED, *OWN)}
    recall = {"own_recall10_before": vars(SHARE), "own_recall10_after": vars(SHARE)}
    record = PoisonRecord.model_validate(
        {
            "schema_": "advhash/poison/1", "command": "poison", "run": info(folder).model_dump(),
            "source": HOSTILE, "quantise": {"name": "sign"}, "bits": 64,
            "attack": {"name": "hubs", "sample": 9}, "summary": f"Plants means. {HOSTILE}",
            "knowledge": ["known queries"], "free_pairs": False,
            "store": {"name": "faiss-ivf", "lists": 16}, "collapse": {"within": 2, "keep": "first"},
            "rescore": [{"name": "float", "multiplier": 10}], "documents": 9000, "known": 40,
            "unseen": 60, "repeated": 1, "restarts": 3, "metrics": {**figures, **recall},
            "shares": [
                {"items": items, "share": items / 9000, "refused": [0, 1, 0], "dropped": [0, 0, 0],
                 "metrics": figures}
                for items in (9, 90)
            ],
            "flags": [vars(FLAG)],
            "samples": [
                {"found_by": 3, "text": HOSTILE, "queries": [HOSTILE]},
                {"found_by": 2, "files": ["item.png", "query.png"],
                 "change": {"name": "item 2", "linf": 8, "l2": 1.5,
                            "files": CHANGED}},
            ],
        }
    )  # fmt: skip
    return with_pictures(written(folder, record), "item.png", "query.png", *CHANGED)


def make_judge(folder: Path) -> Path:
    """A targeted set with a claim that holds, one that does not, and one that was not measured."""
    attacked = json.loads((make_run(folder) / "metrics.json").read_text("utf-8"))
    kept = {name: attacked[name] for name in JudgeRecord.model_fields if name in attacked}
    claims = {"tmap": 0.99, "linf": 8 / 255, "ndcg": 0.5}
    record = JudgeRecord.model_validate(
        {
            **kept, "schema_": "advhash/judge/1", "command": "judge",
            "set": {"name": HOSTILE, "form": "picture files", "pictures": 6, "originals": 300,
                    "digest": "ab", "goal": "targeted", "rounded": 2, "codes_claimed": True},
            "claims": [{"name": name, "claimed": value, "rounding": 0.005,
                        "measured": attacked["metrics"].get(name)}
                       for name, value in claims.items()],
        }
    )  # fmt: skip
    (folder / "metrics.json").write_text(record.dumps(), encoding="utf-8")
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {  # name → what makes such a run at a path
    "benchmark": make_benchmark,
    "attack": make_run,
    "untargeted": lambda folder: make_run(folder, goal="untargeted"),
    "detect": lambda folder: make_detect(folder.with_suffix(".json")),
    "certify": lambda folder: make_certify(folder.with_suffix(".json")),
    "least-change": lambda folder: make_least_change(folder.with_suffix(".json")),
    "transfer": make_transfer,
    "defend": lambda folder: make_transfer(folder, defended=True),
    "lifelong": make_lifelong,
    "inversion": make_inversion,
    "encode": make_encoding,
    "phase": make_phase,
    "search": make_search,
    "scan": make_scan,
    "poison": make_poison,
    "judge": make_judge,
}
NAMES = tuple(MAKERS)


def every_kind(root: Path) -> dict[str, Path]:
    """A finished run of each kind that a page can show."""
    return {name: make(root / name) for name, make in MAKERS.items()}
