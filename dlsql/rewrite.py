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

from dlsql.errors import DlsqlError, did_you_mean
from dlsql.parser import QUERY_STARTS, Reader, Token, name, quote_literal, quote_name, tokenize, value

__all__ = ["rewrite"]

_SCALARS = ("PREDICT", "PREDICT_PROBA", "TRY_PREDICT")
_TABLES = ("PREDICT", "EVALUATE", "CONFUSION_MATRIX", "ROC_CURVE", "TRAINING_INFO", "TRIAL_INFO", "FEATURE_INFO", "WEIGHTS", "GLOBAL_EXPLAIN", "EXPLAIN_PREDICT")  # fmt: skip
_CALLED = {**{name: name for name in _SCALARS}, **{f"ML_{name}": f"ML_{name}" for name in _TABLES}}
_MODEL = re.compile(r"\bMODEL\b", re.IGNORECASE)
_FUNCTION = re.compile(r"\b(?:ML|ML_\w+|(?:TRY_)?PREDICT(?:_PROBA)?)\b", re.IGNORECASE)


def rewrite(text: str) -> str | None:
    """The text with our functions spelled as Spark takes them, or None where there is nothing to do.

    >>> rewrite("SELECT * FROM ML.PREDICT(MODEL ds.m, (SELECT 1 AS a))")
    "SELECT * FROM ML_PREDICT('ds.m', TABLE(SELECT 1 AS a))"
    >>> rewrite("SELECT ml.predict(model, 1) FROM t") is None
    True

    Raises:
        StatementSyntaxError: a call is surely ours, and its name or its settings cannot be read.
    """
    if not _MODEL.search(text) or not _FUNCTION.search(text):
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

    def replaced(self, first: int, stop: int, new: str) -> _Edit:
        return _Edit(self.tokens[first].start, self.tokens[stop - 1].end, new)


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
    if not (dotted or function in _CALLED) or source.key(at - 1) == "." or opening not in source.closings or source.key(opening) != "(":
        return None
    arguments = _arguments(source, opening)
    model = next((place for place, argument in enumerate(arguments[:2]) if _is_model(source, argument)), None)
    if model is None or (function in _SCALARS and model != 0):
        return None
    if function not in _CALLED:
        written = source.slice(at, opening)
        known = [called.replace("ML_", "ML.") for called in _CALLED if called.startswith("ML_")]
        raise Reader(source.text, source.tokens, at).fail(f"`{written}` is not a function of dlsql", did_you_mean(written, known))
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
