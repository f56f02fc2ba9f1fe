"""Columns to arrays: Arrow arrays of any accepted Spark type as numpy numbers with a mask of what is missing, without per-row Python."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

DAY = 86_400.0  # seconds
MICROSECOND = 1e-6  # seconds


def numbers(column: pa.Array) -> tuple[Floats, Mask]:
    """The values of a numeric, decimal, boolean, date or timestamp column as float64, and which are NULL.

    Dates and timestamps are seconds since 1970-01-01 UTC. The value where the mask is True is undefined.

    >>> numbers(pa.array([1, None, 3]))[0][[0, 2]].tolist(), numbers(pa.array([1, None, 3]))[1].tolist()
    ([1.0, 3.0], [False, True, False])
    >>> numbers(pa.array([1], pa.date32()))[0].tolist()
    [86400.0]
    """
    missing = np.asarray(pc.is_null(column), dtype=bool)
    kind = column.type
    if pa.types.is_date32(kind):
        return _floats(column.cast(pa.int32())) * DAY, missing
    if pa.types.is_timestamp(kind):
        return _floats(column.cast(pa.timestamp("us", kind.tz)).cast(pa.int64())) * MICROSECOND, missing
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    return _floats(column), missing


def _floats(column: pa.Array) -> Floats:
    return np.asarray(pc.fill_null(column.cast(pa.float64(), safe=False), 0.0), dtype=np.float64)


def narrowed(column: pa.Array, kind: np.dtype[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Numbers or truth values in a tensor's type, as Spark's CAST makes them in ANSI mode: a fraction is cut off.

    A number beyond float32 is infinite, as in Spark's FLOAT; a finite one beyond float16, which Spark has not, does not fit.

    Returns:
        values [rows], 0 for NULL, and the places of those that do not fit, ascending, where the value is undefined.

    >>> values, outside = narrowed(pa.array([-1, 300, 7, None], pa.int16()), np.dtype("uint8"))
    >>> values[[2, 3]].tolist(), outside.tolist()
    ([7, 0], [0, 1])
    """
    if pa.types.is_decimal(column.type):
        if kind.kind in "iu":
            return _narrowed_decimals(column, kind)
        column = column.cast(pa.float64())
    given = np.asarray(pc.fill_null(column, False if pa.types.is_boolean(column.type) else 0).to_numpy(zero_copy_only=False))
    with np.errstate(over="ignore", invalid="ignore"):
        values = given.astype(kind, copy=False)
    if np.can_cast(given.dtype, kind):
        outside = np.zeros(0, bool)
    elif kind.kind in "iu":
        limits = np.iinfo(kind)
        whole = np.trunc(given) if given.dtype.kind == "f" else given
        # Floats do not have the largest number of 64 bits, and the one after it, a power of two, exactly. NaN is not inside.
        outside = ~((whole >= limits.min) & (whole < limits.max + 1))
    elif kind == np.float16:
        outside = np.isinf(values) & ~np.isinf(given)
    else:
        outside = np.zeros(0, bool)
    return values, np.flatnonzero(outside)


def _narrowed_decimals(column: pa.Array, kind: np.dtype[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """As `narrowed`, exactly: a float64 holds 16 of the digits of a DECIMAL(38,0)."""
    exact = pa.decimal128(38, 0)
    least, most, zero = (pa.scalar(Decimal(one), exact) for one in (int(np.iinfo(kind).min), int(np.iinfo(kind).max), 0))
    whole = pc.trunc(column).cast(exact)
    inside = pc.and_(pc.greater_equal(whole, least), pc.less_equal(whole, most))
    kept = pc.if_else(pc.fill_null(inside, False), whole, zero)
    values = kept.cast(pa.from_numpy_dtype(kind)).to_numpy(zero_copy_only=False)
    return values, np.flatnonzero(~np.asarray(pc.fill_null(inside, True), dtype=bool))


def lists(column: pa.Array, length: int) -> tuple[Floats, Mask, Mask]:
    """An array column as one matrix.

    Returns:
        values [rows, length], which elements are NULL [rows, length], which rows hold no array of that length [rows]; a NULL
        array is a row of NULL elements, and not a wrong one.

    >>> values, missing, wrong = lists(pa.array([[1, 2], None, [3], [4, None]]), 2)
    >>> values[0].tolist(), missing.tolist(), wrong.tolist()
    ([1.0, 2.0], [[False, False], [True, True], [True, True], [False, True]], [False, False, True, False])
    """
    rows = len(column)
    sizes = np.asarray(pc.fill_null(pc.list_value_length(column), -1))
    fits = sizes == length
    values: Floats = np.zeros((rows, length), dtype=np.float64)
    missing: Mask = np.ones((rows, length), dtype=bool)
    whole = column if fits.all() else column.filter(pa.array(fits))
    elements, absent = numbers(whole.flatten())  # flatten() honours offsets and slices, and drops NULL lists
    values[fits] = elements.reshape(-1, length)
    missing[fits] = absent.reshape(-1, length)
    return values, missing, (sizes >= 0) & ~fits


def packed(column: pa.Array, length: int) -> tuple[npt.NDArray[np.float32], Mask, Mask]:
    """A BINARY column of float32 numbers, little endian, as one matrix; what it returns is as for `lists`.

    >>> values, missing, wrong = packed(pa.array([np.array([1, 2], "<f4").tobytes(), None, b"abc"]), 2)
    >>> values[0].tolist(), missing.tolist(), wrong.tolist()
    ([1.0, 2.0], [[False, False], [True, True], [True, True]], [False, False, True])
    """
    rows = len(column)
    sizes = np.asarray(pc.fill_null(pc.binary_length(column), -1))
    fits = sizes == 4 * length
    values: npt.NDArray[np.float32] = np.zeros((rows, length), dtype=np.float32)
    missing: Mask = np.ones((rows, length), dtype=bool)
    values[fits] = contents(column if fits.all() else column.filter(pa.array(fits))).view("<f4").reshape(-1, length)
    missing[fits] = False
    return values, missing, (sizes >= 0) & ~fits


def wanted(columns: Sequence[pa.Array]) -> tuple[Mask, Sequence[pa.Array]]:
    """Which rows are to be scored [rows], and the columns: of a query the first stands in a struct beside that, see Wanted.java.

    >>> mask, (first, second) = wanted([pa.array([{"wanted": True, "column": 5}, {"wanted": False, "column": 6}]), pa.array([7, 8])])
    >>> mask.tolist(), first.to_pylist(), second.to_pylist()
    ([True, False], [5, 6], [7, 8])
    """
    if not pa.types.is_struct(columns[0].type):
        return np.ones(len(columns[0]), dtype=bool), columns
    mask, first = columns[0].flatten()  # honours offsets and slices
    return np.asarray(pc.fill_null(mask, False), dtype=bool), [first, *columns[1:]]


def contents(column: pa.Array) -> npt.NDArray[np.uint8]:
    """The bytes of all values of a BINARY column without NULLs, one after the other, as a view of it.

    >>> contents(pa.array([b"none", b"ab", b"", b"c"])[1:]).tobytes()
    b'abc'
    """
    whole = column.cast(pa.large_binary())
    _, offsets, data = whole.buffers()
    if not len(whole) or data is None:
        return np.zeros(0, np.uint8)
    ends = np.frombuffer(offsets, np.int64)[whole.offset : whole.offset + len(whole) + 1]  # a slice's bytes begin within the buffer
    return np.frombuffer(data, np.uint8, int(ends[-1] - ends[0]), int(ends[0]))


def codes(column: pa.Array, vocabulary: pa.Array, nulls_seen: bool) -> npt.NDArray[np.int64]:
    """The code of each string: its place in the vocabulary plus 2, 1 for NULL where training saw one, 0 for unknown.

    >>> codes(pa.array(["b", None, "zz", "a"]), pa.array(["a", "b"]), True).tolist()
    [3, 1, 0, 2]
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    places = pc.index_in(column.cast(vocabulary.type), value_set=vocabulary)
    found: npt.NDArray[np.int64] = np.asarray(pc.fill_null(pc.add(places.cast(pa.int64()), 2), 0), dtype=np.int64)
    return np.where(np.asarray(pc.is_null(column), dtype=bool), 1 if nulls_seen else 0, found)


def floats_to_arrow(values: npt.NDArray[Any], valid: Mask | None = None) -> pa.Array:
    """A float64 Arrow array; NULL where `valid` is False."""
    return pa.array(np.ascontiguousarray(values, dtype=np.float64), mask=None if valid is None else ~valid)
