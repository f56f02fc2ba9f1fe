"""The rows of a statement as text: a table for people, CSV or JSON lines for programs."""

import csv
import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TextIO

from rich.box import ASCII2, ROUNDED
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlsql.errors import error

_NUMBERS = ("tinyint", "smallint", "int", "bigint", "float", "double", "decimal")
_NARROWEST = 24  # cells: a column is folded to this before a wide table is turned on its side
_BYTES = 16  # of a binary value that a table shows


def write(frame: Any, form: str, out: TextIO) -> None:
    """Writes the rows of a DataFrame, classic or of Spark Connect, to the end. A statement without columns writes nothing."""
    if frame.columns:
        FORMS[form](frame.dtypes, frame, out)


def table(types: Sequence[tuple[str, str]], rows: Iterable[Sequence[Any]], out: TextIO) -> None:
    """A table; where the terminal is too narrow for its columns, one block for each row."""
    console = Console(file=out, soft_wrap=False, highlight=False, width=None if out.isatty() else sys.maxsize)
    texts = [[cell(value) for value in row] for row in rows]
    names = [name for name, _ in types]
    widths = [max(map(cell_len, column), default=0) for column in zip(names, *texts, strict=True)]
    least = sum(min(width, max(_NARROWEST, cell_len(name))) for name, width in zip(names, widths, strict=True))
    if least + 3 * len(names) + 1 > console.width:
        _blocks(console, names, texts)
        return
    made = Table(box=ROUNDED if out.isatty() else ASCII2, show_lines=False)
    for name, kind in types:
        made.add_column(Text(name), justify="right" if kind.startswith(_NUMBERS) else "left", overflow="fold")
    for line in texts:
        made.add_row(*map(_styled, line))
    console.print(made)


def _blocks(console: Console, names: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
    width = max(map(cell_len, names))
    for number, line in enumerate(texts, 1):
        console.print(Text(f"row {number}", "bold"))
        for name, text in zip(names, line, strict=True):
            console.print(Text.assemble((" " * (width - cell_len(name)) + name, "cyan"), "  ", _styled(text)))
    if not texts:
        console.print(Text(", ".join(names) + ": no rows"))


def _styled(text: str) -> Text:
    return Text(text, "dim") if text == "NULL" else Text(text)


def lines_of_csv(types: Sequence[tuple[str, str]], rows: Iterable[Sequence[Any]], out: TextIO) -> None:
    """CSV with a header; NULL is empty, and what a field cannot hold is JSON in it."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([name for name, _ in types])
    for row in rows:
        writer.writerow(["" if value is None else _field(value) for value in row])


def _field(value: Any) -> str:
    plain = as_json(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def lines_of_json(types: Sequence[tuple[str, str]], rows: Iterable[Sequence[Any]], out: TextIO) -> None:
    """One JSON object a row.

    Raises:
        TypeMismatchError: two columns, or two fields of a struct, have one name: an object would keep the last of them.
    """
    names = [name for name, _ in types]
    for row in rows:
        out.write(json.dumps(_object(names, row), ensure_ascii=False) + "\n")


def _object(names: Sequence[str], values: Iterable[Any]) -> dict[str, Any]:
    made = dict(zip(names, map(as_json, values), strict=True))
    if len(made) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        expected = "JSON keeps one value for a name. Give each its own name with AS, or take --format csv."
        raise error("DLSQL_COLUMN_TYPE", column=twice, found="there twice", expected=expected)
    return made


FORMS: dict[str, Callable[[Sequence[tuple[str, str]], Iterable[Any], TextIO], None]] = {
    "table": lambda types, frame, out: table(types, frame.collect() if hasattr(frame, "collect") else frame, out),
    "csv": lambda types, frame, out: lines_of_csv(types, _stream(frame), out),
    "json": lambda types, frame, out: lines_of_json(types, _stream(frame), out),
}


def _stream(frame: Any) -> Iterator[Any]:
    """The rows of a frame, partition by partition: a program that reads them may want more than fits into memory."""
    return iter(frame.toLocalIterator())


def cell(value: Any) -> str:
    r"""A value as a table shows it.

    >>> cell(None), cell(True), cell([1.5, None]), cell({"a": Decimal("1.50")}), cell("two\nlines")
    ('NULL', 'true', '[1.5, NULL]', '{a: 1.50}', 'two\\nlines')
    """
    if isinstance(value, str):
        return "".join(one if unicodedata.category(one) not in ("Cc", "Cf") else one.encode("unicode_escape").decode() for one in value)
    if isinstance(value, bytes | bytearray):
        return bytes(value[:_BYTES]).hex().upper() + ("…" if len(value) > _BYTES else "")
    if hasattr(value, "asDict"):
        return _pairs(zip(value.__fields__, value, strict=True))
    if isinstance(value, dict):
        return _pairs(value.items())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(cell, value)) + "]"
    plain = as_json(value)
    return "NULL" if plain is None else str(plain).lower() if isinstance(plain, bool) else str(plain)


def _pairs(entries: Iterable[tuple[Any, Any]]) -> str:
    return "{" + ", ".join(f"{cell(key)}: {cell(one)}" for key, one in entries) + "}"


def as_json(value: Any) -> Any:
    """A value as JSON has it: what it has no word for becomes text, as Spark's to_json does.

    >>> as_json({1: float("nan"), 2: date(2026, 1, 31), 3: b"ab"})
    {'1': 'NaN', '2': '2026-01-31', '3': '6162'}
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        named = {float("inf"): "Infinity", float("-inf"): "-Infinity"}
        return "NaN" if value != value else named.get(value, value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        return bytes(value).hex().upper()
    if hasattr(value, "asDict"):
        return _object(value.__fields__, value)
    if isinstance(value, dict):
        return {key if isinstance(key, str) else cell(key): as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    return str(value)
