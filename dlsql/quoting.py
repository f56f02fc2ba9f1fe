"""User text into SQL, in the two ways there are: as a quoted identifier, or as a string literal."""


def identifier(name: str) -> str:
    """A name as one part of an identifier.

    >>> identifier("odd`name")
    '`odd``name`'
    """
    return f"`{name.replace('`', '``')}`"


def literal(text: str) -> str:
    r"""A text as a string literal.

    >>> print(literal("it's a \\ thing"))
    'it\'s a \\ thing'
    """
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
