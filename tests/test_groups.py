"""TRAIN, PREDICT over the networks that it gives, and models with a network for each group."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyspark.errors import AnalysisException, PythonException
from pyspark.sql import SparkSession

from dlsql import inference
from tests.seen import mapping, scored
from udfs import values
from udfs.engines import plain
from udfs.errors import ScoringError, TrainingError
from udfs.groups import report_group, train_group
from udfs.networks.mlp import ACTIVATIONS, Mlp
from udfs.preprocess import encode
from udfs.spec import LARGE, Feature, GroupTraining, Label, LocalSteps, NetworkSpec
from udfs.stopping import Rules
from udfs.train import network

SMALL = "struct(array(8) AS hidden_units, 3 AS max_iterations, 32 AS batch_size, 0.01D AS learn_rate)"
SMALL_OPTIONS = "hidden_units = [8], max_iterations = 3, batch_size = 32, learn_rate = 0.01"


@pytest.fixture(scope="module")
def stores(spark: SparkSession) -> Iterator[str]:
    """Sales of six stores: four with 60 rows, `tiny` with one, NULL with 60; and their networks, in a table of their own."""
    spark.sql("CREATE DATABASE stores")
    spark.sql("USE stores")
    spark.sql(
        """CREATE TABLE sales AS
        SELECT id, if(id = 300, 'tiny', element_at(array('Ulm', 'São Paulo', '東京', "O'Hare", NULL), int(id % 5) + 1)) AS store, id % 2 AS year,
               (id * 37 % 100) / 10D AS a, id % 7 AS b, element_at(array('x', 'y', NULL), int(id % 3) + 1) AS c,
               array(id % 3 * 1D, id % 2 * 1D) AS v, DATE'2024-01-01' + int(id % 50) AS d,
               (id * 37 % 100) / 5D + id % 7 AS y, if(id * 37 % 100 > 50, 'high', 'low') AS level, id * 37 % 100 > 50 AS big
        FROM range(301)"""
    )
    spark.sql(
        f"""CREATE TABLE networks AS
        SELECT store, TRAIN('dnn_regressor', struct(a, b, c), y, {SMALL}) AS m, TRAIN('dnn_classifier', struct(a, b, c), level, {SMALL}) AS k
        FROM sales GROUP BY store"""
    )
    yield "stores"
    for row in spark.sql("SHOW MODELS IN stores").collect():
        spark.sql(f"DROP MODEL stores.`{row['model']}`")
    spark.sql("USE default")
    spark.sql("DROP DATABASE stores CASCADE")


def rows(spark: SparkSession, query: str) -> list[tuple[object, ...]]:
    return [tuple(row) for row in spark.sql(query).collect()]


# What a group learns


def perceptron(
    hidden: tuple[int, ...], activation: str = "relu", dropout: float = 0.0, batch_norm: bool = False
) -> tuple[tuple[str, object], ...]:
    """The arguments of the built-in network."""
    return ("hidden_units", hidden), ("activation", activation), ("dropout", dropout), ("batch_norm", batch_norm)


def how(task: str = "regression", features: tuple[Feature, ...] = (Feature("a", "double", "number"),), **changes: object) -> GroupTraining:
    steps = LocalSteps(
        NetworkSpec(0, (), 0, arguments=perceptron((8,))), task, "mse_loss" if task == "regression" else "cross_entropy", "Adam", 32, 42, 1
    )
    given = {
        "features": features, "label": Label("y", "double"), "steps": steps, "rates": (0.01,) * 3, "deep": True, "auto_class_weights": False,
        "class_weights": (), "split": "auto_split", "held_out": 0.2, "weighted": False, "rules": Rules(0.01, 1, None, None, ""),
    }  # fmt: skip
    return GroupTraining(**{**given, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("nulls", [False, True])
def test_the_bytes_follow_from_the_rows_and_not_from_their_order(nulls: bool) -> None:
    """With NULLs, rows of equal hashes differ: Spark's hash passes over NULLs, also over those in an array."""
    features = (Feature("a", "double", "number"), Feature("b", "double", "number"), Feature("v", "array<double>", "numbers"))
    random = np.random.default_rng(0)
    a, b = pa.array([1.0, None] * 50 if nulls else random.random(100)), pa.array([None, 1.0] * 50 if nulls else random.random(100))
    v = pa.array([[1.0, None], [None, 1.0]] * 50 if nulls else random.random((100, 2)).tolist(), pa.list_(pa.float64()))
    hashes = pa.array(np.full(100, 7) if nulls else random.integers(-(2**62), 2**62, 100))
    columns = [hashes, pa.array([float(i % 2) for i in range(100)] if nulls else random.random(100)), a, b, v]
    first = train_group(how(features=features), *columns)
    order = pa.array(random.permutation(100))
    assert first is not None
    assert train_group(how(features=features), *(column.take(order) for column in columns)) == first


def test_the_bytes_do_not_depend_on_partitions_and_processes(spark: SparkSession, stores: str) -> None:
    query = f"SELECT store, TRAIN('dnn_regressor', struct(a, b, c), y, {SMALL}) AS m FROM {{}} GROUP BY store"
    first = {row["store"]: row["m"] for row in spark.sql("SELECT store, m FROM networks").collect()}
    spark.table("sales").orderBy("y").repartition(7, "b").createOrReplaceTempView("mixed")
    assert {row["store"]: row["m"] for row in spark.sql(query.format("mixed")).collect()} == first


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("dense", "codes", "hidden", "more"), [(3, (5, 50), (7, 6), (0.1, True)), (2, (4, 40), (), (0.0, False)), (0, (6,), (4,), (0.0, False))]
)
def test_the_plain_engine_agrees_with_torch(
    activation: str, dense: int, codes: tuple[int, ...], hidden: tuple[int, ...], more: tuple[float, bool]
) -> None:
    spec = NetworkSpec(dense, codes, 2, arguments=perceptron(hidden, activation, *more))
    torch.manual_seed(1)
    module = Mlp(spec).eval()
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.1)
    numbers, words = torch.randn(9, dense), torch.randint(0, 4, (9, len(codes)))
    with torch.inference_mode():
        wanted = module(numbers, words).numpy()
    got = plain.load(spec, {name: tensor.numpy() for name, tensor in module.state_dict().items()})(numbers.numpy(), words.numpy())
    assert got.dtype == np.float32
    assert (np.abs(got - wanted) <= 1e-5 * np.maximum(1, np.abs(wanted))).all()  # float32: sums of up to 100 numbers in another order


def test_a_value_that_is_damaged_or_foreign_is_refused_in_words() -> None:
    columns = [pa.array(range(50)), pa.array(np.arange(50.0)), pa.array(np.arange(50.0))]
    data = train_group(how(), *columns)
    assert data is not None
    for wrong, why in (
        (b"", "no network"),
        (b"PK\x03\x04" * 9, "no network"),
        (data[:-4], "checksum"),
        (b"dlsql-9\n" + data[8:], "form 9"),
    ):
        with pytest.raises(ScoringError, match=why):
            values.read(wrong)
    assert values.write(values.read(data)) == data


def told(given: GroupTraining) -> tuple[bool, str]:
    """Whether a group of 50 rows has a network, and the note on it."""
    random = np.random.default_rng(0)
    columns = [pa.array(random.integers(2**30, size=50)), pa.array(random.normal(size=50)), pa.array(random.normal(size=50))]
    answer = report_group(given, *columns).as_py()
    assert (answer["value"] is None) == (train_group(given, *columns) is None)
    return answer["value"] is not None, json.loads(answer["report"]).get("note", "")


@pytest.mark.parametrize(
    ("rates", "split", "network", "note"),
    [
        ((1e30,), "no_split", (), "The loss after the last step became inf in epoch 1. Lower learn_rate (now 1e+30) or set grad_clip."),
        ((1e30,), "random", (), "The loss became inf in epoch 1. Lower learn_rate (now 1e+30) or set grad_clip."),
        ((1e39,), "no_split", (8,), "A weight became -inf in epoch 1. Lower learn_rate (now 1e+39) or set grad_clip."),
        ((0.01, 1e39), "no_split", (8,), "A weight became -inf in epoch 2. Lower learn_rate (now 1e+39) or set grad_clip."),
        ((0.01, 0.01), "no_split", (8,), ""),
    ],
)
def test_a_group_whose_last_step_diverges_has_no_network_and_a_note(
    rates: tuple[float, ...], split: str, network: tuple[int, ...], note: str
) -> None:
    """All 50 rows are one step: its loss is that of the weights before it."""
    given = how(rates=rates, split=split)
    steps = replace(given.steps, optimizer="SGD", batch_size=50, network=NetworkSpec(0, (), 0, arguments=perceptron(network)))
    assert told(replace(given, steps=steps)) == (not note, note)


def test_a_group_that_is_too_large_for_a_task_fails_in_words() -> None:
    from udfs.groups import _check_size

    data = train_group(how(), pa.array(range(50)), pa.array(np.arange(50.0)), pa.array(np.arange(50.0)))
    with pytest.raises(
        TrainingError,
        match=r"A group of 1000000000 rows takes 22.4 GiB in one task, which is given 2. Train such a group with CREATE MODEL",
    ):
        _check_size(values.read(data or b"").learned, 10**9)


def test_an_engine_of_values_loads_no_torch() -> None:
    program = "import sys, udfs.score, udfs.values; print('torch' in sys.modules)"
    root = Path(__file__).resolve().parent.parent
    assert subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60).stdout == "False\n"


# TRAIN


def test_train_gives_each_group_a_network_and_small_groups_null(spark: SparkSession, stores: str) -> None:
    frame = spark.sql("SELECT * FROM networks")
    assert frame.dtypes == [("store", "string"), ("m", "binary"), ("k", "binary")]
    found = {row["store"]: row["m"] for row in frame.collect()}
    assert {store: data is not None for store, data in found.items()} == {
        "Ulm": True, "São Paulo": True, "東京": True, "O'Hare": True, None: True, "tiny": False
    }  # fmt: skip
    told = values.read(bytes(found["Ulm"])).measured
    assert (told["rows"], told["skipped"], told["epochs"]) == (60, 0, 3)


def test_predictions_are_those_of_torch_on_the_groups_own_network(spark: SparkSession, stores: str) -> None:
    stored = {row["store"]: row["m"] for row in spark.table("networks").collect()}
    got = spark.sql(
        "SELECT s.store, a, b, c, PREDICT(m, struct(a, b, c)) AS p FROM sales s JOIN networks n ON s.store <=> n.store"
    ).toArrow()
    assert len(got) == 301
    for store, data in stored.items():
        theirs = got.filter(pa.array([one == store for one in got.column("store").to_pylist()])).combine_chunks()
        if data is None:
            assert theirs.column("p").to_pylist() == [None]
            continue
        value = values.read(bytes(data))
        inputs = encode(value.learned, [theirs.column(name).combine_chunks() for name in "abc"])
        module = network(value.network, {f"network/{name}": array for name, array in value.tensors.items()}).eval()
        with torch.inference_mode():
            outputs = module(torch.from_numpy(inputs.dense), torch.from_numpy(inputs.codes))[:, 0].double().numpy()
        wanted = outputs * value.learned.label.scale + value.learned.label.mean
        np.testing.assert_allclose(
            np.array(theirs.column("p").to_pylist()), wanted, rtol=1e-5, atol=1e-5
        )  # float32, as for the ONNX engine


@pytest.mark.parametrize(("label", "type"), [("level", "string"), ("big", "boolean"), ("b", "bigint"), ("d", "date"), ("y", "double")])
def test_the_answer_has_the_labels_own_type_where_train_is_known(spark: SparkSession, stores: str, label: str, type: str) -> None:
    """In the same query, and through a table: TRAIN's column carries the signature."""
    kind = "dnn_regressor" if label == "y" else "dnn_classifier"
    trained = f"SELECT store, TRAIN('{kind}', struct(a, c, v), {label}, {SMALL}) AS m FROM sales GROUP BY store"
    spark.sql("DROP TABLE IF EXISTS kept")
    spark.sql(f"CREATE TABLE kept AS {trained}")
    here = spark.sql(f"SELECT id, PREDICT(m, struct(a, c, v)) AS p FROM sales JOIN ({trained}) USING (store) ORDER BY id")
    there = spark.sql("SELECT id, PREDICT(m, struct(s.*)) AS p FROM sales s JOIN kept USING (store) ORDER BY id")
    assert here.dtypes[1] == there.dtypes[1] == ("p", type)
    near = pytest.approx if label == "y" else tuple  # float32: a batch's other rows differ
    for one, other in zip(here.collect(), there.collect(), strict=True):
        assert tuple(one) == near(tuple(other))


def test_sisters_of_predict_take_networks_too(spark: SparkSession, stores: str) -> None:
    frame = spark.sql(
        """SELECT PREDICT(k, struct(a, b, c)) AS p, PREDICT_PROBA(k, struct(a, b, c)) AS q, ML_PREDICT(k, struct(a, b, c)) AS r,
                  TRY_PREDICT(m, struct(a, b, c)) AS t, ML_PREDICT(m, struct(a, b, c)).value AS u, PREDICT(m, struct(a, b, c)) AS w
        FROM sales JOIN networks USING (store) WHERE store <> 'tiny'"""
    )
    assert [type for _, type in frame.dtypes][:2] == ["string", "map<string,double>"]
    for row in frame.collect():
        assert row["p"] == row["r"]["label"] == max(row["q"], key=row["q"].get)
        assert row["q"][row["p"]] == row["r"]["probability"]
        assert row["t"] == row["u"] == row["w"]


OPAQUE = "(SELECT store, unhex(hex(m)) AS m, unhex(hex(k)) AS k FROM networks)"  # of which nothing is known at analysis


def test_networks_that_are_not_known_answer_a_double_or_the_type_that_is_said(spark: SparkSession, stores: str) -> None:
    frame = spark.sql(
        f"""SELECT PREDICT(n.m, struct(a, b, c)) AS p, PREDICT(n.k, struct(a, b, c), 'STRING') AS q, PREDICT(w.m, struct(a, b, c)) AS r,
                   PREDICT_PROBA(n.k, struct(a, b, c), 'STRING') AS s, PREDICT(w.k, struct(a, b, c)) AS t, PREDICT(n.m, struct(a, b, c), 'INT') AS u
        FROM sales JOIN {OPAQUE} n USING (store) JOIN networks w USING (store)"""
    )
    assert [type for _, type in frame.dtypes] == ["double", "string", "double", "map<string,double>", "string", "int"]
    for row in frame.collect():
        assert (row["p"], row["q"]) == (row["r"], row["t"])
        assert row["u"] == (None if row["p"] is None else int(row["p"]))


def test_a_constant_network_is_read_at_analysis(spark: SparkSession, stores: str) -> None:
    data = bytes(spark.sql("SELECT k FROM networks WHERE store = 'Ulm'").collect()[0][0]).hex()
    frame = spark.sql(
        f"SELECT PREDICT(X'{data}', struct(a, b, c)) AS p, PREDICT(k, struct(a, b, c)) AS q FROM sales JOIN networks USING (store) WHERE store = 'Ulm'"
    )
    assert frame.dtypes == [("p", "string"), ("q", "string")]
    assert all(row["p"] == row["q"] for row in frame.collect())


def test_null_networks_and_null_features_give_null(spark: SparkSession, stores: str) -> None:
    query = "SELECT PREDICT(if(id % 2 = 0, m, NULL), if(id % 3 = 0, NULL, struct(a, b, c))) IS NULL, id % 2 = 1 OR id % 3 = 0 FROM sales JOIN networks USING (store) WHERE store = 'Ulm'"
    assert all(given == wanted for given, wanted in rows(spark, query))


def test_a_persistent_view_and_a_new_session(spark: SparkSession, stores: str) -> None:
    spark.sql("CREATE VIEW trained AS SELECT store, TRAIN('linear_regressor', struct(a, b), y) AS m FROM stores.sales GROUP BY store")
    spark.sql("CREATE VIEW guessed AS SELECT id, PREDICT(m, struct(a, b, c)) AS p FROM stores.sales JOIN stores.networks USING (store)")
    wanted = rows(spark, "SELECT id, PREDICT(m, struct(a, b, c)) FROM sales JOIN networks USING (store) ORDER BY id")
    assert rows(spark.newSession(), "SELECT * FROM stores.guessed ORDER BY id") == wanted
    assert rows(spark, "SELECT count(m), count(*) FROM stores.trained") == [(5, 6)]


def test_options_are_a_map_of_texts_or_a_struct(spark: SparkSession, stores: str) -> None:
    options = (
        SMALL,
        "map('hidden_units', '[8]', 'MAX_ITERATIONS', '3', 'batch_size', '32', 'learn_rate', '0.01')",
        "map('hidden_units', 'array(8)', 'max_iterations', '3', 'batch_size', '32', 'learn_rate', '1e-2', 'optimizer', 'Adam')",
    )
    got = [rows(spark, f"SELECT TRAIN('dnn_regressor', struct(a, b, c), y, {one}) FROM sales") for one in options]
    assert got[0] == got[1] == got[2]


@pytest.mark.parametrize(
    "options",
    [
        "map('optimizer', 'sgd', 'lr_schedule', \"MAP('name', 'ExponentialLR', 'gamma', 0.5)\", 'grad_clip', '1.0')",
        "map('optimizer', 'Adafactor', 'l1_reg', '0.001', 'l2_reg', '0.001', 'dropout', '0.1', 'batch_norm', 'true', 'activation_fn', 'gelu')",
        "map('instance_weight_col', 'w', 'data_split_method', 'seq', 'data_split_col', 'b', 'loss', 'huber_loss')",
        "map('data_split_method', 'random', 'data_split_eval_fraction', '0.5', 'batch_size', '1', 'max_iterations', '1')",
        "map('data_split_method', 'custom', 'data_split_col', 'big')",
    ],
)
def test_every_option_trains(spark: SparkSession, stores: str, options: str) -> None:
    query = f"SELECT TRAIN('dnn_regressor', struct(a, b, c, v, d, big, 1 + id % 2 AS w), y, {options}) FROM sales"
    assert np.isfinite(values.read(bytes(rows(spark, query)[0][0])).measured["loss"])


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "adagrad", "adadelta", "nadam", "rprop", "asgd", "adamax", "radam", "adamw"])
def test_stepping_on_all_parameters_as_one_is_stepping_on_each(optimizer: str) -> None:
    from udfs import groups
    from udfs.schedules import optimizers

    columns = [pa.array(range(64)), pa.array(np.arange(64.0) % 7), pa.array(np.arange(64.0))]
    asked = how()
    asked = how(
        steps=LocalSteps(**{**{name: getattr(asked.steps, name) for name in LocalSteps.__slots__}, "optimizer": optimizers()[optimizer]})
    )
    as_one = values.read(train_group(asked, *columns) or b"")
    known, groups._BY_MATRIX = groups._BY_MATRIX, (optimizers()[optimizer],)
    try:
        each = values.read(train_group(asked, *columns) or b"")
    finally:
        groups._BY_MATRIX = known
    for name, array in as_one.tensors.items():
        np.testing.assert_allclose(array, each.tensors[name], rtol=1e-5, atol=1e-7)  # float32, vector instructions on other boundaries


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("TRAIN('dnn_regresor', struct(a), y)", "[DLSQL_OPTION_VALUE] Option `model_type` is 'dnn_regresor'; it takes one of linear_regressor, logistic_classifier, dnn_classifier, dnn_regressor. Did you mean `dnn_regressor`? SQLSTATE: 22023"),
        ("TRAIN(c, struct(a), y)", "[DLSQL_ARGUMENTS] TRAIN is called as TRAIN('model_type', struct(features...), label [, map('option', 'value', ...)]). SQLSTATE: 42804"),
        ("TRAIN('dnn_regressor', a, y)", "[DLSQL_ARGUMENTS] TRAIN is called as"),
        ("TRAIN('dnn_regressor', struct(a))", "[DLSQL_ARGUMENTS] TRAIN is called as"),
        ("TRAIN('dnn_regressor', struct(a), y, map('seed', c))", "[DLSQL_ARGUMENTS] TRAIN is called as TRAIN('model_type', struct(features...), label [, map('option', 'value', ...)]); its options are a constant MAP or STRUCT. SQLSTATE: 42804"),
        ("TRAIN('dnn_regressor', struct(*), y)", "[DLSQL_ARGUMENTS] TRAIN got the label `y` among the features, to be learned by heart. Leave it out: struct(* EXCEPT (`y`)). SQLSTATE: 42804"),
        ("TRAIN('dnn_regressor', struct(a), y, map('hiden_units', '[3]'))", "[DLSQL_UNKNOWN_OPTION] `hiden_units` is not an option of TRAIN. Did you mean `hidden_units`? SQLSTATE: 22023"),
        ("TRAIN('dnn_regressor', struct(a), y, map('warm_start', 'true'))", "[DLSQL_UNKNOWN_OPTION] `warm_start` is not an option of TRAIN. SQLSTATE: 22023"),
        ("TRAIN('linear_regressor', struct(a), y, map('hidden_units', '[3]'))", "[DLSQL_UNKNOWN_OPTION] `hidden_units` is not an option of model_type linear_regressor."),
        ("TRAIN('dnn_regressor', struct(a), y, map('batch_size', '0'))", "[DLSQL_OPTION_VALUE] Option `batch_size` is '0'; it takes a whole number from 1 to 16777216. SQLSTATE: 22023"),
        ("TRAIN('dnn_regressor', struct(a), y, map('optimizer', 'adm'))", "[DLSQL_OPTION_VALUE] Option `optimizer` is 'adm'; it takes one of"),
        ("TRAIN('dnn_regressor', struct(a), level)", "[DLSQL_COLUMN_TYPE] Column `level` is STRING; the label of a dnn_regressor is a number. SQLSTATE: 42804"),
        ("TRAIN('dnn_regressor', struct(map(1, a) AS z), y)", "[DLSQL_COLUMN_TYPE] Column `z` is MAP<INT,DOUBLE>;"),
        ("TRAIN('dnn_regressor', struct(a), y, map('instance_weight_col', 'aa'))", "[DLSQL_COLUMN_NOT_FOUND] Weight column (instance_weight_col) `aa` is not among the columns: a, y. Did you mean `a`? SQLSTATE: 42704"),
    ],
)  # fmt: skip
def test_errors_of_train_come_at_analysis(spark: SparkSession, stores: str, call: str, message: str) -> None:
    with pytest.raises(AnalysisException) as raised:
        spark.sql(f"SELECT store, {call} FROM sales GROUP BY store")
    assert str(raised.value).split("\n")[0].startswith(message)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("PREDICT(k, struct(a, b))", "[DLSQL_FEATURE_MISSING] Model `k` takes `c`, and the arguments do not hold it. SQLSTATE: 42704"),
        ("PREDICT(k, struct(a, b, 1 AS c))", "[DLSQL_FEATURE_TYPE] Feature `c` of model `k` takes STRING; the argument is INT. SQLSTATE: 42804"),
        ("PREDICT(k, a, b, c)", "[DLSQL_ARGUMENTS] PREDICT over a column of networks is called as PREDICT(m, struct(features...) [, 'type of the answer']). SQLSTATE: 42804"),
        ("PREDICT(k, struct(a, b, c), 'number')", "[DLSQL_ARGUMENTS] PREDICT takes the type of the answer, such as 'STRING' or 'BIGINT', as its third argument, not 'number'. SQLSTATE: 42804"),
        ("PREDICT_PROBA(m, struct(a, b, c))", "[DLSQL_ARGUMENTS] PREDICT_PROBA gives the probabilities of classes, and these networks answer a number. Use PREDICT. SQLSTATE: 42804"),
        ("PREDICT(X'00', struct(a))", "[DLSQL_ARGUMENTS] PREDICT got no network. A value of 1 bytes is no network;"),
        ("PREDICT_PROBA(unhex(hex(k)), struct(a, b, c))", "[DLSQL_ARGUMENTS] PREDICT_PROBA over networks that are not known at analysis needs the label's type: PREDICT_PROBA(m, features, 'STRING'). SQLSTATE: 42804"),
        ("ML_PREDICT(unhex(hex(k)), struct(a, b, c))", "[DLSQL_UNSUPPORTED] ML_PREDICT over networks whose kind is not known at analysis is not supported yet."),
    ],
)  # fmt: skip
def test_errors_of_predict_come_at_analysis_where_the_networks_are_known(spark: SparkSession, stores: str, call: str, message: str) -> None:
    with pytest.raises(AnalysisException) as raised:
        spark.sql(f"SELECT {call} FROM sales JOIN networks USING (store)")
    assert str(raised.value).split("\n")[0].startswith(message)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("PREDICT(k, struct(a, b, c))", r"The network's answer is STRING, and the query expects double. Say its type: PREDICT\(m, features, 'string'\)"),
        ("PREDICT(m, struct(a, b, c AS cc))", "A network takes `c`, and the features hold a, b, cc. Did you mean `cc`?"),
        ("PREDICT(m, struct(a, c AS b, c))", "A network takes `b` as BIGINT, and it is string"),
        ("PREDICT(encode(store, 'utf-8'), struct(a, b, c))", "bytes is no network; PREDICT takes the BINARY that TRAIN gives"),
        ("PREDICT_PROBA(m, struct(a, b, c), 'STRING')", "A network answers a number, where the query expects a class"),
    ],
)  # fmt: skip
def test_errors_of_networks_that_are_not_known_come_with_the_rows(spark: SparkSession, stores: str, call: str, message: str) -> None:
    with pytest.raises(PythonException, match=message):
        spark.sql(f"SELECT {call} FROM sales JOIN {OPAQUE} USING (store)").collect()


def test_two_thousand_tiny_groups(spark: SparkSession) -> None:
    query = f"SELECT id % 2000 AS g, TRAIN('dnn_regressor', struct(id AS a), id * 2, {SMALL}) AS m FROM range(20000) GROUP BY g"
    assert rows(spark, f"SELECT count(m), count(DISTINCT g), max(length(m)) < 1000 FROM ({query})") == [(2000, 2000, True)]


def test_a_group_of_every_kind_of_trouble_gives_null(spark: SparkSession) -> None:
    query = """SELECT g, TRAIN('logistic_classifier', struct(a, v), y) IS NULL AS none, TRAIN('linear_regressor', struct(a), n) IS NULL AS line
        FROM VALUES (1, 1D, array(1), 'x', 5), (1, 2D, array(1), 'x', 5), (2, 1D, array(1), 'x', 1), (2, 2D, array(1, 2), 'y', 2),
                    (3, double('NaN'), array(1), 'x', 1), (3, 2D, array(2), 'y', 2), (4, 1D, array(1), NULL, NULL), (5, 1D, array(1), 'x', 1),
                    (5, 2D, array(NULL), 'y', 2) AS t(g, a, v, y, n) GROUP BY g ORDER BY g"""
    assert rows(spark, query) == [(1, True, False), (2, True, False), (3, True, True), (4, True, True), (5, False, False)]


# CREATE MODEL with partition_cols


def create(spark: SparkSession, name: str, options: str, query: str) -> dict[str, object]:
    (row,) = spark.sql(f"CREATE OR REPLACE MODEL {name} OPTIONS ({options}) AS {query}").collect()
    return dict(row.asDict())


def test_a_model_by_group_predicts_what_the_groups_networks_do(spark: SparkSession, stores: str) -> None:
    options = f"model_type = 'dnn_regressor', input_label_cols = ['y'], partition_cols = ['store'], {SMALL_OPTIONS}"
    row = create(spark, "by_store", options, "SELECT store, a, b, c, y FROM sales")
    assert (row["rows_trained"], row["metrics"]["groups"], row["metrics"]["groups_trained"]) == (300, 6.0, 5.0)
    query = "SELECT id, PREDICT('by_store', s.store, a, b, c) AS p, PREDICT(m, struct(a, b, c)) AS q FROM sales s JOIN networks n ON s.store <=> n.store"
    got = rows(spark, query)
    assert len(got) == 301
    assert sum(p is None for _, p, _ in got) == 1  # the one row of `tiny`
    for _, p, q in got:
        assert p == (None if q is None else pytest.approx(q, rel=1e-5))  # float32: other rows stood beside them in the batch
    assert rows(spark, "SELECT PREDICT('by_store', 'Paris', 1D, 2, 'x'), PREDICT('by_store', 'Ulm', 1D, 2, 'x') IS NULL") == [(None, False)]


def test_the_networks_of_a_large_model_by_group_are_mapped(spark: SparkSession, stores: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = f"model_type = 'dnn_regressor', input_label_cols = ['y'], partition_cols = ['store'], {SMALL_OPTIONS}"
    found, mapped = [], []
    for large in (1, LARGE):  # bytes
        monkeypatch.setattr(inference, "LARGE", large)
        row = create(spark, "many", options, "SELECT store, a, b, c, y FROM sales WHERE year = 0")
        found.append(rows(spark, "SELECT id, PREDICT('many', store, a, b, c) FROM sales"))
        mapped.append(mapping(Path(str(row["uri"]).removeprefix("file:"), "groups.arrow")))
        for worker in mapped[-1]:
            os.kill(worker, signal.SIGKILL)  # else it goes on with the networks that it has
    assert found[0] == found[1]
    assert [bool(workers) for workers in mapped] == [True, False]


@pytest.mark.parametrize("network", ["'grouped', store, a, b, c", "m, struct(a, b, c)"])
def test_they_run_once_a_row_and_for_the_rows_that_need_them(spark: SparkSession, stores: str, network: str) -> None:
    options = f"model_type = 'dnn_regressor', partition_cols = ['store'], input_label_cols = ['y'], {SMALL_OPTIONS}"
    spark.sql(f"CREATE MODEL IF NOT EXISTS grouped OPTIONS ({options}) AS SELECT store, a, b, c, y FROM sales").collect()
    given = "sales JOIN networks USING (store)" if network.startswith("m") else "sales"
    asked = spark.sql(
        f"SELECT y, y * 2 FROM (SELECT id, PREDICT({network}) AS y FROM {given} WHERE store = 'Ulm') WHERE y < 1e9 AND id < 100"
    )
    assert len(asked.collect()) == scored(asked) == 20
    guarded = f"SELECT sum(if(id % 10 = 0, PREDICT({network}), 0)), sum(PREDICT({network})) FILTER (WHERE id % 10 = 0) FROM {given}"
    found, wanted = rows(spark, guarded)[0]
    assert found == pytest.approx(wanted)


def test_untrained_groups_stand_in_the_training_info_with_the_reason(spark: SparkSession, stores: str) -> None:
    options = "model_type = 'logistic_classifier', input_label_cols = ['level'], partition_cols = ['Store', 'year'], max_iterations = 2"
    query = "SELECT store, year, a, b, if(store = 'Ulm' AND year = 0, 'low', level) AS level FROM sales"
    create(spark, "by_two", options, query)
    frame = spark.sql("SELECT * FROM ML_TRAINING_INFO('by_two') WHERE version = 1")
    assert frame.columns[-2:] == ["group", "note"]
    got = [(row["group"], row["rows"], row["train_loss"] is None, row["note"]) for row in frame.orderBy("group").collect()]
    assert got == [
        (None, 270, False, "9 of 11 groups have a network"),
        ("store=Ulm, year=0", 30, True, "Label `level` is 'low' in every row; a classifier needs at least 2 classes."),
        ("store=tiny, year=0", 1, True, "The group has 1 usable row; training needs at least 2."),
    ]
    assert rows(spark, "SELECT count(PREDICT('by_two', struct(*))), count(*) FROM sales") == [(270, 301)]
    assert rows(spark, "SELECT PREDICT('by_two', NULL, 0, 1D, 2) IS NULL, PREDICT('by_two', NULL, 7, 1D, 2) IS NULL") == [(False, True)]


def test_statements_know_models_by_group(spark: SparkSession, stores: str) -> None:
    options = f"model_type = 'dnn_classifier', input_label_cols = ['level'], partition_cols = ['store'], {SMALL_OPTIONS}"
    create(spark, "shown", options, "SELECT store, a, b, level FROM sales")
    described = {row["col_name"]: row["data_type"] for row in spark.sql("DESCRIBE MODEL EXTENDED shown").collect()}
    assert (described["store"], described["level"], described["Engine"]) == ("string", "string", "groups")
    (again,) = spark.sql("SHOW CREATE MODEL shown").collect()[0]
    assert "partition_cols = ['store']" in again
    assert spark.sql("SELECT * FROM ML_EVALUATE('shown')").collect()[0]["accuracy"] > 0.4
    evaluated = spark.sql("SELECT * FROM ML_EVALUATE('shown', TABLE(sales))").collect()[0]
    assert 0.4 < evaluated["accuracy"] <= 1
    frame = spark.sql("SELECT * FROM ML_PREDICT('shown', TABLE(SELECT * FROM sales WHERE store = 'Ulm'))")
    assert frame.columns[-2:] == ["predicted_level", "predicted_level_probs"]
    assert all(row["predicted_level"] == row["predicted_level_probs"][0]["label"] for row in frame.collect())
    plan = spark.sql(f"EXPLAIN CREATE MODEL planned OPTIONS ({options}) AS SELECT store, a, b, level FROM sales").collect()
    assert ("plan", "groups", "6, of 1 to 60 rows") in [tuple(row) for row in plan]
    import dlsql

    udf = dlsql.predict_udf("shown", spark)
    assert spark.table("sales").where("store = 'Ulm'").select(udf("store", "a", "b")).distinct().count() <= 2


def test_the_same_statement_makes_the_same_model(spark: SparkSession, stores: str) -> None:
    options = f"model_type = 'dnn_regressor', input_label_cols = ['y'], partition_cols = ['store'], {SMALL_OPTIONS}"
    hashes = []
    for query in ("SELECT store, a, y FROM sales", "SELECT store, a, y FROM sales DISTRIBUTE BY a SORT BY y"):
        create(spark, "same", options, query)
        hashes.append({row["col_name"]: row["data_type"] for row in spark.sql("DESCRIBE MODEL EXTENDED same").collect()}["SHA-256"])
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("options", "query", "message"),
    [
        ("partition_cols = ['shop']", "SELECT store, a, y FROM sales", "[DLSQL_COLUMN_NOT_FOUND] Partition column (partition_cols) `shop` is not among the columns: store, a, y. SQLSTATE: 42704"),
        ("partition_cols = ['y']", "SELECT store, a, y FROM sales", "[DLSQL_OPTION_VALUE] Option `input_label_cols` is 'y'; it is a partition column (partition_cols). SQLSTATE: 22023"),
        ("partition_cols = ['v']", "SELECT v, a, y FROM sales", "[DLSQL_COLUMN_TYPE] Column `v` is ARRAY<DOUBLE>; a partition column is a number, boolean, string, date, timestamp or binary. SQLSTATE: 42804"),
        ("partition_cols = ['store', 'STORE']", "SELECT store, a, y FROM sales", "[DLSQL_OPTION_VALUE] Option `partition_cols` is ('store', 'STORE'); `STORE` is there twice. SQLSTATE: 22023"),
        ("partition_cols = ['store'], num_workers = 2", "SELECT store, a, y FROM sales", "[DLSQL_OPTION_VALUE] Option `num_workers` is 2; it does not go with partition_cols, where each group's network is trained anew in one task. SQLSTATE: 22023"),
        ("partition_cols = ['store']", "SELECT store, y FROM sales", "[DLSQL_TRAINING_DATA] The training query has no column beside the label `y`; a model needs at least one feature. SQLSTATE: 22000"),
        ("partition_cols = ['id']", "SELECT id, a, y FROM sales WHERE id < 3", "[DLSQL_TRAINING_DATA] None of the 3 groups by id could be trained. id=0: The group has 1 usable row; training needs at least 2. SQLSTATE: 22000"),
        ("partition_cols = ['id']", "SELECT id, a, y FROM sales WHERE id < 0", "[DLSQL_TRAINING_DATA] None of the 0 groups by id could be trained. SQLSTATE: 22000"),
        ("partition_cols = ['store'], learn_rate = 1e30, optimizer = 'sgd'", "SELECT store, a, y FROM sales", "[DLSQL_TRAINING_DATA] None of the 6 groups by store could be trained."),
    ],
)  # fmt: skip
def test_bad_partitions_say_what_is_wrong_and_register_nothing(
    spark: SparkSession, stores: str, options: str, query: str, message: str
) -> None:
    with pytest.raises(AnalysisException) as raised:
        spark.sql(f"CREATE MODEL fresh OPTIONS (model_type = 'dnn_regressor', input_label_cols = ['y'], {options}) AS {query}")
    assert str(raised.value).strip().split("\n")[0].startswith(message)
    assert spark.sql("SHOW MODELS IN stores LIKE 'fresh'").count() == 0


def test_a_warm_start_by_group_is_refused(spark: SparkSession, stores: str) -> None:
    options = f"model_type = 'dnn_regressor', input_label_cols = ['y'], partition_cols = ['store'], {SMALL_OPTIONS}"
    create(spark, "cold", options, "SELECT store, a, y FROM sales")
    with pytest.raises(AnalysisException, match="`warm_start` is True; it does not go with partition_cols"):
        spark.sql(f"CREATE OR REPLACE MODEL cold OPTIONS ({options}, warm_start = true) AS SELECT store, a, y FROM sales")
