"""One job turns rows into blocks, kept by Spark: reading a block later is a memory copy and no row conversion."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyspark import RDD, StorageLevel
from pyspark.sql import functions as F

from dlsql.options import Settings
from dlsql.training.profile import Profile, column, held_out
from udfs.batches import Block
from udfs.pack import BLOCK_SCHEMA, Packing, pack

_STEPS_AN_EPOCH = 1000  # of each worker, which an epoch of a large table keeps
_BATCHES_A_WORKER = 32  # fewer batches an epoch make a worker's round too short to be worth another worker


@dataclass(frozen=True, slots=True)
class Blocks:
    """A partition for each worker: the blocks that it trains on, then those that it holds out."""

    rdd: "RDD[Block]"
    rows: tuple[tuple[int, int], ...]  # of each worker: to train on, and held out
    content: int  # a checksum of all bytes in their order: it tells one training set from another

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


def pack_rows(found: Profile, settings: Settings, workers: int) -> Blocks:
    """The training rows as blocks. Which worker gets a row, whether it is held out and its place in the partition follow from the row's
    content and the seed: a block that is lost and built again holds the same rows in the same order, whatever Spark's shuffles do.
    """
    columns = found.columns
    names = [name for name in (columns.label, columns.weight, columns.split, *columns.features) if name is not None]
    # Spark's hash passes over NULLs: where they are is hashed too, so that (1, NULL) is not (NULL, 1).
    nullable = [column(name).isNull() for name in names if columns.frame.schema[name].nullable]
    content = F.xxhash64(F.lit(settings.seed), *(column(name) for name in names), *nullable)
    hashed = columns.frame.withColumn(_HASH, content)
    worker = F.pmod(F.shiftright(F.col(_HASH), 30), F.lit(workers)).cast("int")
    aside = held_out(found, settings, F.col(_HASH))
    parts = [*([columns.weight] if columns.weight else []), columns.label, *columns.features]
    # Numbered: mapInArrow looks its columns up by name again, unquoted, and a name may hold dots and backticks.
    chosen = [worker.alias(_WORKER), aside.alias(_ASIDE), F.col(_HASH), *(column(name).alias(str(i)) for i, name in enumerate(parts))]
    # Arrays break the ties of their hashes themselves: NULLs among their elements are passed over as well.
    arrays = [F.col(str(i)) for i, name in enumerate(parts) if columns.types[name].startswith("array")]
    rows = hashed.select(*chosen).repartitionById(workers, _WORKER).sortWithinPartitions(_ASIDE, _HASH, *arrays).drop(_HASH)
    blocks = rows.mapInArrow(partial(pack, Packing(found.learned, columns.weight is not None)), BLOCK_SCHEMA)
    kept = blocks.rdd.map(tuple).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        return counted(kept)
    except BaseException:
        kept.unpersist()
        raise


def counted(rdd: "RDD[Block]") -> Blocks:
    """Makes the blocks, of which each partition holds one worker's."""

    def count(partition: Any) -> Iterator[tuple[int, int, int]]:
        rows, content = [0, 0], 0
        for block in partition:
            rows[block[1]] += block[2]
            for buffer in block[3:]:
                content = zlib.crc32(buffer, content)
        yield rows[0], rows[1], content

    found = list(rdd.context.runJob(rdd, count))
    return Blocks(rdd, tuple((one[0], one[1]) for one in found), zlib.crc32(repr(found).encode()))


_HASH, _WORKER, _ASIDE = "__dlsql_hash", "__dlsql_worker", "__dlsql_aside"
