"""Measure every page again, one script after the other: `make measure`. About 11 hours of one core.

Scripts that were finished with the same code are passed over, and the one that was interrupted goes
on with what its JSON file has, so that the command can be stopped and started again at any time.
What counts as the same code is what the keys of the cache count (`code_version`). Scripts that take
times run last and alone: leave the machine to them. A page whose every table was written anew names
the present commit afterwards (`measured_at.toml`). Sentences that tell figures are nobody's but a
reader's: the command ends with the pages where they are to be compared.

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

    pages:   of docs/, those with tables that it writes
    prose:   of docs/, those whose sentences tell its figures, and whose tables it does not write
    timings: whether it measures times
    photographs: whether it needs the pictures of ADVHASH_DATA
    """

    name: str
    pages: tuple[str, ...] = ()
    prose: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    timings: bool = False
    photographs: bool = False


SCRIPTS = (
    Script("measured.py", ("attacks/baselines.md", "attacks/gradient.md", "attacks/prosgan.md")),
    Script("visibility.py", ("attacks/prosgan_visibility.md",), photographs=True),
    Script("survive.py", ("attacks/survive.md",)),
    Script(
        "attacks.py", ("attacks/measured.md",), prose=("attacks/autohash.md", "attacks/gradient.md")
    ),
    Script(
        "commands.py",
        (
            "attacks/baselines.md",
            "attacks/black_box.md",
            "attacks/collision.md",
            "attacks/poisoning.md",
            "attacks/prosgan.md",
            "attacks/text.md",
            "attacks/torchattacks.md",
            "attacks/transfer.md",
            "attacks/transforms.md",
            "attacks/universal.md",
            "defenses/novelty.md",
            "neural_codes.md",
            "victims/hashvfl.md",
            "victims/neural_code.md",
        ),
    ),
    Script("refine.py", ("attacks/prosgan.md",), options=("--seeds", "0", "1", "2")),
    Script("detectors.py", ("defenses/code_detectors.md",), prose=("defenses/detectors.md",)),
    Script(
        "vfl.py",
        ("victims/hashvfl_measured.md",),
        prose=("attacks/inversion.md", "victims/hashvfl.md"),
        options=("--again",),
        photographs=True,
    ),
    Script("lifelong.py", ("victims/lifelong_measured.md",), photographs=True),
    Script("victim_table.py", ("victims/table.md",), photographs=True),
    Script("defended.py", ("defenses/measured.md",), photographs=True),
    Script("certificates.py", ("defenses/smoothing.md", "defenses/purification.md")),
    Script("black_box_hashes.py", ("attacks/black_box_hashes.md",), photographs=True),
    Script("perceptual_certificates.py", ("victims/certificates.md",), photographs=True),
    Script(
        "ensembles.py", ("attacks/transfer.md",), options=("--seeds", "0", "1"), photographs=True
    ),
    Script("stores.py", ("attacks/poisoning_stores.md",), photographs=True),
    Script("encoder_texts.py", ("victims/encoders_measured.md",), photographs=True),
    Script("encoder_pictures.py", ("victims/encoders_measured.md",), photographs=True),
    Script("imagenet_victim.py", ("attacks/imagenet_victim.md",), photographs=True),
    Script("attack_cost.py", timings=True),
    Script("cost_table.py", ("attacks/cost.md",), timings=True),
    Script("defense_cost.py", prose=("defenses/adversarial_training.md",), timings=True),
    Script("evaluation.py", prose=("evaluation.md",), timings=True),
    Script("encoding.py", prose=("neural_codes.md",), timings=True),
    Script("training_state.py", prose=("training.md",), timings=True),
    Script("loop.py", ("attacks/loop.md",), timings=True),
    Script("prosgan_step.py", ("attacks/prosgan.md",), timings=True),
    Script("scan.py", ("victims/scan_measured.md",), timings=True, photographs=True),
    Script("suites.py", ("benchmark_measured.md",), timings=True),
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
    command = [sys.executable, str(HERE / script.name), *script.options]
    print(f"{script.name} begins", flush=True)
    code_of_exit = subprocess.run(command, env=environment, check=False).returncode
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
    if not given.list:
        subprocess.run([sys.executable, HERE / "tables.py"], check=True)
        done = [script for script in SCRIPTS if state.get(script.name, {}).get("finished") == code]
        told = sorted({page for script in done for page in (*script.pages, *script.prose)})
        print(f"compare the sentences that tell figures: {', '.join(told) or 'none'}")
    if failed and not given.list:
        sys.exit(f"not measured: {', '.join(failed)}; the same command tries these again")


if __name__ == "__main__":
    main()
