"""What a training's rounds, averagings and packing cost, each against plain PyTorch or the bare scan in the same run."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyspark.sql import DataFrame, SparkSession
from torch import nn

import dlsql
from bench.tables import Row, compared, measured, scanned, timed
from dlsql import options
from dlsql.bridge import Bridge
from dlsql.session import language
from dlsql.training.pack import pack_rows
from dlsql.training.profile import columns, profile
from udfs.networks.lenet import lenet5

ROWS, WIDTH, BATCH, RATE, WORKERS = 60_000, 784, 256, 0.05, 2
STEPS = ROWS // WORKERS // BATCH  # an epoch, on each of two workers


def run(spark: SparkSession) -> list[Row]:
    """One table, two trainers, plain PyTorch before and after."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, ROWS)
    features = (random.random((10, WIDTH))[labels] + random.normal(0, 0.5, (ROWS, WIDTH))).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        digits, numbers, few = f"{folder}/digits", f"{folder}/numbers", f"{folder}/few"
        _write(Path(digits), features, labels)
        spark.range(1_000_000).selectExpr(*(f"rand({i}) AS c{i}" for i in range(20)), "id % 2 AS label").write.parquet(numbers)
        spark.range(1024).selectExpr("id * 1D AS x", "id * 2D AS label").write.parquet(few)
        for kind in (_PERCEPTRON, _LENET):  # what takes its time once
            _rate(spark, digits, kind, 10 * STEPS)
        before = plain(features, labels, perceptron)
        once, often, synchronous = (_rate(spark, digits, _PERCEPTRON, every) for every in (10 * STEPS, -(-STEPS // 16), 1))
        peer = statistics.median([before, plain(features, labels, perceptron)])
        lenet, lenet_peer = _rate(spark, digits, _LENET, 10 * STEPS), plain(features, labels, image_network)
        beyond = 1000 * WORKERS * BATCH * (1 / synchronous - 1 / once)  # of an iteration of both workers, above what they compute
        return [
            Row("one averaging an epoch, samples/s", f"{once:,.0f}", f"{peer:,.0f} plain PyTorch", f"{once / peer:.2f}", "1.0"),
            Row("  LeNet-5, samples/s", f"{lenet:,.0f}", f"{lenet_peer:,.0f} plain PyTorch", f"{lenet / lenet_peer:.2f}", "1.1"),
            Row("16 averagings an epoch, samples/s", f"{often:,.0f}", f"{peer:,.0f} plain PyTorch", f"{often / peer:.2f}", "0.85"),
            Row("synchronous SGD, samples/s", f"{synchronous:,.0f}", f"{peer:,.0f} plain PyTorch", f"{synchronous / peer:.2f}"),
            Row("  beyond its compute, an iteration", f"{beyond:.1f} ms", goal="10 ms"),
            _price_of_a_round(spark, few),
            _packing(spark, "60,000 x array of 784", digits),
            _packing(spark, "1,000,000 x 20 columns", numbers),
            _profiling(spark, "1,000,000 x 20 columns", numbers),
        ]


def _write(folder: Path, features: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir()
    flat = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), WIDTH).cast(pa.list_(pa.float32()))
    for half in range(2):
        rows = slice(half * ROWS // 2, (half + 1) * ROWS // 2)
        pq.write_table(pa.table({"x": flat[rows], "label": labels[rows]}), folder / f"{half}.parquet")


def _train(spark: SparkSession, folder: str, kind: str, more: str) -> None:
    fixed = f"model_type = '{kind}', optimizer = 'sgd', batch_size = {WORKERS * BATCH}, early_stop = false, data_split_method = 'no_split', {more}"
    spark.sql(f"CREATE OR REPLACE MODEL bench OPTIONS ({fixed}) AS SELECT * FROM parquet.`{folder}`").collect()


_PERCEPTRON = "hidden_units = [512, 256]"
_LENET = "module = 'lenet5', reshape = MAP('x', [1, 28, 28])"


def _rate(spark: SparkSession, folder: str, network: str, every: int) -> float:
    """The median of the epochs after the first two, which start workers and import torch."""
    more = f"{network}, learn_rate = {RATE}, max_iterations = 8, num_workers = {WORKERS}, sync_every = {every}"
    _train(spark, folder, "dnn_classifier", more)
    info = "SELECT sum(rows) / sum(seconds) AS rate FROM ML_TRAINING_INFO('bench') WHERE version = (SELECT max(version) FROM ML_MODEL_VERSIONS('bench'))"
    rates = spark.sql(f"{info} AND epoch > 2 GROUP BY epoch").toPandas()
    return float(rates.rate.median())


def _price_of_a_round(spark: SparkSession, folder: str) -> Row:
    """The seconds of a round that computes next to nothing, a linear model's two steps, and that no other shares its job with: where the
    next learning rate waits for the loss.
    """
    _train(spark, folder, "linear_regressor", f"max_iterations = 30, num_workers = {WORKERS}, lr_schedule = 'ReduceLROnPlateau'")
    info = (
        "SELECT seconds FROM ML_TRAINING_INFO('bench') WHERE round > 5 AND version = (SELECT max(version) FROM ML_MODEL_VERSIONS('bench'))"
    )
    price = float(spark.sql(info).toPandas().seconds.median())
    return Row("a round that computes nothing, in a job of its own", f"{1000 * price:.0f} ms", goal="120 ms")


def _packing(spark: SparkSession, what: str, folder: str) -> Row:
    """Rows to blocks, against the same table read and dropped."""
    table, settings, bridge = _table(spark, folder)
    chosen = columns(bridge, table, settings)
    rows = chosen.frame.count()
    found = profile(bridge, chosen, settings, rows)
    return _beside_scan(f"packing {what}, rows/s", rows, table, lambda: pack_rows(bridge, found, settings, WORKERS).free(), "0.5")


def _profiling(spark: SparkSession, what: str, folder: str) -> Row:
    """What is learned of the columns before the first step, against the same."""
    table, settings, bridge = _table(spark, folder)
    rows = table.count()
    return _beside_scan(
        f"profiling {what}, rows/s", rows, table, lambda: profile(bridge, columns(bridge, table, settings), settings, rows), ""
    )


def _table(spark: SparkSession, folder: str) -> tuple[DataFrame, options.Settings, Bridge]:
    session = dlsql.attach(spark)
    settings = options.read((("model_type", "dnn_classifier"), ("data_split_method", "no_split")))
    return session.sql(f"SELECT * FROM parquet.`{folder}`"), settings, language(session).bridge


def _beside_scan(what: str, rows: int, table: DataFrame, work: Callable[[], object], goal: str) -> Row:
    took = measured([("dlsql", lambda: timed(work)), ("bare scan", lambda: scanned(table))])
    return compared(what, rows, took, "bare scan", goal)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))


def image_network() -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 28, 28)), lenet5({"x": (1, 28, 28)}, 10))


def plain(features: np.ndarray, labels: np.ndarray, make: Callable[[], nn.Module]) -> float:
    """The same network, batches and optimiser in a loop of their own, on all cores."""
    torch.set_num_threads(WORKERS)
    torch.manual_seed(0)
    network = make()
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
    x, y, rates = torch.from_numpy(features), torch.from_numpy(labels), []
    for _ in range(4):
        began = time.perf_counter()
        for batch in torch.randperm(ROWS).split(BATCH):
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
            optimizer.step()
        rates.append(ROWS / (time.perf_counter() - began))
    return float(np.median(rates[1:]))
