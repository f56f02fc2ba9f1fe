"""The main job on real data: train a deep network with a SQL statement, look at it, and use it as a SQL function. Run: make demo"""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

import dlsql
from examples.datasets import path

TABLE = "CREATE TABLE people AS SELECT * FROM parquet.`{adult}`"

TRAIN = """CREATE MODEL income
COMMENT 'Does a person earn more than 50,000 dollars a year?'
OPTIONS (
  model_type = 'dnn_classifier',
  input_label_cols = ['income'],
  hidden_units = [128, 64]
)
AS SELECT age, workclass, education, marital_status, occupation, relationship, gender,
          capital_gain, capital_loss, hours_per_week, native_country, income
FROM people"""

LOSS = "SELECT epoch, rows, round(train_loss, 4) AS train_loss, round(eval_loss, 4) AS eval_loss, round(rows_per_second) AS rows_per_second FROM ML_TRAINING_INFO('income')"

EVALUATION = "SELECT * FROM ML_EVALUATE('income', TABLE(people))"

PREDICTIONS = """SELECT age, education, occupation, income AS truth, PREDICT('income', struct(*)) AS predicted,
       round(PREDICT_PROBA('income', struct(*))['>50K'], 3) AS probability
FROM people LIMIT 8"""

BY_GROUP = """SELECT education, count(*) AS people, round(100 * avg(if(income = '>50K', 1, 0)), 1) AS percent_rich,
       round(100 * avg(PREDICT_PROBA('income', struct(*))['>50K']), 1) AS percent_predicted
FROM people GROUP BY education ORDER BY percent_predicted DESC LIMIT 6"""

PROMOTE = "ALTER MODEL income VERSION 1 SET ALIAS = champion"

USE_ALIAS = "SELECT count(*) AS rich FROM people WHERE PREDICT('income@champion', struct(*)) = '>50K'"

CATALOG = "SELECT namespace, model, version, model_type, rows_trained, round(metrics['accuracy'], 4) AS accuracy FROM dlsql.models"

TOUR = (
    ("A deep network is trained by a statement, on Spark, where the data is", TRAIN),
    ("Its loss, epoch by epoch, on the rows it learned from and on those held out", LOSS),
    ("How good it is", EVALUATION),
    ("It is a SQL function: predictions beside the truth", PREDICTIONS),
    ("... anywhere in a query", BY_GROUP),
    ("An alias says which version is in use", PROMOTE),
    ("... and queries follow it", USE_ALIAS),
    ("What was trained stands in Hive metastore tables, which any engine can read", CATALOG),
)


def main() -> None:
    """Runs the tour in a warehouse of its own, which is removed at the end."""
    with warehouse() as folder:
        print("Starting Spark with an embedded metastore ...", flush=True)
        spark = dlsql.session(folder, conf={"spark.ui.enabled": "false", "spark.driver.memory": "2g"})
        try:
            spark.sql(TABLE.format(adult=path("adult"))).collect()
            for title, statement in TOUR:
                show(spark, title, statement)
        finally:
            spark.stop()
    print("Next: README.md shows JDBC, Spark Connect, DataFrames and the command line.")


def show(spark: SparkSession, title: str, statement: str) -> DataFrame:
    """A statement, and the rows it gives."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold}-- {title}{plain}\n{statement};\n", flush=True)
    rows = spark.sql(statement)
    rows.show(20, truncate=60)
    return rows


@contextmanager
def warehouse() -> Iterator[Path]:
    """A folder for tables, models and the metastore, for as long as the tour lasts."""
    folder = Path(tempfile.mkdtemp(prefix="dlsql-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
