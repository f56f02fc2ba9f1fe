"""The command line: `dlsql serve` answers JDBC and Spark Connect, `dlsql sql` runs statements or talks with whoever types them."""

import argparse
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dlsql.errors import DlsqlError, error

# What loads Spark, sqlglot or rich is imported where it is used: `dlsql --help` answers at once.
if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from dlsql.shell import Runner

_CONNECT_PORT = 15002  # where a URL of Spark Connect names none
_SECONDS_TO_CONNECT = 10.0
_INTERRUPTED = 128 + signal.SIGINT  # the exit code of shells


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and gives its exit code: 0, 1 after an error, 2 for wrong usage, 130 after Ctrl-C."""
    given = _arguments().parse_args(arguments)
    try:
        return int(given.command(given))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # `dlsql sql ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as e:
        said = message(e)
        if said is None:
            raise
        print(said, file=sys.stderr)
        return 1


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dlsql", description="Deep learning from SQL, inside Spark.")
    commands = parser.add_subparsers(required=True, metavar="{sql,serve}")
    _sql_arguments(commands.add_parser("sql", help="run statements; without any, a shell", description="Runs statements, or is a shell."))
    _serve_arguments(commands.add_parser("serve", help="answer JDBC tools and Spark Connect clients", description="Serves until Ctrl-C."))
    return parser


def _sql_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-e", dest="sources", action="append", type=str, metavar="TEXT", help="statements, divided by `;`; may be repeated")
    add("-f", dest="sources", action="append", type=Path, metavar="FILE", help="a file of statements, - for the input; may be repeated")
    form = "how rows are written; json is one object a row (default: %(default)s)"
    add("--format", choices=("table", "csv", "json"), default="table", help=form)
    add("--remote", metavar="URL", help="a running server, e.g. sc://127.0.0.1:15002, in place of a Spark of its own")
    _spark_arguments(parser)
    parser.set_defaults(command=_sql)


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--host", help="address to listen on, where nobody is asked for a password (default: 127.0.0.1)")
    add("--port", type=int, help="of JDBC; 0 takes any free one (default: 10000)")
    add("--connect-port", type=int, metavar="PORT", help="of Spark Connect; 0 takes any free one (default: 15002)")
    _spark_arguments(parser)
    parser.set_defaults(command=_serve)


def _spark_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    where = "folder of tables, models and the embedded metastore (default: %(default)s)"
    add("--warehouse", type=Path, default=Path("spark-warehouse"), metavar="DIR", help=where)
    add("--master", default="local[*]", help="where Spark runs (default: %(default)s)")
    add("--conf", action="append", default=[], type=_setting, metavar="KEY=VALUE", help="a Spark setting; may be repeated")


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE")
    return key, value


def message(raised: BaseException) -> str | None:
    """What a user is told of an error: the text that every client gets. None for one that nobody foresaw, whose traceback is needed."""
    if isinstance(raised, DlsqlError | OSError):
        return str(raised)
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    if isinstance(raised, Py4JJavaError):
        return str(raised.java_exception.toString())
    return str(raised).split("\n\nJVM stacktrace:")[0].strip() if isinstance(raised, PySparkException) else None


def _serve(given: argparse.Namespace) -> int:
    from dlsql.server import serve

    serve(given.warehouse, host=given.host, port=given.port, connect_port=given.connect_port, master=given.master, conf=dict(given.conf))
    return 0


def _sql(given: argparse.Namespace) -> int:
    piped = not given.sources and not sys.stdin.isatty()
    texts = [_text(source) for source in ([Path("-")] if piped else given.sources or ())]
    from dlsql.shell import talk

    with _runner(given) as runner:
        if texts:
            _run(runner, texts, given.format)
        else:
            talk(runner, given.remote or str(given.warehouse))
    return 0


def _text(source: str | Path) -> str:
    if isinstance(source, str):
        return source
    return sys.stdin.read() if str(source) == "-" else source.read_text(encoding="utf-8")


def _run(runner: "Runner", texts: Sequence[str], form: str) -> None:
    """Runs all statements of all texts, up to the first that fails."""
    from dlsql.results import write
    from dlsql.script import split

    def write_rows(statement: str, spark: "SparkSession") -> None:
        write(spark.sql(statement), form, sys.stdout)

    for text in texts:
        for statement in split(text):
            runner.run(partial(write_rows, statement))
            sys.stdout.flush()


@contextmanager
def _runner(given: argparse.Namespace) -> "Iterator[Runner]":
    """What runs the statements: a Spark of its own, or a server that is there."""
    from dlsql.shell import Runner

    spark = _remote(given.remote) if given.remote else _local(given)
    logging.getLogger("SQLQueryContextLogger").disabled = True  # PySpark prints every error with its Java traces; here it is told once
    signal.signal(signal.SIGINT, signal.default_int_handler)  # PySpark's own would talk to the JVM in the middle of an answer
    try:
        yield Runner(spark, spark.interruptAll if given.remote else spark.sparkContext.cancelAllJobs)
    finally:
        spark.stop()


def _remote(url: str) -> "SparkSession":
    from pyspark.sql import SparkSession

    _check_listens(url)
    return SparkSession.builder.remote(url).getOrCreate()


def _check_listens(url: str) -> None:
    """Spark's client tries again for a minute and a half, and says nothing, where nobody listens."""
    place = urlsplit(url)
    if place.hostname is None:  # Spark says what is wrong with it
        return
    port = place.port or _CONNECT_PORT
    try:
        socket.create_connection((place.hostname, port), _SECONDS_TO_CONNECT).close()
    except OSError as e:
        problem = (
            f"No server answers on port {port} of {place.hostname}: {e.strerror or e}. Start one with `dlsql serve`, or correct --remote."
        )
        raise error("DLSQL_ENVIRONMENT", problem=problem) from e


def _local(given: argparse.Namespace) -> "SparkSession":
    from dlsql.session import session

    with _stderr_to(given.warehouse / "dlsql.log"):
        return session(given.warehouse, master=given.master, name="dlsql sql", conf=dict(given.conf))


@contextmanager
def _stderr_to(log: Path) -> Iterator[None]:
    """Sends what a process that is started here says to a file, for as long as it lives: Spark's log would run through the tables."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    before, there = os.dup(2), os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(there, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(there)
