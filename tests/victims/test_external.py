"""Bring your own: a function of the user as victim, only where the user trusts it."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import advhash as ah
from advhash.attacks.base import AttackData, frozen
from advhash.budget import Budget
from advhash.compute.progress import silent
from advhash.data import Dataset
from advhash.data.load import load_dataset
from advhash.errors import CheckpointError, ConfigError, DataError, UsageError
from advhash.experiments.attack.run import AttackExperiment, attack
from advhash.experiments.config import AttackConfig, TrainConfig
from advhash.experiments.experiment import describe
from advhash.experiments.prepare.brought import introduce
from advhash.experiments.prepare.planned import PlannedVictim
from advhash.experiments.prepare.trained import Trained, export_checkpoint
from advhash.experiments.prepare.victim import train
from advhash.registry import ATTACKS, is_external
from advhash.victims.external import ExternalVictim, import_function

DOCS = Path(__file__).resolve().parents[2] / "docs"
SOURCE = """
import torch.nn.functional as F

def average(images):
    cells = F.adaptive_avg_pool2d(images.mean(dim=1, keepdim=True), 8).flatten(1)
    return cells - cells.mean(dim=1, keepdim=True)

def bits(images):
    return (average(images) > 0).int()
"""
DATA = {"name": "digits", "size": 16}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with `mine.py`; what is imported from it is forgotten afterwards."""
    (tmp_path / "mine.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", {"size": 16})


@pytest.fixture
def images(digits: Dataset) -> Tensor:
    return digits.query.rows(torch.arange(8)).inputs["image"]


def average(images: Tensor) -> Tensor:
    cells = torch.nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 8).flatten(1)
    return cells - cells.mean(dim=1, keepdim=True)


def config(name: str = "mine:average", method: str = "dhta", **settings: object) -> AttackConfig:
    values: dict[str, Any] = {
        "victim": {"name": name, **settings},
        "attack": {"name": method},
        "dataset": DATA,
        "protocol": {"queries": 20},
    }
    return AttackConfig.build(values)


# --- the function


@pytest.mark.parametrize(
    ("function", "differentiable"),
    [
        (average, True),
        (lambda images: average(images).double(), True),
        (lambda images: average(images) > 0, False),
        (lambda images: (average(images) > 0).int(), False),
        (lambda images: average(images).sign(), False),
        (lambda images: (average(images) > 0).float().tolist(), False),
        (lambda images: np.sign(average(images).numpy()), False),
        (lambda images: average(images.clone().detach()), False),
    ],
    ids=["real", "double", "bool", "0/1", "sign", "list", "numpy", "detached"],
)
def test_all_kinds_of_codes_give_the_same_bits(
    function: Callable[[Tensor], Any], differentiable: bool, images: Tensor
) -> None:
    victim = ExternalVictim(function, name="x:y", sample=images[:4])
    expected = (average(images) > 0).numpy()
    assert victim.bits == 64
    assert np.array_equal(victim.encode(images, "image").unpack(), expected)
    assert victim.differentiable is differentiable
    inputs = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(victim.relax(inputs, "image").square().sum(), inputs)
    assert bool((gradient != 0).any()) is differentiable


@pytest.mark.parametrize(
    ("form", "advice"), [("ubinary", r"unpackbits\(codes, axis=1\)"), ("binary", r"\+ 128\)")]
)
@pytest.mark.parametrize("rows", [np.asarray, list, torch.as_tensor])
def test_packed_bytes_are_no_codes(
    form: str, advice: str, rows: Callable[[Any], Any], images: Tensor
) -> None:
    """They were read as K/8 bits: 1 wherever a byte is above 0."""

    def packed(images: Tensor) -> Any:
        octets = np.packbits(average(images).numpy() > 0, axis=1)
        return rows((octets.astype(int) - 128).astype(np.int8) if form == "binary" else octets)

    with pytest.raises(UsageError, match=rf"one number a bit, got u?int8 .*{form}.*{advice}"):
        ExternalVictim(packed, name="x:y", sample=images)


@pytest.mark.parametrize(("dtype", "low"), [(np.uint8, 0), (np.int8, 0), (np.int8, -1)])
def test_bits_and_signs_in_bytes_are_codes(
    dtype: type[np.generic], low: int, images: Tensor
) -> None:
    def codes(images: Tensor) -> Any:
        return np.where(average(images).numpy() > 0, 1, low).astype(dtype)

    victim = ExternalVictim(codes, name="x:y", sample=images)
    assert np.array_equal(victim.encode(images, "image").unpack(), average(images).numpy() > 0)


def test_a_module_is_put_into_eval_mode_and_frozen_like_any_victim(digits: Dataset) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 12), nn.Dropout(0.5))
    batch = digits.query.rows(torch.arange(6))
    victim = ExternalVictim(network, name="x:y", sample=batch.inputs["image"])
    assert not network.training
    codes = victim.database_codes(digits, "image")
    method = ATTACKS.create("p2p", {"steps": 20})
    method.fit(victim, AttackData(digits, codes, "image", "image"), Budget("linf", 16 / 255))
    targets = digits.database.labels[:6]
    moved = method.perturb(victim, batch, targets, Budget("linf", 16 / 255))
    assert not np.array_equal(moved.codes.words, victim.encode(batch.inputs["image"], "image"))
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda images: average(images)[0], r"expected \(8, 'K'\) codes .*, got \(64,\)"),
        (lambda images: average(images)[:, :0], r"expected \(8, 'K'\) codes .*, got \(8, 0\)"),
        (lambda images: images, r"got \(8, 3, 16, 16\)"),
        (lambda images: average(images)[1:], r"got \(7, 64\)"),
        (lambda images: average(images) / 0, "finite codes for images .*, got NaN or infinity"),
        (lambda images: "code", "got a str; return one tensor"),
        (lambda images: images.colour, "raised AttributeError: .*colour"),
    ],
    ids=["flat", "no-bits", "images", "too-few", "nan", "text", "bug"],
)
def test_what_is_no_code_is_refused(
    function: Callable[[Tensor], Any], message: str, images: Tensor
) -> None:
    with pytest.raises(UsageError, match=message) as got:
        ExternalVictim(function, name="x:y", sample=images)
    assert str(got.value).startswith("victim x:y: ")
    assert "\n" not in str(got.value)


def test_another_length_later_is_refused(images: Tensor) -> None:
    victim = ExternalVictim(lambda x: average(x)[:, : 60 + len(x)], name="x:y", sample=images[:4])
    with pytest.raises(UsageError, match=r"expected \(2, 64\) codes .*, got \(2, 62\)"):
        victim.encode(images[:2], "image")


@pytest.mark.parametrize("method", ["p2p", "dhta", "prosgan"])
def test_gradient_attacks_refuse_a_victim_without(
    method: str, digits: Dataset, images: Tensor
) -> None:
    victim = ExternalVictim(lambda x: average(x) > 0, name="x:y", sample=images)
    attack_ = ATTACKS.create(method)
    with pytest.raises(UsageError, match="needs gradients: expected a differentiable victim"):
        attack_.perturb(
            victim, digits.query.rows(torch.arange(2)), digits.query.labels[:2], Budget("linf", 0.1)
        )


# --- what a function does to what it is given, and what it leaves


def in_place(images: Tensor) -> Tensor:
    images.sub_(0.5).div_(0.5)
    return average(images * 0.5 + 0.5)


def through_numpy(images: Tensor) -> Tensor:
    """Numpy shares the memory of the tensor, and torch sees nothing of it."""
    values = images.detach().numpy()
    values -= 0.25
    return average(images + 0.25)


@pytest.mark.parametrize("function", [in_place, through_numpy])
def test_a_function_may_write_into_its_images(
    function: Callable[[Tensor], Any], digits: Dataset
) -> None:
    """Else noise of 8/255 was of 1.017, and the clean images of the run lay in [-2, 2]."""
    batch, ball = digits.query.rows(torch.arange(8)), Budget("linf", 8 / 255)
    clean = batch.inputs["image"].clone()
    found = []
    for one in (function, average):
        victim = ExternalVictim(one, name="x:y", sample=batch.inputs["image"])
        noise = ATTACKS.create("noise")
        found.append(noise.perturb(victim, batch, None, ball))
        victim.relax(batch.inputs["image"], "image")
        assert torch.equal(batch.inputs["image"], clean)
    assert float(found[0].distance.max()) <= 8 / 255 + 1e-6
    assert torch.equal(found[0].batch.inputs["image"], found[1].batch.inputs["image"])
    assert (found[0].codes.unpack() != found[1].codes.unpack()).mean() < 0.02  # of rounding


def test_a_module_whose_first_step_is_in_place_has_its_gradient(images: Tensor) -> None:
    class Normalised(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return average(images.sub_(0.5).div_(0.5))

    assert ExternalVictim(Normalised(), name="x:y", sample=images).differentiable


class OnlyWithoutGradients(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad:
            raise MemoryError("expected 3 GB")
        return average(images)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (OnlyWithoutGradients(), "asked for one, it raised MemoryError: expected 3 GB"),
        (lambda images: average(images).numpy(), "raised RuntimeError: Can't call numpy"),
        (lambda images: average(images).exp_().mul_(2).detach(), "carry no gradient"),
        (lambda images: average(images).sign(), "it is 0 everywhere"),
        (lambda images: (average(images) > 0).tolist(), "it returns a list, not a tensor"),
        (
            lambda images: average(images.detach()) * nn.Parameter(torch.ones(64)),
            "do not follow from its inputs",
        ),
    ],
)
def test_why_there_is_no_gradient_is_said(
    function: Callable[[Tensor], Any], reason: str, digits: Dataset, images: Tensor
) -> None:
    victim = ExternalVictim(function, name="x:y", sample=images)
    assert reason in victim.no_gradient
    with pytest.raises(UsageError, match=re.escape(victim.no_gradient[:60])):
        ATTACKS.create("hag").perturb(
            victim, digits.query.rows(torch.arange(2)), None, Budget("linf", 0.1)
        )
    card = introduce(
        victim, digits, victim.served_codes(digits), name="x:y", source="", seed=0, bootstrap_seed=0
    )
    (flag,) = [flag for flag in card["flags"] if flag["name"] == "no_gradient"]
    assert victim.no_gradient in flag["message"]


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Sequential(nn.Flatten(), nn.Linear(768, 12), nn.BatchNorm1d(12), nn.Dropout(0.5))
    return made.train()


class Holder:
    def __init__(self, model: nn.Module) -> None:
        self.parts = {"model": model}

    def encode(self, images: Tensor) -> Tensor:
        found: Tensor = self.parts["model"](images)
        return found


GLOBAL = network()


def uses_a_global(images: Tensor) -> Tensor:
    return helper(images)


def helper(images: Tensor) -> Tensor:
    found: Tensor = GLOBAL(images)
    return found


def closing_over(model: nn.Module) -> Callable[[Tensor], Any]:
    return lambda images: model(images)


@pytest.mark.parametrize(
    "made",
    [
        lambda model: model,
        closing_over,
        lambda model: model.forward,
        lambda model: Holder(model).encode,
        lambda model: partial(lambda model, images: model(images), model),
        lambda model: uses_a_global,
    ],
    ids=["module", "closure", "method", "object", "partial", "global"],
)
def test_a_network_left_in_training_mode_is_evaluated(
    made: Callable[[nn.Module], Callable[[Tensor], Any]], images: Tensor
) -> None:
    """In training mode its codes are random and depend on the rest of the batch."""
    model = GLOBAL.train() if made(GLOBAL) is uses_a_global else network()
    victim = ExternalVictim(made(model), name="x:y", sample=images)
    model.train()  # by whoever it belongs to
    whole = victim.encode(images, "image").unpack()
    alone = [victim.encode(image[None], "image").unpack() for image in images]
    assert np.array_equal(np.concatenate(alone), whole)
    assert model.training
    model.train()
    with frozen(victim):
        assert not model.training


def test_a_victim_that_writes_into_its_inputs_is_refused(digits: Dataset) -> None:
    class Careless(ExternalVictim):
        def relax(self, inputs: Tensor, modality: str) -> Tensor:
            return super().relax(inputs.sub_(0.5), modality)

    batch = digits.query.rows(torch.arange(4))
    victim = Careless(average, name="x:y", sample=batch.inputs["image"])
    clean = batch.inputs["image"].clone()
    with pytest.raises(UsageError, match=r"Careless\.relax writes into its inputs"):
        victim.encode(batch.inputs["image"], "image")
    assert torch.equal(batch.inputs["image"], clean)


# --- what is no code


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: (average(x), x), r"a tuple of float32 \(8, 64\), float32 .*found\[0\]"),
        (lambda x: [average(x), average(x)], r"a list of .*return one of its entries"),
        (lambda x: {"logits": average(x)}, r"a dict with 'logits'; .*found\['logits'\]"),
        (lambda x: None, r"got None; return one tensor or array"),
        (lambda x: average(x).to(torch.complex64), r"got complex64 \(8, 64\); .*real numbers"),
        (lambda x: average(x).numpy().astype(str), r"got <U\d+ \(8, 64\); return one"),
        (lambda x: object(), "got a object; return one tensor or array"),
        (lambda x: [[1, 2], [3]], "got a list; numpy makes no array of it"),
        (lambda x: (row for row in average(x)), "got a generator"),
    ],
)
def test_what_came_and_what_to_return_are_said(
    function: Callable[[Tensor], Any], message: str, images: Tensor
) -> None:
    with pytest.raises(UsageError, match=message) as got:
        ExternalVictim(function, name="x:y", sample=images)
    assert str(got.value).startswith("victim x:y: expected (8, K) codes, got ")
    assert "\n" not in str(got.value)


def test_rows_in_a_list_are_codes(images: Tensor) -> None:
    victim = ExternalVictim(lambda x: list(average(x) > 0), name="x:y", sample=images)
    assert np.array_equal(victim.encode(images, "image").unpack(), (average(images) > 0).numpy())


# --- its name


def test_names() -> None:
    assert all(map(is_external, ["mine:average", "a.b_1:c", "mine:net.forward", "größe:hash"]))
    names = ("dpsh", "C:/victim", "C:\\victim", "./a:b", "a:b:c", ":a", "a:", "a b:c", "a.py/x:y")
    assert not any(map(is_external, names))


def test_the_current_folder_is_importable(folder: Path) -> None:
    (folder / "nested.py").write_text("import mine\n\nclass Tools:\n    hash = mine.average\n")
    sys.path[:] = [path for path in sys.path if path not in ("", str(folder))]
    assert import_function("mine:average") is sys.modules["mine"].average
    assert import_function("nested:Tools.hash") is sys.modules["mine"].average


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nowhere:average",
            "importing 'nowhere' .* raised ModuleNotFoundError: .*install its package",
        ),
        ("mine:averge", "expected 'averge' in 'mine', got none: did you mean 'average'"),
        ("mine:SIZE", "got a int"),
        ("mine:Net", "got a class"),
        (
            "wrong:average",
            "importing 'wrong' .* raised SyntaxError.*; see python -c 'import wrong'",
        ),
        ("angry:average", "importing 'angry' .* raised ValueError: no"),
    ],
)
def test_what_cannot_be_had_is_told_in_one_line(folder: Path, name: str, message: str) -> None:
    (folder / "mine.py").write_text(SOURCE + "\nSIZE = 8\nclass Net: pass\n")
    (folder / "wrong.py").write_text("def average(images) return 1\n")
    (folder / "angry.py").write_text("raise ValueError('no\\nsecond line')\n")
    with pytest.raises(UsageError, match=message) as got:
        import_function(name)
    assert "\n" not in str(got.value)


# --- trust


@pytest.mark.parametrize("run", [train, attack, partial(describe, AttackExperiment())])
def test_without_trust_nothing_is_imported(folder: Path, run: Callable[[Any], Any]) -> None:
    (folder / "mine.py").write_text("open('ran', 'w').close()\n")
    with pytest.raises(UsageError, match="runs the code of 'mine': expected --trust-code"):
        run(config())
    assert not (folder / "ran").exists()
    assert "mine" not in sys.modules


def test_no_file_can_hold_the_trust() -> None:
    for key in ("trust_code", "_trust_code"):
        with pytest.raises(ConfigError, match=f"no setting '{key}'"):
            TrainConfig.build({"victim": {"name": "mine:average"}, key: True})
    trusted = config().trusting(True)
    assert trusted.trust_code
    assert not config().trust_code
    assert "trust" not in trusted.to_toml()
    assert trusted.model_copy(update={"seed": 1}).trust_code


def test_a_card_cannot_name_a_function(folder: Path) -> None:
    (folder / "mine.py").write_text("open('ran', 'w').close()\n")
    checkpoint = folder / "checkpoint"
    trained = train(TrainConfig.build({"victim": {"name": "dhash"}, "dataset": DATA}))
    assert trained.folder is not None
    card = json.loads((trained.folder / "card.json").read_text())
    checkpoint.mkdir()
    (checkpoint / "card.json").write_text(json.dumps({**card, "name": "mine:average"}))
    (checkpoint / "model.safetensors").write_bytes(
        (trained.folder / "model.safetensors").read_bytes()
    )
    wanted = TrainConfig.build({"victim": {"name": str(checkpoint)}}).trusting(True)
    with pytest.raises(CheckpointError, match="does not fit this advhash: unknown victim"):
        train(wanted)
    assert not (folder / "ran").exists()


# --- runs


def test_a_run_records_the_name_and_replays(folder: Path) -> None:
    record = attack(config().trusting(True), folder / "run")
    assert record.victim.name == "mine:average"
    assert record.victim.settings == {}
    assert record.victim.deviations == []
    assert record.victim.source == "code of the user: mine.py"
    mean = {name: metric.value for name, metric in record.metrics.items() if metric is not None}
    assert mean["map"] > mean["map_chance"] + 0.2  # type: ignore[operator]
    assert mean["tmap"] > mean["tmap_clean"]  # type: ignore[operator]
    assert record.victim.origin == "brought"
    page = (folder / "run" / "report.html").read_text("utf-8")
    assert "Brought by the user, not trained by advhash." in page
    assert "Trained in this run." not in page
    text = (folder / "run" / "config.toml").read_text()
    assert 'name = "mine:average"' in text
    assert "trust" not in text


def test_where_a_victim_comes_from_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what was trained here says so, and only that teaches what a training costs."""
    monkeypatch.setenv("ADVHASH_CACHE", str(folder / "cache"))
    costs: list[object] = []
    monkeypatch.setattr(
        "advhash.experiments.prepare.planned.note_cost", lambda *given: costs.append(given)
    )

    def built(victim: dict[str, object]) -> Trained:
        config = TrainConfig.build({"victim": victim, "dataset": DATA}).trusting(True)
        return PlannedVictim.of(config).build(SimpleNamespace(progress=silent))

    own = {"name": "dpsh", "epochs": 1, "bits": 8}
    origins = [built(own).origin, built(own).origin]
    export_checkpoint(built(own), folder / "saved")
    origins += [built({"name": name}).origin for name in (str(folder / "saved"), "mine:average")]
    origins.append(built({"name": "dhash"}).origin)
    assert origins == ["trained", "cache", "checkpoint", "brought", "computed"]
    assert len(costs) == 1
    record = attack(
        AttackConfig.build(
            {
                "victim": {"name": str(folder / "saved")},
                "attack": {"name": "noise"},
                "protocol": {"queries": 3},
            }
        ),
        folder / "run",
    )
    assert record.victim.cached
    page = (folder / "run/report.html").read_text("utf-8")
    assert "From a checkpoint that the user named." in page
    assert "rom the cache" not in page


def test_without_gradients_blend_runs_and_the_card_says_so(folder: Path) -> None:
    record = attack(config("mine:bits", "blend").trusting(True), folder / "run")
    flags = {flag.name for flag in record.flags}
    assert "no_gradient" in flags
    assert "vanishing_gradient" not in flags
    with pytest.raises(UsageError, match="DHTA needs gradients"):
        attack(config("mine:bits", "dhta").trusting(True), folder / "other")
    assert not list(folder.glob("other*"))


def test_fingerprints_tell_functions_files_and_what_they_load_apart(folder: Path) -> None:
    source = (
        "from pathlib import Path\nimport torch\n"
        "def one(images): return images.flatten(1)[:, :8] - float(Path('level').read_text())\n"
        "two = one\n"
    )
    (folder / "loader.py").write_text(source)
    (folder / "level").write_text("0.05")

    def mark(name: str) -> str:
        sys.modules.pop("loader", None)
        wanted = TrainConfig.build({"victim": {"name": name}, "dataset": {"name": "near_duplicates",
            "pictures": 20, "size": 16}})  # fmt: skip
        return train(wanted.trusting(True)).fingerprint

    first = mark("loader:one")
    assert mark("loader:one") == first
    assert mark("loader:two") != first
    (folder / "level").write_text("1.5")
    assert mark("loader:one") != first
    (folder / "level").write_text("0.05")
    assert mark("loader:one") == first
    (folder / "loader.py").write_text(source + "# changed\n")
    assert mark("loader:one") != first


def test_refusals(folder: Path, advhash: Any) -> None:
    with pytest.raises(UsageError, match="brings its settings: expected none, got bits"):
        train(config(bits=8).trusting(True))
    (folder / "customers.csv").write_text("age,churn\n40,0\n50,1\n")
    table = {"victim": {"name": "mine:average"}, "dataset": {"name": "./customers.csv"}}
    with pytest.raises(DataError, match=r"reads \(image.*the table customers.*modality = .table"):
        train(TrainConfig.build(table).trusting(True))
    with pytest.raises(DataError, match=r"needs images: 'breast_cancer' has table; .*modality ="):
        train(
            TrainConfig.build(
                {"victim": {"name": "mine:average"}, "dataset": {"name": "breast_cancer"}}
            ).trusting(True)
        )
    command = ["train", "--victim", "mine:average", "--set", "dataset.size=16", "-q"]
    code, _, err = advhash(*command)
    assert code == 2
    assert "--trust-code" in err
    code, _, err = advhash(*command, "--trust-code", "--out", folder / "out")
    assert code == 2
    assert "no checkpoint to copy" in err
    code, out, _ = advhash(*command, "--trust-code")
    assert code == 0
    assert "checkpoint" not in out


def test_rows_of_a_table_are_taken_where_a_function_says_so(folder: Path, advhash: Any) -> None:
    (folder / "rows.py").write_text(
        "import numpy as np\n"
        "def above(table):\n"
        "    assert table.shape[1] == 30\n"
        "    return (table - table.new_tensor(LIMITS)) @ table.new_tensor(AXES)\n"
        "above.modality = 'table'\n"
        "LIMITS, AXES = np.linspace(0.1, 1, 30), np.random.default_rng(0).normal(size=(30, 16))\n"
    )
    tables = {"victim": {"name": "rows:above"}, "dataset": {"name": "breast_cancer"}}
    trained = train(TrainConfig.build(tables).trusting(True))
    victim, data = trained.victim, trained.data
    assert isinstance(victim, ExternalVictim)
    assert (list(victim.bounds), victim.bits, victim.differentiable) == (["table"], 16, True)
    inputs = data.query.rows(torch.arange(5)).inputs["table"]
    assert torch.equal(victim.relax(inputs, "table"), victim.function(inputs).float())
    name = "map_table_table"
    assert trained.card["metrics"][name]["value"] > trained.card["metrics"]["map_chance"]["value"]
    assert ah.evaluate(victim.function, data)[name].value == trained.card["metrics"][name]["value"]
    with pytest.raises(UsageError, match="dhta attacks image, got 'table'"):
        attack(AttackConfig.build({**tables, "attack": {"name": "dhta"}}).trusting(True))
    with pytest.raises(DataError, match="needs tables: 'digits' has image"):
        train(TrainConfig.build({**tables, "dataset": {"name": "digits"}}).trusting(True))


def test_an_interrupted_run_needs_the_trust_again(
    folder: Path, advhash: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder / "run"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("advhash.experiments.attack.run.measure", stop)
        with pytest.raises(KeyboardInterrupt):
            attack(config().trusting(True), run)
    assert advhash("attack", "--resume", run, "-q")[0] == 2
    code, _, err = advhash("attack", "--resume", run, "--trust-code", "-q")
    assert code == 0, err
    assert (run / "metrics.json").is_file()


def test_the_example_in_the_documentation_runs(folder: Path, advhash: Any) -> None:
    text = (DOCS / "bring_your_own.md").read_text("utf-8")
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
    code = next(body for language, body in blocks if language == "python")
    commands = next(body for language, body in blocks if language == "sh").splitlines()
    (folder / "my_hash.py").write_text(code)
    assert len(commands) == 3
    for command in commands:
        status, _, err = advhash(*shlex.split(command)[1:], "-q", "--set", "dataset.size=16")
        assert status == 0, err
