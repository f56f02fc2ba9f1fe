"""The DataFrame API: what it gives is what SQL gives."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pyspark.errors import AnalysisException, ParseException, PythonException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import dlsql
from dlsql.errors import NotFoundError, OptionError, TypeMismatchError
from dlsql.frame import as_options

FEW = {"max_iterations": 1, "hidden_units": (4,)}


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> Iterator[DataFrame]:
    """300 rows in a database of their own with two models of them: `worth`, a regressor, and `dear`, a classifier."""
    spark.sql("CREATE DATABASE frames")
    spark.sql("USE frames")
    made = spark.range(300).selectExpr("INT(id % 5) AS rooms", "id * 1.5D AS area", "id * 2D + 3 AS price", "id > 150 AS expensive")
    dlsql.train(made.drop("expensive"), "worth", model_type="dnn_regressor", input_label_cols=["price"], comment="it's", **FEW)
    dlsql.train(made.drop("price"), "dear", model_type="dnn_classifier", input_label_cols=["expensive"], **FEW)
    yield made
    spark.sql("DROP MODEL worth")
    spark.sql("DROP MODEL dear")
    spark.sql("USE default")
    spark.sql("DROP DATABASE frames CASCADE")


def views(spark: SparkSession) -> list[str]:
    return [table.name for table in spark.catalog.listTables() if table.isTemporary and table.name.startswith("__dlsql")]


def test_train_returns_the_row_of_create_model(spark: SparkSession, rows: DataFrame) -> None:
    row = dlsql.train(rows.select("area", "price"), "again", model_type="linear_regressor", input_label_cols=["price"], max_iterations=1)
    assert list(row.asDict()) == ["model", "version", "model_type", "rows_trained", "loss", "metrics", "seconds", "uri"]
    assert (row["model"], row["version"], row["model_type"], row["rows_trained"]) == ("frames.again", 1, "linear_regressor", 300)
    assert views(spark) == []
    spark.sql("DROP MODEL again")


def test_train_keeps_what_the_caller_cached(spark: SparkSession, rows: DataFrame) -> None:
    frame = rows.select("area", "price").cache()
    try:
        frame.count()
        dlsql.train(frame, "cached", model_type="linear_regressor", input_label_cols=["price"], max_iterations=1)
        assert frame.storageLevel.useMemory
        assert "InMemoryTableScan" in rows.select("area", "price")._jdf.queryExecution().executedPlan().toString()
        spark.sql("DROP MODEL cached")
    finally:
        frame.unpersist()


def test_train_refuses_what_is_no_name_and_a_stream(spark: SparkSession, rows: DataFrame) -> None:
    with pytest.raises(
        TypeMismatchError, match=re.escape("[DLSQL_ARGUMENTS] train takes a model's name, a string; got None. SQLSTATE: 42804")
    ):
        dlsql.train(rows, None, model_type="linear_regressor")  # type: ignore[arg-type]
    stream = spark.readStream.format("rate").load().selectExpr("value AS x", "value AS label")
    with pytest.raises(
        AnalysisException, match=re.escape("[DLSQL_UNSUPPORTED] Training on a stream is not supported yet. Write it to a table")
    ):
        dlsql.train(stream, "streamed", model_type="linear_regressor")
    assert views(spark) == []


def test_train_replaces_and_keeps_as_create_model_does(spark: SparkSession, rows: DataFrame) -> None:
    frame = rows.select("area", "price")
    options = {"model_type": "linear_regressor", "input_label_cols": ["price"], "max_iterations": 1}
    first = dlsql.train(frame, "frames.next", **options)
    kept = dlsql.train(frame, "next", if_not_exists=True, **options)
    second = dlsql.train(frame, "next", replace=True, **options)
    assert kept == first
    assert second["version"] == 2
    spark.sql("DROP MODEL next")


def test_train_fails_with_the_text_of_sql_and_leaves_no_view(spark: SparkSession, rows: DataFrame) -> None:
    with pytest.raises(AnalysisException) as taken:
        dlsql.train(rows, "worth", model_type="dnn_regressor", input_label_cols=["price"])
    with pytest.raises(AnalysisException) as misspelt:
        dlsql.train(rows, "new", model_type="dnn_regressor", hiden_units=[4])
    with pytest.raises(ParseException) as one_version:
        dlsql.train(rows, "worth@v2", model_type="dnn_regressor")
    assert [str(raised.value) for raised in (taken, misspelt, one_version)] == [
        "[DLSQL_MODEL_EXISTS] Model `frames.worth` is registered already. Use CREATE OR REPLACE MODEL for its next version. SQLSTATE: 42710",
        "[DLSQL_UNKNOWN_OPTION] `hiden_units` is not an option of CREATE MODEL. Did you mean `hidden_units`? SQLSTATE: 22023",
        "[DLSQL_SYNTAX] `worth@v2` names one version, and the model as a whole is meant, at line 1, column 14. SQLSTATE: 42601",
    ]
    assert views(spark) == []


def test_show_create_model_says_that_a_dataframe_was_trained_from(spark: SparkSession, rows: DataFrame) -> None:
    ((text,),) = spark.sql("SHOW CREATE MODEL worth").collect()
    assert re.sub("__dlsql_[0-9a-f]{32}", "<view>", text) == (
        "CREATE MODEL frames.worth\nCOMMENT 'it\\'s'\nOPTIONS (\n  model_type = 'dnn_regressor',\n  input_label_cols = ['price'],\n"
        "  max_iterations = 1,\n  hidden_units = [4]\n)\nAS\nSELECT /* trained from a DataFrame, which this view was */ * FROM <view>"
    )


def test_options_of_python_become_options_of_sql() -> None:
    given = {"Hidden_Units": (np.int64(8), 4), "dropout": np.float32(0.5), "early_stop": False, "class_weights": {1: 2}, "grad_clip": None}
    assert as_options(given) == (("hidden_units", [8, 4]), ("dropout", 0.5), ("early_stop", False), ("class_weights", {"1": 2}))
    with pytest.raises(OptionError, match="Option `loss` is <built-in function len>; a builtin_function_or_method is none of the values"):
        as_options({"loss": len})


def test_predict_matches_columns_names_structs_and_sql(spark: SparkSession, rows: DataFrame) -> None:
    calls = [
        dlsql.predict("worth"),
        dlsql.predict("frames.worth@v1", "area", "rooms"),
        dlsql.predict("worth", F.col("rooms"), F.col("area")),
        dlsql.predict("worth", F.struct("area", "rooms", "price")),
        dlsql.predict(F.concat(F.lit("wor"), F.lit("th"))),
        F.expr("predict('worth', rooms, area)"),
    ]
    answers = rows.select(*(call.alias(str(i)) for i, call in enumerate(calls))).limit(5).collect()
    assert [len(set(row)) for row in answers] == [1] * 5


def test_functions_are_typed_by_the_model(rows: DataFrame) -> None:
    frame = rows.select(
        dlsql.predict("dear").alias("a"), dlsql.try_predict("dear").alias("b"), dlsql.predict_proba("dear").alias("c"),
        dlsql.ml_predict("dear").alias("d"), dlsql.ml_predict("worth").alias("e"),
    )  # fmt: skip
    everything = "struct<label:boolean,probability:double,probabilities:array<struct<label:boolean,probability:double>>>"
    assert [kind for _, kind in frame.dtypes] == ["boolean", "boolean", "map<boolean,double>", everything, "struct<value:double>"]
    assert frame.where(dlsql.predict("dear", "rooms", "area").isNull()).count() == 0


def test_predict_udf_answers_as_predict_does(spark: SparkSession, rows: DataFrame) -> None:
    dear, worth = dlsql.predict_udf("dear"), dlsql.predict_udf("frames.worth@v1", spark)
    frame = rows.select(
        dear("rooms", "area").alias("a"),
        dlsql.predict("dear").alias("b"),
        worth("rooms", "area").alias("c"),
        dlsql.predict("worth").alias("d"),
    )
    assert frame.dtypes == [("a", "boolean"), ("b", "boolean"), ("c", "double"), ("d", "double")]
    assert [row for row in frame.collect() if row["a"] != row["b"] or row["c"] != row["d"]] == []


@pytest.mark.parametrize(("columns", "got"), [(("rooms", "area", "price"), 3), (("rooms",), 1), ((), 0)])
def test_predict_udf_of_too_many_or_too_few_columns_names_those_it_takes(rows: DataFrame, columns: tuple[str, ...], got: int) -> None:
    with pytest.raises(PythonException, match=re.escape(f"[DLSQL_SCORING] Got {got} columns; the model takes 2: rooms, area.")):
        rows.select(dlsql.predict_udf("worth")(*columns)).collect()


def test_predict_udf_registers_as_a_function_of_sql(spark: SparkSession, rows: DataFrame) -> None:
    spark.udf.register("is_dear", dlsql.predict_udf("dear"))
    ((same,),) = spark.sql("SELECT is_dear(3, 120D) = PREDICT('dear', 3, 120D)").collect()
    assert same


def test_predict_udf_of_an_unknown_model_suggests_one(rows: DataFrame) -> None:
    with pytest.raises(NotFoundError, match=re.escape("Model `frames.daer` is not registered. Did you mean `frames.dear`?")):
        dlsql.predict_udf("daer")


def test_models_lists_the_catalog(spark: SparkSession, rows: DataFrame) -> None:
    listed = dlsql.models(spark).where("namespace = 'frames'").select("model", "version", "model_type", "comment").orderBy("model")
    assert [tuple(row) for row in listed.collect()] == [("dear", 1, "dnn_classifier", ""), ("worth", 1, "dnn_regressor", "it's")]
    assert dlsql.models().columns == ["namespace", "model", "version", "model_type", "created_at", "owner", "comment"]


UNATTACHED = """
import dlsql
from pyspark.sql import SparkSession
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").config("spark.log.level", "ERROR").config(
    "spark.sql.catalogImplementation", "hive").config("spark.sql.warehouse.dir", "warehouse").getOrCreate()
frame = spark.sql("SELECT id AS a, id * 2D AS b FROM range(50)")
row = dlsql.train(frame, "m", model_type="linear_regressor", input_label_cols=["b"], max_iterations=1)
print(row.version, frame.select(dlsql.predict("m")).distinct().count(), dlsql.models(spark).count(), spark.catalog.listTables())
"""


@pytest.mark.slow
def test_frame_of_a_session_that_was_never_attached_trains_and_predicts(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", UNATTACHED], cwd=tmp_path, capture_output=True, text=True, timeout=200, env=environment())
    assert done.stdout.splitlines()[-1:] == ["1 50 1 []"], done.stderr


def environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parent.parent)
    gateway = ("PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET")
    return {key: value for key, value in os.environ.items() if key not in gateway} | {"PYTHONPATH": root, "PYSPARK_PYTHON": sys.executable}
