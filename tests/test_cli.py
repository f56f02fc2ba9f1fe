"""The command line: statements as arguments, files and pipes, rows in their forms, errors, Ctrl-C and the shell."""

import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from pyspark.sql import Row, SparkSession

from dlsql.errors import TypeMismatchError
from dlsql.results import cell, lines_of_csv, lines_of_json, table
from dlsql.script import is_complete, split
from dlsql.shell import Names, Runner, talk

TYPES = [("n", "bigint"), ("s", "string"), ("x", "struct<a:double,b:array<int>>")]
ROWS = [(1, 'a "b"\nc', Row(a=float("nan"), b=[1, None])), (None, None, None)]

pytestmark = pytest.mark.jdbc


def dlsql(*arguments: str, **settings: Any) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-m", "dlsql", *arguments], capture_output=True, text=True, timeout=250, **settings)
    return done.returncode, done.stdout, done.stderr


# ---- Statements in a text


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("SELECT 1", ["SELECT 1"]),
        (" ; ;SELECT 1;; ", ["SELECT 1"]),
        ('SELECT \';\', "a;\\"b", `c;d`; SELECT 2;', ['SELECT \';\', "a;\\"b", `c;d`', "SELECT 2"]),
        ("-- a; b\nSELECT 1 /* ; /* ; */ */;\n-- the end;", ["-- a; b\nSELECT 1 /* ; /* ; */ */"]),
        ("SELECT 'open; SELECT 2", ["SELECT 'open; SELECT 2"]),
        (
            "BEGIN DECLARE x INT; IF x > 1 THEN SELECT 1; END IF; END; SELECT 2",
            ["BEGIN DECLARE x INT; IF x > 1 THEN SELECT 1; END IF; END", "SELECT 2"],
        ),
        (
            "a: BEGIN CASE WHEN true THEN SELECT 1; END CASE; END a; SELECT 2",
            ["a: BEGIN CASE WHEN true THEN SELECT 1; END CASE; END a", "SELECT 2"],
        ),
        (
            "SELECT begin FROM t; SELECT CASE 1 WHEN 1 THEN 2 END; SELECT 3",
            ["SELECT begin FROM t", "SELECT CASE 1 WHEN 1 THEN 2 END", "SELECT 3"],
        ),
    ],
)
def test_semicolons_divide_statements(text: str, statements: list[str]) -> None:
    assert split(text) == statements


@pytest.mark.parametrize("text", ["SELECT 1;", "SELECT 1; -- done", "SELECT 1;\n", "BEGIN SELECT 1; END;", "", "  "])
def test_complete_text_ends_with_a_semicolon(text: str) -> None:
    assert is_complete(text)


@pytest.mark.parametrize("text", ["SELECT 1", "SELECT ';", "SELECT 1; SELECT 2", "BEGIN SELECT 1;", "/* SELECT 1;", "-- SELECT 1;"])
def test_anything_else_goes_on(text: str) -> None:
    assert not is_complete(text)


# ---- Rows


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(types: Sequence[tuple[str, str]], rows: Sequence[Any], width: int | None, monkeypatch: pytest.MonkeyPatch) -> str:
    out = io.StringIO() if width is None else Terminal()
    monkeypatch.setenv("COLUMNS", str(width))
    table(types, rows, out)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())


def test_table_shows_null_and_what_cannot_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(TYPES, ROWS, None, monkeypatch) == (
        "+------+----------+------------------------+\n"
        "|    n | s        | x                      |\n"
        "+------+----------+------------------------+\n"
        '|    1 | a "b"\\nc | {a: NaN, b: [1, NULL]} |\n'
        "| NULL | NULL     | NULL                   |\n"
        "+------+----------+------------------------+\n"
    )


def test_table_wider_than_the_terminal_is_turned_on_its_side(monkeypatch: pytest.MonkeyPatch) -> None:
    types = [(f"column_{number}", "int") for number in range(9)]
    said = drawn(types, [tuple(range(9))], 60, monkeypatch)
    assert said.splitlines()[:2] == ["row 1", "column_0  0"]
    assert max(map(len, drawn([("a", "string")], [("x" * 200,)], 60, monkeypatch).splitlines())) <= 60


def test_csv_and_json_lines() -> None:
    csv, json = io.StringIO(), io.StringIO()
    lines_of_csv(TYPES, ROWS, csv)
    lines_of_json(TYPES, [*ROWS, (Decimal("1.50"), b"\x01", {True: 1})], json)
    assert csv.getvalue() == 'n,s,x\n1,"a ""b""\nc","{""a"": ""NaN"", ""b"": [1, null]}"\n,,\n'
    assert json.getvalue().splitlines() == [
        '{"n": 1, "s": "a \\"b\\"\\nc", "x": {"a": "NaN", "b": [1, null]}}',
        '{"n": null, "s": null, "x": null}',
        '{"n": "1.50", "s": "01", "x": {"true": 1}}',
    ]


def test_table_shows_both_fields_of_one_name() -> None:
    assert cell(Row("x", "x")(1, 2)) == "{x: 1, x: 2}"


def test_json_of_two_columns_of_one_name_is_refused_and_loses_none() -> None:
    for types, row in (([("x", "int"), ("x", "int")], (1, 2)), ([("s", "struct<x:int,x:int>")], (Row("x", "x")(1, 2),))):
        with pytest.raises(TypeMismatchError, match=r"Column `x` is there twice; JSON keeps one value for a name\."):
            lines_of_json(types, [row], io.StringIO())


# ---- The command


def test_remote_where_nobody_listens_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    began = time.monotonic()
    code, out, err = dlsql("sql", "--remote", f"sc://127.0.0.1:{port}", "-e", "SELECT 1")
    said = f"No server answers on port {port} of 127.0.0.1: Connection refused. Start one with `dlsql serve`, or correct --remote."
    assert (code, out, err) == (1, "", f"[DLSQL_ENVIRONMENT] {said} SQLSTATE: 0A000\n")
    assert time.monotonic() - began < 60  # the imports on a busy machine; Spark's client would go on for longer


def test_help_does_not_wait_for_spark() -> None:
    program = "import sys\nfrom dlsql.cli import main\ntry: main(['sql', '--help'])\nexcept SystemExit: print({'pyspark', 'sqlglot', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("set()\n")
    assert dlsql("sql", "--conf", "nothing")[0] == 2


@pytest.mark.slow
def test_sql_runs_arguments_and_files_in_order_up_to_the_first_error(tmp_path: Path) -> None:
    script = tmp_path / "train.sql"
    script.write_text(
        "-- A line; and its model.\nCREATE TABLE line AS SELECT id AS x, id * 2D AS y FROM range(40);\n"
        "CREATE MODEL m OPTIONS (model_type = 'linear_regressor', input_label_cols = ['y'], max_iterations = 1) AS SELECT * FROM line;\n"
    )
    settings = ("--warehouse", str(tmp_path / "w"), "--master", "local[2]", "--conf", "spark.ui.enabled=false")
    texts = (
        "-e",
        "SELECT 'ü;' AS s, NULL AS n;",
        "-f",
        str(script),
        "-e",
        "SELECT count(PREDICT('m', x)) AS n FROM line; SELECT PREDICT('n', 1); SELECT 2",
    )
    code, out, err = dlsql("sql", *settings, *texts, "--format", "csv")
    lines = out.splitlines()
    assert lines[:3] == ["s,n", "ü;,", "model,version,model_type,rows_trained,loss,metrics,seconds,uri"]
    assert lines[3].startswith("default.m,1,linear_regressor,40,")
    assert lines[4:] == ["n", "40"]
    assert (code, err) == (1, "[DLSQL_MODEL_NOT_FOUND] Model `default.n` is not registered. Did you mean `default.m`? SQLSTATE: 42704\n")


# ---- Statements that can be cancelled, and the shell


@pytest.fixture
def runner(spark: SparkSession) -> Iterator[Runner]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield Runner(spark, spark.sparkContext.cancelAllJobs)
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_the_statement_and_only_that(runner: Runner, spark: SparkSession) -> None:
    def press() -> None:
        while not spark.sparkContext.statusTracker().getActiveJobsIds():
            pass
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        runner.run(lambda spark: spark.sql("SELECT max(id * 2) FROM range(1000000000000)").collect())
    assert runner.run(lambda spark: spark.sql("SELECT 1 AS one").collect()) == [(1,)]


def said_by_shell(runner: Runner, typed: str, capsys: pytest.CaptureFixture[str]) -> str:
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text(typed)
        talk(runner, "here")
    return capsys.readouterr().out


def test_shell_shows_rows_of_statements_over_several_lines(
    runner: Runner, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    said = said_by_shell(runner, "SELECT 1 AS a,\r'x;' AS b; SELECT 2 AS c;\rSELECT nope;\rhelp\rquit\r", capsys)
    assert "| a | b  |\n+---+----+\n| 1 | x; |\n" in said
    assert "| c |\n+---+\n| 2 |\n" in said
    assert "Ctrl-C cancels" in said
    history = tmp_path / "dlsql" / "history"
    assert "+SELECT 1 AS a," in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600


def test_tab_completes_words_options_tables_and_models(runner: Runner, spark: SparkSession, database: str) -> None:
    spark.sql("CREATE TABLE quite_a_name AS SELECT 7 AS seven")
    names = Names(runner)

    def offered(text: str) -> list[str]:
        return [one.text for one in names.get_completions(Document(text), CompleteEvent())]

    assert offered("SELECT * FROM qui") == ["quite_a_name"]
    assert (offered("sele"), offered("SELE"), offered("hidden")) == (["select"], ["SELECT"], ["hidden_units"])
    assert offered("SELECT ") == []
