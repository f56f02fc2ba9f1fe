"""The rows that the JVM packs: one BINARY holds what a network takes of a row, as dlsql/jvm/Encoder.java writes it. Little endian."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from udfs import preprocess
from udfs.spec import Preprocess

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
    """The rows of a column that are not NULL, as views of its buffer.

    >>> row = np.dtype([("dense", "<f4", (1,)), ("codes", "<i4", (0,))])
    >>> column = pa.array([b"none", np.array([1.5], "<f4").tobytes(), None, np.array([2.5], "<f4").tobytes()], pa.binary())
    >>> records(column[1:], row)["dense"].tolist()
    [[1.5], [2.5]]
    """
    rows = len(column) - column.null_count
    if not rows or not row.itemsize:
        return np.zeros(rows, row)
    _, offsets, data = column.buffers()
    # A slice's bytes begin within the buffer; a NULL takes none of it.
    first = int(np.frombuffer(offsets, np.int64 if pa.types.is_large_binary(column.type) else np.int32)[column.offset])
    return np.frombuffer(data, row, rows, first)


def binary(values: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None) -> pa.Array:
    r"""A BINARY column of the bytes of each of `values` [rows that are valid, n], without a copy; NULL where `valid` [rows] is False.

    >>> binary(np.array([[1], [2]], "<u1"), np.array([True, False, True])).to_pylist()
    [b'\x01', None, b'\x02']
    """
    values = np.ascontiguousarray(values)
    size = values.itemsize * values.shape[1]
    rows = len(values) if valid is None else len(valid)
    ends = np.arange(rows + 1) if valid is None else np.concatenate([[0], np.cumsum(valid)])
    mask = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(pa.binary(), rows, [mask, pa.py_buffer((ends * size).astype(np.int32)), pa.py_buffer(values)])
