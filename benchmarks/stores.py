"""Planted hubs in vector stores: quantisers × stores × rescoring, on captions and photographs.

Captions of Flickr8k by MiniLM, without exact repeats; one caption of each of 2,000 pictures asks,
1,000 known to the attacker and 1,000 unseen, all others are documents. Queries are answered by the
other captions of their picture. Photographs of Flickr8k, 128 pixels a side, by EfficientNet-Lite0,
without equal embeddings; 2,000 of them ask, all others are documents. No document belongs to a
photograph, so its answers are the 10 nearest by their floats, as in `advhash poison`.

`hubs` plants 0.4 % of the documents, clustered by codes or by floats, as its known queries choose
for each number of candidates; the restarts of its k-means are the seeds. Each store is built once
for all numbers of candidates; items are added to it, and removed before those of the next seed
come. In `exact`, items clustered by codes and by floats stand beside each other for every number of
candidates, whatever the queries choose.

The curve over the planted share and the table of defences are runs of `advhash poison` on the same
captions, `exact` and sign bits. With defences, 1,000 more pictures ask, as probes: all rows of
their table, the undefended one too, have the same known and unseen queries.

Writes `benchmarks/stores.json`, cell by cell, so that it can be stopped and started again, and the
tables between its marks in `docs/attacks/poisoning_stores.md`. Captions are embedded once, in
about 10 minutes of one core, photographs in about 10 more, into files of the cache:

    OMP_NUM_THREADS=1 ADVHASH_DATA=FOLDER python benchmarks/stores.py
        [--groups stores photographs surfaces curve defences]
        [--stores exact faiss-ivf …] [--quantisers sign mean median] [--share 0.004] [--restarts 3]
    python benchmarks/stores.py --adapters   # what adapters add to their clients
    python benchmarks/stores.py --million    # `hubs` and exact judging of a million codes
    python benchmarks/stores.py --page       # only write the tables from the json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from pages import filled

from advhash.attacks.poisoning.base import Seen, Surface
from advhash.codes.hamming import neighbours
from advhash.codes.packed import HashCodes
from advhash.codes.relevance import FIRST, GradedPairs, float_neighbours
from advhash.codes.vectors import Vectors, unit_rows
from advhash.data.load import load_dataset
from advhash.data.text.kinds import embed_sentences
from advhash.experiments.experiment import run
from advhash.experiments.poison.config import PoisonConfig
from advhash.experiments.poison.judge import figures, judge, natural_hubs
from advhash.experiments.poison.material import quantised
from advhash.experiments.poison.run import Poison
from advhash.experiments.prepare.seeds import derive_seed
from advhash.registry import POISONINGS, QUANTISERS, STORES, VICTIMS
from advhash.reports.elements.plots import STYLE
from advhash.reports.poison import CURVES
from advhash.storage.cache import cache_root
from advhash.storage.run_folder import environment
from advhash.stores.base import octets
from advhash.stores.figures import store_recall
from advhash.stores.served import Served
from advhash.victims.encoders.quantisers import Cut

OUT = Path(__file__).with_suffix(".json")
PAGE = OUT.parents[1] / "docs/attacks/poisoning_stores.md"
FIGURE = OUT.parents[1] / "docs/images/poisoning_stores.svg"
MARK = "stores: written by benchmarks/stores.py"
GROUPS = ("stores", "photographs", "surfaces", "curve", "defences")
STORE_NAMES = ("exact", "faiss-ivf", "faiss-hnsw", "usearch", "sqlite-vec", "pgvector-hnsw")
QUANTISER_NAMES = ("sign", "mean", "median")
CANDIDATES = (0, 3, 10)  # for each result; 0: no rescoring
SURFACES: tuple[Surface, ...] = ("codes", "floats")
ENCODER = "timm:tf_efficientnet_lite0"  # of photographs
QUERIES = 1_000  # known, as many unseen, and as many probes
SHARES = (0.0005, 0.001, 0.002, 0.004, 0.01, 0.02)
REACHED = ("planted_top10", "planted_top10_natural", "planted_top10_over_natural")
DEFENDED = ("planted_top10", "own_recall10_before", "own_recall10_after", "own_recall10_cost")
SAID = {  # of each group of stores: what is embedded by what, and what a query's own answers are
    "stores": ("Flickr8k's captions by MiniLM, 384 bits", "the other captions of a picture"),
    "photographs": (
        "Flickr8k's photographs by EfficientNet-Lite0, 1,280 bits",
        "the 10 documents nearest to a photograph by its floats",
    ),
}
BITS: dict[str, Any] = {}
FLOATS: dict[str, Any] = {"rescore": [{"name": "float", "multiplier": 10}]}
STAGES = {"bits alone": BITS, "floats, ×10": FLOATS}
CURVE = {name: {**stage, "share": list(SHARES)} for name, stage in STAGES.items()}
OPEN = {"cap": {"share": 1.0, "adaptive": False}}  # probes are set aside, and hide nothing
FREE = {"attack": {"name": "hubs", "pairs": "free"}}
GUARDS: dict[str, dict[str, Any]] = {
    "none": OPEN,
    "`--gate 0.01`": {"gate": {"rate": 0.01}},
    "`--gate 0.01`, attacker does not know": {"gate": {"rate": 0.01, "adaptive": False}},
    "`gate.rule=mad`": {"gate": {"rule": "mad"}},
    "`--cap 0.02`": {"cap": {"share": 0.02}},
    "`--cap 0.01`": {"cap": {"share": 0.01}},
    "`--cap 0.01`, attacker does not know": {"cap": {"share": 0.01, "adaptive": False}},
    "`--collapse 30 --keep first`": {"collapse": {"within": 30, "keep": "first"}, **OPEN},
    "`--rotate`": {"rotate": True, **OPEN},
    "none, `attack.pairs=free`": {**FREE, **OPEN},
    "`--rotate`, `attack.pairs=free`": {"rotate": True, **FREE, **OPEN},
}
LENGTHS = (64, 128, 256, 768)  # bits of `lsh`, beside the 384 of `sign`
DEFENCES: dict[str, dict[str, Any]] = {
    **{
        f"{guard} | {name}": {**stage, **tables}
        for guard, tables in GUARDS.items()
        for name, stage in STAGES.items()
    },
    **{
        f"`--quantise lsh --bits {bits}` | bits alone": {
            "quantise": {"name": "lsh"},
            "bits": bits,
            **OPEN,
        }
        for bits in LENGTHS
    },
}
KEPT = ("documents", "gate", "cap", "turned_away", "shares")


@dataclass(frozen=True)
class Embedded:
    """Embeddings (N,D) of length 1, and the picture of each."""

    floats: npt.NDArray[np.float32]
    pictures: npt.NDArray[np.int64]

    @property
    def answered(self) -> bool:
        """Whether rows of one picture answer each other: each picture of captions has several."""
        return len(np.unique(self.pictures)) < len(self.pictures)

    def asked(self, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows of `count` queries, each of a picture of its own, and of all documents."""
        generator = np.random.default_rng(0)
        rows = [np.flatnonzero(self.pictures == picture) for picture in np.unique(self.pictures)]
        if self.answered:
            rows = [row for row in rows if len(row) > 1]
        chosen = generator.permutation(len(rows))[:count]
        queries = np.array([generator.choice(rows[place]) for place in chosen])
        return queries, np.setdiff1d(np.arange(len(self.floats)), queries)


def captions(folder: Path) -> Embedded:
    """Flickr8k's captions by MiniLM."""
    entries = json.loads((folder / "captions.json").read_text("utf-8"))
    texts: dict[str, tuple[str, int]] = {}
    for picture, entry in enumerate(entries):
        for caption in entry["captions"]:
            texts.setdefault(" ".join(caption.lower().split()), (caption, picture))
    kept = list(texts.values())
    floats = embed_sentences([caption for caption, _ in kept]).numpy()
    return Embedded(floats, np.array([picture for _, picture in kept]))


def photographs(folder: Path) -> Embedded:
    """Flickr8k's pictures of 128 pixels by EfficientNet-Lite0, which resizes them to 224."""
    victim = VICTIMS.create("encoder", {"encoder": ENCODER}).eval()
    parts = load_dataset("flickr8k", {"root": str(folder), "size": 128}).stored
    floats = [victim.split_features(part, "image").numpy() for part in parts.values()]
    rows = unit_rows(np.concatenate(floats))
    different = np.sort(np.unique(rows.round(4), axis=0, return_index=True)[1])
    return Embedded(rows[different], np.arange(len(different)))


def embedded_once(make: Callable[[Path], Embedded], folder: Path) -> Embedded:
    """The embeddings of a folder of Flickr8k, from a file of the cache where they are there."""
    file = cache_root() / "benchmarks" / f"flickr8k-{make.__name__}.npz"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **vars(make(folder)))
    with np.load(file) as stored:
        return Embedded(stored["floats"], stored["pictures"])


@dataclass(frozen=True)
class Corpus:
    """Each side with its codes, the unseen queries' own answers, and the quantiser."""

    documents: Vectors
    known: Vectors
    unseen: Vectors
    own: GradedPairs
    cut: Cut

    @classmethod
    def of(cls, embedded: Embedded, quantise: str) -> Corpus:
        """The embeddings by a quantiser, which learns from the documents."""
        floats, pictures = embedded.floats, embedded.pictures
        queries, documents = embedded.asked(2 * QUERIES)
        rows = torch.from_numpy(floats[documents])
        generator = torch.Generator().manual_seed(0)
        cut = QUANTISERS.create(quantise).fit(rows, rows.shape[1], generator)
        known, unseen = queries[:QUERIES], queries[QUERIES:]
        own = (
            GradedPairs.of_identities(pictures[unseen], pictures[documents])
            if embedded.answered
            else float_neighbours(floats[unseen], floats[documents], FIRST)
        )
        return cls(*(quantised(floats[side], cut) for side in (documents, known, unseen)), own, cut)

    def hubs(self, count: int, restarts: int) -> dict[Surface, list[Vectors]]:
        """What is planted clustered by codes and by floats, for each restart."""
        seen = Seen(self.known, self.documents, self.cut, 1.0, "codes")
        return {
            surface: [
                POISONINGS.create("hubs", {"surface": surface}).plant(seen, count, seed).vectors
                for seed in planting_seeds(restarts)
            ]
            for surface in SURFACES
        }

    def chosen(self, count: int, restarts: int) -> dict[int, list[Surface]]:
        """What `hubs` clusters by default, for each number of candidates and each restart."""
        return {
            candidates: [
                POISONINGS.create("hubs")
                .settled(
                    Seen(
                        *(self.known, self.documents, self.cut, 1.0),
                        "floats" if candidates else "codes",
                        candidates=FIRST * candidates or None,
                    ),
                    count,
                    seed,
                )
                .surface
                for seed in planting_seeds(restarts)
            ]
            for candidates in CANDIDATES
        }


def planting_seeds(restarts: int) -> list[int]:
    """Of the method, for each restart."""
    return [derive_seed(restart, "planted") for restart in range(restarts)]


def found(served: Served, asked: Vectors, candidates: int) -> npt.NDArray[np.int64]:
    """(N,10) results with so many candidates for each; 0: as the store orders them."""
    stages = served.stages
    stages[0].multiplier = max(candidates, 1)
    served.stages = stages if candidates else []
    ids = served.search(asked, FIRST)[0]
    served.stages = stages
    return ids


def measure(
    corpus: Corpus,
    hubs: dict[Surface, list[Vectors]],
    store: str,
    chosen: dict[int, list[Surface]],
) -> dict[str, Any]:
    """Figures of every number of candidates.

    hubs: items of each restart, by what they are clustered by
    chosen: for each number of candidates, which of these are planted at each restart
    """
    rows, count = len(corpus.documents), len(next(iter(hubs.values()))[0])
    items = rows + np.arange(count)
    asked = Vectors.concatenate([corpus.unseen, corpus.known])
    cells = {}
    with Served({"name": store}, [{"name": "float"}]) as served:
        served.add(np.arange(rows), corpus.documents)
        recall = store_recall(served.store, corpus.unseen, corpus.documents)
        clean = {candidates: found(served, asked, candidates) for candidates in chosen}
        after: dict[int, list[Any]] = {candidates: [] for candidates in chosen}
        for surface, sets in hubs.items():
            for restart, planted in enumerate(sets):
                mine = [each for each, surfaces in chosen.items() if surfaces[restart] == surface]
                if not mine:
                    continue
                served.add(items, planted)
                for candidates in mine:
                    ids = found(served, corpus.unseen, candidates)
                    after[candidates].append(judge(ids, items, corpus.own))
                served.remove(items)
        parameters = served.store.parameters()
    for candidates, ids in clean.items():
        mine = ids[:QUERIES]
        chance = [
            np.random.default_rng(restart).permutation(rows)[:count]
            for restart in range(len(after[candidates]))
        ]
        metrics = figures(
            judge(mine, items[:0], corpus.own),
            after[candidates],
            judge(mine, natural_hubs(ids[QUERIES:], count), corpus.own),
            [judge(mine, drawn, corpus.own) for drawn in chance],
            0,
        )
        cells[str(candidates)] = {name: vars(metric) for name, metric in metrics.items()}
    return {
        "items": count,
        "surfaces": {str(candidates): surfaces for candidates, surfaces in chosen.items()},
        "recall": float(recall.mean()),
        "parameters": parameters,
        "cells": cells,
    }


def poisoned(embedded: Embedded, queries: int, tables: dict[str, Any]) -> dict[str, Any]:
    """The record of a run of `advhash poison` on the captions, `queries` of which ask."""
    asked, documents = embedded.asked(queries)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = {"database": folder / "documents.npy", "codes": folder / "queries.npy"}
        for file, kept in zip(rows.values(), (documents, asked), strict=True):
            np.save(file, embedded.floats[kept])
            np.save(file.with_suffix(".labels.npy"), embedded.pictures[kept])
        labels = {
            "labels": rows["codes"].with_suffix(".labels.npy"),
            "database_labels": rows["database"].with_suffix(".labels.npy"),
        }
        config = PoisonConfig.build(
            {
                "quantise": {"name": "sign"},
                "attack": {"name": "hubs"},
                "share": [0.004],
                "rows": {**rows, **labels},
                **tables,
            }
        )
        return run(Poison(), config, folder / "run").document()


def adapters(rows: int = 20_000, bits: int = 384, queries: int = 1_000) -> dict[str, Any]:
    """CPU seconds of a batch by a store and by its client alone, in one process."""
    generator = np.random.default_rng(0)
    centres = generator.random((40, bits)) < 0.5

    def drawn(count: int) -> HashCodes:
        near = centres[generator.integers(0, 40, count)] ^ (generator.random((count, bits)) < 0.2)
        return HashCodes.pack(near)

    known, asked = drawn(rows), drawn(queries)
    result = {}
    for name in ("faiss-flat", "faiss-ivf", "faiss-hnsw", "usearch", "sqlite-vec", "pgvector-hnsw"):
        with STORES.create(name) as store:
            store.add(np.arange(rows), known)
            server = store._session.info.backend_pid if name.startswith("pgvector") else None
            client, ours = _best(
                partial(_CLIENTS.get(name, _index), store, asked),
                partial(store.search, asked, FIRST),
                partial(_cpu_seconds, server),
                3 if name == "sqlite-vec" else 9,
            )
        result[name] = {"client": client, "store": ours, "added": ours / client - 1}
        print(name, result[name], flush=True)
    return result


def _index(store: Any, asked: HashCodes) -> None:
    """The client of faiss and of usearch: packed codes in, arrays out."""
    store._index.search(octets(asked), FIRST)


def _sqlite(store: Any, asked: HashCodes) -> None:
    """A statement for each query, as the documentation of sqlite-vec has it."""
    statement = "SELECT id, distance FROM codes WHERE code MATCH vec_bit(?) AND k = ?"
    for code in octets(asked):
        store._base.execute(statement, (bytes(code), FIRST)).fetchall()


def _postgres(store: Any, asked: HashCodes) -> None:
    """A prepared statement for each query, as the documentation of pgvector has it."""
    words = ["".join("01"[bit] for bit in code) for code in asked.unpack().astype(int)]
    text = (
        f"SELECT id, code <~> %s::bit({asked.bits}) FROM advhash_codes "
        f"ORDER BY code <~> %s::bit({asked.bits}) LIMIT {FIRST}"
    )
    for word in words:
        store._session.execute(text, (word, word), prepare=True).fetchall()


_CLIENTS = {"sqlite-vec": _sqlite, "pgvector-hnsw": _postgres}


def _cpu_seconds(server: int | None) -> float:
    """User and system time of this process, and of a server's process."""
    own = time.process_time()
    if server is None:
        return own
    fields = Path(f"/proc/{server}/stat").read_text("ascii").rpartition(")")[2].split()
    return own + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _best(client: Any, ours: Any, clock: Any, repeats: int) -> tuple[float, float]:
    """The least seconds of two calls, in turn; ours first, as it sets how far an index searches."""
    seconds: dict[Any, list[float]] = {ours: [], client: []}
    for _ in range(repeats):
        for call, taken in seconds.items():
            began = clock()
            call()
            taken.append(clock() - began)
    return min(seconds[client]), min(seconds[ours])


def million(rows: int = 1_000_000, bits: int = 384) -> dict[str, Any]:
    """CPU seconds and memory of `hubs` over 1,000 queries, and of exact judging by 1,000 others."""
    generator = np.random.default_rng(0)
    words = generator.integers(0, 2**63, (rows, bits // 64), np.int64).view(np.uint64)
    documents = HashCodes(words, bits)
    topics = generator.standard_normal((200, bits)).astype(np.float32)
    floats = topics[generator.integers(0, 200, 2000)] + generator.standard_normal(
        (2000, bits), np.float32
    )
    cut = QUANTISERS.create("sign").fit(torch.from_numpy(floats), bits, torch.Generator())
    known, unseen = quantised(floats[:1000], cut), quantised(floats[1000:], cut)
    nothing = np.zeros((rows, 0), np.float32)
    neighbours(known.codes[:8], documents[:64], 1)  # compile
    began = time.process_time()
    seen = Seen(known, Vectors(documents, nothing, nothing), cut, 1.0, "codes")
    items = POISONINGS.create("hubs").plant(seen, 500, 0).vectors
    planted = time.process_time()
    whole = HashCodes.concatenate([documents, items.codes])
    own = GradedPairs.of_identities(np.arange(1000), np.arange(rows) % 500_000)
    ids, _ = neighbours(unseen.codes, whole, FIRST)
    before, _ = neighbours(unseen.codes, documents, FIRST)
    hits = judge(ids, rows + np.arange(500), own).top[10].mean()
    judge(before, np.zeros(0, np.int64), own)
    return {
        "seconds_hubs": planted - began,
        "seconds_judging": time.process_time() - planted,
        "planted_top10": float(hits),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def tables(stored: dict[str, Any]) -> str:
    """What is written between the marks of the page."""
    parts = []
    shown = {group: stored[group] for group in SAID if stored[group]}
    if shown:
        parts.append("### Quantisers, stores, rescoring")
    for group, cells in shown.items():
        first, documents = next(iter(cells.values())), stored["documents"][group]
        what, answers = SAID[group]
        parts += [
            f"{what}: {documents:,} documents, 1,000 known and 1,000 unseen queries, "
            f"{first['items']} hubs ({100 * stored['share']:g} %), {stored['restarts']} restarts "
            "of k-means. Percent, with 95 % intervals over queries and restarts. Beside each store "
            "stands what it finds of its own exact first 10. Unseen queries with a planted item "
            "among their first 10 / with one of as many natural hubs / the difference, paired by "
            "query:",
            _grid(cells, REACHED),
            f"Recall of own answers, {answers}, before / after:",
            _grid(cells, ("own_recall10_before", "own_recall10_after")),
            "What `hubs` clusters by, as its known queries choose, of so many restarts:",
            _table(
                "quantiser | bits alone | floats, ×3 | floats, ×10",
                [
                    [quantise, *map(_times, cells[f"{quantise} exact"]["surfaces"].values())]
                    for quantise in QUANTISER_NAMES
                    if f"{quantise} exact" in cells
                ],
            ),
        ]
    if stored["surfaces"]:
        parts += [
            "### Clustered by codes or by floats",
            "The same queries in `exact`, with items of `attack.surface=codes` and of "
            "`attack.surface=floats`, whatever the known queries choose. Unseen queries with a "
            "planted item among their first 10 / with one of as many natural hubs / the "
            "difference, paired by query:",
            _table(
                "what | quantiser | clustered by | bits alone | floats, ×3 | floats, ×10",
                [
                    [*key.split(), *_cells(cells, REACHED)]
                    for key, cells in stored["surfaces"].items()
                ],
            ),
        ]
    if stored["curve"]:
        parts += [
            "### Over the planted share",
            "`exact`, sign bits, other queries known and unseen than above, 3 restarts.",
            "![Queries that find an item over its share](../images/poisoning_stores.svg)",
            _curve(stored["curve"]),
        ]
    if stored["defences"]:
        documents = next(iter(stored["defences"].values()))["documents"]
        parts += [
            "### Defences",
            f"`exact`, sign bits, hubs at {100 * stored['share']:g} % of {documents:,} documents, "
            "3 restarts. 1,000 more pictures ask as probes in every row, so that all rows but "
            "those of a rotation and of `lsh` differ by the defence alone. Refused are planted "
            "items, as a mean over restarts; turned away are clean documents that go through the "
            "defence as new items do, and the cost is what recall of own answers loses by that "
            "without any attack; what other bits cost is the difference of own answers before.",
            _defences(stored["defences"]),
        ]
    if "adapters" in stored:
        shown = (f"{name} {100 * one['added']:+.1f} %" for name, one in stored["adapters"].items())
        parts.append(
            "What a store of advhash adds to its own client's call, in CPU seconds, 1,000 queries "
            f"of 384 bits against 20,000 rows, the best of several, in turn: {', '.join(shown)}. "
            "sqlite-vec is asked for 8 rows more than are wanted, so that equal distances go by "
            "id, which it does not promise; pgvector gets all queries in one statement."
        )
    if "million" in stored:
        one = stored["million"]
        parts.append(
            f"One million codes of 384 bits: `hubs` takes {one['seconds_hubs']:.1f} CPU s, exact "
            f"judging by 1,000 queries before and after {one['seconds_judging']:.1f} CPU s, "
            f"{one['peak_mib']:.0f} MiB at most."
        )
    return "\n\n".join(parts) + "\n"


def _times(surfaces: list[str]) -> str:
    """ "codes 3", or "codes 2, floats 1"."""
    counts = {surface: surfaces.count(surface) for surface in SURFACES}
    return ", ".join(f"{surface} {count}" for surface, count in counts.items() if count)


def _table(heads: str, rows: list[list[str]]) -> str:
    """heads: with bars between them"""
    lines = [f"| {heads} |", "|---" * (heads.count("|") + 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _grid(cells: dict[str, Any], names: tuple[str, ...]) -> str:
    """A row for each quantiser and store, these figures for each number of candidates."""
    rows = []
    for quantise in QUANTISER_NAMES:
        for store in STORE_NAMES:
            cell = cells.get(f"{quantise} {store}")
            if cell is None:
                continue
            shown = _cells(cell["cells"], names)
            rows.append([quantise, f"{store} ({100 * cell['recall']:.1f})", *shown])
    return _table("quantiser | store (recall) | bits alone | floats, ×3 | floats, ×10", rows)


def _cells(cells: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    """These figures of each number of candidates."""
    return [" / ".join(_percent(metrics[name]) for name in names) for metrics in cells.values()]


def _curve(curve: dict[str, Any]) -> str:
    rows = [
        [
            f"{at['items']} ({100 * at['share']:.2g} %)",
            stage,
            _times(at["surfaces"]),
            *(_percent(at["metrics"][name]) for name in CURVES),
            *(
                _percent(at["metrics"][name])
                for name in ("planted_top10_over_natural", "own_recall10_after")
            ),
        ]
        for stage, record in curve.items()
        for at in record["shares"]
    ]
    return _table(
        "items | search | clustered by | planted | natural hubs | random | "
        "planted above natural hubs | "
        "own answers after",
        rows,
    )


def _defences(defences: dict[str, Any]) -> str:
    rows = []
    for key in (key for key in DEFENCES if key in defences):
        record = defences[key]
        (at,) = record["shares"]
        metrics = at["metrics"]
        rows.append(
            [
                *key.split(" | "),
                f"{sum(at['refused']) / len(at['refused']):.3g} of {at['items']}",
                f"{record['turned_away']:,}",
                _times(at["surfaces"]),
                *(_percent(metrics[name]) for name in DEFENDED),
            ]
        )
    heads = (
        "defence | search | refused | turned away | clustered by | planted | own answers before | "
        "after | cost"
    )
    return _table(heads, rows)


def _percent(metric: dict[str, Any]) -> str:
    value = f"{100 * metric['value']:z.1f}"
    if metric["low"] is None:
        return value
    return f"{value} [{100 * metric['low']:z.1f}, {100 * metric['high']:z.1f}]"


def draw(curve: dict[str, Any]) -> None:
    """Queries that find an item, over the share of items: planted, natural hubs, random."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        for axes, (stage, record) in zip(
            figure.subplots(1, 2, sharey=True), curve.items(), strict=True
        ):
            shares = [100 * at["share"] for at in record["shares"]]
            for name, (label, ink, line) in CURVES.items():
                metrics = [at["metrics"][name] for at in record["shares"]]
                low, value, high = (
                    [100 * metric[which] for metric in metrics]
                    for which in ("low", "value", "high")
                )
                axes.plot(shares, value, line, color=ink, label=label, marker="o", markersize=3)
                axes.fill_between(shares, low, high, color=ink, alpha=0.15, linewidth=0)
            axes.set_xscale("log")
            axes.set_xticks(shares, [f"{share:.2g}" for share in shares])
            axes.minorticks_off()
            axes.set_title(stage)
            axes.set_xlabel("items, % of the documents")
        figure.axes[0].set_ylabel("queries that find one, %")
        figure.axes[0].legend(frameon=False)
        figure.savefig(FIGURE, metadata={"Date": None})


def write_page() -> None:
    """The tables of the json, between the marks, and the figure."""
    stored = {group: {} for group in GROUPS} | json.loads(OUT.read_text("utf-8"))
    if stored["curve"]:
        draw(stored["curve"])
    made = {MARK: f"\n{tables(stored)}"}
    PAGE.write_text(filled(PAGE.read_text("utf-8"), made, "end of stores"), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    given_data = Path(os.environ.get("ADVHASH_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=given_data / "flickr8k_128")
    parser.add_argument("--groups", nargs="+", default=GROUPS, choices=GROUPS)
    parser.add_argument("--stores", nargs="+", default=STORE_NAMES)
    parser.add_argument("--quantisers", nargs="+", default=QUANTISER_NAMES)
    parser.add_argument("--share", type=float, default=0.004)
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--adapters", action="store_true")
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    stored: dict[str, Any] = {}
    if OUT.is_file():
        stored = json.loads(OUT.read_text("utf-8"))
    settings = {"share": given.share, "restarts": given.restarts}
    if any(stored.get(name, value) != value for name, value in settings.items()):
        stored = {}
    stored |= settings
    for group in GROUPS:
        stored.setdefault(group, {})

    def keep() -> None:
        stored["environment"] = environment()
        OUT.write_text(json.dumps(stored, indent=1) + "\n", "utf-8")

    if given.adapters:
        stored["adapters"] = adapters()
        keep()
    elif given.million:
        stored["million"] = million()
        keep()
    elif not given.page:
        for group, make in (("stores", captions), ("photographs", photographs)):
            if group in given.groups:
                _measure_stores(group, make, given, stored, keep)
        if "surfaces" in given.groups:
            for make in (photographs, captions):
                _measure_surfaces(make, given, stored, keep)
        for group, rows in (("curve", CURVE), ("defences", DEFENCES)):
            for key, tables_of in rows.items():
                if group in given.groups and key not in stored[group]:
                    restarts = {"restarts": given.restarts}
                    queries = (3 if group == "defences" else 2) * QUERIES
                    embedded = embedded_once(captions, given.data)
                    record = poisoned(embedded, queries, {**tables_of, **restarts})
                    stored[group][key] = {name: record[name] for name in KEPT}
                    print(group, key, flush=True)
                    keep()
    write_page()


def _measure_stores(
    group: str, make: Callable[[Path], Embedded], given: Any, stored: dict[str, Any], keep: Any
) -> None:
    """The cells of a group that are missing."""
    cells = stored[group]
    for quantise in given.quantisers:
        missing = [store for store in given.stores if f"{quantise} {store}" not in cells]
        if not missing:
            continue
        corpus = Corpus.of(embedded_once(make, given.data), quantise)
        stored.setdefault("documents", {})[group] = len(corpus.documents)
        planted = (round(given.share * len(corpus.documents)), given.restarts)
        hubs, chosen = corpus.hubs(*planted), corpus.chosen(*planted)
        for store in missing:
            began = time.process_time()
            cell = measure(corpus, hubs, store, chosen)
            cells[f"{quantise} {store}"] = cell
            print(group, quantise, store, cell["recall"], time.process_time() - began, flush=True)
            keep()


def _measure_surfaces(
    make: Callable[[Path], Embedded], given: Any, stored: dict[str, Any], keep: Any
) -> None:
    """Items clustered by codes and by floats, each with every number of candidates."""
    for quantise in given.quantisers:
        if f"{make.__name__} {quantise} floats" in stored["surfaces"]:
            continue
        corpus = Corpus.of(embedded_once(make, given.data), quantise)
        hubs = corpus.hubs(round(given.share * len(corpus.documents)), given.restarts)
        for surface in hubs:
            fixed = {candidates: [surface] * given.restarts for candidates in CANDIDATES}
            cells = measure(corpus, hubs, "exact", fixed)["cells"]
            stored["surfaces"][f"{make.__name__} {quantise} {surface}"] = cells
            print(make.__name__, quantise, surface, flush=True)
        keep()


if __name__ == "__main__":
    main()
