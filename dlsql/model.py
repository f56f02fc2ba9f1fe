"""What a model is: a name, its versions, and what each takes and gives. Pure data; types are written as Spark writes them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from dlsql.errors import did_you_mean, error
from dlsql.quoting import identifier
from dlsql.statements import Name

_NUMBER = re.compile(r"(tinyint|smallint|int|bigint|float|double|boolean|decimal\(\d+,\d+\))")
_ARRAY = re.compile(r"array<(tinyint|smallint|int|bigint|float|double|decimal\(\d+,\d+\))>")
_TIMES = ("date", "timestamp", "timestamp_ntz")
_STRING = re.compile(r"(string( collate .*)?|varchar\(\d+\)|char\(\d+\))")


def kind_of(type: str) -> str | None:
    """How a column of this type enters a network: number, time, category, numbers or bytes; None for a type that does not.

    >>> kind_of("decimal(10,2)"), kind_of("timestamp"), kind_of("array<float>"), kind_of("map<string,int>")
    ('number', 'time', 'numbers', None)
    """
    if _NUMBER.fullmatch(type):
        return "number"
    if _ARRAY.fullmatch(type):
        return "numbers"
    if type in _TIMES:
        return "time"
    if type == "binary":
        return "bytes"
    return "category" if _STRING.fullmatch(type) else None


def is_whole(type: str) -> bool:
    """Whether a column holds whole numbers, alone or in arrays.

    >>> is_whole("bigint"), is_whole("array<int>"), is_whole("decimal(5,0)")
    (True, True, False)
    """
    return type.removeprefix("array<").removesuffix(">") in ("tinyint", "smallint", "int", "bigint")


def alike(found: str, wanted: str) -> bool:
    """Whether values of one type can stand for values of the other. A truth value is no number to Spark's ANSI casts of columns.

    >>> alike("int", "double"), alike("boolean", "int"), alike("string", "int"), alike("binary", "binary")
    (True, False, False, True)
    """
    if found == wanted or found == "void":
        return True
    return kind_of(found) is not None and kind_of(found) == kind_of(wanted) and "boolean" not in (found, wanted)


def is_label_type(type: str) -> bool:
    """Whether a classifier's label can have this type: any scalar."""
    return kind_of(type) in ("number", "time", "category", "bytes")


def label_task(task: str, type: str) -> str:
    """What a model of this task does with a label of this type: a regressor estimates numbers, and tells the classes of anything else.

    >>> [label_task("regression", type) for type in ("int", "double", "boolean", "string", "date")]
    ['regression', 'regression', 'classification', 'classification', 'classification']
    >>> label_task("classification", "int")
    'classification'
    """
    is_number = kind_of(type) == "number" and type != "boolean"
    return "regression" if task == "regression" and is_number else "classification"


@dataclass(frozen=True, slots=True)
class Field:
    """A column with its Spark type."""

    name: str
    type: str


IMPORTED = "imported"  # the task of a model whose answers are a graph's outputs as they are


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and what it answers."""

    inputs: tuple[Field, ...]
    label: Field  # or an output of a graph
    task: str  # classification | regression | imported
    others: tuple[Field, ...] = ()  # labels after the first

    @property
    def labels(self) -> tuple[Field, ...]:
        """All labels, in the order of the network's outputs."""
        return (self.label, *self.others)

    @property
    def outputs(self) -> tuple[Field, ...]:
        """What PREDICT gives for each label."""
        return tuple(Field(one.name, "double" if self.task_of(one) == "regression" else one.type) for one in self.labels)

    def task_of(self, label: Field) -> str:
        """What it does with one of its labels."""
        if self.task == IMPORTED:
            return IMPORTED
        return label_task(self.task, label.type) if self.others else self.task

    @property
    def raw_type(self) -> str:
        """The Spark type of the whole answer: of several labels that of ML_PREDICT for each."""
        if self.task == IMPORTED:
            return _struct({one.name: one.type for one in self.labels})
        if self.others:
            wholes = {
                one.name: _whole(one.type) if self.task_of(one) == "classification" else "struct<value:double>" for one in self.labels
            }
            return _struct(wholes)
        return "double" if self.task == "regression" else _whole(self.label.type)

    @property
    def answer_type(self) -> str:
        """The Spark type of PREDICT."""
        return _struct({one.name: one.type for one in self.outputs}) if self.others else self.outputs[0].type


def _whole(label: str) -> str:
    return f"struct<label:{label},probability:double,probabilities:array<struct<label:{label},probability:double>>>"


def _struct(types: Mapping[str, str]) -> str:
    fields = (f"{identifier(name)}:{type}" for name, type in types.items())
    return f"struct<{','.join(fields)}>"


@dataclass(frozen=True, slots=True)
class Version:
    """A row of the catalog's `models` table."""

    namespace: str
    model: str
    version: int
    run: str
    status: str
    model_type: str
    task: str
    engine: str
    uri: str
    sha256: str
    bytes: int
    parameters: int
    inputs: str  # DDL
    outputs: str  # DDL
    options: Mapping[str, str]
    statement: str
    query: str
    tables: tuple[str, ...]
    seed: int
    rows_trained: int
    loss: float | None
    metrics: Mapping[str, float]
    seconds: float
    libraries: Mapping[str, str]
    owner: str
    created_at: datetime
    comment: str
    properties: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> Name:
        """namespace.model@vN."""
        return Name(self.namespace, self.model, self.version)

    @property
    def full_name(self) -> str:
        """namespace.model."""
        return f"{self.namespace}.{self.model}"

    @property
    def signature(self) -> Signature:
        """What it takes and gives, read from its DDL."""
        label, *others = fields_of(self.outputs)
        return Signature(fields_of(self.inputs), label, self.task, tuple(others))


@dataclass(frozen=True, slots=True)
class RoundInfo:
    """A row of `training_info`."""

    round: int
    epoch: int
    rows: int
    train_loss: float | None
    eval_loss: float | None
    metrics: Mapping[str, float]
    learning_rate: float
    seconds: float
    rows_per_second: float
    at: datetime
    group: str | None = None  # a group of partition_cols that has no network
    note: str | None = None  # why; or what there is to say of all groups


def ddl(fields: tuple[Field, ...]) -> str:
    """Columns as Spark's DDL, every name quoted.

    >>> ddl((Field("my col", "int"), Field("a`b", "array<float>")))
    '`my col` int, `a``b` array<float>'
    """
    return ", ".join(f"{identifier(one.name)} {one.type}" for one in fields)


def fields_of(text: str) -> tuple[Field, ...]:
    """The inverse of `ddl`.

    >>> fields_of("`my col` decimal(10,2), `a``b` array<float>")
    (Field(name='my col', type='decimal(10,2)'), Field(name='a`b', type='array<float>'))
    """
    found = re.findall(r"`((?:[^`]|``)*)` ((?:[^,(`]|\([^)]*\))+)", text)
    return tuple(Field(name.replace("``", "`"), type) for name, type in found)


class Taker(Protocol):
    """What features are matched with: a version of a model, or a network that is a value."""

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""

    @property
    def full_name(self) -> str:
        """Its name in errors."""


@dataclass(frozen=True, slots=True)
class Named:
    """A network that is a value, under the name of the column that holds it."""

    signature: Signature
    full_name: str


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of PREDICT, or a field of its struct: what the bridge knows of a resolved expression."""

    name: str | None
    type: str


def match(version: Taker, function: str, arguments: tuple[Argument, ...], *, by_name: bool) -> tuple[int, ...]:
    """For each input of the model, the place of the argument that feeds it.

    By name where `by_name` (a struct), or where every argument has a name that the model knows; else by position.

    Raises:
        NotFoundError: an input has no argument.
        TypeMismatchError: too many or too few arguments, or one of the wrong type.
    """
    inputs = version.signature.inputs
    names = [argument.name.casefold() if argument.name else None for argument in arguments]
    known = {one.name.casefold() for one in inputs}
    twice = next((one.name for one in inputs if by_name and names.count(one.name.casefold()) > 1), None)
    if twice is not None:
        raise error("DLSQL_ARGUMENTS", function=function, problem=f"got `{twice}` twice; name the columns of the struct that are meant.")
    if by_name or (names and len(set(names)) == len(names) and all(name in known for name in names)):
        places = tuple(_place(version, one, names, arguments) for one in inputs)
    elif len(arguments) == len(inputs):
        places = tuple(range(len(inputs)))
    else:
        takes = ", ".join(one.name for one in inputs)
        raise error(
            "DLSQL_ARGUMENTS",
            function=function,
            problem=f"got {len(arguments)} features; `{version.full_name}` takes {len(inputs)}: {takes}.",
        )
    for one, place in zip(inputs, places, strict=True):
        _check_type(version, one, arguments[place])
    return places


def _place(version: Taker, wanted: Field, names: list[str | None], arguments: tuple[Argument, ...]) -> int:
    try:
        return names.index(wanted.name.casefold())
    except ValueError:
        hint = did_you_mean(wanted.name, [argument.name for argument in arguments if argument.name])
        raise error("DLSQL_FEATURE_MISSING", name=version.full_name, feature=wanted.name, hint=hint) from None


def _check_type(version: Taker, wanted: Field, found: Argument) -> None:
    if found.type == "vector" and kind_of(wanted.type) == "numbers":
        return
    if not alike(found.type, wanted.type):
        hint = " Cast it: CAST(... AS DOUBLE)." if (kind_of(found.type), kind_of(wanted.type)) == ("category", "number") else ""
        raise error(
            "DLSQL_FEATURE_TYPE",
            name=version.full_name,
            feature=wanted.name,
            expected=wanted.type.upper(),
            found=found.type.upper(),
            hint=hint,
        )
