"""A model of ONNX as a network: its codes by onnxruntime, its gradients by a conversion to torch.

The model itself, one message with all its weights, is a buffer of bytes, so that a checkpoint holds
it like any other weights. Both ways of running it are made of these bytes when they are first used.
"""

from __future__ import annotations

import copy
import functools
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advhash.errors import CheckpointError, UsageError
from advhash.storage.documents import reason
from advhash.victims.perceptual.resampling import straight_through


@dataclass(frozen=True, kw_only=True)
class OnnxFacts:
    """What is known of a model.

    size, sha256:  of the model with all its weights; bytes
    output:        the name of its features
    dimensions:    D
    side:          of the pictures, in pixels
    channels_last: whether they are (B,side,side,3)
    batch:         how many it takes at a time; None: any number
    no_gradient:   why none is to be had; empty where one is
    """

    size: int
    sha256: str
    output: str
    dimensions: int
    side: int
    channels_last: bool
    batch: int | None
    no_gradient: str = ""

    def text(self) -> str:
        """As JSON, which `of_text` reads again."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def of_text(cls, text: str) -> OnnxFacts:
        """Raises UsageError: facts of somebody else."""
        try:
            facts = cls(**json.loads(text))
            numbers = (facts.size, facts.dimensions, facts.side, facts.batch or 1)
            if not all(type(number) is int and number > 0 for number in numbers):
                raise ValueError("expected numbers above 0")
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"an encoder of ONNX: expected a description that advhash wrote ({reason(error)})"
            ) from None
        return facts

    def pictures(self, images: Tensor) -> Tensor:
        """(B,3,side,side) as the model takes them."""
        return images.permute(0, 2, 3, 1) if self.channels_last else images


class OnnxNetwork(nn.Module):
    """(B,3,side,side) prepared pictures → (B,D) features.

    content: the model; None: a checkpoint has it

    Without a gradient the values are those of onnxruntime; with one they are the same, and the
    gradient is that of the conversion. Where there is none it is 0.
    """

    model: Tensor

    def __init__(self, facts: OnnxFacts, content: bytes | None) -> None:
        super().__init__()
        self.facts = facts
        octets = torch.empty(facts.size, dtype=torch.uint8)
        if content is not None:
            octets = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        self.register_buffer("model", octets)
        self._made: dict[str, Any] = {}
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": {}}  # a session can be neither copied nor sent

    def forward(self, pictures: Tensor) -> Tensor:
        values = self.deployed(pictures.detach())
        if not (torch.is_grad_enabled() and pictures.requires_grad):
            return values
        if self.facts.no_gradient:
            return values + 0 * pictures.flatten(1).sum(dim=1, keepdim=True)
        return straight_through(values, self.converted(pictures))

    def deployed(self, pictures: Tensor) -> Tensor:
        """(B,D) by onnxruntime, on the CPU."""
        session = self._session()
        name = session.get_inputs()[0].name

        def run(part: Tensor) -> Tensor:
            (values,) = session.run(None, {name: part.cpu().contiguous().numpy()})
            return torch.from_numpy(values)

        return self._in_parts(run, pictures).to(pictures.device)

    def converted(self, pictures: Tensor) -> Tensor:
        """(B,D) by the graph in torch, with a gradient."""
        return self._in_parts(self._module(pictures.device), pictures)

    def _in_parts(self, run: Callable[[Tensor], Tensor], pictures: Tensor) -> Tensor:
        """The features of as many pictures as the model takes at a time, part by part."""
        given, size = self.facts.pictures(pictures), self.facts.batch or max(len(pictures), 1)
        parts = []
        for part in given.split(size):
            short = (size if self.facts.batch else len(part)) - len(part)
            filled = torch.cat([part, part[:1].expand(short, -1, -1, -1)]) if short else part
            parts.append(run(filled).flatten(1)[: len(part)])
        values = torch.cat(parts)
        if values.shape != (len(pictures), self.facts.dimensions):
            raise CheckpointError(
                f"a model of ONNX: expected {self.facts.dimensions} features as its description "
                f"says, got {tuple(values.shape)}"
            )
        return values

    @property
    def _content(self) -> bytes:
        return self.model.cpu().numpy().tobytes()

    def _session(self) -> Any:
        if "session" not in self._made:
            try:
                self._made["session"] = open_session(self._content)
            except Exception as error:  # a checkpoint may come from anybody
                raise CheckpointError(
                    f"a model of ONNX: onnxruntime does not open it ({reason(error)})"
                ) from None
        return self._made["session"]

    def _module(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        if self._made.get("device") != device:
            made = self._made.get("module") or copy.deepcopy(graph_in_torch(self._content))
            self._made |= {"module": made.to(device), "device": device}
        module: nn.Module = self._made["module"]

        def run(part: Tensor) -> Tensor:
            with warnings.catch_warnings():  # onnx2torch slices in a way that torch deprecates
                warnings.simplefilter("ignore")
                values: Tensor = module(part)
            return values

        return run


def _forget(network: nn.Module, _: object) -> None:
    """Other bytes were loaded: what was made of those before is made again."""
    assert isinstance(network, OnnxNetwork)
    network._made.clear()


def open_session(content: bytes) -> Any:
    """A session of onnxruntime on the CPU, with as many threads as torch has.

    Raises UsageError: a model that names other files, which would be read wherever it runs; and
    whatever onnxruntime raises.
    """
    import onnx
    import onnxruntime

    if any(_lies_elsewhere(tensor) for tensor in tensors_of(onnx.load_from_string(content).graph)):
        raise UsageError("expected all weights in the model, got one that names other files")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _lies_elsewhere(tensor: Any) -> bool:
    return bool(tensor.external_data) or tensor.data_location != 0


def graphs_of(node: Any) -> Iterator[Any]:
    """The graphs inside a node, at any depth."""
    for attribute in node.attribute:
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            yield graph
            for inner in graph.node:
                yield from graphs_of(inner)


def tensors_of(graph: Any) -> Iterator[Any]:
    """The constants of a graph and of those inside it."""
    for part in (graph, *(inner for node in graph.node for inner in graphs_of(node))):
        yield from part.initializer
        for sparse in part.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in part.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)


@functools.lru_cache(maxsize=1)  # a run plans a victim, trains it and reads it again
def graph_in_torch(content: bytes) -> nn.Module:
    """The graph as a module without a parameter to train: to be copied, not moved.

    Raises whatever a converter raises.
    """
    import onnx
    import onnx2torch
    import onnxslim

    from advhash.victims.encoders.onnx_converters import register_converters

    register_converters()
    model = onnx.load_from_string(content)
    try:
        model = onnxslim.slim(model)
    except Exception:  # it folds constants: what needs that fails below
        model = onnx.load_from_string(content)
    module: nn.Module = onnx2torch.convert(_with_plain_names(model))
    return module.requires_grad_(False).eval()


def _with_plain_names(model: Any) -> Any:
    """The model with names of ours: onnx2torch puts those of nodes into code that torch.fx runs.

    Raises NotImplementedError: graphs inside nodes.
    """
    graph, names = model.graph, {"": ""}

    def plain(given: str) -> str:
        return names.setdefault(given, f"value_{len(names)}")

    del graph.value_info[:]  # they are inferred again
    for place, node in enumerate(graph.node):
        if any(True for _ in graphs_of(node)):
            raise NotImplementedError(f"{node.op_type} has graphs of its own")
        node.name = f"node_{place}"
        for values in (node.input, node.output):
            values[:] = list(map(plain, values))
        if node.op_type == "Reshape":  # no batch is empty, so that a 0 of a shape never means one
            kept = [given for given in node.attribute if given.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
    for named in (*graph.initializer, *graph.input, *graph.output):
        named.name = plain(named.name)
    return model
