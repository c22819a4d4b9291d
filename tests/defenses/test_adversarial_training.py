"""Adversarial training: what it leaves alone, what it changes, and what `advhash defend` says."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from attack_scene import Projection, Scene
from command_line import command, exit_code
from killed import killed_when
from torch import Tensor, nn
from typer.testing import CliRunner

from advhash.attacks.base import AttackData
from advhash.attacks.gradient.hiding import MainstayUntargeted
from advhash.budget import Budget
from advhash.cli import app
from advhash.codes.hamming import distances
from advhash.codes.metrics import retrieval_average_precision
from advhash.data import Batch, Modality, Split, silent
from advhash.defenses.training.adversarial import AdversarialTraining
from advhash.defenses.training.continued import clean_loss, kept_codes
from advhash.errors import CheckpointError, UsageError
from advhash.experiments.benchmark.config import SuiteConfig
from advhash.experiments.benchmark.suite import plan_suite
from advhash.experiments.config import TrainConfig
from advhash.experiments.defend.config import DefendConfig
from advhash.experiments.defend.run import Defend, _checks
from advhash.experiments.experiment import run
from advhash.experiments.prepare.hardened import prepare
from advhash.experiments.prepare.trained import export_checkpoint
from advhash.experiments.transfer.members import Member
from advhash.registry import DEFENSES, VICTIMS
from advhash.reports.transfer import Metric, TransferRecord
from advhash.storage.checkpoint import load_victim
from advhash.victims.base import HashVictim
from advhash.victims.cross_modal.dlcmh import DLCMH
from advhash.victims.image.pairwise import DPSH, ImageHashing

BALL = Budget("linf", 24 / 255)
NAMES = ("atrdh", "cgat", "saat")


class TinyHash(DPSH):
    """DPSH on the features of one layer of convolutions."""

    def _build(self) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 16)
        )


def trained(scene: Scene) -> Scene:
    victim = TinyHash(bits=16, image_size=8, epochs=8, batch_size=32, augmentation=False)
    return scene.seen_by(victim.fit(scene.data.dataset, seed=0))


@pytest.fixture(scope="module")
def hashed(scene: Scene) -> Scene:
    return trained(scene)


def hardened(name: str, scene: Scene, *, seed: int = 0, **settings: Any) -> HashVictim:
    given = {"epochs": 3, "batch_size": 32, "steps": 2, "step": 0.6, "weight": 1.0}
    given["augmentation"] = False
    defense: AdversarialTraining = DEFENSES.create(name, {**given, **settings})
    return defense.harden(scene.victim, scene.data, BALL, seed=seed)


def moved_bits(victim: HashVictim, scene: Scene) -> float:
    """How many bits an attack of 20 steps moves, on average."""
    seen = scene.seen_by(victim)
    attack = MainstayUntargeted(steps=20).fit(victim, seen.data, BALL)
    moved = attack.perturb(victim, scene.queries, None, BALL)
    clean = victim.encode(scene.queries.inputs["image"], "image")
    return float(distances(moved.codes, clean).diagonal().mean())


def weights(victim: HashVictim) -> Tensor:
    return torch.cat([value.detach().flatten() for value in victim.parameters()])


@pytest.mark.parametrize("name", NAMES)
def test_the_given_victim_stays_and_one_seed_gives_one_result(name: str, hashed: Scene) -> None:
    before = weights(hashed.victim)
    first, second = (hardened(name, hashed, epochs=2) for _ in range(2))
    assert torch.equal(weights(hashed.victim), before)
    assert not hashed.victim.training
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), before)
    assert not torch.equal(weights(hardened(name, hashed, epochs=2, seed=1)), weights(first))
    assert [row["phase"] for row in first.history][-2:] == ["harden image"] * 2
    assert not first.training


@pytest.mark.parametrize("name", NAMES)
def test_fewer_bits_move_than_before(name: str, hashed: Scene) -> None:
    before = moved_bits(hashed.victim, hashed)
    assert before > 4
    after = moved_bits(hardened(name, hashed, epochs=20), hashed)
    assert after < 0.7 * before


@pytest.mark.parametrize("name", NAMES)
def test_one_step_hardens_at_two_passes_a_batch(
    name: str, hashed: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three batches an epoch: each x and its x' once in the attack, once together in training."""
    before, passes = moved_bits(hashed.victim, hashed), []
    real = TinyHash.relax

    def counted(self: TinyHash, inputs: Tensor, modality: Modality) -> Tensor:
        passes.append(len(inputs))
        return real(self, inputs, modality)

    monkeypatch.setattr(TinyHash, "relax", counted)
    result = hardened(name, hashed, epochs=20, steps=1, step=1.25)
    monkeypatch.undo()
    assert len(passes) <= 20 * (1 + 2 * 3) + 3  # the database once, and when THA reads it
    assert moved_bits(result, hashed) < 0.75 * before


def test_training_longer_on_clean_images_does_less(hashed: Scene) -> None:
    longer = moved_bits(hardened("cgat", hashed, epochs=20, weight=0.0), hashed)
    assert longer > 1.5 * moved_bits(hardened("cgat", hashed, epochs=20), hashed)


def test_the_radius_rises(hashed: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    real = AdversarialTraining._moved

    def watched(*arguments: Any) -> Tensor:
        seen.append(round(arguments[4].eps / BALL.eps, 3))
        return real(*arguments)

    monkeypatch.setattr(AdversarialTraining, "_moved", staticmethod(watched))
    hardened("cgat", hashed, epochs=4, warmup=0.5)
    assert sorted(set(seen)) == [0.5, 1.0]
    assert seen == sorted(seen)


def test_a_victim_without_an_objective_keeps_its_codes(scene: Scene) -> None:
    kept = kept_codes(scene.victim, scene.data)
    assert kept is not None
    assert torch.equal(kept, torch.from_numpy(scene.data.codes.signs()))
    labels = scene.data.labels
    assert clean_loss(scene.victim, 9 * kept, labels, kept) < 1e-6
    assert clean_loss(scene.victim, -9 * kept, labels, kept) == pytest.approx(4, abs=1e-4)


def test_an_image_hash_keeps_its_objective(hashed: Scene) -> None:
    assert kept_codes(hashed.victim, hashed.data) is None
    codes = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    labels = hashed.data.labels[:6]
    assert isinstance(hashed.victim, ImageHashing)
    expected = hashed.victim.objective(codes, labels)
    assert torch.equal(clean_loss(hashed.victim, codes, labels, None), expected)


def test_frozen_rows_of_a_lifelong_victim_stay() -> None:
    from advhash.data.load import load_dataset

    whole = load_dataset("openmoji", {})
    database = whole.database.take(torch.arange(0, len(whole.database), 25))
    data = replace(whole, name="few", database=database, train_rows=torch.arange(len(database) - 9))
    settings = {**DLCMH.data_arguments(data), "increments": (), "bits": 16, "width": 32}
    victim: DLCMH = VICTIMS.create("dlcmh", {**settings, "epochs": 1})
    victim.fit(data, seed=0)
    codes = victim.database_codes(data, "fused")
    seen = AttackData(data, codes, "fused", "image")
    defense = DEFENSES.create("saat", {"epochs": 1, "steps": 1})
    result = defense.harden(victim, seen, Budget("linf", 8 / 255))
    assert torch.equal(result.stored.frozen, victim.stored.frozen)
    assert (result.database_codes(data, "fused").words == codes.words).all()
    assert (result.rehashed_codes(data, "fused").words != codes.words).any()
    assert not torch.equal(weights(result.image_network), weights(victim.image_network))
    assert torch.equal(weights(result.text_network), weights(victim.text_network))


def test_a_victim_without_weights_or_images_is_refused(scene: Scene) -> None:
    perceptual = VICTIMS.create("dhash", {})
    with pytest.raises(UsageError, match="needs weights to train"):
        hardened("saat", scene.seen_by(perceptual))
    texts = AttackData(scene.data.dataset, scene.data.codes, "image", "text")
    with pytest.raises(UsageError, match="moves images"):
        DEFENSES.create("saat").harden(scene.victim, texts, BALL)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup": 2}, "warmup in"),
        ({"weight": -1}, "weight >= 0"),
        ({"epochs": 0}, "epochs above 0"),
        ({"quantisation_weight": -1}, "quantisation_weight >= 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DEFENSES.create("saat", settings)


FAST = ("--dataset", "digits", "--set", "dataset.size=16", "--set", "victim.epochs=2")
TINY = ("--set", "defense.epochs=1", "--set", "defense.steps=1")


@pytest.fixture(scope="module")
def defended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TransferRecord]:
    folder = tmp_path_factory.mktemp("defend") / "run"
    code = exit_code(
        "defend", "--victim", "dpsh", "--defense", "saat", *FAST, *TINY, "--queries", "8", "-q",
        "--out", str(folder),
    )  # fmt: skip
    assert code == 0
    return folder, TransferRecord.read(folder)


def test_the_document_has_what_the_page_shows(defended: tuple[Path, TransferRecord]) -> None:
    folder, record = defended
    found = record.metrics
    for name in ("map_clean", "map_robust", "tmap_robust"):
        for end in ("", "_undefended"):
            metric = found[name + end]
            assert metric is not None
            assert metric.value is not None
            assert 0 <= metric.value <= 1
    assert record.defense is not None
    assert {check.name for check in record.defense.checks} == {
        "radius", "steps", "black box", "no bound",
    }  # fmt: skip
    page = (folder / "report.html").read_text()
    for text in ("What defences are worth", "Is the gradient masked?", "dpsh+epochs=2+saat"):
        assert text in page


def test_the_command_prints_the_checkpoint_beside_the_metrics(
    defended: tuple[Path, TransferRecord],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("advhash.experiments.experiment.run", lambda *_, **__: defended[1])
    code, out, _ = command(capsys, "defend", "--victim", "dpsh", "--defense", "saat", "--json")
    document = json.loads(out)
    assert code == 0
    assert (Path(document["checkpoint"]) / "card.json").is_file()
    assert document["metrics"]["map_robust"]["value"] is not None


def test_its_config_replays_it_with_the_checks(
    defended: tuple[Path, TransferRecord], tmp_path: Path
) -> None:
    folder, record = defended
    out = tmp_path / "again"
    assert exit_code("defend", "--config", folder / "config.toml", "-q", "--out", out) == 0
    again = TransferRecord.read(out)
    assert (again.metrics, again.cells, again.flags) == (record.metrics, record.cells, record.flags)
    assert again.labels == record.labels == ["dpsh+epochs=2", "dpsh+epochs=2+saat+epochs=1+steps=1"]
    assert again.defense == record.defense
    assert (out / "config.toml").read_text() == (folder / "config.toml").read_text()


def test_a_killed_run_is_resumed(
    defended: tuple[Path, TransferRecord],
    session_cache: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """SIGKILL once some batches are done, then the very command that an interrupt advises."""
    out, begun = tmp_path / "run", session_cache / "unfinished" / "defend"
    line = ("defend", "--victim", "dpsh", "--defense", "saat", *FAST, *TINY, "--queries", "8", "-q")
    killed_when(
        [sys.executable, "-m", "advhash", *line, "--out", str(out)],
        lambda: any(begun.rglob("*.safetensors")),
        os.environ,
    )
    assert not out.exists()
    code, text, told = command(capsys, "defend", "--resume", out, "-q", "--json")
    assert code == 0, told
    assert Path(json.loads(text)["checkpoint"]).is_dir()
    found, wanted = TransferRecord.read(out), defended[1]
    assert (found.metrics, found.cells, found.flags) == (wanted.metrics, wanted.cells, wanted.flags)
    assert found.defense == wanted.defense
    for name in ("queries.parquet", "config.toml"):
        assert (out / name).read_bytes() == (defended[0] / name).read_bytes()


def test_what_a_defence_is_trained_against_has_a_table_of_its_own() -> None:
    values = {"victim": {"name": "dpsh"}, "defense": {"name": "saat"}, "budget": {"eps": "4/255"}}
    for budget, eps in (({}, 4 / 255), ({"eps": "16/255"}, 16 / 255)):
        plan = Defend().plan(DefendConfig.build({**values, "defense_budget": budget}))
        assert plan.config.defense_budget.resolve(BALL) == Budget("linf", eps)
        assert plan.config.budget.resolve(BALL) == Budget("linf", 4 / 255)
        assert Defend().plan(plan.config).config == plan.config


def test_a_label_goes_with_the_settings_that_it_was_given_for(
    defended: tuple[Path, TransferRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    old = str(defended[0] / "config.toml")
    for more, labelled in (([], True), (["--set", "victim.bits=16"], False)):
        code, text, _ = command(capsys, "defend", "--config", old, *more, "--dry-run", "--json")
        assert code == 0
        assert ("dpsh+epochs=2" in json.loads(text)["victims"]) is labelled


def test_a_defence_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    for given, told in (
        (("--victim", "dpsh"), "expected --defense, got none; see `advhash list defenses`"),
        (("--defense", "saat"), "expected --victim, got none; see `advhash list victims`"),
    ):
        code, _, error = command(capsys, "defend", *given)
        assert code == 2
        assert told in error


def test_figures_are_those_of_the_cells(defended: tuple[Path, TransferRecord]) -> None:
    record = defended[1]
    assert record.defense is not None
    plain, hard = record.defense.undefended, record.defense.defended

    def at(method: str, source: str, target: str, name: str) -> Metric | None:
        return record.at(method, source, target).metrics[name]

    found = record.metrics
    assert found["map_robust"] == at("autohash-untargeted", hard, hard, "map_adversarial")
    assert found["map_nonadaptive"] == at("autohash-untargeted", plain, hard, "map_adversarial")
    assert found["tmap_robust_undefended"] == at("autohash", plain, plain, "tmap")


def test_trap_11_a_hardened_victim_answers_with_its_own_signed_codes(
    defended: tuple[Path, TransferRecord],
) -> None:
    """Published defences are scored against the database hashed before the defence."""
    folder, record = defended
    assert record.defense is not None
    hard, _ = load_victim(Path(record.defense.checkpoint))
    tables = {"victim": {"name": "dpsh", "epochs": 2}, "dataset": {"name": "digits", "size": 16}}
    plain = prepare(TrainConfig.build(tables), silent)
    data = plain.data
    asked = sorted(set(pq.read_table(folder / "queries.parquet")["query"].to_pylist()))
    queries = hard.encode_split(data.query.take(torch.tensor(asked)), "image")
    labels = data.query.labels[asked].numpy(), data.database.labels.numpy()
    after, before = (
        float(
            retrieval_average_precision(queries, one.database_codes(data, "image"), *labels).mean()
        )
        for one in (hard, plain.victim)
    )
    assert len(asked) == 8
    assert record.metrics["map_clean"].value == pytest.approx(after)  # type: ignore[union-attr]
    assert after != pytest.approx(before)


def test_the_checkpoint_is_a_victim_like_any_other(
    defended: tuple[Path, TransferRecord],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:

    record = defended[1]
    assert record.defense is not None
    shared = ("--method", "dhta", "--set", "attack.steps=3", "--queries", "8", "-q", "--json")
    found = []
    for number, how in enumerate(
        (("--victim", record.defense.checkpoint), ("--victim", "dpsh", "--defense", "saat"))
    ):
        more = (*FAST, *TINY) if number else ()
        out = str(tmp_path / str(number))
        assert exit_code("attack", *how, *more, *shared, "--out", out) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["metrics"]["tmap"] == found[1]["metrics"]["tmap"]
    assert found[0]["victim"]["defenses"][0]["name"] == "saat"
    assert found[0]["victim"]["fingerprint"] == found[1]["victim"]["fingerprint"]


def test_a_card_with_a_hostile_defence_is_refused(
    defended: tuple[Path, TransferRecord], tmp_path: Path
) -> None:
    record = defended[1]
    assert record.defense is not None
    source = Path(record.defense.checkpoint)
    for number, bad in enumerate(
        ([{"name": "os.system", "settings": {}}], [{"name": "saat"}], "saat", [{"name": 3}])
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        card = {**json.loads((source / "card.json").read_text()), "defenses": bad}
        (folder / "card.json").write_text(json.dumps(card))
        (folder / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
        with pytest.raises(CheckpointError):
            load_victim(folder)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"defense": {"name": "sat"}}, "unknown defense 'sat'"),
        ({"defense": {"name": "saat", "epoch": 2}}, "no setting 'epoch'"),
        ({"defense_budget": {"eps": "8/255"}}, "name a defence"),
        (
            {"defense": {"name": "saat"}, "defense_budget": {"norm": "none"}},
            "expected linf or l2 with a radius",
        ),
    ],
)
def test_a_wrong_defence_costs_no_training(tables: dict[str, Any], message: str) -> None:
    config = TrainConfig.build({"victim": {"name": "dpsh"}, **tables})

    def never(stage: str, done: int, total: int, **figures: float) -> None:
        raise AssertionError("it trained")

    with pytest.raises(UsageError, match=message):
        prepare(config, never)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("defend --victim dpsh --defense sat", "unknown defense 'sat'"),
        ("defend --victim dpsh --defense saat --norm l0 --eps 3", "linf or l2 with a radius"),
        ("defend --victim dpsh --defense jpeg --norm none", "expected linf or l2 with a radius"),
        ("defend --victim dpsh --defense saat --norm none", "expected linf or l2 with a radius"),
        ("defend --victim dpsh --defense saat --query-modality text", "modality of the victim"),
        ("defend --victim dcmh --defense saat --query-modality text", "autohash attacks image"),
        ("defend --victim dhash --defense saat", "needs weights to train"),
        ("defend --victim hashvfl --defense jpeg", "expected a victim of images"),
        ("train --victim hashvfl --dataset breast_cancer --defense saat", "a victim of images"),
        (
            "defend --victim dpsh --defense saat --database text",
            "--database: expected one of image",
        ),
        ("transfer --victims dpsh,csq --methods hotflip", "hotflip attacks text"),
        ("transfer --victims dpsh,dpsh+defense=sat --methods dhta", "unknown defense 'sat'"),
    ],
)
def test_what_cannot_work_is_refused_before_any_training(
    line: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advhash.experiments.prepare.hardened.train", None)
    result = CliRunner().invoke(app.app, [*line.split(), "-q"])
    assert isinstance(result.exception, UsageError), result.exception
    assert message in str(result.exception)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = {"victim": {"name": "dpsh", "bits": 8, "epochs": 1}, "dataset": {"name": "digits"}}
    plain = prepare(TrainConfig.build(config))
    return export_checkpoint(plain, tmp_path_factory.mktemp("checkpoint") / "plain")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("attack --method hotflip", "hotflip attacks text"),
        ("certify --within 9", "at most 8 bits, got 9"),
        ("certify --database text", "--database: expected one of image"),
        ("defend --database text", "--database: expected one of image"),
        ("detect --detector confidence", "expected a victim that classifies"),
        ("detect --method hotflip", "does not move images"),
        ("detect --detector all --set detector.radius=3", "takes no settings"),
        ("train --set defense_budget.norm=none", "linf or l2 with a radius"),
    ],
)
def test_a_checkpoint_is_not_hardened_for_what_cannot_work(
    line: str, message: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advhash.experiments.prepare.hardened._hardened", None)
    words = [*line.split(), "--victim", str(checkpoint), "--defense", "saat", "-q"]
    result = CliRunner().invoke(app.app, words)
    assert isinstance(result.exception, UsageError), result.exception
    assert message in str(result.exception)


def test_a_suite_refuses_a_checkpoint_what_no_attack_can_do(checkpoint: Path) -> None:
    grid = {"datasets": ["digits"], "victims": [str(checkpoint)], "attacks": ["hotflip"]}
    with pytest.raises(UsageError, match="hotflip attacks text"):
        plan_suite(SuiteConfig.build({"grids": [{**grid, "defenses": ["saat"]}]}))


def test_a_dry_run_does_not_harden_a_checkpoint(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advhash.experiments.prepare.hardened._hardened", None)
    words = ["--victim", str(checkpoint), "--defense", "saat", "--method", "dhta", "--dry-run"]
    result = CliRunner().invoke(app.app, ["attack", *words, "--json"])
    assert result.exit_code == 0, result.exception
    assert json.loads(result.stdout)["defense"]["name"] == "saat"


def test_a_function_of_the_user_is_not_hardened() -> None:
    config = TrainConfig.build(
        {"victim": {"name": "some:function"}, "defense": {"name": "jpeg"}}
    ).trusting(True)
    with pytest.raises(UsageError, match="not ours to keep"):
        prepare(config)


def test_a_federation_is_defended_without_naming_its_party(tmp_path: Path) -> None:
    victim = {"name": "hashvfl", "bits": 8, "width": 8, "epochs": 1}
    values = {
        "victim": victim,
        "defense": {"name": "saat", "epochs": 1, "steps": 1},
        "dataset": {"size": 16},
        "protocol": {"queries": 4},
    }
    record = run(Defend(), DefendConfig.build(values), tmp_path / "run")
    assert record.protocol.query_modality == "party0"
    assert record.metrics["map_robust"] is not None


def test_only_training_rows_are_trained_on(hashed: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(hashed.data.dataset, train_rows=torch.arange(5, 45))
    data = AttackData(few, hashed.data.codes, "image", "image")
    defense = DEFENSES.create("cgat", {"epochs": 1, "steps": 1, "augmentation": False})
    seen: list[Tensor] = []
    real = AdversarialTraining.clean_batch

    def watched(self: AdversarialTraining, train: Split, rows: Tensor, *rest: Any) -> Batch:
        batch = real(self, train, rows, *rest)
        seen.append(batch.inputs["image"])
        return batch

    monkeypatch.setattr(AdversarialTraining, "clean_batch", watched)
    defense.harden(hashed.victim, data, BALL)
    pictures = few.database.rows(few.train_rows).inputs["image"]
    found = torch.cat(seen).flatten(1)
    assert len(found) == 40
    assert torch.equal(found.unique(dim=0), pictures.flatten(1).unique(dim=0))


class Masked(Projection):
    """Gradients that are zero, codes that are not."""

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        return super().relax(inputs, modality).detach() + 0 * inputs.sum()


def test_checks_tell_a_masked_gradient_from_a_sound_one(hashed: Scene) -> None:
    config = DefendConfig.build(
        {
            "victim": {"name": "dpsh"},
            "defense": {"name": "saat"},
            "budget": {"norm": "linf", "eps": "32/255"},
        }
    )
    passed = {}
    for name, scene in (("sound", hashed), ("masked", hashed.seen_by(Masked().eval()))):
        trained: Any = SimpleNamespace(victim=scene.victim, data=scene.data.dataset)
        member = Member(name, trained, scene.data.codes, "image")
        passed[name] = {check.name: check.passed for check in _checks(config, member, silent)}
    assert all(passed["sound"].values())
    assert not passed["masked"]["radius"]
    assert not passed["masked"]["no bound"]
