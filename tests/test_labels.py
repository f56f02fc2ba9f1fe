"""Networks with several labels: what they give, how they learn, and what SQL answers."""

import datetime
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from torch import nn
from torch.nn import functional

import dlsql
from dlsql.errors import UnsupportedError
from dlsql.formats import onnx
from udfs import metrics, networks
from udfs.batches import Block, as_batch
from udfs.errors import NetworkError
from udfs.losses import measured, try_loss
from udfs.metrics import Evaluated
from udfs.networks import keras as keras_networks
from udfs.spec import Code, Feature, Input, Label, LocalSteps, NetworkSpec, Preprocess, heads
from udfs.train import Learner, Round, initial_state, train_round

ROOT = Path(__file__).resolve().parent.parent

# ---- Networks alone, without Spark

AGE, KIND = Label("age", "int", None, 40.0, 10.0), Label("Kind", "string", pa.array(["a", "b", "c"]))
LABELS = (AGE, KIND)


def here(name: str) -> Code:
    """A factory of this module."""
    return Code(f"{__name__}:{name}")


def spec_of(factory: Code | None, labels: tuple[Label, ...] = LABELS, builder: str = "module", **arguments: Any) -> NetworkSpec:
    inputs = (Input("a", (1,), "float", 0), Input("b", (2,), "float", 1))
    outputs = sum(label.outputs for label in labels)
    return NetworkSpec(3, (), outputs, builder, tuple(arguments.items()), factory, inputs, heads(labels))


class Two(nn.Module):
    """A head for each label; `shape` says how their tensors are given."""

    def __init__(self, outputs: dict[str, int], shape: str = "tuple") -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(3, width) for width in outputs.values()])
        self.shape = shape

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> Any:
        first, second = (head(torch.cat([a, b], dim=1)) for head in self.heads)
        return {
            "tuple": (first, second),
            "list": [first, second],
            "flat": (first[:, 0], second),
            "dict": {"kind": second, "AGE": first},
            "one": torch.cat([first, second], dim=1),
            "swapped": (second, first),
            "three": (first, second, second),
            "names": {"age": first, "kinds": second},
            "text": (first, "second"),
            "none": None,
        }[self.shape]


def keras_two(outputs: dict[str, int]) -> Any:
    keras = keras_networks.keras
    a, b = keras.Input((1,), name="a"), keras.Input((2,), name="b")
    trunk = keras.layers.Dense(8, activation="relu")(keras.layers.Concatenate()([a, b]))
    return keras.Model([a, b], [keras.layers.Dense(width)(trunk) for width in outputs.values()])


def keras_named(outputs: dict[str, int]) -> Any:
    model = keras_two(outputs)
    return keras_networks.keras.Model(model.inputs, dict(zip(reversed(outputs), reversed(model.outputs), strict=True)))


DENSE, CODES = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)), torch.zeros(4, 0, dtype=torch.int64)


@pytest.mark.parametrize("shape", ["tuple", "list", "flat", "dict", "one"])
def test_the_tensors_of_a_network_lie_side_by_side_in_the_order_of_the_labels(shape: str) -> None:
    spec = spec_of(here("Two"), shape=shape)
    built = networks.build(spec)
    wanted = torch.cat([head(DENSE) for head in built.module.heads], dim=1)
    assert torch.equal(built(DENSE, CODES), wanted)
    assert onnx.disagreement(built, spec) is None


@pytest.mark.parametrize("factory", ["keras_two", "keras_named"])
def test_a_keras_model_lists_its_outputs_or_names_them(factory: str) -> None:
    spec = spec_of(here(factory))
    built = networks.build(spec)
    given = built.module([DENSE[:, :1], DENSE[:, 1:]])
    parts = [given["age"], given["Kind"]] if isinstance(given, dict) else given
    assert torch.equal(built(DENSE, CODES), torch.cat(list(parts), dim=1))
    assert onnx.disagreement(built, spec) is None


def test_an_architecture_of_keras_may_have_several_outputs() -> None:
    text = keras_networks.alone(lambda: keras_two({"age": 1, "Kind": 3})).to_json()
    spec = spec_of(None, builder="keras", architecture=text)
    assert networks.build(spec)(DENSE, CODES).shape == (4, 4)
    assert spec.layers == "a [1], b [2] - keras - age [1], Kind [3]"


def test_a_network_by_name_gives_the_outputs_of_all_labels_as_one_tensor() -> None:
    assert networks.build(spec_of(networks.stock("mlp")))(DENSE, CODES).shape == (4, 4)


TAKES = "a ['rows', 1] float32, b ['rows', 2] float32"


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ("swapped", f"The network gives a tensor ['rows', 3] as `age` for {TAKES}; ['rows', 1] is wanted, one number for each class or value. A factory that takes `outputs` is told how many there are."),
        ("three", "The network gives 3 tensors; there are 2 labels: age ['rows', 1], Kind ['rows', 3]. It gives a tensor for each, as a tuple in this order or as a dict by their names."),
        ("names", "The network gives a dict of age, kinds; there are 2 labels: age ['rows', 1], Kind ['rows', 3]."),
        ("text", f"The network gives a str as `Kind` for {TAKES}; ['rows', 3] is wanted"),
        ("none", "The network gives a NoneType; there are 2 labels: "),
    ],
)  # fmt: skip
def test_outputs_that_do_not_fit_the_labels_say_what_was_found_and_wanted(shape: str, problem: str) -> None:
    with pytest.raises(NetworkError, match=re.escape(problem)):
        networks.build(spec_of(here("Two"), shape=shape))


AGES, KINDS, WEIGHTS = np.array([0.5, -1.0, 2.0, 0.25], np.float32), np.array([2, 0, 1, 2], np.int32), np.array([1, 2, 1, 1], np.float32)


def block() -> Block:
    """Four rows: labels of 4 bytes each, a number as the bits of its float32."""
    labels = np.stack([AGES.view(np.int32), KINDS], axis=1)
    return 0, False, 4, DENSE.numpy().tobytes(), b"", labels.tobytes(), WEIGHTS.tobytes()


def steps_of(loss: str = "mse_loss", own: Code | None = None) -> LocalSteps:
    return LocalSteps(spec_of(here("Two")), "regression", loss, "Adam", 4, 1, 1, own_loss=own)


@pytest.mark.parametrize("loss", ["mse_loss", "l1_loss"])
def test_the_loss_is_the_sum_of_the_labels_losses_each_by_its_own_task(loss: str) -> None:
    outputs = torch.randn(4, 4, generator=torch.Generator().manual_seed(2))
    steps = steps_of(loss)
    found, sums = measured(steps, outputs, as_batch(steps, block()))
    ages, kinds = torch.from_numpy(AGES), torch.from_numpy(KINDS).long()
    each = getattr(functional, loss)(outputs[:, 0], ages, reduction="none") + functional.cross_entropy(
        outputs[:, 1:], kinds, reduction="none"
    )
    assert found == pytest.approx(float((each * torch.from_numpy(WEIGHTS)).sum()), rel=1e-6)  # float32
    got = metrics.metrics([Evaluated(0, 4, 5.0, found, sums)], LABELS)
    assert list(got) == [
        "age_mean_absolute_error", "age_mean_squared_error", "age_root_mean_squared_error", "age_r2_score", "age_explained_variance",
        "Kind_accuracy", "Kind_precision", "Kind_recall", "Kind_f1_score", "Kind_log_loss",
    ]  # fmt: skip
    assert got["Kind_accuracy"] == float((outputs[:, 1:].argmax(1) == kinds).float().mean())
    assert got["age_mean_absolute_error"] == pytest.approx(10 * float((outputs[:, 0] - ages).abs().mean()), rel=1e-6)


def ages_alone(outputs: tuple[torch.Tensor, ...], labels: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return (outputs[0] - labels[0]).abs() + 0 * outputs[1].sum(dim=1) * labels[1]


def of_one(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (outputs - labels).abs()


def test_a_loss_of_ones_own_gets_the_outputs_and_values_of_all_labels() -> None:
    outputs = torch.randn(4, 4, generator=torch.Generator().manual_seed(2))
    steps = steps_of(own=here("ages_alone"))
    found, _ = measured(steps, outputs, as_batch(steps, block()))
    assert found == pytest.approx(float(((outputs[:, 0] - torch.from_numpy(AGES)).abs() * torch.from_numpy(WEIGHTS)).sum()), rel=1e-6)
    try_loss(here("ages_alone"), steps.network, "regression")
    with pytest.raises(
        NetworkError, match=re.escape("of_one` fails, called with outputs ([2], [2, 3]) and labels ([2], [2]): TypeError: ")
    ):
        try_loss(here("of_one"), steps.network, "regression")


def test_a_round_mixes_rows_with_all_their_labels() -> None:
    """Each row's labels stay with it through shuffles and batches: the loss before the first step is that of the rows in their order."""
    steps, before = steps_of(), initial_state(spec_of(here("Two")), 1)
    done = next(train_round(Learner(steps, before), Round(0, 0, 1, 1e-9, 1000), [block()], None))
    built = networks.build(steps.network)
    built.load_state_dict({key.removeprefix("network/"): torch.from_numpy(value) for key, value in before.items()})
    with torch.no_grad():
        wanted, _ = measured(steps, built(DENSE, CODES), as_batch(steps, block()))
    assert done.loss == pytest.approx(wanted, rel=1e-6)


def test_labels_are_kept_with_the_model_in_their_order() -> None:
    learned = Preprocess((Feature("a", "double", "number", (0.0,), (1.0,)),), AGE, None, (KIND,))
    read = Preprocess.from_json(learned.to_json())
    assert read.labels[0] == AGE
    assert (read.others[0].name, read.others[0].classes.to_pylist()) == ("Kind", ["a", "b", "c"])
    assert Preprocess.from_json(Preprocess(learned.features, AGE).to_json()) == Preprocess(learned.features, AGE)


# ---- In Spark


@pytest.fixture(scope="module")
def lab(spark: SparkSession) -> Iterator[SparkSession]:
    """A database of this module's own."""
    spark.sql("CREATE DATABASE labels")
    spark.sql("USE labels")
    spark.sql(
        """CREATE TABLE flats AS
        SELECT a, b, int(60 * a + 20 * b[0]) AS age, if(a + b[1] > 1, 'old', if(a > 0.5, 'new', 'odd')) AS kind, a > 0.5 AS sold,
               DATE'2024-01-01' + int(a > 0.5) AS day, int(a * 3) AS floor
        FROM (SELECT id * 37 % 100 / 100D AS a, array(id * 11 % 30 / 30D, id % 7 / 7D) AS b FROM range(1200))"""
    )
    yield spark
    for row in spark.sql("SHOW MODELS IN labels").collect():
        spark.sql(f"DROP MODEL labels.{row['model']}")
    spark.sql("USE default")
    spark.sql("DROP DATABASE labels CASCADE")


FIT = {"learn_rate": 0.05, "batch_size": 32, "max_iterations": 8, "early_stop": False, "replace": True, "num_workers": 2}
BOTH = {"model_type": "dnn_regressor", "input_label_cols": ["age", "kind"]}


@pytest.fixture(scope="module")
def flats(lab: SparkSession) -> DataFrame:
    return lab.sql("SELECT a, b, age, kind FROM flats")


@pytest.fixture(scope="module")
def told(lab: SparkSession, flats: DataFrame) -> dict[str, float]:
    """The metrics of a model of that name."""
    return dict(dlsql.train(flats, "told", module=Two, **BOTH, **FIT)["metrics"])


def outputs_of(uri: str, module: nn.Module, rows: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """What the module itself gives for rows, with the weights that were kept: ages in their own unit, logits of kinds."""
    folder = Path(uri.removeprefix("file:"))
    with np.load(io.BytesIO((folder / "weights.npz").read_bytes())) as kept:
        module.load_state_dict({key.removeprefix("network/"): torch.from_numpy(kept[key]) for key in kept.files})
    a, b = (torch.tensor(given, dtype=torch.float32) for given in ([[row["a"]] for row in rows], [row["b"] for row in rows]))
    with torch.no_grad():
        age, kind = module([a, b]) if hasattr(module, "inputs") else module(a, b)
    label = Preprocess.from_json((folder / "preprocess.json").read_text()).label
    return age[:, 0].double().numpy() * label.scale + label.mean, kind.numpy()


@pytest.mark.parametrize("factory", [Two, keras_two])
def test_two_labels_train_and_predict_what_the_module_itself_gives(lab: SparkSession, flats: DataFrame, factory: Any) -> None:
    row = dlsql.train(flats, "both", module=factory, **BOTH, **FIT)
    assert row["metrics"]["age_r2_score"] > 0.95
    assert row["metrics"]["kind_accuracy"] > 0.7
    query = "SELECT *, PREDICT('both', a, b) AS p, ML_PREDICT('both', struct(*)) AS w, TRY_PREDICT('both', a, b).kind AS t FROM (SELECT * FROM flats LIMIT 300)"
    answered = lab.sql(query)
    assert answered.schema["p"].dataType.simpleString() == "struct<age:double,kind:string>"
    whole = "struct<label:string,probability:double,probabilities:array<struct<label:string,probability:double>>>"
    assert answered.schema["w"].dataType.simpleString() == f"struct<age:struct<value:double>,kind:{whole}>"
    rows = answered.collect()
    module = keras_networks.alone(lambda: factory({"age": 1, "kind": 3})) if factory is keras_two else factory({"age": 1, "kind": 3})
    ages, logits = outputs_of(row["uri"], module, rows)
    names = ["new", "odd", "old"]
    np.testing.assert_allclose([one["p"]["age"] for one in rows], ages, rtol=1e-4, atol=1e-3)  # float32 sums in another order
    assert [one["p"]["kind"] for one in rows] == [names[place] for place in logits.argmax(axis=1)]
    assert all(one["w"]["age"]["value"] == one["p"]["age"] and one["w"]["kind"]["label"] == one["p"]["kind"] == one["t"] for one in rows)
    shares = torch.softmax(torch.from_numpy(logits).double(), dim=1).max(dim=1).values
    np.testing.assert_allclose([one["w"]["kind"]["probability"] for one in rows], shares, rtol=1e-4)


def test_the_labels_of_a_model_show_wherever_it_is_told_of(lab: SparkSession, told: dict[str, float]) -> None:
    described = [tuple(row) for row in lab.sql("DESCRIBE MODEL told").collect()][:4]
    assert described == [
        ("a", "double", "input"),
        ("b", "array<double>", "input"),
        ("age", "double", "output"),
        ("kind", "string", "output"),
    ]
    assert (
        lab.sql("SELECT outputs FROM dlsql.models WHERE namespace = 'labels' AND model = 'told'").first()[0]
        == "`age` double, `kind` string"
    )
    assert lab.sql("SHOW VERSIONS IN MODEL told").count() == 1
    (held_out,) = lab.sql("SELECT * FROM ML_EVALUATE('told')").collect()
    assert held_out["kind_accuracy"] == told["kind_accuracy"]
    (measured_now,) = lab.sql("SELECT * FROM ML_EVALUATE('told', TABLE(flats))").collect()
    assert measured_now.__fields__ == held_out.__fields__ == [
        "age_mean_absolute_error", "age_mean_squared_error", "age_root_mean_squared_error", "age_r2_score", "age_explained_variance",
        "kind_accuracy", "kind_precision", "kind_recall", "kind_f1_score", "kind_log_loss", "kind_roc_auc",
    ]  # fmt: skip
    by_hand = lab.sql(
        "SELECT avg(abs(age - PREDICT('told', a, b).age)) AS age, avg(int(kind = PREDICT('told', a, b).kind)) AS kind FROM flats"
    )
    assert tuple(by_hand.first()) == pytest.approx((measured_now["age_mean_absolute_error"], measured_now["kind_accuracy"]), rel=1e-12)
    columns = lab.sql("SELECT * FROM ML_PREDICT('told', TABLE(SELECT a, b FROM flats))").columns
    assert columns == ["a", "b", "predicted_age", "predicted_kind", "predicted_kind_probs"]
    nothing = lab.sql(
        "SELECT PREDICT('told', CAST(NULL AS STRUCT<a: DOUBLE, b: ARRAY<DOUBLE>>)) AS p, TRY_PREDICT('told', 1, array(1)) AS t"
    ).first()
    assert tuple(nothing) == (None, None)


def test_a_warm_start_goes_on_with_the_same_labels(lab: SparkSession, flats: DataFrame) -> None:
    first = dlsql.train(flats, "warm", module=Two, **BOTH, **FIT)
    again = dlsql.train(flats, "warm", module=Two, warm_start=True, **BOTH, **FIT)
    assert again["loss"] < first["loss"]
    with pytest.raises(
        AnalysisException, match=re.escape("warm_start goes on with the same labels in the same order: age int, kind string.")
    ):
        dlsql.train(flats, "warm", module=Two, warm_start=True, **{**BOTH, "input_label_cols": ["kind", "age"]}, **FIT)


def test_a_loss_of_ones_own_weighs_the_labels(lab: SparkSession, flats: DataFrame) -> None:
    row = dlsql.train(flats, "weighed", module=Two, loss=ages_alone, standardize=True, **BOTH, **FIT)
    assert row["metrics"]["age_r2_score"] > 0.9
    assert row["metrics"]["kind_log_loss"] > 0.9  # of three classes that nothing was learned of: about ln 3


def test_a_classifier_of_several_labels_answers_in_their_own_types(lab: SparkSession) -> None:
    lab.sql(
        """CREATE MODEL own OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['floor', 'sold', 'day'], module = 'mlp',
        learn_rate = 0.02, batch_size = 32, max_iterations = 6) AS SELECT a, floor, sold, day FROM flats"""
    )
    (row,) = lab.sql("SELECT PREDICT('own', 0.99) AS p").collect()
    assert row["p"].asDict() == {"floor": 2, "sold": True, "day": datetime.date(2024, 1, 2)}
    assert lab.sql("SELECT PREDICT('own', 0.9) AS p").schema["p"].dataType.simpleString() == "struct<floor:int,sold:boolean,day:date>"
    explained = lab.sql("EXPLAIN CREATE MODEL x OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['floor', 'sold'], module = 'mlp') AS SELECT a, floor, sold FROM flats")  # fmt: skip
    assert [tuple(row)[1:] for row in explained.where("part = 'label'").collect()] == [
        ("floor", "int: 3 classes"),
        ("sold", "boolean: 2 classes"),
    ]


TWO = "input_label_cols = ['age', 'kind']"
QUERY = "SELECT a, age, kind FROM flats"


@pytest.mark.parametrize(
    ("options", "query", "message"),
    [
        (f"model_type = 'dnn_regressor', {TWO}", QUERY, "[DLSQL_UNSUPPORTED] A built-in network with more than one label column (input_label_cols) is not supported yet. A network of your own has as many as you like: module = 'mlp', or another one (docs/networks.md). SQLSTATE: 0A000"),
        ("model_type = 'linear_regressor', input_label_cols = ['age', 'kind']", QUERY, "[DLSQL_UNSUPPORTED] A built-in network with more than one label column"),
        ("model_type = 'dnn_regressor', module = 'mlp', input_label_cols = ['age', 'AGE']", QUERY, "[DLSQL_OPTION_VALUE] Option `input_label_cols` is ('age', 'AGE'); it names a column twice. SQLSTATE: 22023"),
        (f"model_type = 'dnn_regressor', module = 'mlp', {TWO}, max_score = 0.5", QUERY, "[DLSQL_OPTION_VALUE] Option `max_score` is 0.5; it is for one label, and input_label_cols has 2. SQLSTATE: 22023"),
        (f"model_type = 'dnn_classifier', module = 'mlp', {TWO}, auto_class_weights = TRUE", QUERY, "[DLSQL_OPTION_VALUE] Option `auto_class_weights` is True; it is for one label, and input_label_cols has 2."),
        (f"model_type = 'dnn_classifier', module = 'mlp', {TWO}, class_weights = MAP('old', 2)", QUERY, "[DLSQL_OPTION_VALUE] Option `class_weights` is (('old', 2.0),); it is for one label, and input_label_cols has 2."),
        (f"model_type = 'dnn_regressor', module = 'mlp', {TWO}", "SELECT a, age FROM flats", "[DLSQL_COLUMN_NOT_FOUND] Label column (input_label_cols) `kind` is not among the columns: a, age. SQLSTATE: 42704"),
        (f"model_type = 'dnn_regressor', module = 'mlp', {TWO}", "SELECT age, kind FROM flats", "[DLSQL_TRAINING_DATA] The training query has no column beside the label `age`, `kind`; a model needs at least one feature. SQLSTATE: 22000"),
        ("model_type = 'dnn_regressor', module = 'mlp', input_label_cols = ['sold', 'kind']", "SELECT a, sold, kind FROM flats", "[DLSQL_COLUMN_TYPE] Column `sold` is BOOLEAN; of several labels one at least of a dnn_regressor is a number. SQLSTATE: 42804"),
        (f"model_type = 'dnn_regressor', module = 'mlp', {TWO}", "SELECT a, age, 'x' AS kind FROM flats", "[DLSQL_TRAINING_DATA] Label `kind` is 'x' in every row; a classifier needs at least 2 classes. SQLSTATE: 22000"),
        (f"model_type = 'dnn_regressor', module = 'mlp', {TWO}", "SELECT a, age, b AS kind FROM flats", "[DLSQL_COLUMN_TYPE] Column `kind` is ARRAY<DOUBLE>; a label is a number, boolean, string, date, timestamp or binary. SQLSTATE: 42804"),
    ],
)  # fmt: skip
def test_labels_that_do_not_go_together_are_refused(lab: SparkSession, options: str, query: str, message: str) -> None:
    with pytest.raises(AnalysisException) as raised:
        lab.sql(f"CREATE MODEL fresh OPTIONS ({options}) AS {query}")
    assert str(raised.value).strip().startswith(message)
    assert lab.sql("SHOW MODELS LIKE 'fresh'").count() == 0


def test_outputs_that_do_not_fit_the_labels_are_refused_before_the_training(lab: SparkSession, flats: DataFrame) -> None:
    for shape, problem in (
        ("swapped", "[DLSQL_SHAPE] The network gives a tensor ['rows', 3] as `age` for "),
        ("three", "[DLSQL_SHAPE] The network gives 3 tensors; there are 2 labels: age ['rows', 1], kind ['rows', 3]. "),
    ):
        with pytest.raises(AnalysisException, match=re.escape(problem)):
            dlsql.train(flats, "fresh", module=Two, module_args={"shape": shape}, **BOTH)
    with pytest.raises(AnalysisException, match=re.escape("[DLSQL_SHAPE] `") + ".*of_one` fails, called with outputs "):
        dlsql.train(flats, "fresh", module=Two, loss=of_one, **BOTH)
    assert lab.sql("SHOW MODELS LIKE 'fresh'").count() == 0


def test_what_is_for_one_label_says_so(lab: SparkSession, told: dict[str, float]) -> None:
    several = "PREDICT_PROBA gives the probabilities of one label; `labels.told` answers with a struct of several: age, kind. Use ML_PREDICT: ML_PREDICT(...).`kind`.probabilities."
    with pytest.raises(AnalysisException, match=re.escape(several)):
        lab.sql("SELECT PREDICT_PROBA('told', a, b) FROM flats")
    with pytest.raises(
        AnalysisException, match=re.escape("Option `threshold` is 0.5; it is for models of one label, and `labels.told` has 2.")
    ):
        lab.sql("SELECT * FROM ML_PREDICT('told', TABLE(flats), map('threshold', 0.5))")
    with pytest.raises(UnsupportedError, match="predict_udf of a model with several labels is not supported yet"):
        dlsql.predict_udf("told", lab)
    with pytest.raises(AnalysisException, match=re.escape("`kind` is not among the columns")):
        lab.sql("SELECT * FROM ML_EVALUATE('told', TABLE(SELECT a, b, age FROM flats))")
