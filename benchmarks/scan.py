"""`advhash scan` measured: the tables of docs/victims/scan_measured.md.

Groups: `runs`, whole commands by their CPU seconds and peak memory; `shares`, CPU time of decoding,
of each hash and of the edits; `pairs`, all close pairs of 100,000 hashes beside faiss in one
process (also in `make bench`); `held_out`, the recommended threshold on pictures that it was not
chosen on; `peers`, duplicates found beside imagededup and perception, which the Python that runs
this must have (`pip install imagededup "perception[pdq]"`). Figures go to `benchmarks/scan.json`;
what is there is not measured again.

    ADVHASH_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/scan.py [--groups runs pairs]
    python benchmarks/scan.py --page    # only write the page; else 30 minutes of one core
"""

from __future__ import annotations

import argparse
import inspect
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pages import filled, table
from PIL import Image

from advhash.codes import HashCodes
from advhash.codes.close_pairs import close_pairs, pair_counts
from advhash.data.images.decode import read_picture
from advhash.data.images.edits import EDITS
from advhash.experiments.scan.hashes import ALL, ReadyHash, named_hashes
from advhash.measures.false_positives import Rates, false_positive_rates, group_edges
from advhash.measures.intervals import mean_metric, rate_metric
from advhash.storage.run_folder import environment
from advhash.victims.perceptual.resampling import Picture

OUT = Path(__file__).with_suffix(".json")
PAGE = OUT.parents[1] / "docs/victims/scan_measured.md"
SEED = 0
LARGE, LARGE_SIDES = 16, (4000, 3000)
EDITED_LARGE, EDITED_CLOTHING, ATTACKED = 2, 40, 16  # alone, in runs of their own
TIMED = 6  # pictures of each size in `shares`
HASHES, BITS, NEAR, THRESHOLD = 100_000, 256, 20_000, 31
DRAWS, NEIGHBOURS = 24, 16  # held out: pictures that are drawn together
CASES = ((500, 1e-3), (1000, 1e-3), (1000, 1e-4), (2000, 1e-4), (4000, 1e-4))  # pictures, rate
LEVELS = 128  # thresholds from here on are never recommended
RATE = 1e-4  # beside peers, and by default in a scan
ORIGINALS, EDITED = 2000, 200  # beside peers
PEERS = ("imagededup", "perception", "imagehash", "Pillow")


def data() -> Path:
    return Path(os.environ["ADVHASH_DATA"])


def photographs() -> list[tuple[str, bytes]]:
    """The photographs of Flickr8k at 128 pixels, by name."""
    with zipfile.ZipFile(data() / "flickr8k_128/images.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        return [(Path(name).stem, archive.read(name)) for name in names]


def write_photographs(folder: Path) -> None:
    for name, content in photographs():
        Image.open(io.BytesIO(content)).save(folder / f"{name}.png", compress_level=1)


def write_large(folder: Path, count: int) -> None:
    """Photographs blown up to 12 megapixels, with noise so that they weigh what such files do."""
    files = sorted((data() / "clothing_photos").rglob("*.jpg"))
    generator = np.random.default_rng(SEED)
    for place in generator.permutation(len(files))[:count]:
        image = Image.open(files[place]).convert("RGB")
        image = image.resize(LARGE_SIDES, Image.Resampling.BICUBIC)
        noise = generator.standard_normal((*LARGE_SIDES[::-1], 1), np.float32)
        pixels = (np.asarray(image) + 4 * noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{place:03}.jpg", quality=90)


def scanned(folder: Path, work: Path, *options: str) -> dict[str, Any]:
    """One command in a process of its own: CPU seconds, wall seconds, peak memory in MiB."""
    command = [sys.executable, "-m", "advhash", "scan", str(folder), "-q", *options]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--out", str(work / f"run {began}")],
        env={**os.environ, "ADVHASH_CACHE": str(work / "cache")},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    record = json.loads((work / f"run {began}/metrics.json").read_text("utf-8"))
    return {
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "wall_seconds": round(time.perf_counter() - began, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
        "pictures": record["pictures"],
        "edited": record["edited"],
        "inside": record["seconds"],
    }


def copied(count: int, work: Path) -> Path:
    """A folder of `count` photographs at their own size."""
    (work / "pictures").mkdir()
    files = sorted((data() / "clothing_photos").rglob("*.jpg"))
    drawn = np.random.default_rng(SEED).permutation(len(files))[:count]
    for place in drawn:
        (work / f"pictures/{place:03}.jpg").write_bytes(files[place].read_bytes())
    return work / "pictures"


def run_start(work: Path) -> dict[str, Any]:
    """What a scan of two small pictures takes: imports, mostly."""
    (work / "pictures").mkdir()
    for name, content in photographs()[:2]:
        Image.open(io.BytesIO(content)).save(work / f"pictures/{name}.png")
    return scanned(work / "pictures", work, "--hash", "all", "--edited", "0")


def run_photographs(work: Path) -> dict[str, Any]:
    (work / "pictures").mkdir()
    write_photographs(work / "pictures")
    return scanned(work / "pictures", work, "--hash", "all")


def run_clothing(work: Path) -> dict[str, Any]:
    return scanned(data() / "clothing_photos", work, "--hash", "all", "--edited", "0")


def run_clothing_edited(work: Path) -> dict[str, Any]:
    return scanned(copied(EDITED_CLOTHING, work), work, "--hash", "all")


def run_large(work: Path) -> dict[str, Any]:
    (work / "pictures").mkdir()
    write_large(work / "pictures", LARGE)
    return scanned(work / "pictures", work, "--hash", "all", "--edited", "0")


def run_large_edited(work: Path) -> dict[str, Any]:
    (work / "pictures").mkdir()
    write_large(work / "pictures", EDITED_LARGE)
    return scanned(work / "pictures", work, "--hash", "all")


def run_least(work: Path) -> dict[str, Any]:
    options = ("--threshold", "pdq=31,phash=10,dhash=10", "--edited", "0")
    return scanned(copied(ATTACKED, work), work, *options, "--attacked", str(ATTACKED))


RUNS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "start": run_start,
    "clothing": run_clothing,
    "clothing, edited": run_clothing_edited,
    "large": run_large,
    "large, edited": run_large_edited,
    "least": run_least,
    "photographs": run_photographs,
}


def runs(known: dict[str, Any]) -> dict[str, Any]:
    for name, run in RUNS.items():
        if name not in known:
            with tempfile.TemporaryDirectory() as folder:
                known = {**known, name: run(Path(folder))}
            print(name, known[name], flush=True)
            keep("runs", known)
    return known


def hashes() -> dict[str, ReadyHash]:
    return {named.label: named.build() for named in named_hashes(ALL, trust_code=False)}


def shares(_: dict[str, Any]) -> dict[str, Any]:
    """CPU milliseconds per picture on one thread: decoding, each hash, edits and their hashes."""
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, content in photographs()[:TIMED]:
            Image.open(io.BytesIO(content)).save(Path(folder) / f"{name}.png", compress_level=1)
        clothing = sorted((data() / "clothing_photos").rglob("*.jpg"))
        files = {
            "128×128, PNG": sorted(Path(folder).iterdir()),
            "400×533, JPEG": clothing[:: len(clothing) // TIMED][:TIMED],
        }
        large = Path(folder) / "large"
        large.mkdir()
        write_large(large, 1)
        files["4000×3000, JPEG"] = sorted(large.iterdir())
        for size, of_size in files.items():
            rows[size] = _shares(of_size)
            print(size, rows[size], flush=True)
    return rows


def _shares(files: Sequence[Path]) -> dict[str, float]:
    ready, spent = hashes(), dict.fromkeys(("decode", *ALL, "edits", "hashes of edits"), 0.0)
    for hashing in ready.values():  # compiled
        hashing.code(Picture(Image.new("RGB", (64, 64))))
    for file in files:
        began = time.thread_time()
        image = read_picture(file, upright=False).image
        spent["decode"] += time.thread_time() - began
        for label, hashing in ready.items():
            began = time.thread_time()
            hashing.code(Picture(image))
            spent[label] += time.thread_time() - began
        for edit in EDITS.values():
            began = time.thread_time()
            changed = Picture(edit.change(image, SEED))
            between = time.thread_time()
            for hashing in ready.values():
                hashing.code(changed)
            spent["edits"] += between - began
            spent["hashes of edits"] += time.thread_time() - between
    return {name: round(1000 * seconds / len(files), 2) for name, seconds in spent.items()}


def pairs(_: dict[str, Any]) -> dict[str, Any]:
    """All pairs within a threshold, by `close_pairs` and by faiss, in this process."""
    import faiss

    generator = np.random.default_rng(SEED)
    codes = generator.random((HASHES, BITS)) < 0.5
    flips = generator.random((NEAR, BITS)) < generator.uniform(0, 0.25, (NEAR, 1))
    codes[-NEAR:] = codes[:NEAR] ^ flips
    packed = HashCodes.pack(codes)
    edges = group_edges(HASHES)
    close_pairs(packed[:64], group_edges(64), THRESHOLD)  # compiled
    ours, seconds, wall = timed(lambda: close_pairs(packed, edges, THRESHOLD))
    counted, counting, counting_wall = timed(lambda: pair_counts(packed, edges))
    octets = np.packbits(codes, axis=1)
    index = faiss.IndexBinaryFlat(BITS)
    index.add(octets)
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    peer, faiss_seconds, faiss_wall = timed(lambda: index.range_search(octets, THRESHOLD + 1))
    limits, _, rows = peer
    asked = np.repeat(np.arange(HASHES), np.diff(limits.astype(np.int64)))
    kept = asked < rows
    theirs = set(zip(asked[kept].tolist(), rows[kept].tolist(), strict=True))
    assert theirs == set(zip(ours.first.tolist(), ours.second.tolist(), strict=True))
    assert counted[..., : THRESHOLD + 1].sum() == len(theirs)
    return {
        "pairs": len(theirs),
        "cpu_seconds": seconds,
        "wall_seconds": wall,
        "counted_cpu_seconds": counting,
        "counted_wall_seconds": counting_wall,
        "faiss_cpu_seconds": faiss_seconds,
        "faiss_wall_seconds": faiss_wall,
    }


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it gives, the CPU seconds of all threads and the wall seconds."""
    began, wall = time.process_time(), time.perf_counter()
    result = work()
    return (
        result,
        round(time.process_time() - began, 2),
        round(time.perf_counter() - wall, 2),
    )


def photograph_codes() -> dict[str, HashCodes]:
    """Codes of the photographs whose pixels no other has, by the label of the hash."""
    ready = hashes()
    images: dict[bytes, Image.Image] = {}
    for _, content in photographs():
        image = Image.open(io.BytesIO(content)).convert("RGB")
        images.setdefault(image.tobytes(), image)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        rows = list(
            pool.map(
                lambda image: [
                    hashing.victim.bits_of(Picture(image)) for hashing in ready.values()
                ],
                images.values(),
            )
        )
    return {label: HashCodes.pack([row[at] for row in rows]) for at, label in enumerate(ready)}


def rates_of(codes: HashCodes, seed: int) -> Rates:
    """Rates as a scan of these pictures alone has them, of the first LEVELS thresholds."""
    edges = group_edges(len(codes))
    counts = pair_counts(codes, edges)
    beyond = counts[..., LEVELS:].sum(axis=2, keepdims=True)
    return false_positive_rates(np.concatenate([counts[..., :LEVELS], beyond], 2), edges, seed)


def held_out(known: dict[str, Any]) -> dict[str, Any]:
    """Thresholds recommended from some photographs, at their rates on all others.

    Photographs are drawn by NEIGHBOURS that follow each other by name.
    """
    rows = known.get("rows", [])
    done = {(row["hash"], row["pictures"], row["rate"]) for row in rows}
    for label, codes in photograph_codes().items():
        for pictures, rate in CASES:
            if (label, pictures, rate) in done:
                continue
            draws = [_held_out(codes, pictures, rate, draw) for draw in range(DRAWS)]
            rows.append({"hash": label, "pictures": pictures, "rate": rate, "draws": draws})
            print(label, pictures, rate, sum(draw is not None for draw in draws), flush=True)
            keep("held_out", {"rows": rows})
    return {"rows": rows}


def _held_out(codes: HashCodes, pictures: int, rate: float, draw: int) -> dict[str, Any] | None:
    """None where nothing is recommended."""
    generator = np.random.default_rng([SEED, pictures, draw])
    parts = generator.permutation(-(-len(codes) // NEIGHBOURS))[: pictures // NEIGHBOURS]
    chosen = np.isin(np.arange(len(codes)) // NEIGHBOURS, parts)
    rates = rates_of(codes[np.flatnonzero(chosen)], draw)
    threshold = rates.threshold(rate)
    if threshold is None:
        return None
    others = codes[np.flatnonzero(~chosen)]
    counts = pair_counts(others, np.array([0, len(others)]))[0, 0]
    metric = rates.metric(threshold)
    return {
        "threshold": threshold,
        "low": metric.low,
        "high": metric.high,
        "held_out": float(counts[: threshold + 1].sum() / counts.sum()),
    }


@dataclass(frozen=True)
class Program:
    """A hash as one program has it.

    threshold: the program's own in bits, where it has one
    """

    name: str
    hash: str
    threshold: int | None
    bits_of: Callable[[Image.Image], npt.NDArray[np.bool_]]


def programs() -> list[Program]:
    """The hashes of advhash, imagededup and perception, each with the threshold it comes with."""
    from imagededup.methods import AHash, DHash, PHash, WHash
    from perception import hashers

    listed = [
        Program(
            "advhash", label, None, lambda image, ready=ready: ready.victim.bits_of(Picture(image))
        )
        for label, ready in hashes().items()
    ]
    for label, make in (("phash", PHash), ("dhash", DHash), ("ahash", AHash), ("whash", WHash)):
        encoder = make(verbose=False)
        default = inspect.signature(encoder.find_duplicates).parameters["max_distance_threshold"]
        listed.append(
            Program(
                "imagededup",
                label,
                default.default,
                lambda image, encoder=encoder: np.unpackbits(
                    np.frombuffer(
                        bytes.fromhex(encoder.encode_image(image_array=np.asarray(image))), np.uint8
                    )
                ).astype(bool),
            )
        )
    for label, hasher in (
        ("pdq", hashers.PDQHash()),
        ("phash", hashers.PHash()),
        ("dhash", hashers.DHash()),
        ("ahash", hashers.AverageHash()),
        ("whash", hashers.WaveletHash()),
    ):
        listed.append(
            Program(
                "perception",
                label,
                None,  # its functions ask for one
                lambda image, hasher=hasher: np.asarray(
                    hasher.compute(np.array(image), hash_format="vector"), bool
                ),
            )
        )
    return listed


def peers(known: dict[str, Any]) -> dict[str, Any]:
    """Recall of edited photographs and false positives, at own thresholds and at equal rates."""
    rows = known.get("rows", [])
    done = {(row["program"], row["hash"]) for row in rows}
    images: dict[bytes, Image.Image] = {}
    for _, content in photographs()[: ORIGINALS + 100]:
        image = Image.open(io.BytesIO(content)).convert("RGB")
        images.setdefault(image.tobytes(), image)
    originals = list(images.values())[:ORIGINALS]
    drawn = np.sort(np.random.default_rng(SEED).permutation(ORIGINALS)[:EDITED])
    edited = [
        [edit.change(originals[place], int(place)) for edit in EDITS.values()] for place in drawn
    ]
    for program in programs():
        if (program.name, program.hash) in done:
            continue
        began = time.process_time()
        own = HashCodes.pack([program.bits_of(image) for image in originals])
        spent = time.process_time() - began
        changed = HashCodes.pack([program.bits_of(image) for row in edited for image in row])
        rates = rates_of(own, SEED)
        words = changed.words.reshape(EDITED, len(EDITS), -1) ^ own.words[drawn][:, None]
        far = np.bitwise_count(words).sum(axis=2)
        recommended = rates.threshold(RATE) if program.name == "advhash" else None
        row = {
            "program": program.name,
            "hash": program.hash,
            "bits": own.bits,
            "milliseconds": round(1000 * spent / ORIGINALS, 2),
            "own": _found(far, rates, program.threshold or recommended),
            "equal": _found(far, rates, rates.estimate(RATE)),
        }
        rows.append(row)
        print(row, flush=True)
        keep("peers", {"rows": rows})
    return {"rows": rows, "versions": {name: version(name) for name in PEERS}}


def _found(
    far: npt.NDArray[np.integer[Any]], rates: Rates, threshold: int | None
) -> dict[str, Any] | None:
    """At a threshold; the interval of the recall is over pictures, each with all of its edits."""
    if threshold is None:
        return None
    return {
        "threshold": threshold,
        "recall": vars(mean_metric((far <= threshold).mean(axis=1), SEED)),
        "false_positives": vars(rates.metric(threshold)),
    }


def run_table(figures: dict[str, Any]) -> list[list[str]]:
    """What was measured, and what was asked for at that cost a picture."""
    known = figures["runs"]
    start = known["start"]["cpu_seconds"]
    each = {name: (run["cpu_seconds"] - start) / run["pictures"] for name, run in known.items()}
    edits = {name: each[f"{name}, edited"] - each[name] for name in ("clothing", "large")}
    totals = (
        (
            *("8,091 photographs of 128×128, six hashes, 2,000 edited", "15"),
            *(known["photographs"]["cpu_seconds"], ("photographs",), "all of it"),
        ),
        (
            *("800 photographs of mostly 400×533, six hashes, all edited", "10"),
            start + 800 * (each["clothing"] + edits["clothing"]),
            *(("clothing", "clothing, edited"), f"800, and {EDITED_CLOTHING} edited"),
        ),
        (
            *("1,000 pictures of 12 megapixels, six hashes, 100 edited", "20"),
            start + 1000 * each["large"] + 100 * edits["large"],
            *(("large", "large, edited"), f"{LARGE}, and {EDITED_LARGE} edited"),
        ),
        (
            *("least change of 500 photographs of 400×533, three hashes", "30"),
            *(start + 500 * each["least"], ("least",), f"{ATTACKED}"),
        ),
    )
    lines = [["what", "measured", "CPU seconds", "two cores, minutes", "asked", "peak memory"]]
    for what, asked, total, names, measured in totals:
        peak = max(known[name]["peak_mib"] for name in names)
        minutes = f"{total / 120:.1f}"
        lines.append([what, measured, f"{total:,.0f}", minutes, asked, f"{peak:,} MiB"])
    return lines


def share_table(figures: dict[str, Any]) -> list[list[str]]:
    rows = figures["shares"]
    names = list(next(iter(rows.values())))
    lines = [["size", *(f"`{name}`" if name in ALL else name for name in names)]]
    lines += [[size, *(f"{row[name]:,.1f}" for name in names)] for size, row in rows.items()]
    return lines


def pair_table(figures: dict[str, Any]) -> list[list[str]]:
    row = figures["pairs"]
    return [
        ["what", "CPU seconds", "wall seconds"],
        *(
            [text, f"{row[f'{name}cpu_seconds']:.1f}", f"{row[f'{name}wall_seconds']:.1f}"]
            for text, name in (
                ("`close_pairs`: pairs within the threshold", ""),
                ("`pair_counts`: all pairs by distance and group", "counted_"),
                ("faiss `IndexBinaryFlat.range_search`, each pair twice", "faiss_"),
            )
        ),
    ]


def held_out_table(figures: dict[str, Any]) -> list[list[str]]:
    lines = [
        [
            *(
                "pictures",
                "rate asked for",
                "hash",
                "recommended in",
                "held-out rate at most asked",
            ),
            *("inside the interval", "at most its upper end", "held-out / asked, median; most"),
        ]
    ]
    order = {case: place for place, case in enumerate(CASES)}
    rows = figures["held_out"]["rows"]
    for row in sorted(rows, key=lambda row: order[(row["pictures"], row["rate"])]):
        made = [draw for draw in row["draws"] if draw is not None]
        cells = [f"{row['pictures']:,}", f"{row['rate']:g}", f"`{row['hash']}`"]
        cells.append(f"{len(made)} of {len(row['draws'])}")
        if made:
            rates = [draw["held_out"] for draw in made]
            ratios = [rate / row["rate"] for rate in rates]
            ends = [(draw["low"] or 0, draw["high"]) for draw in made]
            inside = [low <= rate <= high for (low, high), rate in zip(ends, rates, strict=True)]
            cells += [
                percent([rate <= row["rate"] for rate in rates]),
                percent(inside),
                percent([rate <= high for (_, high), rate in zip(ends, rates, strict=True)]),
                f"{np.median(ratios):.2f}; {max(ratios):.2f}",
            ]
        lines.append(cells + ["–"] * (len(lines[0]) - len(cells)))
    return lines


def percent(outcomes: Sequence[bool]) -> str:
    """A share in percent with its exact interval."""
    metric = rate_metric(outcomes, SEED)
    assert metric.value is not None
    assert metric.low is not None
    assert metric.high is not None
    return f"{100 * metric.value:.0f} [{100 * metric.low:.0f}, {100 * metric.high:.0f}]"


def peer_table(figures: dict[str, Any]) -> list[list[str]]:
    lines = [
        [
            *("hash", "program", "own threshold: bits", "edited, found", "false positives"),
            *("equal rate: bits", "edited, found", "ms per picture"),
        ]
    ]
    rows = figures["peers"]["rows"]
    for row in sorted(rows, key=lambda row: (ALL.index(row["hash"]), row["program"])):
        own, equal = row["own"], row["equal"]
        cells = [f"`{row['hash']}`", row["program"]]
        if own is None:
            cells += ["none", "–", "–"]
        else:
            cells += [str(own["threshold"]), recall(own), rate(own["false_positives"])]
        cells += ["none", "–"] if equal is None else [str(equal["threshold"]), recall(equal)]
        lines.append([*cells, f"{row['milliseconds']:.2f}"])
    return lines


def recall(at: dict[str, Any]) -> str:
    metric = at["recall"]
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def rate(metric: dict[str, Any]) -> str:
    if metric["low"] is None:
        return f"below {metric['high']:.1e}"
    return f"{metric['value']:.1e} [{metric['low']:.1e}, {metric['high']:.1e}]"


def written(text: str, figures: dict[str, Any]) -> str:
    """The page with each table between `<!-- NAME -->` and `<!-- end -->` written anew."""
    made = {name: make(figures) for name, make in TABLES.items()}
    return filled(text, {name: table(head, rows) for name, (head, *rows) in made.items()})


TABLES: dict[str, Callable[[dict[str, Any]], list[list[str]]]] = {
    "runs": run_table,
    "shares": share_table,
    "pairs": pair_table,
    "held out": held_out_table,
    "peers": peer_table,
}
GROUPS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "runs": runs,
    "shares": shares,
    "pairs": pairs,
    "held_out": held_out,
    "peers": peers,
}
WHOLE = {"shares", "pairs"}  # measured in one go


def known_figures() -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(OUT.read_text("utf-8")) if OUT.exists() else {}
    return figures


def keep(group: str, values: dict[str, Any]) -> None:
    figures = {**known_figures(), "environment": environment(), group: values}
    OUT.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--again", action="store_true", help="measure these groups anew")
    given = parser.parse_args()
    for group in () if given.page else given.groups:
        known = {} if given.again else known_figures().get(group, {})
        if not known or group not in WHOLE:
            keep(group, GROUPS[group](known))
            print(group, "measured", flush=True)
    figures = known_figures()
    if set(GROUPS) <= set(figures) and set(RUNS) <= set(figures["runs"]):
        PAGE.write_text(written(PAGE.read_text("utf-8"), figures), "utf-8")


if __name__ == "__main__":
    main()
