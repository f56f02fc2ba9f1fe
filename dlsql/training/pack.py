"""One job turns rows into blocks, files that Spark keeps and workers map into memory: reading one later costs next to nothing."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from pyspark import RDD
from pyspark.sql import functions as F

from dlsql import encoding
from dlsql.bridge import Bridge
from dlsql.options import Settings
from dlsql.training.profile import Profile, class_key, column, held_out
from udfs.batches import Block, opened
from udfs.rows import row_type

_STEPS_AN_EPOCH = 1000  # of each worker, which an epoch of a large table keeps
_BATCHES_A_WORKER = 12  # fewer batches an epoch make a worker's round too short to be worth another worker


@dataclass(frozen=True, slots=True)
class Blocks:
    """A partition for each worker: the blocks that it trains on, then those that it holds out."""

    stored: "RDD[str | bytes]"  # where they lie
    rows: tuple[tuple[int, int], ...]  # of each worker: to train on, and held out
    content: tuple[int, ...]  # checksums of the rows to train on and of those held out, among however many workers they are divided

    @property
    def rdd(self) -> "RDD[Block]":
        """The blocks, opened where they are read."""
        return self.stored.map(opened)

    def free(self) -> None:
        """Removes them from the executors."""
        self.stored.unpersist()

    @property
    def holds_out(self) -> bool:
        """Whether any rows are held out."""
        return any(held_out for _, held_out in self.rows)

    @property
    def workers(self) -> int:
        """How many tasks train."""
        return len(self.rows)


def workers(settings: Settings, rows: int, parallelism: int) -> int:
    """How many tasks train: as many as there are cores, where each gets rows enough."""
    return settings.num_workers or max(1, min(parallelism, rows // (_BATCHES_A_WORKER * settings.batch_size)))


def local_batch(settings: Settings, rows: int, workers: int) -> int:
    """Rows a step of one worker: its share of a batch of all. In a large table as many as the whole batch has, as long as an epoch keeps
    enough steps to learn in; never where gradients are averaged, whose joint batch is what was asked for.

    With a whole batch for each of 16 workers the census of 39,000 rows has 10 steps an epoch, and took 6 epochs to the accuracy that one
    worker has after the first; with shares it took 2.
    """
    share = -(-settings.batch_size // workers)
    if settings.sync_every == 1:
        return share
    return max(share, min(settings.batch_size, rows // (_STEPS_AN_EPOCH * workers)))


def pack_rows(bridge: Bridge, found: Profile, settings: Settings, workers: int, title: str = "rows") -> Blocks:
    """The training rows as blocks. Which worker gets a row, whether it is held out and its place in the partition follow from the row's
    content and the seed: a block that is lost and built again holds the same rows in the same order, whatever Spark's shuffles do.

    All of it happens in the JVM, on bytes: as columns of Arrow the rows of a wide table took ten times as long.
    """
    columns, labels = found.columns, found.learned.labels
    aside = held_out(found, settings)
    drawn = int((1 << 30) * found.held_out) if aside is None else -1  # of 2^30 rows; else each row says
    beside = [
        column(name) if label.classes is None else class_key(column(name), columns.types[name])
        for name, label in zip(columns.labels, labels, strict=True)
    ]
    beside += [F.lit(1.0) if columns.weight is None else column(columns.weight), F.lit(0) if aside is None else aside.cast("int")]
    rows, taken = columns.beside(columns.features, beside)
    row = row_type(found.learned, {"key": "<i8", "label": f"({len(labels)},)<i4", "weight": "<f4"})  # a label is a class or a float32
    encoder = bridge.encoder(encoding.told(found.learned, row, strict=True, finite=True, more=_others(found, row)))
    assert row.fields is not None
    ends = [*(int(row.fields[name][1]) for name in ("label", "weight", "dense", "codes")), row.itemsize]
    blocks = max(1, -(-found.rows * row.itemsize // (workers * _BLOCK_BYTES)))
    joined = max(1, min(_BUCKETS_A_BLOCK, _BUCKETS // (2 * workers * blocks))) if row.itemsize < _LONG_ROW else 1
    stored = bridge.blocks(rows, taken, encoder, workers, joined * blocks, joined, ends, settings.seed, drawn, title)
    try:
        return _counted(bridge, stored)
    except BaseException:
        stored.unpersist()
        raise


def _others(found: Profile, row: "np.dtype[np.void]") -> list[dict[str, Any]]:
    """What a row holds beside its features, as an Encoder is told of it."""
    assert row.fields is not None
    at = {name: int(row.fields[name][1]) for name in ("label", "weight", "key")}
    answers: list[dict[str, Any]] = [
        {"kind": "number", "means": [label.mean], "scales": [label.scale]}
        if label.classes is None
        else {"kind": "category", "words": words}
        for label, words in zip(found.learned.labels, found.class_texts, strict=True)
    ]
    return [
        *({"name": _LABEL, "at": at["label"] + 4 * place, **answer} for place, answer in enumerate(answers)),
        {"name": _WEIGHT, "at": at["weight"], "kind": "number", "means": [0.0], "scales": [1.0]},
        {"name": _KEY, "at": at["key"], "kind": "raw"},
    ]


def _counted(bridge: Bridge, stored: "RDD[str | bytes]") -> Blocks:
    """Makes the blocks, of which each partition holds one worker's."""
    found = bridge.counted(stored)
    bridge.settle(stored)
    return Blocks(stored, tuple((one[0], one[1]) for one in found), tuple(sum(one[at] for one in found) for at in (2, 3)))


_KEY, _LABEL, _WEIGHT = "__dlsql_key", "__dlsql_label", "__dlsql_weight"
_BLOCK_BYTES = 32 << 20  # a worker shuffles within a block, and holds it in memory
_BUCKETS_A_BLOCK = 16  # each put in order by itself, in a core's cache
_LONG_ROW = 1 << 10  # bytes from which on it does not matter whether the cache holds the next one
_BUCKETS = 1024  # of all blocks and workers, where blocks are not more: a task that splits rows has a chunk of each under way
