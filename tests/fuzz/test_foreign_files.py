"""Damaged files of every kind that advhash reads: one line each, nothing else.

ADVHASH_FUZZ_FILES says how many a kind (300), ADVHASH_FUZZ_COMMANDS how many again as whole
commands (20). A failure names kind and number, which are the seed: the same file comes again.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tomllib
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import timm
import torch
from damage import codes_signed_anew, damaged, resealed, signed_anew
from PIL import Image
from report_scene import MAKERS, make_run

from advhash.codes.code_files import LabelledCodes, read_codes, read_stored, write_codes
from advhash.codes.forms import Reading
from advhash.codes.judgements import Side, read_judgements
from advhash.codes.packed import HashCodes
from advhash.data.load import load_dataset
from advhash.errors import AdvhashError
from advhash.experiments.compare import compare_runs
from advhash.experiments.config import AttackConfig
from advhash.experiments.config_text import read_toml
from advhash.experiments.evaluate import evaluate
from advhash.experiments.experiment import describe
from advhash.experiments.prepare.imported import import_checkpoint
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained, train_document
from advhash.functional import nas
from advhash.functional.evaluation_cache import EquivalenceCache, Evaluation
from advhash.registry import EXPERIMENTS, VICTIMS
from advhash.reports.attack.queries import load_queries
from advhash.reports.page.render import draw
from advhash.reports.record import load_record
from advhash.storage.cache import cached
from advhash.storage.checkpoint import load_victim, save_victim
from advhash.storage.run_folder import RunFolder, expect_finished
from advhash.victims.federated.wire import Kind as Table, Message, Transcript, pack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

FILES = int(os.environ.get("ADVHASH_FUZZ_FILES", "300"))
COMMANDS = int(os.environ.get("ADVHASH_FUZZ_COMMANDS", "20"))
SECONDS = 60
MOST_MEMORY = 4 * 2**20  # KiB
SIDE, ITEMS = 16, 60
EXITS = {0, 2, 3, 4, 5}


class Hang(BaseException):
    """The alarm of a file went off."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """What is fuzzed.

    make:    a whole sample in an empty folder
    read:    all that advhash does with such a folder
    command: the arguments of a command that reads it; None where none does
    after:   what a stranger would do once a file was changed
    only:    which files of the sample are changed
    """

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    command: Callable[[Path], Sequence[str]] | None = None
    after: Callable[[Path], None] = lambda folder: None
    only: str = "**/*"


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def multi_hot(count: int, classes: int) -> np.ndarray:
    labels = np.random.default_rng(1).integers(0, 2, (count, classes), np.uint8)
    labels[np.arange(count), np.arange(count) % classes] = 1
    return labels


def make_checkpoint(folder: Path) -> None:
    settings = VICTIMS.settings("dpsh", {"bits": 16, "image_size": 32})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        victim = VICTIMS.create("dpsh", settings)
    victim.history = [{"phase": "train", "epoch": 1, "loss": 0.5}]
    figure = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    codes = {"rows": 9, "distinct": 9, "balance": 0.9, "entropy": 0.9}
    save_victim(
        folder,
        victim,
        name="dpsh",
        settings=settings,
        source="a paper",
        seed=1,
        data={
            "name": "digits", "settings": {"size": 32}, "fingerprint": "ab", "rows": {"train": 9},
            "pictures": {"fed": [32, 32], "stored": None}, "licence": "free",
        },
        metrics={"map_image_image": figure, "map_chance": figure},
        codes={"image": codes},
        flags=[{"name": "odd", "level": "info", "message": "mind"}],
        seconds=1.5,
        defenses=[],
        undefended={"metrics": {"map": figure}, "codes": {"image": codes}, "seconds": 1.0},
    )  # fmt: skip


def read_checkpoint(folder: Path) -> None:
    from advhash.experiments.attack.record import victim_info

    victim, card = load_victim(folder)
    data = load_dataset("digits", {"size": 32})
    trained = Trained(victim, data, str(folder), {}, card, folder, "ab", "checkpoint", 0.0)
    json.dumps(train_document(trained), allow_nan=False)
    json.dumps(victim_info(trained).model_dump(mode="json"), allow_nan=False)
    assert derive_seed(int(card.get("seed", 0)), "victim") >= 0


def perhaps_signed(folder: Path) -> None:
    try:
        signed_anew(folder)
    except (ValueError, OSError, TypeError, RecursionError):
        return


def make_finished(folder: Path) -> None:
    for place in ("a", "b"):
        make_run(folder / place)
        targets = [[int(row % 3)] for row in range(6)]
        columns = {"query": list(range(6)), "target": targets}
        means = {"tmap": 0.7654, "map": 0.8, "map_adversarial": 0.4}
        columns |= {f"{name}:fused": [mean] * 6 for name, mean in means.items()}
        pq.write_table(pa.table(columns), folder / place / "queries.parquet")


def read_finished(folder: Path) -> None:
    for place in ("a", "b"):
        expect_finished(folder / place)
        load_queries(folder / place, load_record(folder / place))
    draw([folder / "a", folder / "b"])
    compare_runs(folder / "a", folder / "b")


def run_of(name: str) -> Kind:
    def place(folder: Path) -> Path:
        file = folder / "run.json"
        return file if file.exists() else folder / "run"

    return Kind(
        lambda folder: MAKERS[name](folder / "run"),
        lambda folder: draw([place(folder)]),
        lambda folder: ("report", str(place(folder)), "--out", str(folder / "page.html")),
    )


CONFIG = """seed = 1
device = "cpu"
[victim]
name = "dpsh"
bits = 16
epochs = 1
[attack]
name = "dhta"
steps = 5
[dataset]
name = "digits"
size = 16
[budget]
norm = "linf"
eps = "8/255"
[protocol]
queries = 5
targets = "uniform"
"""


def make_partial(folder: Path) -> None:
    run = RunFolder.start(folder / "run")
    run.claim("attack", AttackConfig.build(tomllib.loads(CONFIG)).to_toml(), "ab")


def read_partial(folder: Path) -> None:
    _, kind = RunFolder.interrupted(folder / "run")
    experiment: Any = EXPERIMENTS.create(kind)
    config = experiment.config.build(read_toml(folder / "run.partial" / "config.toml"))
    run = RunFolder.start_or_continue(folder / "run")
    try:
        run.claim(kind, config.to_toml(), "ab")
    finally:
        run.abandon(keep=True)


def make_codes(suffix: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        chance = np.random.default_rng(0)
        codes = HashCodes.pack(chance.integers(0, 2, (40, 70)))
        data = LabelledCodes(codes, HashCodes.pack(multi_hot(40, 5)))
        write_codes(folder / f"x{suffix}", data)
        np.savetxt(folder / "labels.txt", multi_hot(40, 5), fmt="%d")

    return make


def read_code_file(folder: Path) -> None:
    file = next(folder.glob("x.*"))
    alone = file.suffix in (".txt", ".npy")
    data = read_codes(file, folder / "labels.txt" if alone else None)
    if len(data):
        evaluate(data, data).document(0)


def code_command(folder: Path) -> list[str]:
    file, labels = str(next(folder.glob("x.*"))), str(folder / "labels.txt")
    alone = file.endswith((".txt", ".npy"))
    more = ["--labels", labels, "--database-labels", labels] if alone else []
    return ["eval", "--codes", file, "--database", file, *more]


def codes_kind(suffix: str) -> Kind:
    def after(folder: Path) -> None:
        if suffix == ".codes" and len(list(folder.glob("x.codes"))):
            codes_signed_anew(folder / "x.codes")

    return Kind(make_codes(suffix), read_code_file, code_command, after)


def make_stored(suffix: str) -> Callable[[Path], None]:
    """Codes as others keep them, with judgements in the way of BEIR."""

    def make(folder: Path) -> None:
        import faiss

        octets = np.random.default_rng(0).integers(0, 256, (40, 9), np.uint8)
        if suffix == ".parquet":
            names = [f"d{row}" for row in range(40)]
            pq.write_table(pa.table({"id": names, "codes": list(octets)}), folder / "x.parquet")
        elif suffix == ".jsonl":
            words = ({"_id": f"d{n}", "hash": row.tobytes().hex()} for n, row in enumerate(octets))
            (folder / "x.jsonl").write_text("".join(json.dumps(word) + "\n" for word in words))
        elif suffix == ".faiss":
            index = faiss.index_binary_factory(72, "BIVF2")
            index.cp.min_points_per_centroid = 1
            index.train(octets)
            index.add(octets)
            faiss.write_index_binary(index, str(folder / "x.faiss"))
        else:
            np.savetxt(folder / "x.txt", octets / 255 - 0.5)
        (folder / "beir/qrels").mkdir(parents=True)
        for name in ("corpus", "queries"):
            rows = (json.dumps({"_id": f"d{row}"}) + "\n" for row in range(40))
            (folder / f"beir/{name}.jsonl").write_text("".join(rows))
        judged = (f"d{row}\td{row % 7}\t{row % 3}\n" for row in range(40))
        header = "query-id\tcorpus-id\tscore\n"
        (folder / "beir/qrels/test.tsv").write_text(header + "".join(judged))

    return make


def read_stored_file(folder: Path) -> None:
    file = next(folder.glob("x.*"))
    how = Reading(quantise="mean") if file.suffix == ".txt" else Reading()
    stored = read_stored(file, how)
    asked, known = (Side(name, len(stored), stored.ids) for name in ("queries", "database"))
    judgements = read_judgements(folder / "beir", asked, known)
    query = LabelledCodes.unlabelled(stored.codes[judgements.queries])
    database = LabelledCodes.unlabelled(stored.codes)
    evaluate(query, database, relevance=judgements.pairs).document(0)


def stored_command(folder: Path) -> list[str]:
    file = str(next(folder.glob("x.*")))
    more = ["--quantise", "mean"] if file.endswith(".txt") else []
    beir = str(folder / "beir")
    return ["eval", "--codes", file, "--database", file, "--relevance", beir, *more]


def read_config(folder: Path) -> None:
    config = AttackConfig.build(read_toml(folder / "config.toml"))
    kind: Any = EXPERIMENTS.create("attack")
    json.dumps(describe(kind, config), allow_nan=False)
    kind.plan(config).config.to_toml()


SUITE = """name = "mine"
victim_seeds = 1
attack_seeds = 1
[[grids]]
datasets = ["digits+size=16"]
victims = ["dpsh+epochs=1", {name = "csq", bits = 16}]
defenses = ["none"]
attacks = ["dhta+steps=5", "noise"]
budgets = ["8/255", {norm = "l2", eps = 1.5}]
[grids.protocol]
queries = 5
"""


def read_suite(folder: Path) -> None:
    from advhash.experiments.benchmark.config import SuiteConfig
    from advhash.experiments.benchmark.shipped import load_suite
    from advhash.experiments.benchmark.suite import plan_suite

    config = SuiteConfig.build(load_suite(str(folder / "suite.toml")))
    plan_suite(config).config.to_toml()


def make_images(folder: Path) -> None:
    suffixes = (".png", ".jpg", ".gif", ".bmp", ".tif", ".webp")
    for row, image in enumerate(noise(24)):
        place = folder / "set" / "ab"[row % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{row}{suffixes[row // 2 % 6]}")


def make_lists(folder: Path) -> None:
    (folder / "set/photos").mkdir(parents=True)
    labels = multi_hot(ITEMS, 3)
    for row, image in enumerate(noise(ITEMS)):
        Image.fromarray(image).save(folder / f"set/photos/im {row}.png")
    for part, rows in (("database", range(48)), ("train", range(16)), ("test", range(48, ITEMS))):
        names = "".join(f"photos/im {row}.png\n" for row in rows)
        hot = "".join(" ".join(map(str, labels[row])) + "\n" for row in rows)
        (folder / f"set/{part}_img.txt").write_text(names)
        (folder / f"set/{part}_label.txt").write_text(hot)


def make_captions(folder: Path) -> None:
    (folder / "set").mkdir()
    lines = ["image,caption,labels"]
    for row, image in enumerate(noise(ITEMS)):
        Image.fromarray(image).save(folder / f"set/{row}.png")
        lines.append(f'{row}.png,"a dog, and {row} cats",{"dog" if row % 2 else "cat;dog"}')
    (folder / "set/captions.csv").write_text("\n".join(lines) + "\n")


def make_matlab(version: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        tags = np.random.default_rng(2).integers(0, 3, (ITEMS, 7), np.uint8)
        tags[:, 0] = 1
        values = {
            "IAll": noise(ITEMS).transpose(1, 2, 3, 0),
            "LAll": multi_hot(ITEMS, 4).astype(float),
            "YAll": tags.astype(float),
        }
        file = folder / "set" / "flickr.mat"
        file.parent.mkdir()
        if version == 5:
            scipy.io.savemat(file, values, do_compression=True)
            return
        with h5py.File(file, "w", userblock_size=512) as opened:
            for name, value in values.items():
                opened.create_dataset(name, data=value.T, compression="gzip")
                opened[name].attrs["MATLAB_class"] = np.bytes_("double")

    return make


def make_table(suffix: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        chance = np.random.default_rng(3)
        columns = {
            "age": chance.integers(0, 90, 80).tolist(),
            "word": [("red", "green", "blue")[row % 3] for row in range(80)],
            "label": [("yes", "no")[row % 2] for row in range(80)],
        }
        file = folder / f"set{suffix}"
        if suffix == ".parquet":
            pq.write_table(pa.table(columns), file)
            return
        lines = [
            ",".join(columns),
            *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True)),
        ]
        text = "\n".join(lines).encode()
        file.write_bytes(gzip.compress(text) if suffix == ".csv.gz" else text)

    return make


def data_kind(make: Callable[[Path], None], only: str, reader: str = "", **given: object) -> Kind:
    def settings(folder: Path) -> dict[str, object]:
        return {"root": str(next(folder.glob("set*"))), **given} if reader else dict(given)

    def name(folder: Path) -> str:
        return reader or str(next(folder.glob("set*")))

    return Kind(
        make,
        lambda folder: load_dataset(name(folder), settings(folder)).fingerprint(),
        lambda folder: [
            *("data", "show", name(folder)),
            *(f"--set=dataset.{key}={value}" for key, value in settings(folder).items()),
        ],
        only=only,
    )


GENOME = """[victim]
name = "dpsh"
[attack]
name = "evolved"
anchor = "dhta"
program = ["multiply h b", "negative r0"]
rule = "sign"
step = 0.1
alphas = [0.5, 1.0]
momentum = 0.5
diversity = 0.0
random_start = false
[dataset]
name = "digits"
size = 16
"""


def make_genome(folder: Path) -> None:
    from advhash.attacks.evolved.genome import random_genome

    genome = random_genome(Random(3)).settings()
    (folder / "genome.json").write_text(json.dumps(genome))


def read_genome_file(folder: Path) -> None:
    from advhash.attacks.evolved.genome import read_genome
    from advhash.errors import ConfigError
    from advhash.storage.documents import Unreadable, read_json

    try:
        document = read_json(folder / "genome.json")
    except Unreadable as error:
        raise ConfigError(str(error)) from None
    json.dumps(read_genome(document).settings(), allow_nan=False)


def make_equivalences(folder: Path) -> None:
    cache = EquivalenceCache(folder / "cache.sqlite", max_num_evals=2, seed=1)
    for key in ("a", "b", "c", "a"):
        cache.evaluate(key, lambda: Evaluation({"fitness": 0.5}, 1.0), hash_seconds=0.1)
    cache.close()
    for left in folder.glob("*-*"):
        left.unlink()


def read_equivalences(folder: Path) -> None:
    cache = EquivalenceCache(folder / "cache.sqlite", max_num_evals=2, capacity=2)
    try:
        for key in ("a", "b", "d"):
            cache.evaluate(key, lambda: Evaluation({"fitness": 0.5}, 1.0), hash_seconds=0.1)
        json.dumps(cache.document(), allow_nan=False)
        cache.restore(json.loads(json.dumps(cache.state())))
    finally:
        cache.close()


def make_transcript(folder: Path) -> None:
    transcript = Transcript()
    for round_ in range(4):
        signs = torch.ones(8, 16) if round_ % 2 else -torch.ones(8, 16)
        transcript.record(pack(Message(Table.CODES, 0, round_, signs)))
        transcript.record(pack(Message(Table.GRADIENTS, 0, round_, torch.randn(8, 16))))
    transcript.save(folder / "transcript.bin")


def read_transcript(folder: Path) -> None:
    for message in Transcript.load(folder / "transcript.bin"):
        assert message.values.dim() == 2


def make_cached(folder: Path) -> None:
    _cached(folder)


def _cached(folder: Path) -> str:
    def build(target: Path) -> None:
        (target / "figures.json").write_text('{"fitness": 0.5}')

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVHASH_CACHE", str(folder))
        return cached("kind", "key", build, lambda found: (found / "figures.json").read_text())


def read_cached(folder: Path) -> None:
    """Rebuilt or refused, never believed."""
    assert _cached(folder) == '{"fitness": 0.5}'


def make_foreign(zipped: bool, whole: bool) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = timm.create_model("test_resnet", num_classes=8)
        value = network if whole else {"epoch": 3, "state_dict": network.state_dict()}
        file = folder / "model.pth"
        torch.save(value, file, _use_new_zipfile_serialization=zipped)  # noqa: TID251

    return make


FOREIGN = ("timm:test_resnet", "none", 32)


def read_foreign(folder: Path) -> None:
    architecture, normalise, size = FOREIGN
    document = import_checkpoint(
        folder / "model.pth",
        folder / "out",
        architecture=architecture,
        normalise=normalise,
        image_size=size,
    )
    json.dumps(document, allow_nan=False)
    load_victim(folder / "out")


def foreign_command(folder: Path) -> list[str]:
    architecture, normalise, size = FOREIGN
    return [
        *("import", str(folder / "model.pth"), "--as", str(folder / "out"), "--arch", architecture),
        *("--normalise", normalise, "--image-size", str(size)),
    ]


def reseal(folder: Path) -> None:
    if zipfile.is_zipfile(folder / "model.pth"):
        resealed(folder / "model.pth")


def foreign_kind(zipped: bool, whole: bool) -> Kind:
    return Kind(make_foreign(zipped, whole), read_foreign, foreign_command, reseal, "model.pth")


KINDS: dict[str, Kind] = {
    "checkpoint": Kind(
        make_checkpoint, read_checkpoint,
        lambda folder: ("attack", "--victim", str(folder), "--method", "noise", "--dry-run"),
    ),
    "signed checkpoint": Kind(
        make_checkpoint, read_checkpoint,
        lambda folder: ("train", "--victim", str(folder)),
        perhaps_signed,
    ),
    **{
        f"foreign pickle, {what}, {container}": foreign_kind(zipped, what == "model")
        for what in ("model", "state")
        for container, zipped in (("archive", True), ("stream", False))
    },
    "two runs": Kind(
        make_finished, read_finished,
        lambda folder: ("compare", str(folder / "a"), str(folder / "b")),
    ),
    **{f"run of {name}": run_of(name) for name in MAKERS if name != "attack"},
    "interrupted run": Kind(make_partial, read_partial),
    **{f"codes {suffix}": codes_kind(suffix) for suffix in (".codes", ".npz", ".npy", ".txt")},
    **{
        f"stored codes {suffix}": Kind(make_stored(suffix), read_stored_file, stored_command)
        for suffix in (".parquet", ".jsonl", ".faiss", ".txt")
    },
    "config": Kind(
        lambda folder: (folder / "config.toml").write_text(CONFIG), read_config,
        lambda folder: ("attack", "--config", str(folder / "config.toml"), "--dry-run"),
    ),
    "evolved attack": Kind(
        lambda folder: (folder / "config.toml").write_text(GENOME), read_config,
        lambda folder: ("attack", "--config", str(folder / "config.toml"), "--dry-run"),
    ),
    "suite": Kind(
        lambda folder: (folder / "suite.toml").write_text(SUITE), read_suite,
        lambda folder: ("benchmark", "--suite", str(folder / "suite.toml"), "--dry-run"),
    ),
    "images": data_kind(make_images, "set/*/*"),
    "lists": data_kind(make_lists, "set/*.txt", "image_lists", size=16, validation=4),
    "captions": data_kind(make_captions, "set/*.csv", "captioned", size=16),
    "matlab 5": data_kind(
        make_matlab(5), "set/*", "mirflickr_mat", size=16, queries=8, trained=20, validation=5
    ),
    "matlab 7.3": data_kind(
        make_matlab(73), "set/*", "mirflickr_mat", size=16, queries=8, trained=20, validation=5
    ),
    **{
        f"table {suffix}": data_kind(make_table(suffix), "set*", "table", label="label")
        for suffix in (".csv", ".csv.gz", ".parquet")
    },
    "trained cells": Kind(
        lambda folder: shutil.copyfile(nas.TABLE, folder / "table.json.gz"),
        lambda folder: nas.read_table(folder / "table.json.gz"),
    ),
    "genome": Kind(make_genome, read_genome_file),
    "equivalences": Kind(make_equivalences, read_equivalences, only="*.sqlite"),
    "transcript": Kind(make_transcript, read_transcript),
    "cache": Kind(make_cached, read_cached, only="kind/key/*"),
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / request.param
    folder.mkdir()
    KINDS[request.param].make(folder)
    return folder


def drawn(sample: Path, number: int, folder: Path) -> Path:
    """The damaged file of a number: a copy of the sample with one or two changes."""
    kind, chance = KINDS[sample.name], Random(f"{sample.name} {number}")
    shutil.copytree(sample, folder)
    for _ in range(chance.choice((1, 1, 1, 2))):
        files = sorted(file for file in folder.glob(kind.only) if file.is_file())
        try:
            damaged(chance.choice(files), chance)
        except (
            ValueError,
            RecursionError,
            sqlite3.Error,
        ):  # it was damaged beyond its kind by the first change
            break
    if chance.random() < 0.7:
        kind.after(folder)
    return folder


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_every_sample_is_read_as_it_was_made(sample: Path, tmp_path: Path) -> None:
    """Or what is said of damaged ones would say nothing."""
    folder = tmp_path / "whole"
    shutil.copytree(sample, folder)
    KINDS[sample.name].read(folder)


@pytest.mark.filterwarnings("default")
def test_damaged_files_end_in_one_line(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    monkeypatch.chdir(outside)
    faults: list[str] = []
    refused = 0
    for number in range(FILES):
        folder = drawn(sample, number, tmp_path / "drawn" / str(number))
        try:
            with alarm(SECONDS):
                KINDS[sample.name].read(folder)
        except AdvhashError as error:
            refused += 1
            if "\n" in str(error):
                faults.append(f"{sample.name} {number}: several lines: {error}")
        except Hang:
            faults.append(f"{sample.name} {number}: above {SECONDS} s")
        except Exception:
            faults.append(f"{sample.name} {number}: {traceback.format_exc(limit=-4)}")
        if any(outside.iterdir()) or {one.name for one in tmp_path.iterdir()} != {
            "outside",
            "drawn",
        }:
            faults.append(f"{sample.name} {number}: wrote outside of its folder")
            break
        shutil.rmtree(folder)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not faults, f"{len(faults)} of {FILES}:\n" + "\n".join(faults[:12])
    assert memory < MOST_MEMORY
    assert refused or FILES < 10 or sample.name == "cache"  # which is built again


def test_damaged_files_end_commands_in_one_line(
    sample: Path, tmp_path: Path, session_cache: Path
) -> None:
    command = KINDS[sample.name].command
    if command is None:
        pytest.skip("no command reads it")
    outside = tmp_path / "outside"
    outside.mkdir()
    faults = []
    for number in range(COMMANDS):
        folder = drawn(sample, number, tmp_path / "drawn" / str(number))
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "advhash", *command(folder)],
                cwd=outside,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                capture_output=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            faults.append(f"{sample.name} {number}: above {SECONDS} s")
            continue
        told = ended.stderr.decode("utf-8", "replace")
        if ended.returncode not in EXITS or "Traceback" in told:
            faults.append(f"{sample.name} {number}: exit {ended.returncode}: {told[-1500:]}")
        if ended.returncode and told.count("advhash: error: ") != 1:
            faults.append(f"{sample.name} {number}: expected one line, got {told[-1500:]}")
        if any(outside.iterdir()):
            faults.append(f"{sample.name} {number}: wrote outside of its folder")
            break
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert not faults, "\n".join(faults[:6])
    assert memory < MOST_MEMORY
