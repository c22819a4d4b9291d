"""One small run of each kind, and what of its record is the same whenever it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from advhash.cli.app import app

DATA = ["--dataset", "digits", "--set", "dataset.size=16"]
DPSH = ["--victim", "dpsh", "--bits", "16", "--set", "victim.epochs=1", *DATA]
DHTA = ["--method", "dhta", "--set", "attack.steps=60"]
EMOJI = [
    *("--victim", "dlcmh", "--bits", "8", "--set", "victim.epochs=1"),
    *("--set", "victim.increment_epochs=1", "--set", "victim.width=8", "--set", "dataset.size=16"),
    *("--set", "victim.samples=64", "--set", "rival.epochs=1", "--set", "rival.width=8"),
]
SUITE = """
victim_seeds = 1
attack_seeds = 3
[[grids]]
datasets = ["digits+size=16"]
victims = ["dpsh+epochs=1+bits=16"]
attacks = ["dhta+steps=60"]
budgets = ["8/255"]
[grids.protocol]
queries = 24
"""
GAN = [
    *("--method", "prosgan", "--set", "attack.epochs=1", "--set", "attack.width=4"),
    *("--set", "attack.blocks=2", "--set", "attack.hidden=8", "--set", "attack.feature=8"),
    *("--set", "attack.prototype_steps=5"),
]
FEDERATION = [
    *("--victim", "hashvfl", "--bits", "8", "--set", "victim.epochs=2", "--set", "victim.width=8"),
    *("--set", "dataset.size=16"),
]
KINDS = {
    "fitted": [
        *("--victim", "dhash", "--method", "tha", "--set", "attack.steps=2", *DATA),
        *("--set", "attack.prototype_steps=5", "--queries", "6", "--eps", "8/255"),
    ],
    "prosgan": [*DPSH, *GAN, "--queries", "24", "--set", "protocol.batch_size=4"],
    "invert": [
        *(*FEDERATION, "--queries", "12", "--method", "code-inversion", "--set", "attack.steps=5"),
        *("--set", "attack.decoder_epochs=1", "--set", "attack.sweep_bits=[4]"),
        *("--set", "attack.sweep_parties=[2]"),
    ],
    "transfer": [
        *("--victims", "dpsh+epochs=1+bits=16,csq+epochs=1+bits=16", "--methods", "dhta+steps=9"),
        *(*DATA, "--queries", "12", "--set", "protocol.batch_size=4", "--eps", "8/255"),
    ],
    "attack": [*DPSH, *DHTA, "--queries", "24", "--set", "protocol.batch_size=4"],
    "benchmark": ["--suite", "suite.toml", "--executor", "inline"],
    "certify": [*DPSH, "--sigma", "0.1", "--samples", "1000", "--queries", "30"],
    "detect": [
        *(*DPSH, *DHTA, "--eps", "8/255", "--queries", "12"),
        *("--detector", "all", "--adaptive", "steps=20"),
    ],
    "evolve": [
        *("--domain", "attack", "--candidates", "6", "--repeats", "2"),
        *("--victim", "dpsh", "--set", "victim.bits=16", "--set", "victim.epochs=1"),
        *("--other", "dpsh", "--set", "other.bits=12", "--set", "other.epochs=1", *DATA),
        *("--set", "search.population=3", "--set", "search.tournament=2"),
        *("--set", "search.steps=2", "--set", "search.queries=10", "--set", "search.held_out=10"),
    ],
    "encode": [
        *(*DPSH, *DHTA, "--queries", "12", "--eps", "16/255", "--set", "most_bits=600"),
    ],
    "least-change": [
        *("--victim", "pdq", "--set", "dataset.pictures=60", "--queries", "60"),
    ],
    "lifelong": [
        *("--orders", "1", "--increments", "1", "--seeds", "2"),
        *("--set", "lifelong.attacked_seeds=0", *EMOJI),
    ],
    "phase-chart": [
        *("--widths", "3,12", "--epochs", "0,4", "--samples", "60,100", "--repeats", "1"),
        *("--set", "phase.queries=12", "--set", "attack.steps=3", "--eps", "32/255"),
    ],
}
TIMES = ("seconds", "cpu_seconds", "created", "trace", "id", "folder", "report", "times")
FROM_TIMES = (  # of searches over attacks, whose clock is the one on the wall
    *("speedup", "time_to_uncached", "hash_overhead"),
    *("evaluation_seconds", "hash_seconds", "saved_seconds"),
)
COMMANDS = {"prosgan": "attack", "fitted": "attack"}  # of kinds that are called otherwise
POINTS = ("curve", "improvements")  # seconds first


def run(*arguments: str | Path) -> None:
    result = CliRunner().invoke(app, [*map(str, arguments), "-q"])
    if result.exception is not None:
        raise result.exception
    assert result.exit_code == 0


def options_of(kind: str, folder: Path) -> list[str]:
    """The options of the small run; what they read is written into a folder."""
    (folder / "suite.toml").write_text(SUITE)
    return [str(folder / one) if one == "suite.toml" else one for one in KINDS[kind]]


def timeless(value: Any) -> Any:
    """A document without what the clock decides, the paths, and what was read from a cache."""
    if isinstance(value, dict):
        return {
            name: [point[1:] for point in one] if name in POINTS else timeless(one)
            for name, one in value.items()
            if name not in (*TIMES, *FROM_TIMES, "cached", "origin")
            and not name.startswith(("seconds", "increment_seconds", "increment_cpu"))
        }
    if isinstance(value, list):
        return [timeless(one) for one in value if not _flags_a_time(one)]
    return value


def _flags_a_time(value: Any) -> bool:
    return isinstance(value, dict) and str(value.get("message")).startswith("A hash costs")
