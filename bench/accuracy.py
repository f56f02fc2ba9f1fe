"""Networks trained with default options on real data, against scikit-learn's with the same layers, on the same held-out rows."""

import pandas as pd
from pyspark.sql import SparkSession
from sklearn.compose import make_column_transformer
from sklearn.metrics import accuracy_score, r2_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from bench.tables import Row
from examples.datasets import path

HELD_OUT = "pmod(xxhash64(*), 5) = 0 AS held_out"
SPLIT = "data_split_method = 'custom', data_split_col = 'held_out'"


def run(spark: SparkSession) -> list[Row]:
    """Adult, diamonds and digits."""
    adult = spark.read.parquet(str(path("adult")))
    diamonds = spark.read.parquet(str(path("diamonds"))).selectExpr("* EXCEPT (price)", "ln(price) AS log_price")
    digits = spark.read.parquet(str(path("digits")))
    return [
        _row(spark, "adult, accuracy", adult, "income", "dnn_classifier", MLPClassifier(hidden_layer_sizes=(128, 64), random_state=0, early_stopping=True), "peer - 0.005"),
        _row(spark, "diamonds, R2 of log price", diamonds, "log_price", "dnn_regressor", MLPRegressor(hidden_layer_sizes=(128, 64), random_state=0, early_stopping=True), "0.97"),
        _row(spark, "10,000 digits, accuracy", digits, "label", "dnn_classifier", MLPClassifier(hidden_layer_sizes=(128, 64), random_state=0, early_stopping=True), "0.93"),
    ]  # fmt: skip


def _row(spark, what, frame, label, kind, peer, goal) -> Row:
    frame.selectExpr("*", HELD_OUT).createOrReplaceTempView("data")
    spark.sql(
        f"CREATE OR REPLACE MODEL bench OPTIONS (model_type = '{kind}', input_label_cols = ['{label}'], {SPLIT}) AS SELECT * FROM data"
    ).collect()
    rows = spark.sql(f"SELECT {label} AS truth, PREDICT('bench', struct(*)) AS guess FROM data WHERE held_out").toPandas()
    data = spark.table("data").toPandas()
    if "image" in data:
        data = pd.concat([pd.DataFrame(data["image"].tolist()).add_prefix("p"), data.drop(columns="image")], axis=1)
    learn, test = data[~data.held_out].drop(columns="held_out"), data[data.held_out].drop(columns="held_out")
    words = [name for name in learn if learn[name].dtype == object and name != label]
    numbers = [name for name in learn if name not in words and name != label]
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), words), (StandardScaler(), numbers))
    fitted = make_pipeline(columns, peer).fit(learn.drop(columns=label), learn[label])
    score = accuracy_score if kind.endswith("classifier") else r2_score
    ours, theirs = score(rows.truth, rows.guess), score(test[label], fitted.predict(test.drop(columns=label)))
    return Row(what, f"{ours:.4f}", f"{theirs:.4f} scikit-learn", f"{ours - theirs:+.4f}", goal)
