"""A file of ONNX: whether it hashes pictures, and how, tried before anything is made of it.

One input of float32 pictures and one output of float32 features are served. What lies beside the
file as its weights is read with it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from advhash.errors import UsageError, nearest
from advhash.storage.documents import expect_file, reason
from advhash.victims.encoders.onnx_network import (
    OnnxFacts,
    OnnxNetwork,
    graphs_of,
    open_session,
)

PACKAGES = ("onnx", "onnxruntime", "onnxslim", "onnx2torch")
MOST_BYTES = 2**31 - 1  # of a message of protobuf
QUANTISED = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulNBits")
FLOATS = "export it in float32"
LISTED = 6  # names in a message


@dataclass(frozen=True)
class _Shape:
    """What the input of a model says of its pictures."""

    side: int
    channels_last: bool
    batch: int | None


def check_packages(name: str) -> None:
    """Raise UsageError where one that ONNX needs is missing."""
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise UsageError(
            f"{name} needs {', '.join(missing)}: `pip install {' '.join(PACKAGES)}` (the extra "
            "[onnx])"
        )


def read_model(path: Path, *, output: str | None, side: int | None) -> tuple[bytes, OnnxFacts]:
    """The model in a file, one message with all its weights, and what is known of it.

    output: the name of the tensor that is to be the features; None: the only output
    side:   of the pictures, where the file leaves it free

    Raises UsageError: no model of ONNX, or none that can be served; one line each.
    """
    name = f"encoder 'onnx:{path}'"
    check_packages(name)
    model = _loaded(path, name)
    shape = _shape(model, name, side)
    chosen = _output(model, name, output)
    if model.ByteSize() > MOST_BYTES:
        raise UsageError(f"{name}: expected at most {MOST_BYTES:,} bytes, got {model.ByteSize():,}")
    content = model.SerializeToString(deterministic=True)
    return content, _facts(content, chosen, shape, name)


def _loaded(path: Path, name: str) -> Any:
    import onnx

    try:
        expect_file(path)
    except OSError as error:
        raise UsageError(f"{name}: expected a file of ONNX, got {reason(error)}") from None
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # of protobuf, whose errors have no base of their own
        raise UsageError(f"{name}: expected a model of ONNX ({reason(error)})") from None
    if not model.graph.node or not model.opset_import:
        raise UsageError(f"{name}: expected a model of ONNX, got a file without a graph")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # a path outside of the folder, a file that is short or missing
        raise UsageError(
            f"{name}: the file of its weights cannot be read ({reason(error)}); keep it beside "
            "the model, as it was exported"
        ) from None
    return model


def _shape(model: Any, name: str, side: int | None) -> _Shape:
    """What the input says, and the side that the user says where it is free. Raises UsageError."""
    kept = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in kept]
    if len(inputs) != 1:
        raise UsageError(
            f"{name}: expected one input, of pictures, got {len(inputs)} "
            f"({_listed([value.name for value in inputs])}); export the part that sees pictures"
        )
    given = inputs[0].type.tensor_type
    _expect_float32(given.elem_type, f"{name}: expected an input of float32", FLOATS)
    sizes = [_fixed(size) for size in given.shape.dim]
    shown = "×".join("?" if size is None else str(size) for size in sizes) or "no shape"
    channels = (sizes[1], sizes[3]) if len(sizes) == 4 else (0, 0)
    if 3 not in channels and None not in channels:
        raise UsageError(
            f"{name}: expected pictures of 3 channels, B×3×H×W or B×H×W×3, got {shown}"
        )
    channels_last = channels[1] == 3 and channels[0] != 3
    height, width = sizes[1:3] if channels_last else sizes[2:]
    if height and width and height != width:
        raise UsageError(f"{name}: expected square pictures, got {shown}")
    stated = height or width
    if stated and side and stated != side:
        raise UsageError(f"{name} takes {shown}: expected no victim.image_size, got {side}")
    if not stated and not side:
        raise UsageError(
            f"{name} leaves the size of its pictures free ({shown}): say which one it was trained "
            "for, e.g. victim.image_size=224"
        )
    return _Shape(int(stated or side or 0), channels_last, sizes[0])


def _fixed(size: Any) -> int | None:
    return int(size.dim_value) if size.HasField("dim_value") and size.dim_value > 0 else None


def _expect_float32(kind: int, expected: str, advice: str) -> None:
    import onnx

    if kind != onnx.TensorProto.FLOAT:
        got = onnx.TensorProto.DataType.Name(kind).lower()
        raise UsageError(f"{expected}, got {got}; {advice}")


def _output(model: Any, name: str, output: str | None) -> str:
    """Make the features the only output, and leave out what only others need.

    Raises UsageError: several outputs and none chosen, no such tensor, no float32.
    """
    import onnx

    graph = model.graph
    names = [value.name for value in graph.output]
    if output is None and len(names) != 1:
        raise UsageError(
            f"{name} has {len(names)} outputs ({_listed(names)}): choose the features by "
            "victim.output=NAME"
        )
    chosen = output or names[0]
    inner = [made for node in graph.node for made in node.output if made]
    if chosen not in (*names, *inner):
        raise UsageError(
            f"{name}: expected victim.output to name one of its tensors, got {chosen!r}: "
            f"{nearest(chosen, [*names, *inner])}its outputs are {_listed(names)}"
        )
    known = [value for value in graph.output if value.name == chosen]
    if known:
        expected = f"{name}: expected features of float32 in {chosen!r}"
        _expect_float32(known[0].type.tensor_type.elem_type, expected, "choose victim.output=NAME")
    kept = known[0] if known else onnx.helper.make_empty_tensor_value_info(chosen)
    kept = onnx.ValueInfoProto.FromString(kept.SerializeToString())
    del graph.output[:]
    graph.output.append(kept)
    needed = _needed(graph, chosen)
    for place in reversed(range(len(graph.node))):
        if place not in needed:
            del graph.node[place]
    return chosen


def _needed(graph: Any, output: str) -> set[int]:
    """The places of the nodes that a tensor is made by."""
    makers = {made: place for place, node in enumerate(graph.node) for made in node.output}
    needed: set[int] = set()
    waiting = [output]
    while waiting:
        place = makers.get(waiting.pop())
        if place is None or place in needed:
            continue
        needed.add(place)
        waiting += graph.node[place].input
        for inner in graphs_of(graph.node[place]):
            waiting += [given for node in inner.node for given in node.input]
            waiting += [value.name for value in inner.output]
    return needed


@functools.lru_cache(maxsize=2)
def _facts(content: bytes, output: str, shape: _Shape, name: str) -> OnnxFacts:
    """What comes of trying a model. Raises UsageError: nothing that is a feature."""
    facts = OnnxFacts(
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        output=output,
        dimensions=1,
        side=shape.side,
        channels_last=shape.channels_last,
        batch=shape.batch,
    )
    pictures = _trial(facts)
    try:
        session = open_session(content)
        given = {session.get_inputs()[0].name: facts.pictures(pictures).contiguous().numpy()}
        values = torch.from_numpy(session.run(None, given)[0])
    except Exception as error:  # onnxruntime has a class of its own for everything
        raise UsageError(
            f"{name}: onnxruntime does not run it on pictures of {shape.side} pixels "
            f"({reason(error)})"
        ) from None
    _expect_float32(_kind(values), f"{name}: expected features of float32", FLOATS)
    sizes = tuple(values.shape)
    dimensions = max(sizes[1:], default=0)
    if len(sizes) < 2 or values.numel() != len(pictures) * dimensions or not dimensions:
        raise UsageError(
            f"{name}: expected B×D features, got {'×'.join(map(str, sizes))} of {len(pictures)} "
            f"pictures in {output!r}; choose a pooled tensor by victim.output=NAME"
        )
    if not bool(values.isfinite().all()):
        raise UsageError(
            f"{name}: expected finite features, got NaN or infinity in {output!r}; check its "
            "weights"
        )
    facts = replace(facts, dimensions=dimensions)
    return replace(facts, no_gradient=_without_gradient(content, facts))


def _kind(values: torch.Tensor) -> int:
    import onnx

    return int(onnx.helper.np_dtype_to_tensor_dtype(values.numpy().dtype))


def _trial(facts: OnnxFacts) -> torch.Tensor:
    """(B,3,side,side) random pictures."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(facts.batch or 2, 3, facts.side, facts.side, generator=generator)


def _without_gradient(content: bytes, facts: OnnxFacts) -> str:
    """Why the graph gives none in torch; empty where it does."""
    import onnx

    model = onnx.load_from_string(content)
    kinds = [node.op_type for node in model.graph.node]
    rounding = [kind for kind in kinds if kind in QUANTISED or kind.endswith("uantizeLinear")]
    if rounding:
        return f"its weights are quantised ({rounding[0]}): export it in float32"
    pictures = _trial(facts).requires_grad_()
    try:
        values = OnnxNetwork(facts, content).converted(pictures)
        weights = torch.linspace(1, 2, values.numel()).view_as(values)
        (gradient,) = torch.autograd.grad((values * weights).sum(), pictures)
    except Exception as error:  # a converter can raise anything
        return f"its graph cannot be converted to torch: {reason(error)}"
    if not bool(gradient.isfinite().all()) or not bool((gradient != 0).any()):
        return "the gradient of its graph is 0 everywhere, or not finite"
    return ""


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(repr(name[:60]) for name in names[:LISTED]) or "none") + more
