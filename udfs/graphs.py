"""One batch of an imported network: packed rows or columns -> the tensors that its graph takes -> what it gives for them."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from udfs import engines, rows, tensors
from udfs.errors import ScoringError, first_line
from udfs.placing import held, placed_files
from udfs.spec import Graph, Scoring, Tensor
from udfs.worker import ROOM, Kept, settle

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]  # of rows
Take = Callable[[Places], Mapping[str, Array]]  # the graph's tensors for these rows


@dataclass(frozen=True, slots=True)
class _Loaded:
    graph: Graph
    row: np.dtype[np.void]
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
    outside: Places  # the places in `values` of what the tensor's type cannot hold


_LOADED = Kept[_Loaded](ROOM, lambda one: one.bytes, least=8)


def predict_tensors(scoring: Scoring, packed: pa.Array) -> pa.Array:
    """Scores rows that the JVM packed, with a graph whose rows are all of one size.

    Args:
        scoring: the model, and how to score.
        packed: BINARY, each value any number of rows one after the other, see `udfs.rows.tensor_type`.

    Returns:
        BINARY: for each value what the graph gives for its rows: of a tensor that is more than a value its sizes, int32, then its elements.
        Unless scoring is strict a row begins with a byte, which is 0 where the engine fails on it. NULL where the value is.

    Raises:
        ScoringError: scoring is strict, and the engine fails on a row; the graph does not keep rows apart.
    """
    model = _load(scoring)
    graph = model.graph
    taken = rows.records(packed, model.row)
    most = _portion(model, model.row.itemsize)

    def take(places: Places) -> dict[str, Array]:
        consecutive = len(places) > 0 and int(places[-1]) - int(places[0]) == len(places) - 1
        some = taken[int(places[0]) : int(places[-1]) + 1] if consecutive else taken[places]
        return {
            tensor.tensor: np.require(some[str(place)], requirements=("C", "A")).reshape(len(places), *tensor.shape)
            for place, tensor in enumerate(graph.inputs)
        }

    parts: list[tuple[Places, npt.NDArray[np.uint8]]] = []
    for at in range(0, len(taken), most):
        for places, found in _answers(model, take, np.arange(at, min(at + most, len(taken))), scoring.strict):
            parts.append((places, _bytes(graph, found, len(places), scoring.strict)))
    if len(parts) == 1 and len(parts[0][0]) == len(taken):  # without a copy
        return rows.results(packed, model.row, parts[0][1])
    outputs = np.zeros((len(taken), max((one.shape[1] for _, one in parts), default=0)), np.uint8)
    for places, one in parts:
        outputs[places, : one.shape[1]] = one
    return rows.results(packed, model.row, outputs)


def _bytes(graph: Graph, found: list[Array], count: int, strict: bool) -> npt.NDArray[np.uint8]:
    """What the graph gives for some rows, as the bytes of each [rows, n]."""
    parts = [] if strict else [np.ones((count, 1), np.uint8)]
    for tensor, array in zip(graph.outputs, found, strict=True):
        if not tensor.is_scalar:
            parts.append(np.tile(np.array(array.shape[1:], "<i4").view(np.uint8), (count, 1)))
        wide = _widened(array).reshape(count, -1)
        parts.append(np.ascontiguousarray(wide, wide.dtype.newbyteorder("<")).view(np.uint8).reshape(count, -1))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


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
    asked, named = tensors.wanted(columns)
    if len(named) != len(graph.inputs):
        raise ScoringError(f"Got {len(named)} columns; the model takes {', '.join(one.name for one in graph.inputs)}.")
    given = [_column(tensor, column) for tensor, column in zip(graph.inputs, named, strict=True)]
    scored = asked.copy()
    for tensor, one in zip(graph.inputs, given, strict=True):
        if scoring.strict and (one.misfit & asked).any():
            raise ScoringError(_problem(tensor, one, int(np.argmax(one.misfit & asked))))
        scored &= ~one.misfit & ~one.absent
    places, pieces, count = np.full(len(scored), -1), [pa.nulls(0, _type(graph))], 0
    for alike in _alike(graph, given, np.flatnonzero(scored)):
        widest = sum(one.lengths[alike].max() * np.dtype(tensor.dtype).itemsize for tensor, one in zip(graph.inputs, given, strict=True))
        most = _portion(model, int(widest))
        for at in range(0, len(alike), most):
            for some, answers in _answers(model, partial(_fed, graph, given), alike[at : at + most], scoring.strict):
                nested = [_arrow(tensor, array) for tensor, array in zip(graph.outputs, answers, strict=True)]
                pieces.append(pa.StructArray.from_arrays(nested, fields=list(_type(graph))))
                places[some] = count + np.arange(len(some))
                count += len(some)
    return pa.concat_arrays(pieces).take(pa.array(places, mask=places < 0))


def predict_output(scoring: Scoring, *columns: pa.Array) -> pa.Array:
    """Scores a batch with a graph of one output, and gives that alone; see `predict_graph`."""
    return pc.struct_field(predict_graph(scoring, *columns), [0])  # NULL where the struct is


def _load(scoring: Scoring) -> _Loaded:
    def load() -> _Loaded:
        files, folder = placed_files(scoring)
        graph = Graph.from_json(files["graph.json"].decode())
        run = engines.runner(scoring.engine, files, scoring.threads, folder)
        loaded = _Loaded(graph, rows.tensor_type(graph), run, held(files, folder))
        settle()
        return loaded

    return _LOADED.get(scoring.sha256, load)


def _column(tensor: Tensor, column: pa.Array) -> _Column:
    absent: Mask = np.asarray(pc.is_null(column), dtype=bool)
    there = ~absent
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
    return _Column(values, ends - taken, lengths, absent, misfit & there, given, outside)


def _binary(kind: np.dtype[Any], column: pa.Array, absent: Mask) -> tuple[npt.NDArray[np.int64], Array]:
    """How many numbers each row holds, -1 where its bytes are none, and all of them."""
    sizes = np.asarray(pc.fill_null(pc.binary_length(column), 0), dtype=np.int64)
    whole = sizes % kind.itemsize == 0
    content = tensors.contents(column.filter(pa.array(whole & ~absent)))
    # Numbers lie on even addresses; a truth value is 0 or 1, and other bytes would pass for neither.
    return np.where(whole, sizes // kind.itemsize, -1), content.astype(bool) if kind == np.bool_ else content.copy().view(kind)


def _row(ends: npt.NDArray[np.int64], places: Places) -> Places:
    """In which rows these elements are, of all rows' one after the other."""
    return np.searchsorted(ends, places, side="right")


def _problem(tensor: Tensor, one: _Column, row: int) -> str:
    """What is wrong with a row that does not fit."""
    start, length = int(one.starts[row]), int(one.lengths[row])
    first = int(np.searchsorted(one.outside, start))
    if one.given is None or first == len(one.outside) or one.outside[first] >= start + length:
        return f"`{tensor.name}` holds {length} elements a row; the model takes {tensor.shown}."
    return f"`{tensor.name}` holds {one.given[int(one.outside[first])].as_py()}; the model takes {limits(tensor)}."


def limits(tensor: Tensor) -> str:
    """For messages: which numbers a tensor holds."""
    kind = np.dtype(tensor.dtype)
    ends = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    return f"{kind}, from {ends.min} to {ends.max}"


def _alike(graph: Graph, given: list[_Column], places: Places) -> Iterator[Places]:
    """Rows whose tensors have the same shape: those of other lengths never meet, unless they may be padded."""
    free = [one.lengths[places] for tensor, one in zip(graph.inputs, given, strict=True) if tensor.is_open and tensor.pad is None]
    if not len(places):
        return
    if not free:
        yield places
        return
    _, which = np.unique(np.stack(free), axis=1, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    yield from np.split(places[order], np.flatnonzero(np.diff(which.ravel()[order])) + 1)


class _Failed(ScoringError):
    """The engine fails on these rows."""


def _portion(model: _Loaded, row: int) -> int:
    """How many rows of so many bytes go through the graph at once."""
    return max(1, engines.AT_ONCE // max(row, model.run.row_bytes, 1)) if model.graph.batch is None else model.graph.batch or 1


def _answers(model: _Loaded, take: Take, places: Places, strict: bool) -> Iterator[tuple[Places, list[Array]]]:
    """Rows with what the graph gives for them; unless scoring is strict without those that the engine fails on, which it looks for."""
    try:
        answers = _outputs(model, take, places)
    except _Failed:
        if strict:
            raise
        for half in np.array_split(places, 2) if len(places) > 1 else ():
            yield from _answers(model, take, half, strict)
    else:
        yield places, answers


def _outputs(model: _Loaded, take: Take, places: Places) -> list[Array]:
    """What the graph gives for as many rows as it takes at once, each tensor [rows, *sizes]."""
    graph = model.graph
    # A graph of a fixed number of rows is given its last one again and again.
    full = places if not graph.batch else np.concatenate([places, np.repeat(places[-1:], graph.batch - len(places))])
    given = take(full)
    feed = {tensor: given[tensor] for tensor in graph.order}
    if graph.batch == 0:
        feed = {name: np.asarray(array[0]) for name, array in feed.items()}
    found = _run(model, feed)
    if graph.batch == 0:
        found = [array[None] for array in found]
    return [_apart(tensor, array, len(full))[: len(places)] for tensor, array in zip(graph.outputs, found, strict=True)]


def _apart(tensor: Tensor, array: Array, count: int) -> Array:
    """What the graph gives, by rows."""
    array = np.asarray(array)
    if array.ndim == 0 or len(array) != count:
        raise ScoringError(f"The model gives `{tensor.name}` {[*array.shape]} for {count} rows: it does not keep rows apart.")
    if tensor.is_scalar:
        return array.reshape(count)
    if array.ndim - 1 != len(tensor.shape):
        raise ScoringError(f"The model gives `{tensor.name}` {[*array.shape]}; it said {tensor.shown} a row.")
    return array


def _fed(graph: Graph, given: list[_Column], places: Places) -> dict[str, Array]:
    """The columns' rows, of the same shape, as the graph's tensors."""
    feed = {tensor.tensor: _tensor(tensor, one, places) for tensor, one in zip(graph.inputs, given, strict=True)}
    for tensor, of in graph.lengths:
        place = next(i for i, one in enumerate(graph.inputs) if one.tensor == of)
        feed[tensor] = _told(graph, graph.inputs[place], given[place].lengths[places])
    return feed


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


def _tensor(tensor: Tensor, one: _Column, places: Places) -> Array:
    """The rows of a column as a tensor [rows, *shape]; what is short is padded."""
    lengths, starts = one.lengths[places], one.starts[places]
    longest = int(lengths.max())
    if tensor.pad is None and (np.diff(starts) == longest).all():
        flat = one.values[int(starts[0]) : int(starts[0]) + longest * len(places)]  # no copy
    else:
        elements = starts[:, None] + np.arange(longest)  # [rows, longest]
        there = np.arange(longest) < lengths[:, None]
        flat = np.full(elements.shape, tensor.pad or 0, one.values.dtype)
        flat[there] = one.values[elements[there]]
    shape = [(longest // max(tensor.fixed, 1)) if size is None else size for size in tensor.shape]
    return flat.reshape(len(places), *shape)


_WIDER = {"float16": "float32", "uint8": "int16", "uint16": "int32", "uint32": "int64"}
_UINT64 = pa.decimal128(20, 0)  # the narrowest type of Spark that holds all of it


def given_type(tensor: Tensor) -> str:
    """The type in which its numbers leave the worker: the next one that Spark has, but for uint64, which is a decimal there."""
    return _WIDER.get(tensor.dtype, tensor.dtype)


def _widened(array: Array) -> Array:
    return array.astype(_WIDER.get(str(array.dtype), array.dtype), copy=False)


def _arrow(tensor: Tensor, array: Array) -> pa.Array:
    """What the graph gives for its rows -> a column, nested as deep as the tensor is."""
    flat = pa.array(_widened(np.ascontiguousarray(array).reshape(-1)))
    for size in array.shape[:0:-1]:
        offsets = np.arange(0, len(flat) + 1, size, dtype=np.int32) if size else np.zeros(math.prod(array.shape[:-1]) + 1, np.int32)
        flat = pa.ListArray.from_arrays(pa.array(offsets), flat)
    return flat.cast(_kind(tensor))


def _kind(tensor: Tensor) -> pa.DataType:
    kind = _UINT64 if tensor.dtype == "uint64" else pa.from_numpy_dtype(np.dtype(given_type(tensor)))
    for _ in () if tensor.is_scalar else tensor.shape:
        kind = pa.list_(kind)
    return kind


def _type(graph: Graph) -> pa.DataType:
    return pa.struct([(one.name, _kind(one)) for one in graph.outputs])
