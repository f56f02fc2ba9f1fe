"""One job turns rows into blocks, kept by Spark: reading a block later is a memory copy and no row conversion."""

from dataclasses import dataclass
from functools import partial

from pyspark import RDD, StorageLevel
from pyspark.sql import functions as F

from dlsql.options import Settings
from dlsql.training.profile import Profile, column, held_out
from udfs.batches import Block
from udfs.pack import BLOCK_SCHEMA, Packing, pack

_BATCHES_A_WORKER = 32  # fewer batches an epoch make a worker's round too short to be worth another worker


@dataclass(frozen=True, slots=True)
class Blocks:
    """A partition for each worker: the blocks that it trains on, then those that it holds out."""

    rdd: "RDD[Block]"
    workers: int


def workers(settings: Settings, rows: int, parallelism: int) -> int:
    """How many tasks train: as many as there are cores, where each gets rows enough."""
    return settings.num_workers or max(1, min(parallelism, rows // (_BATCHES_A_WORKER * settings.batch_size)))


def pack_rows(found: Profile, settings: Settings, workers: int) -> Blocks:
    """The training rows as blocks. Which worker gets a row, whether it is held out and its place in the partition follow from the row's
    content and the seed: a block that is lost and built again holds the same rows in the same order, whatever Spark's shuffles do.
    """
    columns = found.columns
    names = [name for name in (columns.label, columns.weight, columns.split, *columns.features) if name is not None]
    content = F.xxhash64(F.lit(settings.seed), *(column(name) for name in names))
    hashed = columns.frame.withColumn(_HASH, content)
    worker = F.pmod(F.shiftright(F.col(_HASH), 30), F.lit(workers)).cast("int")
    aside = held_out(found, settings, F.col(_HASH))
    parts = [*([columns.weight] if columns.weight else []), columns.label, *columns.features]
    # Numbered: mapInArrow looks its columns up by name again, unquoted, and a name may hold dots and backticks.
    chosen = [worker.alias(_WORKER), aside.alias(_ASIDE), F.col(_HASH), *(column(name).alias(str(i)) for i, name in enumerate(parts))]
    rows = hashed.select(*chosen).repartitionById(workers, _WORKER).sortWithinPartitions(_ASIDE, _HASH).drop(_HASH)
    blocks = rows.mapInArrow(partial(pack, Packing(found.learned, columns.weight is not None)), BLOCK_SCHEMA)
    return Blocks(blocks.rdd.map(tuple).persist(StorageLevel.MEMORY_AND_DISK), workers)


_HASH, _WORKER, _ASIDE = "__dlsql_hash", "__dlsql_worker", "__dlsql_aside"
