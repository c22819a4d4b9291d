"""The command line as a user meets it: results, errors, exit codes, interrupts, full disks."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from advhash.cli.commands.doctor import EXTRAS
from advhash.cli.console import print_rows
from advhash.reports.record import TARGETED_METRICS
from advhash.storage.cells import DOCUMENT, TENSORS, CellStore, Result
from advhash.storage.checkpoint import read_tensors
from advhash.storage.documents import read_json

SMALL = ["--victim", "dpsh", "--set", "victim.epochs=2", "--set", "dataset.size=16"]
QUICK = ["attack", *SMALL, "--method", "dhta", "--set", "attack.steps=4", "--queries", "24", "-q"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One run, made by the installed command in a process of its own."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    done = subprocess.run(
        [sys.executable, "-m", "advhash", *QUICK, "--json", "--out", str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""  # --quiet
    return folder, json.loads(done.stdout)


def one_line(text: str) -> str:
    """The text, which must be one line of an error without a traceback."""
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("advhash: error: ")
    return lines[0]


# --- results


def test_help_does_not_import_torch() -> None:
    program = (
        "import sys; from advhash.cli import app as cli\n"
        "sys.argv = ['advhash', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "attack" in done.stdout


def test_attack_prints_one_document_with_all_promised_parts(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    _, document = finished
    parts = {"schema", "command", "run", "victim", "attack", "dataset", "budget", "protocol"}
    parts |= {"flags", "metrics"}
    assert parts <= set(document)
    names = {"map", "map_chance", "map_adversarial"} | set(TARGETED_METRICS)
    names |= {"linf", "l2", "rmse", "psnr", "ssim", "overrun", "seconds_fit", "seconds_per_image"}
    assert names <= set(document["metrics"])
    for name in names:
        assert set(document["metrics"][name]) == {"value", "low", "high", "n"}
        value = document["metrics"][name]
        assert value["value"] is not None, name
        if value["low"] is not None:
            assert value["low"] <= value["value"] <= value["high"], name
    assert document["protocol"]["queries"] == document["metrics"]["map"]["n"] == 24
    assert document["budget"]["text"] == "L∞ 8/255"


def test_run_folder_holds_what_the_document_says(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, document = finished
    assert json.loads((folder / "metrics.json").read_text()) == document
    assert {"config.toml", "env.json", "metrics.json", "queries.parquet", "report.html"} <= {
        path.name for path in folder.iterdir()
    }
    assert not (folder / "parts").exists()
    table = pq.read_table(folder / "queries.parquet").to_pydict()
    metrics = document["metrics"]
    for name in ("map", "tmap", "tmap_clean", "tmap_ceiling"):
        assert np.mean(table[f"{name}:image"]) == pytest.approx(metrics[name]["value"], abs=1e-12)
    assert np.mean(table["linf"]) == pytest.approx(metrics["linf"]["value"])
    assert max(table["linf"]) <= 8 / 255 + 1e-6
    assert len(set(table["query"])) == 24
    for own, aim in zip(table["labels"], table["target"], strict=True):
        assert not set(own) & set(aim)  # disjoint by default


def test_what_a_jpeg_leaves_of_the_attack_is_in_the_record(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    folder, document = finished
    table = pq.read_table(folder / "queries.parquet").to_pydict()
    for name in ("tmap_jpeg75", "tmap_jpeg90"):
        assert document["metrics"][name]["value"] == pytest.approx(np.mean(table[name]))
        assert document["metrics"][name]["n"] == 24


def test_config_of_a_run_replays_it(
    advhash: Run, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, document = finished
    code, out, _ = advhash(
        "attack", "--config", folder / "config.toml", "--json", "-q", "--out", tmp_path / "again"
    )
    assert code == 0
    again = json.loads(out)
    for name, metric in document["metrics"].items():
        if not name.startswith("seconds"):
            assert again["metrics"][name] == metric, name
    stored = [tomllib.loads((f / "config.toml").read_text()) for f in (folder, tmp_path / "again")]
    assert stored[0] == stored[1]


def test_another_seed_aims_at_other_targets(
    advhash: Run, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, _ = finished
    victim = tmp_path / "victim"
    assert advhash("train", *SMALL, "-q", "--out", victim)[0] == 0
    code, _, _ = advhash(
        "attack", "--victim", victim, "--method", "dhta", "--set", "attack.steps=4", "--queries",
        "24", "-q", "--seed", "1", "--out", tmp_path / "other",
    )  # fmt: skip
    assert code == 0
    tables = [
        pq.read_table(run / "queries.parquet").to_pydict() for run in (folder, tmp_path / "other")
    ]
    assert tables[0]["target"] != tables[1]["target"]


def test_untargeted_run_has_null_targeted_metrics(advhash: Run, tmp_path: Path) -> None:
    code, out, _ = advhash(
        "attack", *SMALL, "--method", "noise", "--eps", "8/255", "--queries", "20", "-q", "--json",
        "--out", tmp_path / "noise",
    )  # fmt: skip
    assert code == 0
    document = json.loads(out)
    for name in ("tmap", "tmap_chance", "tmap_clean", "tmap_ceiling", "tmap_normalised"):
        assert document["metrics"][name] is None
    assert document["protocol"]["targets"] is None


def test_match_gives_blend_the_same_l2(
    advhash: Run, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, document = finished
    code, out, _ = advhash(
        "attack", *SMALL, "--method", "blend", "--match", folder, "--queries", "24", "-q", "--json",
        "--out", tmp_path / "blend",
    )  # fmt: skip
    assert code == 0
    blend, wanted = json.loads(out), document["metrics"]["l2"]["value"]
    assert blend["budget"] == {**blend["budget"], "norm": "l2", "eps": wanted}
    table = pq.read_table(tmp_path / "blend/queries.parquet").to_pydict()
    assert max(table["l2"]) <= wanted + 1e-4
    assert blend["metrics"]["l2"]["value"] > 0.5 * wanted


def test_report_over_siblings_is_one_file(
    advhash: Run, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, document = finished
    page = tmp_path / "page.html"
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    code, out, _ = advhash("report", folder, other, "--out", page)
    assert code == 0
    assert str(page) in out
    text = page.read_text()
    assert f"{100 * document['metrics']['tmap']['value']:.1f}" in text
    assert not re.search(r"<script|src=[\"']http|href=[\"']http", text)


def test_several_eps_are_sibling_runs_with_one_report(advhash: Run, tmp_path: Path) -> None:
    folder = tmp_path / "siblings"
    code, out, _ = advhash(*QUICK, "--eps", "16/255,4/255", "--json", "--out", folder)
    assert code == 0
    document = json.loads(out)
    small, large = document["runs"]
    assert [small["budget"]["text"], large["budget"]["text"]] == ["L∞ 4/255", "L∞ 16/255"]
    assert small["metrics"]["tmap"]["value"] < large["metrics"]["tmap"]["value"]
    assert small["victim"]["fingerprint"] == large["victim"]["fingerprint"]
    tables = [pq.read_table(folder / f"eps-{e}_255/queries.parquet") for e in (4, 16)]
    assert tables[0]["target"].equals(tables[1]["target"])
    page = Path(document["report"]).read_text()
    assert "how much a larger budget buys" in page
    assert "Compared pairwise" in page


def test_several_eps_are_planned_together(advhash: Run, tmp_path: Path) -> None:
    code, out, _ = advhash(*QUICK, "--eps", "2/255,8/255", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["budget"] == ["L∞ 2/255", "L∞ 8/255"]


def test_several_eps_count_words_where_one_does(advhash: Run) -> None:
    words = ("--victim", "dlcmh", "--method", "hotflip", "--query-modality", "text")
    code, out, err = advhash("attack", *words, "--eps", "1,2", "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(out)["budget"] == ["1 word", "2 words"]


@pytest.mark.parametrize("eps", ["8/255,8/255", "8/255,none", "8/255,", "8/255,4"])
def test_wrong_lists_of_eps_are_refused(advhash: Run, eps: str, tmp_path: Path) -> None:
    code, _, err = advhash(*QUICK, "--eps", eps, "--out", tmp_path / "run")
    assert code == 2
    assert "eps" in one_line(err)
    assert list(tmp_path.iterdir()) == []


def test_dry_run_writes_nothing_and_validates(advhash: Run, tmp_path: Path) -> None:
    target = tmp_path / "dry"
    code, out, _ = advhash(*QUICK, "--dry-run", "--json", "--out", target)
    assert code == 0
    plan = json.loads(out)
    assert plan["queries"] == 24
    assert plan["budget"] == "L∞ 8/255"
    assert list(tmp_path.iterdir()) == []


def test_lists_name_everything(advhash: Run) -> None:
    code, out, _ = advhash("list", "--json")
    assert code == 0
    names = {(entry["kind"], entry["name"]) for entry in json.loads(out)["entries"]}
    assert {
        ("victim", "dlcmh"), ("victim", "dpsh"), ("attack", "prosgan"), ("attack", "dhta"),
        ("attack", "p2p"), ("attack", "blend"), ("dataset", "openmoji"), ("dataset", "digits"),
        ("dataset", "breast_cancer"),
    } <= names  # fmt: skip
    assert advhash("list")[0] == 0


def test_data_show_prints_the_card_and_draws_a_grid(advhash: Run, tmp_path: Path) -> None:
    picture = tmp_path / "grid.png"
    code, out, _ = advhash("data", "show", "digits", "--image-grid", picture)
    assert code == 0
    assert "digits" in out
    with Image.open(picture) as image:
        assert image.size[0] > 200
    assert advhash("data", "list")[0] == 0


def test_doctor_says_what_every_extra_would_add(
    advhash: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())
    extras = table["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - {"dev", "docs"}
    monkeypatch.setattr("advhash.cli.commands.doctor._has", lambda name: name != "h5py")
    code, out, _ = advhash("doctor", "--json")
    assert code == 0
    told = {finding["subject"]: finding["message"] for finding in json.loads(out)["findings"]}
    assert "pip install 'advhash-toolkit[mat]'" in told["mat"]
    assert told["hf"].startswith("installed: ")


def test_doctor_finds_a_foreign_advhash(advhash: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert advhash("doctor")[0] == 0
    from importlib.metadata import distribution

    monkeypatch.setattr(
        "advhash.cli.commands.doctor.distribution", lambda name: distribution("numpy")
    )
    code, out, _ = advhash("doctor", "--json")
    assert code == 3
    messages = [entry["message"] for entry in json.loads(out)["findings"]]
    assert any("pip uninstall advhash" in message for message in messages)


# --- bad input: one line, the right exit code


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["attack", "--victim", "dlmch", "--method", "dhta"], 2, "did you mean 'dlcmh'"),
        (["attack", "--victim", "dpsh", "--method", "dhtaa"], 2, "did you mean 'dhta'"),
        (["attack", *SMALL, "--method", "dhta", "--dataset", "digit"], 2, "'digits'"),
        (["attack", *SMALL, "--method", "dhta", "--set", "attack.step_s=4"], 2, "'steps'"),
        (["attack", *SMALL, "--method", "dhta", "--set", "attack.steps=four"], 2, "steps"),
        (["attack", *SMALL, "--method", "dhta", "--set", "attack.steps=-1"], 2, "steps"),
        (["attack", *SMALL, "--method", "dhta", "--set", "protocol.tops=4"], 2, "'top_k'"),
        (["attack", *SMALL, "--method", "dhta", "--set", "budget"], 2, "table.key=value"),
        (["attack", *SMALL, "--method", "dhta", "--set", "victim.epoch=1"], 2, "'epochs'"),
        (["attack", *SMALL, "--method", "dhta", "--set", "victim.preset=big"], 2, "preset"),
        (["attack", *SMALL, "--method", "dhta", "--eps", "8"], 2, "8/255"),
        (["attack", *SMALL, "--method", "dhta", "--eps", "0"], 2, "positive"),
        (["attack", *SMALL, "--method", "dhta", "--eps", "much"], 2, "8/255"),
        (["attack", *SMALL, "--method", "dhta", "--norm", "l7"], 2, "norm"),
        (["attack", *SMALL, "--method", "dhta", "--norm", "l2"], 2, "--eps"),
        (["attack", *SMALL, "--method", "dhta", "--targets", "all"], 2, "targets"),
        (["attack", *SMALL, "--method", "dhta", "--queries", "0"], 2, "queries"),
        (["attack", *SMALL, "--method", "dhta", "--database", "text"], 2, "image"),
        (["attack", *SMALL, "--method", "dhta", "--query-modality", "text"], 2, "image"),
        (
            ["attack", "--victim", "hashvfl", "--method", "dhta", "--dataset", "breast_cancer"],
            2,
            "expected a party that holds some, got 'party0' of a table; `advhash invert`",
        ),
        (["attack", *SMALL, "--method", "dhta", "--device", "tpu9"], 2, "--device"),
        (["attack", *SMALL, "--method", "dhta", "--config", "none.toml"], 2, "none.toml"),
        (["attack", *SMALL, "--method", "dhta", "--set", "victim=5"], 2, "victim.key"),
        (["attack", *SMALL, "--method", "dhta", "--norm", "l0", "--eps", "3"], 2, "linf"),
        (
            ["attack", "--victim", "dpsh", "--method", "dhta", "--dataset", "breast_cancer"],
            3,
            "images",
        ),
        (
            ["attack", *SMALL, "--method", "dhta", "--database", "no", "--dry-run", "--json"],
            2,
            "image",
        ),
        (
            ["attack", *SMALL, "--method", "prosgan", "--set", "attack.hidden=0"],
            2,
            "hidden of at least 1",
        ),
        (["data", "show", "digits", "--set", "size=64"], 2, "dataset.key"),
        (["attack", *SMALL], 2, "--method"),
        (["attack", "--method", "dhta"], 2, "--victim"),
        (["attack", "--resume", "nowhere"], 3, "interrupted run"),
        (["attack", "--victim", "./nowhere", "--method", "dhta"], 3, "no such folder"),
        (["attack", "--victim", "openai/clip", "--method", "dhta"], 3, "--victim hf:openai/clip"),
        (["attack", "--victim", "timm", "--method", "dhta"], 2, "did you mean 'timm:…'"),
        (["attack", "--victim", "HF:clip", "--method", "dhta"], 2, "did you mean 'hf'"),
        (["attack", *SMALL, "--method", "dhta", "--dataset", "./nowhere"], 3, "nowhere"),
        (["report", "nowhere"], 3, "no such folder"),
        (["list", "victim"], 2, "'victims'"),
        (["data", "show", "openmojis"], 2, "'openmoji'"),
    ],
)
def test_bad_input_gets_one_line_and_its_exit_code(
    advhash: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], code: int, words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    got, out, err = advhash(*arguments, *(["-q"] if arguments[0] == "attack" else []))
    assert got == code, err
    assert words in one_line(err)
    assert out == ""
    assert not (tmp_path / "runs").exists()


def test_unknown_option_exits_with_2(advhash: Run) -> None:
    code, _, err = advhash("attack", "--victm", "dpsh")
    assert code == 2
    assert "--victim" in err


def test_corrupt_truncated_foreign_and_pickled_checkpoints_are_refused(
    advhash: Run, tmp_path: Path
) -> None:
    whole = tmp_path / "victim"
    assert advhash("train", *SMALL, "-q", "--out", whole)[0] == 0
    weights = (whole / "model.safetensors").read_bytes()
    card = json.loads((whole / "card.json").read_text())

    def attempt(name: str, words: str, **files: bytes) -> None:
        folder = tmp_path / name
        folder.mkdir()
        for file, content in files.items():
            (folder / file.replace("__", ".")).write_bytes(content)
        code, _, err = advhash("attack", "--victim", folder, "--method", "dhta", "-q")
        assert (code, words in one_line(err)) == (3, True), err

    good = json.dumps(card).encode()
    attempt("truncated", "truncated", model__safetensors=weights[:-9], card__json=good)
    attempt("nocard", "card.json", model__safetensors=weights)
    attempt("noweights", "model.safetensors", card__json=good)
    attempt("broken", "victim card", model__safetensors=weights, card__json=b"{")
    foreign = {**card, "schema": "other/1"}
    attempt(
        "foreign", "schema", model__safetensors=weights, card__json=json.dumps(foreign).encode()
    )
    unknown = {**card, "name": "resnet"}
    attempt(
        "unknown", "resnet", model__safetensors=weights, card__json=json.dumps(unknown).encode()
    )
    attempt("pickled", "pickle", pytorch_model__bin=b"\x80\x04.")
    pickle = tmp_path / "model.pt"
    pickle.write_bytes(b"\x80\x04.")
    code, _, err = advhash("attack", "--victim", pickle, "--method", "dhta", "-q")
    assert (code, "pickle" in one_line(err)) == (3, True)


def test_checkpoint_of_a_run_attacks_like_the_trained_victim(
    advhash: Run, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, document = finished
    assert advhash("train", *SMALL, "-q", "--out", tmp_path / "victim")[0] == 0
    code, out, _ = advhash(
        "attack", "--victim", tmp_path / "victim", "--method", "dhta", "--set", "attack.steps=4",
        "--queries", "24", "-q", "--json", "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0
    again = json.loads(out)
    assert again["victim"]["fingerprint"] == document["victim"]["fingerprint"]
    assert again["metrics"]["tmap"] == document["metrics"]["tmap"]


def test_image_folder_with_broken_images_is_refused(advhash: Run, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for name, shade in (("cats", 40), ("dogs", 200)):
        (root / name).mkdir(parents=True)
        for number in range(15):
            Image.new("RGB", (20, 20), (shade, number * 9, 0)).save(root / name / f"{number}.png")
    (root / "cats" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    code, _, err = advhash(
        "attack", "--victim", "dpsh", "--set", "victim.epochs=1", "--method", "dhta", "--dataset",
        root, "-q",
    )  # fmt: skip
    assert code == 3
    assert "broken.png" in one_line(err)


# --- nothing half-written


def test_existing_out_folder_is_never_touched(advhash: Run, tmp_path: Path) -> None:
    kept = tmp_path / "mine"
    kept.mkdir()
    (kept / "thesis.tex").write_text("years")
    code, _, err = advhash(*QUICK, "--out", kept)
    assert code == 2
    assert "exists" in one_line(err)
    assert [path.name for path in kept.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "full_at", ["unfinished", "metrics.json", "queries.parquet", "report.html"]
)
def test_full_disk_leaves_no_run_that_looks_finished(
    advhash: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_at: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    real = Path.write_bytes

    def write(path: Path, content: Any) -> int:
        if full_at in str(path):
            real(path, content[: len(content) // 2])
            full()
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    out = tmp_path / "run"
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "cache"))  # no cell is done there
    code, _, err = advhash(*QUICK, "--out", out)
    assert code == 3
    assert "disk is full" in err
    assert "Traceback" not in err
    assert not out.exists()
    monkeypatch.undo()
    if Path(f"{out}.partial").exists():  # finished batches are kept, and no report is drawn of it
        code, _, err = advhash("report", f"{out}.partial", "--out", tmp_path / "page.html")
        assert (code, "--resume" in one_line(err)) == (3, True)
    assert not list(tmp_path.rglob(".*"))  # no temporary file is left


def test_interrupted_run_resumes_to_the_same_figures(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, session_cache: Path
) -> None:
    """Ctrl-C after the first block: exit 130, a partial folder; --resume finishes it."""
    _, earlier = finished
    out = tmp_path / "run"
    arguments = [*QUICK, "--set", "protocol.batch_size=4", "--out", str(out)]
    arguments[arguments.index("attack.steps=4")] = "attack.steps=400"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    cells = session_cache / "attack"
    known = set(cells.glob("[0-9a-f]*"))

    def blocks() -> list[Path]:
        """New cells that are blocks of queries; ceilings have no times of their own."""
        done = set(cells.glob("[0-9a-f]*")) - known
        return [cell for cell in done if "seconds" in read_tensors(cell / TENSORS)]

    process = subprocess.Popen(
        [sys.executable, "-m", "advhash", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # a background job inherits an ignored SIGINT: Python then never raises KeyboardInterrupt
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not blocks() and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "--resume" in err
    assert "Traceback" not in err
    assert not out.exists()
    assert Path(f"{out}.partial/config.toml").is_file()
    done = blocks()
    assert 1 <= len(done) < 6
    store = CellStore("attack", done[0].name)
    tensors = read_tensors(done[0] / TENSORS)
    document = read_json(done[0] / DOCUMENT)["document"]
    marked = {**tensors, "seconds": torch.full_like(tensors["seconds"], 24_000.0)}
    store.forget()
    store.result(lambda: Result(document, marked))  # used, not made again: it shows below
    resumed = subprocess.run(
        [sys.executable, "-m", "advhash", "attack", "--resume", str(out), "--json", "-q"],
        capture_output=True,
        text=True,
        check=True,
    )
    whole = subprocess.run(
        [sys.executable, "-m", "advhash", *arguments[:-1], str(tmp_path / "whole"), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    again, second = json.loads(resumed.stdout), json.loads(whole.stdout)
    assert again["metrics"]["seconds_per_image"]["value"] > 1000
    for name, metric in second["metrics"].items():
        if not name.startswith("seconds"):
            assert again["metrics"][name] == metric, name
    assert out.is_dir()
    assert not Path(f"{out}.partial").exists()
    assert again["victim"]["fingerprint"] == earlier["victim"]["fingerprint"]


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ("advhash.experiments.attack.run.target_ceilings", []),
        ("advhash.attacks.gradient.targeted.DHTA.run", ["run.partial"]),
    ],
    ids=["before any cell", "after the ceilings"],
)
def test_an_interrupt_leaves_what_was_finished_and_nothing_else(
    where: str, left: list[str], advhash: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder to go on with where a cell, here the ceilings of targets, is there; else none."""

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, stop)
    code, _, err = advhash(*QUICK, "--seed", "7", "--out", tmp_path / "run")
    assert code == 130
    assert "interrupted" in err
    assert ("--resume" in err) == bool(left)
    assert [path.name for path in tmp_path.iterdir()] == left


def test_a_bug_keeps_its_traceback_and_exits_with_1(tmp_path: Path) -> None:
    program = (
        "import sys, advhash.cli.commands.doctor as d\nfrom advhash.cli import app\n"
        "def broken(): raise ZeroDivisionError('bug')\nd.examine = broken\n"
        "sys.argv = ['advhash', 'doctor']\napp.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ZeroDivisionError: bug" in done.stderr
    assert "Traceback" in done.stderr


def test_damaged_record_is_refused_by_report(
    advhash: Run, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, _ = finished
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "metrics.json").write_text((folder / "metrics.json").read_text()[:400])
    code, _, err = advhash("report", damaged, "--out", tmp_path / "page.html")
    assert code == 3
    assert "damaged" in one_line(err)
    assert not (tmp_path / "page.html").exists()


def test_a_page_names_each_run_and_each_place_once(
    advhash: Run, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    for more in (
        (finished[0],),
        ("--tables", page),
        ("--tables", page.parent / "a", "--figures", page.parent / "a"),
    ):
        code, _, err = advhash("report", finished[0], *more, "--out", page)
        assert code == 2
        assert one_line(err)
        assert not page.exists()


def test_main_job_on_a_small_scale(advhash: Run, tmp_path: Path) -> None:
    """dlcmh × prosgan through the command: every direction, one increment, the record whole."""
    code, out, err = advhash(
        "attack", "--victim", "dlcmh", "--method", "prosgan", "--set", "victim.epochs=3", "--set",
        "victim.increment_epochs=2", "--set", "dataset.size=16", "--set", "attack.epochs=2",
        "--set", "attack.prototype_steps=60", "--set", "attack.width=8", "--queries", "30", "-q",
        "--json", "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err
    document = json.loads(out)
    assert set(document["metrics_by_direction"]) == {"image-fused", "image-image", "image-text"}
    for name, metric in document["metrics_by_direction"]["image-fused"].items():
        assert document["metrics"][name] == metric
    metrics = {name: entry["value"] for name, entry in document["metrics"].items()}
    assert metrics["map"] > metrics["map_chance"] + 0.1
    assert metrics["tmap"] > metrics["tmap_clean"]  # even this little training moves the queries
    assert metrics["overrun"] == 0
    assert document["budget"] == {**document["budget"], "norm": "none", "eps": None}
    assert document["victim"]["settings"]["increments"]
    phases = {row["phase"] for row in document["victim"]["history"]}
    assert phases == {"original", "increment 1"}
    assert {row["phase"] for row in document["attack"]["history"]} == {"prototype", "generator"}


def test_resume_refuses_batches_of_another_run(advhash: Run, tmp_path: Path) -> None:
    from advhash.errors import RunError
    from advhash.storage.run_folder import RunFolder

    run = RunFolder.start(tmp_path / "run")
    run.claim("attack", "seed = 1", "code")
    run.claim("attack", "seed = 1", "code")
    with pytest.raises(RunError, match="start again"):
        run.claim("attack", "seed = 2", "code")
    code, _, err = advhash("attack", "--resume", tmp_path / "run", "--eps", "4/255")
    assert (code, "no other settings" in one_line(err)) == (2, True)


def test_other_splits_of_the_training_data_are_refused(advhash: Run, tmp_path: Path) -> None:
    """They would put rows that the checkpoint was trained on among the queries."""
    victim = tmp_path / "victim"
    assert advhash("train", *SMALL, "-q", "--out", victim)[0] == 0
    code, _, err = advhash(
        "attack", "--victim", victim, "--method", "dhta", "--set", "dataset.seed=5", "-q"
    )
    assert (code, "training rows" in one_line(err)) == (2, True)


def test_damaged_cache_entries_are_made_again(
    advhash: Run, tmp_path: Path, session_cache: Path
) -> None:
    assert advhash(*QUICK, "--out", tmp_path / "one")[0] == 0
    for file in session_cache.rglob("*/model.safetensors"):
        file.write_bytes(file.read_bytes()[:99])
    for file in session_cache.rglob("*/ceilings.safetensors"):
        file.write_bytes(b"")
    code, _, err = advhash(*QUICK, "--out", tmp_path / "two")
    assert code == 0, err
    records = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("one", "two")]
    assert records[0]["metrics"]["tmap"] == records[1]["metrics"]["tmap"]


def test_a_table_in_a_pipe_cuts_no_cell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_rows(("victim", "attack"), [{"victim": "v" * 30, "attack": "a b " * 10}])
    assert capsys.readouterr().out.splitlines()[1].split() == ["v" * 30, *["a", "b"] * 10]


def test_a_plan_is_read_without_json(advhash: Run) -> None:
    code, out, err = advhash(*QUICK, "--dry-run", "--out", "mine")
    assert code == 0, err
    lines = dict(line.rstrip().split(maxsplit=1) for line in out.splitlines()[1:])
    assert lines["budget"] == "L∞ 8/255"
    assert lines["writes"] == "mine"
    assert lines["dataset"].startswith("digits (database: ")
    assert "{" not in out
