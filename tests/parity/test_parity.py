"""The same statements give the same rows, and the same errors, from every client."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from pyspark.sql import SparkSession

from tests.clients import Answer, PyHive, Server, Spark, beeline, cli, connect, jdbc, like, remote_cli
from tests.parity.cases import CASES, ERRORS, HOUSES, Case

pytestmark = pytest.mark.jdbc

Script = Callable[[list[str]], list[Answer]]
CLIENTS = ("spark", "cli", "beeline", "pyhive", "jdbc", "connect")
FINE = tuple(case for case in CASES if case.error is None)


def one_by_one(client: Any) -> Script:
    def run(statements: list[str]) -> list[Answer]:
        try:
            return [client.run(sql) for sql in statements]
        finally:
            client.close()

    return run


@pytest.fixture(scope="module")
def answers(server: Server, spark: SparkSession) -> Iterator[Callable[[str], dict[str, Answer]]]:
    """A client's answers to all cases, by the case's name. Each client runs them once, in a database of its own."""
    scripts: dict[str, Callable[[], Script]] = {
        "spark": lambda: one_by_one(Spark(spark)),
        "pyhive": lambda: one_by_one(PyHive(server)),
        "jdbc": lambda: one_by_one(jdbc(server)),
        "connect": lambda: one_by_one(connect(server)),
        "beeline": lambda: lambda statements: beeline(server, statements),
        "cli": lambda: lambda statements: cli(server, statements),
    }

    @cache
    def of(client: str) -> dict[str, Answer]:
        database = database_of(client)
        cases = FINE if client == "cli" else CASES
        setup = [f"CREATE DATABASE {database}", f"USE {database}", HOUSES]
        said = scripts[client]()([*setup, *(case.sql.replace("{db}", database) for case in cases)])
        assert [one.error for one in said[: len(setup)]] == [None] * len(setup)
        found = dict(zip((case.name for case in cases), said[len(setup) :], strict=True))
        return found | (errors_of_cli() if client == "cli" else {})

    def errors_of_cli() -> dict[str, Answer]:
        """It ends with the first error: each has a run of its own, in the database that the Connect client has left."""
        of("connect")
        run = one_by_one(remote_cli(server))
        said = run([f"USE {database_of('connect')}; {case.sql}" for case in ERRORS])
        return dict(zip((case.name for case in ERRORS), said, strict=True))

    yield of
    spark.sql("USE default")
    spark.sql(f"DROP MODEL IF EXISTS {database_of('spark')}.worth")
    spark.sql(f"DROP DATABASE IF EXISTS {database_of('spark')} CASCADE")


def database_of(client: str) -> str:
    return f"parity_{client}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_gives_the_same(answers: Callable[[str], dict[str, Answer]], client: str, case: Case) -> None:
    answer = answers(client)[case.name]
    database = database_of("connect" if client == "cli" and case.error else client)
    if case.error is not None:
        assert case.error.replace("{db}", database) in str(answer.error)
        return
    assert answer.error is None
    if client == "spark" or answer.rows:  # JSON lines tell the columns only where there are rows
        assert not case.columns or answer.columns == case.columns
    expected = answers("spark")[case.name]
    wanted = chosen(expected, case.of) if case.rows is None else case.rows
    if client == "beeline":  # it leaves line ends out
        wanted = [tuple(value.replace("\n", "") if isinstance(value, str) else value for value in row) for row in wanted]
    mine = [tuple(named(value, database_of("spark"), database) for value in row) for row in wanted]
    assert [
        tuple(like(*pair) for pair in zip(row, other, strict=True)) for row, other in zip(chosen(answer, case.of), mine, strict=True)
    ] == mine


def chosen(answer: Answer, columns: tuple[str, ...]) -> list[tuple[Any, ...]]:
    places = [answer.columns.index(name) for name in columns if answer.rows]
    return [tuple(row[place] for place in places) for row in answer.rows] if columns else answer.rows


def named(value: Any, theirs: str, mine: str) -> Any:
    """An expected value with the client's database in it."""
    return value.replace("{db}", mine).replace(theirs, mine) if isinstance(value, str) else value
