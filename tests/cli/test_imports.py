"""What a command imports: to list, to complete, to help and to refuse, nothing that computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HEAVY = (
    *("torch", "torchvision", "timm", "kornia", "accelerate", "transformers", "torchmetrics"),
    *("scipy", "sklearn", "pandas", "numba", "pyarrow", "matplotlib", "huggingface_hub"),
)
ATTACK = ("attack", "--victim", "dpsh", "--method", "dhta")
FEDERATION = ("--victim", "hashvfl")
REFUSED = {  # usage errors, and what they say
    ("attack",): "--victim",
    ("attack", "--victm", "dpsh"): "--victim",
    ("attack", "--victim", "dlmch", "--method", "dhta"): "did you mean 'dlcmh'?",
    ("attack", "--victim", "dpsh", "--method", "dhtaa"): "did you mean 'dhta'?",
    ("attack", "--victim", "dpsh", "--method", "code-invresion"): "'code-inversion'",
    (*ATTACK, "--dataset", "digit"): "did you mean 'digits'?",
    (*ATTACK, "--defense", "sat"): "did you mean 'saat'?",
    (*ATTACK, "--set", "attack.step_s=4"): "attack 'dhta' has no setting 'step_s'",
    (
        *ATTACK,
        "--set",
        "attack.steps=four",
    ): "setting 'attack.steps' of dhta: expected a whole number, got 'four'",
    (*ATTACK, "--set", "attack.preset=big"): "attack 'dhta' has no preset 'big'",
    (*ATTACK, "--set", "victim.epoch=4"): "victim 'dpsh' has no setting 'epoch'",
    (*ATTACK, "--set", "dataset.sise=4"): "dataset 'digits' has no setting 'sise'",
    (*ATTACK, "--set", "protocol.tops=4"): "did you mean 'top_k'?",
    (*ATTACK, "--set", "atack.steps=4"): "did you mean 'attack'?",
    (*ATTACK, "--eps", "8"): "write 8/255 for pixel units",
    (*ATTACK, "--eps", "8/255,much"): "got 'much'",
    (*ATTACK, "--norm", "l2"): "add --eps",
    (*ATTACK, "--executor", "here"): "executor",
    (*ATTACK, "--config", "none.toml"): "none.toml",
    (*ATTACK, "--out", "."): "exists",
    ("attack", "--resume", "nowhere"): "nowhere.partial",
    ("benchmark", "--suite", "smoek"): "did you mean 'smoke'?",
    ("certify", "--victim", "dpsh", "--set", "sigm=1"): "did you mean 'sigma'?",
    ("codes", "export", "dpshh", "codes.txt"): "did you mean 'dpsh'?",
    ("data", "show", "openmojis"): "did you mean 'openmoji'?",
    ("data", "show", "digits", "--set", "dataset.sise=4"): "did you mean 'size'?",
    ("defend", "--victim", "dpsh", "--defense", "saat+"): "unknown defense",
    ("detect", *FEDERATION, "--detector", "code-mx"): "did you mean 'code-max'?",
    ("encode", "--victim", "dpsh", "--set", "attack.name=dhtaa"): "did you mean 'dhta'?",
    ("evolve", "--domain", "attack", "--other", "cqs"): "did you mean 'csq'?",
    ("invert", *FEDERATION, "--method", "dhta"): "unknown inversion 'dhta'",
    ("judge", ".", "--victim", "dpsh", "--clean", "digit"): "did you mean 'digits'?",
    ("lifelong", "--victim", "dlcmh", "--set", "rival.name=dcm"): "did you mean 'dcmh'?",
    ("list", "victim"): "did you mean 'victims'?",
    ("report", "nowhere"): "expected a run folder, got nowhere: no such folder",
    ("report", ".", "--tables", "."): "expected a new folder for --tables",
    ("compare", "nowhere", "."): "expected a run folder, got nowhere: no such folder",
    ("attack", *("--victim", "dpsh", "--method", "blend", "--match", "nowhere")): "nowhere",
    ("phase-chart", "--set", "victim.widht=3"): "did you mean 'width'?",
    ("scan", ".", "--threshold", "many"): "expected a number of bits",
    ("train", "--victim", "dpsx"): "did you mean 'dpsh'?",
    ("transfer", "--victims", "dpsh,csq+defense=sat", "--methods", "dhta"): "'saat'",
    ("transfer", "--victims", "dpsh,csq", "--methods", "dhta+stepz=3"): "did you mean 'step'?",
}
ANSWERED = {
    ("--version",): "advhash",
    ("--help",): "attack",
    ("attack", "--help"): "--method",
    ("list",): "openmoji",
    ("list", "--json"): '"name": "dhta"',
    ("data", "list"): "openmoji",
}
COMPLETED = {"advhash attack --method dht": "dhta", "advhash train --victim dls": ""}
PROGRAM = """
import contextlib, io, json, os, sys
from advhash.cli import app
heavy, commands = json.loads(sys.argv[1])
found = []
for arguments in commands:
    if isinstance(arguments, str):
        arguments, os.environ["COMP_WORDS"] = [], arguments
        os.environ.update(_ADVHASH_COMPLETE="complete_bash", COMP_CWORD="3")
    else:
        os.environ.pop("_ADVHASH_COMPLETE", None)
    sys.argv, code, out, err = ["advhash", *arguments], 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app.main()
        except SystemExit as stop:
            code = stop.code or 0
    imported = sorted(set(heavy) & set(sys.modules))
    found.append({"code": code, "out": out.getvalue(), "err": err.getvalue(), "heavy": imported})
json.dump(found, sys.stdout)
"""


def told(commands: list[Any], folder: Path) -> list[dict[str, Any]]:
    """What each command says, and what the interpreter that ran it and those before it imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([HEAVY, commands])],
        cwd=folder, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_nothing_heavy_is_imported_to_answer_to_complete_and_to_refuse(tmp_path: Path) -> None:
    expected = {**ANSWERED, **COMPLETED, **REFUSED}
    for command, said in zip(expected, told(list(expected), tmp_path), strict=True):
        assert said["heavy"] == [], command
        assert expected[command] in said["out"] + said["err"], (command, said)
        assert bool(said["code"]) is (command in REFUSED), (command, said)
        assert "Traceback" not in said["err"], command
    assert list(tmp_path.iterdir()) == []


def test_an_attack_imports_none_of_the_packages_that_it_does_not_use() -> None:
    """timm brings the compiler of torch, others would bring more: seconds each."""
    program = (
        "import sys, advhash.experiments.attack.run\n"
        "from advhash.registry import ATTACKS, DATASETS, VICTIMS\n"
        "VICTIMS.create('dpsh'), ATTACKS.create('dhta'), DATASETS['digits']\n"
        "unused = 'torch._dynamo kornia sklearn pandas transformers torchmetrics accelerate '\n"
        "unused += 'matplotlib scipy.stats sympy advhash.attacks.prosgan.prosgan'\n"
        "print(*set(unused.split()) & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
