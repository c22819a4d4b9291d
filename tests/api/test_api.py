"""advhash from Python: the same numbers as the commands, clear refusals, results to look at."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import advhash as ah
from advhash import api
from advhash.data import Dataset
from advhash.errors import AdvhashError
from advhash.experiments.attack.run import attack as attack_as_the_command
from advhash.experiments.config import AttackConfig
from advhash.experiments.config_text import read_toml
from advhash.experiments.prepare.trained import Trained
from advhash.registry import ATTACKS, VICTIMS
from advhash.reports.record import Record

DATA = {"name": "digits", "size": 16}
EPS = 8 / 255


def average(images: Tensor) -> Tensor:
    """(B,16) real codes: each cell of a grid against the mean."""
    cells = F.adaptive_avg_pool2d(images.mean(dim=1, keepdim=True), 4).flatten(1)
    return cells - cells.mean(dim=1, keepdim=True)


def signs(images: Tensor) -> Tensor:
    """The same without a gradient."""
    return (average(images) > 0).int()


@pytest.fixture(scope="module")
def trained() -> Trained:
    return ah.train("dpsh", DATA, seed=3, epochs=2, bits=12)


@pytest.fixture(scope="module")
def own(trained: Trained) -> Trained:
    return ah.bring(average, trained.data)


def command(trained: Trained, folder: Path, method: str, **settings: Any) -> Record:
    """The record of `advhash attack` on 20 queries."""
    config = {
        "seed": 3,
        "victim": {"name": "dpsh", "epochs": 2, "bits": 12},
        "attack": {"name": method, **settings},
        "dataset": DATA,
        "budget": {"norm": "linf", "eps": "8/255"},
        "protocol": {"queries": 20, "batch_size": 8},
    }
    return attack_as_the_command(AttackConfig.build(config).trusting(True), folder)


def timeless(record: Record) -> dict[str, Any]:
    """All that the record says of victim, attack, data, figures and flags, but for times."""
    document = record.document()
    document["metrics"] = {
        name: one for name, one in document["metrics"].items() if not name.startswith("seconds")
    }
    kept = ("budget", "protocol", "flags", "metrics", "metrics_by_direction", "dataset")
    marks = {part: document[part]["fingerprint"] for part in ("victim", "attack")}
    return {**{name: document[name] for name in kept}, **marks}


# --- the same numbers as the command


@pytest.mark.parametrize("method", ["dhta", "hag"])
def test_equal_seeds_give_the_numbers_of_the_command(
    trained: Trained, tmp_path: Path, method: str
) -> None:
    expected = command(trained, tmp_path / "run", method, steps=3)
    settings: Any = {"method": method, "steps": 3, "norm": "linf", "eps": EPS, "seed": 3}
    found = ah.attack(trained, protocol={"queries": 20, "batch_size": 8}, **settings)
    assert found.record is not None
    assert timeless(found.record) == timeless(expected)
    stored = pq.read_table(tmp_path / "run/queries.parquet")
    for name in ("linf", "l2", "psnr", "map_adversarial:image"):
        np.testing.assert_array_equal(found.columns[name.partition(":")[0]], stored[name])
    code = stored["code_adversarial"].to_pylist()[4]
    assert int(code, 16) == int(found.codes.words[4, 0])
    again = ah.attack(
        trained, trained.data.query.rows(found.index), protocol={"batch_size": 8}, **settings
    )
    assert torch.equal(again.adversarial, found.adversarial)
    assert again.metrics == {**found.metrics, **{k: again.metrics[k] for k in TIMES}}


TIMES = ("seconds_fit", "seconds_per_image")


def test_a_function_gives_the_numbers_of_the_command(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "grid_hash.py").write_text(
        "import torch.nn.functional as F\n\n"
        + inspect.getsource(average).replace("Tensor", "object")
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = {
        "victim": {"name": "grid_hash:average"},
        "attack": {"name": "dhta", "steps": 2},
        "dataset": DATA,
        "protocol": {"queries": 10},
    }
    expected = attack_as_the_command(AttackConfig.build(config).trusting(True), tmp_path / "run")
    function = sys.modules["grid_hash"].average
    found = ah.attack(function, data=trained.data, method="dhta", steps=2, protocol={"queries": 10})
    assert found.record is not None
    assert timeless(found.record) == timeless(expected)
    del sys.modules["grid_hash"]


def test_figures_of_a_victim_are_those_of_its_card(trained: Trained) -> None:
    assert {k: vars(m) for k, m in ah.evaluate(trained, seed=3).items()} == trained.card["metrics"]
    figures = ah.evaluate(trained).items()
    shown = repr(ah.evaluate(trained)).splitlines()
    assert [line.split()[0] for line in shown] == [name for name, _ in figures]
    for line, (_, metric) in zip(shown, figures, strict=True):
        assert f" {100 * metric.value:.1f} %  [{100 * metric.low:.1f}, " in line
    found = ah.evaluate(average, trained.data)
    assert found["map_image_image"].value == pytest.approx(
        ah.bring(average, trained.data).card["metrics"]["map_image_image"]["value"]
    )


def test_a_checkpoint_is_loaded_with_its_data(trained: Trained) -> None:
    assert trained.folder is not None
    loaded = ah.load(trained.folder)
    assert (loaded.fingerprint, loaded.data.fingerprint()) == (
        trained.fingerprint,
        trained.data.fingerprint(),
    )
    assert repr(loaded) == "<dpsh, 12 bits, on digits>"


# --- batches and targets of one's own


def test_given_targets_are_aimed_at(own: Trained) -> None:
    images = own.data.query.rows(torch.arange(6)).inputs["image"]
    targets = own.data.database.labels[[3, 3, 5, 5, 9, 9]]
    found = ah.attack(own, images, method="dhta", targets=targets, eps=0.3, steps=10)
    assert found.targets is not None
    np.testing.assert_array_equal(found.targets, targets)
    assert found.columns["tmap"].mean() > found.columns["tmap_clean"].mean()
    assert found.record is not None
    assert found.record.protocol.targets == "given"
    # without labels there is no MAP of one's own, rather than one of 0
    assert np.isnan(found.columns["map"]).all()
    assert found.metrics["map"] == ah.attack(own, images, method="noise").metrics["map"]
    assert not any("no relevant row" in message for message in found.messages)


def test_a_query_may_equal_its_target(own: Trained) -> None:
    batch = own.data.query.rows(torch.arange(1))
    found = ah.attack(own, batch, method="dhta", targets=batch.labels, steps=2)
    assert len(found) == 1
    assert found.metrics["tmap"] is not None
    assert found.metrics["tmap"].value == found.columns["tmap"][0]
    assert any("share a label" in message for message in found.messages)


def test_images_off_the_grid_are_rounded_and_stay_in_the_ball(own: Trained) -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = ah.attack(own, images, method="hag", steps=3, eps=2 / 255)
    assert torch.equal(found.clean, (images * 255).round() / 255)
    assert float((found.adversarial - found.clean).abs().max()) <= 2 / 255 + 1e-6
    free = ah.attack(own, images, method="hag", steps=3, eps=2 / 255, eight_bit=False)
    assert torch.equal(free.clean, images)


def test_without_a_database_there_are_codes_and_distances(own: Trained) -> None:
    images = own.data.query.rows(torch.arange(4)).inputs["image"]
    found = ah.attack(average, images, method="hag", steps=5, eps=0.2)
    known = ah.attack(own, images, method="hag", steps=5, eps=0.2)
    assert torch.equal(found.adversarial, known.adversarial)
    assert found.record is None
    assert "map" not in found.columns
    assert found.columns["bits_changed"].mean() > 0
    np.testing.assert_array_equal(
        found.columns["bits_changed"],
        (found.codes.unpack() ^ found.clean_codes.unpack()).sum(axis=1),
    )
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8))
    assert len(ah.attack(module, images, method="noise", eps=EPS)) == 4


# --- refusals


class Nothing(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images


IMAGES = torch.zeros(2, 3, 16, 16)
LABELS = torch.eye(10, dtype=torch.uint8)[:2]
BAD: list[tuple[dict[str, Any], str]] = [
    ({"method": "dhtaa"}, "did you mean 'dhta'"),
    ({"vote": 3}, "did you mean 'votes'"),
    ({"eps": 0}, "expected a positive number, got 0"),
    ({"eps": 8}, "expected at most 1 for linf"),
    ({"batch": IMAGES[:0]}, "at least one item"),
    ({"batch": IMAGES[0]}, r"expected float images \(N,3,H,W\)"),
    ({"batch": IMAGES[:, :1]}, r"expected float images .*\(2, 1, 16, 16\)"),
    ({"batch": IMAGES.to(torch.uint8)}, "expected float images"),
    ({"batch": IMAGES + 2}, r"expected images in \[0,1\], got values from 2 to 2"),
    ({"batch": IMAGES * torch.nan}, r"expected images in \[0,1\], got values from nan"),
    ({"batch": "images"}, "expected a Batch or a tensor"),
    ({"batch": ah.Batch({"text": IMAGES}, LABELS, torch.arange(2))}, "a batch with 'image'"),
    ({"batch": ah.Batch({"image": IMAGES}, LABELS[:, :3], torch.arange(2))}, "labels of shape"),
    ({"protocol": {"queries": 3}}, "queries only without a batch"),
    ({"protocol": {"poison": 3}}, "no protocol.poison"),
    ({"protocol": {"topk": 3}}, "protocol.topk"),
    ({"protocol": 3}, "expected protocol="),
    ({"name": "p2p"}, "no setting 'name' of 'dhta'"),
    ({"data": "digits"}, "expected data=, a Dataset, got str 'digits'"),
    ({"victim": average, "data": None, "method": "noise", "out": "runs/none"}, "expected data="),
    ({"protocol": {"query_modality": "text"}}, "expected a modality of the victim"),
    ({"targets": "nearest"}, "protocol.targets"),
    ({"targets": LABELS[:1]}, r"targets: expected \(2, 10\)"),
    ({"targets": [[1], [1, 2]]}, "got rows of different lengths"),
    ({"targets": LABELS * 3}, "0 and 1 only"),
    ({"targets": LABELS[:1] | LABELS}, r"no row of the database has .* target 1 \(classes 0, 1\)"),
    ({"targets": LABELS * 0}, "target 0 .classes none"),
    ({"targets": LABELS, "method": "hag"}, "untargeted: expected no targets"),
    ({"method": "cgat"}, "uses the labels of the queries"),
    ({"method": "hotflip"}, "hotflip attacks text"),
    ({"victim": signs}, "needs gradients"),
    ({"victim": Nothing()}, "codes for"),
    ({"victim": 3}, "expected a trained victim, a torch module or a function"),
    ({"victim": average, "data": None}, "uses database codes, labels: expected data="),
    ({"victim": average, "data": None, "method": "hag", "batch": None}, "got neither"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "message"), BAD, ids=[pattern for _, pattern in BAD])
def test_bad_input_is_refused_in_one_line(
    own: Trained, changed: dict[str, Any], message: str
) -> None:
    given = {"victim": own, "batch": IMAGES, "method": "dhta", "data": own.data, **changed}
    with pytest.raises(AdvhashError, match=message) as got:
        ah.attack(given.pop("victim"), given.pop("batch"), **given)
    assert "\n" not in str(got.value)


def test_the_other_functions_refuse_too(own: Trained, tmp_path: Path) -> None:
    result = ah.attack(average, IMAGES, method="noise", eps=EPS)
    table = Dataset("table", {}, own.data.database, own.data.train_rows, own.data.query,
                    own.data.query, own.data.classes)  # fmt: skip
    for call, message in (
        (lambda: ah.train("my:function"), "give it to advhash.bring"),
        (lambda: ah.train("dpsh", own.data), "got a Dataset"),
        (lambda: ah.train("dpsh", name="csq"), "no setting 'name'"),
        (lambda: ah.bring(average, "digits"), "expected data=, a Dataset"),
        (lambda: ah.load(tmp_path / "nowhere"), "no such folder"),
        (lambda: ah.evaluate(average), "expected data="),
        (lambda: ah.compare(result, result), "attack with data="),
        (lambda: ah.report(result), "attack with out="),
        (lambda: ah.report([]), "at least one run"),
        (lambda: ah.report(3), "a run folder, got int 3"),  # type: ignore[arg-type]
        (lambda: ah.compare(3, result), "a run folder, got int 3"),  # type: ignore[arg-type]
        (lambda: ah.report(tmp_path / "run.partial"), "finished run"),
        (lambda: ah.bring(average, replace(table, database=without_images(own.data))), "images"),
    ):
        with pytest.raises(AdvhashError, match=message):
            call()


def without_images(data: Dataset) -> Any:
    return replace(data.database, inputs={"table": data.database.inputs["image"].flatten(1)})


def test_a_refusal_stays_one_line_whatever_is_given(own: Trained) -> None:
    result = ah.attack(average, IMAGES, method="noise", eps=EPS)
    for call in (
        lambda: ah.bring(average, result),  # type: ignore[arg-type]
        lambda: ah.bring(own.data, own.data),  # type: ignore[arg-type]
        lambda: ah.compare(own.data, result),  # type: ignore[arg-type]
        lambda: ah.train(own.data),  # type: ignore[arg-type]
        lambda: ah.attack(own, method="noise", protocol=own.data),  # type: ignore[arg-type]
        lambda: ah.attack(own, method="noise", progress=result),  # type: ignore[arg-type]
    ):
        with pytest.raises(AdvhashError, match=r"got (AttackResult|Dataset) ") as got:
            call()
        assert "\n" not in str(got.value)


# --- run folders, pages, comparisons


def test_results_and_their_run_folders_compare_and_report_alike(
    trained: Trained, tmp_path: Path
) -> None:
    protocol = {"queries": 12}
    weak, strong = (
        ah.attack(trained, method="dhta", steps=steps, eps=EPS, protocol=protocol,
                  out=tmp_path / f"run-{steps}")
        for steps in (1, 8)
    )  # fmt: skip
    held = ah.compare(weak, strong)
    read = ah.compare(tmp_path / "run-1", tmp_path / "run-8")
    assert held.differences == read.differences
    mean = (strong.columns["tmap"] - weak.columns["tmap"]).mean()
    assert held.differences["tmap"].value == pytest.approx(mean)
    shown = repr(read).splitlines()
    assert shown[0] == f"run-8 − run-1 on {strong.record.dataset.label}, 12 queries, paired"
    assert shown[1].startswith(f"t-MAP: {100 * mean:.1f} points  [")
    assert [line.partition(":")[0] for line in shown[1:]] == ["t-MAP", "MAP attacked"]
    page = ah.report([weak, tmp_path / "run-8"], tmp_path / "both.html").read_text()
    bare = ah.report([weak, tmp_path / "run-8"], tmp_path / "bare.html", pictures=False).read_text()
    assert "background-image" in page
    assert "background-image" not in bare
    assert "dhta" in page
    replayed = AttackConfig.build(read_toml(tmp_path / "run-8/config.toml"))
    assert replayed.victim.name == trained.name
    batch = trained.data.query.rows(torch.arange(3))
    ah.attack(trained, batch, method="noise", out=tmp_path / "some")
    assert not (tmp_path / "some/config.toml").exists()  # nothing in it would name the batch
    with pytest.raises(AdvhashError, match="differ in goal"):
        ah.compare(weak, tmp_path / "some")
    with pytest.raises(AdvhashError, match="exists"):
        ah.attack(trained, batch, method="noise", out=tmp_path / "some")


def test_a_failed_run_leaves_no_folder(own: Trained, tmp_path: Path) -> None:
    failing = replace(own, victim=own.victim)

    def stop(what: str, done: int, total: int | None = None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ah.attack(failing, method="noise", out=tmp_path / "run", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_the_view_is_escaped_and_can_be_read_aloud(trained: Trained) -> None:
    named = ah.bring(average, trained.data, name="<script>alert(1)</script>")
    found = ah.attack(named, method="dhta", steps=1, protocol={"queries": 6})
    html = found._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert html.count("<caption>") == html.count("<table>") == 2
    images = re.findall(r"<img [^>]*>", html)
    assert len(images) == 12
    assert all(' alt="query ' in image and 'src="data:image/png;' in image for image in images)
    assert found.metrics["tmap"] is not None
    assert f"{100 * found.metrics['tmap'].value:.1f} %" in html
    assert "http" not in html


def test_a_result_is_told_in_three_lines_and_drawn(trained: Trained, tmp_path: Path) -> None:
    found = ah.attack(trained, method="dhta", steps=1, protocol={"queries": 6})
    lines = repr(found).splitlines()
    assert len(lines) == 3
    assert re.fullmatch(r"dhta \(L∞ \d+/255\) on dpsh, digits, 6 queries", lines[0])
    assert lines[1].startswith("t-MAP: ")
    sound = replace(found, messages=())
    assert repr(sound).splitlines()[2] == "Nothing was flagged; .metrics has all figures."
    kept = repr(replace(sound, folder=Path("runs/mine"))).splitlines()[2]
    assert kept == "Nothing was flagged; runs/mine has all figures."
    alone = repr(replace(sound, record=None)).splitlines()[2]
    assert "no figures of retrieval and no flags" in alone  # none was looked for
    several = repr(replace(found, messages=("odd", "few", "flat")))
    assert several.splitlines()[2] == "odd (2 more in .messages)"
    assert re.search(r"L∞: [\d.]+/255", lines[1])
    drawn = found.plot()
    assert len(drawn.axes) == 3 * 4
    shown = drawn.axes[1].images[0].get_array()
    assert shown is not None
    assert shown.shape == (*found.adversarial.shape[2:], 3)
    drawn.savefig(tmp_path / "change.png")
    words = replace(found, modality="text").plot()
    assert len(words.axes) == 1
    assert sum(bar.get_height() for bar in words.axes[0].patches) == 6  # type: ignore[attr-defined]


def test_the_example_of_readme_runs_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("50 queries")
    assert lines[1].startswith("t-MAP: ")


# --- the package itself


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = (
        "import sys, advhash; dir(advhash)\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert callable(advhash.load_dataset)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there_and_no_other() -> None:
    assert all(hasattr(ah, name) for name in ah.__all__)
    assert ah.__all__ == dir(ah)
    assert set(api.__all__) <= set(ah.__all__)
    with pytest.raises(AttributeError, match="no attribute 'attacck'"):
        ah.attacck  # noqa: B018


def test_no_setting_of_a_method_hides_behind_an_argument() -> None:
    for function, registry in ((ah.attack, ATTACKS), (ah.train, VICTIMS)):
        taken = set(inspect.signature(function).parameters) - {"settings"}
        for entry in registry:
            assert not taken & set(entry.model.model_fields), entry.name
