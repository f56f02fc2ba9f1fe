"""PREDICT and its sisters: where they stand in a query, what they take, what they give."""

import json
import math
from collections.abc import Iterator

import pytest
from pyspark.errors import AnalysisException, IllegalArgumentException
from pyspark.sql import SparkSession

import dlsql


@pytest.fixture(scope="module")
def shop(spark: SparkSession) -> Iterator[str]:
    """A database with a table and three models: a regression, a classification, and one over an array."""
    spark.sql("CREATE DATABASE shop")
    spark.sql("USE shop")
    spark.sql(
        """CREATE TABLE items AS
        SELECT CAST(id AS INT) AS id, CAST(id % 7 AS INT) AS size, (id * 37 % 100) / 10D AS weight,
               element_at(array('red', 'green', NULL), CAST(id % 3 + 1 AS INT)) AS colour,
               array(CAST(id % 5 AS FLOAT), CAST(id % 3 AS FLOAT)) AS pixels,
               element_at(array('low', 'high'), if(id * 37 % 100 > 40, 2, 1)) AS level
        FROM range(300)"""
    )
    options = "max_iterations = 2, batch_size = 64, hidden_units = [8]"
    spark.sql(
        f"CREATE MODEL price OPTIONS (model_type = 'dnn_regressor', input_label_cols = ['y'], {options}) AS SELECT size, weight, colour, weight * size AS y FROM items"
    )
    spark.sql(
        f"CREATE MODEL level OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['level'], {options}) AS SELECT size, weight, level FROM items"
    )
    spark.sql(
        f"CREATE MODEL pixel OPTIONS (model_type = 'dnn_regressor', input_label_cols = ['y'], {options}) AS SELECT pixels, weight AS y FROM items"
    )
    yield "shop"
    for model in ("price", "level", "pixel"):
        spark.sql(f"DROP MODEL shop.{model}")
    spark.sql("USE default")
    spark.sql("DROP DATABASE shop CASCADE")


def values(spark: SparkSession, query: str) -> list[object]:
    return [row[0] for row in spark.sql(query).collect()]


@pytest.fixture(scope="module")
def expected(spark: SparkSession, shop: str) -> list[object]:
    """The predictions that every other form must give, by id."""
    return values(spark, "SELECT PREDICT('shop.price', size, weight, colour) FROM items ORDER BY id")


@pytest.mark.parametrize(
    "call",
    [
        "PREDICT('shop.price', struct(*))",
        "PREDICT('shop.price', struct(size, weight, colour, id))",
        "PREDICT('shop.price', named_struct('COLOUR', colour, 'weight', weight, 'Size', size))",
        "PREDICT('shop.price', weight, colour, size)",  # by name
        "PREDICT('shop.price', size + 0, weight * 1, concat(colour, ''))",  # by position
        "predict('price', struct(*))",
        "PREDICT('SHOP.Price@v1', struct(*))",
        "PREDICT(concat('shop', '.price'), struct(*))",
        "ML_PREDICT('price', struct(*)).value",
        "TRY_PREDICT('price', struct(*))",
        "PREDICT('price', CAST(size AS BIGINT), CAST(weight AS DECIMAL(10, 2)), colour)",
        "PREDICT(MODEL 'price', struct(*))",
        "PREDICT('price', features => struct(*))",
        "PREDICT('price', colour => colour, size => size + 0, weight => weight)",
    ],
)
def test_every_form_of_call_gives_the_same(spark: SparkSession, expected: list[object], call: str) -> None:
    assert values(spark, f"SELECT {call} FROM items ORDER BY id") == expected


@pytest.mark.parametrize(
    "query",
    [
        "SELECT predicted_y FROM ML_PREDICT('price', TABLE(items)) ORDER BY id",
        "SELECT predicted_y FROM ML_PREDICT('price', TABLE(SELECT * FROM items WHERE id >= 0)) ORDER BY id",
        "WITH t AS (SELECT * FROM items) SELECT predicted_y FROM ML_PREDICT('price', TABLE(t)) ORDER BY id",
        "SELECT predicted_y FROM ML.PREDICT(MODEL shop.price, TABLE shop.items) ORDER BY id",
        "SELECT predicted_y FROM ML.PREDICT(MODEL `shop.price`, (SELECT * FROM items)) ORDER BY id",
        "SELECT predicted_y FROM ML_PREDICT(TABLE items, MODEL price, DESCRIPTOR(size, weight, colour)) ORDER BY id",
        "SELECT p FROM (SELECT id, PREDICT('price', struct(*)) AS p FROM items) WHERE p IS NOT NULL OR id >= 0 ORDER BY id",
        "SELECT PREDICT('price', a.size, b.weight, a.colour) FROM items a JOIN items b USING (id) ORDER BY id",
        "SELECT CASE WHEN id < 1000 THEN PREDICT('price', struct(*)) ELSE -1 END FROM items ORDER BY id",
        "SELECT (SELECT max(PREDICT('price', struct(j.*))) FROM items j WHERE j.id = i.id) FROM items i ORDER BY id",
    ],
)
def test_every_place_in_a_query_gives_the_same(spark: SparkSession, expected: list[object], query: str) -> None:
    assert values(spark, query) == expected


def test_predictions_filter_group_and_order(spark: SparkSession, expected: list[float]) -> None:
    assert len(values(spark, "SELECT id FROM items WHERE PREDICT('price', struct(*)) > 10")) == sum(one > 10 for one in expected)
    groups = spark.sql("SELECT PREDICT('level', struct(*)) AS l, count(*) AS n FROM items GROUP BY l ORDER BY l").collect()
    assert sum(row["n"] for row in groups) == 300
    assert {row["l"] for row in groups} <= {"low", "high"}
    assert values(spark, "SELECT PREDICT('price', struct(*)) FROM items ORDER BY PREDICT('price', size, weight, colour)") == sorted(
        expected
    )


def test_several_functions_over_the_same_arguments_run_the_network_once(spark: SparkSession, shop: str) -> None:
    frame = spark.sql("SELECT PREDICT('level', struct(*)), PREDICT_PROBA('level', struct(*)), ML_PREDICT('level', struct(*)) FROM items")
    plan = frame._jdf.queryExecution().executedPlan().toString()
    assert plan.count("Predict [") == 1
    assert plan.count("pythonUDF1") == 0  # one result, which all three read


def test_a_struct_of_many_columns_is_not_made_for_each_of_them(spark: SparkSession, shop: str) -> None:
    """A thousand structs of a thousand columns do not fit into a driver."""
    frame = spark.sql(
        "SELECT PREDICT('price', struct(*)), TRY_PREDICT('level', struct(size, weight * 2 AS weight, upper(colour) AS colour)) FROM items"
    )
    assert "named_struct" not in frame._jdf.queryExecution().analyzed().toString()


def test_a_classifier_gives_label_probability_and_all_probabilities_sorted(spark: SparkSession, shop: str) -> None:
    frame = spark.sql(
        "SELECT ML_PREDICT('level', struct(*)) AS m, PREDICT('level', struct(*)) AS p, PREDICT_PROBA('level', struct(*)) AS q FROM items"
    )
    assert frame.dtypes[0][1] == "struct<label:string,probability:double,probabilities:array<struct<label:string,probability:double>>>"
    for row in frame.collect():
        ranked = [one["probability"] for one in row["m"]["probabilities"]]
        assert ranked == sorted(ranked, reverse=True)
        assert sum(ranked) == pytest.approx(1.0, abs=1e-9)  # float64 sums of two
        assert (row["m"]["label"], row["m"]["probability"]) == (row["p"], ranked[0])
        assert row["q"] == {one["label"]: one["probability"] for one in row["m"]["probabilities"]}


def test_the_table_function_adds_predictions_and_probabilities(spark: SparkSession, shop: str) -> None:
    frame = spark.sql("SELECT * FROM ML_PREDICT('level', TABLE(SELECT id, size, weight, level FROM items))")
    assert frame.dtypes[-2:] == [("predicted_level", "string"), ("predicted_level_probs", "array<struct<label:string,probability:double>>")]
    assert frame.columns[:4] == ["id", "size", "weight", "level"]


def test_a_null_struct_gives_null_without_running_the_network(spark: SparkSession, expected: list[object]) -> None:
    query = "SELECT PREDICT('price', if(id % 2 = 0, struct(size, weight, colour), NULL)) FROM items ORDER BY id"
    assert values(spark, query) == [one if i % 2 == 0 else None for i, one in enumerate(expected)]


def test_a_null_number_counts_as_the_mean_and_a_null_word_as_a_category(spark: SparkSession, shop: str) -> None:
    mean = values(spark, "SELECT avg(weight) FROM items")[0]
    got = spark.sql(
        f"SELECT PREDICT('price', 3, CAST(NULL AS DOUBLE), NULL) AS a, PREDICT('price', 3, {mean}D, NULL) AS b, PREDICT('price', 3, {mean}D, 'blue') AS c"
    ).collect()[0]
    assert got["a"] == pytest.approx(got["b"], rel=1e-5)  # the mean is kept to six digits
    assert got["b"] != got["c"]


def test_nan_and_infinity_are_scored_as_numbers(spark: SparkSession, shop: str) -> None:
    row = spark.sql("SELECT PREDICT('price', 1, double('NaN'), 'red') AS a, PREDICT('price', 1, double('Infinity'), 'red') AS b").collect()[
        0
    ]
    assert row["a"] != row["a"]
    assert row["b"] == row["b"]


def test_arrays_of_the_wrong_length(spark: SparkSession, shop: str) -> None:
    (row,) = spark.sql(
        "SELECT PREDICT('pixel', array(1f, 2f)) AS a, PREDICT('pixel', CAST(NULL AS ARRAY<FLOAT>)) AS b, PREDICT('pixel', array(1f, NULL)) AS c, TRY_PREDICT('pixel', array(1f)) AS d"
    ).collect()
    assert (row["a"] is not None, row["b"], row["c"], row["d"]) == (True, None, None, None)


def test_scoring_error_stands_alone_with_its_condition(spark: SparkSession, shop: str) -> None:
    with pytest.raises(IllegalArgumentException) as raised:
        spark.sql("SELECT PREDICT('pixel', array(1f)) FROM items").collect()
    assert str(raised.value) == "[DLSQL_SCORING] `pixels` holds 1 numbers a row; the model takes 2. SQLSTATE: 42804"
    assert (raised.value.getCondition(), raised.value.getSqlState()) == ("DLSQL_SCORING", "42804")


def test_try_predict_gives_null_where_a_number_does_not_fit_the_type_of_its_feature(
    spark: SparkSession, shop: str, expected: list[object]
) -> None:
    rows = "SELECT *, if(id % 2 = 0, size, size + 3000000000) AS far, array(1D, if(id % 2 = 0, 1D, 1e300D)) AS pair FROM items"
    got = values(spark, f"SELECT TRY_PREDICT('price', far, weight, colour) FROM ({rows}) ORDER BY id")
    assert got == [one if i % 2 == 0 else None for i, one in enumerate(expected)]
    got = values(
        spark, f"SELECT TRY_PREDICT('price', named_struct('size', far, 'weight', weight, 'colour', colour)) FROM ({rows}) ORDER BY id"
    )
    assert got == [one if i % 2 == 0 else None for i, one in enumerate(expected)]
    missing = "CAST(NULL AS BIGINT), weight, colour"
    assert values(spark, f"SELECT TRY_PREDICT('price', {missing}) = PREDICT('price', {missing}) FROM items LIMIT 1") == [True]
    assert values(
        spark,
        "SELECT TRY_PREDICT('price', if(id = 0, NULL, named_struct('size', 1L, 'weight', 1D, 'colour', 'red'))) IS NULL FROM range(2)",
    ) == [True, False]
    with pytest.raises(Exception, match="CAST_OVERFLOW"):
        spark.sql(f"SELECT PREDICT('price', far, weight, colour) FROM ({rows})").collect()
    with pytest.raises(Exception, match="DIVIDE_BY_ZERO"):  # not the cast's doing
        spark.sql("SELECT TRY_PREDICT('price', 1L div (id - id), 1D, 'red') FROM range(2)").collect()


def test_threshold_is_the_probability_above_which_the_second_class_is_the_answer(spark: SparkSession, shop: str) -> None:
    for threshold in (0, 0.3, 0.5, 1):
        query = f"SELECT * FROM ML.PREDICT(MODEL shop.level, TABLE items, STRUCT({threshold} AS threshold))"
        for row in spark.sql(query).collect():
            low = next(one["probability"] for one in row["predicted_level_probs"] if one["label"] == "low")
            assert row["predicted_level"] == ("low" if low > threshold else "high")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("'price', TABLE(items), map('threshold', 0.5)", "[DLSQL_OPTION_VALUE] Option `threshold` is 0.5; it is for classifiers of two classes, and `shop.price` is a regressor. SQLSTATE: 22023"),
        ("'level', TABLE(items), map('threshold', 1.5)", "[DLSQL_OPTION_VALUE] Option `threshold` is 1.5; it takes a number from 0 to 1. SQLSTATE: 22023"),
        ("'level', TABLE(items), map('threshold', 'x')", "[DLSQL_OPTION_VALUE] Option `threshold` is x; it takes a number from 0 to 1. SQLSTATE: 22023"),
        ("'level', TABLE(items), map('treshold', 0.5)", "[DLSQL_UNKNOWN_OPTION] `treshold` is not an option of ML_PREDICT. Did you mean `threshold`? SQLSTATE: 22023"),
        ("'level', TABLE(items), map('features', 'x')", "[DLSQL_OPTION_VALUE] Option `features` is 'x'; it takes column names as a JSON array, e.g. '[\"age\", \"income\"]'. SQLSTATE: 22023"),
        ("'level', TABLE(items), map('features', '[1]')", "[DLSQL_OPTION_VALUE] Option `features` is '[1]'; it takes column names as a JSON array, e.g. '[\"age\", \"income\"]'. SQLSTATE: 22023"),
        ("'level', TABLE(items), 5", "[DLSQL_ARGUMENTS] ML_PREDICT got 5 as its settings; they are a map, e.g. map('threshold', 0.3). SQLSTATE: 42804"),
        ("model => 'level', input => TABLE(items)", "[DLSQL_ARGUMENTS] ML_PREDICT takes its arguments by place; `model =>` is not needed. SQLSTATE: 42804"),
    ],
)  # fmt: skip
def test_settings_of_the_table_function_that_are_wrong(spark: SparkSession, shop: str, call: str, message: str) -> None:
    with pytest.raises(AnalysisException) as raised:
        spark.sql(f"SELECT * FROM ML_PREDICT({call})")
    assert str(raised.value).split("\n")[0] == message


def test_views_tables_and_inserts(spark: SparkSession, expected: list[object]) -> None:
    spark.sql("CREATE OR REPLACE VIEW priced AS SELECT id, PREDICT('shop.price', struct(*)) AS p FROM shop.items")
    spark.sql("CREATE OR REPLACE TEMPORARY VIEW priced_here AS SELECT id, p FROM priced")
    spark.sql("CREATE TABLE kept AS SELECT * FROM priced")
    spark.sql("INSERT INTO kept SELECT id + 1000, PREDICT('price', struct(*)) FROM items")
    for query in (
        "SELECT p FROM priced ORDER BY id",
        "SELECT p FROM priced_here ORDER BY id",
        "SELECT p FROM kept WHERE id < 1000 ORDER BY id",
        "SELECT p FROM kept WHERE id >= 1000 ORDER BY id",
    ):
        assert values(spark, query) == expected
    assert values(spark.newSession(), "SELECT p FROM shop.priced ORDER BY id") == expected
    spark.sql("DROP VIEW priced")


def test_a_structured_stream(spark: SparkSession, expected: list[object], tmp_path: object) -> None:
    spark.table("items").write.parquet(f"{tmp_path}/in")
    stream = (
        spark.readStream.schema(spark.table("items").schema).parquet(f"{tmp_path}/in").selectExpr("id", "PREDICT('price', struct(*)) AS p")
    )
    query = (
        stream.writeStream.format("parquet")
        .option("checkpointLocation", f"{tmp_path}/state")
        .trigger(availableNow=True)
        .start(f"{tmp_path}/out")
    )
    assert query.awaitTermination(60)
    assert [row["p"] for row in spark.read.parquet(f"{tmp_path}/out").orderBy("id").collect()] == expected


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "PREDICT('shop.pricee', struct(*))",
            "[DLSQL_MODEL_NOT_FOUND] Model `shop.pricee` is not registered. Did you mean `shop.price`? SQLSTATE: 42704",
        ),
        ("PREDICT('price@v7', struct(*))", "[DLSQL_VERSION_NOT_FOUND] Model `shop.price` has no version 7. It has: 1. SQLSTATE: 42704"),
        ("PREDICT('price@best', struct(*))", "[DLSQL_ALIAS_NOT_FOUND] Model `shop.price` has no alias `best`. SQLSTATE: 42704"),
        (
            "PREDICT('price', struct(size, weight, colour AS color))",
            "[DLSQL_FEATURE_MISSING] Model `shop.price` takes `colour`, and the arguments do not hold it. Did you mean `color`? SQLSTATE: 42704",
        ),
        (
            "PREDICT('price', size, weight)",
            "[DLSQL_FEATURE_MISSING] Model `shop.price` takes `colour`, and the arguments do not hold it. SQLSTATE: 42704",
        ),
        ("PREDICT('price', 1, 2)", "[DLSQL_ARGUMENTS] PREDICT got 2 features; `shop.price` takes 3: size, weight, colour. SQLSTATE: 42804"),
        (
            "PREDICT('price', size, colour, weight || '')",
            "[DLSQL_FEATURE_TYPE] Feature `weight` of model `shop.price` takes DOUBLE; the argument is STRING. Cast it: CAST(... AS DOUBLE). SQLSTATE: 42804",
        ),
        ("PREDICT('price')", "[DLSQL_ARGUMENTS] PREDICT got 0 features; `shop.price` takes 3: size, weight, colour. SQLSTATE: 42804"),
        ("PREDICT()", "[DLSQL_ARGUMENTS] PREDICT takes the model's name, a constant string, as its first argument. SQLSTATE: 42804"),
        (
            "PREDICT(colour, struct(*))",
            "[DLSQL_ARGUMENTS] PREDICT takes the model's name, a constant string, as its first argument. SQLSTATE: 42804",
        ),
        (
            "PREDICT_PROBA('price', struct(*))",
            "[DLSQL_ARGUMENTS] PREDICT_PROBA gives the probabilities of classes; `shop.price` is a dnn_regressor, whose answer is a number. Use PREDICT. SQLSTATE: 42804",
        ),
        ("PREDICT('a.b.c', struct(*))", "[DLSQL_SYNTAX]"),
        (
            "PREDICT('price', struct(size, weight, weight AS WEIGHT, colour))",
            "[DLSQL_ARGUMENTS] PREDICT got `weight` twice; name the columns of the struct that are meant. SQLSTATE: 42804",
        ),
        (
            "PREDICT('price', size => 1, wait => 2D, colour => 'red')",
            "[DLSQL_ARGUMENTS] PREDICT got an argument named `wait`; `shop.price` takes size, weight, colour. Did you mean `weight`? SQLSTATE: 42804",
        ),
        (
            "PREDICT('price', size + 1, weight => 2D, colour => 'red')",
            "[DLSQL_ARGUMENTS] PREDICT got an argument without a name beside named ones; `shop.price` takes size, weight, colour. SQLSTATE: 42804",
        ),
        (
            "PREDICT('price', size => 1, weight => 2D)",
            "[DLSQL_FEATURE_MISSING] Model `shop.price` takes `colour`, and the arguments do not hold it. SQLSTATE: 42704",
        ),
    ],
)
def test_errors_come_at_analysis_and_say_what_to_do(spark: SparkSession, shop: str, query: str, message: str) -> None:
    with pytest.raises(AnalysisException) as raised:
        spark.sql(f"SELECT {query} FROM items")
    assert str(raised.value).split("\n")[0].startswith(message)


@pytest.mark.parametrize(
    "text", ["SELECT model, ml FROM t WHERE a =", "SELECT 'PREDICT(MODEL x)' AS model FROM", "CREATE MODELS x", "SHOW MODELLS"]
)
def test_spark_keeps_its_own_words_and_positions(spark: SparkSession, text: str) -> None:
    with pytest.raises(AnalysisException) as raised:
        spark.sql(text)
    with pytest.raises(AnalysisException) as plain:
        spark._jvm.org.apache.spark.sql.execution.SparkSqlParser().parsePlan(text)
    assert str(raised.value) == str(plain.value)


def test_texts_that_look_like_ours_are_data(spark: SparkSession) -> None:
    (row,) = spark.sql("SELECT 'PREDICT(MODEL x)' AS model, ml.a AS `ML.PREDICT` FROM VALUES (1) AS ml(a)").collect()
    assert row.asDict() == {"model": "PREDICT(MODEL x)", "ML.PREDICT": 1}


def test_an_ml_vector_feeds_an_array(spark: SparkSession, shop: str) -> None:
    from pyspark.ml.functions import array_to_vector

    frame = spark.table("items").select("id", "pixels", array_to_vector("pixels").alias("v"))
    got = frame.selectExpr("PREDICT('pixel', v) AS a", "PREDICT('pixel', pixels) AS b").collect()
    assert all(row["a"] == row["b"] for row in got)


def test_attach_twice_and_to_a_session_that_ran_queries(spark: SparkSession, shop: str) -> None:
    assert dlsql.attach(spark) is spark
    again = dlsql.attach(spark.newSession())
    assert values(again, "SELECT count(*) FROM shop.items WHERE PREDICT('shop.price', struct(*)) IS NOT NULL") == [300]


def test_evaluate_agrees_with_scikit_learn(spark: SparkSession, shop: str) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rows = spark.sql("SELECT level, ML_PREDICT('level', struct(*)) AS m FROM items").collect()
    truth, guess = [row["level"] for row in rows], [row["m"]["label"] for row in rows]
    high = [next(one["probability"] for one in row["m"]["probabilities"] if one["label"] == "high") for row in rows]
    (got,) = spark.sql("SELECT * FROM ML_EVALUATE('level', TABLE(items))").collect()
    macro = {"average": "macro", "zero_division": 0}
    assert got.asDict() == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(truth, guess),
            "precision": metrics.precision_score(truth, guess, **macro),
            "recall": metrics.recall_score(truth, guess, **macro),
            "f1_score": metrics.f1_score(truth, guess, **macro),
            "log_loss": metrics.log_loss(truth, [[p, 1 - p] for p in high], labels=["high", "low"]),
            "roc_auc": metrics.roc_auc_score([one == "high" for one in truth], [round(p, 6) for p in high]),
        },
        rel=1e-6,  # probabilities are ranked to six digits
    )
    assert json.dumps(got.asDict())


METRICS = ("accuracy", "precision", "recall", "f1_score", "log_loss", "roc_auc")
FITS = ("mean_absolute_error", "mean_squared_error", "root_mean_squared_error", "r2_score", "explained_variance")


def evaluated(spark: SparkSession, model: str, query: str) -> dict[str, float | None]:
    (got,) = spark.sql(f"SELECT * FROM ML_EVALUATE('{model}', TABLE({query}))").collect()
    return got.asDict()


def test_evaluate_counts_labels_that_training_never_saw_as_wrong(spark: SparkSession, shop: str) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    query = "SELECT * EXCEPT (level), if(id % 4 = 0, 'middle', if(id % 4 = 1, 'odd', level)) AS level FROM items"
    rows = spark.sql(f"SELECT level, ML_PREDICT('level', struct(*)) AS m FROM ({query})").collect()
    truth, guess = [row["level"] for row in rows], [row["m"]["label"] for row in rows]
    by_class = [{one["label"]: one["probability"] for one in row["m"]["probabilities"]} for row in rows]
    names = ["high", "low", "middle", "odd"]
    macro = {"average": "macro", "zero_division": 0, "labels": names}
    logs = [-math.log(max(probabilities.get(label, 0.0), 1e-15)) for probabilities, label in zip(by_class, truth, strict=True)]
    areas = [metrics.roc_auc_score([one == name for one in truth], [round(one[name], 6) for one in by_class]) for name in ("high", "low")]
    assert evaluated(spark, "level", query) == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(truth, guess),
            "precision": metrics.precision_score(truth, guess, **macro),
            "recall": metrics.recall_score(truth, guess, **macro),
            "f1_score": metrics.f1_score(truth, guess, **macro),
            "log_loss": sum(logs) / len(logs),
            "roc_auc": sum(areas) / 2,  # of the classes that the model knows
        },
        rel=1e-6,  # probabilities are ranked to six digits
    )


@pytest.mark.parametrize("ansi", ["true", "false"])
def test_evaluate_of_few_rows_or_of_one_label_has_no_division_by_zero(spark: SparkSession, shop: str, ansi: str) -> None:
    spark.sql(f"SET spark.sql.ansi.enabled = {ansi}")
    try:
        unseen = evaluated(spark, "level", "SELECT * EXCEPT (level), 'odd' AS level FROM items")
        assert unseen == pytest.approx(dict(zip(METRICS, (0, 0, 0, 0, -math.log(1e-15), None), strict=True)))
        assert evaluated(spark, "level", "SELECT * FROM items LIMIT 0") == dict.fromkeys(METRICS)
        for rows in ("SELECT *, 1D AS y FROM items LIMIT 1", "SELECT *, 3 AS y FROM items"):
            fit = evaluated(spark, "price", rows)
            assert [name for name, value in fit.items() if value is None] == ["r2_score", "explained_variance"]
        assert evaluated(spark, "price", "SELECT *, 3 AS y FROM items LIMIT 0") == dict.fromkeys(FITS)
    finally:
        spark.sql("RESET spark.sql.ansi.enabled")


@pytest.mark.parametrize(
    ("model", "query", "message"),
    [
        (
            "level",
            "SELECT size, weight, 1 AS levl FROM items",
            "[DLSQL_COLUMN_NOT_FOUND] The label of model `shop.level` `level` is not among the columns: size, weight, levl. Did you mean `levl`? SQLSTATE: 42704",
        ),
        (
            "level",
            "SELECT size, weight, 1 AS LEVEL FROM items",
            "[DLSQL_COLUMN_TYPE] Column `LEVEL` is INT; it is compared with the answers of model `shop.level`, which are STRING. Cast it. SQLSTATE: 42804",
        ),
        (
            "price",
            "SELECT *, 'x' AS y FROM items",
            "[DLSQL_COLUMN_TYPE] Column `y` is STRING; it is compared with the answers of model `shop.price`, which are DOUBLE. Cast it. SQLSTATE: 42804",
        ),
    ],
)
def test_evaluate_without_a_label_to_compare_names_it(spark: SparkSession, shop: str, model: str, query: str, message: str) -> None:
    with pytest.raises(AnalysisException) as raised:
        spark.sql(f"SELECT * FROM ML_EVALUATE('{model}', TABLE({query}))")
    assert str(raised.value).split("\n")[0] == message
