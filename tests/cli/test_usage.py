"""Wrong command lines: one line of ours each, exit code 2, nothing written."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from advhash.cli.app import main

ATTACK = "attack --victim dpsh --method dhta"
THEIRS = re.compile(
    r"No such|Invalid value|Missing (option|argument)|unexpected extra|requires an argument"
    r"|[Ii]nput should|[Vv]alue error|not take a value|Usage:|[│╭╰]"
)
REFUSED = {
    "atack": "unknown command 'atack': did you mean 'attack'? Known: doctor, list, data, train,",
    "data shw": "unknown command 'shw': did you mean 'show'? Known: list, show; see `advhash data",
    "codes exprt": "unknown command 'exprt': did you mean 'export'?",
    "-x": "unknown option '-x'; see `advhash --help`",
    "--versio": "unknown option '--versio': did you mean '--version'? See `advhash --help`",
    "attack --victm dpsh": "unknown option '--victm': did you mean '--victim'? See `advhash attack",
    "attack --victim": "--victim: expected a value, got none; see `advhash attack --help`",
    "invert --config": "--config: expected a value, got none",
    "attack --json=yes": "--json: expected no value, got one",
    "attack dhta": "expected no further argument, got 'dhta'; see `advhash attack --help`",
    "doctor now": "expected no further argument, got 'now'",
    "attack --bits many": "--bits: expected a whole number, got 'many'; see `advhash attack",
    "attack --queries 1.5": "--queries: expected a whole number, got '1.5'",
    "import x.pth --as y --scale big": "--scale: expected a number, got 'big'",
    "benchmark --max-time -1": "--max-time: expected a number of at least 0, got '-1'",
    "codes export dpsh x.npz --part databse": "--part: expected database or query, got 'databse'; "
    "did you mean 'database'? See `advhash codes export --help`",
    "eval --codes a --database b --form bit": "--form: expected one of auto, bits, signs, ubinary,",
    "eval --codes a --database b --empty skp": "did you mean 'skip'?",
    "poison --keep firs": "--keep: expected first or last, got 'firs'",
    "data show": "expected NAME, got none; see `advhash data show --help`",
    "eval": "expected --codes (Codes of the queries), got none; see `advhash eval --help`",
    "eval --codes a.npy": "expected --database (Codes of the database), got none",
    "import": "expected FILE (What torch.save wrote (state_dict or model), or safetensors)",
    "import x.pth": "expected --as (The new checkpoint folder: its --victim), got none",
    "report": "expected RUNS (",
    "compare one": "expected SECOND (",
    "scan": "expected FOLDER (Pictures, in folders of any depth), got none; see `advhash scan",
    "evolve": "expected --domain (attack or nas: what is searched), got none",
    "judge": "expected --victim, got none; see `advhash list victims`",
    "train": "expected --victim, got none; see `advhash list victims`",
    "poison": "expected --method, got none; see `advhash list poisonings`",
    "transfer": "expected --victims a,b, got none",
    "transfer --victims dpsh --methods dhta": "--victims: expected at least 2, got 1",
    "phase-chart --widths 3,x": "--widths: expected numbers with commas between, got '3,x'",
    "phase-chart --repeats 0": "--repeats: expected a whole number from 1 to 100, got 0",
    "lifelong --victim dlcmh --orders 0": "--orders: expected a whole number from 1 to 100, got 0",
    "certify --victim dpsh --radii a,b": "--radii: expected a number above 0, got 'a'",
    "certify --victim dpsh --sigma -1": "--sigma: expected a number above 0, got -1",
    "certify --victim dpsh --sigma nan": "--sigma: expected a finite number above 0, got nan",
    "certify --victim pdq --threshold -3": "--threshold: expected a whole number of at least 0",
    "scan . --false-positives 3": "--false-positives: expected a number above 0 and below 1",
    "scan . --set thresholds.pdq=x": "setting 'thresholds.pdq': expected a whole number, got 'x'",
    "scan . --threshold many": "expected a number of bits",
    "evolve --domain attak": "--domain: expected attack or nas, got 'attak'; did you mean 'attack'",
    f"{ATTACK} --norm l3": "--norm: expected one of linf, l2, l0, none, got 'l3'",
    f"{ATTACK} --targets lucky": "--targets: expected one of disjoint, uniform, weighted, got",
    f"{ATTACK} --seed -4": "--seed: expected a whole number of at least 0 and below 2^63, got -4",
    f"{ATTACK} --queries 0": "--queries: expected a whole number of at least 1, got 0",
    f"{ATTACK} --eps 8/0": "expected a number, a fraction such as 8/255 or none, got '8/0'",
    f"{ATTACK} --set attack.steps=four": "setting 'attack.steps' of dhta: expected a whole number, "
    "got 'four'; e.g. attack.steps=100",
    f"{ATTACK} --set attack.rule=sgin": "got 'sgin'; did you mean 'sign'?",
    f"{ATTACK} --set attack.alphas=true": "expected a list of numbers, got True; e.g. attack.",
    f"{ATTACK} --set victim.backbone=5": 'expected text, got 5; e.g. victim.backbone="5"',
    f"{ATTACK} --set victim=dpsh": "--set: expected victim.key=value, got 'victim=dpsh'",
    f"{ATTACK} --set budget.eps=[1]": "setting 'budget.eps': expected text or a number, got [1]",
    f"{ATTACK} --set =3": "--set: expected table.key=value, got '=3'",
    f"{ATTACK} --store faiss-ivf,m=3": "store 'faiss-ivf' has no setting 'm': Known: lists, probes",
    f"{ATTACK} --store faiss-ivf,probes=x": "'protocol.store.probes' of faiss-ivf: expected",
    f"{ATTACK} --store faiss": "unknown store 'faiss': did you mean 'faiss-ivf'?",
    f"{ATTACK} --rescore flot": "unknown rescorer 'flot': did you mean 'float'?",
    f"{ATTACK} --executor dask:x": "expected --executor inline, local or dask:tcp://HOST:PORT, got",
    "benchmark --suite smoke --set grids=5": "setting 'grids': expected a list of tables with",
    "phase-chart --set phase.widths=[3,2]": "expected different values in ascending order, got [3",
}


@pytest.mark.parametrize("line", REFUSED)
def test_a_wrong_command_line_ends_in_one_line_of_ours(
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["advhash", *shlex.split(line)])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    assert err.startswith("advhash: error: ")
    assert REFUSED[line] in err
    assert err.count("\n") == 1
    assert THEIRS.search(err) is None
    assert list(tmp_path.iterdir()) == []
