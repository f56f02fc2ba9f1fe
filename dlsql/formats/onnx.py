"""A trained network -> an ONNX graph."""

import io
import warnings
from typing import Any

import torch

from udfs.spec import NetworkSpec
from udfs.state import State
from udfs.train import network


def export(spec: NetworkSpec, state: State) -> bytes:
    """The graph: `dense` float32 [rows, numbers] and `codes` int64 [rows, categories] -> `output` float32 [rows, outputs].

    An input of no columns is left out. A classifier's output is logits.
    """
    module = network(spec, state).eval()
    inputs = (torch.zeros(2, spec.dense), torch.zeros(2, len(spec.codes), dtype=torch.int64))
    names = ["dense", "codes"]
    sink: Any = io.BytesIO()  # torch takes any file, and says that it takes a path
    with warnings.catch_warnings():
        # torch's newer exporter takes 6 s for a graph that this one writes in 0.3 s, and it needs onnxscript.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, inputs, sink, dynamo=False, opset_version=17, input_names=names, output_names=["output"],
            dynamic_axes={name: {0: "rows"} for name in (*names, "output")},
        )  # fmt: skip
    return bytes(sink.getvalue())
