"""The Params of the stages: column names, and the options of CREATE MODEL under the names that users of pyspark.ml expect."""

from collections.abc import Callable
from typing import Any, TypedDict, TypeVar

from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasFeaturesCol, HasLabelCol, HasPredictionCol, HasProbabilityCol, HasRawPredictionCol

from dlsql.options import TABLE

P = TypeVar("P", bound=Params)

# The Params that are options of CREATE MODEL, which says what each takes.
OPTIONS = {
    "hiddenUnits": "hidden_units", "activation": "activation_fn", "dropout": "dropout", "batchNorm": "batch_norm",
    "optimizer": "optimizer", "learningRate": "learn_rate", "l1Reg": "l1_reg", "l2Reg": "l2_reg", "batchSize": "batch_size",
    "maxIter": "max_iterations", "numWorkers": "num_workers", "seed": "seed", "weightCol": "instance_weight_col",
}  # fmt: skip


class RegressorParams(TypedDict, total=False):
    """What `DLRegressor` takes by name."""

    featuresCol: str
    featuresCols: list[str]
    labelCol: str
    predictionCol: str
    hiddenUnits: list[int]
    activation: str
    dropout: float
    batchNorm: bool
    optimizer: str
    learningRate: float
    l1Reg: float
    l2Reg: float
    batchSize: int
    maxIter: int
    numWorkers: int
    seed: int
    weightCol: str
    validationIndicatorCol: str
    modelName: str
    options: dict[str, Any]


class ClassifierParams(RegressorParams, total=False):
    """What `DLClassifier` takes by name."""

    probabilityCol: str
    rawPredictionCol: str


def defaults() -> dict[str, Any]:
    """The defaults of CREATE MODEL, by Param."""
    values = {name: TABLE[option].default for name, option in OPTIONS.items()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value is not None}


def _param(name: str, converter: Callable[[Any], Any], doc: str = "") -> "Param[Any]":
    return Param(Params._dummy(), name, doc or TABLE[OPTIONS[name]].doc, converter)


def _getter(name: str) -> Callable[[Any], Any]:
    def get(self: Params) -> Any:
        return self.getOrDefault(name)

    get.__doc__ = f"Gets the value of {name} or its default value."
    return get


def _setter(name: str) -> Callable[[P, Any], P]:
    def set_(self: P, value: Any) -> P:
        return self._set(**{name: value})

    set_.__doc__ = f"Sets the value of {name}."
    return set_


class HasColumns(HasFeaturesCol, HasPredictionCol):
    """Where features are read and predictions written: Params of an estimator and of its model."""

    featuresCols = _param("featuresCols", TypeConverters.toListString, "features column names; they take the place of featuresCol.")

    getFeaturesCols = _getter("featuresCols")
    setFeaturesCol = _setter("featuresCol")
    setFeaturesCols = _setter("featuresCols")
    setPredictionCol = _setter("predictionCol")

    def features(self) -> list[str]:
        """The names of the features columns."""
        return list(self.getFeaturesCols()) if self.isDefined(self.featuresCols) else [self.getFeaturesCol()]


class HasProbabilities(HasProbabilityCol, HasRawPredictionCol):
    """Where a classifier's probabilities are written."""

    setProbabilityCol = _setter("probabilityCol")
    setRawPredictionCol = _setter("rawPredictionCol")


class HasTraining(HasLabelCol):
    """How to train: Params of an estimator."""

    hiddenUnits = _param("hiddenUnits", TypeConverters.toListInt)
    activation = _param("activation", TypeConverters.toString)
    dropout = _param("dropout", TypeConverters.toFloat)
    batchNorm = _param("batchNorm", TypeConverters.toBoolean)
    optimizer = _param("optimizer", TypeConverters.toString)
    learningRate = _param("learningRate", TypeConverters.toFloat)
    l1Reg = _param("l1Reg", TypeConverters.toFloat)
    l2Reg = _param("l2Reg", TypeConverters.toFloat)
    batchSize = _param("batchSize", TypeConverters.toInt)
    maxIter = _param("maxIter", TypeConverters.toInt)
    numWorkers = _param("numWorkers", TypeConverters.toInt)
    seed = _param("seed", TypeConverters.toInt)
    weightCol = _param("weightCol", TypeConverters.toString)
    validationIndicatorCol = _param("validationIndicatorCol", TypeConverters.toString, "BOOLEAN column, true for the rows held out.")
    modelName = _param("modelName", TypeConverters.toString, "Registers each fit as the next version of this model.")
    options = _param("options", TypeConverters.identity, "More options of CREATE MODEL, by their names there.")

    getHiddenUnits, setHiddenUnits = _getter("hiddenUnits"), _setter("hiddenUnits")
    getActivation, setActivation = _getter("activation"), _setter("activation")
    getDropout, setDropout = _getter("dropout"), _setter("dropout")
    getBatchNorm, setBatchNorm = _getter("batchNorm"), _setter("batchNorm")
    getOptimizer, setOptimizer = _getter("optimizer"), _setter("optimizer")
    getLearningRate, setLearningRate = _getter("learningRate"), _setter("learningRate")
    getL1Reg, setL1Reg = _getter("l1Reg"), _setter("l1Reg")
    getL2Reg, setL2Reg = _getter("l2Reg"), _setter("l2Reg")
    getBatchSize, setBatchSize = _getter("batchSize"), _setter("batchSize")
    getMaxIter, setMaxIter = _getter("maxIter"), _setter("maxIter")
    getNumWorkers, setNumWorkers = _getter("numWorkers"), _setter("numWorkers")
    getSeed, setSeed = _getter("seed"), _setter("seed")
    getWeightCol, setWeightCol = _getter("weightCol"), _setter("weightCol")
    getValidationIndicatorCol, setValidationIndicatorCol = _getter("validationIndicatorCol"), _setter("validationIndicatorCol")
    getModelName, setModelName = _getter("modelName"), _setter("modelName")
    getOptions, setOptions = _getter("options"), _setter("options")
    setLabelCol = _setter("labelCol")
