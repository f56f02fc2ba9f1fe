"""Networks that are values, at analysis: the aggregate TRAIN, which makes them, and PREDICT and its sisters over a column of them."""

import base64
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql.types import BinaryType, DataType
from pyspark.sql.udf import UserDefinedFunction

from dlsql import inference, options
from dlsql.bridge import Bridge, grouped_arrow_udf, scalar_arrow_udf
from dlsql.errors import error
from dlsql.functions import ANSWERS, Bindings, cast
from dlsql.model import Argument, Field, Named, Signature, ddl, fields_of, is_label_type, kind_of, match
from dlsql.options import TABLE
from dlsql.statements import Options, Value
from dlsql.terms import value_of
from udfs import values
from udfs.errors import ScoringError
from udfs.score import predict_values
from udfs.spec import ValueScoring

AGGREGATES = ("train",)

_TRAIN = "is called as TRAIN('model_type', struct(features...), label [, map('option', 'value', ...)])"


def train(bindings: Bindings, bridge: Bridge, question: Mapping[str, Any]) -> Any:
    """TRAIN(model_type, features, label [, options]) -> the worker's function and a plan that says which field feeds it, and the signature.

    Raises:
        TypeMismatchError: the arguments have the wrong number or types, or a feature has a type that no network takes.
        OptionError: an option is unknown or out of range.
    """
    from dlsql.training import groups  # brings torch, which takes two seconds that a session which only predicts need not spend
    from udfs.groups import train_group

    arguments, fields = question["arguments"], question["fields"]
    if len(arguments) not in (3, 4) or not isinstance(question["model_type"], str) or fields is None:
        raise error("DLSQL_ARGUMENTS", function="TRAIN", problem=f"{_TRAIN}.")
    if len(arguments) == 4 and not isinstance(question["options"], dict):
        raise error("DLSQL_ARGUMENTS", function="TRAIN", problem=f"{_TRAIN}; its options are a constant MAP or STRUCT.")
    label = arguments[2]["name"] or "label"
    if label.casefold() in (one["name"].casefold() for one in fields):
        problem = f"got the label `{label}` among the features, to be learned by heart. Leave it out: struct(* EXCEPT (`{label}`))."
        raise error("DLSQL_ARGUMENTS", function="TRAIN", problem=problem)
    settings = options.read_for_group(question["model_type"], label, _options(question["options"] or {}))
    columns = [(one["name"], _plain(one["type"])) for one in [*fields, {"name": label, "type": arguments[2]["type"]}]]
    plan = groups.plan(columns, settings, bridge.threads())
    places = {name: place for place, (name, _) in enumerate(columns[:-1])} | {label: -1}
    given = {name: one["type"] for (name, _), one in zip(columns, [*fields, arguments[2]], strict=True)}
    inputs = [{"place": places[name], "cast": "vector" if given[name] == "vector" else None} for name in plan.columns]
    udf = bindings.once(plan.how, lambda: grouped_arrow_udf(partial(train_group, plan.how), BinaryType(), "train"))
    told = {"inputs": inputs, "seed": settings.seed, "signature": _to_text(plan.signature)}
    return bridge.bound(udf, told)


def _plain(type: str) -> str:
    return "array<double>" if type == "vector" else type


def _options(given: Mapping[str, Any]) -> Options:
    """The options as OPTIONS (...) would hold them: the values of a MAP are all of one type, usually text."""
    return tuple((name.lower(), _from_text(name.lower(), value)) for name, value in given.items())


def _from_text(name: str, given: Value) -> Value:
    spelled = value_of(given) if isinstance(given, str) and name in TABLE else None
    if spelled is None:
        return given
    try:
        TABLE[name].check.read(spelled)
    except (ValueError, TypeError):
        return given
    return spelled


def _to_text(signature: Signature) -> str:
    return json.dumps({"inputs": ddl(signature.inputs), "label": ddl((signature.label,)), "task": signature.task}, ensure_ascii=False)


def _from_metadata(text: str) -> Signature:
    read = json.loads(text)
    return Signature(fields_of(read["inputs"]), fields_of(read["label"])[0], read["task"])


def bind(bindings: Bindings, bridge: Bridge, question: Mapping[str, Any]) -> Any:
    """PREDICT(m, struct(features...) [, 'type']), where m is a BINARY -> the worker's function, and how the arguments feed it.

    What the networks answer is known from the third argument; else from a constant m; else from what TRAIN left with the column; else it
    is a DOUBLE.

    Raises:
        TypeMismatchError, NotFoundError: the arguments are not such, or do not fit the networks where those are known.
    """
    function = str(question["function"])
    if not question["struct"] or question["count"] > 3:
        problem = f"over a column of networks is called as {function.upper()}(m, struct(features...) [, 'type of the answer'])."
        raise error("DLSQL_ARGUMENTS", function=function.upper(), problem=problem)
    signature, answer = _signature(question), _answer_type(function, question)
    arguments = [Argument(one["name"], one["type"]) for one in question["arguments"]]
    if signature is None:
        entering = [(place, one) for place, one in enumerate(arguments) if one.type in ("vector", "void") or kind_of(one.type)]
        fed = [(one.name or "", place, "vector" if one.type == "vector" else None) for place, one in entering]
    else:
        known = Named(signature, question["column"] or "the value")
        places = match(known, function.upper(), tuple(arguments), by_name=True)
        fed = [(one.name, place, cast(arguments[place].type, one.type)) for one, place in zip(signature.inputs, places, strict=True)]
    names = tuple(name for name, _, _ in fed)
    inputs, strict = [{"place": place, "cast": to} for _, place, to in fed], ANSWERS[function][2]
    how, returns, part = _how(function, signature, answer, names)
    udf = bindings.once(how, lambda: _udf(how, returns))
    return bridge.bound(udf, {"strict": strict, "inputs": inputs, "answer": part, "told": question["column"] or "network"})


def _udf(how: ValueScoring, returns: DataType) -> UserDefinedFunction:
    return scalar_arrow_udf(partial(predict_values, how), returns, "predict" if how.strict else "try_predict")


def _signature(question: Mapping[str, Any]) -> Signature | None:
    if question["model"] is not None:
        try:
            value = values.read(base64.b64decode(question["model"]))
        except ScoringError as e:
            raise error("DLSQL_ARGUMENTS", function=str(question["function"]).upper(), problem=f"got no network. {e.problem}") from e
        inputs, label = tuple(Field(one.name, one.type) for one in value.learned.features), value.learned.label
        return Signature(inputs, Field(label.name, label.type), value.task)
    return None if question["signature"] is None else _from_metadata(question["signature"])


def _answer_type(function: str, question: Mapping[str, Any]) -> DataType | None:
    """The type that the third argument names."""
    if question["count"] < 3:
        return None
    problem = f"takes the type of the answer, such as 'STRING' or 'BIGINT', as its third argument, not {question['answer']!r}."
    if isinstance(question["answer"], str):
        try:
            found = inference.spark_type(question["answer"])
        except PySparkException:
            found = None
        if found is not None and is_label_type(found.simpleString()):
            return found
    raise error("DLSQL_ARGUMENTS", function=function.upper(), problem=problem)


def _how(function: str, signature: Signature | None, answer: DataType | None, names: tuple[str, ...]) -> tuple[ValueScoring, DataType, str]:
    """How rows are scored, what the worker returns, and what the function shows of it."""
    of_class, of_number, strict = ANSWERS[function]
    if function in ("predict", "try_predict") and (signature is None or answer is not None):
        returns = answer or inference.spark_type("double")
        return ValueScoring(names, inference.arrow_type(returns), None, False, strict), returns, "whole"
    if signature is None and function == "ml_predict":
        hint = " Use PREDICT(m, features, 'type') or PREDICT_PROBA(m, features, 'type')."
        raise error("DLSQL_UNSUPPORTED", feature="ML_PREDICT over networks whose kind is not known at analysis", hint=hint)
    if signature is None:
        if answer is None:
            problem = f"over networks that are not known at analysis needs the label's type: {function.upper()}(m, features, 'STRING')."
            raise error("DLSQL_ARGUMENTS", function=function.upper(), problem=problem)
        signature = Signature((), Field("label", answer.simpleString()), "classification")
    part = of_number if signature.task == "regression" else of_class
    if not part:
        problem = "gives the probabilities of classes, and these networks answer a number. Use PREDICT."
        raise error("DLSQL_ARGUMENTS", function=function.upper(), problem=problem)
    how = inference.value_scoring(signature, names, whole=True, strict=strict)
    return how, inference.spark_type(signature.raw_type), part
