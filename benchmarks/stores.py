"""Planted hubs in vector stores: quantisers × stores × rescoring, on captions embedded by MiniLM.

Flickr8k's captions without exact repeats; one caption of each of 2,000 pictures asks, 1,000 known
to the attacker and 1,000 unseen, all others are documents. Queries are answered by the other
captions of their picture. `hubs` plants 0.4 % of the documents, clustered in the space that ranks;
the restarts of its k-means are the seeds. One store serves all numbers of candidates, so that every
index is built once for each planted set and once without any.
Writes `benchmarks/stores.json`, store by store, so that it can be stopped and started again, and
the tables between its marks in `docs/attacks/poisoning_stores.md`. Captions are embedded once, in
about 10 minutes of one core, into a file of the cache:

    OMP_NUM_THREADS=1 python benchmarks/stores.py --data FOLDER [--stores exact faiss-ivf …]
        [--quantisers sign mean itq] [--share 0.004] [--restarts 3]
    python benchmarks/stores.py --adapters   # what adapters add to their clients
    python benchmarks/stores.py --million    # `hubs` and exact judging of a million codes
    python benchmarks/stores.py --page       # only write the tables from the json
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advhash.attacks.poisoning.base import Poisoning, Seen
from advhash.codes.hamming import neighbours
from advhash.codes.packed import HashCodes
from advhash.codes.relevance import GradedPairs
from advhash.codes.vectors import Vectors
from advhash.data.text.kinds import embed_sentences
from advhash.experiments.poison.judge import figures, judge, natural_hubs
from advhash.experiments.poison.material import quantised
from advhash.experiments.prepare.seeds import derive_seed
from advhash.registry import POISONINGS, QUANTISERS, STORES
from advhash.storage.cache import cache_root
from advhash.storage.run_folder import environment
from advhash.stores.base import octets
from advhash.stores.served import Served, recall_of_distances

OUT = Path(__file__).with_suffix(".json")
PAGE = OUT.parents[1] / "docs/attacks/poisoning_stores.md"
START, END = "<!-- stores: written by benchmarks/stores.py -->\n", "<!-- end of stores -->\n"
STORE_NAMES = ("exact", "faiss-ivf", "faiss-hnsw", "usearch", "pgvector-hnsw")
QUANTISER_NAMES = ("sign", "mean", "itq")
CANDIDATES = (0, 3, 10)  # for each result; 0: no rescoring
FIRST = 10
SHOWN = ("planted_top10", "planted_top10_natural", "own_recall10_before", "own_recall10_after")


def captions(folder: Path) -> dict[str, Any]:
    """Embeddings and pictures of documents and queries, embedded once."""
    file = cache_root() / "benchmarks" / "flickr8k-captions.npz"
    if not file.is_file():
        entries = json.loads((folder / "captions.json").read_text("utf-8"))
        texts: dict[str, tuple[str, int]] = {}
        for picture, entry in enumerate(entries):
            for caption in entry["captions"]:
                texts.setdefault(" ".join(caption.lower().split()), (caption, picture))
        kept = list(texts.values())
        floats = embed_sentences([caption for caption, _ in kept]).numpy()
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, floats=floats, pictures=np.array([picture for _, picture in kept]))
    with np.load(file) as stored:
        floats, pictures = stored["floats"], stored["pictures"]
    generator = np.random.default_rng(0)
    chosen = generator.permutation(np.unique(pictures))[:2000]
    rows = [np.flatnonzero(pictures == picture) for picture in chosen]
    asked = np.array([generator.choice(row) for row in rows if len(row) > 1])
    documents = np.setdiff1d(np.arange(len(floats)), asked)
    known, unseen = asked[: len(asked) // 2], asked[len(asked) // 2 :]
    own = GradedPairs.of_identities(pictures[unseen], pictures[documents])
    return {
        "documents": floats[documents],
        "known": floats[known],
        "unseen": floats[unseen],
        "own": own,
    }


def vectors(data: dict[str, Any], quantise: str) -> tuple[dict[str, Vectors], Any]:
    """Each side with its codes, and the quantiser of the documents."""
    rows = torch.from_numpy(data["documents"])
    generator = torch.Generator().manual_seed(0)
    cut = QUANTISERS.create(quantise).fit(rows, rows.shape[1], generator)
    names = ("documents", "known", "unseen")
    return {name: quantised(data[name], cut) for name in names}, cut


def searched(
    store: str, sides: dict[str, Vectors], planted: Vectors | None, asked: Vectors
) -> dict[str, Any]:
    """Results of every number of candidates, the recall of the store, and seconds."""
    documents = sides["documents"]
    found: dict[str, Any] = {}
    with Served({"name": store}, [{"name": "float", "multiplier": max(CANDIDATES)}]) as served:
        began = time.perf_counter()
        served.add(np.arange(len(documents)), documents)
        found["build"] = time.perf_counter() - began
        if planted is not None:
            served.add(len(documents) + np.arange(len(planted)), planted)
        stages = served.stages
        for candidates in CANDIDATES:
            served.stages = stages if candidates else []
            stages[0].multiplier = max(candidates, 1)
            found[str(candidates)] = served.search(asked, FIRST)[0]
        if planted is None:
            _, far = served.store.search(asked.codes, FIRST)
            _, exact = neighbours(asked.codes, documents.codes, FIRST)
            found["recall"] = float(recall_of_distances(far, exact).mean())
    return found


def measure(
    data: dict[str, Any], store: str, quantise: str, share: float, restarts: int
) -> dict[str, Any]:
    """Figures of every number of candidates."""
    sides, cut = vectors(data, quantise)
    count = round(share * len(sides["documents"]))
    both = Vectors.concatenate([sides["unseen"], sides["known"]])
    clean = searched(store, sides, None, both)
    unseen = len(sides["unseen"])
    method: Poisoning = POISONINGS.create("hubs")
    planted: dict[str, list[Any]] = {"codes": [], "floats": []}
    for ranks, results in planted.items():
        seen = Seen(sides["known"], sides["documents"], cut, 1.0, ranks)  # type: ignore[arg-type]
        for restart in range(restarts):
            items = method.plant(seen, count, derive_seed(restart, "planted")).vectors
            results.append(searched(store, sides, items, sides["unseen"]))
    cells = {}
    items_rows = len(sides["documents"]) + np.arange(count)
    for candidates in map(str, CANDIDATES):
        ids = clean[candidates]
        before = judge(ids[:unseen], items_rows[:0], data["own"])
        natural = judge(ids[:unseen], natural_hubs(ids[unseen:], count), data["own"])
        random = [
            judge(
                ids[:unseen],
                np.random.default_rng(restart).permutation(len(sides["documents"]))[:count],
                data["own"],
            )
            for restart in range(restarts)
        ]
        results = planted["codes" if candidates == "0" else "floats"]
        after = [judge(one[candidates], items_rows, data["own"]) for one in results]
        cells[candidates] = {
            name: vars(metric)
            for name, metric in figures(before, after, natural, random, 0).items()
        }
    return {
        "items": count,
        "recall": clean["recall"],
        "seconds_build": clean["build"],
        "cells": cells,
    }


def adapters(rows: int = 20_000, bits: int = 384, queries: int = 1_000) -> dict[str, Any]:
    """Seconds of a batch by a store and by its client alone, in one process."""
    generator = np.random.default_rng(0)
    centres = generator.random((40, bits)) < 0.5

    def drawn(count: int) -> HashCodes:
        near = centres[generator.integers(0, 40, count)] ^ (generator.random((count, bits)) < 0.2)
        return HashCodes.pack(near)

    known, asked = drawn(rows), drawn(queries)
    result = {}
    for name in ("faiss-flat", "faiss-ivf", "faiss-hnsw", "usearch"):
        with STORES.create(name) as store:
            store.add(np.arange(rows), known)
            index, packed = store._index, octets(asked)
            client, ours = _best(
                lambda index=index, packed=packed: index.search(packed, FIRST),
                lambda store=store: store.search(asked, FIRST),
            )
        result[name] = {"client": client, "store": ours, "added": ours / client - 1}
        print(name, result[name], flush=True)
    with STORES.create("sqlite-vec") as store:
        store.add(np.arange(rows), known)
        base, part = store._base, asked[:50]
        statement = "SELECT id, distance FROM codes WHERE code MATCH vec_bit(?) AND k = ?"
        texts = [bytes(code) for code in octets(part)]
        client, ours = _best(
            lambda: [base.execute(statement, (code, FIRST)).fetchall() for code in texts],
            lambda: store.search(part, FIRST),
        )
    result["sqlite-vec"] = {"client": client, "store": ours, "added": ours / client - 1}
    with STORES.create("pgvector-hnsw") as store:
        store.add(np.arange(rows), known)
        session = store._session
        words = ["".join("01"[bit] for bit in code) for code in asked.unpack().astype(int)]
        text = (
            f"SELECT id, code <~> %s::bit({bits}) FROM advhash_codes "
            f"ORDER BY code <~> %s::bit({bits}) LIMIT {FIRST}"
        )
        client, ours = _best(
            lambda: [
                session.execute(text, (word, word), prepare=True).fetchall() for word in words
            ],
            lambda: store.search(asked, FIRST),
        )
    result["pgvector-hnsw"] = {"client": client, "store": ours, "added": ours / client - 1}
    return result


def _best(client: Any, ours: Any, repeats: int = 9) -> tuple[float, float]:
    """The least seconds of two calls, in turn; ours first, as it sets how far an index searches."""
    seconds: dict[Any, list[float]] = {ours: [], client: []}
    for _ in range(repeats):
        for call, taken in seconds.items():
            began = time.perf_counter()
            call()
            taken.append(time.perf_counter() - began)
    return min(seconds[client]), min(seconds[ours])


def million(rows: int = 1_000_000, bits: int = 384) -> dict[str, Any]:
    """Seconds and memory of `hubs` over 1,000 queries, and of exact judging by 1,000 others."""
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
    began = time.perf_counter()
    seen = Seen(known, Vectors(documents, nothing, nothing), cut, 1.0, "codes")
    items = POISONINGS.create("hubs").plant(seen, 500, 0).vectors
    planted = time.perf_counter()
    whole = HashCodes.concatenate([documents, items.codes])
    own = GradedPairs.of_identities(np.arange(1000), np.arange(rows) % 500_000)
    ids, _ = neighbours(unseen.codes, whole, FIRST)
    before, _ = neighbours(unseen.codes, documents, FIRST)
    hits = judge(ids, rows + np.arange(500), own).top[10].mean()
    judge(before, np.zeros(0, np.int64), own)
    return {
        "seconds_hubs": planted - began,
        "seconds_judging": time.perf_counter() - planted,
        "planted_top10": float(hits),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def tables(stored: dict[str, Any]) -> str:
    """What is written between the marks of the page."""
    lines = []
    if stored.get("cells"):
        first = next(iter(stored["cells"].values()))
        lines += [
            f"Flickr8k's captions by MiniLM: {stored['documents']} documents of 384 bits, 1,000 "
            f"known and 1,000 unseen queries, {first['items']} hubs ({100 * stored['share']:g} %), "
            f"{stored['restarts']} restarts of k-means. In percent, with 95 % intervals over "
            "queries and restarts; own answers are the other captions of a picture.",
            "",
            "| quantiser | store (its recall) | float rescoring | planted | natural hubs | own "
            "answers before | after |",
            "|---|---|---|---|---|---|---|",
        ]
        for key, cell in stored["cells"].items():
            quantise, store = key.split(" ")
            for candidates, metrics in cell["cells"].items():
                shown = " | ".join(_percent(metrics[name]) for name in SHOWN)
                stage = "–" if candidates == "0" else f"×{candidates}"
                lines.append(
                    f"| {quantise} | {store} ({100 * cell['recall']:.1f}) | {stage} | {shown} |"
                )
        lines.append("")
    if stored.get("adapters"):
        parts = (f"{name} {100 * one['added']:+.1f} %" for name, one in stored["adapters"].items())
        lines += [
            "What a store adds to its own client's call, 1,000 queries of 384 bits against 20,000 "
            f"rows (sqlite-vec: 50), the best of nine, in turn: {', '.join(parts)}.",
            "",
        ]
    if stored.get("million"):
        one = stored["million"]
        lines += [
            f"One million codes of 384 bits: `hubs` takes {one['seconds_hubs']:.1f} s, exact "
            f"judging by 1,000 queries before and after {one['seconds_judging']:.1f} s, "
            f"{one['peak_mib']:.0f} MiB at most.",
            "",
        ]
    return "\n".join(lines)


def _percent(metric: dict[str, Any]) -> str:
    value = f"{100 * metric['value']:.1f}"
    if metric["low"] is None:
        return value
    return f"{value} [{100 * metric['low']:.1f}, {100 * metric['high']:.1f}]"


def write_page() -> None:
    """The tables of the json, between the marks."""
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(START)
    stored = json.loads(OUT.read_text("utf-8"))
    PAGE.write_text(f"{before}{START}\n{tables(stored)}{END}{rest.partition(END)[2]}", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/flickr8k_128"))
    parser.add_argument("--stores", nargs="+", default=STORE_NAMES)
    parser.add_argument("--quantisers", nargs="+", default=QUANTISER_NAMES)
    parser.add_argument("--share", type=float, default=0.004)
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--adapters", action="store_true")
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    stored: dict[str, Any] = {"cells": {}}
    if OUT.is_file():
        stored = json.loads(OUT.read_text("utf-8"))

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
        data = captions(given.data)
        settings = {"share": given.share, "restarts": given.restarts}
        if any(stored.get(name, value) != value for name, value in settings.items()):
            stored["cells"] = {}
        stored |= {**settings, "documents": len(data["documents"])}
        for quantise in given.quantisers:
            for store in given.stores:
                key = f"{quantise} {store}"
                if key not in stored["cells"]:
                    stored["cells"][key] = measure(
                        data, store, quantise, given.share, given.restarts
                    )
                    print(key, stored["cells"][key]["recall"], flush=True)
                    keep()
    write_page()


if __name__ == "__main__":
    main()
