"""Every error that dlsql raises, in one table: condition -> SQLSTATE, exception class and message.

    DlsqlError (Exception)
    ├── StatementSyntaxError  42601  ValueError            the text is not a statement of the language
    ├── NotFoundError         42704  LookupError           no such model, version, alias or column
    ├── ExistsError           42710  ValueError            the name is taken
    ├── TypeMismatchError     42804  TypeError             a column or an argument has the wrong type or shape
    ├── OptionError           22023  ValueError            an option is unknown or out of range
    ├── DataError             22000  ValueError            the training data cannot be learned from
    ├── UnsupportedError      0A000  NotImplementedError   parsed, and not built
    ├── StorageError          58030  OSError               the catalog or the model store cannot be read or written
    └── CancelledError        57014  InterruptedError      the statement was cancelled

Over JDBC only the text survives, so condition and SQLSTATE stand in it:
``[DLSQL_MODEL_NOT_FOUND] Model `sales.chrun` is not registered. Did you mean `sales.churn`? SQLSTATE: 42704``
"""

import difflib
from collections.abc import Iterable, Sequence


class DlsqlError(Exception):
    """The root of the tree above.

    >>> str(DlsqlError("DLSQL_INTERNAL", "42000", "It broke."))
    '[DLSQL_INTERNAL] It broke. SQLSTATE: 42000'
    """

    def __init__(self, condition: str, sqlstate: str, text: str) -> None:
        self.condition, self.sqlstate, self.text = condition, sqlstate, text
        super().__init__(f"[{condition}] {text} SQLSTATE: {sqlstate}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.condition, self.sqlstate, self.text)


class StatementSyntaxError(DlsqlError, ValueError):
    """42601: the text is not a statement of the language."""


class NotFoundError(DlsqlError, LookupError):
    """42704: no such model, version, alias or column."""


class ExistsError(DlsqlError, ValueError):
    """42710: the name is taken."""


class TypeMismatchError(DlsqlError, TypeError):
    """42804: a column or an argument has the wrong type or shape."""


class OptionError(DlsqlError, ValueError):
    """22023: an option is unknown or out of range."""


class DataError(DlsqlError, ValueError):
    """22000: the training data cannot be learned from."""


class UnsupportedError(DlsqlError, NotImplementedError):
    """0A000: parsed, and not built."""


class StorageError(DlsqlError, OSError):
    """58030: the catalog or the model store cannot be read or written."""


class CancelledError(DlsqlError, InterruptedError):
    """57014: the statement was cancelled."""


_SQLSTATES: dict[type[DlsqlError], str] = {
    StatementSyntaxError: "42601",
    NotFoundError: "42704",
    ExistsError: "42710",
    TypeMismatchError: "42804",
    OptionError: "22023",
    DataError: "22000",
    UnsupportedError: "0A000",
    StorageError: "58030",
    CancelledError: "57014",
}

CONDITIONS: dict[str, tuple[type[DlsqlError], str]] = {
    "DLSQL_SYNTAX": (StatementSyntaxError, "{problem} at line {line}, column {column}.{hint}"),
    "DLSQL_NAME_TOO_LONG": (StatementSyntaxError, "`{name}` has {length} characters; the metastore keeps {most} at most."),
    "DLSQL_MODEL_NOT_FOUND": (NotFoundError, "Model `{name}` is not registered.{hint}"),
    "DLSQL_VERSION_NOT_FOUND": (NotFoundError, "Model `{name}` has no version {version}. It has: {versions}."),
    "DLSQL_ALIAS_NOT_FOUND": (NotFoundError, "Model `{name}` has no alias `{alias}`.{hint}"),
    "DLSQL_TRAINING_NOT_FOUND": (NotFoundError, "No training of `{name}` is under way.{hint}"),
    "DLSQL_NAMESPACE_NOT_FOUND": (NotFoundError, "Database `{namespace}` does not exist.{hint}"),
    "DLSQL_COLUMN_NOT_FOUND": (NotFoundError, "{role} `{column}` is not among the columns: {columns}.{hint}"),
    "DLSQL_FEATURE_MISSING": (NotFoundError, "Model `{name}` takes `{feature}`, and the arguments do not hold it.{hint}"),
    "DLSQL_MODEL_EXISTS": (ExistsError, "Model `{name}` is registered already. Use CREATE OR REPLACE MODEL for its next version."),
    "DLSQL_ARGUMENTS": (TypeMismatchError, "{function} {problem}"),
    "DLSQL_FEATURE_TYPE": (TypeMismatchError, "Feature `{feature}` of model `{name}` takes {expected}; the argument is {found}.{hint}"),
    "DLSQL_COLUMN_TYPE": (TypeMismatchError, "Column `{column}` is {found}; {expected}"),
    "DLSQL_SHAPE": (TypeMismatchError, "{problem}"),
    "DLSQL_UNKNOWN_OPTION": (OptionError, "`{option}` is not an option of {where}.{hint}"),
    "DLSQL_OPTION_VALUE": (OptionError, "Option `{option}` is {value}; {expected}{hint}"),
    "DLSQL_TRAINING_DATA": (DataError, "{problem}"),
    "DLSQL_DIVERGED": (DataError, "{what} became {value} in round {round}. Lower learn_rate (now {learn_rate}) or set grad_clip."),
    "DLSQL_UNSUPPORTED": (UnsupportedError, "{feature} is not supported yet.{hint}"),
    "DLSQL_STORAGE": (StorageError, "{problem}"),
    "DLSQL_CATALOG": (StorageError, "{problem}"),
    "DLSQL_CANCELLED": (CancelledError, "The training of `{name}` was cancelled. No version was registered."),
    "DLSQL_ENVIRONMENT": (UnsupportedError, "{problem}"),
}  # fmt: skip


def error(condition: str, **values: object) -> DlsqlError:
    """The exception of a condition, with its values filled in. `hint`, where the message has one, may be left out.

    >>> error("DLSQL_MODEL_NOT_FOUND", name="sales.chrun", hint=did_you_mean("sales.chrun", ["sales.churn"])).text
    'Model `sales.chrun` is not registered. Did you mean `sales.churn`?'
    """
    kind, template = CONDITIONS[condition]
    return kind(condition, _SQLSTATES[kind], template.format(**{"hint": "", **values}))


def listed(names: Sequence[str]) -> str:
    """Names for a message, the first twenty of many.

    >>> listed(["a", "b"]), listed(["c"] * 22)[-12:]
    ('a, b', 'c and 2 more')
    """
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint with the nearest known word, or nothing where none is near; matched without regard to case.

    >>> did_you_mean("hiden_units", ["hidden_units", "dropout"])
    ' Did you mean `hidden_units`?'
    >>> did_you_mean("zzz", ["hidden_units"])
    ''
    """
    by_folded = {candidate.casefold(): candidate for candidate in known}
    near = difflib.get_close_matches(word.casefold(), by_folded, n=1)
    return f" Did you mean `{by_folded[near[0]]}`?" if near else ""
