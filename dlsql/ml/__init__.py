"""Networks as stages of pyspark.ml: `DLClassifier` and `DLRegressor` for Pipelines, CrossValidators and Spark's own evaluators.

    network = DLClassifier(featuresCols=["age", "city"], labelCol="churned", hiddenUnits=[64], maxIter=20)
    model = Pipeline(stages=[network]).fit(customers)
    model.transform(customers).select("prediction", "probability")

They train and score as CREATE MODEL and PREDICT do. A model lives in memory, and nowhere else, unless `modelName` registers it. They
want a classic session; clients of Spark Connect have `dlsql.train` and `dlsql.predict`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from pyspark.ml import Estimator, Model
from pyspark.ml.functions import array_to_vector
from pyspark.ml.util import (
    DefaultParamsReadable,
    DefaultParamsReader,
    DefaultParamsWritable,
    DefaultParamsWriter,
    MLReadable,
    MLReader,
    MLWritable,
    MLWriter,
)
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dlsql import options
from dlsql.errors import did_you_mean, error
from dlsql.frame import as_options
from dlsql.inference import scored_files
from dlsql.ml.network import Network, check_classic, registered, selected, trained
from dlsql.ml.params import OPTIONS, ClassifierParams, HasColumns, HasProbabilities, HasTraining, P, RegressorParams, defaults
from dlsql.model import kind_of
from dlsql.session import language
from dlsql.statements import Options

__all__ = ["DLClassifier", "DLClassifierModel", "DLRegressor", "DLRegressorModel"]


class _Estimator(Estimator[Any], HasColumns, HasTraining, DefaultParamsWritable, DefaultParamsReadable[Any]):
    """Trains a network on the rows of a DataFrame."""

    _KIND: ClassVar[str]

    def __init__(self, **params: Any) -> None:
        super().__init__()
        self._setDefault(**defaults(), options={})
        self._given(params)

    def _given(self: P, params: Mapping[str, Any]) -> P:
        for name in params:
            if not self.hasParam(name):
                hint = did_you_mean(name, [param.name for param in self.params])
                raise error("DLSQL_UNKNOWN_OPTION", option=name, where=type(self).__name__, hint=hint)
        return self._set(**{name: value for name, value in params.items() if value is not None})

    def _model(self, network: Network) -> "_Model":
        raise NotImplementedError

    def _fit(self, dataset: DataFrame) -> Any:
        check_classic(dataset, type(self).__name__)
        given = self._as_options()
        frame = selected(dataset, self.features(), options.read(given))
        name = self.getModelName() if self.isDefined(self.modelName) else ""
        network = registered(frame, name, given) if name else trained(frame, self.uid, given)
        return self._copyValues(self._model(network)._resetUid(self.uid))

    def _as_options(self) -> Options:
        """The Params that were set, as the options of CREATE MODEL."""
        free = dict(as_options(self.getOptions()))
        told = {option: self.getOrDefault(name) for name, option in OPTIONS.items() if self.isSet(name)}
        given: dict[str, Any] = {option: value for option, value in told.items() if value != ""}  # weightCol = "": no weights
        given["input_label_cols"] = [self.getLabelCol()]
        if self.isSet(self.validationIndicatorCol):
            given |= {"data_split_method": "custom", "data_split_col": self.getValidationIndicatorCol()}
        for option in given:
            if option in free:
                expected = "a Param says it, too; leave it out of `options`."
                raise error("DLSQL_OPTION_VALUE", option=option, value=repr(free[option]), expected=expected)
        found = as_options({"model_type": self._KIND, **free, **given})
        task = options.read((("model_type", self._KIND),)).task
        if options.read(found).task != task:
            expected = f"a {type(self).__name__} takes a kind of model for {task}."
            raise error("DLSQL_OPTION_VALUE", option="model_type", value=repr(free["model_type"]), expected=expected)
        return found


class DLClassifier(_Estimator, HasProbabilities):
    """Classifies rows with a multi-layer perceptron, as `CREATE MODEL ... OPTIONS (model_type = 'dnn_classifier')` does.

    Features are a vector or an array of numbers (`featuresCol`), or columns of any type that a network takes (`featuresCols`). Labels are
    of any scalar type. `options` holds what has no Param, by its name in SQL: `{"early_stop": False, "grad_clip": 1.0}`, also
    `{"model_type": "logistic_classifier"}`. With `modelName` each fit registers a version, its default; the folds of a CrossValidator, too.

    The model adds to a DataFrame:

    * `predictionCol`: the label; a number of any type as DOUBLE, as evaluators want it, another type as it is.
    * `probabilityCol`: a vector of each class's probability [classes]. Where labels are whole numbers from 0, a class stands at its number,
      as in all of pyspark.ml, and one that training did not see has 0; other labels stand in ascending order. `classes` of the model says.
    * `rawPredictionCol`: the natural logarithms of the probabilities [classes]: the network's logits up to a constant of the row.

    A name that is set to "" leaves that column out. A row whose only feature is a NULL array or vector gets NULLs.
    """

    _KIND = "dnn_classifier"

    def __init__(self, **params: Unpack[ClassifierParams]) -> None:
        super().__init__(**params)

    def setParams(self, **params: Unpack[ClassifierParams]) -> "DLClassifier":
        """Sets Params by name.

        Raises:
            OptionError: there is no such Param.
        """
        return self._given(params)

    def _model(self, network: Network) -> "_Model":
        return DLClassifierModel(network)


class DLRegressor(_Estimator):
    """Estimates a number for each row with a multi-layer perceptron, as `CREATE MODEL ... OPTIONS (model_type = 'dnn_regressor')` does.

    Features, `options` and `modelName` are as for `DLClassifier`. The label is numeric; `predictionCol` is a DOUBLE.
    """

    _KIND = "dnn_regressor"

    def __init__(self, **params: Unpack[RegressorParams]) -> None:
        super().__init__(**params)

    def setParams(self, **params: Unpack[RegressorParams]) -> "DLRegressor":
        """Sets Params by name.

        Raises:
            OptionError: there is no such Param.
        """
        return self._given(params)

    def _model(self, network: Network) -> "_Model":
        return DLRegressorModel(network)


class _Model(Model, HasColumns, MLWritable, MLReadable[Any]):
    """A trained network. Made by an estimator's `fit`, or by `load`."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured in training on the rows held out, or on all of them where none were."""
        return dict(self._network.metrics)

    @property
    def registeredName(self) -> str | None:
        """The version in the catalog, `namespace.model@vN`; None for a model that is not registered."""
        return self._network.name

    def _answers(self, raw: Column) -> dict[str, Column]:
        """The columns to add, by name."""
        raise NotImplementedError

    def _transform(self, dataset: DataFrame) -> DataFrame:
        check_classic(dataset, type(self).__name__)
        answers = self._answers(self._network.answer(dataset, self.features(), self.uid))
        there = {name.casefold() for name in dataset.columns}
        for name in answers:
            if name.casefold() in there:
                problem = f"of {self.uid} adds a column `{name}`, and there is one. Choose another name."
                raise error("DLSQL_ARGUMENTS", function="transform", problem=problem)
        return dataset.select("*", *(column.alias(name) for name, column in answers.items() if name))

    def write(self) -> MLWriter:
        """A writer: `model.write().overwrite().save(path)`, to any file system that Spark reaches."""
        return _ModelWriter(self)

    @classmethod
    def read(cls) -> MLReader[Any]:
        """A reader: `DLClassifierModel.read().load(path)`, `DLClassifierModel.load(path)` for short."""
        return _ModelReader(cls)


_MOST = 10_000  # classes of a model, see dlsql.training.profile
_LEAST = 1e-300  # a probability whose logarithm is finite


class DLClassifierModel(_Model, HasProbabilities):
    """A trained `DLClassifier`, which says what it adds to a DataFrame."""

    @property
    def classes(self) -> list[Any]:
        """The label that each position of `probabilityCol` stands for."""
        seen = self._seen
        numbers = _is_number(self._network.learned.label.type) and seen[0] >= 0 and seen[-1] < _MOST
        if numbers and all(one == int(one) for one in seen):
            return [type(seen[0])(number) for number in range(int(seen[-1]) + 1)]
        return seen

    @property
    def numClasses(self) -> int:
        """The length of `probabilityCol`."""
        return len(self.classes)

    @property
    def _seen(self) -> list[Any]:
        """The labels of the training rows, ascending."""
        classes = self._network.learned.label.classes
        assert classes is not None
        return list(classes.to_pylist())

    def _answers(self, raw: Column) -> dict[str, Column]:
        type, seen = self._network.learned.label.type, set(self._seen)
        label, entries = raw.getField("label"), raw.getField("probabilities")
        unseen = [
            F.struct(F.lit(one).cast(type).alias("label"), F.lit(0.0).alias("probability")) for one in self.classes if one not in seen
        ]
        if unseen:
            entries = F.concat(entries, F.array(*unseen))
        shares = F.transform(F.array_sort(entries), lambda one: one.getField("probability"))  # [classes], in the labels' order
        logs = F.transform(shares, lambda one: F.log(F.greatest(one, F.lit(_LEAST))))
        return {
            self.getRawPredictionCol(): _vector(logs),
            self.getProbabilityCol(): _vector(shares),
            self.getPredictionCol(): label.cast("double") if _is_number(type) else label,
        }


class DLRegressorModel(_Model):
    """A trained `DLRegressor`, which says what it adds to a DataFrame."""

    def _answers(self, raw: Column) -> dict[str, Column]:
        return {self.getPredictionCol(): raw}


def _is_number(type: str) -> bool:
    return kind_of(type) == "number" and type != "boolean"


def _vector(values: Column) -> Column:
    return F.when(values.isNotNull(), array_to_vector(values))  # Spark's function fails on a NULL


# Persistence: Spark's own metadata, and the network's files beside it.

_FILES = "network"


class _ModelWriter(MLWriter):
    def __init__(self, model: _Model) -> None:
        super().__init__()
        self._model = model

    def saveImpl(self, path: str) -> None:
        network = self._model._network
        known = {"metrics": network.metrics, "registeredName": network.name}
        DefaultParamsWriter.saveMetadata(self._model, path, self.sparkSession, extraMetadata=known)
        files = language(self.sparkSession).bridge.files()
        for name, data in network.files.items():
            files.write(f"{path}/{_FILES}/{name}", data)


class _ModelReader(MLReader[Any]):
    def __init__(self, model: type[_Model]) -> None:
        super().__init__()
        self._model = model

    def load(self, path: str) -> Any:
        expected = f"{self._model.__module__}.{self._model.__name__}"
        known = DefaultParamsReader.loadMetadata(path, self.sparkSession, expected)
        files = language(self.sparkSession).bridge.files()
        network = Network(scored_files(files, f"{path}/{_FILES}"), known["metrics"], known["registeredName"])
        model = self._model(network)._resetUid(known["uid"])
        DefaultParamsReader.getAndSetParams(model, known)
        return model
