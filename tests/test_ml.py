"""The stages of pyspark.ml, with Spark's own Pipelines, CrossValidators and evaluators around them."""

import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import BinaryClassificationEvaluator, MulticlassClassificationEvaluator, RegressionEvaluator
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dlsql.errors import NotFoundError, OptionError, TypeMismatchError
from dlsql.ml import DLClassifier, DLClassifierModel, DLRegressor, DLRegressorModel

ROOT = Path(__file__).resolve().parent.parent
FAST = {"hiddenUnits": [8], "maxIter": 4, "learningRate": 0.05, "batchSize": 32, "options": {"early_stop": False}}


@pytest.fixture(scope="module")
def points(spark: SparkSession) -> Iterator[DataFrame]:
    """200 points on a line in two numbers, a word and an array; the first half is class 0, the second class 1."""
    made = spark.sql(
        """SELECT CAST(id AS DOUBLE) AS a, CAST(id % 7 AS INT) AS b, if(id < 100, 'low', 'high') AS word,
        array(CAST(id AS FLOAT), CAST(id % 7 AS FLOAT)) AS pair, CAST(id >= 100 AS DOUBLE) AS label, if(id < 100, 0, 2) AS gap,
        CAST(id * 3 AS DECIMAL(10, 2)) AS price, id % 10 = 0 AS held_out FROM range(200)"""
    )
    yield made.cache()
    made.unpersist()


@pytest.fixture(scope="module")
def pipeline(points: DataFrame) -> PipelineModel:
    return Pipeline(stages=[VectorAssembler(inputCols=["a", "b"], outputCol="features"), DLClassifier(**FAST)]).fit(points)


@pytest.fixture(scope="module")
def words(points: DataFrame) -> DLClassifierModel:
    """A model of string labels."""
    return DLClassifier(featuresCols=["a", "b"], labelCol="word", **FAST).fit(points)


def test_classifier_in_a_pipeline_adds_vectors_that_agree_with_the_prediction(pipeline: PipelineModel, points: DataFrame) -> None:
    scored = pipeline.transform(points)
    kinds = {name: kind for name, kind in scored.dtypes if name in ("prediction", "probability", "rawPrediction")}
    assert kinds == {"rawPrediction": "vector", "probability": "vector", "prediction": "double"}
    for row in scored.collect():
        shares = row["probability"].toArray()
        assert shares.sum() == pytest.approx(1, abs=1e-12)  # float64 softmax
        assert float(shares.argmax()) == row["prediction"]
        assert row["rawPrediction"].toArray() == pytest.approx([math.log(max(share, 1e-300)) for share in shares])


def test_evaluators_of_spark_take_the_columns_as_they_are(pipeline: PipelineModel, points: DataFrame) -> None:
    scored = pipeline.transform(points).cache()
    scores = [
        MulticlassClassificationEvaluator(metricName="accuracy").evaluate(scored),
        1 - MulticlassClassificationEvaluator(metricName="logLoss").evaluate(scored),
        BinaryClassificationEvaluator().evaluate(scored),
    ]
    assert all(score > 0.8 for score in scores), scores  # the classes are apart


def test_model_of_the_pipeline_leaves_nothing_in_the_model_store(pipeline: PipelineModel, spark: SparkSession, warehouse: Path) -> None:
    assert pipeline.stages[1].registeredName is None
    assert [path for path in warehouse.rglob("*") if "DLClassifier" in path.name] == []
    assert spark.sql("SELECT * FROM ml_models() WHERE model LIKE '%dlclassifier%'").collect() == []


def test_saved_pipeline_predicts_as_before(pipeline: PipelineModel, points: DataFrame, tmp_path: Path) -> None:
    pipeline.write().overwrite().save(str(tmp_path / "pipeline"))
    loaded = PipelineModel.load(str(tmp_path / "pipeline"))
    assert loaded.stages[1].extractParamMap() == pipeline.stages[1].extractParamMap()
    assert loaded.stages[1].metrics == pipeline.stages[1].metrics
    assert loaded.transform(points).collect() == pipeline.transform(points).collect()


def test_saved_estimator_is_the_same(tmp_path: Path, spark: SparkSession) -> None:
    network = DLRegressor(featuresCols=["a"], modelName="db.m", **FAST)
    network.save(str(tmp_path / "network"))
    assert DLRegressor.load(str(tmp_path / "network")).extractParamMap() == network.extractParamMap()


def test_string_labels_are_predicted_in_their_own_type(words: DLClassifierModel, points: DataFrame) -> None:
    scored = words.transform(points.select("b", "a"))
    assert scored.schema["prediction"].dataType.simpleString() == "string"
    assert (words.classes, words.numClasses) == (["high", "low"], 2)
    rows = scored.collect()
    assert [words.classes[row["probability"].toArray().argmax()] for row in rows] == [row["prediction"] for row in rows]


def test_copy_of_a_model_writes_to_other_columns(words: DLClassifierModel, points: DataFrame) -> None:
    named = words.copy({words.predictionCol: "answer", words.probabilityCol: "", words.rawPredictionCol: ""})
    assert named.transform(points.select("a", "b")).columns == ["a", "b", "answer"]
    assert words.transform(points.select("a", "b"), {words.predictionCol: "p"}).columns == ["a", "b", "rawPrediction", "probability", "p"]


def test_model_refuses_what_it_cannot_score(words: DLClassifierModel, points: DataFrame) -> None:
    calls = {
        r"\[DLSQL_COLUMN_NOT_FOUND\] The features column `b` is not among the columns: a. SQLSTATE: 42704": points.select("a"),
        rf"Feature `b` of model `{words.uid}` takes INT; the argument is STRING.": points.select("a", F.col("word").alias("b")),
        rf"transform of {words.uid} adds a column `prediction`, and there is one.": points.select("a", "b", F.lit(1).alias("Prediction")),
    }
    for text, frame in calls.items():
        with pytest.raises((NotFoundError, TypeMismatchError), match=text):
            words.transform(frame)
    with pytest.raises(TypeMismatchError, match=rf"transform got 1 features columns, a; {words.uid} takes 2."):
        words.copy().setFeaturesCols(["a"]).transform(points)


def test_class_that_training_did_not_see_has_a_place_and_no_probability(points: DataFrame) -> None:
    model = DLClassifier(featuresCol="pair", labelCol="gap", **FAST).fit(points)
    assert model.classes == [0, 1, 2]
    scored = model.transform(points).select("probability", "prediction", "gap").collect()
    assert {row["probability"].toArray()[1] for row in scored} == {0.0}
    assert {row["prediction"] for row in scored} <= {0.0, 2.0}
    accuracy = MulticlassClassificationEvaluator(labelCol="gap", metricName="accuracy").evaluate(model.transform(points))
    assert accuracy > 0.8


def test_null_array_gives_nulls(points: DataFrame) -> None:
    model = DLClassifier(featuresCol="pair", **{**FAST, "maxIter": 1}).fit(points)
    (row,) = model.transform(points.limit(1).select(F.lit(None).cast("array<float>").alias("pair"))).collect()
    assert tuple(row) == (None, None, None, None)


def test_regressor_estimates_doubles_that_an_evaluator_takes(points: DataFrame) -> None:
    network = DLRegressor(featuresCols=["a", "word"], labelCol="price", validationIndicatorCol="held_out", **{**FAST, "maxIter": 20})
    model = network.fit(points)
    assert isinstance(model, DLRegressorModel)
    scored = model.transform(points)
    assert scored.schema["prediction"].dataType.simpleString() == "double"
    assert RegressionEvaluator(labelCol="price", metricName="r2").evaluate(scored.withColumn("price", F.col("price").cast("double"))) > 0.8
    assert set(model.metrics) >= {"mean_squared_error", "r2_score"}


def test_cross_validator_chooses_from_a_grid(points: DataFrame) -> None:
    network = DLClassifier(featuresCol="pair", **FAST)
    grid = ParamGridBuilder().addGrid(network.learningRate, [1e-6, 0.05]).build()
    evaluator = MulticlassClassificationEvaluator(metricName="logLoss")
    tuned = CrossValidator(estimator=network, estimatorParamMaps=grid, evaluator=evaluator, numFolds=2, parallelism=2).fit(points)
    assert len(tuned.avgMetrics) == 2
    assert tuned.avgMetrics[0] > tuned.avgMetrics[1]
    assert tuned.bestModel.transform(points).count() == 200


@pytest.mark.parametrize("batch", [1, 10_000])
def test_any_batch_size_trains(points: DataFrame, batch: int) -> None:
    model = DLRegressor(featuresCols=["a"], labelCol="b", batchSize=batch, maxIter=1, hiddenUnits=[2]).fit(points.limit(30))
    assert model.transform(points).where("prediction IS NOT NULL").count() == 200


def test_fit_with_a_param_map_trains_otherwise_and_leaves_the_estimator(points: DataFrame) -> None:
    network = DLRegressor(featuresCols=["a"], labelCol="b", maxIter=1, hiddenUnits=[2])
    (linear, deep) = network.fit(points, [{network.options: {"learn_rate": 0.5}}, {network.hiddenUnits: [3]}])
    assert linear.transform(points).collect() != deep.transform(points).collect()
    assert (network.getHiddenUnits(), network.getOptions()) == ([2], {})


def test_named_model_is_registered_and_predicts_in_sql(spark: SparkSession, database: str, points: DataFrame) -> None:
    network = DLClassifier(featuresCol="features", modelName="staged", **FAST)
    frame = VectorAssembler(inputCols=["a", "b"], outputCol="features").transform(points)
    model = network.fit(frame)
    again = network.fit(frame, {network.maxIter: 1})
    assert (model.registeredName, again.registeredName) == (f"{database}.staged@v1", f"{database}.staged@v2")
    scored = model.transform(frame).withColumn("sql", F.expr("predict('staged@v1', features)"))
    assert scored.where("sql <> prediction").count() == 0


def test_unknown_params_and_options_are_refused_before_any_job(points: DataFrame) -> None:
    refusals = {
        "`hiddenUnit` is not an option of DLClassifier. Did you mean `hiddenUnits`?": lambda: DLClassifier(hiddenUnit=[3]),
        "`maxIters` is not an option of DLRegressor. Did you mean `maxIter`?": lambda: DLRegressor().setParams(maxIters=3),
        "Option `max_iterations` is 3; a Param says it, too; leave it out of `options`.": lambda: (
            DLRegressor(featuresCol="pair", maxIter=2, options={"max_iterations": 3}).fit(points)
        ),
        "Option `model_type` is 'dnn_classifier'; a DLRegressor takes a kind of model for regression.": lambda: (
            DLRegressor(featuresCol="pair", options={"model_type": "dnn_classifier"}).fit(points)
        ),
        "Option `dropout` is 2.0; it takes a number from 0 to 1 (not included).": lambda: DLRegressor(featuresCol="pair", dropout=2).fit(points),
        "Option `warm_start` is True; it goes on from a registered model; set modelName": lambda: (
            DLRegressor(featuresCol="pair", options={"warm_start": True}).fit(points)
        ),
    }  # fmt: skip
    for text, call in refusals.items():
        with pytest.raises(OptionError, match=re.escape(text)):
            call()
    with pytest.raises(NotFoundError, match=re.escape("The label column `labels` is not among the columns: ")):
        DLRegressor(featuresCol="pair", labelCol="labels").fit(points)


def test_stages_load_without_torch() -> None:
    program = "import sys, dlsql, dlsql.ml; dlsql.ml.DLClassifier(maxIter=3); print(sorted({'torch', 'onnxruntime'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[]\n", "")
