"""The clients of the language, as the tests of tests/jdbc and tests/parity use them: a statement goes in, an Answer comes out."""

import csv
import io
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyspark
from pyhive import hive
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

ROOT = Path(__file__).resolve().parent.parent
WORKERS = Path(__file__).resolve().parent / "workers"
CONF = ("spark.ui.enabled=false", "spark.sql.shuffle.partitions=2", "spark.driver.host=127.0.0.1", "spark.driver.bindAddress=127.0.0.1")
_SECONDS_TO_START = 200
_SECONDS_TO_STOP = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """What a statement gave: rows, or the text of an error."""

    columns: tuple[str, ...] = ()
    types: tuple[str, ...] = ()  # as the client names them
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    error: str | None = None


# ---- The server


@dataclass(frozen=True, slots=True)
class Server:
    """A `dlsql serve` that runs."""

    process: subprocess.Popen[bytes]
    jdbc: str  # 127.0.0.1:port
    connect: str  # sc://127.0.0.1:port


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server with a warehouse of its own, until the block ends. It must end well by itself when it is told to."""
    arguments = ["--warehouse", str(folder / "warehouse"), "--port", "0", "--connect-port", "0", "--master", "local[2]"]
    command = [sys.executable, "-m", "dlsql", "serve", *arguments, *(word for one in CONF for word in ("--conf", one))]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=log, env=_without_udfs(folder))
        try:
            lines = _first_lines(process, 2)
            assert lines, (folder / "server.log").read_text()
            yield Server(process, lines[0].partition("jdbc:hive2://")[2], lines[1].split()[-1])
        finally:
            process.terminate()
            try:
                process.wait(_SECONDS_TO_STOP)
            finally:
                process.kill()
    assert process.returncode == 0, (folder / "server.log").read_text()


def _without_udfs(folder: Path) -> dict[str, str]:
    """An environment in which Python workers do not find `udfs` of this checkout: they have what was shipped to them, or nothing."""
    (folder / "path").mkdir()
    without = "sys.path[:] = [one for one in sys.path if not os.path.isdir(os.path.join(one, 'udfs'))]"
    (folder / "path" / "sitecustomize.py").write_text(f"import os, sys\nif 'pyspark.daemon' in sys.orig_argv:\n    {without}\n")
    env = {**os.environ, "PYTHONPATH": f"{folder / 'path'}{os.pathsep}{ROOT}", "PYSPARK_PYTHON": sys.executable}
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('udfs') is not None)"
    assert subprocess.run([sys.executable, "-c", look, "pyspark.daemon"], cwd=folder, env=env).returncode == 0
    return env


def _first_lines(process: subprocess.Popen[bytes], count: int) -> list[str]:
    """The first lines that a process prints; none if it ends or takes too long."""
    assert process.stdout is not None
    deadline, said = time.monotonic() + _SECONDS_TO_START, b""
    while said.count(b"\n") < count:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        more = os.read(process.stdout.fileno(), 4096) if ready else b""
        if not more:
            return []
        said += more
    return said.decode().splitlines()[:count]


# ---- Clients that take a statement at a time


class Spark:
    """A session of this process."""

    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark

    def run(self, sql: str) -> Answer:
        try:
            frame = self._spark.sql(sql)
            columns, types = zip(*frame.dtypes, strict=True) if frame.dtypes else ((), ())
            return Answer(columns, types, [tuple(map(plain, row)) for row in frame.collect()])
        except PySparkException as e:
            return Answer(error=str(e))

    def close(self) -> None:
        """Nothing: the session belongs to all tests."""


class PyHive:
    """A Thrift connection in this process."""

    def __init__(self, server: Server, user: str = "tester") -> None:
        host, port = server.jdbc.split(":")
        self.connection = hive.connect(host=host, port=int(port), username=user)

    def run(self, sql: str) -> Answer:
        cursor = self.connection.cursor()
        try:
            cursor.execute(sql)
        except hive.OperationalError as e:
            return Answer(error=e.args[0].status.errorMessage)
        described = cursor.description or []
        rows = [tuple(map(plain, row)) for row in cursor.fetchall()] if described else []
        return Answer(tuple(one[0] for one in described), tuple(one[1] for one in described), rows)

    def close(self) -> None:
        self.connection.close()


class Worker:
    """A client in a process of its own that takes a statement a line and gives an answer a line, in JSON."""

    def __init__(self, script: str, *arguments: str) -> None:
        command = [sys.executable, "-I", str(WORKERS / script), *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def run(self, sql: str) -> Answer:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(sql) + "\n")
        self._process.stdin.flush()
        said = json.loads(self._process.stdout.readline())
        return Answer(tuple(said["columns"]), tuple(said["types"]), [tuple(row) for row in said["rows"]], said["error"])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(_SECONDS_TO_STOP)


def jdbc(server: Server) -> Worker:
    """The Hive JDBC driver in a JVM of its own."""
    return Worker("jdbc.py", f"jdbc:hive2://{server.jdbc}")


def connect(server: Server) -> Worker:
    """A Spark Connect client in a Python that has no dlsql."""
    return Worker("connect.py", server.connect)


def remote_cli(server: Server) -> Worker:
    """`dlsql sql --remote ... -e`, once for each statement."""
    return Worker("cli.py", server.connect)


# ---- Clients that take a script

_MARK = "SELECT 'statement {}' AS marker"


def beeline_command(server: Server, *options: str) -> tuple[list[str], dict[str, str]]:
    """Beeline's command line and environment."""
    home = str(Path(pyspark.__file__).parent)
    encoding = {"SPARK_BEELINE_OPTS": "-Ddisable.quoting.for.sv=false -Dfile.encoding=UTF-8", "LC_ALL": "C.UTF-8"}
    return [f"{home}/bin/beeline", "-u", f"jdbc:hive2://{server.jdbc}", *options], {**os.environ, "SPARK_HOME": home, **encoding}


def beeline(server: Server, statements: Sequence[str]) -> list[Answer]:
    """Beeline, told to go on after errors."""
    script = "".join(f"{_MARK.format(number)};\n{sql};\n" for number, sql in enumerate(statements))
    command, env = beeline_command(server, "--outputformat=csv2", "--force=true", "--nullemptystring=false")
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        done = subprocess.run([*command, "-f", file.name], capture_output=True, text=True, env=env, timeout=280)
    prompts = re.compile(r"^(?:(?:\d+: jdbc:hive2://\S+?|(?:\. )+\.?)> ?)+", re.MULTILINE)
    pieces = re.split(r"^marker\nstatement (?=\d+\n)", prompts.sub("", done.stdout), flags=re.MULTILINE)[1:]
    errors = iter(re.findall(r"^Error: (.*?)(?=\n\tat )", done.stderr, re.MULTILINE | re.DOTALL))
    assert [piece.split("\n")[0] for piece in pieces] == [str(number) for number in range(len(statements))], done.stdout + done.stderr
    return [_beeline_answer(piece.partition("\n")[2], errors) for piece in pieces]


def _beeline_answer(piece: str, errors: Iterator[str]) -> Answer:
    """Only what has failed prints nothing at all: statements without columns print an empty column `Result`."""
    lines = list(csv.reader(io.StringIO(piece.strip("\n"))))
    if not lines:
        return Answer(error=next(errors))
    return Answer(tuple(lines[0]), rows=[tuple(None if cell == "NULL" else cell for cell in line) for line in lines[1:]])


def cli(server: Server, statements: Sequence[str]) -> list[Answer]:
    """`dlsql sql -e`. All statements must succeed."""
    texts = [text for number, sql in enumerate(statements) for text in ("-e", f"{_MARK.format(number)}; {sql}")]
    command = [sys.executable, "-m", "dlsql", "sql", "--remote", server.connect, "--format", "json", *texts]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert (done.returncode, done.stderr) == (0, "")
    answers: list[Answer] = []
    for line in done.stdout.splitlines():
        row = json.loads(line)
        if row == {"marker": f"statement {len(answers)}"}:
            answers.append(Answer())
        else:
            answers[-1] = Answer(tuple(row), rows=[*answers[-1].rows, tuple(row.values())])
    return answers


# ---- Values


def plain(value: Any) -> Any:
    """A value in the types of JSON, which is what crosses from a client in another process."""
    if isinstance(value, Decimal | bytes):
        return str(value) if isinstance(value, Decimal) else value.hex()
    if isinstance(value, datetime | date):
        return value.isoformat(" ") if isinstance(value, datetime) else value.isoformat()
    if hasattr(value, "asDict"):
        return {key: plain(one) for key, one in value.asDict().items()}
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value


def like(value: Any, expected: Any) -> Any:
    """A value that a client carried as text, read as what is expected: Thrift has no arrays and structs, Beeline nothing but text."""
    if isinstance(value, str) and isinstance(expected, bool | int | float | list | dict):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
