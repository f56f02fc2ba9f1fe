"""Makes docs/options.md from the table of options. Run: python -m docs.make"""

from pathlib import Path

from dlsql.options import KINDS, OPTIONS

_HEAD = """# Options of CREATE MODEL

Made from `dlsql/options.py` by `python -m docs.make`. Names are case-insensitive; an unknown one, or a value out of range, is an error with
the nearest known name before any job starts. Lists are `[1, 2]` or `ARRAY(1, 2)`, maps `MAP('a', 1)`.

| option | takes | default | kinds | meaning |
|---|---|---|---|---|
"""


def options_page() -> str:
    """The page as Markdown."""
    rows = [
        f"| `{one.name}` | {_cell(one.check.says)} | {_default(one.default)} | {_kinds(one.kinds)} | {_cell(one.doc)} |" for one in OPTIONS
    ]
    return _HEAD + "\n".join(rows) + "\n"


def _kinds(kinds: tuple[str, ...]) -> str:
    return "all" if kinds == KINDS else ", ".join(kinds)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(value: object) -> str:
    if value is None or value == ():
        return "—"
    if isinstance(value, tuple):
        return "`constant`" if value == (("constant", ()),) else f"`{list(value)}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    Path(__file__).with_name("options.md").write_text(options_page())
