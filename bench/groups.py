"""A network for each of 1,000 groups of 1,000 rows, by TRAIN, against applyInPandas with hand-written PyTorch of the same network."""

import time
from collections.abc import Callable

from pyspark.sql import DataFrame, SparkSession

from bench.tables import Row

GROUPS, ROWS, EPOCHS, BATCH, RATE = 1_000, 1_000, 5, 128, 1e-3
OPTIONS = f"""struct(array(64, 32) AS hidden_units, {EPOCHS} AS max_iterations, {BATCH} AS batch_size, {RATE}D AS learn_rate,
false AS early_stop, 'no_split' AS data_split_method)"""


def run(spark: SparkSession) -> list[Row]:
    """The same table in both, each twice and in turn, after a short run that starts the workers and imports torch."""
    spark.range(GROUPS * ROWS).selectExpr(
        f"id % {GROUPS} AS store", "rand(1) AS a", "rand(2) AS b", "rand(3) AS c", "randn(4) AS d", "3 * rand(1) + rand(2) * rand(3) AS y"
    ).createOrReplaceTempView("rows")
    spark.sql("CACHE TABLE rows")
    few = spark.sql("SELECT * FROM rows WHERE store < 20")
    rows = spark.table("rows")
    for trained in (train, by_hand):
        seconds(trained, few)
    ours, theirs = zip(*((seconds(train, rows), seconds(by_hand, rows)) for _ in range(2)), strict=True)
    spark.sql("UNCACHE TABLE rows")
    took, peer = min(ours), min(theirs)  # what else the machine does makes a run slower, and none faster
    return [Row("groups/s", f"{GROUPS / took:,.1f}", f"{GROUPS / peer:,.1f} applyInPandas and PyTorch", f"{peer / took:.2f}", "1.0")]


def seconds(trained: Callable[[DataFrame], DataFrame], rows: DataFrame) -> float:
    """How long every group's network takes to its bytes."""
    began = time.perf_counter()
    trained(rows).selectExpr("count(m)", "sum(length(m))").collect()
    return time.perf_counter() - began


def train(rows: DataFrame) -> DataFrame:
    rows.createOrReplaceTempView("given")
    return rows.sparkSession.sql(f"SELECT store, TRAIN('dnn_regressor', struct(a, b, c, d), y, {OPTIONS}) AS m FROM given GROUP BY store")


def by_hand(rows: DataFrame) -> DataFrame:
    def fit(group):
        import io

        import pandas as pd
        import torch
        from torch import nn

        torch.set_num_threads(1)
        torch.manual_seed(0)
        x = torch.from_numpy(group[["a", "b", "c", "d"]].to_numpy("float32"))
        y = torch.from_numpy(group["y"].to_numpy("float32"))
        x = (x - x.mean(0)) / x.std(0)
        y = (y - y.mean()) / y.std()
        network = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
        optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(x)).split(BATCH):
                optimizer.zero_grad()
                nn.functional.mse_loss(network(x[batch])[:, 0], y[batch]).backward()
                optimizer.step()
        sink = io.BytesIO()
        torch.save(network.state_dict(), sink)
        return pd.DataFrame({"store": [group["store"].iloc[0]], "m": [sink.getvalue()]})

    return rows.groupBy("store").applyInPandas(fit, "store long, m binary")
