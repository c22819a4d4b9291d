"""What attacks note of themselves: kept with their batch, so that a resumed run tells it too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attack_scene import Scene

from advhash.attacks import ensemble
from advhash.attacks.base import Attack
from advhash.attacks.black_box.nes import QueryAttack
from advhash.attacks.ensemble import AutoHash
from advhash.attacks.gradient.descent import GradientAttack
from advhash.budget import Budget
from advhash.experiments.attack import run
from advhash.registry import ATTACKS

BALL = Budget("linf", 8 / 255)
SMALL = [
    *("attack", "--victim", "dpsh", "--set", "victim.epochs=2", "--set", "dataset.size=16"),
    *("--eps", "16/255", "--queries", "12", "--set", "protocol.batch_size=4", "-q", "--json"),
]
Run = Callable[..., tuple[int, str, str]]


def told(text: str) -> tuple[Any, ...]:
    document = json.loads(text)
    sent = document["metrics"].get("queries_per_image")
    return document["attack"]["indicators"], document["flags"], sent


@pytest.mark.parametrize(
    ("method", "runs"),
    [
        (("nes", "--set", "attack.queries=20"), QueryAttack),
        # α so large that bits saturate: the flag must not be lost with the process
        (("dhta", "--set", "attack.steps=3", "--set", "attack.alphas=[100000]"), GradientAttack),
    ],
    ids=["nes", "dhta"],
)
def test_a_resumed_run_tells_what_the_batches_before_it_noted(
    method: tuple[str, ...],
    runs: type[Attack],
    advhash: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = [*SMALL, "--method", *method, "--out"]
    code, whole, _ = advhash(*command, tmp_path / "whole")
    assert code == 0
    with monkeypatch.context() as patch:
        patch.setattr(run, "make_record", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            advhash(*command, tmp_path / "run")
    monkeypatch.setattr(runs, "run", lambda *_: 1 / 0)  # no batch is made again
    code, again, _ = advhash("attack", "--resume", tmp_path / "run", "-q", "--json")
    assert code == 0
    assert told(again) == told(whole)
    indicators, flags, sent = told(whole)
    if method[0] == "nes":
        assert sent["value"] == indicators["queries_per_image"] > 10
    else:
        assert "saturated" in {flag["name"] for flag in flags}


def test_planted_pictures_say_nothing_of_the_queries(advhash: Run, tmp_path: Path) -> None:
    command = [*SMALL, "--method", "nes", "--set", "attack.queries=20"]
    alone = told(advhash(*command, "--out", tmp_path / "alone")[1])
    planted = told(advhash(*command, "--poison", "10", "--out", tmp_path / "planted")[1])
    assert planted == alone


@pytest.mark.parametrize("name", ["dhta", "nes", "autohash"])
def test_notes_of_batches_together_are_those_of_the_whole(
    name: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble, "STEPS", 4)
    monkeypatch.setattr(ensemble, "SENT", 20)
    settings = {"dhta": {"steps": 4}, "nes": {"queries": 20}, "autohash": {}}[name]
    attack: Attack = ATTACKS.create(name, settings).fit(scene.victim, scene.data, BALL)
    kept: dict[str, list[torch.Tensor]] = {}
    for seed in range(2):
        attack.forget()
        attack.perturb(scene.victim, scene.queries, scene.targets, BALL, seed=seed)
        for note, values in attack.notes().items():
            kept.setdefault(note, []).append(values)
    apart = attack.summarise({note: torch.cat(values) for note, values in kept.items()})
    attack.forget()
    for seed in range(2):
        attack.perturb(scene.victim, scene.queries, scene.targets, BALL, seed=seed)
    assert apart == attack.indicators()
    assert apart
    if isinstance(attack, AutoHash):
        assert "mainstay/stalled" in attack.notes()
        assert not any("/" in found for found in apart)
