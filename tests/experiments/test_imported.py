"""Checkpoints of others: what must be said, what is refused."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from foreign_models import Foreign, foreign, forget, stirred, throw_away
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from advhash.data.load import load_dataset
from advhash.errors import CheckpointError, ConfigError, DataError, StorageError, UsageError
from advhash.experiments.prepare.imported import import_checkpoint
from advhash.experiments.prepare.trained import fingerprint
from advhash.storage.checkpoint import load_victim
from advhash.storage.foreign_model import open_model
from advhash.victims.networks.pretrained import lite0_file


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Foreign:
    """A small network of timm: 24 bits at 64 pixels."""
    return foreign("timm ResNet, safetensors", tmp_path_factory.mktemp("theirs"))


@pytest.fixture(scope="module")
def state(theirs: Foreign) -> dict[str, Tensor]:
    return load_file(theirs.file)


def imported(file: Path, out: Path, **given: Any) -> dict[str, Any]:
    settings = {"architecture": "timm:test_resnet", "normalise": "half", "image_size": 64}
    return import_checkpoint(file, out, **{**settings, **given})


def test_what_is_undecided_is_tried_and_asked_for(theirs: Foreign, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected --normalise imagenet, half, none") as undecided:
        imported(theirs.file, tmp_path / "mine", normalise=None)
    notes = undecided.value.__notes__
    assert [note.partition(":")[0] for note in notes] == [
        *("--normalise imagenet", "--normalise half", "--normalise none")
    ]
    assert len({note.partition(":")[2] for note in notes}) == 3
    with pytest.raises(UsageError, match=r"expected --arch, e\.g\. --arch timm:resnet50"):
        imported(theirs.file, tmp_path / "mine", architecture=None)
    assert list(tmp_path.iterdir()) == []


def test_a_port_of_efficientnet_asks_for_its_name(tmp_path: Path) -> None:
    file = lite0_file()
    assert file is not None
    with pytest.raises(UsageError, match="timm:tf_efficientnet_lite0"):
        imported(file, tmp_path / "mine", architecture=None)
    with pytest.raises(CheckpointError, match="do not fit timm:test_resnet"):
        imported(file, tmp_path / "mine")


def test_settings_tell_victims_of_the_same_weights_apart(theirs: Foreign, tmp_path: Path) -> None:
    """Results are cached by the fingerprint."""
    marks = set()
    for name, given in {"a": {}, "b": {"normalise": "none"}, "c": {"scale": 2.0}}.items():
        imported(theirs.file, tmp_path / name, **given)
        victim, card = load_victim(tmp_path / name)
        marks.add(fingerprint(tmp_path / name, victim, card))
    assert len(marks) == 3


def test_the_scale_of_hashnet_is_kept(tmp_path: Path) -> None:
    theirs = foreign("HashNet ResNet-18, whole", tmp_path)
    document = import_checkpoint(
        theirs.file, tmp_path / "mine", image_size=theirs.size, **theirs.given
    )
    assert document["victim"]["settings"]["scale"] == 1.7
    assert document["not_called"] == ["their_code.ListedResNet"]


def test_the_scale_of_a_layer_is_none_of_the_network(tmp_path: Path) -> None:
    network = timm.create_model("test_vit", num_classes=16, img_size=64)
    assert network.blocks[0].attn.scale < 1
    torch.save(network, tmp_path / "a.pth")  # noqa: TID251
    document = imported(tmp_path / "a.pth", tmp_path / "mine", architecture="timm:test_vit")
    assert document["victim"]["settings"]["scale"] == 1


Change = Callable[[dict[str, Tensor]], object]
BIAS, HEAD, STEM = "fc.bias", "fc.weight", "conv1.0.weight"
WRONG: dict[str, tuple[Change, str]] = {
    "missing": (lambda state: state.pop("layer1.0.conv1.weight"), "tensors are missing, first"),
    "extra": (lambda state: state.update(more=torch.ones(2)), "which has no 'more'"),
    "transposed": (
        lambda state: state.update({HEAD: state[HEAD].T.contiguous()}),
        r"got \(96, 24\) \(transposed\?\)",
    ),
    "other shape": (
        lambda state: state.update({STEM: state[STEM][:, :1].clone()}), r"got \(\d+, 1, 3, 3\)"
    ),
    "no hash layer": (lambda state: (state.pop(HEAD), state.pop(BIAS)), "no hash layer behind"),
    "two hash layers": (
        lambda state: state.update({"hash_layer.weight": torch.ones(9, 4)}), "which has no"
    ),
    "NaN": (lambda state: state[HEAD].__setitem__((0, 0), torch.nan), "NaN or infinity in 'fc.w"),
    "infinity": (lambda state: state[STEM].__setitem__((0, 0, 0, 0), torch.inf), "NaN or infinity"),
    "zeros": (lambda state: [each.zero_() for each in state.values()], "gives 0 for every picture"),
    "whole numbers": (lambda state: state.update({BIAS: torch.ones(24).long()}), "got torch.int64"),
    "very many bits": (
        lambda state: state.update({HEAD: torch.ones(2000, 96)}), "at most 1024 bits"
    ),
    "none": (lambda state: state.clear(), "no hash layer|are missing"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_tensors_that_do_not_fit_are_refused(
    kind: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    change, message = WRONG[kind]
    changed = {name: value.clone() for name, value in state.items()}
    change(changed)
    save_file(changed, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=message) as refused:
        imported(tmp_path / "a.safetensors", tmp_path / "mine")
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_layer_kept_twice_with_other_numbers_is_refused(tmp_path: Path) -> None:
    theirs = foreign("HashNet ResNet-18, whole", tmp_path)
    with open_model(theirs.file) as model:
        state = {name: model.read(name).clone() for name in model.shapes}
    state["feature_layers.0.weight"] += 1
    save_file(state, tmp_path / "mixed.safetensors")
    with pytest.raises(CheckpointError, match="stand for one tensor and differ"):
        import_checkpoint(
            tmp_path / "mixed.safetensors", tmp_path / "mine", image_size=64, normalise="none"
        )


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"architecture": "alexnet"}, CheckpointError, "two fully connected layers of alexnet"),
        ({"architecture": "vgg12"}, ConfigError, "did you mean 'vgg1"),
        ({"architecture": "timm:test_resnt"}, ConfigError, "did you mean 'test_resnet'"),
        ({"architecture": "torchvision:resnt18"}, ConfigError, "did you mean 'resnet18'"),
        ({"architecture": "torchvision:resnet18"}, CheckpointError, "does not fit torchv"),
        ({"architecture": "timm:test_vit"}, CheckpointError, "does not fit timm:test_vit"),
        ({"architecture": "keras:resnet"}, ConfigError, "unknown architecture"),
        ({"normalise": "imagnet"}, UsageError, "expected --normalise"),
        ({"image_size": 0}, UsageError, "expected --image-size"),
        ({"scale": -1.0}, ConfigError, "expected scale above 0"),
        ({"scale": math.nan}, ConfigError, "scale"),
        ({"scale": 1e30}, ConfigError, "expected scale at most"),
        ({"part": "model"}, CheckpointError, "expected no --part"),
        ({"pictures": Path("nowhere")}, DataError, "expected a folder of pictures"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    given: dict[str, Any], error: type[Exception], message: str, theirs: Foreign, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as refused:
        imported(theirs.file, tmp_path / "mine", **given)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_is_refused(theirs: Foreign, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="which exists"):
        imported(theirs.file, tmp_path / "mine")
    with pytest.raises(UsageError, match="a victim of advhash has this name"):
        imported(theirs.file, Path("dpsh"))
    for name in ("a:b", "new.pth"):
        with pytest.raises(UsageError, match="choose a plain name"):
            imported(theirs.file, Path(name))


def test_pictures_of_the_user_are_tried(theirs: Foreign, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match="expected pictures in"):
        imported(theirs.file, tmp_path / "mine", pictures=tmp_path / "photos")
    for number in range(3):
        Image.new("RGB", (80, 60), (40 * number, 200, 90)).save(tmp_path / f"photos/{number}.png")
    document = imported(theirs.file, tmp_path / "mine", pictures=tmp_path / "photos")
    assert document["trial"]["pictures"] == 3
    (tmp_path / "photos/0.png").write_bytes(b"\x89PNG rubbish")
    with pytest.raises(DataError, match="cannot be read"):
        imported(theirs.file, tmp_path / "other", pictures=tmp_path / "photos")


def test_a_full_disk_leaves_no_checkpoint(
    theirs: Foreign, tmp_path: Path, full_disk: Callable[[], None]
) -> None:
    load_dataset("digits", {})  # which writes into the cache
    full_disk()
    with pytest.raises(StorageError, match="the disk is full"):
        imported(theirs.file, tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


def test_a_card_that_asks_for_much_takes_no_memory(theirs: Foreign, tmp_path: Path) -> None:
    imported(theirs.file, tmp_path / "mine")
    card = json.loads((tmp_path / "mine/card.json").read_text())
    card["settings"].update(architecture="alexnet", hidden=[10**6, 10**6])
    (tmp_path / "mine/card.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="does not fit victim 'hash-layer'"):
        load_victim(tmp_path / "mine")


def test_commands_take_an_imported_victim(
    theirs: Foreign, tmp_path: Path, advhash: Callable[..., tuple[int, str, str]]
) -> None:
    """Also one that states its size, which data are then read at."""
    out = tmp_path / "mine"
    given = ("--arch", "timm:test_resnet", "--image-size", "64", "--as", out)
    code, _, told = advhash("import", theirs.file, *given)
    lines = told.splitlines()
    assert (code, len(lines)) == (2, 4)
    assert lines[0].startswith("advhash: error: expected --normalise")
    code, shown, told = advhash("import", theirs.file, *given, "--normalise", "half")
    assert (code, told) == (0, "")
    assert "timm:test_resnet, 24 bits" in shown
    code, shown, told = advhash(
        "attack", "--victim", out, "--method", "dhta", "--set", "attack.steps=2", "--eps", "8/255",
        "--queries", "5", "-q", "--json", "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, told
    document = json.loads(shown)
    assert document["victim"]["name"] == "hash-layer"
    assert document["dataset"]["settings"]["size"] == 64
    assert (tmp_path / "run/report.html").is_file()
    code, _, told = advhash("train", "--victim", "hash-layer", "-q")
    assert (code, "advhash import" in told, told.count("\n")) == (2, True, 1)


def test_the_transcript_of_the_page_is_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, advhash: Callable[..., tuple[int, str, str]]
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/import.md").read_text("utf-8")
    transcript = re.findall(r"```console\n(.*?)```", page, re.DOTALL)[0]
    code = throw_away(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = stirred(code.ListedResNet(torchvision.models.resnet18(), 32))
    network.scale = 1.0
    torch.save(network, tmp_path / "theirs.pth")  # noqa: TID251
    forget(code)
    monkeypatch.chdir(tmp_path)
    printed = ""
    for command in re.findall(r"^\$ advhash (.*)$", transcript, re.MULTILINE):
        words = shlex.split(command)
        printed += f"$ advhash {command}\n"
        if words[0] == "import":  # attacks are another test's
            status, out, err = advhash(*words)
            assert (status == 0) == ("--normalise" in words), err
            printed += out + err
    # what depends on the versions of torch and of its libraries
    figures = re.compile(r"\d+ of 8 codes|\d+% ones|\|z\| [\d.]+|code [0-9a-f]+")
    assert figures.sub("…", printed) == figures.sub("…", transcript)
