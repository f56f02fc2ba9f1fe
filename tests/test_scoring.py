"""How predictions run: packed in the JVM at any batching, once a row, for no more rows than are wanted."""

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyspark.errors import StreamingQueryException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming import StreamingQuery

import dlsql
from tests.seen import scored, workers

FEATURES = ("tiny", "whole", "far", "share", "price", "open", "day", "moment", "local", "word", "pair", "many")
# Of each column of the table some values are NULL, some odd: NaN, infinities, words and moments that training did not see.
ODD = """
SELECT id,
  CAST(nullif(pmod(hash(id, 1), 250), 7) - 125 AS TINYINT) AS tiny,
  nullif(hash(id, 2), pmod(id, 9)) AS whole,
  if(id % 13 = 0, NULL, xxhash64(id, 3)) AS far,
  CASE pmod(hash(id, 4), 20) WHEN 0 THEN NULL WHEN 1 THEN double('NaN') WHEN 2 THEN double('Infinity') WHEN 3 THEN double('-Infinity')
    WHEN 4 THEN -0D WHEN 5 THEN 1e300D ELSE hash(id, 5) / 1e8D END AS share,
  if(id % 11 = 0, NULL, CAST(pmod(hash(id, 6), 1000000) / 100 AS DECIMAL(20, 4))) AS price,
  CASE id % 3 WHEN 0 THEN NULL WHEN 1 THEN true ELSE false END AS open,
  if(id % 10 = 3, NULL, date_add(DATE'1900-01-01', pmod(hash(id, 7), 80000))) AS day,
  if(id % 10 = 4, NULL, timestamp_micros(xxhash64(id, 8) % 4000000000000000)) AS moment,
  if(id % 10 = 5, NULL, CAST(timestamp_micros(xxhash64(id, 9) % 4000000000000000) AS TIMESTAMP_NTZ)) AS local,
  element_at(array('ä', 'bb', '', NULL, '名前', concat('new ', id)), CAST(id % 6 + 1 AS INT)) AS word,
  if(id % 17 = 0, NULL, array(CAST(hash(id, 10) / 1e9 AS FLOAT), if(id % 5 = 0, NULL, 2F))) AS pair,
  array(id, if(id % 4 = 0, NULL, -id), 3L) AS many
FROM range({rows})"""


@pytest.fixture(scope="module")
def odd(spark: SparkSession) -> Iterator[DataFrame]:
    """Rows of every kind of column, and a regression and a classification over them."""
    spark.sql("CREATE DATABASE odd")
    spark.sql("USE odd")
    usual = "SELECT * FROM odd WHERE share IS NULL OR abs(share) < 100"
    spark.sql(ODD.format(rows=400)).createOrReplaceTempView("odd")
    label = "CASE pmod(hash(id), 3) WHEN 0 THEN DATE'2020-02-29' WHEN 1 THEN DATE'1999-12-31' ELSE DATE'2000-01-01' END AS label"
    for model, kind, answer in (("number", "dnn_regressor", "id % 7 AS label"), ("class", "dnn_classifier", label)):
        options = f"model_type = '{kind}', max_iterations = 1, hidden_units = [8]"
        spark.sql(f"CREATE MODEL {model} OPTIONS ({options}) AS SELECT {', '.join(FEATURES)}, {answer} FROM ({usual})")
    yield spark.sql(ODD.format(rows=1000)).coalesce(1).cache()
    spark.catalog.clearCache()
    for view in ("odd", "given"):
        spark.catalog.dropTempView(view)
    spark.sql("USE default")
    for model in ("number", "class"):
        spark.sql(f"DROP MODEL odd.{model}")
    spark.sql("DROP DATABASE odd CASCADE")


@pytest.mark.parametrize(("batch", "partitions"), [(1, 1), (2, 3), (7, 2), (97, 5), (100_000, 1), (100, 90)])
def test_packed_rows_are_scored_as_columns_are_at_any_batching(spark: SparkSession, odd: DataFrame, batch: int, partitions: int) -> None:
    rows = odd.where("id < 60") if batch == 1 or partitions == 90 else odd  # some empty
    by_column = {model: dlsql.predict_udf(f"odd.{model}", spark) for model in ("number", "class")}
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(batch))
    try:
        both = rows.repartition(partitions).select(
            dlsql.predict("odd.number", *FEATURES).alias("packed"),
            by_column["number"](*FEATURES).alias("unpacked"),
            dlsql.predict("odd.class", *FEATURES).alias("packed_class"),
            by_column["class"](*FEATURES).alias("unpacked_class"),
        )
        found = both.toPandas()
    finally:
        spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    assert len(found) == rows.count()
    assert found.packed.notna().sum() > len(found) / 2
    # The same numbers enter the same graph, but for the last digit of a sine; the graph's own sums depend on the batch.
    np.testing.assert_allclose(found.packed, found.unpacked, rtol=1e-4, atol=1e-5)
    finite = found.packed.notna()
    assert (found.packed_class == found.unpacked_class)[finite].mean() > 0.995  # a tie may fall either way


def test_encoding_in_the_jvm_is_interpreted_as_it_is_compiled(spark: SparkSession, odd: DataFrame) -> None:
    asked = odd.select("id", dlsql.predict("odd.number", *FEATURES).alias("y"), dlsql.predict_proba("odd.class", *FEATURES).alias("p"))
    compiled = asked.orderBy("id").collect()
    settings = {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}
    for key, value in settings.items():
        spark.conf.set(key, value)
    try:
        assert [str(row) for row in asked.select("*").orderBy("id").collect()] == [str(row) for row in compiled]
    finally:
        for key in settings:
            spark.conf.unset(key)


CALL = "PREDICT('odd.number', struct(given.*))"


TAKEN = ", ".join(FEATURES)


@pytest.mark.parametrize(
    ("query", "as_number"),
    [
        ("SELECT id, {p} AS y FROM given", True),
        ("SELECT {p} AS y, id, word FROM given", True),
        ("SELECT id, coalesce({p}, -1) + id AS y, {p} AS z FROM given WHERE {p} > 3", True),
        ("SELECT id, y, z + 1 AS w FROM (SELECT *, {p} AS y, {p} AS z FROM given) WHERE y > 3 AND z < 9", True),
        (f"SELECT id, {{p}} AS y, PREDICT('odd.number', struct({TAKEN}, tiny AS extra)) AS z FROM given", True),
        (f"SELECT id, {{p}} AS y, PREDICT('odd.class', {TAKEN}) AS z FROM given", None),  # one of each in an operator
        (f"SELECT id, {{p}} AS y, ML_PREDICT('odd.number', {TAKEN}).value AS z FROM given", False),  # a struct of the same outputs
        (f"SELECT id, PREDICT('odd.number', struct({TAKEN.replace('share', '{p} AS share')})) AS y FROM given WHERE id < 300", None),
        ("SELECT id, row_number() OVER (ORDER BY {p}, id) AS y FROM given WHERE share < 100", None),
        ("SELECT count({p}) AS id, max({p}) AS y FROM given WHERE share < 100", None),
    ],
)
def test_a_number_that_is_all_that_is_asked_for_is_given_as_one(
    spark: SparkSession, odd: DataFrame, query: str, as_number: bool | None
) -> None:
    """What the same query makes of predictions that were made before. None: some of them are."""
    whole = f"ML_PREDICT('odd.number', {TAKEN}).value AS p"
    odd.selectExpr("*", whole).cache().createOrReplaceTempView("given")
    asked = spark.sql(query.format(p=f"PREDICT('odd.number', {TAKEN})"))
    found = asked.toPandas().sort_values("id", ignore_index=True)
    wanted = spark.sql(query.format(p="p")).toPandas().sort_values("id", ignore_index=True)
    pd.testing.assert_frame_equal(found, wanted, rtol=1e-4, atol=1e-5)
    plan = asked._jdf.queryExecution().executedPlan().toString()
    assert as_number is None or ("pythonUDF0#" not in plan or "label(pythonUDF0#" not in plan) == as_number


@pytest.mark.parametrize("stored_as", ["parquet", "orc"])
@pytest.mark.parametrize(
    "query",
    [
        f"SELECT id, tiny, share, open, day, moment, local, CAST(id AS SMALLINT) AS small, CAST(share AS FLOAT) AS real, {CALL} AS y FROM given",
        f"SELECT word, pair, price, {CALL} AS y FROM given",
        f"SELECT id, {CALL} AS y FROM given WHERE day > DATE'1950-01-01' AND (word <> 'bb' OR share > 0) AND id % 7 > 1",
        f"SELECT id, {CALL} AS y FROM given WHERE id < 0",
        f"SELECT count(y), count(z) FROM (SELECT {CALL} AS y, word AS z FROM given WHERE word = 'bb' LIMIT 100)",
        f"SELECT id, CASE WHEN id % 3 = 0 THEN {CALL} WHEN word = 'bb' THEN -1 END AS y, {CALL} + 1 AS z FROM given",
        "SELECT id, PREDICT('odd.number', tiny, 5, NULL, -0D, 9.75BD, true, DATE'2020-02-29', moment, local, 'bb', pair, many) AS y FROM given",
        f"SELECT id, PREDICT_PROBA('odd.class', struct(given.*)) AS y, {CALL} AS z FROM given WHERE pair IS NOT NULL",
    ],
)
def test_columns_are_packed_as_rows_are(spark: SparkSession, odd: DataFrame, tmp_path: Path, query: str, stored_as: str) -> None:
    """A scan of Parquet gives columns, some as a dictionary's words, and one of ORC; without its vectorised reader it gives rows."""
    odd.repartition(3).write.format(stored_as).save(str(tmp_path / "given"))
    by_columns, by_rows = packed_both_ways(spark, tmp_path / "given", query, stored_as)
    assert by_columns == by_rows
    assert len(by_columns) == spark.sql(query).count()


def packed_both_ways(spark: SparkSession, stored: Path, query: str, stored_as: str) -> list[list[str]]:
    """The answers where the scan gives columns, and where it gives rows."""
    reader = f"spark.sql.{stored_as}.enableVectorizedReader"
    found = []
    for vectorised in ("true", "false"):
        spark.conf.set(reader, vectorised)
        try:
            spark.read.format(stored_as).load(str(stored)).createOrReplaceTempView("given")
            asked = spark.sql(query)
            found.append(sorted(str(row) for row in asked.collect()))
            plan = asked._jdf.queryExecution().executedPlan().toString()
        finally:
            spark.conf.unset(reader)
        assert ("PackColumns" in plan) == (vectorised == "true"), plan
    return found


def test_words_out_of_the_dictionaries_of_a_file_are_its_words(spark: SparkSession, odd: DataFrame, tmp_path: Path) -> None:
    """Each of its groups of rows has a dictionary of its own, or none, where the words are too many for it; a slice is some hundreds of rows."""
    word = """CASE WHEN id % 11 = 0 THEN NULL WHEN id < 6000 THEN concat('new ', id % 450) WHEN id < 9000 THEN concat('new ', id)
              ELSE element_at(array('bb', 'nobody', 'ä'), CAST(id % 3 + 1 AS INT)) END AS word"""
    rows = spark.sql(ODD.format(rows=12_000)).drop("word").selectExpr("*", word).coalesce(1).sortWithinPartitions("id")
    sizes = {"parquet.block.size": "100000", "parquet.block.size.row.check.min": "100", "parquet.dictionary.page.size": "8000"}
    rows.write.options(**sizes).parquet(str(tmp_path / "given"))
    (file,) = (tmp_path / "given").glob("*.parquet")
    written = pq.ParquetFile(file).metadata
    groups = [written.row_group(i) for i in range(written.num_row_groups)]
    encodings = [
        column.encodings for group in groups for column in map(group.column, range(written.num_columns)) if column.path_in_schema == "word"
    ]
    assert len({"RLE_DICTIONARY" in one or "PLAIN_DICTIONARY" in one for one in encodings}) == 2, encodings
    by_columns, by_rows = packed_both_ways(spark, tmp_path / "given", f"SELECT id, {CALL} AS y FROM given", "parquet")
    assert by_columns == by_rows
    assert len(by_columns) == 12_000


@pytest.mark.parametrize("different", [7, 500])  # written as a dictionary's words, and one by one
def test_tensors_are_packed_from_where_they_lie(spark: SparkSession, database: str, tmp_path: Path, different: int) -> None:
    tensors = np.random.default_rng(0).normal(size=(different, 6)).astype("<f4")
    rows = [(i, None if i % 11 == 0 else bytearray(tensors[i % different].tobytes()), f"name {i}", i % 3) for i in range(500)]
    stored = str(tmp_path / "tensors")
    spark.createDataFrame(rows, "id int, x binary, name string, label int").repartition(2).write.parquet(stored)
    spark.read.parquet(stored).createOrReplaceTempView("given")
    shape = "model_type = 'dnn_classifier', module = 'mlp', reshape = MAP('x', [6]), max_iterations = 1"
    for model in ("one", "other"):
        spark.sql(f"CREATE MODEL {model} OPTIONS ({shape}) AS SELECT x, label FROM given WHERE x IS NOT NULL")
    queries = (
        "SELECT id, name, PREDICT_PROBA('one', x) AS y, CASE WHEN id % 4 = 1 THEN PREDICT_PROBA('other', x) END AS z FROM given WHERE id % 7 <> 2",
        "SELECT id, PREDICT_PROBA('one', x) AS y FROM given",
    )

    def answers(query: str, settings: dict[str, str]) -> list[str]:
        for key, value in settings.items():
            spark.conf.set(key, value)
        try:
            return sorted(map(str, spark.sql(query).collect()))
        finally:
            for key in settings:
                spark.conf.unset(key)

    batch = "spark.sql.execution.arrow.maxRecordsPerBatch"
    for query in queries:
        by_row = answers(query, {"spark.sql.parquet.enableVectorizedReader": "false"})
        for settings in ({}, {batch: "0"}, {batch: "-1"}, {batch: "1"}, {batch: "7"}, {"spark.sql.columnVector.offheap.enabled": "true"}):
            assert answers(query, settings) == by_row, settings
        assert sum("y=None" in row for row in by_row) == spark.sql(f"SELECT * FROM ({query}) WHERE id % 11 = 0").count()


def test_a_cached_table_gives_columns_too(spark: SparkSession, database: str) -> None:
    spark.sql("CREATE TABLE numbers AS SELECT id, nullif(id % 5, 3) AS a, sin(id) AS b, CAST(id % 2 AS INT) AS label FROM range(3000)")
    spark.sql("CREATE MODEL m OPTIONS (model_type = 'linear_regressor', max_iterations = 1) AS SELECT a, b, label FROM numbers")
    query = "SELECT id, PREDICT('m', a, b) AS y FROM numbers WHERE b > -0.5"
    before = sorted(map(str, spark.sql(query).collect()))
    spark.sql("CACHE TABLE numbers")
    asked = spark.sql(query)
    assert sorted(map(str, asked.collect())) == before
    plan = asked._jdf.queryExecution().executedPlan().toString()
    assert "PackColumns" in plan and "In-memory table" in plan


def test_wide_tables_are_packed_too(spark: SparkSession, database: str) -> None:
    columns = ", ".join(f"(id * {i} % 101) / 10D AS c{i}" for i in range(250))
    spark.sql(f"CREATE TABLE wide AS SELECT {columns}, CAST(id % 2 AS INT) AS label FROM range(64)")
    spark.sql("CREATE MODEL m OPTIONS (model_type = 'linear_regressor', max_iterations = 1) AS SELECT * FROM wide")
    names = [f"c{i}" for i in range(250)]
    both = spark.table("wide").select(dlsql.predict("m", *names).alias("a"), dlsql.predict_udf("m", spark)(*names).alias("b")).toPandas()
    np.testing.assert_allclose(both.a, both.b, rtol=1e-5)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT {p} AS y FROM given", 1000),
        ("SELECT {p} AS a, {p} + 1 AS b FROM given WHERE {p} > -1e9", 1000),
        ("SELECT * FROM (SELECT *, {p} AS y FROM given) WHERE y > -1e9 AND id < 100", 100),
        ("SELECT y, y * 2 FROM (SELECT id, y FROM (SELECT *, {p} AS y FROM given) WHERE y < 1e9) WHERE y > -1e9", 1000),
        (
            "SELECT {p} AS y, ml_predict('odd.number', struct(*)).value AS z FROM given WHERE try_predict('odd.number', struct(*)) IS NOT NULL",
            2000,
        ),
        ("SELECT avg({p}) FROM given WHERE {p} < 1e9", 1000),
        ("SELECT {p} AS y FROM given LIMIT 10", 10),
        ("SELECT {p} AS y, id FROM given WHERE id % 100 = 0", 10),
        ("SELECT id FROM (SELECT *, {p} AS y FROM given)", 0),
        ("SELECT CASE WHEN {p} > 0 THEN {p} ELSE 0 END AS y FROM given", 1000),
    ],
)
def test_a_prediction_runs_once_a_row_and_for_the_rows_that_are_wanted(spark: SparkSession, odd: DataFrame, query: str, rows: int) -> None:
    odd.createOrReplaceTempView("given")
    asked = spark.sql(query.format(p="PREDICT('odd.number', struct(*))"))
    asked.collect()
    assert scored(asked) == rows


@pytest.mark.parametrize("partitioned", ["", "PARTITIONED BY (word)"])
def test_a_prediction_runs_once_where_a_filter_makes_a_feature_constant(spark: SparkSession, odd: DataFrame, partitioned: str) -> None:
    odd.createOrReplaceTempView("given")
    spark.sql(f"CREATE TABLE odd.parts USING parquet {partitioned} AS SELECT * FROM given")
    asked = spark.sql("SELECT id, y FROM (SELECT *, PREDICT('odd.number', struct(*)) AS y FROM odd.parts) WHERE word = 'bb' AND y < 1e9")
    rows = asked.collect()
    assert scored(asked) == odd.where("word = 'bb'").count() >= len(rows) > 100
    beside = spark.sql("SELECT id, PREDICT('odd.number', struct(*)) AS y FROM odd.parts WHERE word = 'bb'")
    assert sorted(rows) == sorted(beside.where("y < 1e9").collect())
    spark.sql("DROP TABLE odd.parts")


def test_a_join_of_predictions_with_themselves_reuses_them(spark: SparkSession, odd: DataFrame, tmp_path: Path) -> None:
    odd.write.parquet(str(tmp_path / "given"))
    spark.read.parquet(str(tmp_path / "given")).createOrReplaceTempView("given")
    once = f"WITH p AS (SELECT id, {CALL} AS y FROM given)"
    asked = spark.sql(f"{once} SELECT /*+ MERGE(b) */ a.y, b.y AS z FROM p AS a JOIN p AS b ON a.id = b.id")
    assert len(asked.collect()) == 1000
    assert scored(asked) == 1000


def test_a_view_over_a_view_predicts_once(spark: SparkSession, odd: DataFrame) -> None:
    odd.write.mode("overwrite").saveAsTable("odd.rows")
    spark.sql("CREATE OR REPLACE VIEW odd.inner AS SELECT *, PREDICT('odd.number', struct(*)) AS y FROM odd.rows")
    spark.sql("CREATE OR REPLACE VIEW odd.outer AS SELECT id, y, y > 0 AS good FROM odd.inner WHERE y IS NOT NULL AND day IS NOT NULL")
    asked = spark.sql("SELECT * FROM odd.outer WHERE good OR y < 0")
    asked.collect()
    assert scored(asked) == odd.where("day IS NOT NULL").count()
    plan = asked._jdf.queryExecution().toString()
    assert "PushedFilters: [IsNotNull(day)]" in plan
    spark.sql("DROP VIEW odd.outer")
    spark.sql("DROP VIEW odd.inner")


def test_only_the_columns_that_a_prediction_takes_are_read(spark: SparkSession, database: str) -> None:
    spark.sql("CREATE TABLE t AS SELECT id, id * 2D AS x, id * 3D AS y, id % 2 AS label FROM range(100)")
    spark.sql("CREATE MODEL m OPTIONS (model_type = 'linear_regressor', max_iterations = 1) AS SELECT x, label FROM t")
    plan = spark.sql("SELECT PREDICT('m', struct(*)) FROM t")._jdf.queryExecution().toString()
    assert "ReadSchema: struct<x:double>" in plan


@pytest.mark.parametrize(
    "query",
    [
        "SELECT CASE WHEN id < 3 THEN -1 WHEN size(a) = 2 THEN PREDICT('m', a) END FROM t",
        "SELECT if(size(a) = 2, if(id > 0, PREDICT('m', a), 0), 1) FROM t",
        "SELECT CASE WHEN size(a) <> 2 THEN 0 ELSE PREDICT('m', a) END AS y FROM t WHERE id > 0",
        "SELECT CASE WHEN size(a) = 2 THEN PREDICT('m', a) ELSE PREDICT('m', slice(a, 1, 2)) END FROM t",
        "SELECT CASE WHEN size(a) = 2 THEN CASE WHEN PREDICT('m', a) > 1e9 THEN 1 ELSE PREDICT('m', a) END END FROM t",
        "SELECT CASE WHEN id > 0 THEN PREDICT('m', array(1 / id, 1 / id)) END FROM t",  # Spark computes what is there twice once
        "SELECT if(id > 0, PREDICT('m', array(1D, 1 / id)) + PREDICT('o', array(1 / id, 1D)), 0) FROM t",
        "SELECT if(id > 0, PREDICT('m', if(id > 1, array(1D, 1 / id), NULL)), 0) FROM t",
    ],
)
def test_a_branch_of_case_scores_the_rows_that_come_to_it(spark: SparkSession, database: str, query: str) -> None:
    """The others hold arrays that no row of the model has, and would fail the query."""
    spark.sql("CREATE TABLE t AS SELECT id, if(id % 2 = 0, array(1D, id), array(1D, id, 3D)) AS a FROM range(20)")
    for name in ("m", "o"):
        spark.sql(
            f"CREATE MODEL {name} OPTIONS (model_type = 'linear_regressor', max_iterations = 1) AS SELECT a, id AS label FROM t WHERE id % 2 = 0"
        )
    assert len(spark.sql(query).collect()) >= 19
    with pytest.raises(Exception, match="`a` holds 3 numbers a row; the model takes 2"):
        spark.sql("SELECT PREDICT('m', a) FROM t").collect()


def test_explain_says_what_scores(spark: SparkSession, odd: DataFrame) -> None:
    odd.createOrReplaceTempView("given")
    (plan,) = spark.sql("EXPLAIN SELECT PREDICT('odd.number', struct(*)) AS y FROM given").collect()[0]
    assert "encode(odd.number@v1, onnx, 10000 rows a batch: " in plan
    assert spark.sql("SELECT PREDICT('odd.number', struct(*)), PREDICT('odd.number', tiny, whole, far, share, price, open, day, moment, local, word, pair, many) FROM given").columns[1].startswith("predict(tiny, whole, far, ")  # fmt: skip


@pytest.mark.parametrize(
    ("label", "type"),
    [
        ("if(id % 2 = 0, 0.1D, -2.5e-300D)", "double"), ("CAST(id % 3 / 7 AS FLOAT)", "float"), ("id % 2 = 0", "boolean"),
        ("CAST(id % 3 AS DECIMAL(30, 12)) / 3", None), ("timestamp_micros(id % 3 * 86400000001 - 5)", "timestamp"),
        ("CAST(timestamp_micros(id % 2 * 1000001) AS TIMESTAMP_NTZ)", "timestamp_ntz"), ("unhex(if(id % 2 = 0, '00FF', ''))", "binary"),
        ("element_at(array('', 'ä b', '名前'), CAST(id % 3 + 1 AS INT))", "string"), ("DATE'0001-01-01' + CAST(id % 2 AS INT)", "date"),
    ],
)  # fmt: skip
def test_classes_of_every_type_come_back_as_they_were(spark: SparkSession, database: str, label: str, type: str | None) -> None:
    spark.conf.set("spark.sql.session.timeZone", "America/New_York")
    try:
        spark.sql(f"CREATE TABLE t AS SELECT CAST(id % 6 AS DOUBLE) AS x, {label} AS label FROM range(60)")
        spark.sql("CREATE MODEL m OPTIONS (model_type = 'logistic_classifier', max_iterations = 1) AS SELECT * FROM t")
        found = spark.sql("SELECT label, map_keys(PREDICT_PROBA('m', x)) AS classes, PREDICT('m', x) AS y FROM t")
        assert type is None or found.schema["y"].dataType.simpleString() == type
        assert found.where("NOT array_contains(classes, label) OR NOT array_contains(classes, y)").count() == 0
        assert found.select(F.explode("classes").alias("one")).distinct().count() == spark.table("t").select("label").distinct().count()
        (accuracy,) = spark.sql("SELECT accuracy FROM ML_EVALUATE('m', TABLE(t))").collect()[0]
        assert math.isclose(accuracy, found.where("y = label").count() / 60)
    finally:
        spark.conf.unset("spark.sql.session.timeZone")


def test_a_stream_keeps_its_version_or_follows_its_alias_from_batch_to_batch(spark: SparkSession, database: str, tmp_path: Path) -> None:
    def train(label: str, kind: str = "linear_regressor") -> None:
        options = f"model_type = '{kind}', max_iterations = 1, data_split_method = 'no_split'"
        spark.sql(f"CREATE OR REPLACE MODEL m OPTIONS ({options}) AS SELECT id AS x, {label} AS label FROM range(64)").collect()

    def add(rows: int) -> None:
        spark.range(rows).selectExpr("id AS x").coalesce(1).write.mode("append").parquet(source)

    def ask(frame: DataFrame) -> DataFrame:
        return frame.select(F.signum(dlsql.predict("m@champion", "x")).alias("sign"))

    def start(name: str) -> StreamingQuery:
        folder = f"{tmp_path}/{name}"
        return ask(stream).writeStream.format("memory").queryName(name).option("checkpointLocation", folder).start()

    train("1000 - 0 * id")
    train("-1000 - 0 * id")
    spark.sql("ALTER MODEL m VERSION 1 SET ALIAS = champion")
    source, asked_anew = f"{tmp_path}/source", list[float]()
    add(3)
    stream = spark.readStream.schema("x bigint").parquet(source)
    anew = stream.writeStream.foreachBatch(lambda batch, _: asked_anew.extend(row["sign"] for row in ask(batch).collect())).start()
    keeping = start("keeping")
    spark.conf.set("spark.dlsql.streams_follow_aliases", "true")
    following = start("following")
    spark.conf.unset("spark.dlsql.streams_follow_aliases")
    try:
        for moved in (None, 2):
            if moved:
                spark.sql(f"ALTER MODEL m VERSION {moved} SET ALIAS = champion")
                add(2)
            for one in (keeping, anew, following):
                one.processAllAvailable()
        assert [row["sign"] for row in spark.table("keeping").collect()] == [1] * 5
        assert sorted(asked_anew) == sorted(row["sign"] for row in spark.table("following").collect()) == [-1] * 2 + [1] * 3
        anew.stop()
        train("id % 2 = 0", "logistic_classifier")
        spark.sql("ALTER MODEL m VERSION 3 SET ALIAS = champion")
        add(1)
        with pytest.raises(StreamingQueryException, match=r"follows `m@champion` has come to `.*m@v3`, which takes other columns"):
            following.processAllAvailable()
    finally:
        for one in (keeping, anew, following):
            one.stop()


def test_a_prediction_is_the_same_after_its_workers_were_killed(spark: SparkSession, odd: DataFrame) -> None:
    asked = odd.select("id", dlsql.predict("odd.number", *FEATURES).alias("y"), dlsql.predict_proba("odd.class", *FEATURES).alias("p"))
    before = sorted(map(str, asked.collect()))
    killed = workers(spark)
    assert killed
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    assert sorted(map(str, asked.select("*").collect())) == before
    assert workers(spark) - killed


def test_a_query_that_wants_few_rows_leaves_its_worker_to_the_next(spark: SparkSession, houses: str) -> None:
    """A worker that is not read to its end is ended: a new one takes 0.4 s before it scores."""
    spark.sql(
        "CREATE MODEL m OPTIONS (model_type = 'linear_regressor', max_iterations = 1) AS SELECT area, price AS label FROM houses"
    ).collect()
    query = "SELECT id, predict('m', area) FROM houses LIMIT 10"
    spark.sql(query.replace("LIMIT 10", "")).collect()
    before = workers(spark)
    assert len(spark.sql(query).collect()) == 10
    for _ in range(3):
        spark.sql(query).collect()
    assert workers(spark) == before


def test_columns_that_a_file_lacks_or_a_folder_names_are_packed_too(spark: SparkSession, odd: DataFrame, tmp_path: Path) -> None:
    """Of the first NULL is read; the second, which the table is partitioned by, is one value for a whole file."""
    stored = tmp_path / "given"
    given = odd.withColumn("whole", F.col("whole") % 3)  # of folders few
    given.where("id < 500").write.partitionBy("word", "whole").parquet(str(stored))
    given.where("id >= 500").drop("pair", "share", "moment").write.mode("append").partitionBy("word", "whole").parquet(str(stored))
    found = {}
    for vectorised in ("true", "false"):
        spark.conf.set("spark.sql.parquet.enableVectorizedReader", vectorised)
        try:
            rows = spark.read.schema(odd.schema).parquet(str(stored))
            asked = rows.select("id", "word", "whole", dlsql.predict("odd.number", *FEATURES).alias("y"))
            found[vectorised] = sorted(map(str, asked.collect()))
        finally:
            spark.conf.unset("spark.sql.parquet.enableVectorizedReader")
        assert ("PackColumns" in asked._jdf.queryExecution().executedPlan().toString()) == (vectorised == "true")
    assert found["true"] == found["false"]
    assert len(found["true"]) == 1000
