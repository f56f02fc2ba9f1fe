"""The functions as BigQuery ML, Flink and sqlglot spell them in, as Spark spells them out; the rest of the text byte for byte.

    ML.PREDICT(MODEL ds.m, TABLE t, STRUCT(0.5 AS threshold))  ->  ML_PREDICT('ds.m', TABLE(t), map('threshold', 0.5))
    ML_PREDICT(TABLE t, MODEL m, DESCRIPTOR(a, b))             ->  ML_PREDICT('m', TABLE(t), map('features', '["a", "b"]'))
    PREDICT(MODEL 'm', a)                                      ->  PREDICT('m', a)

A call is ours by one sign: its first or second argument is MODEL and a name, and nothing more. Nothing that Spark can read
looks like that, so a column called model and a database called ml are safe. Each call gives a few small edits of the source;
a query inside it is not touched, and the calls within that query give edits of their own.
"""

import json
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

from dlsql.errors import StatementSyntaxError, did_you_mean
from dlsql.parser import QUERY_STARTS
from dlsql.quoting import literal
from dlsql.reader import Reader, Token, tokenize
from dlsql.terms import model_name, quote_name, value

__all__ = ["rewrite"]

_SCALARS = ("PREDICT", "PREDICT_PROBA", "TRY_PREDICT")
_TABLES = (
    "PREDICT",
    "EXPLAIN_PREDICT",
    "EVALUATE",
    "CONFUSION_MATRIX",
    "ROC_CURVE",
    "TRAINING_INFO",
    "TRIAL_INFO",
    "FEATURE_INFO",
    "WEIGHTS",
    "GLOBAL_EXPLAIN",
)
_FUNCTIONS = {*_SCALARS, *(f"ML_{name}" for name in _TABLES)}
_MODEL = re.compile(r"\bMODEL\b", re.IGNORECASE)
_CALLED = re.compile(r"\b(?:ML|ML_\w+|(?:TRY_)?PREDICT(?:_PROBA)?)\b", re.IGNORECASE)


def rewrite(text: str) -> str | None:
    """The text with our functions spelled as Spark takes them, or None where there is nothing to do.

    >>> rewrite("SELECT * FROM ML.PREDICT(MODEL ds.m, (SELECT 1 AS a))")
    "SELECT * FROM ML_PREDICT('ds.m', TABLE(SELECT 1 AS a))"
    >>> rewrite("SELECT ml.predict(model, 1) FROM t") is None
    True

    Raises:
        StatementSyntaxError: a call is surely ours, and its name or its settings cannot be read.
    """
    if not _MODEL.search(text) or not _CALLED.search(text):
        return None
    tokens = tokenize(text)
    if tokens is None:
        return None
    source = _Source(text, tokens, _closings(tokens))
    edits = [edit for call in _calls(source) for edit in _edits(source, call)]
    return _edited(text, edits) if edits else None


class _Edit(NamedTuple):
    """text[start:end] becomes `new`."""

    start: int
    end: int
    new: str


def _edited(text: str, edits: list[_Edit]) -> str:
    pieces: list[str] = []
    done = 0
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):  # stable: insertions at one place keep their order
        if edit.start >= done:  # what is inside of a replaced piece went with it
            pieces += [text[done : edit.start], edit.new]
            done = edit.end
    return "".join([*pieces, text[done:]])


@dataclass(frozen=True, slots=True)
class _Source:
    text: str
    tokens: list[Token]
    closings: dict[int, int]  # an opening bracket's index among the tokens -> that of its closing bracket

    def key(self, at: int) -> str:
        return self.tokens[at].key if 0 <= at < len(self.tokens) else ""

    def slice(self, first: int, stop: int) -> str:
        return self.text[self.tokens[first].start : self.tokens[stop - 1].end]

    def reader(self, first: int, stop: int) -> Reader:
        return Reader(self.text, self.tokens[:stop], first)


def _closings(tokens: list[Token]) -> dict[int, int]:
    pairs = {")": "(", "]": "["}
    closings: dict[int, int] = {}
    opened: list[int] = []
    for at, token in enumerate(tokens):
        if token.key in ("(", "["):
            opened.append(at)
        elif token.key in pairs and opened and tokens[opened[-1]].key == pairs[token.key]:
            closings[opened.pop()] = at
    return closings


# ---- Which calls are ours


@dataclass(frozen=True, slots=True)
class _Argument:
    """tokens[first:stop]; `start` is before `first` where the argument has a label, as in Flink's INPUT => TABLE t."""

    start: int
    first: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Call:
    """tokens[first] begins a function's name, dotted or not; arguments[model] is MODEL and a name."""

    first: int
    dotted: bool
    function: str  # as Spark spells it
    arguments: list[_Argument]
    model: int


def _calls(source: _Source) -> list[_Call]:
    calls = (_call(source, at) for at in range(len(source.tokens)))
    return [call for call in calls if call]


def _call(source: _Source, at: int) -> _Call | None:
    dotted = source.key(at) == "ML" and source.key(at + 1) == "."
    function = f"ML_{source.key(at + 2)}" if dotted else source.key(at)
    opening = at + 3 if dotted else at + 1
    if not (dotted or function in _FUNCTIONS) or source.key(at - 1) == "." or opening not in source.closings or source.key(opening) != "(":
        return None
    arguments = _arguments(source, opening)
    model = next((place for place, argument in enumerate(arguments[:2]) if _is_model(source, argument)), None)
    if model is None or (function in _SCALARS and model != 0):
        return None
    if function not in _FUNCTIONS:
        written = source.slice(at, opening)
        known = [f"ML.{name}" for name in _TABLES]
        raise source.reader(at, opening).fail(f"`{written}` is not a function of dlsql", did_you_mean(written, known))
    return _Call(at, dotted, function, arguments, model)


def _arguments(source: _Source, opening: int) -> list[_Argument]:
    closing = source.closings[opening]
    stops = [opening]
    at = opening + 1
    while at < closing:
        if source.key(at) == ",":
            stops.append(at)
        at = source.closings.get(at, at) + 1
    stops.append(closing)
    return [_argument(source, before + 1, stop) for before, stop in pairwise(stops) if before + 1 < stop]


def _argument(source: _Source, start: int, stop: int) -> _Argument:
    labelled = source.key(start) in ("INPUT", "MODEL", "ARGS", "CONFIG") and source.key(start + 1) == "=>" and start + 2 < stop
    return _Argument(start, start + 2 if labelled else start, stop)


def _is_model(source: _Source, argument: _Argument) -> bool:
    """MODEL and a string, or MODEL and parts of a name with `.` or `@` between them."""
    named = source.tokens[argument.first + 1 : argument.stop]
    if source.key(argument.first) != "MODEL" or not named:
        return False
    if all(token.kind == "string" for token in named):
        return True
    parts, signs = named[::2], named[1::2]
    return all(part.identifier is not None for part in parts) and all(sign.key in (".", "@") for sign in signs) and len(named) % 2 == 1


# ---- What is to be done to them


def _edits(source: _Source, call: _Call) -> list[_Edit]:
    tokens, model = source.tokens, call.arguments[call.model]
    literal = _model_literal(source, model)
    edits = [_Edit(tokens[call.first].start, tokens[call.first + 2].end, call.function)] if call.dotted else []
    if call.model == 0:
        edits.append(_Edit(tokens[model.start].start, tokens[model.stop - 1].end, literal))
    else:  # Flink's order: the model moves before the table
        table = call.arguments[0]
        edits.append(_Edit(tokens[table.start].start, tokens[table.start].start, f"{literal}, "))
        edits.append(_Edit(tokens[table.stop - 1].end, tokens[model.stop - 1].end, ""))
    others = [argument for argument in call.arguments if argument is not model]
    edits += [_Edit(tokens[other.start].start, tokens[other.first].start, "") for other in others if other.first > other.start]
    if _reads_table(source, call, others):
        edits += [edit for other in others for edit in _table_edits(source, other)]
        edits += _settings_edits(source, others)
    return edits


def _model_literal(source: _Source, model: _Argument) -> str:
    if source.tokens[model.first + 1].kind == "string":
        return source.slice(model.first + 1, model.stop)
    return literal(quote_name(model_name(source.reader(model.first + 1, model.stop))))


def _reads_table(source: _Source, call: _Call, others: list[_Argument]) -> bool:
    """Whether the call is a table function. ML_PREDICT is that and a scalar function, too, whose struct is features and not settings."""
    if call.function != "ML_PREDICT":
        return call.function not in _SCALARS
    if source.key(call.first - 1) in ("FROM", "JOIN", "LATERAL"):
        return True
    return any(source.key(other.first) == "TABLE" or (call.dotted and _is_query(source, other)) for other in others)


def _is_query(source: _Source, argument: _Argument) -> bool:
    """Whether the argument is one pair of parentheses with a query in it."""
    inside = argument.first
    while source.key(inside) == "(" and source.closings.get(inside) == argument.stop - 1 - (inside - argument.first):
        inside += 1
    return inside > argument.first and source.key(inside) in QUERY_STARTS


def _table_edits(source: _Source, argument: _Argument) -> list[_Edit]:
    """TABLE t -> TABLE(t), (query) -> TABLE(query): Spark takes a table argument in parentheses only."""
    start, end = source.tokens[argument.first].start, source.tokens[argument.stop - 1].end
    if _is_query(source, argument):
        return [_Edit(start, start, "TABLE")]
    if source.key(argument.first) == "TABLE" and argument.stop > argument.first + 1 and source.key(argument.first + 1) != "(":
        return [_Edit(source.tokens[argument.first].end, source.tokens[argument.first + 1].start, "("), _Edit(end, end, ")")]
    return []


# ---- STRUCT(0.5 AS threshold), MAP['k', 'v'] and DESCRIPTOR(a, b): all of them become one map


@dataclass(frozen=True, slots=True)
class _Setting:
    """An entry of the map. Where the kinds of the entries differ, all of them are strings."""

    key: str
    kind: Literal["number", "boolean", "string", "null", "expression"]
    sql: str
    sql_string: str


def _settings_edits(source: _Source, arguments: list[_Argument]) -> list[_Edit]:
    groups = [argument for argument in arguments if _is_settings(source, argument)]
    if not groups:
        return []
    settings = [setting for group in groups for setting in _SETTINGS[source.key(group.first)](source, group)]
    mixed = len({setting.kind for setting in settings if setting.kind != "null"}) > 1
    entries = ", ".join(f"{literal(each.key)}, {each.sql_string if mixed else each.sql}" for each in settings)
    first, *rest = groups
    edits = [_Edit(source.tokens[first.first].start, source.tokens[first.stop - 1].end, f"map({entries})")]
    return edits + [_Edit(source.tokens[other.start - 2].end, source.tokens[other.stop - 1].end, "") for other in rest]


def _is_settings(source: _Source, argument: _Argument) -> bool:
    return source.key(argument.first) in _SETTINGS and source.closings.get(argument.first + 1) == argument.stop - 1


def _struct_settings(source: _Source, struct: _Argument) -> list[_Setting]:
    settings = []
    for field in _arguments(source, struct.first + 1):
        name = source.tokens[field.stop - 1].identifier
        if name is None or field.stop - field.first < 3 or source.key(field.stop - 2) != "AS":
            raise source.reader(field.first, field.stop).fail("A setting has no name", " Write STRUCT(value AS name, ...).")
        settings.append(_setting(source, name.lower(), field.first, field.stop - 2))
    return settings


def _map_settings(source: _Source, entries: _Argument) -> list[_Setting]:
    contents = _arguments(source, entries.first + 1)
    if len(contents) % 2 or any(source.tokens[key.first].kind != "string" for key in contents[::2]):
        raise source.reader(entries.first, entries.stop).fail("The settings are not pairs", " Write MAP['name', value, ...].")
    pairs = zip(contents[::2], contents[1::2], strict=True)
    return [_setting(source, source.reader(key.first, key.stop).string(), content.first, content.stop) for key, content in pairs]


def _descriptor_settings(source: _Source, descriptor: _Argument) -> list[_Setting]:
    """Flink's list of feature columns, as JSON, which takes any name."""
    columns = []
    for column in _arguments(source, descriptor.first + 1):
        reader = source.reader(column.first, column.stop)
        columns.append(reader.identifier("a column"))
        reader.expect_end()
    features = literal(json.dumps(columns, ensure_ascii=False))
    return [_Setting("features", "string", features, features)]


_SETTINGS = {"STRUCT": _struct_settings, "MAP": _map_settings, "DESCRIPTOR": _descriptor_settings}


def _setting(source: _Source, key: str, first: int, stop: int) -> _Setting:
    """The setting of the value at tokens[first:stop]; what is no literal (`:limit`, current_date) stays as written."""
    sql = source.slice(first, stop)
    expression = _Setting(key, "expression", sql, f"CAST({sql} AS STRING)")
    reader = source.reader(first, stop)
    try:
        content = value(reader)
    except StatementSyntaxError:
        return expression
    if reader.peek().kind != "end":
        return expression
    match content:
        case None:
            return _Setting(key, "null", "NULL", "NULL")
        case bool():
            return _Setting(key, "boolean", sql, literal(str(content).lower()))
        case int() | float():
            return _Setting(key, "number", sql, literal(str(content)))
        case str() if source.tokens[first].kind == "string":
            return _Setting(key, "string", sql, sql)
        case list() | dict():
            text = literal(json.dumps(content, ensure_ascii=False, default=str))
            return _Setting(key, "string", text, text)
        case _:
            return expression
