"""What CREATE MODEL learns from: columns of every type and name, options, and data that is not fit to be learned from."""

import importlib
import math
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dlsql import training
from dlsql.session import language
from dlsql.training import jobs
from dlsql.training.running import Running
from examples.datasets import path
from tests.waiting import until

PROFILE = importlib.import_module("dlsql.training.profile")  # a function of the package has its name
LINEAR = "model_type = 'linear_regressor', max_iterations = 1"
CLASSES = "model_type = 'logistic_classifier', max_iterations = 1"


@pytest.fixture(scope="module", autouse=True)
def lab(spark: SparkSession) -> Iterator[None]:
    """A database of this module's own."""
    spark.sql("CREATE DATABASE lab")
    spark.sql("USE lab")
    yield
    for row in spark.sql("SHOW MODELS IN lab").collect():
        spark.sql(f"DROP MODEL lab.`{row['model']}`")
    spark.sql("USE default")
    spark.sql("DROP DATABASE lab CASCADE")


def train(spark: SparkSession, options: str, query: str, name: str = "m") -> dict[str, Any]:
    (row,) = spark.sql(f"CREATE OR REPLACE MODEL {name} OPTIONS ({options}) AS {query}").collect()
    return dict(row.asDict())


@pytest.mark.parametrize(
    "label",
    [
        "CAST(id % 3 AS TINYINT)",
        "if(id % 50 = 0, NULL, id % 3 - 1)",
        "concat('k', id % 2)",
        "sin(id)",
        "if(id = 9, double('NaN'), id * 1D)",
    ],
)
def test_a_scan_of_columns_trains_as_one_of_rows(spark: SparkSession, tmp_path: Path, label: str) -> None:
    """Without its vectorised reader Parquet gives rows. The loss is of the same rows in the same order."""
    spark.range(900).selectExpr(
        "nullif(id % 7, 3) AS whole", "CASE WHEN id % 100 = 1 THEN float('Infinity') WHEN id % 9 = 0 THEN NULL ELSE CAST(cos(id) AS FLOAT) END AS real",
        "element_at(array('ä', '', NULL, 'bb'), CAST(id % 4 + 1 AS INT)) AS word", "DATE'2020-01-01' + CAST(id AS INT) AS day",
        "array(id * 1D, if(id % 11 = 0, double('-Infinity'), NULL)) AS pair", "CAST(id % 5 AS DECIMAL(9, 2)) AS weight", f"{label} AS label",
    ).repartition(3).write.parquet(str(tmp_path / "rows"))  # fmt: skip
    kind = "dnn_regressor" if label.endswith(("sin(id)", "1D)")) else "dnn_classifier"
    found = []
    for vectorised in ("true", "false"):
        spark.conf.set("spark.sql.parquet.enableVectorizedReader", vectorised)
        try:
            options = f"model_type = '{kind}', hidden_units = [8], max_iterations = 2, num_workers = 2, instance_weight_col = 'weight'"
            found.append(train(spark, options, f"SELECT * FROM parquet.`{tmp_path}/rows`"))
        finally:
            spark.conf.unset("spark.sql.parquet.enableVectorizedReader")
    columns, rows = found
    for same in ("loss", "rows_trained"):
        assert columns[same] == rows[same]
    assert 500 < rows["rows_trained"] < 800
    assert {k: v for k, v in columns["metrics"].items() if "seconds" not in k} == {
        k: v for k, v in rows["metrics"].items() if "seconds" not in k
    }


@pytest.mark.parametrize(
    ("column", "other"),
    [
        ("CAST(id AS TINYINT)", "CAST(1 AS TINYINT)"),
        ("CAST(id % 2 AS BOOLEAN)", "true"),
        ("CAST(id AS DECIMAL(12, 3))", "1.500BD"),
        ("DATE'2024-01-01' + CAST(id AS INT)", "DATE'2024-02-29'"),
        ("timestamp_seconds(id * 5000)", "TIMESTAMP'2024-02-29 12:00:00'"),
        ("CAST(timestamp_seconds(id * 5000) AS TIMESTAMP_NTZ)", "TIMESTAMP_NTZ'2024-02-29 12:00:00'"),
        ("concat('word ', id % 50)", "'word 7'"),
        ("array(id, id + 1)", "array(1L, 2L)"),
        ("array(CAST(id AS DECIMAL(5, 1)))", "array(CAST(1 AS DECIMAL(5, 1)))"),
        ("CAST(NULL AS DOUBLE)", "1D"),
        ("CAST(NULL AS STRING)", "'x'"),
        ("7", "8"),
        ("if(id % 2 = 0, NULL, id)", "CAST(NULL AS BIGINT)"),
    ],
)
def test_a_feature_of_every_type_trains_and_predicts(spark: SparkSession, column: str, other: str) -> None:
    row = train(spark, LINEAR, f"SELECT {column} AS x, id * 1D AS label FROM range(100)")
    assert row["rows_trained"] == 100
    (got,) = spark.sql(f"SELECT PREDICT('m', x) AS a, PREDICT('m', {other}) AS b FROM (SELECT {column} AS x FROM range(1))").collect()
    assert all(value is not None and math.isfinite(value) for value in got)


def test_jobs_in_sparks_ui_tell_the_version_the_round_and_the_loss(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlsql.training.rounds._JOINED_SECONDS", 0.0)  # no job has time for a second epoch
    for _ in range(2):
        train(spark, LINEAR.replace("= 1", "= 2"), "SELECT id AS x, id * 1D AS label FROM range(100)", "named")
    jobs = spark.sparkContext._jsc.sc().statusStore().jobsList(None)  # the latest first
    said = [str(jobs.apply(i).description().get()) for i in range(6) if jobs.apply(i).description().isDefined()]
    rounds = [one for one in reversed(said) if "round" in one]
    assert rounds[0] == "train lab.named v2: rounds 1 and on, epochs 1 and on of 2"
    assert re.fullmatch(r"train lab\.named v2: round 2, epoch 2/2, loss [\d.]+", rounds[1])


@pytest.mark.parametrize(
    ("label", "type"),
    [
        ("id % 3", "bigint"),
        ("CAST(id % 3 AS TINYINT)", "tinyint"),
        ("id % 6 < 3", "boolean"),
        ("concat('çlass ', id % 3)", "string"),
        ("CAST(id % 3 AS DECIMAL(5, 2))", "decimal(5,2)"),
        ("CAST(id % 3 AS FLOAT)", "float"),
        ("DATE'2024-01-01' + CAST(id % 3 AS INT)", "date"),
        ("timestamp_seconds(id % 3)", "timestamp"),
        ("CAST(timestamp_seconds(id % 3) AS TIMESTAMP_NTZ)", "timestamp_ntz"),
        ("CAST(CAST(id % 3 AS STRING) AS BINARY)", "binary"),
    ],
)
def test_a_label_of_every_scalar_type_comes_back_in_its_own_type(spark: SparkSession, label: str, type: str) -> None:
    spark.sql(f"CREATE OR REPLACE TEMPORARY VIEW rows AS SELECT id % 6 AS x, {label} AS label FROM range(120)")
    train(
        spark,
        "model_type = 'dnn_classifier', hidden_units = [16], learn_rate = 0.05, batch_size = 16, max_iterations = 30, early_stop = false",
        "SELECT * FROM rows",
    )
    frame = spark.sql("SELECT label, PREDICT('m', x) AS p, PREDICT_PROBA('m', x)[label] AS q FROM rows")
    assert frame.dtypes == [("label", type), ("p", type), ("q", "double")]
    rows = frame.collect()
    assert sum(row["label"] == row["p"] for row in rows) > 100  # six values of x decide three classes: easily learned
    assert all(0 <= row["q"] <= 1 for row in rows)


@pytest.mark.parametrize("name", ["my col", "a.b", "tick`s", "größe", "select", "日本", "x'y", "label2", "__dlsql_key"])
def test_columns_of_any_name(spark: SparkSession, name: str) -> None:
    quoted = f"`{name.replace('`', '``')}`"
    train(
        spark,
        f"{LINEAR}, input_label_cols = ['the label']",
        f"SELECT id AS {quoted}, array(id) AS `{name.replace('`', '``')}s`, id * 2 AS `the label` FROM range(50)",
    )
    assert (
        spark.sql(f"SELECT PREDICT('m', struct(*)) AS p FROM (SELECT 1L AS {quoted}, array(2L) AS `{name.replace('`', '``')}s`)").collect()[
            0
        ]["p"]
        is not None
    )


def test_a_name_is_no_pattern_for_others(spark: SparkSession) -> None:
    """As Hive reads names in backticks, `a.b` is a_b as well."""
    losses = []
    for hive in ("false", "true"):
        spark.conf.set("spark.sql.parser.quotedRegexColumnNames", hive)
        try:
            query = "SELECT sin(id) AS `a.b`, cos(id) AS a_b, id AS y FROM range(200)"
            losses.append(train(spark, f"{LINEAR}, input_label_cols = ['y']", query)["loss"])
        finally:
            spark.conf.unset("spark.sql.parser.quotedRegexColumnNames")
    assert losses[0] == losses[1]


def test_ten_thousand_categories_train_by_an_embedding_and_unknown_ones_predict(spark: SparkSession) -> None:
    train(spark, "model_type = 'dnn_regressor', max_iterations = 1", "SELECT concat('c', id) AS c, id % 7 AS label FROM range(10000)")
    row = spark.sql("SELECT PREDICT('m', 'c77') AS a, PREDICT('m', 'never seen') AS b, PREDICT('m', CAST(NULL AS STRING)) AS c").collect()[
        0
    ]
    assert row["a"] is not None
    assert row["b"] == row["c"]  # training saw no NULL: it goes to the unknown bucket


@pytest.mark.slow
def test_a_thousand_columns(spark: SparkSession) -> None:
    columns = ", ".join(f"(id * {i} % 97) AS c{i}" for i in range(1, 1001))
    train(spark, LINEAR, f"SELECT {columns}, id AS label FROM range(200)")
    assert spark.sql(f"SELECT PREDICT('m', struct(*)) AS p FROM (SELECT {columns} FROM range(2))").count() == 2


@pytest.mark.parametrize("partitions", [1, 7, 60])
def test_statistics_are_what_sparks_aggregations_say(spark: SparkSession, partitions: int) -> None:
    far = "1e6 + id % 7 / 3"  # where the mean of squares has no digits left
    rows = spark.range(0, 50, 1, partitions).selectExpr(
        "CASE id WHEN 3 THEN double('nan') WHEN 4 THEN NULL WHEN 5 THEN float('-inf') ELSE randn(1) END AS checked",
        f"{far} AS far", "IF(id % 3 = 0, NULL, id - 25) AS whole", "id > 20 AS flag", "CAST(id AS DECIMAL(20, 2)) AS exact",
        "CAST(NULL AS DOUBLE) AS none",
    )  # fmt: skip
    bridge, names = language(spark).bridge, rows.columns
    count, odd, found = bridge.statistics(rows, [1, 0, 2, 3, 4, 5, 1], [1])
    usable = bridge.finite(rows, [0], [])
    assert (count, odd, usable.count()) == (48, 2, 48)
    for summary, name in zip(found, ["far", *names[:1], *names[2:], "far"], strict=True):
        number = f"CAST({name} AS DOUBLE)"
        ((n, mean, deviation, least, largest),) = usable.selectExpr(
            f"count({name})", f"avg({number})", f"stddev_pop({number})", f"min({number})", f"max({number})"
        ).collect()
        assert summary.count == n
        if n:
            told = (summary.mean, summary.deviation, summary.least, summary.largest)
            assert told == pytest.approx((mean, deviation, least, largest), rel=1e-9), name
            assert name in ("checked", "far") or summary.mean == mean, name  # of whole numbers, whatever order tasks end in


def test_statistics_of_no_rows_and_of_lists(spark: SparkSession) -> None:
    bridge = language(spark).bridge
    assert bridge.statistics(spark.range(0), [0], [])[:2] == (0, 0)
    assert bridge.statistics(spark.range(5).where("id < 0"), [0], [0])[2][0].count == 0
    lists = spark.sql(
        "SELECT * FROM VALUES (array(1D, NULL)), (NULL), (array(double('nan'))), (array(0D, double('-inf'))), (array()) AS t(x)"
    )
    assert [row[0] for row in bridge.finite(lists, [], [0]).collect()] == [[1.0, None], None, []]


def test_a_class_that_is_no_number_is_left_out(spark: SparkSession) -> None:
    query = "SELECT id AS x, CASE WHEN id < 3 THEN double('nan') WHEN id = 3 THEN double('inf') ELSE id % 2 END AS label FROM range(40)"
    row = train(spark, f"{CLASSES}, data_split_method = 'no_split'", query, "of_numbers")
    assert (row["rows_trained"], row["metrics"]["rows_skipped"]) == (36, 4.0)
    assert {row.rows for row in spark.sql("SELECT rows FROM ML_TRAINING_INFO('of_numbers')").collect()} == {36}


def test_rows_that_cannot_be_learned_from_are_left_out_and_counted(spark: SparkSession) -> None:
    query = """SELECT x, y AS label FROM VALUES (1D, 1D), (2D, 2D), (3D, 3D), (double('NaN'), 1D), (double('Infinity'), 1D), (1D, NULL),
               (1D, double('NaN')), (NULL, 2D) AS t(x, y)"""
    row = train(spark, LINEAR, query)
    assert (row["rows_trained"], row["metrics"]["rows_skipped"]) == (4, 4.0)


@pytest.mark.parametrize(
    ("options", "query", "message"),
    [
        (LINEAR, "SELECT 1 AS x, 2 AS label LIMIT 0", "[DLSQL_TRAINING_DATA] The training query gives 0 usable rows; training needs at least 2. SQLSTATE: 22000"),
        (LINEAR, "SELECT 1 AS x, 2 AS label", "[DLSQL_TRAINING_DATA] The training query gives 1 usable row; training needs at least 2. SQLSTATE: 22000"),
        (CLASSES, "SELECT id AS x, 'a' AS label FROM range(9)", "[DLSQL_TRAINING_DATA] Label `label` is 'a' in every row; a classifier needs at least 2 classes. SQLSTATE: 22000"),
        (LINEAR, "SELECT id AS x, id AS labell FROM range(9)", "[DLSQL_COLUMN_NOT_FOUND] Label column (input_label_cols) `label` is not among the columns: x, labell. Did you mean `labell`? SQLSTATE: 42704"),
        (LINEAR, "SELECT id AS label FROM range(9)", "[DLSQL_TRAINING_DATA] The training query has no column beside the label `label`; a model needs at least one feature. SQLSTATE: 22000"),
        (LINEAR, "SELECT id AS x, id AS X, id AS label FROM range(9)", "[DLSQL_COLUMN_TYPE] Column `X` is there twice; give each column of the training query a name of its own. SQLSTATE: 42804"),
        (LINEAR, "SELECT id AS x, id AS label, id AS LABEL FROM range(9)", "[DLSQL_COLUMN_TYPE] Column `LABEL` is there twice; give each column of the training query a name of its own. SQLSTATE: 42804"),
        (LINEAR, "SELECT map(1, id) AS x, id AS label FROM range(9)", "[DLSQL_COLUMN_TYPE] Column `x` is MAP<INT,BIGINT>; a network takes numbers, booleans, dates, timestamps, strings and arrays of numbers. Leave it out, or convert it. SQLSTATE: 42804"),
        (LINEAR, "SELECT id AS x, 'a' AS label FROM range(9)", "[DLSQL_COLUMN_TYPE] Column `label` is STRING; the label of a linear_regressor is a number. SQLSTATE: 42804"),
        (LINEAR, "SELECT array_repeat(1, int(id) % 3) AS x, id AS label FROM range(9)", "[DLSQL_SHAPE] Column `x` holds arrays of 0 to 2 numbers; a network takes arrays of one length. SQLSTATE: 42804"),
        (LINEAR + ", optimizer = 'adm'", "SELECT id AS x, id AS label FROM range(9)", "[DLSQL_OPTION_VALUE] Option `optimizer` is 'adm'; it takes one of adadelta, adafactor, adagrad, adam,"),
        (LINEAR + ", optimizer = 'sgd', optimizer_args = MAP('momentom', 0.9)", "SELECT 1 AS x, 2 AS label", "[DLSQL_OPTION_VALUE] Option `optimizer_args` is 'momentom'; SGD takes momentum, dampening, weight_decay, nesterov. Did you mean `momentum`? SQLSTATE: 22023"),
        (LINEAR + ", optimizer_args = MAP('betas', [0.9, 2])", "SELECT 1 AS x, 2 AS label", "[DLSQL_OPTION_VALUE] Option `optimizer_args` is {'betas': [0.9, 2]}; torch says: ValueError: Invalid beta parameter at index 1: 2. SQLSTATE: 22023"),
        (LINEAR + ", lr_schedule = 'StepLR'", "SELECT id AS x, id AS label FROM range(9)", "[DLSQL_OPTION_VALUE] Option `lr_schedule` is"),
        (LINEAR + ", hiden_units = [3]", "SELECT 1", "[DLSQL_UNKNOWN_OPTION] `hiden_units` is not an option of CREATE MODEL. Did you mean `hidden_units`? SQLSTATE: 22023"),
        (LINEAR + ", hidden_units = [3]", "SELECT 1", "[DLSQL_UNKNOWN_OPTION] `hidden_units` is not an option of model_type linear_regressor. It belongs to dnn_classifier, dnn_regressor. SQLSTATE: 22023"),
        (LINEAR + ", batch_size = 0", "SELECT 1", "[DLSQL_OPTION_VALUE] Option `batch_size` is 0; it takes a whole number from 1 to 16777216. SQLSTATE: 22023"),
        (LINEAR + ", batch_size = 'x'", "SELECT 1", "[DLSQL_OPTION_VALUE] Option `batch_size` is 'x'; it takes a whole number from 1 to 16777216. SQLSTATE: 22023"),
        ("model_type = 'dnn_clasifier'", "SELECT 1", "[DLSQL_OPTION_VALUE] Option `model_type` is 'dnn_clasifier'; it takes one of linear_regressor, logistic_classifier, dnn_classifier, dnn_regressor. Did you mean `dnn_classifier`? SQLSTATE: 22023"),
        ("batch_size = 3", "SELECT 1", "[DLSQL_OPTION_VALUE] Option `model_type` is not given;"),
        (LINEAR + ", learn_rate = HPARAM_RANGE(0.1, 1)", "SELECT 1", "[DLSQL_UNSUPPORTED] Searching `learn_rate` (HPARAM_RANGE, HPARAM_CANDIDATES) is not supported yet. SQLSTATE: 0A000"),
        (LINEAR + ", learn_rate = 1e30, optimizer = 'sgd'", "SELECT id AS x, id AS label FROM range(2000)", "[DLSQL_DIVERGED]"),
        (LINEAR + ", learn_rate = 1e30, data_split_method = 'no_split'", "SELECT id AS x, id AS label FROM range(50)", "[DLSQL_DIVERGED]"),
        (LINEAR + ", freeze = ['layers']", "SELECT id AS x, id AS label FROM range(9)", "[DLSQL_OPTION_VALUE] Option `freeze` is ('layers',); nothing is left to train. SQLSTATE: 22023"),
        (CLASSES + ", class_weights = MAP('c', 2)", "SELECT id AS x, if(id > 4, 'a', 'b') AS label FROM range(9)", "[DLSQL_OPTION_VALUE] Option `class_weights` is 'c'; it is no class of `label`: a, b. SQLSTATE: 22023"),
        (CLASSES + ", class_weights = MAP('a', 0, 'b', 0.0)", "SELECT id AS x, if(id > 4, 'a', 'b') AS label FROM range(9)", "[DLSQL_OPTION_VALUE] Option `class_weights` is {'a': 0.0, 'b': 0.0}; a class must weigh more than 0, or there is nothing to learn. SQLSTATE: 22023"),
        ("model_type = 'linear_regressor', max_iterations = 2, lr_schedule = MAP('name', 'StepLR', 'step_size', 0)", "SELECT id AS x, id AS label FROM range(9)", "[DLSQL_OPTION_VALUE] Option `lr_schedule` is ('StepLR', {'step_size': 0}); torch says: "),
        (LINEAR + ", lr_schedule = MAP('name', 'CyclicLR', 'base_lr', 0.1, 'max_lr', 0.2, 'step_size_up', 0)", "SELECT id AS x, id AS label FROM range(9)", "[DLSQL_OPTION_VALUE] Option `lr_schedule` is ('CyclicLR',"),
        ("model_type = 'linear_regressor', max_iterations = 10, lr_interval = 'step', lr_schedule = MAP('name', 'OneCycleLR', 'max_lr', 0.1, 'total_steps', 50)", "SELECT id AS x, id AS label FROM range(2000)", "[DLSQL_OPTION_VALUE] Option `lr_schedule` is ('OneCycleLR', {'max_lr': 0.1, 'total_steps': 50}); torch says: Tried to step 51 times."),
        (LINEAR + ", warm_start = true", "SELECT id AS x, id AS label FROM range(9)", "[DLSQL_OPTION_VALUE] Option `warm_start` is TRUE; there is no earlier version of `lab.fresh` to go on from. SQLSTATE: 22023"),
        (LINEAR + ", data_split_method = 'custom', data_split_col = 's'", "SELECT id AS x, true AS s, id AS label FROM range(9)", "[DLSQL_TRAINING_DATA] Every usable row is held out for evaluation; none is left to train on. SQLSTATE: 22000"),
        (CLASSES, "SELECT id AS x, collate(if(id > 4, 'a', 'A'), 'UTF8_LCASE') AS label FROM range(9)", "[DLSQL_COLUMN_TYPE] Column `label` is STRING COLLATE UTF8_LCASE; a network tells strings apart by their bytes, and this collation does not. Write `label` COLLATE UTF8_BINARY. SQLSTATE: 42804"),
        (LINEAR, "SELECT collate('a', 'UNICODE_CI') AS x, id AS label FROM range(9)", "[DLSQL_COLUMN_TYPE] Column `x` is STRING COLLATE UNICODE_CI; a network tells strings apart by their bytes, and this collation does not. Write `x` COLLATE UTF8_BINARY. SQLSTATE: 42804"),
        (LINEAR, "SELECT id AS x, id AS label FROM range(9)) UNION ALL (SELECT id, id FROM range(9)", "[PARSE_SYNTAX_ERROR]"),
        (LINEAR, "SELECT id AS x, id AS label FROM range(9)) AS t WHERE x < 5 UNION ALL SELECT * FROM (SELECT id, id FROM range(9)", "[PARSE_SYNTAX_ERROR]"),
        (LINEAR, "SELECT nope FROM range(9)", "[UNRESOLVED_COLUMN"),
        (LINEAR, "FROM range(9) INSERT INTO nowhere SELECT *", "[PARSE_SYNTAX_ERROR]"),
    ],
)  # fmt: skip
def test_bad_input_says_what_is_wrong_and_registers_nothing(spark: SparkSession, options: str, query: str, message: str) -> None:
    with pytest.raises(AnalysisException) as raised:
        spark.sql(f"CREATE MODEL fresh OPTIONS ({options}) AS {query}")
    assert str(raised.value).strip().split("\n")[0].startswith(message)
    assert spark.sql("SHOW MODELS IN lab LIKE 'fresh'").count() == 0


def test_padded_feature_is_refused_and_a_trimmed_one_or_a_padded_label_is_not(spark: SparkSession) -> None:
    spark.sql("CREATE TABLE padded (c CHAR(5), label CHAR(3)) USING parquet")
    spark.sql("INSERT INTO padded SELECT string(id % 3), string(id % 2) FROM range(30)")
    with pytest.raises(AnalysisException, match=re.escape("[DLSQL_COLUMN_TYPE] Column `c` is CHAR(5); its strings are padded with spaces")):
        train(spark, CLASSES, "SELECT c, label FROM padded")
    train(spark, CLASSES, "SELECT rtrim(c) AS c, label FROM padded")
    (row,) = spark.sql(
        "SELECT ML_PREDICT('m', '1') = ML_PREDICT('m', rtrim(c)) AS same, PREDICT('m', '1') AS p FROM padded WHERE c = '1' LIMIT 1"
    ).collect()
    assert (row["same"], row["p"] in ("0  ", "1  ")) == (True, True)


@pytest.mark.parametrize("clause", ["INPUT (a INT)", "OUTPUT (b INT)", "TRANSFORM (a, b)"])
def test_a_clause_that_is_not_built_is_refused(spark: SparkSession, clause: str) -> None:
    with pytest.raises(AnalysisException, match="DLSQL_UNSUPPORTED"):
        spark.sql(f"CREATE MODEL fresh {clause} OPTIONS ({LINEAR}) AS SELECT id AS x, id AS label FROM range(9)")


def test_exports_are_refused(spark: SparkSession) -> None:
    train(spark, LINEAR, "SELECT id AS x, id AS label FROM range(9)", "known")
    with pytest.raises(AnalysisException, match="DLSQL_UNSUPPORTED"):
        spark.sql("EXPORT MODEL known OPTIONS (uri = '/tmp/x', format = 'onnx')")


@pytest.mark.parametrize(
    "options",
    [
        "optimizer = 'sgd', optimizer_args = MAP('momentum', 0.9, 'nesterov', true), lr_schedule = MAP('name', 'ExponentialLR', 'gamma', 0.5), grad_clip = 1.0",
        "lr_interval = 'step', lr_schedule = [MAP('name', 'LinearLR', 'steps', 5), MAP('name', 'OneCycleLR', 'max_lr', 0.1)]",
        "optimizer = 'AdamW', l1_reg = 0.001, l2_reg = 0.001, dropout = 0.1, batch_norm = true, activation_fn = 'gelu'",
        "loss = 'huber_loss', sync_every = 1, num_workers = 3, batch_size = 32",
        "instance_weight_col = 'w', data_split_method = 'seq', data_split_col = 'x', early_stop = false",
        "data_split_method = 'random', data_split_eval_fraction = 0.5, patience = 2, checkpoint_every = 2, resume = false, freeze = ['layers.0']",
        "batch_size = 100000, num_workers = 8",
        "batch_size = 1, max_iterations = 1",
    ],
)
def test_every_option_trains_to_a_finite_loss(spark: SparkSession, options: str) -> None:
    query = "SELECT id * 1D AS x, id % 3 AS k, 1 + id % 2 AS w, id * 2D AS label FROM range(300)"
    options = options if "max_iterations" in options else options + ", max_iterations = 3"
    row = train(spark, f"model_type = 'dnn_regressor', hidden_units = [8], {options}", query)
    assert math.isfinite(row["loss"])


@pytest.mark.parametrize(
    "options",
    ["auto_class_weights = true", "class_weights = MAP('true', 3, 'false', 1)", "label_smoothing = 0.1", "loss = 'multi_margin_loss'"],
)
def test_every_option_of_classifiers_trains_to_a_finite_loss(spark: SparkSession, options: str) -> None:
    assert math.isfinite(train(spark, f"{CLASSES}, {options}", "SELECT id AS x, id > 200 AS label FROM range(300)")["loss"])


def test_a_warm_start_goes_on_from_the_version_before(spark: SparkSession) -> None:
    query = "SELECT id % 10 AS x, id % 10 * 3 AS label FROM range(1000)"
    options = "model_type = 'linear_regressor', learn_rate = 0.05, batch_size = 64, max_iterations = 3"
    first = train(spark, options, query, "warm")
    second = train(spark, f"{options}, warm_start = true", query, "warm")
    assert second["loss"] < first["loss"]
    based = train(spark, f"{options}, base_model = 'warm'", query, "based")
    assert based["loss"] < first["loss"]


def test_rows_that_differ_only_in_where_their_nulls_are_train_the_same_in_any_order(spark: SparkSession) -> None:
    rows = """SELECT if(id % 2 = 0, 1D, NULL) AS a, if(id % 2 = 0, NULL, 1D) AS b, if(id % 2 = 0, array(1D, NULL), array(NULL, 1D)) AS c, id % 2 AS label
              FROM range(200)"""
    options = "model_type = 'dnn_regressor', hidden_units = [4], batch_size = 16, num_workers = 1, max_iterations = 2"
    losses = {train(spark, options, f"{rows} ORDER BY {order}", "nulls")["loss"] for order in ("label", "label DESC", "rand(1)")}
    assert len(losses) == 1


def test_a_linear_regressor_finds_the_line(spark: SparkSession) -> None:
    options = "model_type = 'linear_regressor', learn_rate = 0.1, batch_size = 32, max_iterations = 40, early_stop = false"
    train(spark, options, "SELECT id % 100 * 1D AS x, 3 * (id % 100) + 5 AS label FROM range(1000)", "line")
    got = [row["p"] for row in spark.sql("SELECT PREDICT('line', x) AS p FROM VALUES (0D), (50D), (1000D) AS t(x)").collect()]
    assert got == pytest.approx([5, 155, 3005], rel=0.01, abs=0.5)  # Adam ends near, not on, the minimum; 1000 lies far outside


def test_more_workers_than_rows_and_more_batches_than_rows(spark: SparkSession) -> None:
    assert train(spark, f"{LINEAR}, num_workers = 16", "SELECT id AS x, id AS label FROM range(3)")["rows_trained"] == 3


def test_sync_every_step_with_sgd_equals_one_worker_on_the_joint_batches(spark: SparkSession) -> None:
    """One step of each worker and their average is one step on the joint batch, up to the rounding of float32."""
    query = "SELECT id % 50 * 1D AS x, id % 50 * 2D AS label FROM range(512)"
    options = "model_type = 'linear_regressor', optimizer = 'sgd', learn_rate = 0.1, max_iterations = 2, data_split_method = 'no_split'"
    one = train(spark, f"{options}, batch_size = 1000000", query, "joint")
    two = train(spark, f"{options}, batch_size = 4000000, num_workers = 4, sync_every = 1", query, "apart")
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)


def test_a_network_that_no_graph_holds_is_refused_before_it_trains(spark: SparkSession) -> None:
    query = "SELECT id AS x, id * 2 AS label FROM range(100)"
    with pytest.raises(AnalysisException, match=r"A network of 4,295,\d{3},\d{3} parameters is not supported yet\. A model is kept as one"):
        train(spark, "model_type = 'dnn_regressor', hidden_units = [65536, 65536]", query)


def test_int8_is_measured_and_answers_the_same_at_any_batching(spark: SparkSession) -> None:
    spark.read.parquet(str(path("digits"))).createOrReplaceTempView("images")
    options = "model_type = 'dnn_classifier', hidden_units = [512, 256], max_iterations = 3, early_stop = false"
    train(spark, options, "SELECT * FROM images", "whole")
    row = train(spark, f"{options}, quantization = 'int8'", "SELECT * FROM images", "short")
    metrics = row["metrics"]
    assert metrics["accuracy_float32"] > 0.9
    assert abs(metrics["accuracy"] - metrics["accuracy_float32"]) <= 0.005
    sizes = {
        one["model"]: one["bytes"] for one in spark.sql("SELECT model, max(bytes) AS bytes FROM dlsql.models GROUP BY model").collect()
    }
    whole, short = (sizes[one] for one in ("whole", "short"))
    assert short < whole
    answers = []
    for batch in ("3", "10000"):
        spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", batch)
        found = spark.sql("SELECT label, ml_predict('short', image) AS p FROM images LIMIT 200").collect()
        answers.append([tuple(one["p"].probabilities) for one in found])
    spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    assert answers[0] == answers[1]
    right = spark.sql("SELECT avg(int(predict('short', image) = label)) FROM images").collect()[0][0]
    assert right > 0.9


def test_int8_of_a_large_network_is_refused_before_it_trains(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[object] = []
    monkeypatch.setattr(training, "pack_rows", lambda *given: packed.append(given))
    options = "model_type = 'dnn_regressor', hidden_units = [4096, 1024], quantization = 'int8'"
    said = r"\[DLSQL_UNSUPPORTED\] int8 of a network of more than 16 MB is not supported yet\. This network has 16 MB; leave `quantization` out\."
    with pytest.raises(AnalysisException, match=said):
        train(spark, options, "SELECT id AS x, id * 2 AS label FROM range(200)", "refused")
    assert packed == []


def test_what_blocks_were_made_of_is_gone_when_training_begins(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows on their way to the workers take memory, or disk, only until they are there."""
    first, run = [], jobs.train
    manager = language(spark).bridge._class("dlsql.Storage").manager()

    def kept() -> set[int]:
        """RDDs that have blocks."""
        blocks = str(manager.blockInfoManager().entries().mkString(" "))
        return {int(number) for number in re.findall(r"rdd_(\d+)_", blocks)}

    def watched(*given: Any) -> Any:
        until(lambda: kept() == set(spark.sparkContext._jsc.getPersistentRDDs()))
        first.append(kept())
        return run(*given)

    monkeypatch.setattr(jobs, "train", watched)
    train(spark, LINEAR, "SELECT id AS x, id * 2 AS label FROM range(2000)", "light")
    assert [len(one) for one in first] == [1]


def test_an_error_in_the_query_says_where_in_the_query_it_is(spark: SparkSession) -> None:
    with pytest.raises(AnalysisException, match=r"UNRESOLVED_COLUMN.* line 1 pos 16;") as raised:
        spark.sql(f"CREATE MODEL fresh OPTIONS ({LINEAR}) AS SELECT id AS x, amount AS label FROM range(10)")
    assert "__auto_generated_subquery_name" not in str(raised.value)


def weights(row: dict[str, Any]) -> dict[str, bytes]:
    with np.load(Path(row["uri"].removeprefix("file:")) / "weights.npz") as stored:
        return {name: stored[name].tobytes() for name in stored.files}


def test_a_training_goes_on_with_the_workers_it_began_with_over_the_same_rows_alone(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cores come and go: how many there are when a statement is run again is no part of what it learns."""
    options = """model_type = 'dnn_regressor', hidden_units = [8], batch_size = 16, max_iterations = 6, early_stop = false,
                 lr_schedule = 'ReduceLROnPlateau'"""  # which makes a job of each epoch
    query = "SELECT id % 7 AS x, id % 7 * 2D AS label FROM range({})"

    def begun() -> Any:
        return spark.sql(
            "SELECT min(at) FROM ML_TRAINING_INFO('m') WHERE version = (SELECT max(version) FROM ML_MODEL_VERSIONS('m'))"
        ).first()

    def among(workers: int) -> None:
        monkeypatch.setattr(training, "workers", lambda settings, rows, parallelism: workers)

    def fail(one: Running) -> None:
        if one.last is not None and one.last.round >= 3:
            raise OSError("a power cut")

    among(2)
    whole = train(spark, options, query.format(200))
    with monkeypatch.context() as patched:
        patched.setattr(Running, "check", fail)
        for rows in (200, 201):
            with pytest.raises(PySparkException, match="a power cut"):
                train(spark, options, query.format(rows))
    then = datetime.now()
    among(1)
    assert weights(train(spark, options, query.format(200))) == weights(whole)
    assert begun()[0] < then
    other = train(spark, options, query.format(202))
    assert begun()[0] > then
    assert weights(other) != weights(whole)
    assert weights(train(spark, options, query.format(200))) != weights(whole)  # one worker alone, from the beginning


def test_a_gang_beside_clients_that_keep_the_cores_busy_gets_on_and_ends_with_the_same_weights(spark: SparkSession) -> None:
    """Of a barrier stage all tasks begin at once, and Spark gives a core that gets free to whoever waits for one."""
    options = "model_type = 'dnn_regressor', hidden_units = [8], num_workers = 2, batch_size = 16, max_iterations = 3, early_stop = false"
    query = "SELECT id % 7 AS x, id % 7 * 2D AS label FROM range(200)"
    over = threading.Event()

    def keep_busy() -> None:
        while not over.is_set():
            spark.sql("SELECT max(sqrt(id * 1.5D)) FROM range(0, 60000000, 1, 1)").collect()

    alone = train(spark, options, query)
    with ThreadPoolExecutor(4) as clients:
        busy = [clients.submit(keep_busy) for _ in range(4)]
        try:
            beside = train(spark, options, query)
            assert not any(one.done() for one in busy)
        finally:
            over.set()
    assert weights(beside) == weights(alone)


RANDOM = np.random.default_rng(0)
NUMBERS = {
    "even": RANDOM.permutation(np.arange(5000.0)),
    "a moment far off": np.append(RANDOM.integers(1_500_000_000, 1_700_000_000, 3000), 253_402_214_400.0),
    "few": RANDOM.integers(0, 3, 3000) * 1.0,
    "one": np.full(100, -7.5),
    "of all sizes": np.exp(RANDOM.normal(0, 30, 3000)) * RANDOM.choice([-1, 1], 3000),
    "the largest": np.array([-1.7e308, 1.7e308, 0.0, 1e300] * 50),
    "the smallest": np.array([5e-324, 1e-323, 0.0, -5e-324] * 50),
    "infinite": np.array([-np.inf] * 40 + [np.inf] * 30 + list(range(30)), float),
    "none": np.array([]),
}


@pytest.mark.parametrize("numbers", NUMBERS)
def test_a_quantile_in_passes_parts_rows_as_one_in_a_task_does(spark: SparkSession, numbers: str) -> None:
    """Spark's own interpolates between two of the numbers, and the same are above it."""
    given = np.sort(NUMBERS[numbers])
    frame = spark.createDataFrame([(one,) for one in [*given.tolist(), None, None]], "x DOUBLE").repartition(3).cache()
    for share in (0.2, 0.8):
        many, few = (PROFILE._quantile(frame, F.col("x"), share, rows) for rows in (10_000_000, 10))
        if not len(given):
            assert (many, few) == (None, None)
            continue
        assert many == given[math.floor(share * (len(given) - 1))]
        assert np.isinf(given).any() or (given > many).sum() == (given > few).sum()
    frame.unpersist()


def test_a_split_in_order_of_many_rows_is_that_of_few(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    options = "model_type = 'linear_regressor', max_iterations = 2, data_split_method = 'seq', data_split_col = 'day', seed = 1"
    query = "SELECT DATE'2020-01-01' + CAST(id * 7 % 1000 AS INT) AS day, id % 9 AS x, id % 9 * 2 AS label FROM range(1000)"
    few = train(spark, options, query)
    monkeypatch.setattr(PROFILE, "_QUANTILE_ROWS", 0)
    assert train(spark, options, query)["loss"] == few["loss"]
