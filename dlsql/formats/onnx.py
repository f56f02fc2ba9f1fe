"""A trained network -> an ONNX graph."""

import io
import logging
import math
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto, TensorProto, TypeProto, load_from_string
from onnx.external_data_helper import set_external_data
from onnx.helper import set_model_props, tensor_dtype_to_np_dtype
from onnx.shape_inference import InferenceError, infer_shapes
from torch import nn

from udfs.engines import load
from udfs.spec import LARGE, ROW_BYTES, TENSORS, NetworkSpec
from udfs.state import State
from udfs.train import network

_ALONE = threading.Lock()  # the exporter is for one thread of a process at a time; a driver has one for each client


def export(spec: NetworkSpec, state: State) -> bytes:
    """The graph: `dense` float32 [rows, numbers] and `codes` int64 [rows, categories] -> `output` float32 [rows, outputs].

    An input of no columns is left out. A classifier's output is logits.
    """
    return graph(network(spec, state), spec)


def graph(module: nn.Module, spec: NetworkSpec) -> bytes:
    """As `export`, of a network that is there."""
    module.eval()
    inputs = (torch.zeros(2, spec.dense), torch.zeros(2, len(spec.codes), dtype=torch.int64))
    names = ["dense", "codes"]
    sink: Any = io.BytesIO()  # torch takes any file, and says that it takes a path
    with _ALONE, warnings.catch_warnings(), _plain_attention():
        # torch's newer exporter takes 6 s for a graph that this one writes in 0.3 s, and it needs onnxscript.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, inputs, sink, dynamo=False, opset_version=17, input_names=names, output_names=["output"],
            dynamic_axes={name: {0: "rows"} for name in (*names, "output")},
        )  # fmt: skip
    return bytes(sink.getvalue())


def quantized(graph: bytes, dense: npt.NDArray[np.float32], codes: npt.NDArray[np.int64]) -> bytes:
    """A graph with int8 weights and uint8 activations, in ranges that these rows [rows, ...] span.

    The ranges are fixed: those that ONNX Runtime's dynamic quantisation takes from each batch would make a row's answer depend on its
    neighbours. Weights have 7 bits, for processors whose sums of 8-bit products overflow (Intel before VNNI).
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static  # takes a second, and is seldom wanted

    names = {one.name for one in load_from_string(graph).graph.input}

    class Rows(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter([{name: array for name, array in (("dense", dense), ("codes", codes)) if name in names}])

        def get_next(self) -> Any:
            return next(self._feeds, None)

    with tempfile.TemporaryDirectory() as folder, _quiet():
        before, after = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        before.write_bytes(graph)
        quantize_static(
            before, after, Rows(), per_channel=True, reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm", "Conv"],
        )  # fmt: skip
        return after.read_bytes()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice of ONNX Runtime's quantiser, which goes to the root logger; what other threads say there is heard."""
    thread = threading.get_ident()

    def others(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno > logging.WARNING

    logging.root.addFilter(others)
    try:
        yield
    finally:
        logging.root.removeFilter(others)


_TENSOR = 1 << 10  # bytes of a tensor that goes to the file of a large graph's tensors
_PAGE = 1 << 12  # of memory, on whose bounds the tensors begin


def files(graph: bytes) -> dict[str, bytes]:
    """A graph as an artefact's files: one, or of a large graph its tensors apart, as ONNX's external data: processes can share these.

    It says for the workers how many bytes a row takes on its way.
    """
    model, tensors = load_from_string(graph), bytearray()
    for tensor in model.graph.initializer if len(graph) >= LARGE else ():
        if len(tensor.raw_data) >= _TENSOR:
            tensors += bytes(-len(tensors) % _PAGE)
            set_external_data(tensor, TENSORS, len(tensors), len(tensor.raw_data))
            tensors += tensor.raw_data
            tensor.ClearField("raw_data")
    said = {one.key: one.value for one in model.metadata_props}
    set_model_props(model, {**said, ROW_BYTES: str(_row_bytes(model))})
    return {"model.onnx": model.SerializeToString(), **({TENSORS: bytes(tensors)} if tensors else {})}


def _row_bytes(model: ModelProto) -> int:
    """Bytes of the largest tensor that a run makes of one row: attention makes one of tokens by tokens. Sizes that ONNX cannot infer count
    as 1.
    """
    try:
        made = infer_shapes(model).graph.value_info
    except InferenceError:
        return 0
    return max((_bytes(one.type.tensor_type) for one in made if one.type.HasField("tensor_type")), default=0)


def _bytes(kind: TypeProto.Tensor) -> int:
    size = 1 if kind.elem_type in (TensorProto.UNDEFINED, TensorProto.STRING) else tensor_dtype_to_np_dtype(kind.elem_type).itemsize
    return int(size * math.prod(max(one.dim_value, 1) for one in kind.shape.dim))


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Without torch's fused kernels for attention, which ONNX has no operator for."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


ROWS = 3  # other than the 2 that a graph is made with: a network that built the number of rows in gives itself away
TOLERANCE = 1e-4  # of the largest answer: float32 sums in another order, over a few hundred layers


def disagreement(module: nn.Module, spec: NetworkSpec) -> str | None:
    """What is wrong with the network as a graph, run on numbers drawn at random; None if it answers as torch does.

    Raises:
        Exception: torch cannot export it, or ONNX Runtime cannot run what it exported. There is no end to the kinds.
    """
    drawn = torch.Generator().manual_seed(0)
    dense = torch.randn(ROWS, spec.dense, generator=drawn)
    codes = torch.arange(ROWS)[:, None] % torch.tensor(spec.codes, dtype=torch.int64)  # [rows, categories]
    for one in spec.inputs:
        if one.kind == "whole":  # tokens: 0 is one in every vocabulary
            dense[:, one.at : one.at + one.width] = 0.0
    found = load("onnx", {"model.onnx": graph(module, spec)}, 1)(dense.numpy(), codes.numpy())
    with torch.inference_mode():
        wanted = module(dense, codes).numpy()
    if found.shape != wanted.shape:
        return f"it gives {[*found.shape]} for {ROWS} rows, and torch {[*wanted.shape]}"
    largest = float(np.abs(wanted).max(initial=1.0))
    away = float(np.abs(found - wanted).max(initial=0.0))
    return None if away <= TOLERANCE * largest else f"its answers are up to {away:.3g} away from torch's, which are up to {largest:.3g}"
