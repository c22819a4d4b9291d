"""Measure every page again, one script after the other: `make measure`. About 11 hours of one core.

Scripts that were finished with the same code are passed over, and the one that was interrupted goes
on with what its JSON file has, so that the command can be stopped and started again at any time.
What counts as the same code is what the keys of the cache count (`code_version`). Scripts that take
times run last and alone: leave the machine to them. A page whose every figure is of scripts names
the present commit once all of them are finished (`measured_at.toml`). Sentences that tell figures,
and pages with figures that no script writes, are a person's: the command ends with a list of both.

    OMP_NUM_THREADS=1 python benchmarks/measure.py [--only SCRIPT ...] [--figures | --timings]
    python benchmarks/measure.py --list
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from advhash.experiments.prepare.code_key import code_version

HERE = Path(__file__).resolve().parent
STATE = HERE / ".measure.json"
HEADS = HERE / "measured_at.toml"


@dataclass(frozen=True)
class Script:
    """A script of this folder.

    pages:   of docs/, those whose every figure it writes, alone or with others that name the page
    parts:   of the repository, those that show its figures beside others: what the first lines of
             such a page say is a person's to write
    runs:    the options of each run, one after the other
    timings: whether it measures times
    photographs: whether it needs the pictures of ADVHASH_DATA
    """

    name: str
    pages: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    runs: tuple[tuple[str, ...], ...] = ((),)
    timings: bool = False
    photographs: bool = False


SCRIPTS = (
    Script(
        "measured.py",
        ("attacks/baselines.md",),
        parts=("README.md", "docs/attacks/gradient.md", "docs/attacks/prosgan.md"),
    ),
    Script("visibility.py", ("attacks/prosgan_visibility.md",), photographs=True),
    Script("survive.py", ("attacks/survive.md",), photographs=True),
    Script(
        "attacks.py",
        ("attacks/measured.md",),
        parts=("docs/attacks/autohash.md", "docs/attacks/gradient.md"),
        photographs=True,
    ),
    Script(
        "commands.py",
        (
            "attacks/baselines.md",
            "attacks/black_box.md",
            "attacks/collision.md",
            "attacks/poisoning.md",
            "attacks/text.md",
            "attacks/torchattacks.md",
            "attacks/transfer.md",
            "attacks/transforms.md",
            "attacks/universal.md",
            "victims/neural_code.md",
        ),
        parts=(
            "docs/attacks/prosgan.md",
            "docs/defenses/novelty.md",
            "docs/neural_codes.md",
            "docs/victims/hashvfl.md",
        ),
    ),
    Script(
        "refine.py",
        parts=("docs/attacks/prosgan.md",),
        runs=(("--seeds", "0", "1", "2"),),
        photographs=True,
    ),
    Script("detectors.py", ("defenses/code_detectors.md",), parts=("docs/defenses/detectors.md",)),
    Script(
        "vfl.py",
        ("victims/hashvfl_measured.md",),
        parts=("docs/attacks/inversion.md", "docs/victims/hashvfl.md"),
        runs=(("--again",),),
        photographs=True,
    ),
    Script(
        "lifelong.py",
        ("victims/lifelong_measured.md",),
        parts=("docs/lifelong.md",),
        photographs=True,
    ),
    Script("victim_table.py", ("victims/table.md",), photographs=True),
    Script("defended.py", ("defenses/measured.md",), photographs=True),
    Script("certificates.py", ("defenses/smoothing.md",), parts=("docs/defenses/purification.md",)),
    Script("black_box_hashes.py", ("attacks/black_box_hashes.md",), photographs=True),
    Script("perceptual_certificates.py", ("victims/certificates.md",), photographs=True),
    Script(
        "ensembles.py",
        ("attacks/transfer.md",),
        runs=(
            ("--seeds", "0", "1"),
            ("--methods", "prosgan", "--seeds", "0", "--data", "cifar10", "--radii", "16"),
        ),
        photographs=True,
    ),
    Script(
        "stores.py",
        parts=("docs/attacks/poisoning_stores.md",),
        runs=((), ("--adapters",), ("--million",)),
        photographs=True,
    ),
    Script("encoder_texts.py", ("victims/encoders_measured.md",), photographs=True),
    Script("encoder_pictures.py", ("victims/encoders_measured.md",), photographs=True),
    Script("imagenet_victim.py", ("attacks/imagenet_victim.md",), photographs=True),
    Script("cost_table.py", ("attacks/cost.md",), timings=True),
    Script("defense_cost.py", parts=("docs/defenses/adversarial_training.md",), timings=True),
    Script("evaluation.py", parts=("docs/evaluation.md",), timings=True),
    Script(
        "encoding.py",
        parts=("docs/neural_codes.md",),
        runs=(("curves",), ("speed",)),
        timings=True,
        photographs=True,
    ),
    Script("training_state.py", parts=("docs/training.md",), timings=True),
    Script("loop.py", ("attacks/loop.md",), timings=True),
    Script("prosgan_step.py", parts=("docs/attacks/prosgan.md",), timings=True),
    Script("scan.py", ("victims/scan_measured.md",), timings=True, photographs=True),
    Script(
        "suites.py", ("benchmark_measured.md",), parts=("docs/how_to/benchmark.md",), timings=True
    ),
)


def read_state() -> dict[str, dict[str, str]]:
    """The code that each script was begun and finished with, by its name."""
    try:
        state: dict[str, dict[str, str]] = json.loads(STATE.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return state


def keep_state(state: dict[str, dict[str, str]]) -> None:
    partial = STATE.with_suffix(".partial")
    partial.write_text(json.dumps(state, indent=1) + "\n", "utf-8")
    partial.replace(STATE)


def writers(page: str) -> list[str]:
    """The scripts whose tables stand on a page."""
    return [script.name for script in SCRIPTS if page in script.pages]


def with_commit(text: str, page: str, commit: str) -> str:
    """measured_at.toml with a page's table saying that all of its figures are of `commit`.

    >>> print(with_commit('["a.md"]\\ncommits = ["1"]\\nanew = "x"\\n\\n["b.md"]\\n', "a.md", "2"))
    ["a.md"]
    commits = ["2"]
    <BLANKLINE>
    ["b.md"]
    <BLANKLINE>
    """
    table = f'["{page}"]\ncommits = ["{commit}"]\n'
    found = re.search(rf'^\["{re.escape(page)}"\]\n(?:[^\n]+\n)*', text, re.MULTILINE)
    if found is None:
        return f"{text.rstrip()}\n\n{table}"
    return text[: found.start()] + table + text[found.end() :]


def measure(script: Script, state: dict[str, dict[str, str]], code: str, commit: str) -> bool:
    """Run one script to its end. False where it failed, which costs no other."""
    results = (HERE / script.name).with_suffix(".json")
    known = state.setdefault(script.name, {})
    if known.get("begun") != code:
        results.unlink(missing_ok=True)  # git has it; else the script would take it for its own
        state[script.name] = known = {"begun": code}
        keep_state(state)
    began = time.perf_counter()
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    print(f"{script.name} begins", flush=True)
    for options in script.runs:
        command = [sys.executable, str(HERE / script.name), *options]
        code_of_exit = subprocess.run(command, env=environment, check=False).returncode
        if code_of_exit:
            break
    minutes = (time.perf_counter() - began) / 60
    if code_of_exit:
        print(f"{script.name} ended with {code_of_exit} after {minutes:.1f} minutes", flush=True)
        return False
    known["finished"] = code
    keep_state(state)
    text = HEADS.read_text("utf-8")
    for page in script.pages:
        if all(state.get(name, {}).get("finished") == code for name in writers(page)):
            text = with_commit(text, page, commit)
    HEADS.write_text(text, "utf-8")
    print(f"{script.name} finished after {minutes:.1f} minutes", flush=True)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=[script.name for script in SCRIPTS])
    parser.add_argument("--list", action="store_true", help="say what is to be done")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--figures", action="store_true", help="no script that measures times")
    kind.add_argument("--timings", action="store_true", help="only those")
    given = parser.parse_args()
    git = ["git", "-C", str(HERE), "rev-parse", "--short=7", "HEAD"]
    commit = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    state, code, failed = read_state(), code_version(), []
    for script in SCRIPTS:
        left_out = given.only is not None and script.name not in given.only
        if left_out or (given.figures and script.timings) or (given.timings > script.timings):
            continue
        if state.get(script.name, {}).get("finished") == code:
            print(f"{script.name} was finished with this code")
        elif script.photographs and not os.environ.get("ADVHASH_DATA"):
            print(f"{script.name} waits for ADVHASH_DATA, the folder of the photographs")
            failed.append(script.name)
        elif given.list:
            print(f"{script.name} is to be run")
        elif not measure(script, state, code, commit):
            failed.append(script.name)
    if given.list:
        return
    tables = subprocess.run([sys.executable, HERE / "tables.py"], check=False)
    if tables.returncode:
        failed.append("tables.py")
    done = [script for script in SCRIPTS if state.get(script.name, {}).get("finished") == code]
    parts = sorted({page for script in done for page in script.parts})
    whole = sorted({f"docs/{page}" for script in done for page in script.pages})
    print(f"compare the sentences that tell figures of: {', '.join([*whole, *parts]) or 'none'}")
    print(f"say in benchmarks/measured_at.toml what is new on: {', '.join(parts) or 'none'}")
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}; the same command tries these again")


if __name__ == "__main__":
    main()
