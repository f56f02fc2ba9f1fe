"""The statements of the language as data: what the parser gives and the commands take. No syntax, no Spark."""

from dataclasses import dataclass
from typing import Union

Value = Union[None, bool, int, float, str, "list[Value]", "dict[str, Value]", "HParamRange", "HParamCandidates"]
"""The value of an option. Lists are [..] and ARRAY(..); dicts are MAP(..) and STRUCT(.. AS name)."""

Options = tuple[tuple[str, Value], ...]
"""Options as written, in order; names in lower case."""


@dataclass(frozen=True, slots=True)
class HParamRange:
    """HPARAM_RANGE(low, high)."""

    low: int | float
    high: int | float


@dataclass(frozen=True, slots=True)
class HParamCandidates:
    """HPARAM_CANDIDATES([..])."""

    values: "tuple[Value, ...]"


@dataclass(frozen=True, slots=True)
class Name:
    """``[namespace.]model[@vN | @alias]``; all parts in lower case, as Hive keeps them.

    >>> str(Name("sales", "churn", version=2))
    'sales.churn@v2'
    """

    namespace: str | None
    model: str
    version: int | None = None
    alias: str | None = None

    def __str__(self) -> str:
        base = f"{self.namespace}.{self.model}" if self.namespace else self.model
        return f"{base}@v{self.version}" if self.version is not None else f"{base}@{self.alias}" if self.alias else base


@dataclass(frozen=True, slots=True)
class CreateModel:
    """CREATE [OR REPLACE] MODEL [IF NOT EXISTS] name ... [AS query]."""

    name: Name
    options: Options = ()
    query: str | None = None  # a slice of the source text
    replace: bool = False
    if_not_exists: bool = False
    comment: str | None = None
    inputs: tuple[tuple[str, str], ...] = ()  # INPUT (column type, ...)
    outputs: tuple[tuple[str, str], ...] = ()  # OUTPUT (column type, ...)
    transform: str | None = None  # the select list of TRANSFORM, a slice of the source text


@dataclass(frozen=True, slots=True)
class ExplainCreateModel:
    """EXPLAIN CREATE MODEL ..."""

    create: CreateModel


@dataclass(frozen=True, slots=True)
class SetDefaultVersion:
    """ALTER MODEL name SET DEFAULT_VERSION = n."""

    name: Name
    version: int


@dataclass(frozen=True, slots=True)
class SetAlias:
    """ALTER MODEL name VERSION n SET ALIAS = a."""

    name: Name
    version: int
    alias: str


@dataclass(frozen=True, slots=True)
class UnsetAlias:
    """ALTER MODEL name UNSET ALIAS = a."""

    name: Name
    alias: str


@dataclass(frozen=True, slots=True)
class SetComment:
    """ALTER MODEL name SET COMMENT 's'."""

    name: Name
    comment: str


@dataclass(frozen=True, slots=True)
class SetProperties:
    """ALTER MODEL name SET TBLPROPERTIES (k = v, ...)."""

    name: Name
    properties: Options


@dataclass(frozen=True, slots=True)
class RenameModel:
    """ALTER MODEL name RENAME TO new_name."""

    name: Name
    new_name: Name


@dataclass(frozen=True, slots=True)
class DropModel:
    """DROP MODEL [IF EXISTS] name [VERSION n]."""

    name: Name
    version: int | None = None
    if_exists: bool = False


@dataclass(frozen=True, slots=True)
class ShowModels:
    """SHOW MODELS [{IN | FROM} namespace] [LIKE 'pattern']."""

    namespace: str | None = None
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class ShowVersions:
    """SHOW VERSIONS IN MODEL name."""

    name: Name


@dataclass(frozen=True, slots=True)
class ShowCreateModel:
    """SHOW CREATE MODEL name."""

    name: Name


@dataclass(frozen=True, slots=True)
class DescribeModel:
    """{DESCRIBE | DESC} MODEL [EXTENDED] name; SHOW MODEL name."""

    name: Name
    extended: bool = False


@dataclass(frozen=True, slots=True)
class ExportModel:
    """EXPORT MODEL name OPTIONS (...)."""

    name: Name
    options: Options = ()


@dataclass(frozen=True, slots=True)
class ShowTrainings:
    """SHOW TRAININGS [{IN | FROM} namespace] [LIKE 'pattern']: those under way, of all namespaces where none is given."""

    namespace: str | None = None
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class CancelTraining:
    """CANCEL TRAINING name."""

    name: Name


@dataclass(frozen=True, slots=True)
class Vacuum:
    """CALL ml.vacuum([retain_hours => n]): removes what crashes left in the model store."""

    retain_hours: float = 24.0


Statement = (
    CreateModel | ExplainCreateModel | SetDefaultVersion | SetAlias | UnsetAlias | SetComment | SetProperties | RenameModel | DropModel
    | ShowModels | ShowVersions | ShowCreateModel | DescribeModel | ExportModel | ShowTrainings | CancelTraining
    | Vacuum
)  # fmt: skip
