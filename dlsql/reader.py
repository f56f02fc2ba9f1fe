"""SQL text in, tokens and a cursor over them out. sqlglot cuts the text; what a token is, its spelling in the source says."""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

from sqlglot import TokenType
from sqlglot.dialects import Spark
from sqlglot.errors import TokenError

from dlsql.errors import DlsqlError, did_you_mean, error

T = TypeVar("T")


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


def syntax_error(text: str, offset: int, problem: str, hint: str = "") -> DlsqlError:
    """The error at an offset of a text, which it shows as line and column."""
    before = text[:offset]
    return error("DLSQL_SYNTAX", problem=problem, line=before.count("\n") + 1, column=offset - before.rfind("\n"), hint=hint)


def reader_of(text: str) -> "Reader":
    """A reader of a whole statement, without the semicolons after it."""
    tokens = tokenize(text)
    if tokens is None:
        raise syntax_error(text, len(text), "A quote or a comment is not closed")
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
        return syntax_error(self.text, (at or self.peek()).start, problem, hint)

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
