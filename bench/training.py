"""Samples a second of the training rounds, once warm, against plain PyTorch on all cores in the same run."""

import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyspark.sql import SparkSession
from torch import nn

from bench.tables import Row

ROWS, WIDTH, BATCH, RATE, THREADS = 60_000, 784, 256, 0.05, 2


def run(spark: SparkSession) -> list[Row]:
    """One table, two trainers, plain PyTorch before and after."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, ROWS)
    features = (random.random((10, WIDTH))[labels] + random.normal(0, 0.5, (ROWS, WIDTH))).astype(np.float32)
    before = plain(features, labels)
    ours = rounds(spark, features, labels)
    peer = float(np.median([before, plain(features, labels)]))
    return [Row("MLP, samples/s", f"{ours:,.0f}", f"{peer:,.0f} plain PyTorch, {THREADS} threads", f"{ours / peer:.2f}")]


def rounds(spark: SparkSession, features: np.ndarray, labels: np.ndarray) -> float:
    """The median rate of the rounds after the first two, which start workers and import torch."""
    with tempfile.TemporaryDirectory() as folder:
        flat = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), WIDTH).cast(pa.list_(pa.float32()))
        for half in range(2):
            rows = slice(half * ROWS // 2, (half + 1) * ROWS // 2)
            pq.write_table(pa.table({"x": flat[rows], "label": labels[rows]}), f"{folder}/{half}.parquet")
        options = f"hidden_units = [512, 256], optimizer = 'sgd', learn_rate = {RATE}, batch_size = {BATCH}, max_iterations = 8"
        spark.sql(
            f"""CREATE OR REPLACE MODEL bench OPTIONS (model_type = 'dnn_classifier', {options}, early_stop = false, num_workers = 2,
            data_split_method = 'no_split') AS SELECT * FROM parquet.`{folder}`"""
        ).collect()
    rates = spark.sql("SELECT rows_per_second FROM ML_TRAINING_INFO('bench') WHERE round > 2").toPandas()
    return float(rates.rows_per_second.median())


def plain(features: np.ndarray, labels: np.ndarray) -> float:
    """The same network, batches and optimiser in a loop of their own."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(WIDTH, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))
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
