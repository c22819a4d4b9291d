"""Operators of ONNX that onnx2torch does not convert: what opset 18 and later changed or added.

Most versions of an operator only admit more types: such a node is converted as its version before,
unless it uses an input or an attribute that this version did not have. The others are written out
here, from the formulas of the ONNX specification.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Convert = Callable[[Any, Any], Any]  # of onnx2torch: node, graph → module and its inputs


@functools.cache
def register_converters() -> None:
    """Teach onnx2torch all versions of the operators that it knows, and some that it does not."""
    from onnx import defs
    from onnx2torch.node_converters.registry import add_converter, get_converter

    versions: dict[str, list[Any]] = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == defs.ONNX_DOMAIN and not schema.deprecated:
            versions.setdefault(schema.name, []).append(schema)
    for name, schemas in versions.items():
        before: tuple[Convert, Any] | None = None
        for schema in sorted(schemas, key=lambda schema: int(schema.since_version)):
            try:
                converter: Convert = get_converter(name, schema.since_version)
            except NotImplementedError:
                own = OWN.get((name, schema.since_version))
                if own is not None:
                    converter = own
                elif before is not None:
                    converter = _as_before(*before, schema)
                else:
                    continue
                add_converter(name, schema.since_version)(converter)
            before = converter, schema


def _as_before(converter: Convert, known: Any, schema: Any) -> Convert:
    """A node of a schema through the converter of the one before it, where it uses nothing new."""

    def convert(node: Any, graph: Any) -> Any:
        new = [
            name
            for name, value in node.attributes.items()
            if name not in known.attributes and not _is_default(schema.attributes.get(name), value)
        ]
        if new or any(node.input_values[known.max_input :]):
            used = f"attribute {new[0]!r}" if new else f"input {known.max_input + 1}"
            raise NotImplementedError(
                f"{node.operation_type} of opset {schema.since_version} with its {used}"
            )
        return converter(node, graph)

    return convert


def _is_default(attribute: Any, value: Any) -> bool:
    """Whether a new attribute says what was so before it."""
    from onnx import helper

    if attribute is None:
        return False
    if attribute.name == "dilations":
        return all(step == 1 for step in value)
    if not attribute.default_value.type:
        return False
    default = helper.get_attribute_value(attribute.default_value)
    return bool((default.decode() if isinstance(default, bytes) else default) == value)


class Reduction(nn.Module):
    """A reduction over axes that are known, all for none."""

    def __init__(
        self, reduce: Callable[..., Tensor], axes: tuple[int, ...] | None, keep: bool
    ) -> None:
        super().__init__()
        self.reduce, self.axes, self.keep = reduce, axes, keep

    def forward(self, values: Tensor) -> Tensor:
        axes = tuple(range(values.dim())) if self.axes is None else self.axes
        return self.reduce(values, axes, self.keep) if axes else values


def _product(values: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((axis % values.dim() for axis in axes), reverse=True):
        values = values.prod(dim=axis, keepdim=keep)
    return values


REDUCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "ReduceL1": lambda values, axes, keep: values.abs().sum(axes, keep),
    "ReduceL2": lambda values, axes, keep: torch.linalg.vector_norm(values, dim=axes, keepdim=keep),
    "ReduceLogSum": lambda values, axes, keep: values.sum(axes, keep).log(),
    "ReduceLogSumExp": lambda values, axes, keep: values.logsumexp(axes, keep),
    "ReduceMax": lambda values, axes, keep: values.amax(axes, keep),
    "ReduceMean": lambda values, axes, keep: values.mean(axes, keep),
    "ReduceMin": lambda values, axes, keep: values.amin(axes, keep),
    "ReduceProd": _product,
    "ReduceSumSquare": lambda values, axes, keep: values.square().sum(axes, keep),
}


class Parts(nn.Module):
    """Equal parts along an axis, the last one smaller where they do not divide it."""

    def __init__(self, count: int, axis: int) -> None:
        super().__init__()
        self.count, self.axis = count, axis

    def forward(self, values: Tensor) -> tuple[Tensor, ...]:
        size = -(-values.shape[self.axis] // self.count)
        return torch.split(values, size, dim=self.axis)


class Normalised(nn.Module):
    """Values over their norm along an axis (LpNormalization)."""

    def __init__(self, power: int, axis: int) -> None:
        super().__init__()
        self.power, self.axis = power, axis

    def forward(self, values: Tensor) -> Tensor:
        return nn.functional.normalize(values, self.power, self.axis)


class GroupNormalised(nn.Module):
    """GroupNormalization of opset 21: scale and bias are one a channel."""

    def __init__(self, groups: int, epsilon: float) -> None:
        super().__init__()
        self.groups, self.epsilon = groups, epsilon

    def forward(self, values: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return nn.functional.group_norm(values, self.groups, scale, bias, self.epsilon)


def _plain(make: Callable[[Mapping[str, Any]], nn.Module]) -> Convert:
    """An operator whose inputs its module takes as they are."""

    def convert(node: Any, graph: Any) -> Any:
        from onnx2torch.utils.common import OperationConverterResult, onnx_mapping_from_node

        return OperationConverterResult(make(node.attributes), onnx_mapping_from_node(node))

    return convert


def _reduction(node: Any, graph: Any) -> Any:
    """The axes are an input since opset 18: a constant, else there is no gradient."""
    from onnx2torch.utils.common import OnnxMapping, OperationConverterResult, get_const_value

    axes: tuple[int, ...] | None = None
    if len(node.input_values) > 1 and node.input_values[1]:
        try:
            axes = tuple(int(axis) for axis in get_const_value(node.input_values[1], graph))
        except KeyError:
            raise NotImplementedError(f"{node.operation_type} over axes that vary") from None
    if not axes:  # none: all of them, or as the attribute says, nothing
        axes = () if node.attributes.get("noop_with_empty_axes", 0) else None
    module = Reduction(
        REDUCTIONS[node.operation_type], axes, bool(node.attributes.get("keepdims", 1))
    )
    return OperationConverterResult(module, OnnxMapping(node.input_values[:1], node.output_values))


def _split(node: Any, graph: Any) -> Any:
    """Sizes are an input, as since opset 13, or `num_outputs` says how many parts there are."""
    from onnx2torch.node_converters.registry import get_converter
    from onnx2torch.utils.common import OperationConverterResult, onnx_mapping_from_node

    if len(node.input_values) > 1 and node.input_values[1]:
        return get_converter("Split", 13)(node, graph)
    module = Parts(len(node.output_values), node.attributes.get("axis", 0))
    return OperationConverterResult(module, onnx_mapping_from_node(node))


OWN: Mapping[tuple[str, int], Convert] = {
    **{(name, 18): _reduction for name in REDUCTIONS},
    **{(name, 20): _reduction for name in ("ReduceMax", "ReduceMin")},
    ("Split", 18): _split,
    ("Gelu", 20): _plain(lambda given: nn.GELU(approximate=given.get("approximate", "none"))),
    ("GlobalMaxPool", 1): _plain(lambda given: nn.AdaptiveMaxPool2d(1)),
    ("GroupNormalization", 21): _plain(
        lambda given: GroupNormalised(given["num_groups"], given.get("epsilon", 1e-5))
    ),
    ("LpNormalization", 1): _plain(
        lambda given: Normalised(given.get("p", 2), given.get("axis", -1))
    ),
    ("Mish", 18): _plain(lambda given: nn.Mish()),
}
