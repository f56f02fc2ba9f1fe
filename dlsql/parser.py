"""SQL text in, a Statement out; or None, where the text is not ours and Spark gets it untouched.

The grammar is section 3 of the language (docs: SQL): each rule of it is one small function here that moves a `Reader` over
the tokens (reader.py) and over the parts that all statements share (terms.py). A query, a select list and a column type are
slices of the source, never made anew.

    parse(text)          CREATE MODEL ..., CALL ml.train(...)  ->  CreateModel(...)
    render(statement)    the way back, for SHOW CREATE MODEL

The spellings of other systems inside a query that is Spark's own (`ML.PREDICT(MODEL m, ...)`) are the business of rewrite.py.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from dlsql.errors import did_you_mean
from dlsql.quoting import literal
from dlsql.reader import Reader, Token, reader_of
from dlsql.statements import (
    CancelTraining,
    CreateModel,
    DescribeModel,
    DropModel,
    ExplainCreateModel,
    ExportModel,
    HParamCandidates,
    HParamRange,
    Name,
    Options,
    RenameModel,
    SetAlias,
    SetComment,
    SetDefaultVersion,
    SetProperties,
    ShowCreateModel,
    ShowModels,
    ShowTrainings,
    ShowVersions,
    Statement,
    UnsetAlias,
    Vacuum,
    Value,
)
from dlsql.terms import (
    alias_name,
    checked_alias,
    model_name,
    options_of,
    plain_name,
    quote_name,
    quote_part,
    read_name,
    value,
    without_suffix,
)

T = TypeVar("T")


def parse(text: str) -> Statement | None:
    """The statement that a text holds, or None where the text is not ours.

    >>> parse("DROP MODEL IF EXISTS sales.churn@v2")
    DropModel(name=Name(namespace='sales', model='churn', version=None, alias=None), version=2, if_exists=True)
    >>> parse("DROP TABLE model") is None
    True

    Raises:
        StatementSyntaxError: the text begins as a statement of ours and does not go on as one.
    """
    words = _first_words(text)
    if words is None:
        return None
    reader = reader_of(text)
    reader.expect(*words)
    statement = _STATEMENTS[words](reader)
    reader.expect_end()
    return statement


# ---- Whose text is it? Told from its first words, before the rest is cut into tokens.

_COMMENT = r"/\*(?:[^*/]|\*(?!/)|/(?!\*)|INNER)*+\*/"
_COMMENT = _COMMENT.replace("INNER", _COMMENT.replace("|INNER", ""))  # Spark's comments nest
_LEXEME = re.compile(rf"(?:\s|--[^\r\n]*+|{_COMMENT})*+(\w+|\S)")


def _head(text: str) -> tuple[str, ...]:
    r"""The first five words or signs of a text, in upper case.

    >>> _head("-- mine\ndrop Model a.b")
    ('DROP', 'MODEL', 'A', '.', 'B')
    """
    lexemes: list[str] = []
    at = 0
    while len(lexemes) < 5 and (lexeme := _LEXEME.match(text, at)):
        lexemes.append(lexeme[1].upper())
        at = lexeme.end()
    return tuple(lexemes)


def is_ours(text: str) -> bool:
    """Whether a text is a statement of the language, well made or not.

    >>> is_ours("create model"), is_ours("SELECT * FROM models")
    (True, False)
    """
    return _first_words(text) is not None


def _first_words(text: str) -> tuple[str, ...] | None:
    """Those that a statement of ours begins with."""
    head = _head(text)
    words = next((words for words in _STATEMENTS if head[: len(words)] == words), None)
    return None if words is None or (words[0] in ("DESC", "DESCRIBE") and not _describes_model(head[2:])) else words


def _describes_model(lexemes: tuple[str, ...]) -> bool:
    """Whether DESCRIBE MODEL goes on with a name. `DESCRIBE model`, `DESCRIBE model.t`, `DESCRIBE model PARTITION (d = 1)` are Spark's."""
    named = bool(lexemes) and re.match(r"[\w`]", lexemes[0]) is not None
    return named and lexemes[:2] not in (("PARTITION", "("), ("AS", "JSON"))


# ---- Statements


def _create(reader: Reader, replacing: bool) -> CreateModel:
    """Name, clauses in any order, query; what stands before the name is behind, except IF NOT EXISTS."""
    if replacing and reader.peek().key == "IF":
        raise reader.fail("OR REPLACE and IF NOT EXISTS exclude each other")
    if_not_exists = reader.take("IF", "NOT", "EXISTS")
    create = CreateModel(plain_name(reader), replace=replacing, if_not_exists=if_not_exists)
    seen: dict[_Clause, str] = {}
    while (word := reader.peek().key) in _CLAUSES:
        clause = _CLAUSES[word]
        if clause in seen:
            raise reader.fail(f"A second {word} clause" + (f", after {seen[clause]}," if seen[clause] != word else ""))
        seen[clause] = word
        reader.at += 1
        create = clause(reader, create)
    if reader.take("AS"):
        return replace(create, query=query_text(reader))
    reader.expect_end(instead=[*_CLAUSES, "AS"])
    if not any(key == "model_path" for key, _ in create.options):
        raise reader.fail("CREATE MODEL has nothing to learn from", " Add AS SELECT ..., or the option model_path to import a model.")
    return create


def query_text(reader: Reader) -> str:
    """The rest of the text, from the query's first word on."""
    if reader.peek().key not in QUERY_STARTS:
        raise reader.expected("a query")
    start, reader.at = reader.peek().start, len(reader.tokens)
    return reader.text[start : reader.tokens[-1].end]


QUERY_STARTS = ("SELECT", "WITH", "FROM", "VALUES", "TABLE", "(")

_Clause = Callable[[Reader, CreateModel], CreateModel]


def _comment(reader: Reader, create: CreateModel) -> CreateModel:
    return replace(create, comment=reader.string())


def _inputs(reader: Reader, create: CreateModel) -> CreateModel:
    return replace(create, inputs=_columns(reader))


def _outputs(reader: Reader, create: CreateModel) -> CreateModel:
    return replace(create, outputs=_columns(reader))


def _columns(reader: Reader) -> tuple[tuple[str, str], ...]:
    """(column type, ...); a type is a slice of the source."""
    reader.expect("(")
    return tuple(reader.listed(lambda: (reader.identifier("a column"), reader.slice((",", ")"), "([<)]>"))))


def _transform(reader: Reader, create: CreateModel) -> CreateModel:
    reader.expect("(")
    select_list = reader.slice((")",))
    reader.expect(")")
    return replace(create, transform=select_list)


def _with_options(reader: Reader, create: CreateModel) -> CreateModel:
    return replace(create, options=options_of(reader))


_CLAUSES: dict[str, _Clause] = {
    "COMMENT": _comment,
    "INPUT": _inputs,
    "OUTPUT": _outputs,
    "TRANSFORM": _transform,
    "OPTIONS": _with_options,
    "WITH": _with_options,
    "TBLPROPERTIES": _with_options,
}


def _alter(reader: Reader) -> Statement:
    start = reader.peek()
    name = model_name(reader)
    if (reader.peek().key, reader.peek(1).key) != ("SET", "ALIAS"):
        without_suffix(reader, start, name)
    action = next((words for words in _ALTERATIONS if reader.take(*words)), None)
    if action is None:
        raise reader.expected("one of " + ", ".join(" ".join(words) for words in _ALTERATIONS))
    return _ALTERATIONS[action](reader, name)


def _set_alias(reader: Reader, name: Name) -> Statement:
    """SET ALIAS [=] alias: of the version that the name's suffix names."""
    if name.version is None:
        raise reader.fail("SET ALIAS is for one version", " Write ALTER MODEL name VERSION n SET ALIAS = alias.")
    reader.take("=")
    return SetAlias(replace(name, version=None), name.version, alias_name(reader))


def _set_alias_of_version(reader: Reader, name: Name) -> Statement:
    version = reader.integer("the number of a version")
    reader.expect("SET", "ALIAS")
    return _set_alias(reader, replace(name, version=version))


def _unset_alias(reader: Reader, name: Name) -> Statement:
    reader.take("=")
    return UnsetAlias(name, alias_name(reader))


def _set_default_version(reader: Reader, name: Name) -> Statement:
    reader.take("=")
    return SetDefaultVersion(name, reader.integer("the number of a version"))


def _set_comment(reader: Reader, name: Name) -> Statement:
    reader.take("=")
    return SetComment(name, reader.string())


_ALTERATIONS: dict[tuple[str, ...], Callable[[Reader, Name], Statement]] = {
    ("SET", "DEFAULT_VERSION"): _set_default_version,
    ("VERSION",): _set_alias_of_version,
    ("SET", "ALIAS"): _set_alias,
    ("UNSET", "ALIAS"): _unset_alias,
    ("SET", "COMMENT"): _set_comment,
    ("SET", "TBLPROPERTIES"): lambda reader, name: SetProperties(name, options_of(reader)),
    ("SET", "OPTIONS"): lambda reader, name: SetProperties(name, options_of(reader)),
    ("RENAME", "TO"): lambda reader, name: RenameModel(name, plain_name(reader)),
}


def _drop(reader: Reader) -> DropModel:
    if_exists = reader.take("IF", "EXISTS")
    start = reader.peek()
    name = model_name(reader)
    version = reader.integer("the number of a version") if reader.take("VERSION") else None
    return _dropped(reader, start, name, version, if_exists)


def _dropped(reader: Reader, at: Token, name: Name, version: int | None, if_exists: bool) -> DropModel:
    if name.alias is not None or None not in (name.version, version):
        raise reader.fail(f"`{quote_name(name)}` cannot be dropped", " Give the number of one version, or the model's name alone.", at)
    return DropModel(replace(name, version=None), name.version if version is None else version, if_exists)


def _show(reader: Reader, what: Callable[[str | None, str | None], T]) -> T:
    """[{IN | FROM} namespace] [LIKE 'pattern']."""
    namespace = reader.identifier("a database").lower() if reader.take("IN") or reader.take("FROM") else None
    pattern = reader.string("a pattern") if reader.take("LIKE") or reader.peek().kind == "string" else None
    return what(namespace, pattern)


def _describe(reader: Reader) -> DescribeModel:
    extended = reader.peek().key == "EXTENDED" and reader.peek(1).identifier is not None
    reader.at += extended
    return DescribeModel(model_name(reader), extended)


def _export(reader: Reader) -> ExportModel:
    name = model_name(reader)
    if not (reader.take("OPTIONS") or reader.take("WITH") or reader.take("TBLPROPERTIES")):
        raise reader.expected("OPTIONS")
    return ExportModel(name, options_of(reader))


# ---- CALL ml.procedure(name => value, ...): the twins of statements


class _Arguments:
    """What a CALL gives: named, or in the order of the procedure's parameters. NULL is as good as nothing."""

    def __init__(self, reader: Reader, procedure: str, parameters: tuple[str, ...]) -> None:
        self.reader, self.procedure, self.parameters = reader, procedure, parameters
        self.start = reader.peek()
        self.given: dict[str, tuple[Value, Token]] = {}
        reader.listed(self._argument)

    def _argument(self) -> None:
        start = self.reader.peek()
        named = self.reader.peek(1).key == "=>"
        if named:
            parameter = self.reader.identifier("an argument").lower()
            self.reader.expect("=>")
        elif len(self.given) < len(self.parameters):
            parameter = self.parameters[len(self.given)]
        else:
            raise self.reader.fail(f"ml.{self.procedure} takes only {', '.join(self.parameters)}")
        parameter = _SYNONYMS.get((self.procedure, parameter), parameter)
        if parameter not in self.parameters:
            raise self.reader.fail(f"ml.{self.procedure} has no argument `{parameter}`", did_you_mean(parameter, self.parameters), start)
        if parameter in self.given:
            raise self.reader.fail(f"Argument `{parameter}` is given twice", at=start)
        token = self.reader.peek()
        self.given[parameter] = value(self.reader), token

    def optional(self, parameter: str, kind: type[T] | tuple[type[T], ...], what: str) -> T | None:
        content, token = self.given.get(parameter, (None, self.start))
        if content is None:
            return None
        if not isinstance(content, kind) or (isinstance(content, bool) and kind is not bool):
            raise self.reader.fail(f"Argument `{parameter}` of ml.{self.procedure} is not {what}", at=token)
        return content

    def required(self, parameter: str, kind: type[T], what: str) -> T:
        content = self.optional(parameter, kind, what)
        if content is None:
            raise self.reader.fail(f"ml.{self.procedure} needs the argument `{parameter}`, {what},", at=self.start)
        return content

    def name(self) -> Name:
        name = read_name(self.required("model", str, "a model's name as a string"))
        if isinstance(name, str):
            raise self.reader.fail(name, at=self.given["model"][1])
        return name

    def plain_name(self) -> Name:
        name = self.name()
        return without_suffix(self.reader, self.given["model"][1], name)

    def query(self) -> str:
        return query_text(reader_of(self.required("query", str, "a query as a string")))

    def options(self, **first: str | None) -> Options:
        """The argument `options`, a map; before it, those of `first` that are given."""
        options: dict[str, Value] = {key: content for key, content in first.items() if content is not None}
        for key, content in (self.optional("options", dict, "a map") or {}).items():
            if key.lower() in options:
                raise self.reader.fail(f"Option `{key.lower()}` is given twice", at=self.given["options"][1])
            options[key.lower()] = content
        return tuple(options.items())


def _call_train(given: _Arguments) -> Statement:
    replacing = given.optional("replace", bool, "TRUE or FALSE") or False
    return CreateModel(given.plain_name(), given.options(), given.query(), replacing)


def _call_import(given: _Arguments) -> Statement:
    replacing = given.optional("replace", bool, "TRUE or FALSE") or False
    path = given.required("model_path", str, "the place of the model as a string")
    options = given.options(model_path=path, format=given.optional("format", str, "a string"))
    return CreateModel(given.plain_name(), options, replace=replacing)


def _call_export(given: _Arguments) -> Statement:
    uri = given.required("uri", str, "a place as a string")
    return ExportModel(given.name(), given.options(uri=uri, format=given.optional("format", str, "a string")))


def _call_drop(given: _Arguments) -> Statement:
    version = given.optional("version", int, "the number of a version")
    if_exists = given.optional("if_exists", bool, "TRUE or FALSE") or False
    return _dropped(given.reader, given.start, given.name(), version, if_exists)


def _call_set_alias(given: _Arguments) -> Statement:
    alias = given.required("alias", str, "a string")
    version = given.required("version", int, "the number of a version")
    return SetAlias(given.plain_name(), version, checked_alias(given.reader, given.given["alias"][1], alias))


def _call_vacuum(given: _Arguments) -> Statement:
    hours = given.optional("retain_hours", (int, float), "a number of hours")
    return Vacuum() if hours is None else Vacuum(float(hours))


_PROCEDURES: dict[str, tuple[tuple[str, ...], Callable[[_Arguments], Statement]]] = {
    "train": (("model", "query", "options", "replace"), _call_train),
    "import_model": (("model", "model_path", "format", "options", "replace"), _call_import),
    "export_model": (("model", "uri", "format", "options"), _call_export),
    "drop_model": (("model", "version", "if_exists"), _call_drop),
    "set_alias": (("model", "version", "alias"), _call_set_alias),
    "cancel_training": (("model",), lambda given: CancelTraining(given.plain_name())),
    "vacuum": (("retain_hours",), _call_vacuum),
}
_SYNONYMS = {("import_model", "uri"): "model_path"}


def _call(procedure: str, reader: Reader) -> Statement:
    parameters, build = _PROCEDURES[procedure]
    return build(_Arguments(reader, procedure, parameters))


# ---- The first words of a statement of ours, and what reads the rest of it

_STATEMENTS: dict[tuple[str, ...], Callable[[Reader], Statement]] = {
    ("CREATE", "MODEL"): lambda reader: _create(reader, replacing=False),
    ("CREATE", "OR", "REPLACE", "MODEL"): lambda reader: _create(reader, replacing=True),
    ("EXPLAIN", "CREATE", "MODEL"): lambda reader: ExplainCreateModel(_create(reader, replacing=False)),
    ("EXPLAIN", "CREATE", "OR", "REPLACE", "MODEL"): lambda reader: ExplainCreateModel(_create(reader, replacing=True)),
    ("ALTER", "MODEL"): _alter,
    ("DROP", "MODEL"): _drop,
    ("SHOW", "MODELS"): lambda reader: _show(reader, ShowModels),
    ("SHOW", "TRAININGS"): lambda reader: _show(reader, ShowTrainings),
    ("CANCEL", "TRAINING"): lambda reader: CancelTraining(plain_name(reader)),
    ("SHOW", "MODEL"): _describe,
    ("SHOW", "VERSIONS", "IN", "MODEL"): lambda reader: ShowVersions(plain_name(reader)),
    ("SHOW", "CREATE", "MODEL"): lambda reader: ShowCreateModel(model_name(reader)),
    ("DESCRIBE", "MODEL"): _describe,
    ("DESC", "MODEL"): _describe,
    ("EXPORT", "MODEL"): _export,
    **{("CALL", "ML", ".", procedure.upper(), "("): partial(_call, procedure) for procedure in _PROCEDURES},
}


# ---- The way back


def render(statement: CreateModel) -> str:
    """The text of a statement, over several lines; `parse` makes the same statement of it.

    >>> print(render(CreateModel(Name("sales", "churn"), (("hidden_units", [8, 4]),), "SELECT * FROM t")))
    CREATE MODEL sales.churn
    OPTIONS (
      hidden_units = [8, 4]
    )
    AS
    SELECT * FROM t
    """
    modifier = "OR REPLACE " if statement.replace else ""
    condition = "IF NOT EXISTS " if statement.if_not_exists else ""
    lines = [f"CREATE {modifier}MODEL {condition}{quote_name(statement.name)}"]
    if statement.comment is not None:
        lines.append(f"COMMENT {literal(statement.comment)}")
    for clause, columns in (("INPUT", statement.inputs), ("OUTPUT", statement.outputs)):
        if columns:
            lines.append(f"{clause} ({', '.join(f'{quote_part(name)} {kind}' for name, kind in columns)})")
    if statement.transform is not None:
        lines.append(f"TRANSFORM ({statement.transform})")
    if statement.options:
        options = [f"  {_render_key(key)} = {_render_value(content)}" for key, content in statement.options]
        lines += ["OPTIONS (", ",\n".join(options), ")"]
    if statement.query is not None:
        lines += ["AS", statement.query]
    return "\n".join(lines)


def _render_key(key: str) -> str:
    return key if re.fullmatch(r"[a-z_][a-z0-9_]*", key) else literal(key)


def _render_value(content: Value) -> str:
    match content:
        case None | bool():
            return str(content).upper() if content is not None else "NULL"
        case int() | float():
            return repr(content)
        case str():
            return literal(content)
        case list():
            return f"[{', '.join(map(_render_value, content))}]"
        case dict():
            return f"MAP({', '.join(f'{literal(key)}, {_render_value(item)}' for key, item in content.items())})"
        case HParamRange():
            return f"HPARAM_RANGE({content.low!r}, {content.high!r})"
        case HParamCandidates():
            return f"HPARAM_CANDIDATES([{', '.join(map(_render_value, content.values))}])"
