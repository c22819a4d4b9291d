"""Small models of ONNX: exported networks, and graphs of a few operators."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn


class Small(nn.Module):
    """Convolutions, squeeze and excitation, means over places, as mobile networks have them."""

    def __init__(self, channels: int = 3, features: int = 12) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Hardswish()
        )
        self.squeeze = nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1))
        self.head = nn.Linear(8, features)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        maps = maps * self.squeeze(maps.mean((2, 3), keepdim=True)).sigmoid()
        codes: Tensor = self.head(maps.mean((2, 3)))
        return codes


def small(seed: int = 0, **settings: Any) -> Small:
    torch.manual_seed(seed)
    network = Small(**settings).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=0.5)
    return network


def export(
    network: nn.Module,
    file: Path,
    *,
    opset: int = 17,
    side: int | None = 32,
    batch: int | None = None,
    channels: int = 3,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """A file of ONNX as the exporter by traces writes it. batch, side: None: free."""
    free = {0: "batch"} if batch is None else {}
    free |= {2: "height", 3: "width"} if side is None else {}
    pictures = torch.rand(batch or 2, channels, side or 32, side or 32).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and most files come from it
        torch.onnx.export(
            network.to(dtype),
            (pictures,),
            file,
            dynamo=False,
            opset_version=opset,
            input_names=["pictures"],
            output_names=["codes"],
            dynamic_axes={"pictures": free, **({"codes": {0: "batch"}} if batch is None else {})},
        )
    return file


def graph(
    file: Path,
    nodes: list[Any],
    *,
    opset: int = 18,
    shape: tuple[Any, ...] = ("b", 3, 8, 8),
    constants: dict[str, Any] | None = None,
    kind: int = TensorProto.FLOAT,
    made: int = TensorProto.FLOAT,
    inputs: tuple[str, ...] = ("x",),
    outputs: tuple[str, ...] = ("y",),
) -> Path:
    """A file of these nodes, from the inputs x, … to y, …"""
    constants = constants or {}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info(name, kind, shape) for name in inputs],
            [helper.make_tensor_value_info(name, made, None) for name in outputs],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )
    onnx.save(model, file)
    return file


def node(kind: str, inputs: str, output: str = "y", **attributes: Any) -> Any:
    """A node; inputs and outputs are words, · stands for an input that is left out."""
    given = ["" if name == "·" else name for name in inputs.split()]
    return helper.make_node(kind, given, output.split(), **attributes)
