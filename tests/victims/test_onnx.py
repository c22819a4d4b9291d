"""`onnx:FILE`: codes of onnxruntime, gradients of its graph in torch, and what is refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, external_data_helper
from onnx_models import export, graph, node, small
from torch import Tensor

from advhash.data import Dataset
from advhash.data.load import load_dataset
from advhash.errors import CheckpointError, UsageError
from advhash.experiments.attack.run import AttackExperiment
from advhash.experiments.config import AttackConfig, TrainConfig
from advhash.experiments.prepare.victim import plan_victim
from advhash.experiments.prepare.worth import victim_flags
from advhash.registry import VICTIMS, is_external
from advhash.storage.checkpoint import load_victim, save_victim
from advhash.victims.encoders import onnx_file
from advhash.victims.encoders.encoded import Encoded
from advhash.victims.encoders.onnx_file import read_model
from advhash.victims.encoders.onnx_network import OnnxFacts, OnnxNetwork, graph_in_torch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    data = load_dataset("digits", {})
    return dataclasses.replace(
        data, database=data.database.take(torch.arange(200)), train_rows=torch.arange(120)
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(small(), tmp_path_factory.mktemp("onnx") / "small.onnx")


def settings_of(file: Path, **settings: Any) -> dict[str, Any]:
    """All settings, as a plan has them."""
    given = {"name": f"onnx:{file}", **settings}
    config = TrainConfig.build({"victim": given, "dataset": {"name": "digits"}})
    planned = plan_victim(config)
    assert planned is not None
    return planned[1]


def victim_of(file: Path, **settings: Any) -> Encoded:
    victim: Encoded = VICTIMS.create("encoder", settings_of(file, **settings))
    return victim


def images(count: int = 10, side: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator) / 255


# Codes and gradients


def test_codes_are_those_of_onnxruntime(exported: Path, digits: Dataset) -> None:
    """Bit for bit, of pictures prepared as the user says; and those of the network it came from."""
    given = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4), "quantise": "sign"}
    victim = victim_of(exported, **given)
    prepared = torch.nn.functional.interpolate(images(side=32), 32)
    numbers = (prepared - torch.tensor(given["mean"]).view(3, 1, 1)) / torch.tensor(
        given["std"]
    ).view(3, 1, 1)
    (theirs,) = onnxruntime.InferenceSession(exported).run(None, {"pictures": numbers.numpy()})
    with torch.no_grad():
        ours = victim.relax(images(side=32), "image")
        home = small()(numbers)
    assert torch.allclose(ours, torch.from_numpy(theirs), atol=1e-5)
    clear = home.abs() > 1e-5 * home.abs().mean()
    assert torch.equal((ours > 0)[clear], (home > 0)[clear])
    assert bool((ours > 0).any())
    assert not bool((ours > 0).all())


def test_the_gradient_is_that_of_the_network(exported: Path) -> None:
    victim, home = victim_of(exported, quantise="sign"), small()
    ours, theirs = images(4, 32).requires_grad_(), images(4, 32).requires_grad_()
    mean = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
    std = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
    value = victim.relax(ours, "image")
    with torch.no_grad():
        assert torch.equal(value, victim.relax(ours, "image"))  # with a gradient as without
    value.tanh().sum().backward()
    home((theirs - mean) / std).tanh().sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert float(theirs.grad.abs().max()) > 1e-3
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)


@pytest.mark.parametrize("opset", [11, 17, 18, 20])
def test_exports_of_all_opsets_have_gradients(opset: int, tmp_path: Path) -> None:
    content, facts = read_model(
        export(small(), tmp_path / "m.onnx", opset=opset), output=None, side=None
    )
    assert facts.no_gradient == ""
    assert (facts.side, facts.batch, facts.dimensions) == (32, None, 12)
    pictures = torch.rand(3, 3, 32, 32)
    network = OnnxNetwork(facts, content)
    assert torch.allclose(network.converted(pictures), network.deployed(pictures), atol=1e-5)
    assert torch.allclose(network.deployed(pictures), small()(pictures), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 20])
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "mobilenetv3_small_050"])
def test_exports_of_the_new_exporter_have_gradients(name: str, opset: int, tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    home = timm.create_model(name, num_classes=0).eval()
    pictures, batch = torch.rand(3, 3, 160, 160), torch.export.Dim("batch", min=1, max=512)
    torch.onnx.export(
        home,
        (pictures,),
        tmp_path / "m.onnx",
        dynamo=True,
        opset_version=opset,
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    content, facts = read_model(tmp_path / "m.onnx", output=None, side=None)
    assert facts.no_gradient == ""
    network = OnnxNetwork(facts, content)
    with torch.no_grad():
        theirs = home(pictures)
    scale = float(theirs.abs().mean())
    for ours in (network.converted(pictures), network.deployed(pictures)):
        assert float((ours - theirs).abs().max()) < 1e-4 * scale


@pytest.mark.slow
@pytest.mark.parametrize("opset", [11, 17, 20])
def test_efficientnet_gives_its_codes_on_100_pictures(opset: int, tmp_path: Path) -> None:
    """With the weights of ImageNet: codes as of timm's own module, and gradients like its own."""
    from advhash.victims.networks.pretrained import pretrained_network

    torch.manual_seed(0)
    home = pretrained_network("tf_efficientnet_lite0", num_classes=0).eval()
    file = export(home, tmp_path / "lite0.onnx", opset=opset, side=224)
    given = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "quantise": "sign"}
    victim = victim_of(file, **given)
    assert victim.differentiable
    pictures = images(100, 96)
    prepared = victim._preprocessing
    assert prepared is not None
    with torch.no_grad():
        ours = victim.relax(pictures, "image")
        theirs = torch.cat([home(prepared(part)) for part in pictures.split(20)])
    centred = [values - theirs.mean(dim=0) for values in (ours, theirs)]  # as `mean` cuts them
    clear = centred[1].abs() > 1e-5 * theirs.abs().max()
    assert float(clear.float().mean()) > 0.3  # of noise, most features are always 0
    assert torch.equal((centred[0] > 0)[clear], (centred[1] > 0)[clear])
    inputs, again = (pictures[:4].clone().requires_grad_() for _ in range(2))
    victim.relax(inputs, "image").sum().backward()
    home(prepared(again)).sum().backward()
    assert inputs.grad is not None
    assert again.grad is not None
    difference = (inputs.grad - again.grad).norm() / again.grad.norm()
    assert float(difference) < 1e-2  # where a ReLU6 bends, rounding decides


FLAT = [node("Flatten", "m", axis=1)]
OPERATORS: dict[str, tuple[list[Any], dict[str, Any], int]] = {
    **{
        f"{kind} {opset}": (
            [node("Abs", "x", "a"), node(kind, "a axes", "m", keepdims=keep), *FLAT],
            {"axes": [-1, 2]},
            opset,
        )
        for kind in ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax")
        for opset, keep in ((18, 0), (20, 1))
    },
    **{
        f"{kind} 18": ([node(kind, "x axes", "m"), *FLAT], {"axes": [2, 3]}, 18)
        for kind in ("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare", "ReduceSum")
    },
    "ReduceMean of nothing": (
        [node("ReduceMean", "x", "m", noop_with_empty_axes=1), *FLAT],
        {},
        18,
    ),
    "Split 18": ([node("Split", "x", "m n", axis=2, num_outputs=2), *FLAT], {}, 18),
    "Split of sizes": ([node("Split", "x s", "m n", axis=3), *FLAT], {"s": [5, 3]}, 18),
    "Reshape with allowzero": (
        [node("Reshape", "x s", allowzero=1)],
        {"s": np.array([-1, 192])},
        19,
    ),
    "AveragePool 19": (
        [
            node("AveragePool", "x", "m", kernel_shape=[2, 2], strides=[2, 2], dilations=[1, 1]),
            *FLAT,
        ],
        {},
        19,
    ),
    "Pad 18": (
        [node("Pad", "x p", "m", mode="reflect"), *FLAT],
        {"p": [0, 0, 1, 1, 0, 0, 1, 1]},
        18,
    ),
    "Resize 19": (
        [node("Resize", "x · s", "m", mode="linear"), *FLAT],
        {"s": np.float32([1, 1, 2, 2])},
        19,
    ),
    "Gelu 20": ([node("Gelu", "x", "m", approximate="tanh"), *FLAT], {}, 20),
    "Mish 22": ([node("Mish", "x", "m"), *FLAT], {}, 22),
    "GlobalMaxPool 22": ([node("GlobalMaxPool", "x", "m"), *FLAT], {}, 22),
    "GroupNormalization 21": (
        [node("GroupNormalization", "x a b", "m", num_groups=3), *FLAT],
        {"a": np.float32([1, 2, 3]), "b": np.float32([0, 1, 2])},
        21,
    ),
    "LpNormalization 22": ([node("Flatten", "x", "m"), node("LpNormalization", "m")], {}, 22),
    "Cast and Identity 21": (
        [node("Cast", "x", "a", to=TensorProto.FLOAT), node("Identity", "a", "m"), *FLAT],
        {},
        21,
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_of_a_new_opset_is_what_it_says(name: str, tmp_path: Path) -> None:
    """Equal to onnxruntime, which follows the specification, with a gradient that is not 0."""
    nodes, constants, opset = OPERATORS[name]
    file = graph(tmp_path / "m.onnx", nodes, opset=opset, constants=constants)
    content, facts = read_model(file, output=None, side=None)
    assert facts.no_gradient == ""
    network, pictures = OnnxNetwork(facts, content), torch.rand(3, 3, 8, 8)
    assert torch.allclose(network.converted(pictures), network.deployed(pictures), atol=1e-5)


def test_what_a_new_attribute_changes_is_not_ignored(tmp_path: Path) -> None:
    pool = node("AveragePool", "x", "m", kernel_shape=[2, 2], dilations=[2, 2])
    facts = read_model(graph(tmp_path / "m.onnx", [pool, *FLAT], opset=19), output=None, side=None)[
        1
    ]
    assert "AveragePool of opset 19 with its attribute 'dilations'" in facts.no_gradient


def test_one_that_takes_one_picture_is_given_one_after_the_other(tmp_path: Path) -> None:
    """As NeuralHash's, whose batch is 1."""
    home = small()
    for batch in (1, 4):
        file = export(home, tmp_path / f"{batch}.onnx", batch=batch)
        victim = victim_of(file, quantise="sign", mean=(0, 0, 0), std=(1, 1, 1))
        pictures = images(6, 32).requires_grad_()
        value = victim.relax(pictures, "image")
        assert torch.allclose(value, home(images(6, 32)), atol=1e-4)
        value.sum().backward()
        assert pictures.grad is not None
        assert bool((pictures.grad.flatten(1).abs().amax(dim=1) > 0).all())


def test_channels_may_come_last(tmp_path: Path) -> None:
    """As in exports of TensorFlow; white is 255 there."""
    nodes = [
        node("Transpose", "x", "m", perm=[0, 3, 1, 2]),
        node("ReduceMean", "m axes", keepdims=0),
    ]
    file = graph(tmp_path / "m.onnx", nodes, constants={"axes": [2, 3]}, shape=("b", 8, 8, 3))
    victim = victim_of(file, quantise="sign", pixel_range=255.0, mean=(0, 1, 2), std=(1, 1, 1))
    with torch.no_grad():
        value = victim.relax(images(4, 8), "image")
    means = (images(4, 8) * 255).mean(dim=(2, 3)) - torch.tensor([0.0, 1, 2])
    assert torch.allclose(value, means, atol=1e-3)


def test_a_tensor_inside_may_be_the_features(tmp_path: Path) -> None:
    """The file of a classifier, whose outputs are classes."""
    file = export(small(), tmp_path / "m.onnx")
    pooled = next(n.output[0] for n in onnx.load(file).graph.node if n.op_type == "Gemm")
    assert pooled == "codes"
    before = onnx.load(file).graph.node[-1].input[0]
    victim = victim_of(file, output=before)
    assert victim.bits == 8
    with pytest.raises(UsageError, match=r"expected victim\.output to name one of its tensors"):
        victim_of(file, output="nothing")


# The victim


def test_a_checkpoint_needs_no_file(exported: Path, digits: Dataset, tmp_path: Path) -> None:
    source = tmp_path / "moved.onnx"
    source.write_bytes(exported.read_bytes())
    settings = settings_of(source, quantise="lsh", bits=24)
    victim: Encoded = VICTIMS.create("encoder", settings).fit(digits, seed=0)
    kept = tmp_path / "kept"
    kept.mkdir()
    save_victim(kept, victim, name="encoder", settings=settings)
    source.unlink()
    again, _ = load_victim(kept)
    pictures = images().requires_grad_()
    value = again.relax(pictures, "image")
    with torch.no_grad():
        assert torch.equal(value, victim.relax(images(), "image"))
    (gradient,) = torch.autograd.grad(value.tanh().sum(), pictures)
    assert bool((gradient != 0).any())


def test_what_a_run_says_of_it(exported: Path, digits: Dataset) -> None:
    """What was taken for granted, and how far gradients are of the same model."""
    victim = victim_of(exported).fit(digits, seed=0)
    flags = {flag.name: flag for flag in victim_flags(victim, digits)}
    assert "squashed to 32×32 pixels" in flags["onnx_pictures"].message
    assert "0.485, 0.456, 0.406" in flags["onnx_pictures"].message
    assert flags["onnx_gradients"].level == "info"
    assert "0.00 % of the bits of 100" in flags["onnx_gradients"].message
    assert victim.learns  # the cut, by a seed


def test_gradients_of_another_model_are_flagged(
    exported: Path, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = victim_of(exported)
    network = victim.network
    assert isinstance(network, OnnxNetwork)
    other = graph_in_torch(
        read_model(export(small(1), tmp_path / "o.onnx"), output=None, side=None)[0]
    )
    monkeypatch.setattr(network, "_module", lambda device: other)
    victim.fit(digits, seed=0)
    (flag,) = [flag for flag in victim.flags() if flag.name == "onnx_gradients"]
    assert flag.level == "warning"


def test_another_file_of_the_name_is_another_victim(exported: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"

    def key() -> str:
        given = {"victim": {"name": f"onnx:{file}"}, "dataset": {"name": "digits"}}
        planned = plan_victim(TrainConfig.build(given))
        assert planned is not None
        return planned[2]

    file.write_bytes(exported.read_bytes())
    first = key()
    assert key() == first
    export(small(1), file)
    assert key() != first


def test_the_version_of_onnxruntime_is_in_the_key(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from advhash.experiments.prepare import trained

    def key(**settings: Any) -> str:
        given = {"victim": {"name": f"onnx:{exported}", **settings}, "dataset": {"name": "digits"}}
        planned = plan_victim(TrainConfig.build(given))
        assert planned is not None
        return planned[2]

    first = key()
    assert key(online=True) == first  # where it comes from determines nothing
    monkeypatch.setattr(trained, "version", lambda name: "0")
    assert key() != first


def test_no_name_of_a_file_becomes_code(exported: Path, tmp_path: Path) -> None:
    """onnx2torch hands the names of nodes to torch.fx, which writes them into a function."""
    model, ran = onnx.load(exported), tmp_path / "ran"
    evil = f'training"), open({str(ran)!r}, "w"), getattr(self, "x'
    for place, each in enumerate(model.graph.node):
        each.name = f"{evil}{place}"
    onnx.save(model, tmp_path / "evil.onnx")
    victim = victim_of(tmp_path / "evil.onnx", quantise="sign")
    assert victim.differentiable
    victim.relax(images().requires_grad_(), "image").sum().backward()
    assert not ran.exists()


def test_a_foreign_checkpoint_reads_no_other_file(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    facts = read_model(exported, output=None, side=None)[1]
    external_data_helper.convert_model_to_external_data(model, location="x", size_threshold=0)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
    named = model.SerializeToString()
    with pytest.raises(CheckpointError, match="one that names other files"):
        OnnxNetwork(dataclasses.replace(facts, size=len(named)), named).deployed(images(2, 32))
    with pytest.raises(CheckpointError, match="expected 12 features"):
        OnnxNetwork(facts, export(small(features=9), tmp_path / "m.onnx").read_bytes()).deployed(
            images(2, 32)
        )


def test_facts_of_somebody_else_are_refused(exported: Path) -> None:
    facts = read_model(exported, output=None, side=None)[1]
    assert OnnxFacts.of_text(facts.text()) == facts
    for body in ("{}", "[]", json.dumps({**json.loads(facts.text()), "size": -1})):
        with pytest.raises(UsageError, match="expected a description that advhash wrote"):
            OnnxFacts.of_text(body)


def test_its_name_is_that_of_an_encoder() -> None:
    assert not is_external("onnx:model.onnx")


# Without a gradient


def quantised(file: Path) -> Path:
    """Weights and values rounded to 8 bits, as static quantisation leaves them."""
    constants = {"s": np.float32(0.1), "z": np.uint8(3), "axes": [2, 3]}
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        node("ReduceMean", "d axes", keepdims=0),
    ]
    return graph(file, nodes, constants=constants)


def test_black_box_attacks_take_what_has_no_gradient(digits: Dataset, tmp_path: Path) -> None:
    victim = victim_of(quantised(tmp_path / "q.onnx"), quantise="sign")
    assert not victim.differentiable
    assert "no_gradient" in {flag.name for flag in victim_flags(victim, digits)}
    inputs = images(3, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(victim.relax(inputs, "image").sum(), inputs)
    assert not bool(gradient.any())

    def planned(method: str) -> Any:
        given = {"name": f"onnx:{tmp_path / 'q.onnx'}", "quantise": "sign"}
        table = {"victim": given, "attack": {"name": method}, "dataset": {"name": "digits"}}
        budget = {"norm": "linf", "eps": "8/255"}
        return AttackExperiment().plan(AttackConfig.build({**table, "budget": budget}))

    planned("nes")
    with pytest.raises(UsageError, match="its weights are quantised") as refused:
        planned("dhta")
    assert "\n" not in str(refused.value)


# Bad input


def bad(kind: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A file that cannot be served, and settings."""
    file = folder / "bad.onnx"
    mean = [node("ReduceMean", "x axes", keepdims=0)]
    axes = {"axes": [2, 3]}
    if kind == "two inputs":
        add = [node("Add", "x z", "s"), node("ReduceMean", "s axes", keepdims=0)]
        return graph(file, add, constants=axes, inputs=("x", "z")), {}
    if kind == "two outputs":
        return graph(file, [*mean, node("Neg", "y", "v")], constants=axes, outputs=("y", "v")), {}
    if kind == "float16":
        return export(small(), file, dtype=torch.float16), {}
    if kind == "int8":
        cast = [node("Cast", "x", "c", to=1), node("ReduceMean", "c axes", keepdims=0)]
        return graph(file, cast, constants=axes, kind=TensorProto.INT8), {}
    if kind == "free size":
        return export(small(), file, side=None), {}
    if kind == "another size":
        return export(small(), file), {"image_size": 64}
    if kind == "not square":
        return graph(file, mean, constants=axes, shape=("b", 3, 8, 16)), {}
    if kind == "grey":
        return export(small(channels=1), file, channels=1), {}
    if kind == "no rank":
        return graph(file, mean, constants=axes, shape=("b", 3, 8)), {}
    if kind == "tokens":
        return graph(file, [node("Reshape", "x s")], constants={"s": [0, 3, 64]}), {}
    if kind == "classes":
        arg = [*mean[:0], node("ReduceMean", "x axes", "m", keepdims=0), node("ArgMax", "m")]
        return graph(file, arg, constants=axes, made=TensorProto.INT64), {}
    if kind == "not finite":
        over = [node("ReduceMean", "x axes", "m", keepdims=0), node("Div", "m zero")]
        return graph(file, over, constants={**axes, "zero": np.float32(0)}), {}
    if kind == "weights elsewhere":
        model = onnx.load(export(small(), file))
        onnx.save(model, file, save_as_external_data=True, location="w", size_threshold=0)
        (folder / "w").unlink()
        return file, {}
    if kind == "weights outside":
        model = onnx.load(export(small(), file))
        external_data_helper.convert_model_to_external_data(model, location="w", size_threshold=0)
        for tensor in model.graph.initializer:
            tensor.ClearField("raw_data")
            tensor.external_data[0].value = "../../etc/passwd"
        file.write_bytes(model.SerializeToString())
        return file, {}
    if kind == "unknown operator":
        return graph(file, [node("Nonsense", "x")]), {}
    file.write_bytes({"text": b"not a model", "nothing": b""}.get(kind, b""))
    return (
        folder / "absent.onnx" if kind == "no file" else folder if kind == "folder" else file
    ), {}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("two inputs", "expected one input, of pictures, got 2 ('x', 'z')"),
        ("two outputs", "has 2 outputs ('y', 'v'): choose the features by victim.output=NAME"),
        ("float16", "expected an input of float32, got float16"),
        ("int8", "expected an input of float32, got int8"),
        ("free size", "leaves the size of its pictures free (?×3×?×?)"),
        ("another size", "takes ?×3×32×32: expected no victim.image_size, got 64"),
        ("not square", "expected square pictures, got ?×3×8×16"),
        ("grey", "expected pictures of 3 channels"),
        ("no rank", "expected pictures of 3 channels"),
        ("tokens", "expected B×D features, got 2×3×64"),
        ("classes", "expected features of float32 in 'y', got int64"),
        ("not finite", "expected finite features, got NaN or infinity in 'y'"),
        ("weights elsewhere", "the file of its weights cannot be read"),
        ("weights outside", "the file of its weights cannot be read"),
        ("unknown operator", "onnxruntime does not run it"),
        ("text", "expected a model of ONNX"),
        ("nothing", "expected a model of ONNX, got a file without a graph"),
        ("no file", "expected a file of ONNX, got no such file"),
        ("folder", "expected a file of ONNX"),
    ],
)
def test_what_cannot_be_served_is_refused(kind: str, message: str, tmp_path: Path) -> None:
    file, settings = bad(kind, tmp_path)
    with pytest.raises(UsageError) as refused:
        settings_of(file, **settings)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"std": (1, 0, 1)}, "expected victim.std above 0, got 0"),
        ({"mean": (1, 0)}, "expected 3 numbers in victim.mean, got 2"),
        ({"pixel_range": 0.0}, "expected victim.pixel_range above 0, got 0"),
        ({"image_size": 0}, "expected victim.image_size from 1 to 4096, got 0"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    settings: dict[str, Any], message: str, exported: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        settings_of(exported, **settings)


def test_what_other_encoders_say_themselves_is_not_taken() -> None:
    given = {"encoder": "timm:test_resnet", "pretrained": False, "mean": (0, 0, 0)}
    with pytest.raises(UsageError, match=r"victim\.mean says what a file of ONNX does not"):
        VICTIMS.create("encoder", given)


def test_missing_packages_are_named(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        onnx_file.importlib.util,
        "find_spec",
        lambda name: None if name == "onnx2torch" else found(name),
    )
    with pytest.raises(
        UsageError, match="needs onnx2torch: `pip install onnx onnxruntime onnxslim"
    ):
        settings_of(exported)
