"""The parts that statements are made of, read from tokens: names, values and options."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from dlsql.errors import StatementSyntaxError
from dlsql.reader import Reader, Token, syntax_error, tokenize
from dlsql.statements import HParamCandidates, HParamRange, Name, Options, Value

# ---- Names

_PART = r"(?:`(?:[^`]|``)+`|[\w-]+)"
_NAME = re.compile(rf"({_PART}(?:\.{_PART})*)(?:@({_PART}))?")


def parse_name(text: str) -> Name:
    """The name that stands in a function's string: ``'sales.churn@champion'``, ``'`my db`.`my model`@v2'``.

    Two parts in one pair of backticks, as BigQuery writes them, are two parts; only after a namespace does a quoted dot belong to the name.

    Raises:
        StatementSyntaxError: the text is not a name.
    """
    name = read_name(text)
    if isinstance(name, str):
        raise syntax_error(text, 0, name)
    return name


def quote_name(name: Name) -> str:
    """The name as `parse_name` and a statement read it.

    >>> quote_name(Name("my db", "churn", version=2))
    '`my db`.churn@v2'
    """
    base = ".".join(quote_part(part) for part in (name.namespace, name.model) if part is not None)
    suffix = f"v{name.version}" if name.version is not None else name.alias and quote_part(name.alias)
    return f"{base}@{suffix}" if suffix else base


def quote_part(part: str) -> str:
    """One part of a name, quoted where it is odd: Spark's own parser takes bare names in ASCII only."""
    return part if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", part) else "`" + part.replace("`", "``") + "`"


def read_name(text: str) -> Name | str:
    """The name that a text spells, or what is wrong with it."""
    found = _NAME.fullmatch(text.strip())
    if not found:
        return f"`{text[:80]}` is not a name like namespace.model@v2, odd parts in backticks,"
    return assemble([_unquoted(part) for part in re.findall(_PART, found[1])], found[2] and _unquoted(found[2]))


def _unquoted(part: str) -> str:
    return part[1:-1].replace("``", "`") if part.startswith("`") else part


def assemble(parts: list[str], suffix: str | None) -> Name | str:
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
    name = assemble(parts, suffix)
    if isinstance(name, str):
        raise reader.fail(name, at=start)
    return name


def plain_name(reader: Reader) -> Name:
    """A model's name without version and alias."""
    """A name that stands for the model as a whole."""
    start = reader.peek()
    return without_suffix(reader, start, model_name(reader))


def without_suffix(reader: Reader, at: Token, name: Name) -> Name:
    """Refuses a name that has a version or an alias."""
    if name.version is not None or name.alias is not None:
        raise reader.fail(f"`{quote_name(name)}` names one version, and the model as a whole is meant,", at=at)
    return name


def alias_name(reader: Reader) -> str:
    """An alias, bare or quoted."""
    start = reader.peek()
    return checked_alias(reader, start, reader.string() if start.kind == "string" else reader.identifier("an alias"))


def checked_alias(reader: Reader, at: Token, alias: str) -> str:
    """Refuses an alias that reads as something else."""
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


def value_of(text: str) -> Value:
    """The value that a text spells; None where it spells none.

    >>> value_of("[64, 32]"), value_of("0.5"), value_of("adam"), value_of("my column")
    ([64, 32], 0.5, 'adam', None)
    """
    tokens = tokenize(text)
    if not tokens:
        return None
    reader = Reader(text, tokens)
    try:
        spelled = value(reader)
    except StatementSyntaxError:
        return None
    return spelled if reader.peek().kind == "end" else None


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


def options_of(reader: Reader) -> Options:
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
