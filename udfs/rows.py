"""The rows that the JVM packs, as bytes: what a network takes of a row, as dlsql/jvm/Encoder.java writes it. Little endian."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from udfs import preprocess
from udfs.spec import Graph, Preprocess

Records = npt.NDArray[np.void]
"""Rows by their parts: `dense` float32 [rows, numbers], `codes` int32 [rows, categories], and what else a packing adds."""


def row_type(learned: Preprocess, extra: Mapping[str, str] | None = None) -> np.dtype[np.void]:
    """What a row holds: `extra` parts by name and numpy type, then the numbers of the features, then their codes.

    >>> from udfs.spec import Feature, Label
    >>> age, city = Feature("age", "int", "number", (40.0,), (10.0,)), Feature("city", "string", "category", vocabulary=("Ulm",))
    >>> row_type(Preprocess((age, city), Label("y", "int")), {"hash": "<i8"}).itemsize
    16
    """
    numbers = preprocess.dense_width(learned.features)
    codes = sum(feature.kind == "category" for feature in learned.features)
    parts: list[Any] = [*(extra or {}).items(), ("dense", "<f4", (numbers,)), ("codes", "<i4", (codes,))]
    return np.dtype(parts)


def tensor_type(graph: Graph) -> np.dtype[np.void]:
    """What a row of a graph's tensors holds, of which each has one size: their elements [n], by the tensors' places.

    >>> from udfs.spec import Tensor
    >>> x, t = Tensor("x", "x", "float32", (2, 3)), Tensor("t", "t", "bool", ())
    >>> tensor_type(Graph((x, t), (), ("t", "x"), None))
    dtype([('0', '<f4', (6,)), ('1', '?', (1,))])
    """
    parts: list[Any] = [(str(place), np.dtype(one.dtype).newbyteorder("<"), (one.fixed,)) for place, one in enumerate(graph.inputs)]
    return np.dtype(parts)


def places(learned: Preprocess, row: np.dtype[np.void]) -> list[int]:
    """At which byte of a row each feature begins."""
    assert row.fields is not None
    dense, codes = (int(row.fields[name][1]) for name in ("dense", "codes"))
    found = []
    for feature in learned.features:
        if feature.kind == "category":
            found.append(codes)
            codes += 4
        else:
            found.append(dense)
            dense += 4 * preprocess.width(feature)
    return found


def records(column: pa.Array, row: np.dtype[np.void]) -> Records:
    """The rows of all values of a BINARY column, of which each holds any number, as views of its buffer.

    >>> row = np.dtype([("dense", "<f4", (1,)), ("codes", "<i4", (0,))])
    >>> column = pa.array([b"none", np.array([1.5, 3.5], "<f4").tobytes(), None, np.array([2.5], "<f4").tobytes()], pa.binary())
    >>> records(column[1:], row)["dense"].tolist()
    [[1.5], [3.5], [2.5]]
    """
    ends = _offsets(column)
    taken = int(ends[-1] - ends[0])
    if not taken:
        return np.zeros(0, row)
    return np.frombuffer(column.buffers()[2], row, taken // row.itemsize, int(ends[0]))


def _offsets(column: pa.Array) -> npt.NDArray[np.int64]:
    """Where each value of a BINARY column begins in its bytes, and where the last ends; a NULL takes none of them."""
    offsets = column.buffers()[1]
    if offsets is None or not len(column):
        return np.zeros(1, np.int64)
    kind = np.int64 if pa.types.is_large_binary(column.type) else np.int32
    return np.frombuffer(offsets, kind, len(column) + 1, column.offset * np.dtype(kind).itemsize).astype(np.int64)


def results(column: pa.Array, row: np.dtype[np.void], outputs: npt.NDArray[Any]) -> pa.Array:
    r"""What came of the rows of a column, `outputs` [rows, n], as a BINARY column of its shape, without a copy.

    >>> row = np.dtype([("dense", "<f4", (1,))])
    >>> column = pa.array([bytes(8), None, bytes(4)], pa.binary())
    >>> results(column, row, np.array([[1], [2], [3]], "<u1")).to_pylist()
    [b'\x01\x02', None, b'\x03']
    """
    outputs = np.ascontiguousarray(outputs)
    ends = _offsets(column)
    places = (ends - ends[0]) // row.itemsize * (outputs.itemsize * outputs.shape[1])
    mask = None
    if column.null_count:
        mask = pa.py_buffer(np.packbits(np.asarray(pc.is_valid(column), dtype=bool), bitorder="little"))
    wide = int(places[-1]) > np.iinfo(np.int32).max
    kind, size = (pa.large_binary(), np.int64) if wide else (pa.binary(), np.int32)
    return pa.Array.from_buffers(kind, len(column), [mask, pa.py_buffer(places.astype(size)), pa.py_buffer(outputs)])
