"""SQL text in, a Statement out; or None, where the text is not ours and Spark gets it untouched.

The grammar is section 3 of the language (docs: SQL): each rule of it is one small function here that moves a `Reader` over
the tokens. sqlglot cuts the text into tokens and does nothing else: a query, a select list and a column type are slices of
the source, never made anew.

    parse(text)          CREATE MODEL ..., CALL ml.train(...)  ->  CreateModel(...)
    render(statement)    the way back, for SHOW CREATE MODEL
    parse_name(text)     'sales.churn@champion', as it stands in a function's string  ->  Name("sales", "churn", alias="champion")
    quote_name(name)     the way back, with backticks round odd parts

The spellings of other systems inside a query that is Spark's own (`ML.PREDICT(MODEL m, ...)`) are the business of rewrite.py.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal, TypeVar

from sqlglot import TokenType
from sqlglot.dialects import Spark
from sqlglot.errors import TokenError

from dlsql.errors import DlsqlError, did_you_mean, error
from dlsql.statements import (
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
    ShowVersions,
    Statement,
    UnsetAlias,
    Vacuum,
    Value,
)

__all__ = ["parse", "parse_name", "quote_name", "render"]

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
    head = _head(text)
    words = next((words for words in _STATEMENTS if head[: len(words)] == words), None)
    if words is None or (words[0] in ("DESC", "DESCRIBE") and not _describes_model(head[2:])):
        return None
    reader = _reader(text)
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


def _describes_model(lexemes: tuple[str, ...]) -> bool:
    """Whether DESCRIBE MODEL goes on with a name. `DESCRIBE model`, `DESCRIBE model.t`, `DESCRIBE model PARTITION (d = 1)` are Spark's."""
    named = bool(lexemes) and re.match(r"[\w`]", lexemes[0]) is not None
    return named and lexemes[:2] not in (("PARTITION", "("), ("AS", "JSON"))


# ---- Tokens


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the source: text[start:end]. The kind is told from the spelling, since sqlglot's differ from keyword to keyword."""

    kind: Literal["word", "number", "quoted", "string", "symbol", "end"]
    text: str
    start: int
    end: int

    @property
    def key(self) -> str:
        """What a keyword or a sign is known by; empty for strings and quoted identifiers, which are never keywords."""
        return "" if self.kind in ("string", "quoted") else self.text.upper()

    @property
    def identifier(self) -> str | None:
        """The name that the token spells, or None."""
        if self.kind == "quoted":
            return self.text[1:-1].replace("``", "`")
        return self.text if self.kind in ("word", "number") and _WORD.fullmatch(self.text) else None

    def __str__(self) -> str:
        return "the end of the text" if self.kind == "end" else f"`{self.text[:40]}`"


_WORD = re.compile(r"\w+")
_STRING = re.compile(r"[rR]?['\"]")
# ASCII, since in Unicode the S of `1S` would match the long s, too.
_NUMBER = re.compile(r"((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?)(L|S|Y|D|F|BD)?", re.IGNORECASE | re.ASCII)


def _token(text: str, start: int) -> Token:
    kind: Literal["word", "number", "quoted", "string", "symbol"] = "symbol"
    if _STRING.match(text):
        kind = "string"
    elif text.startswith("`"):
        kind = "quoted"
    elif _NUMBER.fullmatch(text):
        kind = "number"
    elif _WORD.fullmatch(text):
        kind = "word"
    return Token(kind, text, start, start + len(text))


class _Tokenizer(Spark.Tokenizer):  # type: ignore[misc]  # its metaclass hides the type
    """Spark's, without sqlglot's habit of taking all that follows SHOW, CALL or RENAME for one string."""

    COMMANDS: ClassVar[set[TokenType]] = set()


def tokenize(text: str) -> list[Token] | None:
    """The tokens of a text, without its comments; None where a quote or a comment is not closed."""
    try:
        found = _Tokenizer(dialect="spark").tokenize(text)
    except TokenError:
        return None
    tokens: list[Token] = []
    for token in found:
        if not tokens or token.start >= tokens[-1].end:  # of `1L` sqlglot makes `1`, `::` and `L`, each at the place of `1L`
            tokens.append(_token(text[token.start : token.end + 1], token.start))
    return tokens


def _syntax_error(text: str, offset: int, problem: str, hint: str = "") -> DlsqlError:
    before = text[:offset]
    return error("DLSQL_SYNTAX", problem=problem, line=before.count("\n") + 1, column=offset - before.rfind("\n"), hint=hint)


def _reader(text: str) -> "Reader":
    """A reader of a whole statement, without the semicolons after it."""
    tokens = tokenize(text)
    if tokens is None:
        raise _syntax_error(text, len(text), "A quote or a comment is not closed")
    while tokens and tokens[-1].key == ";":
        tokens.pop()
    return Reader(text, tokens)


class Reader:
    """A cursor over the tokens of a text. `take` and `expect` move it over words or signs, the rest over what they read."""

    def __init__(self, text: str, tokens: list[Token], at: int = 0) -> None:
        self.text, self.tokens, self.at = text, tokens, at

    def peek(self, ahead: int = 0) -> Token:
        """The next token, or the one some tokens later; past the last one, a token of kind `end`."""
        if self.at + ahead < len(self.tokens):
            return self.tokens[self.at + ahead]
        return Token("end", "", len(self.text), len(self.text))

    def next(self) -> Token:
        """The next token, moving over it."""
        token = self.peek()
        self.at += 1
        return token

    def take(self, *keys: str) -> bool:
        """Moves over these words or signs if all of them come next."""
        taken = all(self.peek(ahead).key == key for ahead, key in enumerate(keys))
        self.at += len(keys) if taken else 0
        return taken

    def expect(self, *keys: str) -> None:
        """Moves over these words or signs."""
        for key in keys:
            if not self.take(key):
                raise self.expected(key if _WORD.match(key) else f"`{key}`")

    def expect_end(self, instead: Iterable[str] = ()) -> None:
        """Makes sure that nothing is left; `instead` are the words that could go on here."""
        token = self.peek()
        if token.kind != "end":
            hint = " A name with a hyphen stands in backticks." if token.key == "-" else did_you_mean(token.key, instead)
            raise self.fail(f"Unexpected {token}", hint)

    def fail(self, problem: str, hint: str = "", at: Token | None = None) -> DlsqlError:
        """The error to raise about a token, the next one unless told otherwise."""
        return _syntax_error(self.text, (at or self.peek()).start, problem, hint)

    def expected(self, what: str) -> DlsqlError:
        """The error to raise where something else comes next."""
        return self.fail(f"Expected {what}, found {self.peek()}")

    def listed(self, read: Callable[[], T], closing: str = ")") -> list[T]:
        """Items with commas between them, up to the closing bracket; the opening one is behind."""
        items: list[T] = []
        while not self.take(closing):
            if items:
                self.expect(",")
            items.append(read())
            if self.peek().key not in (",", closing):
                raise self.expected(f"`,` or `{closing}`")
        return items

    def identifier(self, what: str) -> str:
        """A bare word or a quoted identifier, as written."""
        name = self.peek().identifier
        if name is None:
            raise self.expected(what)
        self.at += 1
        return name

    def integer(self, what: str) -> int:
        """A number without sign and fraction."""
        if not re.fullmatch(r"[0-9]{1,9}", self.peek().text):
            raise self.expected(what)
        return int(self.next().text)

    def number(self) -> int | float:
        """A number with or without a sign, exponent and Spark's suffixes."""
        sign = -1 if self.take("-") else 1
        if sign == 1:
            self.take("+")
        start = self.peek()
        point = "." if self.take(".") else ""  # sqlglot makes two tokens of `.5`
        spelled = _NUMBER.fullmatch(point + self.peek().text)
        if spelled is None:
            raise self.expected("a number")
        digits, suffix = spelled[1], (spelled[2] or "").upper()
        whole = suffix in ("", "L", "S", "Y") and digits.isdigit()
        if len(digits) > 1000 or math.isinf(float(digits)):
            raise self.fail(f"{start} is too large a number", at=start)
        self.at += 1
        return sign * (int(digits) if whole else float(digits))

    def string(self, what: str = "a string") -> str:
        """A string: one literal or several in a row, as Spark reads them."""
        if self.peek().kind != "string":
            raise self.expected(what)
        parts: list[str] = []
        while self.peek().kind == "string":
            token, before = self.peek(), self.peek(-1)
            if parts and token.start == before.end and token.text[0] == before.text[0] in "'\"":
                parts.append(token.text[0])  # 'it''s' is it's to Spark, and two tokens to sqlglot
            parts.append(_unescaped(token.text))
            self.at += 1
        return "".join(parts)

    def slice(self, stops: tuple[str, ...], brackets: str = "([{)]}") -> str:
        """The source text up to the first of these signs that stands outside of all brackets."""
        first, depth = self.at, 0
        opening, closing = brackets[: len(brackets) // 2], brackets[len(brackets) // 2 :]
        while depth or self.peek().key not in stops:
            if self.peek().kind == "end":
                raise self.expected(" or ".join(f"`{stop}`" for stop in stops))
            depth += sum((sign in opening) - (sign in closing) for sign in self.next().key)
        if self.at == first:
            raise self.expected("text")
        return self.text[self.tokens[first].start : self.tokens[self.at - 1].end]


# ---- Strings, as Spark's SparkParserUtils.unescapeSQLString reads them

_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[01][0-7]{2}|.)", re.DOTALL)
_ESCAPED = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a", "%": "\\%", "_": "\\_"}


def _unescaped(literal: str) -> str:
    if literal[0] in "rR":
        return literal[2:-1]
    text = _ESCAPE.sub(_character, literal[1:-1])
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # '\ud83d\ude00' is one character


def _character(escape: re.Match[str]) -> str:
    code = escape[1]
    if len(code) == 1:
        return _ESCAPED.get(code, code)
    point = int(code[1:], 16) if code[0] in "uU" else int(code, 8)
    return chr(point) if point <= 0x10FFFF else "??"  # as Spark does


def quote_literal(text: str) -> str:
    r"""A string as a literal of Spark SQL.

    >>> print(quote_literal("it's"))
    'it\'s'
    """
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


# ---- Names

_PART = r"(?:`(?:[^`]|``)+`|[\w-]+)"
_NAME = re.compile(rf"({_PART}(?:\.{_PART})*)(?:@({_PART}))?")


def parse_name(text: str) -> Name:
    """The name that stands in a function's string: ``'sales.churn@champion'``, ``'`my db`.`my model`@v2'``.

    Two parts in one pair of backticks, as BigQuery writes them, are two parts; only after a namespace does a quoted dot belong to the name.

    Raises:
        StatementSyntaxError: the text is not a name.
    """
    name = _read_name(text)
    if isinstance(name, str):
        raise _syntax_error(text, 0, name)
    return name


def quote_name(name: Name) -> str:
    """The name as `parse_name` and a statement read it.

    >>> quote_name(Name("my db", "churn", version=2))
    '`my db`.churn@v2'
    """
    base = ".".join(_quote_part(part) for part in (name.namespace, name.model) if part is not None)
    suffix = f"v{name.version}" if name.version is not None else name.alias and _quote_part(name.alias)
    return f"{base}@{suffix}" if suffix else base


def _quote_part(part: str) -> str:
    # Spark's own parser takes bare names in ASCII only.
    return part if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", part) else "`" + part.replace("`", "``") + "`"


def _read_name(text: str) -> Name | str:
    """The name that a text spells, or what is wrong with it."""
    found = _NAME.fullmatch(text.strip())
    if not found:
        return f"`{text[:80]}` is not a name like namespace.model@v2, odd parts in backticks,"
    return _assemble([_unquoted(part) for part in re.findall(_PART, found[1])], found[2] and _unquoted(found[2]))


def _unquoted(part: str) -> str:
    return part[1:-1].replace("``", "`") if part.startswith("`") else part


def _assemble(parts: list[str], suffix: str | None) -> Name | str:
    """The name of these parts, or what is wrong with them."""
    if len(parts) == 1:
        parts = parts[0].split(".")  # BigQuery's `namespace.model`
    if len(parts) > 2:
        return f"`{'.'.join(parts)[:80]}` has {len(parts)} parts; a model's name has one or two, namespace.model,"
    if "" in parts or suffix == "":
        return "A part of the name is empty"
    *namespace, model = (part.lower() for part in parts)
    name = Name(namespace[0] if namespace else None, model)
    if suffix is None:
        return name
    version = _version(suffix)
    return replace(name, version=version) if version is not None else replace(name, alias=suffix.lower())


def _version(suffix: str) -> int | None:
    """The version that `v2` means, or None for an alias."""
    found = re.fullmatch(r"[vV]([0-9]{1,9})", suffix)
    return int(found[1]) if found else None


def model_name(reader: Reader) -> Name:
    """[namespace.]model[@vN | @alias]."""
    start = reader.peek()
    parts = [reader.identifier("a model's name")]
    while reader.take("."):
        parts.append(reader.identifier("a model's name"))
    suffix = reader.identifier("a version or an alias") if reader.take("@") else None
    name = _assemble(parts, suffix)
    if isinstance(name, str):
        raise reader.fail(name, at=start)
    return name


def _plain_name(reader: Reader) -> Name:
    """A name that stands for the model as a whole."""
    start = reader.peek()
    return _without_suffix(reader, start, model_name(reader))


def _without_suffix(reader: Reader, at: Token, name: Name) -> Name:
    if name.version is not None or name.alias is not None:
        raise reader.fail(f"`{quote_name(name)}` names one version, and the model as a whole is meant,", at=at)
    return name


def _alias(reader: Reader) -> str:
    start = reader.peek()
    return _checked_alias(reader, start, reader.string() if start.kind == "string" else reader.identifier("an alias"))


def _checked_alias(reader: Reader, at: Token, alias: str) -> str:
    if re.fullmatch(r"[vV][0-9]+", alias):
        raise reader.fail(f"`{alias}` cannot be an alias, since @{alias} is a version,", at=at)
    if alias.lower() == "default":
        raise reader.fail("`default` cannot be an alias", " Use ALTER MODEL name SET DEFAULT_VERSION = n.", at)
    if not alias:
        raise reader.fail("An alias is not empty", at=at)
    return alias.lower()


# ---- Values and options

_DEEPEST = 32  # brackets within brackets
_CONSTANTS: dict[str, Value] = {"TRUE": True, "FALSE": False, "NULL": None}


def value(reader: Reader, depth: int = 0) -> Value:
    """A literal, [..], ARRAY(..), MAP(..), STRUCT(..), HPARAM_RANGE(..) or HPARAM_CANDIDATES(..); another bare word is a string."""
    token = reader.peek()
    if depth > _DEEPEST:
        raise reader.fail(f"Values are nested more than {_DEEPEST} deep")
    if token.kind == "string":
        return reader.string()
    if token.kind == "number" or token.key in ("+", "-", "."):
        return reader.number()
    if reader.take("["):
        return reader.listed(partial(value, reader, depth + 1), "]")
    if token.key in _CONSTRUCTORS and reader.peek(1).key in ("(", "["):
        reader.at += 1
        closing = ")" if reader.next().key == "(" else "]"
        return _CONSTRUCTORS[token.key](reader, closing, depth + 1)
    if token.kind != "word" or token.text[0].isdigit():
        raise reader.expected("a value")
    reader.at += 1
    return _CONSTANTS.get(token.key, token.text)


def _array(reader: Reader, closing: str, depth: int) -> Value:
    return reader.listed(partial(value, reader, depth), closing)


def _map(reader: Reader, closing: str, depth: int) -> Value:
    def entry() -> tuple[str, Value]:
        key = value(reader, depth)
        if isinstance(key, bool) or not isinstance(key, str | int | float):
            raise reader.fail("A key of MAP is a string or a number")
        reader.expect(",")
        return str(key), value(reader, depth)

    return _dict(reader, reader.listed(entry, closing))


def _struct(reader: Reader, closing: str, depth: int) -> Value:
    """A dict of fields with names. Without names, as BigQuery ML writes them: one field is its value, several are a list."""

    def field() -> tuple[str | None, Value]:
        content = value(reader, depth)
        return (reader.identifier("a field's name") if reader.take("AS") else None), content

    fields = reader.listed(field, closing)
    named = [(name, content) for name, content in fields if name is not None]
    if len(named) == len(fields):
        return _dict(reader, named)
    if named:
        raise reader.fail("All fields of a STRUCT have a name, or none has,")
    contents = [content for _, content in fields]
    return contents[0] if len(contents) == 1 else contents


def _dict(reader: Reader, entries: list[tuple[str, Value]]) -> dict[str, Value]:
    known: dict[str, Value] = {}
    for key, content in entries:
        if key in known:
            raise reader.fail(f"`{key}` is given twice")
        known[key] = content
    return known


def _hparam_range(reader: Reader, closing: str, depth: int) -> Value:
    bounds = reader.listed(reader.number, closing)
    if len(bounds) != 2:
        raise reader.fail(f"HPARAM_RANGE takes 2 numbers, low and high, and not {len(bounds)},")
    return HParamRange(*bounds)


def _hparam_candidates(reader: Reader, closing: str, depth: int) -> Value:
    candidates = reader.listed(partial(value, reader, depth), closing)
    if len(candidates) != 1 or not isinstance(candidates[0], list):
        raise reader.fail("HPARAM_CANDIDATES takes one list of values")
    return HParamCandidates(tuple(candidates[0]))


_CONSTRUCTORS: dict[str, Callable[[Reader, str, int], Value]] = {
    "ARRAY": _array,
    "MAP": _map,
    "STRUCT": _struct,
    "HPARAM_RANGE": _hparam_range,
    "HPARAM_CANDIDATES": _hparam_candidates,
}


def _options(reader: Reader) -> Options:
    """(key = value, ...); the keys bare, dotted, 'quoted' or in backticks."""
    known: dict[str, Value] = {}

    def option() -> None:
        start = reader.peek()
        key = reader.string() if start.kind == "string" else reader.identifier("an option")
        while start.kind != "string" and reader.take("."):
            key += "." + reader.identifier("an option")
        if key.lower() in known:
            raise reader.fail(f"Option `{key.lower()}` is given twice", at=start)
        reader.expect("=")
        known[key.lower()] = value(reader)

    reader.expect("(")
    reader.listed(option)
    return tuple(known.items())


# ---- Statements


def _create(reader: Reader, replacing: bool) -> CreateModel:
    """Name, clauses in any order, query; what stands before the name is behind, except IF NOT EXISTS."""
    if replacing and reader.peek().key == "IF":
        raise reader.fail("OR REPLACE and IF NOT EXISTS exclude each other")
    if_not_exists = reader.take("IF", "NOT", "EXISTS")
    create = CreateModel(_plain_name(reader), replace=replacing, if_not_exists=if_not_exists)
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
    return replace(create, options=_options(reader))


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
        _without_suffix(reader, start, name)
    action = next((words for words in _ALTERATIONS if reader.take(*words)), None)
    if action is None:
        raise reader.expected("one of " + ", ".join(" ".join(words) for words in _ALTERATIONS))
    return _ALTERATIONS[action](reader, name)


def _set_alias(reader: Reader, name: Name) -> Statement:
    """SET ALIAS [=] alias: of the version that the name's suffix names."""
    if name.version is None:
        raise reader.fail("SET ALIAS is for one version", " Write ALTER MODEL name VERSION n SET ALIAS = alias.")
    reader.take("=")
    return SetAlias(replace(name, version=None), name.version, _alias(reader))


def _set_alias_of_version(reader: Reader, name: Name) -> Statement:
    version = reader.integer("the number of a version")
    reader.expect("SET", "ALIAS")
    return _set_alias(reader, replace(name, version=version))


def _unset_alias(reader: Reader, name: Name) -> Statement:
    reader.take("=")
    return UnsetAlias(name, _alias(reader))


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
    ("SET", "TBLPROPERTIES"): lambda reader, name: SetProperties(name, _options(reader)),
    ("SET", "OPTIONS"): lambda reader, name: SetProperties(name, _options(reader)),
    ("RENAME", "TO"): lambda reader, name: RenameModel(name, _plain_name(reader)),
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


def _show_models(reader: Reader) -> ShowModels:
    namespace = reader.identifier("a database").lower() if reader.take("IN") or reader.take("FROM") else None
    pattern = reader.string("a pattern") if reader.take("LIKE") or reader.peek().kind == "string" else None
    return ShowModels(namespace, pattern)


def _describe(reader: Reader) -> DescribeModel:
    extended = reader.peek().key == "EXTENDED" and reader.peek(1).identifier is not None
    reader.at += extended
    return DescribeModel(model_name(reader), extended)


def _export(reader: Reader) -> ExportModel:
    name = model_name(reader)
    if not (reader.take("OPTIONS") or reader.take("WITH") or reader.take("TBLPROPERTIES")):
        raise reader.expected("OPTIONS")
    return ExportModel(name, _options(reader))


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
        name = _read_name(self.required("model", str, "a model's name as a string"))
        if isinstance(name, str):
            raise self.reader.fail(name, at=self.given["model"][1])
        return name

    def plain_name(self) -> Name:
        name = self.name()
        return _without_suffix(self.reader, self.given["model"][1], name)

    def query(self) -> str:
        return query_text(_reader(self.required("query", str, "a query as a string")))

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
    return SetAlias(given.plain_name(), version, _checked_alias(given.reader, given.given["alias"][1], alias))


def _call_vacuum(given: _Arguments) -> Statement:
    hours = given.optional("retain_hours", (int, float), "a number of hours")
    return Vacuum() if hours is None else Vacuum(float(hours))


_PROCEDURES: dict[str, tuple[tuple[str, ...], Callable[[_Arguments], Statement]]] = {
    "train": (("model", "query", "options", "replace"), _call_train),
    "import_model": (("model", "model_path", "format", "options", "replace"), _call_import),
    "export_model": (("model", "uri", "format", "options"), _call_export),
    "drop_model": (("model", "version", "if_exists"), _call_drop),
    "set_alias": (("model", "version", "alias"), _call_set_alias),
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
    ("SHOW", "MODELS"): _show_models,
    ("SHOW", "MODEL"): _describe,
    ("SHOW", "VERSIONS", "IN", "MODEL"): lambda reader: ShowVersions(_plain_name(reader)),
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
        lines.append(f"COMMENT {quote_literal(statement.comment)}")
    for clause, columns in (("INPUT", statement.inputs), ("OUTPUT", statement.outputs)):
        if columns:
            lines.append(f"{clause} ({', '.join(f'{_quote_part(name)} {kind}' for name, kind in columns)})")
    if statement.transform is not None:
        lines.append(f"TRANSFORM ({statement.transform})")
    if statement.options:
        options = [f"  {_render_key(key)} = {_render_value(content)}" for key, content in statement.options]
        lines += ["OPTIONS (", ",\n".join(options), ")"]
    if statement.query is not None:
        lines += ["AS", statement.query]
    return "\n".join(lines)


def _render_key(key: str) -> str:
    return key if re.fullmatch(r"[a-z_][a-z0-9_]*", key) else quote_literal(key)


def _render_value(content: Value) -> str:
    match content:
        case None | bool():
            return str(content).upper() if content is not None else "NULL"
        case int() | float():
            return repr(content)
        case str():
            return quote_literal(content)
        case list():
            return f"[{', '.join(map(_render_value, content))}]"
        case dict():
            return f"MAP({', '.join(f'{quote_literal(key)}, {_render_value(item)}' for key, item in content.items())})"
        case HParamRange():
            return f"HPARAM_RANGE({content.low!r}, {content.high!r})"
        case HParamCandidates():
            return f"HPARAM_CANDIDATES([{', '.join(map(_render_value, content.values))}])"
