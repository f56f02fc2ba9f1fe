"""A text of several statements in, the statements out: cut at the semicolons that end one."""

import re

from dlsql.reader import Token, tokenize

# What a plain END does not close: END IF, END LOOP and so on; CASE has an END of its own.
_BLOCKS = ("IF", "LOOP", "WHILE", "REPEAT", "FOR")


def split(text: str) -> list[str]:
    r"""The statements of a text, as slices of it. Where a quote or a comment is never closed, the whole text is one: Spark says so best.

    >>> split("SELECT ';'; -- two; here\nSELECT 2")
    ["SELECT ';'", '-- two; here\nSELECT 2']
    >>> split("BEGIN SELECT 1; SELECT CASE WHEN true THEN 2 END; END; SELECT 3;")
    ['BEGIN SELECT 1; SELECT CASE WHEN true THEN 2 END; END', 'SELECT 3']
    """
    tokens = tokenize(text)
    if tokens is None:
        return [text.strip()]
    ends = [end for end, _ in _ends(tokens)]
    starts = [0, *(end + 1 for end in ends)]
    pieces = [(start, end) for start, end in zip(starts, [*ends, len(text)], strict=True)]
    return [text[start:end].strip() for start, end in pieces if any(start <= token.start < end for token in tokens)]


def is_complete(text: str) -> bool:
    """Whether a text ends with the semicolon of a statement, so that there is nothing to wait for.

    >>> is_complete("SELECT 1;  -- done"), is_complete("SELECT 1"), is_complete("SELECT ';"), is_complete("BEGIN SELECT 1;")
    (True, False, False, False)
    """
    tokens = tokenize(text)
    if not tokens:
        return tokens is not None and not text.strip()
    return any(place == len(tokens) - 1 for _, place in _ends(tokens))


def _ends(tokens: list[Token]) -> list[tuple[int, int]]:
    """The semicolons outside BEGIN ... END (Spark's SQL scripts): where in the text, and which token."""
    ends, depth, first = [], 0, 0
    for place, token in enumerate(tokens):
        follows = tokens[place + 1].key if place + 1 < len(tokens) else ""
        if token.key == ";" and depth == 0:
            ends.append((token.start, place))
            first = place + 1
        elif depth == 0:
            depth += token.key == "BEGIN" and _begins_script(tokens[first : place + 1])
        elif token.key == "END":
            depth -= follows not in _BLOCKS
        else:
            depth += token.key == "BEGIN" or (token.key == "CASE" and tokens[place - 1].key != "END")
    return ends


def _begins_script(tokens: list[Token]) -> bool:
    """BEGIN at the start of a statement, or after `label:`."""
    return re.fullmatch(r"(\S+ : )?BEGIN", " ".join(token.key or "name" for token in tokens)) is not None
