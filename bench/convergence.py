"""Epochs to an accuracy on rows held out, by the number of workers, with default options otherwise: more workers must not learn slower."""

from pyspark.sql import SparkSession

from bench.tables import Row
from examples.datasets import path

EPOCHS = 12
WORK = (("adult", "income", 0.85), ("digits", "label", 0.93))


def run(spark: SparkSession) -> list[Row]:
    """Adult and digits on 1, 2, 4, 8 and 16 workers; where cores do not do for a gang, the driver averages."""
    rows = []
    for name, label, goal in WORK:
        alone = _epochs(spark, name, label, goal, 1)
        for workers in (2, 4, 8, 16):
            epochs = _epochs(spark, name, label, goal, workers)
            rows.append(
                Row(
                    f"{name} to {goal}, {workers} workers",
                    f"{epochs:.1f} epochs",
                    f"{alone:.1f} one worker",
                    f"{epochs / alone:.2f}",
                    "1.2",
                )
            )
    return rows


def _epochs(spark: SparkSession, name: str, label: str, goal: float, workers: int) -> float:
    """Epochs until the held-out accuracy reaches the goal, the last one counted by the part that a straight line to it takes."""
    options = f"model_type = 'dnn_classifier', input_label_cols = ['{label}'], max_iterations = {EPOCHS}, num_workers = {workers}, max_score = {goal}"
    more = "early_stop = false, data_split_method = 'random'"
    spark.sql(f"CREATE OR REPLACE MODEL bench OPTIONS ({options}, {more}) AS SELECT * FROM parquet.`{path(name)}`").collect()
    info = "SELECT epoch, metrics['accuracy'] AS score FROM ML_TRAINING_INFO('bench') WHERE eval_loss IS NOT NULL"
    newest = "version = (SELECT max(version) FROM ML_MODEL_VERSIONS('bench'))"
    before = 0.0
    for row in spark.sql(f"{info} AND {newest} ORDER BY epoch").collect():
        if row.score >= goal:
            return float(row.epoch - 1 + (goal - before) / (row.score - before)) if row.epoch > 1 else 1.0
        before = row.score
    return float("inf")
