"""ONNX files that tests make, and artefacts as workers have them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

Value = tuple[str, int, Sequence[int | str]]  # name, element type, sizes
FLOAT, DOUBLE, HALF, INT8, UINT8, INT32, INT64, UINT64, BOOL = (
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64,
    TensorProto.UINT64, TensorProto.BOOL,
)  # fmt: skip


@dataclass(frozen=True)
class Held:
    """A broadcast that is there."""

    value: Mapping[str, bytes]


def graph(
    folder: Path, nodes: Sequence[tuple[Any, ...]], inputs: Sequence[Value], outputs: Sequence[Value], **tensors: np.ndarray[Any, Any]
) -> Path:
    """An ONNX file; a node is its operator, its inputs, its outputs and its attributes."""
    made = helper.make_graph(
        [helper.make_node(kind, taken, given, **(dict(*more))) for kind, taken, given, *more in nodes],
        "g",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    file = folder / "model.onnx"
    file.write_bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString())
    return file
