"""One batch of an imported network: the columns of the batch -> the tensors that its graph takes -> columns of what it gives."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from udfs import engines, tensors
from udfs.errors import ScoringError, first_line
from udfs.placing import held, placed_files
from udfs.spec import Graph, Scoring, Tensor
from udfs.worker import ROOM, Kept, settle

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]  # the places of some


@dataclass(frozen=True, slots=True)
class _Loaded:
    graph: Graph
    run: engines.Runner
    bytes: int


@dataclass(frozen=True, slots=True)
class _Column:
    """A column as the numbers of one of the graph's tensors, row after row."""

    values: Array  # of the rows that hold any
    starts: npt.NDArray[np.int64]  # [rows]
    lengths: npt.NDArray[np.int64]  # [rows]
    absent: Mask  # NULL, or with a NULL in it
    misfit: Mask  # of a number of elements that the tensor cannot have, or with a number that its type cannot hold
    given: pa.Array | None  # `values` as they came; None for bytes
    outside: Rows  # the places in `values` of what the tensor's type cannot hold


_LOADED = Kept[_Loaded](ROOM, lambda one: one.bytes, least=8)


def predict_graph(scoring: Scoring, *columns: pa.Array) -> pa.Array:
    """Scores a batch.

    Args:
        scoring: the model, and how to score.
        columns: one array for each input of the graph, in its order, see `tensors.wanted`.

    Returns:
        STRUCT of the graph's outputs; NULL where a row is not wanted, an input is NULL or holds one, or, unless scoring is strict, it does
        not fit or the engine fails on it.

    Raises:
        ScoringError: scoring is strict, and a row does not fit, or the engine fails on it; the graph does not keep rows apart.
    """
    model = _load(scoring)
    graph = model.graph
    scored, named = tensors.wanted(columns)
    if len(named) != len(graph.inputs):
        raise ScoringError(f"Got {len(named)} columns; the model takes {', '.join(one.name for one in graph.inputs)}.")
    given = [_column(tensor, column) for tensor, column in zip(graph.inputs, named, strict=True)]
    for one in given:
        scored &= ~one.absent
    for tensor, one in zip(graph.inputs, given, strict=True):
        if scoring.strict and (one.misfit & scored).any():
            raise ScoringError(_problem(tensor, one, int(np.argmax(one.misfit & scored))))
        scored &= ~one.misfit
    places, pieces, count = np.full(len(scored), -1), [pa.nulls(0, _type(graph))], 0
    for alike in _alike(graph, given, np.flatnonzero(scored)):
        for rows, answers in _answers(model, given, alike, scoring.strict):
            pieces.append(answers)
            places[rows] = count + np.arange(len(rows))
            count += len(rows)
    return pa.concat_arrays(pieces).take(pa.array(places, mask=places < 0))


def predict_output(scoring: Scoring, *columns: pa.Array) -> pa.Array:
    """Scores a batch with a graph of one output, and gives that alone; see `predict_graph`."""
    return pc.struct_field(predict_graph(scoring, *columns), [0])  # NULL where the struct is


def _load(scoring: Scoring) -> _Loaded:
    def load() -> _Loaded:
        files, folder = placed_files(scoring)
        graph = Graph.from_json(files["graph.json"].decode())
        loaded = _Loaded(graph, engines.runner(scoring.engine, files, scoring.threads, folder), held(files, folder))
        settle()
        return loaded

    return _LOADED.get(scoring.sha256, load)


def _column(tensor: Tensor, column: pa.Array) -> _Column:
    absent: Mask = np.asarray(pc.is_null(column), dtype=bool)
    given, outside = None, np.zeros(0, np.int64)
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        lengths, values = _binary(np.dtype(tensor.dtype), column, absent)
    else:
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0), dtype=np.int64)
            given = column.flatten()  # honours offsets and slices, and drops NULL lists, also what their slots may hold
        else:
            lengths, given = np.where(absent, 0, 1), column.drop_null()
        values, outside = tensors.narrowed(given, np.dtype(tensor.dtype))
    taken = np.maximum(lengths, 0)
    ends = np.cumsum(taken)
    if given is not None and given.null_count:
        absent[_row(ends, np.flatnonzero(np.asarray(pc.is_null(given))))] = True
    if tensor.is_open:
        misfit = (lengths < 0) | (lengths % max(tensor.fixed, 1) != 0) | ((lengths == 0) & (tensor.pad is None))
    else:
        misfit = lengths != tensor.fixed
    misfit[_row(ends, outside)] = True
    return _Column(values, ends - taken, lengths, absent, misfit & ~absent, given, outside)


def _binary(kind: np.dtype[Any], column: pa.Array, absent: Mask) -> tuple[npt.NDArray[np.int64], Array]:
    """How many numbers each row holds, -1 where its bytes are none, and all of them."""
    sizes = np.asarray(pc.fill_null(pc.binary_length(column), 0), dtype=np.int64)
    whole = sizes % kind.itemsize == 0
    content = tensors.contents(column.filter(pa.array(whole & ~absent)))
    # Numbers lie on even addresses; a truth value is 0 or 1, and other bytes would pass for neither.
    return np.where(whole, sizes // kind.itemsize, -1), content.astype(bool) if kind == np.bool_ else content.copy().view(kind)


def _row(ends: npt.NDArray[np.int64], places: Rows) -> Rows:
    """In which rows these elements are, of all rows' one after the other."""
    return np.searchsorted(ends, places, side="right")


def _problem(tensor: Tensor, one: _Column, row: int) -> str:
    """What is wrong with a row that does not fit."""
    start, length = int(one.starts[row]), int(one.lengths[row])
    first = int(np.searchsorted(one.outside, start))
    if one.given is None or first == len(one.outside) or one.outside[first] >= start + length:
        return f"`{tensor.name}` holds {length} elements a row; the model takes {tensor.shown}."
    kind = np.dtype(tensor.dtype)
    limits = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    found = one.given[int(one.outside[first])].as_py()
    return f"`{tensor.name}` holds {found}; the model takes {kind}, from {limits.min} to {limits.max}."


def _alike(graph: Graph, given: list[_Column], rows: Rows) -> Iterator[Rows]:
    """Rows whose tensors have the same shape: those of other lengths never meet, unless they may be padded."""
    free = [one.lengths[rows] for tensor, one in zip(graph.inputs, given, strict=True) if tensor.is_open and tensor.pad is None]
    if not len(rows):
        return
    if not free:
        yield rows
        return
    _, which = np.unique(np.stack(free), axis=1, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    yield from np.split(rows[order], np.flatnonzero(np.diff(which.ravel()[order])) + 1)


class _Failed(ScoringError):
    """The engine fails on these rows."""


def _answers(model: _Loaded, given: list[_Column], rows: Rows, strict: bool) -> Iterator[tuple[Rows, pa.Array]]:
    """Rows of the same shape with their answers; unless scoring is strict without those that the engine fails on, which it looks for."""
    try:
        answers = _struct(model.graph, _outputs(model, given, rows))
    except _Failed:
        if strict:
            raise
        for half in np.array_split(rows, 2) if len(rows) > 1 else ():
            yield from _answers(model, given, half, strict)
    else:
        yield rows, answers


def _outputs(model: _Loaded, given: list[_Column], rows: Rows) -> list[list[pa.Array]]:
    """Rows of the same shape -> what the graph gives for them, in pieces of any length."""
    graph = model.graph
    widths = [one.lengths[rows].max() * np.dtype(tensor.dtype).itemsize for tensor, one in zip(graph.inputs, given, strict=True)]
    most = max(1, engines.AT_ONCE // max(int(sum(widths)), model.run.row_bytes, 1)) if graph.batch is None else graph.batch or 1
    pieces = []
    for at in range(0, len(rows), most):
        chunk = rows[at : at + most]
        # A graph of a fixed number of rows is given its last one again and again.
        full = chunk if not graph.batch else np.concatenate([chunk, np.repeat(chunk[-1:], graph.batch - len(chunk))])
        feed = {tensor.tensor: _tensor(tensor, one, full) for tensor, one in zip(graph.inputs, given, strict=True)}
        for tensor, of in graph.lengths:
            place = next(i for i, one in enumerate(graph.inputs) if one.tensor == of)
            feed[tensor] = _told(graph, graph.inputs[place], given[place].lengths[full])
        feed = {tensor: feed[tensor] for tensor in graph.order}
        if graph.batch == 0:
            feed = {name: np.asarray(array[0]) for name, array in feed.items()}
        found = _run(model, feed)
        if graph.batch == 0:
            found = [array[None] for array in found]
        pieces.append([_arrow(tensor, array, len(chunk), len(full)) for tensor, array in zip(graph.outputs, found, strict=True)])
    return pieces


def _told(graph: Graph, tensor: Tensor, lengths: npt.NDArray[np.int64]) -> Array:
    """How long rows are, as the graph takes it."""
    steps = lengths // max(tensor.fixed, 1)
    told: Array = steps.astype(graph.lengths_dtype)
    if (told != steps).any():
        raise _Failed(f"`{tensor.name}` holds {steps.max()} steps a row; the model takes their number as {graph.lengths_dtype}.")
    return told


def _run(model: _Loaded, feed: Mapping[str, Array]) -> list[Array]:
    try:
        return model.run(feed)
    except Exception as e:  # an engine's errors have no end of kinds
        shapes = ", ".join(f"{name} {array.dtype} {[*array.shape]}" for name, array in feed.items())
        raise _Failed(f"The model fails on {shapes}: {first_line(e)}") from e


def _tensor(tensor: Tensor, one: _Column, rows: Rows) -> Array:
    """The rows of a column as a tensor [rows, *shape]; what is short is padded."""
    lengths, starts = one.lengths[rows], one.starts[rows]
    longest = int(lengths.max())
    if tensor.pad is None and (np.diff(starts) == longest).all():
        flat = one.values[int(starts[0]) : int(starts[0]) + longest * len(rows)]  # no copy
    else:
        places = starts[:, None] + np.arange(longest)
        there = np.arange(longest) < lengths[:, None]
        flat = np.full(places.shape, tensor.pad or 0, one.values.dtype)
        flat[there] = one.values[places[there]]
    shape = [(longest // max(tensor.fixed, 1)) if size is None else size for size in tensor.shape]
    return flat.reshape(len(rows), *shape)


_WIDER = {"float16": "float32", "uint8": "int16", "uint16": "int32", "uint32": "int64"}
_UINT64 = pa.decimal128(20, 0)  # the narrowest type of Spark that holds all of it


def _arrow(tensor: Tensor, array: Array, rows: int, given: int) -> pa.Array:
    """What the graph gives for its rows, `given` of them -> a column of the first ones, nested as deep as the tensor is."""
    array = np.asarray(array)
    if array.ndim == 0 or len(array) != given:
        raise ScoringError(f"The model gives `{tensor.name}` {[*array.shape]} for {given} rows: it does not keep rows apart.")
    array = np.ascontiguousarray(array[:rows])
    if tensor.is_scalar:
        array = array.reshape(rows)
    elif array.ndim - 1 != len(tensor.shape):
        raise ScoringError(f"The model gives `{tensor.name}` {[*array.shape]}; it said {tensor.shown} a row.")
    flat = pa.array(array.reshape(-1).astype(_WIDER.get(str(array.dtype), array.dtype), copy=False))
    for size in array.shape[:0:-1]:
        offsets = np.arange(0, len(flat) + 1, size, dtype=np.int32) if size else np.zeros(math.prod(array.shape[:-1]) + 1, np.int32)
        flat = pa.ListArray.from_arrays(pa.array(offsets), flat)
    return flat.cast(_kind(tensor))


def _kind(tensor: Tensor) -> pa.DataType:
    kind = _UINT64 if tensor.dtype == "uint64" else pa.from_numpy_dtype(np.dtype(_WIDER.get(tensor.dtype, tensor.dtype)))
    for _ in () if tensor.is_scalar else tensor.shape:
        kind = pa.list_(kind)
    return kind


def _type(graph: Graph) -> pa.DataType:
    return pa.struct([(one.name, _kind(one)) for one in graph.outputs])


def _struct(graph: Graph, pieces: list[list[pa.Array]]) -> pa.Array:
    columns = [pa.concat_arrays(parts) for parts in zip(*pieces, strict=True)]
    return pa.StructArray.from_arrays(columns, fields=list(_type(graph)))
