"""HashVFL measured: `benchmarks/vfl.json` and `docs/victims/hashvfl_measured.md`.

Cell by cell, so that it can be stopped and started again: finished cells are kept unless `--again`.
About 40 minutes of one core:

    OMP_NUM_THREADS=1 ADVHASH_DATA=FOLDER python benchmarks/vfl.py
        [--groups accuracy ablation laplace inversion detection slices] [--seeds 0 1 2] [--again]
    python benchmarks/vfl.py --page    # only write the page from the json
"""

# ruff: noqa: E501
from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import table

from advhash.compute.progress import silent
from advhash.data.load import load_dataset
from advhash.data.parties import party_view
from advhash.errors import DataError
from advhash.experiments.detect.config import DetectConfig
from advhash.experiments.detect.run import Detection
from advhash.experiments.experiment import run
from advhash.experiments.invert.config import InvertConfig
from advhash.experiments.invert.run import Invert
from advhash.experiments.prepare.seeds import derive_seed
from advhash.measures.hierarchical import hierarchical_mean
from advhash.storage.run_folder import environment
from advhash.victims.federated.hashvfl import HashVFL

OUT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parent.parent / "docs/victims/hashvfl_measured.md"
GROUPS = ("accuracy", "ablation", "laplace", "inversion", "detection", "slices")
Cell = dict[str, Any]
Work = tuple[str, str, Callable[[], Any]]
TABLES = {
    "breast_cancer": {},
    "credit_default": {"batch_size": 256},
    "adult": {"batch_size": 256},
    "polish_bankruptcy": {},
}
DETECTIONS = [
    ("mixed", "code-max"),
    ("mixed", "code-sum"),
    ("mixed", "code-between"),
    ("noise", "code-max"),
    ("ood", "code-max"),
]
ABLATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "random class codes": {"balanced_codes": False},
    "no batch norm": {"batch_norm": False},
    "no batch norm, GreedyHash penalty 0.1": {"batch_norm": False, "penalty": 0.1},
    "no consistency": {"consistency_weight": 0.0},
    "no consistency, no batch norm, penalty 0.1": {
        "consistency_weight": 0.0,
        "batch_norm": False,
        "penalty": 0.1,
    },
}


def fitted(dataset: str, seed: int, settings: dict[str, Any]) -> tuple[HashVFL, Any]:
    data = load_dataset(dataset)
    torch.manual_seed(0)
    victim = HashVFL(**{**HashVFL.data_arguments(data), **settings})  # type: ignore[arg-type]
    return victim.fit(data, seed=derive_seed(seed, "victim")), party_view(data, victim.parties)


def right(victim: HashVFL, data: Any) -> np.ndarray[Any, Any]:
    found = victim.predict_split(data.query) == data.query.labels.argmax(dim=1)
    return found.double().numpy()


def balance(victim: HashVFL, data: Any) -> float:
    """How far the mean of any bit of any party lies from that of the class codes."""
    labels = data.database.labels.argmax(dim=1)
    wanted = victim.class_codes[labels].mean(dim=0).numpy()
    worst = [
        np.abs(victim.encode_split(data.database, name).signs().mean(axis=0) - wanted).max()
        for name in victim.bounds
    ]
    return float(max(worst))


def accuracy(dataset: str, settings: dict[str, Any], seeds: list[int]) -> Cell:
    """Accuracy of codes and of the undefended twin, paired, over seeds."""
    columns: dict[str, list[Any]] = {"codes": [], "undefended": []}
    worst, rare = [], {"codes": [], "undefended": []}
    for seed in seeds:
        for name, protection in (("codes", {}), ("undefended", {"protection": "none"})):
            victim, data = fitted(dataset, seed, {**settings, **protection})
            columns[name].append(right(victim, data))
            labels = data.query.labels.argmax(dim=1).numpy()
            rare[name].append(  # mean over classes: what accuracy hides in unbalanced tables
                float(np.mean([columns[name][-1][labels == c].mean() for c in np.unique(labels)]))
            )
            if name == "codes":
                worst.append(balance(victim, data))
    lost = [undefended - codes for undefended, codes in zip(columns["undefended"], columns["codes"], strict=True)]  # fmt: skip
    return {
        "accuracy": vars(hierarchical_mean(columns["codes"], 0, same_queries=True)),
        "accuracy_undefended": vars(hierarchical_mean(columns["undefended"], 0, same_queries=True)),
        "lost": vars(hierarchical_mean(lost, 0, same_queries=True)),
        "balanced_accuracy": {name: float(np.mean(values)) for name, values in rare.items()},
        "balance": worst,
    }


def ablation(settings: dict[str, Any], seeds: list[int]) -> Cell:
    columns, worst, constant = [], [], []
    for seed in seeds:
        victim, data = fitted("digits", seed, settings)
        columns.append(right(victim, data))
        worst.append(balance(victim, data))
        means = [victim.encode_split(data.database, n).signs().mean(axis=0) for n in victim.bounds]
        constant.append(int((np.abs(np.concatenate(means)) == 1).sum()))
    found = hierarchical_mean(columns, 0, same_queries=True)
    return {"accuracy": vars(found), "balance": worst, "constant_bits": constant}


def laplace(epsilon: float, seeds: list[int]) -> Cell:
    columns = []
    for seed in seeds:
        victim, data = fitted("digits", seed, {"protection": "laplace", "epsilon": epsilon})
        columns.append(right(victim, data))
    return {
        "accuracy": vars(hierarchical_mean(columns, 0, same_queries=True)),
        **victim.privacy(),
    }


def inversion(dataset: str, seed: int, settings: dict[str, Any]) -> Cell:
    config = InvertConfig.build(
        {
            "seed": seed,
            "victim": {"name": "hashvfl", **settings},
            "attack": {
                "name": "code-inversion",
                "attackers": ["decoder", "neighbours", "ste", "tanh"],
            },
            "dataset": {"name": dataset},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        body = run(Invert(), config, Path(folder) / "run", silent).document()
    keep = ("metrics", "differences", "worlds", "leakage", "protocol", "bits")
    return {key: body[key] for key in keep}


def detection(
    inputs: str,
    detector: str,
    bits: int,
    seed: int,
    budget: dict[str, Any],
    dataset: str = "digits",
) -> Cell:
    known = inputs in ("mixed", "noise", "ood")
    config = DetectConfig.build(
        {
            "seed": seed,
            "victim": {"name": "hashvfl", "bits": bits},
            "detector": {"name": detector},
            "dataset": {"name": dataset},
            "budget": budget,
            **({"inputs": inputs} if known else {"attack": {"name": inputs}}),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        body = run(Detection(), config, Path(folder) / "run.json").document()
    return {key: body[key] for key in ("metrics", "threshold", "probe", "clean", "abnormal")}


def works(groups: list[str], seeds: list[int]) -> Iterator[Work]:
    """(group, name, work) of every cell, the most important ones first."""
    if "detection" in groups:
        for inputs, detector in DETECTIONS:
            for bits in (32, 16):
                yield (
                    "detection",
                    f"K={bits} {inputs} {detector}",
                    lambda i=inputs, d=detector, b=bits: detection(i, d, b, 0, {}),
                )
        for eps in ("8/255", "32/255"):
            budget = {"norm": "linf", "eps": eps}
            yield (
                "detection",
                f"K=32 mixed code-max, adaptive within {eps}",
                lambda g=budget: detection("mixed", "code-max", 32, 0, g),
            )
    if "accuracy" in groups:
        for bits in (16, 4, 8, 32, 64):
            yield "accuracy", f"digits P=2 K={bits}", lambda b=bits: accuracy("digits", {"bits": b}, seeds)  # fmt: skip
    if "ablation" in groups:
        for name, settings in ABLATIONS.items():
            yield "ablation", name, lambda s=settings: ablation(s, seeds)
    if "inversion" in groups:
        for seed in seeds:
            yield "inversion", f"digits P=2 K=16 seed {seed}", lambda s=seed: inversion("digits", s, {})  # fmt: skip
    if "slices" in groups:
        for method in ("dhta", "p2p", "prosgan"):
            for bits in (16, 32):
                yield "slices", f"K={bits} {method} 32/255", lambda m=method, b=bits: detection(m, "code-max", b, 0, {"norm": "linf", "eps": "32/255"})  # fmt: skip
    if "accuracy" in groups:
        for parties in (3, 4, 8):
            yield "accuracy", f"digits P={parties} K=16", lambda p=parties: accuracy("digits", {"parties": p}, seeds)  # fmt: skip
        for dataset, more in TABLES.items():
            yield "accuracy", f"{dataset} P=2 K=16", lambda d=dataset, m=more: accuracy(d, m, seeds[:1])  # fmt: skip
        yield "accuracy", "polish_bankruptcy P=2 K=16, balanced loss", lambda: accuracy("polish_bankruptcy", {"balanced_loss": True}, seeds[:1])  # fmt: skip
        for dataset in ("mnist_t10k", "cifar10"):
            yield "accuracy", f"{dataset} P=2 K=16", lambda d=dataset: accuracy(d, {}, seeds[:1])
    if "laplace" in groups:
        for epsilon in (0.5, 1.0, 2.0, 4.0):
            yield "laplace", f"ε = {epsilon:g}", lambda e=epsilon: laplace(e, seeds)
    if "inversion" in groups:
        for dataset in ("mnist_t10k", "breast_cancer", "cifar10"):
            yield "inversion", f"{dataset} P=2 K=16 seed 0", lambda d=dataset: inversion(d, 0, {})
        for bits in (4, 64):
            yield "inversion", f"digits P=2 K={bits} seed 0", lambda b=bits: inversion("digits", 0, {"bits": b})  # fmt: skip


def figure(metric: dict[str, Any] | None, scale: float = 1, digits: int = 3) -> str:
    if metric is None or metric["value"] is None:
        return "–"
    text = f"{scale * metric['value']:z.{digits}f}"
    if metric["low"] is not None:
        text += f" [{scale * metric['low']:z.{digits}f}, {scale * metric['high']:z.{digits}f}]"
    return text


def page(cells: dict[str, dict[str, Cell]]) -> str:
    parts = [HEAD]
    if "accuracy" in cells:
        rows = [
            [name, figure(c["accuracy"], 100, 1), figure(c["accuracy_undefended"], 100, 1),
             figure(c["lost"], 100, 1), " / ".join(f"{100 * v:.1f}" for v in c["balanced_accuracy"].values()),
             f"{max(c['balance']):.3f}"]
            for name, c in cells["accuracy"].items()
        ]  # fmt: skip
        head = ["", "codes (%)", "undefended (%)", "lost (points)", "mean over classes (%)", "worst bit"]  # fmt: skip
        parts += ["## Accuracy and balance\n\nWorst bit: the largest |mean of a bit − that of the class codes| over bits, parties and seeds. Mean over classes: codes / undefended.\n", table(head, rows)]  # fmt: skip
    if "ablation" in cells:
        rows = [
            [name, figure(c["accuracy"], 100, 1), " ".join(f"{v:.2f}" for v in c["balance"]),
             " ".join(map(str, c["constant_bits"]))]
            for name, c in cells["ablation"].items()
        ]  # fmt: skip
        parts += ["## Ablations (digits, P = 2, K = 16)\n", table(["", "accuracy (%)", "worst bit, a seed each", "constant bits of 32"], rows)]  # fmt: skip
    if "laplace" in cells:
        rows = [
            [name, figure(c["accuracy"], 100, 1), f"{c['epsilon_message']:g}", f"{c['epsilon_training']:g}"]
            for name, c in cells["laplace"].items()
        ]  # fmt: skip
        parts += ["## Laplace noise on every bit (digits, P = 2, K = 16)\n", table(["a bit", "accuracy (%)", "composed, a message", "composed, 30 epochs"], rows)]  # fmt: skip
    for name, c in cells.get("inversion", {}).items():
        m, d = c["metrics"], c["differences"]
        rows = [
            [w["name"], a["name"] + (" *" if a["chosen"] else ""), figure(a["ssim"]), figure(a["gain"]),
             figure(a["mse"], 1, 4), figure(a["reidentification"])]
            for w in c["worlds"] for a in w["attackers"]
        ]  # fmt: skip
        facts = [
            f"accuracy {figure(m['accuracy'])}, undefended {figure(m['accuracy_undefended'])}",
            f"SSIM of the class mean {figure(m['ssim_class_mean'])}, of a decoder told the class {figure(m['ssim_class_decoder'])}",
            f"gain of codes over the class mean {figure(d['gain_codes'])}, over the decoder told the class {figure(d['gain_codes_over_class_decoder'])}",
            f"re-identification by code {figure(m['reidentification_by_code'])}, by picture {figure(m['reidentification_by_picture'])}, chance {figure(m['reidentification_chance'])}",
            "labels read from "
            + ", ".join(f"{k.replace('_', ' ')} {figure(v)}" for k, v in c["leakage"].items()),
        ]
        parts += [f"## Reconstruction: {name}\n", "\n".join(f"- {fact}" for fact in facts) + "\n",
                  table(["seen", "attacker", "SSIM", "gain over class mean", "MSE", "picked among 20"], rows)]  # fmt: skip
    for group, title in (("detection", "Abnormal inputs (digits, P = 2, seed 0)"), ("slices", "Adversarial slices (digits, P = 2, L∞ 32/255, `code-max`, seed 0)")):  # fmt: skip
        if group not in cells:
            continue
        names = ["false_alarms", "detected", "detected_randomised", "accepted_adaptive", "accepted_clean_errors", "auroc", "average_precision"]  # fmt: skip
        if group == "slices":
            names[3:3] = ["success", "success_and_accepted"]
        rows = [[name, *(figure(c["metrics"].get(n)) for n in names)] for name, c in cells[group].items()]  # fmt: skip
        parts += [f"## {title}\n", table(["", *(n.replace("_", " ") for n in names)], rows)]
    return "\n".join(parts)


HEAD = """# Measured: HashVFL

Written by `benchmarks/vfl.py` from `benchmarks/vfl.json`; the pages [hashvfl](hashvfl.md),
[inversion](../attacks/inversion.md) and [detectors](../defenses/detectors.md) say what it means.
Intervals are 95 % over samples of one seed (exact for rates, BCa otherwise), or over three training seeds and the same queries
(hierarchical bootstrap) where a row pools seeds. Reconstructions are those of the four attackers that
are not trained on SSIM; [inversion](../attacks/inversion.md) has the fifth. Default settings unless the
row says otherwise; `*` is the attacker that validation data chose. `false alarms` and `detected` are what
the deployed rule reaches, `detected randomised` is at exactly 5 % ([detectors](../defenses/detectors.md)). Again: `OMP_NUM_THREADS=1 python benchmarks/vfl.py`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=GROUPS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--again", action="store_true", help="measure finished cells again")
    parser.add_argument("--page", action="store_true", help="write the page only")
    given = parser.parse_args()
    cells: dict[str, Any] = json.loads(OUT.read_text()) if OUT.is_file() else {}
    for group, name, work in [] if given.page else works(given.groups, given.seeds):
        if name in cells.get(group, {}) and not given.again:
            continue
        try:
            cells.setdefault(group, {})[name] = work()
        except DataError as error:
            print(f"{group} {name}: {error}")
            continue
        cells["environment"] = environment()
        partial = OUT.with_suffix(".partial")
        partial.write_text(json.dumps(cells, indent=1) + "\n")
        partial.replace(OUT)
        print(group, name, flush=True)
    PAGE.write_text(page(cells))


if __name__ == "__main__":
    main()
