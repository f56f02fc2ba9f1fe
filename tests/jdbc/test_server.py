"""`dlsql serve`: connections at once, what is private to one and what is not, types, errors and the end of a statement."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.clients import WORKERS, Answer, PyHive, Server, beeline_command, connect, jdbc
from tests.waiting import until

pytestmark = pytest.mark.jdbc

SECONDS_TO_CANCEL = 5
CREATE = "CREATE MODEL {} OPTIONS (model_type = 'linear_regressor', input_label_cols = ['y'], max_iterations = {}, early_stop = false) AS SELECT x, y FROM points"


@pytest.fixture(scope="module")
def hive(server: Server) -> Iterator[PyHive]:
    """A connection, in a database with a table of 60 points and a model of them, `line`."""
    with closing(PyHive(server, "ann")) as made:
        for sql in (
            "CREATE DATABASE served",
            "USE served",
            "CREATE TABLE points AS SELECT id AS x, id * 2D AS y, id > 30 AS far FROM range(60)",
            CREATE.format("line", 1),
            "CREATE MODEL far OPTIONS (model_type = 'logistic_classifier', input_label_cols = ['far'], max_iterations = 1) AS SELECT x, far FROM points",
        ):
            assert made.run(sql).error is None
        yield made


def rows(answer: Answer) -> list[tuple[Any, ...]]:
    assert answer.error is None
    return answer.rows


def test_types_of_answers_stand_in_the_metadata_of_jdbc(hive: PyHive, server: Server) -> None:
    with closing(jdbc(server)) as client:
        client.run("USE served")
        answer = client.run(
            "SELECT PREDICT('line', x) AS a, PREDICT('far', x) AS b, PREDICT_PROBA('far', x) AS c, ML_PREDICT('far', x) AS d FROM points LIMIT 1"
        )
        assert (answer.columns, answer.types) == (("a", "b", "c", "d"), ("double", "boolean", "map", "struct"))
        answer = client.run("SHOW VERSIONS IN MODEL line")
        assert answer.types == (
            "int",
            "boolean",
            "array",
            "string",
            "string",
            "bigint",
            "double",
            "map",
            "timestamp",
            "string",
            "string",
            "string",
        )


def test_view_of_one_client_is_read_by_the_others(hive: PyHive, server: Server) -> None:
    with closing(connect(server)) as client:
        client.run("USE served")
        rows(client.run("CREATE VIEW guesses AS SELECT x, PREDICT('line', x) AS guess FROM points"))
        seen = rows(client.run("SELECT * FROM guesses ORDER BY x"))
    assert len(seen) == 60
    assert rows(hive.run("SELECT * FROM guesses ORDER BY x")) == seen
    with closing(jdbc(server)) as client:  # in another current database: the view keeps the model that it was made with
        assert [tuple(row) for row in rows(client.run("SELECT * FROM served.guesses ORDER BY x"))] == seen


def test_connections_at_once_do_not_disturb_each_other(hive: PyHive, server: Server) -> None:
    def train(name: str) -> list[tuple[Any, ...]]:
        with closing(PyHive(server)) as client:
            client.run(f"CREATE DATABASE {name}")
            client.run(f"USE {name}")
            rows(client.run("CREATE TABLE points AS SELECT id AS x, id * 2D AS y FROM range(60)"))
            rows(client.run(CREATE.format("own", 2)))
            return rows(client.run("SELECT model, current_database() FROM ML_MODELS() WHERE namespace = current_database()"))

    def predict(number: int) -> list[tuple[Any, ...]]:
        with closing(PyHive(server)) as client:
            client.run("USE served")
            found = [rows(client.run(f"SELECT x, PREDICT('line', x) > 0 AS p, {number} AS n FROM points WHERE x = {x}")) for x in range(3)]
            return [row for one in found for row in one]

    with ThreadPoolExecutor(4) as threads:
        trained = [threads.submit(train, name) for name in ("left", "right")]
        predicted = [threads.submit(predict, number) for number in range(2)]
        assert [one.result() for one in trained] == [[("own", "left")], [("own", "right")]]
        assert [[(x, n) for x, _, n in one.result()] for one in predicted] == [[(x, n) for x in range(3)] for n in range(2)]


def test_temporary_views_settings_and_the_current_database_are_private(hive: PyHive, server: Server) -> None:
    rows(hive.run("CREATE TEMPORARY VIEW mine AS SELECT PREDICT('line', 1L) AS guess"))
    rows(hive.run("SET spark.sql.ansi.enabled = false"))
    with closing(PyHive(server)) as other, closing(connect(server)) as another:
        for client in (other, another):
            assert "[TABLE_OR_VIEW_NOT_FOUND]" in str(client.run("SELECT * FROM mine").error)
            assert rows(client.run("SELECT current_database()")) == [("default",)]
            assert "[DIVIDE_BY_ZERO]" in str(client.run("SELECT 1 / 0").error)
    assert len(rows(hive.run("SELECT guess FROM mine"))) == 1
    assert rows(hive.run("SELECT 1 / 0")) == [(None,)]
    rows(hive.run("RESET spark.sql.ansi.enabled"))


def test_errors_carry_their_sqlstate(hive: PyHive) -> None:
    cursor = hive.connection.cursor()
    with pytest.raises(Exception) as raised:
        cursor.execute("SELECT PREDICT('lin', 1)")
    status = raised.value.args[0].status
    assert status.sqlState == "42704"
    assert (
        "[DLSQL_MODEL_NOT_FOUND] Model `served.lin` is not registered. Did you mean `served.line`? SQLSTATE: 42704" in status.errorMessage
    )


def test_connection_goes_on_after_an_error(hive: PyHive) -> None:
    assert "SQLSTATE: 42601" in str(hive.run("CREATE MODEL line OPTIONS").error)
    assert rows(hive.run("SELECT 1")) == [(1,)]


def test_a_model_belongs_to_who_made_it(hive: PyHive) -> None:
    assert rows(hive.run("SELECT owner FROM ML_MODELS() WHERE namespace = 'served' AND model = 'line'")) == [("ann",)]


def test_trainings_at_once_share_the_cores_evenly(hive: PyHive, server: Server) -> None:
    """Each wants both cores for its gang, and they take turns."""
    gang = "'linear_regressor', num_workers = 2, batch_size = 16, "
    with closing(PyHive(server)) as one, closing(PyHive(server)) as other:
        cursors = {}
        for name, client in (("first", one), ("second", other)):
            client.run("USE served")
            cursors[name] = client.connection.cursor()
            cursors[name].execute(CREATE.format(name, 100000).replace("'linear_regressor', ", gang), async_=True)

        seen: dict[str, set[int]] = {name: set() for name in cursors}  # of each the last round after every job

        def jobs() -> list[int]:
            for name in cursors:
                seen[name] |= {row[0] for row in hive.run(f"SELECT max(round) FROM ML_TRAINING_INFO('{name}')").rows}
            return [len(rounds - {None}) - 1 for rounds in seen.values()]

        until(lambda: min(jobs()) >= 0)
        until(lambda: sum(jobs()) >= 6)
        took = jobs()
        for cursor in cursors.values():
            cursor.cancel()
        assert min(took) >= 2
        until(lambda: not any(hive.run(f"SELECT round FROM ML_TRAINING_INFO('{name}')").rows for name in cursors), SECONDS_TO_CANCEL)


def test_cancelled_training_leaves_nothing(hive: PyHive, server: Server) -> None:
    """Its rounds are seen from another connection while it runs, and told to its own; cancelling ends it, and no version stays."""
    with closing(PyHive(server)) as other:
        other.run("USE served")
        cursor = other.connection.cursor()
        cursor.execute(CREATE.format("endless", 100000), async_=True)
        until(lambda: bool(hive.run("SELECT round FROM ML_TRAINING_INFO('endless')").rows))
        until(
            lambda: bool(re.search(r"^train served\.endless v1: round \d+, epoch \d+/100000, loss ", "\n".join(cursor.fetch_logs()), re.M))
        )
        cursor.cancel()
        until(lambda: not hive.run("SELECT round FROM ML_TRAINING_INFO('endless')").rows, SECONDS_TO_CANCEL)
        assert rows(hive.run("SHOW MODELS LIKE 'endless'")) == []


def test_a_training_whose_client_was_killed_is_ended_by_another(hive: PyHive, server: Server) -> None:
    """Spark's server goes on with it."""
    script = [sys.executable, str(WORKERS / "interrupt.py"), server.connect, "served", CREATE.format("orphan", 100000), "nothing"]
    client = subprocess.Popen(script)
    shown = "SELECT * FROM ML_TRAINING_INFO('orphan')"
    until(lambda: bool(hive.run(shown).rows))
    client.kill()
    client.wait()
    assert [row[:3] for row in rows(hive.run("SHOW TRAININGS IN served"))] == [("served", "orphan", 1)]
    assert rows(hive.run("CANCEL TRAINING orphan")) == [("served.orphan", 1, "is cancelled")]
    assert rows(hive.run("SHOW TRAININGS")) == []
    assert hive.run(shown).rows == []


def test_a_training_that_ctrl_c_ends_in_beeline_leaves_nothing(hive: PyHive, server: Server, tmp_path: Path) -> None:
    create = CREATE.format("served.halted", 100000).replace("points", "served.points")
    command, env = beeline_command(server, "-e", create)
    log = tmp_path / "beeline.log"
    with log.open("w") as out:
        client = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        until(lambda: "train served.halted v1: round" in log.read_text())  # it shows the rounds while they run
        client.send_signal(signal.SIGINT)
        until(lambda: not hive.run("SELECT round FROM ML_TRAINING_INFO('halted')").rows, SECONDS_TO_CANCEL)
        assert client.wait(SECONDS_TO_CANCEL) != 0
        assert rows(hive.run("SHOW MODELS LIKE 'halted'")) == []
    finally:
        client.kill()


def test_interrupted_training_of_a_connect_client_leaves_nothing(hive: PyHive, server: Server) -> None:
    script = [sys.executable, str(WORKERS / "interrupt.py"), server.connect, "served", CREATE.format("forever", 100000), "forever"]
    seconds, error = json.loads(subprocess.run(script, capture_output=True, text=True, timeout=200, check=True).stdout)
    assert seconds < SECONDS_TO_CANCEL
    assert "CANCEL" in error  # Spark's own word on the operation, or ours on the training: whichever comes first
    until(lambda: not hive.run("SELECT round FROM ML_TRAINING_INFO('forever')").rows, SECONDS_TO_CANCEL)
    assert rows(hive.run("SHOW MODELS LIKE 'forever'")) == []


def serve(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-m", "dlsql", "serve", *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_taken_port_is_told_before_spark_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = "[DLSQL_ENVIRONMENT] Cannot listen on port {} of 127.0.0.1: Address already in use. Stop what listens there, or choose another with {}. SQLSTATE: 0A000\n"
        assert serve("--port", str(port)) == (1, "", text.format(port, "--port"))
        assert serve("--port", "0", "--connect-port", str(port)) == (1, "", text.format(port, "--connect-port"))


def test_warehouse_of_another_process_is_told_before_spark_starts(server: Server) -> None:
    folder = str(server.process.args[server.process.args.index("--warehouse") + 1])  # type: ignore[index, union-attr]
    code, out, err = serve("--port", "0", "--connect-port", "0", "--warehouse", folder)
    assert (code, out) == (1, "")
    assert err == (
        f"[DLSQL_ENVIRONMENT] Another process works in {folder}. "
        "Talk to it if it is a server (dlsql sql --remote sc://127.0.0.1:15002), or take another warehouse. SQLSTATE: 0A000\n"
    )
