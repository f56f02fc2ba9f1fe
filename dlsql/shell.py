"""Statements at a terminal: each can be cancelled with Ctrl-C; the shell reads them, shows their rows and knows the names."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from prompt_toolkit import PromptSession, print_formatted_text
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import has_completions
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from pyspark.sql import DataFrame, SparkSession

import dlsql
from dlsql import functions, options, values
from dlsql.cli import message
from dlsql.interrupts import interruptible
from dlsql.results import table
from dlsql.script import is_complete, split

T = TypeVar("T")
_MOST_ROWS = 1000  # that the shell shows of a result
_LEAVE = ("quit", "exit")
_HELP = """Statements end with `;` and may run over several lines. Ctrl-C cancels the one that runs, or clears the line; Ctrl-D leaves.
CREATE MODEL m OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['y']) AS SELECT ... FROM t;
SELECT *, PREDICT('m', struct(*)) FROM t;   SHOW MODELS;   DESCRIBE MODEL m;   SELECT * FROM ML_TRAINING_INFO('m');   DROP MODEL m;"""
_WORDS = """
ALTER AND AS ASC BETWEEN BY CACHE CALL CANCEL CASE CAST COMMENT CREATE CROSS DATABASE DATABASES DELETE DESC DESCRIBE DISTINCT DROP ELSE
END EXCEPT EXISTS EXPLAIN EXPORT EXTENDED FALSE FROM FULL FUNCTIONS GROUP HAVING IF IN INNER INSERT INTERSECT INTO IS JOIN LATERAL LEFT
LIKE LIMIT MODEL MODELS NOT NULL ON OPTIONS OR ORDER OUTER OVER OVERWRITE PARTITION REFRESH RENAME REPLACE RIGHT SELECT SET SHOW STRUCT
TABLE TABLES TBLPROPERTIES TEMPORARY THEN TO TRAINING TRAININGS TRUE TRUNCATE UNION UNSET UPDATE USE USING VALUES VERSION VERSIONS VIEW
VIEWS WHEN WHERE WITH
"""


class Runner:
    """Runs statements one after another, each until it ends or Ctrl-C cancels it."""

    def __init__(self, spark: SparkSession, cancel: Callable[[], object]) -> None:
        self._spark, self._cancel = spark, cancel

    def run(self, action: Callable[[SparkSession], T]) -> T:
        """What the action gives.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, and what ran has ended.
        """
        return interruptible(partial(action, self._spark), self._cancel)


def talk(runner: Runner, place: str) -> None:
    """Reads statements, runs them and shows their rows, until Ctrl-D.

    Args:
        runner: of the statements.
        place: where the models are, as the greeting names it.
    """
    names = Names(runner)
    session: PromptSession[str] = PromptSession(
        history=_history(), completer=names, complete_while_typing=False, multiline=True, key_bindings=_keys(), enable_open_in_editor=True
    )
    print(f"dlsql {dlsql.__version__}, {place}. Statements end with `;`; `help` tells more, Ctrl-D leaves.")
    while True:
        try:
            text = session.prompt("dlsql> ", prompt_continuation="     > ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        word = text.strip().rstrip(";").lower()
        if word in _LEAVE:
            return
        if word == "help":
            print(_HELP)
            continue
        names.stale = True
        for statement in split(text):
            if not _shown(runner, statement):
                break


def _shown(runner: Runner, statement: str) -> bool:
    """Runs a statement and shows its rows, or why there are none; False where the statements after it should not run."""
    began = time.monotonic()
    try:
        types, rows = runner.run(lambda spark: _rows(spark.sql(statement)))
    except KeyboardInterrupt:
        _say("ansiyellow", "Cancelled.")
        return False
    except Exception as e:
        said = message(e)
        if said is None:
            raise
        _say("ansired", said)
        return False
    if types:
        table(types, rows[:_MOST_ROWS], sys.stdout)
    count = f"The first {_MOST_ROWS:,} rows" if len(rows) > _MOST_ROWS else f"{len(rows):,} row{'s' if len(rows) != 1 else ''}"
    _say("ansibrightblack", f"{count if types else 'Done'}, {time.monotonic() - began:.1f} s")
    return True


def _rows(frame: DataFrame) -> tuple[list[tuple[str, str]], list[Any]]:
    return (frame.dtypes, frame.take(_MOST_ROWS + 1)) if frame.columns else ([], [])


def _say(color: str, text: str) -> None:
    print_formatted_text(FormattedText([(color, text)]))


def _keys() -> KeyBindings:
    """Enter ends a text that is complete, and begins a new line of any other."""
    keys = KeyBindings()

    @keys.add("enter", filter=~has_completions)
    def _(event: KeyPressEvent) -> None:
        text = event.current_buffer.text
        if text.strip().lower() in ("", "help", *_LEAVE) or is_complete(text):
            event.current_buffer.validate_and_handle()
        else:
            event.current_buffer.insert_text("\n")

    return keys


def _history() -> History:
    """The lines typed before: they may hold what is nobody else's business, so the file is the user's alone."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    file = state / "dlsql" / "history"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))


class Names(Completer):
    """Completes words of the language, options, and the databases, tables and models that are there; looked up when Tab is pressed."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._words = [*_WORDS.split(), *map(str.upper, (*functions.SCALARS, *values.AGGREGATES, *functions.TABLES)), *options.TABLE]
        self._names: list[str] = []
        self.stale = True

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """Words and names that begin as the one before the cursor."""
        begun = document.get_word_before_cursor()
        if self.stale:
            self._names, self.stale = self._runner.run(_names), False
        for word in sorted({*self._words, *self._names}, key=str.lower):
            if begun and word.lower().startswith(begun.lower()):
                yield Completion(word if word in self._names or begun.isupper() else word.lower(), -len(begun))


def _names(spark: SparkSession) -> list[str]:
    found: list[str] = []
    for statement, column in (("SHOW DATABASES", 0), ("SHOW TABLES", 1), ("SHOW MODELS", 1)):
        found += [row[column] for row in spark.sql(statement).collect()]
    return found
