"""Rows to blocks: a few thousand rows as contiguous buffers, so that reading them later is a memory copy and no row conversion."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from udfs import preprocess, tensors
from udfs.spec import Label, Preprocess

BLOCK_SCHEMA = "worker int, held_out boolean, rows int, dense binary, codes binary, label binary, weight binary"
_BLOCK_BYTES = 4 << 20  # large enough that a block's overhead is nothing, small enough that a worker holds several
_BLOCK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Packing:
    """How rows are packed. A batch holds worker, held out, weight (where `weighted`), label and features, in this order."""

    learned: Preprocess
    weighted: bool


def pack(packing: Packing, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """A partition's rows -> its blocks, in the rows' order: one worker's, those to train on before those held out."""
    for batch in _regrouped(_parted(batches), _rows_a_block(packing.learned)):
        columns = iter(batch.columns)
        worker, held_out = next(columns)[0].as_py(), next(columns)[0].as_py()
        weight = tensors.numbers(next(columns))[0] if packing.weighted else np.ones(len(batch))
        label = encode_label(packing.learned.label, next(columns))
        inputs = preprocess.encode(packing.learned, list(columns))
        buffers = (inputs.dense, inputs.codes, label, weight.astype(np.float32))
        values = [[worker], [held_out], [len(batch)], *([np.ascontiguousarray(buffer).tobytes()] for buffer in buffers)]
        types = [pa.int32(), pa.bool_(), pa.int32(), *[pa.binary()] * 4]
        names = ["worker", "held_out", "rows", "dense", "codes", "label", "weight"]
        yield pa.RecordBatch.from_arrays([pa.array(v, t) for v, t in zip(values, types, strict=True)], names=names)


def encode_label(label: Label, column: pa.Array) -> npt.NDArray[np.int64] | npt.NDArray[np.float32]:
    """Classes by their place, int64 [rows]; numbers scaled, float32 [rows].

    >>> encode_label(Label("y", "string", pa.array(["no", "yes"])), pa.array(["yes", "no"])).tolist()
    [1, 0]
    """
    if label.classes is None:
        return ((tensors.numbers(column)[0] - label.mean) / label.scale).astype(np.float32)
    places: npt.NDArray[np.int64] = np.asarray(pc.index_in(column, value_set=label.classes.cast(column.type)), dtype=np.int64)
    return places


def _rows_a_block(learned: Preprocess) -> int:
    row = 4 * preprocess.dense_width(learned.features) + 8 * len(learned.features) + 12
    return max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // row))


def _parted(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in the same order, none of a batch held out or all: FALSE comes before TRUE."""
    for batch in batches:
        training = len(batch) - (batch.column(1).true_count if len(batch) else 0)
        yield batch.slice(0, training)
        yield batch.slice(training)


def _regrouped(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in the same order, `rows` of them a batch but for the last that are trained on and the last held out."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        if held and len(batch) and held[0].column(1)[0] != batch.column(1)[0]:
            yield _joined(held)
            held, count = [], 0
        while len(batch):
            part = batch.slice(0, rows - count)
            batch = batch.slice(len(part))
            held.append(part)
            count += len(part)
            if count == rows:
                yield _joined(held)
                held, count = [], 0
    if held:
        yield _joined(held)


def _joined(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(parts).combine_chunks().to_batches()[0]
