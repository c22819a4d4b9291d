"""`advhash judge`: sets of other tools are hashed anew, and refused where they do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transcripts import transcript
from typer.testing import CliRunner

import advhash as ah
from advhash.cli.app import app
from advhash.errors import AdvhashError, DataError, UnknownName, UsageError
from advhash.experiments.config_text import parse_assignment
from advhash.experiments.experiment import resume, run
from advhash.experiments.judge.claims import Claims, Stated, targets_of
from advhash.experiments.judge.config import JudgeConfig
from advhash.experiments.judge.pictures import ForeignPictures
from advhash.experiments.judge.run import Judge
from advhash.measures.intervals import Metric
from advhash.reports.judge import Claim, JudgeRecord, verdicts
from advhash.reports.page.render import page
from advhash.shared_labels import label_sets

DIGITS = {"name": "digits", "size": 16}
VICTIM = {"name": "dpsh", "bits": 12, "epochs": 1}


@pytest.fixture(scope="module")
def attacked() -> Any:
    """12 digits that an attack of this house moved, whose figures are known."""
    victim = ah.train("dpsh", DIGITS, bits=12, epochs=1)
    asked = {"queries": 12, "noise_control": False}
    return ah.attack(victim, method="dhta", steps=8, eps=16 / 255, protocol=asked)


@pytest.fixture(scope="module")
def names(attacked: Any) -> list[str]:
    data = ah.load_dataset("digits", {"size": 16})
    return [data.query.names[row] for row in attacked.index]


@pytest.fixture(scope="module")
def folder(attacked: Any, names: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as another tool would leave them: PNG files called like their originals."""
    place = tmp_path_factory.mktemp("set")
    pixels = (attacked.adversarial * 255).round().byte().permute(0, 2, 3, 1).numpy()
    for name, picture in zip(names, pixels, strict=True):
        Image.fromarray(picture).save(place / f"{name}.png")
    targets = {
        f"{name}.png": str(int(row.argmax()))
        for name, row in zip(names, attacked.targets, strict=True)
    }
    linf = attacked.metrics["linf"].value
    claims = {"name": "theirs", "figures": {"tmap": 1.2, "linf": linf, "ndcg": 0.5}}
    (place / "claims.json").write_text(json.dumps({**claims, "targets": targets, "codes": {}}))
    return place


def config(place: Path, **more: Any) -> JudgeConfig:
    tables: dict[str, Any] = {
        "victim": VICTIM,
        "clean": DIGITS,
        "budget": {"eps": "16/255"},
        "protocol": {"noise_control": False},
    }
    return JudgeConfig.build({**tables, "pictures": str(place), **more})


@pytest.fixture(scope="module")
def judged(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> JudgeRecord:
    return run(Judge(), config(folder), tmp_path_factory.mktemp("judge") / "run")


def copied(folder: Path, to: Path, claims: Mapping[str, Any] | None = None) -> Path:
    """The set without its claims, or with others."""
    shutil.copytree(folder, to)
    (to / "claims.json").unlink()
    if claims is not None:
        (to / "claims.json").write_text(json.dumps(claims))
    return to


def test_a_set_is_measured_as_the_attack_that_made_it(judged: JudgeRecord, attacked: Any) -> None:
    for name in ("map", "map_adversarial", "tmap", "tmap_ceiling", "linf", "l2", "psnr"):
        mine, theirs = judged.metrics[name], attacked.metrics[name]
        assert mine is not None
        assert mine.value == pytest.approx(theirs.value), name
        assert mine.n == 12
    assert judged.set.goal == "targeted"
    assert "seconds_fit" not in judged.metrics


def test_claims_stand_beside_what_was_measured(judged: JudgeRecord) -> None:
    standings = {claim.name: claim.standing for claim in judged.claims}
    assert standings == {"tmap": "too strong", "linf": "holds", "ndcg": "not measured"}
    assert "codes_ignored" in [flag.name for flag in judged.flags]
    html = page([Path(judged.run.folder)])
    assert "claims too much" in html
    assert "1 of 3 claimed figures holds." in html
    assert "12 of 300 originals" in html
    assert html.count('class="example"') == 6


@pytest.mark.parametrize(
    ("name", "text", "standing"),
    [
        ("tmap", "0.41", "holds"),
        ("tmap", "0.50", "holds"),
        ("tmap", "0.504", "too strong"),
        ("tmap", "1", "too strong"),
        ("tmap", "0.95", "too strong"),
        ("tmap", "0.1", "differs"),
        ("map_adversarial", "0.1", "too strong"),
        ("map_adversarial", "0.95", "differs"),
        ("linf", "0.9", "differs"),
    ],
)
def test_a_claim_is_too_strong_on_the_side_of_the_attacker(
    name: str, text: str, standing: str
) -> None:
    assert claim_of(name, text, 0.4, 0.3, 0.5).standing == standing


def claim_of(name: str, text: str, value: float, low: float, high: float) -> Claim:
    stated = Stated.read(text)
    return Claim(
        name=name,
        claimed=stated.value,
        rounding=stated.rounding,
        measured=Metric(value, low, high, 9),
    )


@pytest.mark.parametrize(
    ("name", "text", "value", "standing"),
    [
        ("tmap", "0.98", 0.9749, "too strong"),
        ("tmap", "0.98", 0.9751, "holds"),
        ("linf", repr(7 / 255), 8 / 255, "differs"),
        ("linf", "0.027", 8 / 255, "differs"),
        ("linf", "0.031", 8 / 255, "holds"),
        ("linf", repr(8 / 255), float(np.float32(8) / np.float32(255)), "holds"),
        ("linf", "0", 1e-4, "differs"),
        ("psnr", "37.1", 37.149, "holds"),
        ("psnr", "37.1", 37.151, "differs"),
        ("psnr", "3.71e1", 37.149, "holds"),
        ("psnr", "37", 37.4, "holds"),
    ],
)
def test_a_claim_stands_for_what_rounds_to_its_digits(
    name: str, text: str, value: float, standing: str
) -> None:
    assert claim_of(name, text, value, value, value).standing == standing


@pytest.mark.parametrize(
    ("standings", "said"),
    [
        (["1"], "The claimed figure does not hold."),
        ([".4"], "The claimed figure holds."),
        (["1", "1"], "0 of 2 claimed figures hold."),
        (["1", ".4"], "1 of 2 claimed figures holds."),
    ],
)
def test_how_many_claims_hold_is_said_in_whole_english(
    judged: JudgeRecord, standings: list[str], said: str
) -> None:
    claims = [claim_of("tmap", text, 0.4, 0.3, 0.5) for text in standings]
    assert verdicts(judged.model_copy(update={"claims": claims}))[0] == said


def test_a_set_says_of_how_many_originals_it_is_a_choice(judged: JudgeRecord) -> None:
    assert (judged.set.pictures, judged.set.originals) == (12, 300)
    chosen = next(flag for flag in judged.flags if flag.name == "chosen_originals")
    assert chosen.message.startswith("The set holds 12 of 300 originals")


def test_flags_speak_of_the_set_and_not_of_an_attack(
    names: list[str], attacked: Any, tmp_path: Path
) -> None:
    """Pictures that do next to nothing, and a set that is the originals."""
    for name, shift in (("still", 0.0), ("weak", 1 / 255)):
        moved = (attacked.clean + shift).clamp(0, 1)
        np.savez(tmp_path / f"{name}.npz", images=moved.numpy(), ids=names)
        asked = config(tmp_path / f"{name}.npz", protocol={"noise_control": True})
        record = run(Judge(), asked, tmp_path / name)
        raised = {flag.name: flag.message for flag in record.flags}
        expected = "nothing_changed" if name == "still" else "no_effect"
        assert raised[expected].startswith("The set ")
        assert not any("the attack" in message.lower() for message in raised.values()), raised


def test_without_targets_a_set_is_untargeted(folder: Path, tmp_path: Path) -> None:
    place = copied(folder, tmp_path / "set")
    record = run(Judge(), config(place), tmp_path / "run")
    assert (record.set.goal, record.set.name, record.claims) == ("untargeted", "set", [])
    assert record.metrics["tmap"] is None


def archive(place: Path, attacked: Any, names: list[str]) -> Path:
    targets = attacked.targets.argmax(1).astype(str)
    np.savez(
        place / "set.npz",
        images=attacked.adversarial.permute(0, 2, 3, 1).numpy(),
        ids=attacked.index,
        targets=targets,
        codes=np.zeros((12, 12), np.uint8),
    )
    return place / "set.npz"


def array(place: Path, attacked: Any, names: list[str]) -> Path:
    np.save(place / "set.npy", attacked.adversarial.numpy())
    (place / "set.ids.txt").write_text("\n".join(names))
    return place / "set.npy"


def table(place: Path, attacked: Any, names: list[str]) -> Path:
    rows = (attacked.adversarial * 255).round().byte().reshape(12, -1).numpy().tolist()
    pixels = pa.array(rows, pa.list_(pa.uint8()))
    pq.write_table(pa.table({"id": names, "image": pixels}), place / "set.parquet")
    return place / "set.parquet"


@pytest.mark.parametrize("make", [archive, array, table])
def test_arrays_are_read_like_pictures(
    make: Callable[..., Path], attacked: Any, names: list[str], judged: JudgeRecord, tmp_path: Path
) -> None:
    record = run(Judge(), config(make(tmp_path, attacked, names)), tmp_path / "run")
    assert record.metrics["map_adversarial"] == judged.metrics["map_adversarial"] or (
        record.metrics["map_adversarial"].value  # type: ignore[union-attr]
        == pytest.approx(judged.metrics["map_adversarial"].value)  # type: ignore[union-attr]
    )
    targeted = make is archive
    assert record.set.goal == ("targeted" if targeted else "untargeted")
    assert record.set.codes_claimed is targeted


def test_floats_between_steps_are_rounded_toward_the_original(
    attacked: Any, names: list[str], tmp_path: Path
) -> None:
    clean = attacked.clean
    moved = (clean + 0.6 / 255 * torch.ones_like(clean)).clamp(0, 1)
    np.savez(tmp_path / "set.npz", images=moved.numpy(), ids=names)
    record = run(Judge(), config(tmp_path / "set.npz"), tmp_path / "run")
    assert record.set.rounded == 12
    assert record.metrics["linf"].value == 0  # type: ignore[union-attr]
    whole = {"eps": "16/255", "eight_bit": False}
    record = run(Judge(), config(tmp_path / "set.npz", budget=whole), tmp_path / "float")
    assert record.metrics["linf"].value == pytest.approx(0.6 / 255, rel=1e-3)  # type: ignore[union-attr]


def test_pictures_that_no_longer_match_are_counted_at_the_threshold(tmp_path: Path) -> None:
    data = ah.load_dataset("near_duplicates", {"pictures": 60})
    (tmp_path / "set").mkdir()
    for row in range(8):
        pixels = data.database.inputs["image"][row].permute(1, 2, 0).numpy()  # type: ignore[call-overload, union-attr]
        shown = pixels if row < 6 else 255 - pixels
        Image.fromarray(shown).save(tmp_path / "set" / f"{data.database.names[row]}.png")
    (tmp_path / "set" / "claims.csv").write_text(
        "id,evasion_rate,code\n" + "".join(f"{data.database.names[row]},1,ff\n" for row in range(8))
    )
    near = {"name": "near_duplicates", "pictures": 60}
    asked = config(
        tmp_path / "set",
        victim={"name": "dhash"},
        clean=near,
        budget={"norm": "none"},
        protocol={"threshold": 8, "noise_control": False},
    )
    record = run(Judge(), asked, tmp_path / "run")
    assert record.protocol.at_threshold
    assert record.metrics["evasion_rate"].value == pytest.approx(2 / 8)  # type: ignore[union-attr]
    assert record.claims[0].standing == "too strong"


# --- what is refused ------------------------------------------------------------------------------


def lossy(place: Path) -> None:
    first = min(place.glob("*.png"))
    Image.open(first).save(first.with_suffix(".jpg"))
    first.unlink()


def disguised(place: Path) -> None:
    first = min(place.glob("*.png"))
    Image.open(first).convert("RGB").save(first, format="JPEG")


def larger(place: Path) -> None:
    first = min(place.glob("*.png"))
    Image.open(first).resize((20, 16)).save(first)


def stranger(place: Path) -> None:
    min(place.glob("*.png")).rename(place / "somebody.png")


def from_database(place: Path) -> None:
    data = ah.load_dataset("digits", {"size": 16})
    min(place.glob("*.png")).rename(place / f"{data.database.names[0]}.png")


def twice(place: Path) -> None:
    first = min(place.glob("*.png"))
    shutil.copy(first, first.with_suffix(".bmp"))


def webp(place: Path) -> None:
    first = min(place.glob("*.png"))
    Image.open(first).save(first.with_suffix(".webp"), lossless=True)
    first.unlink()


def beside_arrays(place: Path) -> None:
    np.savez(place / "x.npz", images=np.zeros((1, 3, 16, 16), np.uint8), ids=np.arange(1))


def broken(place: Path) -> None:
    min(place.glob("*.png")).write_bytes(b"no picture")


def far(place: Path) -> None:
    first = min(place.glob("*.png"))
    Image.new("RGB", (16, 16), "white").save(first)


def emptied(place: Path) -> None:
    for file in place.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lossy, r"expected PNG or BMP .*, got 1 JPEG of 12 files, first '0"),
        (disguised, r"expected PNG or BMP .*, got 1 JPEG of 12 files"),
        (larger, r"as large as their originals, got 1 of 12 .*\(20×16 for 16×16\)"),
        (
            stranger,
            r"of the 300 originals in digits, .*got 1 of 12 others: 'somebody'",
        ),
        (from_database, r"1 of them lie in the database that is searched"),
        (twice, r"expected one picture for each original, got 1 more"),
        (webp, r"expected PNG or BMP .*, which alone are read, got 1 WEBP of 12 files"),
        (beside_arrays, r"got 12 pictures and 'x.npz'; move away"),
        (broken, r"got 1 of 12 broken"),
        (far, r"within L∞ 16/255, got 1 of 12 pictures outside, the worst \d+\.\d/255 in '0"),
        (emptied, r"expected pictures .*, got nothing that can be read"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_a_line(
    folder: Path, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    place = copied(folder, tmp_path / "set")
    change(place)
    with pytest.raises(DataError, match=said) as refused:
        Judge().plan(config(place))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("claims", "error", "said"),
    [
        (
            {"figures": {"tmpa": 1}},
            UnknownName,
            "claimed figure 'tmpa': did you mean 'tmap'",
        ),
        ({"figures": {"tmap": "high"}}, DataError, "figures that are not numbers"),
        ({"figure": {}}, DataError, "did you mean 'figures'"),
        ({"targets": {"0.png": "1", "0.bmp": "1"}}, DataError, "more than one entry for '0'"),
        ({"targets": {"0": "nine"}}, DataError, "expected the target of each picture.*12 without"),
        ([], DataError, "no JSON object"),
    ],
)
def test_claims_that_cannot_be_read_are_refused(
    folder: Path, tmp_path: Path, claims: Any, error: type[AdvhashError], said: str
) -> None:
    with pytest.raises(error, match=said):
        Judge().plan(config(copied(folder, tmp_path / "set", claims)))


def test_a_target_that_is_no_class_names_the_nearest(
    folder: Path, tmp_path: Path, names: list[str]
) -> None:
    claims = {"targets": dict.fromkeys(names, "77")}
    with pytest.raises(DataError, match=r"expected a class of digits, got '77'"):
        Judge().plan(config(copied(folder, tmp_path / "set", claims)))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ([], r"expected a class of digits, got none"),
        (["3", "7"], r"the classes of some row .* got '3', '7'; the nearest row has '\d'"),
    ],
)
def test_a_target_without_a_ceiling_is_refused_before_training(
    folder: Path, tmp_path: Path, names: list[str], target: list[str], said: str
) -> None:
    claims = {"targets": dict.fromkeys(names, target)}
    with pytest.raises(DataError, match=said) as refused:
        Judge().plan(config(copied(folder, tmp_path / "set", claims)))
    assert "\n" not in str(refused.value)


NEAR = {"name": "near_duplicates", "pictures": 60}


@pytest.fixture
def near(tmp_path: Path) -> tuple[Path, list[str]]:
    """Three pictures as they are, of data whose targets are pictures, and their names."""
    data = ah.load_dataset(NEAR["name"], {"pictures": 60})
    (tmp_path / "set").mkdir()
    for row in range(3):
        pixels = data.database.inputs["image"][row].permute(1, 2, 0).numpy()  # type: ignore[call-overload, union-attr]
        Image.fromarray(pixels).save(tmp_path / "set" / f"{data.database.names[row]}.png")
    return tmp_path / "set", list(data.database.names)


def near_config(place: Path) -> JudgeConfig:
    asked = {"threshold": 8, "noise_control": False}
    return config(place, victim={"name": "dhash"}, clean=NEAR, protocol=asked)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([(48, 48), (48, 48)], "--set dataset.size=48"),
        ([(40, 53), (53, 40)], "--set dataset.size=stored"),
    ],
)
def test_the_size_that_a_refusal_names_is_taken(
    tmp_path: Path, sizes: list[tuple[int, int]], said: str
) -> None:
    for number in range(40):
        file = tmp_path / f"photos/{'ab'[number // 20]}/{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise(sizes[number % 2], 60).convert("RGB").save(file)
    (tmp_path / "set").mkdir()
    table = {"victim": {"name": "phash"}, "clean": {"name": str(tmp_path / "photos"), "size": 32}}
    for name in ah.load_dataset(str(tmp_path / "photos")).query.names[:2]:
        (tmp_path / "set" / name).parent.mkdir(exist_ok=True)
        shutil.copy(tmp_path / "photos" / name, tmp_path / "set" / name)
    with pytest.raises(DataError, match="other sizes") as refused:
        Judge().plan(config(tmp_path / "set", **table))
    assert said in str(refused.value)
    table["clean"]["size"] = parse_assignment(str(refused.value).rpartition("--set ")[2])[1]
    assert Judge().plan(config(tmp_path / "set", **table)).shown["pictures"] == 2


def test_a_target_that_is_a_picture_is_one_picture(near: tuple[Path, list[str]]) -> None:
    place, names = near
    wanted = {name: [names[9]] for name in names[:3]}
    (place / "claims.json").write_text(json.dumps({"targets": wanted}))
    assert Judge().plan(near_config(place)).shown["targeted"]
    wanted[names[1]].append(names[8])
    (place / "claims.json").write_text(json.dumps({"targets": wanted}))
    with pytest.raises(DataError, match=r"expected the name of a picture .* got 2 of them: "):
        Judge().plan(near_config(place))


def test_a_picture_in_several_groups_is_a_target_in_the_order_of_the_ceilings() -> None:
    """Labels keep the order of their file; the ceilings are called by sorted ones."""
    data = ah.load_dataset(NEAR["name"], {"pictures": 60})
    labels = torch.tensor([[3, 7], [7, 3], [-1, 5], [-1, -1]] * 15, dtype=torch.int32)
    data = replace(data, database=replace(data.database, labels=labels))
    names = data.database.names
    foreign = ForeignPictures("pictures", ("a", "b"), [])
    claims = Claims(targets={"a": (names[1],), "b": (names[2],)})
    targets = targets_of(claims, foreign, data)
    assert targets is not None
    assert targets.tolist() == [[3, 7], [5, -1]]
    offered = {row.tobytes() for row in label_sets(labels.numpy())[0]}
    assert {row.tobytes() for row in targets} <= offered
    with pytest.raises(DataError, match=r"expected a picture of .* with a label"):
        targets_of(replace(claims, targets={"a": (names[3],), "b": (names[2],)}), foreign, data)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["{0},nan", "{1},1", "{2},1"], "no finite number in every row of 'evasion_rate'"),
        (["{0},1e999", "{1},1", "{2},1"], "no finite number in every row of 'evasion_rate'"),
        (["{0},1", "{1},1"], "1 pictures without a row"),
        (["{0},1", "{1},1", "{2},1", "{3},0"], "1 rows of others"),
        (["{0},1", "{0},0", "{1},1", "{2},1"], "more than one entry for"),
        ([",1"], "a row without an id"),
    ],
)
def test_a_table_claims_finite_figures_of_the_set_alone(
    near: tuple[Path, list[str]], rows: list[str], said: str
) -> None:
    place, names = near
    table = "\n".join(["id,evasion_rate", *(row.format(*names) for row in rows)])
    (place / "claims.csv").write_text(table)
    with pytest.raises(DataError, match=said):
        Judge().plan(near_config(place))


@pytest.mark.parametrize("count", [1, 3])
def test_an_archive_has_a_target_for_each_picture(tmp_path: Path, count: int) -> None:
    images = np.zeros((2, 3, 16, 16), np.uint8)
    targets = np.full(count, "1")
    np.savez(tmp_path / "set.npz", images=images, ids=np.arange(2), targets=targets)
    with pytest.raises(DataError, match=f"got {count} targets and 2 pictures"):
        Judge().plan(config(tmp_path / "set.npz"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"clean": {}}, "expected the originals of the pictures: --clean"),
        ({"budget": {}}, "expected the budget that the set is held to"),
        ({"victim": {"name": "hashvfl", "bits": 8}}, "that hashes whole pictures"),
        ({"protocol": {"queries": 5}}, "protocol.queries: expected none, .* got 5"),
    ],
)
def test_a_set_without_originals_or_budget_is_refused(
    folder: Path, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        Judge().plan(config(folder, **more))


def test_originals_may_lie_in_a_folder_with_the_classes_of_the_data(tmp_path: Path) -> None:
    data = ah.load_dataset("digits", {"size": 16})
    pixels = data.database.inputs["image"].permute(0, 2, 3, 1).numpy()  # type: ignore[union-attr]
    for number in range(10):
        (tmp_path / "clean" / str(number)).mkdir(parents=True)
        for row in data.database.labels[:, number].nonzero()[:7, 0].tolist():
            Image.fromarray(pixels[row]).save(tmp_path / "clean" / str(number) / f"{row}.png")
    clean = ah.load_dataset(str(tmp_path / "clean"), {"size": 16})
    for name in clean.query.names:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "clean" / name, tmp_path / "set" / name)
    asked = {"clean": {"name": str(tmp_path / "clean")}, "dataset": DIGITS}
    plan = Judge().plan(config(tmp_path / "set", **asked))
    assert sorted(plan.paired.rows.tolist()) == list(range(len(clean.query)))
    assert len(plan.paired.data.database) == len(data.database)
    (tmp_path / "clean" / "0").rename(tmp_path / "clean" / "zero")
    with pytest.raises(DataError, match="expected originals with the classes of digits"):
        Judge().plan(config(tmp_path / "set", **asked))


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.zeros((1, 3, 16, 16), np.int64), "expected uint8 or floats in .*, got int64"),
        (np.full((1, 3, 16, 16), 200.0), "got 0 to 200; divide pixels by 255"),
        (np.full((1, 3, 16, 16), np.nan), "got nan to nan"),
        (np.zeros((1, 16, 16), np.uint8), r"expected pictures \(N,3,H,W\)"),
        (np.zeros((0, 3, 16, 16), np.uint8), "got arrays without rows"),
        (np.zeros((2, 3, 16, 16), np.uint8), "as many ids as pictures, got 1 and 2"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(tmp_path: Path, pixels: Any, said: str) -> None:
    np.savez(tmp_path / "set.npz", images=pixels, ids=np.arange(min(len(pixels), 1)))
    with pytest.raises(DataError, match=said):
        Judge().plan(config(tmp_path / "set.npz"))


def test_the_command_says_what_was_claimed_and_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [
        *("judge", str(folder), "--clean", "digits", "--set", "clean.size=16", "-q"),
        *("--victim", "dpsh", "--bits", "12", "--set", "victim.epochs=1", "--eps", "16/255"),
        *("--set", "protocol.noise_control=false", "--out", str(tmp_path / "run")),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(Judge, "judge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        CliRunner().invoke(app, command)
    assert (tmp_path / "run.partial").is_dir()
    record = resume(tmp_path / "run", kind="judge")
    assert isinstance(record, JudgeRecord)
    assert (tmp_path / "run" / "queries.parquet").is_file()
    again = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "again")])
    assert again.exit_code == 0, again.output
    assert "1 of 3 claimed figures holds." in again.output
    assert "12 of 300 originals, all inside the budget" in again.output
    row = next(line for line in again.output.splitlines() if line.endswith("linf"))
    assert row.count("/255") == 2
    refused = CliRunner().invoke(app, ["judge", "--victim", "dpsh"])
    assert "expected FOLDER" in str(refused.exception)


def test_the_page_of_judge_is_what_happens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = 0
    elsewhere = r"^(report|next): "
    for shown, printed in transcript("how_to/judge.md", tmp_path, capsys, left_out=elsewhere):
        assert printed == shown
        lines += len(shown)
    assert lines > 20
