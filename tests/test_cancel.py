"""A statement that is cancelled while it trains: its jobs stop, what it cached is freed, nothing is registered."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pyspark import InheritableThread
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

import dlsql
from tests.clients import WORKERS
from tests.conftest import CONF
from tests.test_catalog import refusal
from tests.waiting import until

ENDLESS = """CREATE MODEL endless OPTIONS (model_type = 'linear_regressor', num_workers = {workers}, batch_size = 8, max_iterations = 100000,
             early_stop = false) AS SELECT id AS x, id * 2D AS label FROM range(64)"""
SECONDS = 5


@pytest.mark.parametrize("workers", [1, 2, 3], ids=["alone", "in a gang", "merged by the driver"])
def test_a_cancelled_job_group_ends_the_training_and_frees_what_it_cached(spark: SparkSession, database: str, workers: int) -> None:
    """What a notebook's stop button does."""
    context, raised = spark.sparkContext, list[BaseException]()
    cached = set(context._jsc.getPersistentRDDs())

    def run() -> None:
        context.setJobGroup("cell", "a cell of a notebook")
        try:
            spark.sql(ENDLESS.format(workers=workers))
        except PySparkException as e:
            raised.append(e)

    def rounds() -> int:
        try:
            return spark.sql("SELECT * FROM ML_TRAINING_INFO('endless')").count()
        except PySparkException:
            return 0  # it has not begun

    thread = InheritableThread(target=run)
    thread.start()
    until(lambda: rounds() > 2)
    began = time.monotonic()

    def is_over() -> bool:
        context.cancelJobGroup("cell")  # between two jobs there is nothing to cancel
        thread.join(0.05)
        return not thread.is_alive()

    until(is_over, SECONDS)
    assert time.monotonic() - began < SECONDS
    assert (
        str(raised[0])
        .strip()
        .startswith(f"[DLSQL_CANCELLED] The training of `{database}.endless` was cancelled. No version was registered.")
    )
    assert spark.sql("SHOW MODELS LIKE 'endless'").count() == 0
    assert set(context._jsc.getPersistentRDDs()) == cached
    assert rounds() == 0


@pytest.mark.slow
def test_ctrl_c_and_a_notebooks_stop_button_end_a_training_of_the_main_thread(tmp_path: Path) -> None:
    given = [str(tmp_path / "warehouse"), json.dumps(CONF), ENDLESS.format(workers=2)]
    program = [sys.executable, str(WORKERS / "stopped.py"), *given]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert [one[0] for one in told] == ["KeyboardInterrupt"] * 2, done.stderr[-4000:]
    for _, seconds, left, cached in told:
        assert seconds < SECONDS
        assert (left, cached) == (0, 0)


def test_another_session_sees_a_training_and_cancels_it(spark: SparkSession, database: str) -> None:
    """Where its own client is gone, say."""
    raised = list[BaseException]()

    def run() -> None:
        try:
            spark.sql(ENDLESS.format(workers=2))
        except PySparkException as e:
            raised.append(e)

    other = dlsql.attach(spark.newSession())
    cached = set(spark.sparkContext._jsc.getPersistentRDDs())
    refused = f"[DLSQL_TRAINING_NOT_FOUND] No training of `{database}.endless` is under way. SQLSTATE: 42704"
    assert refusal(other, f"CANCEL TRAINING {database}.endless") == refused
    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: [row for row in other.sql("SHOW TRAININGS").collect() if row["round"]])
    (row,) = other.sql(f"SHOW TRAININGS IN {database} LIKE 'end*'").collect()
    assert (row["namespace"], row["model"], row["version"], row["model_type"]) == (database, "endless", 1, "linear_regressor")
    assert (row["epochs"], row["epoch"] > 0, row["train_loss"] >= 0, row["rows_per_second"] > 0) == (100_000, True, True, True)
    assert other.sql("SHOW TRAININGS IN default").collect() == []
    assert refusal(other, f"CANCEL TRAINING {database}.endles") == (
        f"[DLSQL_TRAINING_NOT_FOUND] No training of `{database}.endles` is under way. Did you mean `{database}.endless`? SQLSTATE: 42704"
    )
    began = time.monotonic()
    (ended,) = other.sql(f"CANCEL TRAINING {database}.endless").collect()
    assert time.monotonic() - began < SECONDS
    assert tuple(ended) == (f"{database}.endless", 1, "is cancelled")
    thread.join(SECONDS)
    assert str(raised[0]).strip().startswith("[DLSQL_CANCELLED]")
    assert other.sql("SHOW TRAININGS").collect() == []
    assert spark.sql("SHOW MODELS LIKE 'endless'").collect() == []
    assert set(spark.sparkContext._jsc.getPersistentRDDs()) == cached
    with pytest.raises(PySparkException, match="DLSQL_MODEL_NOT_FOUND"):  # nor a round
        spark.sql("SELECT * FROM ML_TRAINING_INFO('endless')")


def test_two_trainings_at_once_keep_their_progress_apart(spark: SparkSession, database: str) -> None:
    """Two sessions, two gangs, two cores: a barrier stage takes both, and they take turns."""
    statement = """CREATE MODEL {} OPTIONS (model_type = 'linear_regressor', num_workers = 2, batch_size = 16, max_iterations = {},
                   early_stop = false) AS SELECT id AS x, id * {}D AS label FROM range(400)"""
    failed = list[BaseException]()

    def run(name: str, epochs: int, slope: int) -> None:
        session = dlsql.attach(spark.newSession())
        session.sql(f"USE {database}")
        try:
            session.sql(statement.format(name, epochs, slope)).collect()
        except PySparkException as e:
            failed.append(e)

    threads = [threading.Thread(target=run, args=given) for given in (("one", 5, 2), ("two", 7, 3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failed == []
    assert [spark.sql(f"SELECT max(epoch) FROM ML_TRAINING_INFO('{name}')").collect()[0][0] for name in ("one", "two")] == [5, 7]
