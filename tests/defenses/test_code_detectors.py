"""Detectors of image hashing: scores against loops, gradients, and the attacker who knows them."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from attack_scene import Scene
from torch import Tensor
from typer.testing import CliRunner

from advhash.attacks.black_box.baselines import Noise
from advhash.attacks.gradient.hiding import HAG
from advhash.attacks.gradient.targeted import DHTA
from advhash.budget import Budget
from advhash.cli.app import app
from advhash.codes import HashCodes
from advhash.codes.metrics import retrieval_average_precision
from advhash.data import Batch, Split
from advhash.defenses.detectors.adaptive_images import AdaptiveHiding, AdaptiveTargeted, Success
from advhash.defenses.detectors.image_codes import CodeDetector, Flips, Margin, Nearest
from advhash.errors import DataError, UsageError
from advhash.experiments.config import AttackConfig, MethodConfig
from advhash.experiments.config_text import read_toml
from advhash.experiments.detect.config import DetectConfig
from advhash.experiments.detect.images import judge_images, move_images, noise_like
from advhash.experiments.detect.inputs import abnormal_images
from advhash.experiments.detect.run import Detection
from advhash.experiments.experiment import Place, describe, resume, run
from advhash.measures.roc import threshold_at
from advhash.registry import ATTACKS, DETECTORS
from advhash.reports.detection import DetectionRecord, detection_chapter
from advhash.reports.elements.pictures import Pictures
from advhash.reports.page.render import page
from advhash.storage.cache import cache_root
from advhash.storage.cells import Result

NAMES = [
    entry.name
    for entry in DETECTORS
    if issubclass(entry.build, CodeDetector) and entry.name != "confidence"  # type: ignore[arg-type]
]  # which needs a classifier: tests/defenses/test_novelty.py
LISTED = [name for name in NAMES if name != "novelty"]  # of a hash
LIMIT = Budget("linf", 24 / 255)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for the run folders of commands without `--out`."""
    monkeypatch.chdir(tmp_path)


def fitted(scene: Scene, name: str, **settings: object) -> CodeDetector:
    detector: CodeDetector = DETECTORS.create(name, settings)
    return detector.fit(scene.victim, scene.data.dataset.database, "image")


def signs(scene: Scene, images: Tensor) -> np.ndarray:
    return scene.victim.encode(images, "image").signs()


def test_all_are_registered() -> None:
    known = {"margin", "nearest", "centre", "exact", "rarity", "flips", "combined", "novelty"}
    assert set(NAMES) == known


@pytest.mark.parametrize("name", NAMES)
def test_score_is_the_penalty_and_has_a_gradient(scene: Scene, name: str) -> None:
    detector, victim = fitted(scene, name), scene.victim
    images = scene.queries.inputs["image"].clone().requires_grad_()
    score = detector.score(victim, scene.queries, "image")
    penalty = detector.penalty(victim, images, victim.relax(images, "image"), "image")
    assert torch.allclose(score, penalty.detach(), atol=1e-5)
    (gradient,) = torch.autograd.grad(penalty.sum(), images)
    assert bool(gradient.isfinite().all())
    assert bool((gradient.flatten(1).abs().amax(dim=1) > 0).any())


@pytest.mark.parametrize("name", NAMES)
def test_score_does_not_depend_on_the_batch(scene: Scene, name: str) -> None:
    detector = fitted(scene, name)
    together = detector.score(scene.victim, scene.queries, "image")
    query = scene.data.dataset.query
    alone = [detector.score(scene.victim, query.rows(torch.tensor([n])), "image") for n in (0, 7)]
    assert torch.allclose(torch.cat(alone), together[[0, 7]], atol=1e-5)


def test_distances_and_densities_against_loops(scene: Scene) -> None:
    rows = scene.data.dataset.database
    known = signs(scene, rows.rows(torch.arange(90)).inputs["image"])
    asked = signs(scene, scene.queries.inputs["image"])
    far = [[int((a != b).sum()) for b in known] for a in asked]
    score = fitted(scene, "nearest").score(scene.victim, scene.queries, "image")
    assert score.tolist() == [min(row) for row in far]
    score = fitted(scene, "rarity", radius=1).score(scene.victim, scene.queries, "image")
    expected = [-math.log((sum(d <= 1 for d in row) + 1) / 91) for row in far]
    assert score.tolist() == pytest.approx(expected, abs=1e-5)


def test_centres_against_loops(scene: Scene) -> None:
    rows = scene.data.dataset.database
    known = signs(scene, rows.rows(torch.arange(90)).inputs["image"])
    labels = rows.labels.argmax(dim=1).numpy()
    centres = [np.where(known[labels == c].sum(0) > 0, 1, -1) for c in range(3)]

    def to_centre(codes: np.ndarray) -> list[int]:
        return [min(int((c != centre).sum()) for centre in centres) for c in codes]

    far = to_centre(signs(scene, scene.queries.inputs["image"]))
    usual = float(torch.tensor(to_centre(known)).float().median())
    found = {
        name: fitted(scene, name).score(scene.victim, scene.queries, "image").tolist()
        for name in ("centre", "exact")
    }
    assert found["centre"] == far
    assert found["exact"] == [usual - d for d in far]
    both = fitted(scene, "exact", two_sided=True).score(scene.victim, scene.queries, "image")
    assert both.tolist() == [abs(usual - d) for d in far]


def test_margin_by_hand(scene: Scene) -> None:
    rows, images = scene.data.dataset.database, scene.queries.inputs["image"]
    with torch.no_grad():
        size = scene.victim.relax(rows.rows(torch.arange(90)).inputs["image"], "image").abs()
        ratio = scene.victim.relax(images, "image").abs() / size.mean(dim=0)
    for reduce, value in (("mean", ratio.mean(dim=1)), ("min", ratio.amin(dim=1))):
        low = fitted(scene, "margin", reduce=reduce).score(scene.victim, scene.queries, "image")
        high = fitted(scene, "margin", reduce=reduce, side="high")
        assert torch.allclose(low, -value, atol=1e-5)
        assert torch.allclose(high.score(scene.victim, scene.queries, "image"), value, atol=1e-5)


@pytest.mark.parametrize("by", ["median", "gaussian", "noise"])
def test_flips_are_those_of_the_cleaned_picture(scene: Scene, by: str) -> None:
    detector = fitted(scene, "flips", by=by)
    assert isinstance(detector, Flips)
    images = scene.queries.inputs["image"]
    cleaned = detector.cleaned(images)
    assert cleaned.shape == images.shape
    expected = (signs(scene, images) != signs(scene, cleaned)).mean(axis=1)
    score = detector.score(scene.victim, scene.queries, "image")
    assert score.numpy() == pytest.approx(expected, abs=1e-6)
    flat = torch.full_like(images, 0.5)
    if by != "noise":
        assert torch.allclose(detector.cleaned(flat), flat, atol=1e-6), "a border is no change"


def test_bad_input_is_refused(scene: Scene) -> None:
    data = scene.data.dataset
    with pytest.raises(UsageError, match="call fit"):
        Nearest().score(scene.victim, scene.queries, "image")
    with pytest.raises(UsageError, match="text"):
        Nearest().fit(scene.victim, data.database, "text")
    empty = Split({"image": torch.zeros(0, 3, 8, 8, dtype=torch.uint8)}, torch.zeros(0, 3))
    with pytest.raises(DataError, match="at least one"):
        Nearest().fit(scene.victim, empty, "image")
    unlabelled = Split(data.database.inputs, torch.zeros_like(data.database.labels))
    with pytest.raises(DataError, match="labels"):
        DETECTORS.create("centre", {}).fit(scene.victim, unlabelled, "image")
    with pytest.raises(ValueError, match="reduce"):
        Margin(reduce="max")  # type: ignore[arg-type]


def attacker(scene: Scene, detector: CodeDetector, threshold: float) -> AdaptiveTargeted:
    attack = AdaptiveTargeted(
        attack=DHTA(), detector=detector, threshold=threshold, weights=(0.0, 1.0, 4.0), steps=30
    )
    attack.fit(scene.victim, scene.data, LIMIT)
    return attack


def won(scene: Scene, batch: Batch, detector: CodeDetector, threshold: float) -> tuple[float, ...]:
    """Shares that succeed, and that succeed and are accepted."""
    clean = scene.victim.encode(scene.queries.inputs["image"], "image")
    success = Success(scene.data, scene.targets, clean, goal="targeted")
    codes = scene.victim.encode(batch.inputs["image"], "image")
    reached = success.of(codes)
    accepted = detector.score(scene.victim, batch, "image") <= threshold
    return reached.float().mean().item(), (reached & accepted).float().mean().item()


@pytest.mark.parametrize("name", ["margin", "nearest", "exact", "flips"])
def test_the_adaptive_attacker_beats_the_plain_one(scene: Scene, name: str) -> None:
    detector = fitted(scene, name)
    validation = scene.data.dataset.validation
    scores = detector.score(scene.victim, validation.rows(torch.arange(len(validation))), "image")
    threshold = threshold_at(scores.numpy(), 0.3)
    plain = DHTA().fit(scene.victim, scene.data, LIMIT)
    batch = plain.perturb(scene.victim, scene.queries, scene.targets, LIMIT, seed=0).batch
    adaptive = attacker(scene, detector, threshold).perturb(
        scene.victim, scene.queries, scene.targets, LIMIT, seed=0
    )
    assert float(adaptive.overrun.max()) == 0
    before, after = (won(scene, one, detector, threshold)[1] for one in (batch, adaptive.batch))
    assert after >= before
    assert after > 0.5


def test_without_a_budget_of_change_nothing_is_won(scene: Scene) -> None:
    still = Budget("linf", 0.5 / 255)  # less than a step of 8 bits
    detector = fitted(scene, "nearest")
    moved = attacker(scene, detector, 100.0).perturb(
        scene.victim, scene.queries, scene.targets, still, seed=0
    )
    assert torch.equal(moved.batch.inputs["image"], scene.queries.inputs["image"])
    assert won(scene, moved.batch, detector, 100.0)[0] == 0


def test_success_is_half_of_the_majority_code(scene: Scene) -> None:
    own = scene.victim.encode(scene.queries.inputs["image"], "image")
    labels, rows = scene.queries.labels, scene.data.labels.numpy()
    hiding = Success(scene.data, labels, own, goal="untargeted")
    assert not hiding.of(own).any(), "what did not move has not hidden"
    flipped = HashCodes.from_relaxed(-torch.from_numpy(own.signs()))
    before, after = (
        retrieval_average_precision(codes, scene.data.codes, labels.numpy(), rows)
        for codes in (own, flipped)
    )
    assert hiding.of(flipped).numpy().tolist() == (after <= before / 2).tolist()
    assert hiding.of(flipped[np.array([3])], torch.tensor([3])).item() == bool(
        after[3] <= before[3] / 2
    )


def test_hiding_is_accepted_too(scene: Scene) -> None:
    detector = fitted(scene, "nearest")
    attack = AdaptiveHiding(attack=HAG(), detector=detector, threshold=2.0, steps=30)
    attack.fit(scene.victim, scene.data, LIMIT)
    moved = attack.perturb(scene.victim, scene.queries, None, LIMIT, seed=0)
    own = scene.victim.encode(scene.queries.inputs["image"], "image")
    success = Success(scene.data, scene.queries.labels, own, goal="untargeted")
    accepted = detector.score(scene.victim, moved.batch, "image") <= 2
    noisy = Noise().perturb(scene.victim, scene.queries, None, LIMIT, seed=0)
    gained = (success.of(moved.codes) & accepted).float().mean()
    assert gained > 0.5
    assert gained > success.of(noisy.codes).float().mean()


def test_a_goal_that_does_not_fit_is_refused(scene: Scene) -> None:
    with pytest.raises(ValueError, match="targeted"):
        AdaptiveTargeted(attack=HAG(), detector=Nearest(), threshold=1.0)
    attack = AdaptiveTargeted(attack=DHTA(), detector=Nearest(), threshold=1.0)
    with pytest.raises(UsageError, match="call fit"):
        attack.perturb(scene.victim, scene.queries, scene.targets, LIMIT, seed=0)
    blind = copy.copy(scene.victim)
    blind.differentiable = False
    with pytest.raises(UsageError, match="gradients"):
        attack.perturb(blind, scene.queries, scene.targets, LIMIT, seed=0)


def refused(asked: dict[str, object]) -> None:
    """Plan it, which raises."""
    describe(Detection(), DetectConfig.build(asked))


def test_detect_of_an_image_victim(tmp_path: Path) -> None:
    asked: dict[str, object] = {
        "victim": {"name": "dpsh", "bits": 12, "epochs": 2},
        "dataset": {"name": "digits", "size": 16},
        "attack": {"name": "dhta", "steps": 20},
        "budget": {"norm": "linf", "eps": "32/255"},
        "queries": 16,
    }
    config = DetectConfig.build({**asked, "detector": {"name": "nearest"}})
    one = run(Detection(), config, tmp_path / "run").document()
    metrics = one["metrics"]
    assert one["schema"] == "advhash/detect/1"
    assert one["abnormal"] == one["clean"] == 16
    assert metrics["accepted_adaptive"]["value"] >= metrics["success_and_accepted"]["value"]
    assert metrics["success"]["value"] >= metrics["success_and_accepted"]["value"]
    assert metrics["strict_detected"] is None, "no rate of 1 % from 16 queries"
    assert json.loads(json.dumps(one)) == one
    assert DetectionRecord.loads(json.dumps(one)).attack is not None  # a page shows it
    with pytest.raises(UsageError, match="no settings"):
        refused({**asked, "detector": {"name": "all", "radius": 3}})
    with pytest.raises(UsageError, match="expected no --inputs"):
        refused({**asked, "detector": {"name": "nearest"}, "inputs": "noise"})
    wrong = {**asked, "attack": {"name": "hotflip"}, "detector": {"name": "nearest"}}
    with pytest.raises(UsageError, match="images"):
        refused(wrong)


QUICK = (
    *("detect", "--victim", "dpsh", "--bits", "12", "--set", "victim.epochs=2"),
    *("--set", "dataset.size=16", "--queries", "6", "--adaptive", "steps=5", "--json", "-q"),
)


@pytest.mark.parametrize("kind", ["mixed", "noise", "ood"])
def test_odd_pictures_are_abnormal_inputs(kind: str) -> None:
    result = CliRunner().invoke(app, [*QUICK, "--inputs", kind, "--eps", "32/255"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["inputs"], found["detector"]["name"]) == (kind, "flips")  # the default of images
    assert (found["budget"], found["attack"]) == ("L∞ 32/255", None)  # of the adaptive attacker
    assert found["adaptive"]["steps"] == 5
    assert DetectionRecord.loads(result.stdout).inputs == kind
    metrics = found["metrics"]
    assert metrics["success"] is metrics["success_and_accepted"] is metrics["auroc_noise"] is None
    assert 0 <= metrics["accepted_adaptive"]["value"] <= metrics["success_adaptive"]["value"]


def test_odd_pictures_are_what_they_are_said_to_be(scene: Scene) -> None:
    data, clean = scene.data.dataset, scene.queries
    images = clean.inputs["image"]
    noise, mixed, again = (
        abnormal_images(kind, data, clean, 3).inputs["image"]
        for kind in ("noise", "mixed", "mixed")
    )
    assert torch.equal(mixed, again)
    for odd in (noise, mixed):
        assert torch.equal((odd * 255).round() / 255, odd)
    assert abs(float(noise.mean()) - 0.5) < 0.02
    other = clean.labels.argmax(dim=1)
    for row, picture in enumerate(mixed):
        halves = (images[row] + images[other != other[row]]) / 2
        assert float((halves - picture).abs().flatten(1).amax(dim=1).min()) <= 0.51 / 255
    alike = Batch(clean.inputs, torch.ones_like(clean.labels), clean.index)
    with pytest.raises(UsageError, match="two classes"):
        abnormal_images("mixed", data, alike, 3)


def test_a_detector_behind_a_defence() -> None:
    result = CliRunner().invoke(
        app, [*QUICK, "--inputs", "noise", "--defense", "bit-depth", "--set", "defense.depth=3"]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [one["name"] for one in found["defenses"]] == ["bit-depth"]
    assert found["metrics"]["accepted_adaptive"]["value"] is not None


NETWORK = ["--detector", "novelty", "--set", "detector.code=network"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "hotflip"], "does not move images"),
        (["--method", "dhta", "--inputs", "noise"], "expected no --inputs"),
        (["--other", "digits"], "names the data of --inputs ood"),
        (["--detector", "confidence"], "expected a victim that classifies"),
        (
            ["--victim", "neural-code", "--defense", "jpeg", "--detector", "confidence"],
            "neural-code, undefended",
        ),
        ([*NETWORK, "--set", "detector.layers=some"], "no layer 'some'"),
        ([*NETWORK, "--set", "detector.most_bits=0"], "most_bits above 0"),
        (["--inputs", "ood", "--other", "some"], "unknown dataset 'some'"),
        (["--inputs", "ood", "--other", "digits"], "another data set than the victim's"),
        (["--inputs", "ood", "--other", "breast_cancer"], "expected a data set with images"),
        (["--adaptive", "weight=3"], "steps alone"),
        (["--adaptive", "steps=0"], "at least 1, got 0"),
        (["--detector", "all", "--set", "detector.radius=3"], "takes no settings"),
        (["--inputs", "noise", "--norm", "linf"], "needs an eps"),
        (["--norm", "l0", "--eps", "3"], "expected a budget in"),
        (["--defense", "saat", "--set", "defense.steps=0"], "steps above 0"),
    ],
)
def test_what_fits_no_hash_of_images_is_refused_before_a_training(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advhash.experiments.prepare.planned.prepare", None)
    result = CliRunner().invoke(app, ["detect", "--victim", "dpsh", *options, "-q"])
    assert isinstance(result.exception, UsageError), result.exception
    assert message in str(result.exception)


def test_a_function_of_the_user_is_a_victim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_pixels.py").write_text(
        "def code(images):\n    return images[:, 0, 8:12, 8:12].flatten(1) - 0.5\n", "utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    given = ["detect", "--victim", "my_pixels:code", "--dataset", "digits", "--inputs", "noise"]
    given += ["--queries", "4", "--adaptive", "steps=3", "--json", "-q"]
    refused = CliRunner().invoke(app, given)
    assert "expected --trust-code" in str(refused.exception)
    result = CliRunner().invoke(app, [*given, "--trust-code"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["metrics"]["accepted_adaptive"]["value"] is not None


ATTACKED: dict[str, object] = {
    "victim": {"name": "dpsh", "bits": 12, "epochs": 2},
    "dataset": {"name": "digits", "size": 16},
    "attack": {"name": "dhta", "steps": 5},
    "budget": {"eps": "32/255"},
    "detector": {"name": "all"},
    "adaptive": {"steps": 3},
    "queries": 6,
}


def test_a_run_folder_replays_and_other_processes_find_the_same(tmp_path: Path) -> None:
    whole = run(Detection(), DetectConfig.build(ATTACKED), tmp_path / "whole")
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert names == {"config.toml", "env.json", "metrics.json", "report.html", "samples"}
    text = (tmp_path / "whole/report.html").read_text("utf-8")
    assert text == page([tmp_path / "whole"])
    assert "Alpaydin" in whole.dataset.attribution  # whose pictures they are
    assert whole.dataset.attribution in text
    assert len(whole.shown_changes) == 3
    assert all(0 < change.linf <= 32 for change in whole.shown_changes)
    flagged = {name: detector.flagged[0] for name, detector in whole.detectors.items()}
    others = ", ".join(name for name, flags in flagged.items() if not flags)
    assert text.index(f"not flagged by {others}") < text.index("<table")
    config = DetectConfig.build(read_toml(tmp_path / "whole/config.toml"))
    assert config.attack is not None
    assert config.attack.settings == json.loads(json.dumps(ATTACKS.settings("dhta", {"steps": 5})))
    assert config.budget.resolve(Budget("none", math.inf)) == Budget("linf", 32 / 255)
    again = run(Detection(), config, tmp_path / "again", executor="local")
    outside = {"run", "created", "seconds"}
    assert again.model_dump(exclude=outside) == whole.model_dump(exclude=outside)
    assert not any((cache_root() / "detect").iterdir()), "what is finished is not kept twice"


def test_an_interrupted_run_attacks_no_query_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacked, judged = [], []

    def move(config: DetectConfig, place: Place) -> Result:
        attacked.append(config)
        return move_images(config, place)

    def judge(config: DetectConfig, given: MethodConfig, place: Place) -> dict[str, object]:
        judged.append(given.name)
        if len(judged) == 3:
            raise KeyboardInterrupt
        return judge_images(config, given, place)

    monkeypatch.setattr("advhash.experiments.detect.cell.move_images", move)
    monkeypatch.setattr("advhash.experiments.detect.cell.judge_images", judge)
    config = DetectConfig.build({**ATTACKED, "seed": 1, "victim": {"name": "dpsh", "epochs": 1}})
    with pytest.raises(KeyboardInterrupt) as stopped:
        run(Detection(), config, tmp_path / "found.json")
    assert f"`advhash detect --resume {tmp_path}/found.json`" in stopped.value.__notes__[0]
    assert [one.name for one in tmp_path.iterdir()] == ["found.json.partial"]
    assert describe(Detection(), config)["cells_done"] == 3
    record = resume(tmp_path / "found.json")
    assert len(attacked) == 1
    assert judged == [*LISTED[:3], *LISTED[2:]]
    assert json.loads((tmp_path / "found.json").read_text("utf-8")) == record.document()


def test_the_attack_of_a_detection_has_every_table_of_it() -> None:
    more = {"defense": {"name": "jpeg"}, "defense_budget": {"norm": "l2", "eps": 1.0}}
    config = DetectConfig.build({**ATTACKED, **more, "seed": 3, "device": "cpu"}).trusting(True)
    attack = config.turned_into(AttackConfig, protocol={"queries": 6})
    shared = DetectConfig.model_fields.keys() & AttackConfig.model_fields.keys() - {"command"}
    assert shared >= {"victim", "dataset", "defense", "defense_budget", "attack", "budget"}
    for name in shared:
        assert getattr(attack, name) == getattr(config, name), name
    assert attack.trust_code
    assert attack.protocol.queries == 6


def test_noise_of_equal_length(scene: Scene) -> None:
    moved = DHTA().fit(scene.victim, scene.data, LIMIT)
    batch = moved.perturb(scene.victim, scene.queries, scene.targets, LIMIT, seed=0).batch
    noisy = noise_like(scene.victim, scene.queries, batch, 0)
    far, like = (
        (one.inputs["image"] - scene.queries.inputs["image"]).flatten(1).norm(dim=1)
        for one in (batch, noisy)
    )
    assert bool((like <= far + 1e-4).all())
    assert bool((like > 0.8 * far).all()), "only clipping and rounding make it shorter"


def test_the_command_prints_a_row_and_a_table_a_detector_and_a_page_shows_them(
    tmp_path: Path,
) -> None:
    out = tmp_path / "detect.json"
    given = (
        "detect --victim dpsh --bits 12 --set victim.epochs=2 --set dataset.size=16 --detector all "
        "--defense bit-depth --method dhta --set attack.steps=5 --eps 32/255 --queries 4 "
        f"--adaptive steps=5 --quiet --all --out {out}"
    )
    result = CliRunner().invoke(app, given.split())
    assert result.exit_code == 0, result.output
    heads = [f"{name} on dhta inputs of dpsh + bit-depth, digits" for name in NAMES]
    assert [
        name for name, head in zip(NAMES, heads, strict=True) if head in result.output
    ] == LISTED
    assert result.output.count("accepted_adaptive") == len(LISTED)
    begun = [line.split()[0] for line in result.output.splitlines() if line.strip()]
    assert [name for name in begun if name in LISTED][: len(LISTED)] == LISTED
    chapter = detection_chapter(out, Pictures())
    assert list(chapter.values["record"].by_name) == LISTED
    attackers = chapter.sources[0].settings["adaptive attackers"]
    assert list(attackers) == LISTED
    assert [one["steps"] for one in attackers.values()] == [5] * len(LISTED)
