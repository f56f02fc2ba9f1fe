"""A model file of another tool -> an artefact: a graph, and which columns feed and leave it."""

import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from dlsql.errors import did_you_mean, error, listed
from dlsql.formats.onnx import files as graph_files
from dlsql.model import IMPORTED, Field, Signature, kind_of
from dlsql.options import Settings
from udfs import engines
from udfs.errors import first_line
from udfs.spec import Graph, Tensor
from udfs.tensors import narrowed

ENGINES = {"onnx": "onnxruntime", "torchscript": "torch"}  # by format
_SUFFIXES = {".onnx": "onnx", ".pt": "torchscript", ".pth": "torchscript", ".ts": "torchscript"}
_TYPES = {
    "float32": "float", "float16": "float", "float64": "double", "int8": "tinyint", "int16": "smallint", "int32": "int", "int64": "bigint",
    "uint8": "smallint", "uint16": "int", "uint32": "bigint", "uint64": "decimal(20,0)", "bool": "boolean",
}  # fmt: skip
_ROWS, _LENGTH = 3, 8  # that a graph is tried with, and how long a tensor then is where it may have any length

Clause = Sequence[tuple[str, str]]  # INPUT or OUTPUT: names and types
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Imported:
    """What a model file comes to."""

    format: str
    engine: str
    files: Mapping[str, bytes]  # of the artefact
    graph: Graph
    signature: Signature
    parameters: int


@dataclass(frozen=True, slots=True)
class _Model:
    """A model file that was read. Shapes are those of the tensors, the number of rows among them."""

    files: Mapping[str, bytes]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...] | None  # None: the file does not say
    parameters: int


def read(load: Callable[[str], bytes], settings: Settings, inputs: Clause, outputs: Clause) -> Imported:
    """Reads a model file, and tries it.

    Args:
        load: gives a file's bytes, or raises StorageError.
        settings: model_path, format, reshape, pad and lengths of CREATE MODEL.
        inputs: the clause INPUT: by the tensors' names, or in their order, what the columns are called and which types they have.
        outputs: the clause OUTPUT, likewise, but for the types, which are the tensors' own.

    Raises:
        StorageError: the file cannot be read.
        OptionError: it is no model of its format, or takes tensors that no column holds.
        TypeMismatchError: INPUT or OUTPUT do not fit it.
    """
    path = str(settings.model_path)
    format = settings.format or _SUFFIXES.get(PurePosixPath(path).suffix.lower())
    if format is None:
        raise _refused(path, f"its name does not say what it is; add format = {' or '.join(map(repr, ENGINES))}.")
    model = _READERS[format](load, path, inputs)
    graph = _told(_in_rows(path, model, settings), settings)
    graph = _tried(path, ENGINES[format], model, graph)
    graph = dataclasses.replace(graph, inputs=_named("INPUT", graph.inputs, inputs), outputs=_named("OUTPUT", graph.outputs, outputs))
    signature = _signature(graph, inputs, outputs)
    return Imported(format, ENGINES[format], {**model.files, "graph.json": graph.to_json().encode()}, graph, signature, model.parameters)


def _refused(path: str, why: str) -> Exception:
    return error("DLSQL_OPTION_VALUE", option="model_path", value=repr(path), expected=why)


def _onnx(load: Callable[[str], bytes], path: str, inputs: Clause) -> _Model:
    try:
        model = onnx.load_from_string(load(path))
    except DecodeError:
        raise _refused(path, "it is no ONNX file.") from None
    if not model.graph.output:
        raise _refused(path, "it is no ONNX file.")
    beside = cache(load)  # a file that holds many tensors is read once
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            _take_in(beside, path, tensor)
    known = {one.name for one in model.graph.initializer}
    taken = tuple(_of_onnx(path, one) for one in model.graph.input if one.name not in known)
    given = tuple(_of_onnx(path, one) for one in model.graph.output)
    parameters = sum(math.prod(one.dims) for one in model.graph.initializer)
    return _Model(graph_files(model.SerializeToString()), taken, given, parameters)


def _take_in(load: Callable[[str], bytes], path: str, tensor: TensorProto) -> None:
    """A tensor that lies in a file of its own beside the model's."""
    told = {entry.key: entry.value for entry in tensor.external_data}
    location = PurePosixPath(told["location"])
    if location.is_absolute() or ".." in location.parts:
        raise _refused(path, f"it keeps a tensor in {location}, which is not beside it.")
    at = int(told.get("offset", 0))
    content = load(f"{path.rpartition('/')[0]}/{location}")
    tensor.raw_data = content[at : at + int(told.get("length", len(content) - at))]
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.DEFAULT


def _of_onnx(path: str, value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.WhichOneof("value")
    dtype = str(tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)) if kind == "tensor_type" else kind
    if dtype not in _TYPES:
        what = {"sequence_type": "a sequence", "map_type": "a map", "object": "a tensor of strings"}.get(dtype, dtype)
        raise _refused(path, f"its `{value.name}` is {what}; columns hold tensors of {', '.join(_TYPES)}.")
    sizes = tuple(one.dim_value if one.HasField("dim_value") else None for one in value.type.tensor_type.shape.dim)
    return Tensor(value.name, value.name, dtype, sizes)


def _torchscript(load: Callable[[str], bytes], path: str, inputs: Clause) -> _Model:
    content = load(path)
    try:
        module = torch.jit.load(io.BytesIO(content), map_location="cpu")
    except RuntimeError as e:
        raise _refused(path, f"it is no TorchScript file: {first_line(e)}") from None
    if not inputs:
        raise _refused(path, "a TorchScript file does not say what it takes; add INPUT (x ARRAY<FLOAT>, ...) in the order of its forward.")
    dtypes = {type: dtype for dtype, type in reversed(_TYPES.items())} | {"binary": "float32"}
    taken = []
    for name, type in inputs:
        element = _plain(type).removeprefix("array<").removesuffix(">")
        if element not in dtypes:
            raise error("DLSQL_COLUMN_TYPE", column=name, found=type.upper(), expected="tensors are numbers, arrays of numbers and BINARY.")
        taken.append(Tensor(name, name, dtypes[element], (None,) if element == _plain(type) != "binary" else (None, None)))
    return _Model({"model.pt": content}, tuple(taken), None, sum(one.numel() for one in module.parameters()))


_READERS: dict[str, Callable[[Callable[[str], bytes], str, Clause], _Model]] = {"onnx": _onnx, "torchscript": _torchscript}


def _plain(type: str) -> str:
    return type.lower().replace(" ", "")


def _in_rows(path: str, model: _Model, settings: Settings) -> Graph:
    """The graph by rows: how many it takes at once follows from the first sizes of its tensors."""
    every = (*model.inputs, *(model.outputs or ()))
    firsts = {one.shape[0] if one.shape else 0 for one in every}
    batch = firsts.pop() if len(firsts) == 1 else 0
    whole = batch == 0  # tensors without rows in common: a row of the table is all that a run takes

    def of_a_row(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(one if whole else dataclasses.replace(one, shape=one.shape[1:]) for one in tensors)

    inputs, outputs = of_a_row(model.inputs), of_a_row(model.outputs or ())
    shapes = {name.casefold(): shape for name, shape in settings.reshape}
    _check_known("reshape", shapes, inputs)
    fed = tuple(_reshaped(path, one, shapes.get(one.name.casefold())) for one in inputs)
    return Graph(fed, outputs, tuple(one.tensor for one in model.inputs), batch)


def _check_known(option: str, names: Mapping[str, object], tensors: Sequence[Tensor]) -> None:
    known = {one.name.casefold(): one.name for one in tensors}
    strange = next((name for name in names if name not in known), None)
    if strange is not None:
        expected = f"the model takes {listed(list(known.values()))}."
        raise error("DLSQL_OPTION_VALUE", option=option, value=repr(strange), expected=expected, hint=did_you_mean(strange, known.values()))


def _reshaped(path: str, tensor: Tensor, shape: tuple[int, ...] | None) -> Tensor:
    if shape is not None:
        same_rank = len(shape) == len(tensor.shape) or tensor.shape == (None,)  # a TorchScript's array says nothing of its shape
        if not same_rank or any(old not in (None, new) for old, new in zip(tensor.shape, shape, strict=False)):
            expected = f"a row's `{tensor.name}` is {tensor.shown}."
            raise error("DLSQL_OPTION_VALUE", option="reshape", value=repr([*shape]), expected=expected)
        return dataclasses.replace(tensor, shape=shape)
    if tensor.shape.count(None) > 1:
        raise _refused(path, f"its `{tensor.name}` is {tensor.shown} a row; say its sizes: reshape = MAP('{tensor.name}', [...]).")
    return tensor


def _told(graph: Graph, settings: Settings) -> Graph:
    """With what `pad` and `lengths` say of tensors of any length."""
    pads = {name.casefold(): value for name, value in settings.pad}
    _check_known("pad", pads, graph.inputs)
    lengths = {name.casefold(): of.casefold() for name, of in settings.lengths}
    _check_known("lengths", {**lengths, **dict.fromkeys(lengths.values())}, graph.inputs)
    by_name = {one.name.casefold(): one for one in graph.inputs}
    for name, value in pads.items():
        one = by_name[name]
        if not one.shape or one.shape[0] is not None:
            expected = f"a row's `{one.name}` is {one.shown}; what has any number of rows in front can be padded."
            raise error("DLSQL_OPTION_VALUE", option="pad", value=repr(one.name), expected=expected)
        kept, outside = narrowed(pa.array([value], pa.float64()), np.dtype(one.dtype))
        if len(outside) or (np.dtype(one.dtype).kind in "iub" and kept[0] != value):
            raise error(
                "DLSQL_OPTION_VALUE", option="pad", value=value, expected=f"a row's `{one.name}` is {one.shown}, which it does not fit."
            )
    told = tuple((by_name[name].tensor, by_name[of].tensor) for name, of in lengths.items())
    kinds = {by_name[name].dtype for name in lengths}
    fed = [one for one in graph.inputs if one.name.casefold() not in lengths]
    inputs = tuple(dataclasses.replace(one, pad=pads.get(one.name.casefold())) for one in fed)
    return dataclasses.replace(graph, inputs=inputs, lengths=told, lengths_dtype=kinds.pop() if kinds else "int64")


def _tried(path: str, engine: str, model: _Model, graph: Graph) -> Graph:
    """The graph as it runs on zeros, with more rows than one where it says that it takes any number."""
    try:
        run = engines.runner(engine, model.files, 1)
    except Exception as e:  # an engine's errors have no end of kinds
        raise _refused(path, f"{engine} cannot load it: {first_line(e)}") from None
    is_open = any(one.is_open for one in graph.inputs)
    problem = ""
    for batch in dict.fromkeys((graph.batch, 1) if graph.batch is None else (graph.batch,)):
        rows = _ROWS if batch is None else batch
        try:
            found = run(_zeros(graph, rows))
        except Exception as e:
            problem = problem or f"{engine} cannot run it: {first_line(e)}"
            continue
        if batch == 0 or all(one.ndim and len(one) == rows for one in found):
            shapes = [one.shape if batch == 0 else one.shape[1:] for one in found]
            return dataclasses.replace(graph, batch=batch, outputs=_outputs(model, graph, found, shapes, is_open))
        shown = ", ".join(str([*one.shape]) for one in found)
        raise _refused(path, f"it gives {shown} for {rows} rows, and does not keep them apart.")
    if model.outputs is not None:  # zeros may be no numbers that it was made for: it is taken at its word
        return graph
    raise _refused(path, problem)


def _zeros(graph: Graph, rows: int) -> dict[str, Array]:
    def zeros(shape: Sequence[int | None], dtype: str, value: float = 0) -> Array:
        sizes = [_LENGTH if size is None else size for size in shape]
        return np.full([*([rows] if graph.batch != 0 else []), *sizes], value, dtype)

    feed = {one.tensor: zeros(one.shape, one.dtype) for one in graph.inputs}
    feed |= {name: zeros((), graph.lengths_dtype, _LENGTH) for name, _ in graph.lengths}
    return {tensor: feed[tensor] for tensor in graph.order}


def _outputs(model: _Model, graph: Graph, found: Sequence[Array], shapes: Sequence[tuple[int, ...]], is_open: bool) -> tuple[Tensor, ...]:
    """What came out, under its names; sizes that may be others for rows of another length are open."""
    if model.outputs is None:
        names = ["output"] if len(found) == 1 else [f"output_{place}" for place in range(1, len(found) + 1)]
        return tuple(
            Tensor(name, name, str(one.dtype), (None,) * len(shape) if is_open and len(shape) else shape)
            for name, one, shape in zip(names, found, shapes, strict=True)
        )
    kept = []
    for one, array, shape in zip(graph.outputs, found, shapes, strict=True):
        declared = one.shape if len(one.shape) == len(shape) else (None,) * len(shape)
        kept.append(dataclasses.replace(one, dtype=str(array.dtype), shape=declared if is_open else shape))
    return tuple(kept)


def _named(clause: str, tensors: tuple[Tensor, ...], given: Clause) -> tuple[Tensor, ...]:
    """Tensors under the names of their columns: as the clause has them, by name where it knows all of them, else in order."""
    names = [one.name.casefold() for one in tensors]
    if given:
        said = [name.casefold() for name, _ in given]
        if len(given) != len(tensors):
            problem = f"{clause} names {len(given)} columns; the model has {len(tensors)}: {', '.join(one.name for one in tensors)}."
            raise error("DLSQL_SHAPE", problem=problem)
        order = [names.index(name) for name in said] if set(said) == set(names) else range(len(tensors))
        tensors = tuple(dataclasses.replace(tensors[place], name=name) for place, (name, _) in zip(order, given, strict=True))
    names = [one.name.casefold() for one in tensors]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise error(
            "DLSQL_SHAPE", problem=f"The model has two tensors `{twice}`; columns have no case. Name them: {clause} (a ..., b ...)."
        )
    return tensors


def _signature(graph: Graph, inputs: Clause, outputs: Clause) -> Signature:
    fields = []
    for place, tensor in enumerate(graph.inputs):
        element = _TYPES[tensor.dtype]
        array = f"array<{'tinyint' if element == 'boolean' else element}>"
        kinds = ("number", "bytes") if tensor.is_scalar else ("numbers", "bytes")
        type = _plain(inputs[place][1]) if inputs else element if tensor.is_scalar else array
        if kind_of(type) not in kinds:
            takes = element if tensor.is_scalar else array
            expected = f"the model takes {tensor.shown}: {takes.upper()} or BINARY."
            raise error("DLSQL_COLUMN_TYPE", column=tensor.name, found=type.upper(), expected=expected)
        fields.append(Field(tensor.name, type))
    answers = []
    for place, tensor in enumerate(graph.outputs):
        if tensor.dtype not in _TYPES:
            raise error("DLSQL_SHAPE", problem=f"The model gives `{tensor.name}` as {tensor.dtype}; columns hold {', '.join(_TYPES)}.")
        depth = 0 if tensor.is_scalar else len(tensor.shape)
        type = "array<" * depth + _TYPES[tensor.dtype] + ">" * depth
        if outputs and _plain(outputs[place][1]) != type:
            raise error(
                "DLSQL_COLUMN_TYPE", column=tensor.name, found=outputs[place][1].upper(), expected=f"the model gives {type.upper()}."
            )
        answers.append(Field(tensor.name, type))
    return Signature(tuple(fields), answers[0], IMPORTED, tuple(answers[1:]))
