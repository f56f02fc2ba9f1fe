"""The catalog's statements over the embedded metastore: what each gives, whole rows; what each leaves behind; what goes wrong and how."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from pyspark.errors import AnalysisException
from pyspark.errors.exceptions.captured import CapturedException
from pyspark.sql import Row, SparkSession

from dlsql.bridge import Files, Metastore
from dlsql.catalog import Catalog, new_run
from dlsql.errors import NotFoundError, StorageError
from dlsql.model import RoundInfo, Version
from dlsql.quoting import literal
from dlsql.session import language
from dlsql.statements import Name
from dlsql.terms import quote_name

OPTIONS = "model_type = 'linear_regressor', input_label_cols = ['y'], max_iterations = 1, num_workers = 1"
QUERY = "SELECT x, y FROM catalog_line.points"
ROUND = RoundInfo(1, 1, 20, 0.5, None, {}, 1e-3, 0.1, 200.0, datetime(2026, 1, 1, tzinfo=UTC))


def rows(spark: SparkSession, statement: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in spark.sql(statement).collect()]


def stamped(found: list[Row]) -> list[tuple[Any, ...]]:
    """Rows with their times as seconds: PySpark shows them in the zone of the machine."""
    return [tuple(value.timestamp() if isinstance(value, datetime) else value for value in row) for row in found]


def refusal(spark: SparkSession, statement: str) -> str:
    """The message of the error that a statement ends with."""
    with pytest.raises(AnalysisException) as raised:
        spark.sql(statement).collect()
    return str(raised.value).split("\n")[0]


def files(folder: Path) -> dict[str, int]:
    """Every file of the model store, with its size."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def path_of(uri: str) -> Path:
    return Path(urlparse(uri).path)


@pytest.fixture(scope="module")
def line(spark: SparkSession) -> Version:
    """A model over 20 points of a line, trained; tests register copies of it, which takes no training."""
    spark.sql("CREATE DATABASE IF NOT EXISTS catalog_line")
    spark.sql("CREATE TABLE IF NOT EXISTS catalog_line.points AS SELECT CAST(id AS DOUBLE) AS x, id * 3D AS y FROM range(20)")
    spark.sql(f"CREATE OR REPLACE MODEL catalog_line.line OPTIONS ({OPTIONS}) AS {QUERY}")
    return language(spark).catalog(spark).find(Name("catalog_line", "line"))


@pytest.fixture
def catalog(spark: SparkSession) -> Catalog:
    return language(spark).catalog(spark)


@pytest.fixture
def store(warehouse: Path) -> Path:
    return warehouse / "dlsql.db"


@pytest.fixture
def register(catalog: Catalog, database: str, line: Version) -> Callable[..., Version]:
    """Registers a copy of the line as the next version of a model."""

    def copy(model: str, **changes: Any) -> Version:
        name, run = Name(database, model), new_run()
        uri = catalog.artefact_uri(name, run)
        shutil.copytree(path_of(line.uri), path_of(uri))
        catalog.write_rounds(name, run, [ROUND])
        return catalog.register(replace(line, namespace=database, model=model, run=run, uri=uri, **changes))

    return copy


# SHOW and DESCRIBE


def test_show_models_lists_the_default_versions_of_the_current_database(
    spark: SparkSession, database: str, register: Callable[..., Version]
) -> None:
    first, other = register("churn"), register("spam", comment="bad mail")
    register("churn")
    spark.sql("ALTER MODEL churn SET DEFAULT_VERSION = 1")
    shown = spark.sql("SHOW MODELS")
    assert shown.columns == ["namespace", "model", "version", "model_type", "created_at", "owner", "comment"]
    expected = [(database, one.model, 1, "linear_regressor", one.created_at.timestamp(), one.owner, one.comment) for one in (first, other)]
    assert stamped(shown.collect()) == expected
    assert stamped(spark.sql("SELECT * FROM ML_MODELS() WHERE namespace = current_database()").collect()) == expected
    spark.sql("USE default")
    assert len(rows(spark, f"SHOW MODELS IN {database}")) == len(rows(spark, f"SHOW MODELS FROM {database.upper()}")) == 2
    spark.sql(f"USE {database}")


@pytest.mark.parametrize(
    ("pattern", "models"),
    [
        ("churn*", ["churn", "churn_2"]),
        ("CHURN%", ["churn", "churn_2"]),
        ("spam|churn", ["churn", "spam"]),
        ("*_2", ["churn_2"]),
        ("x", []),
        ("c.*", []),
    ],
)
def test_show_models_like(spark: SparkSession, catalog: Catalog, database: str, line: Version, pattern: str, models: list[str]) -> None:
    for model in ("churn", "churn_2", "spam"):
        catalog.register(
            replace(line, namespace=database, model=model, run=new_run(), uri=catalog.artefact_uri(Name(database, model), "none"))
        )
    assert [row["model"] for row in spark.sql(f"SHOW MODELS LIKE '{pattern}'").collect()] == models
    assert [row["model"] for row in spark.sql(f"SHOW MODELS IN {database} LIKE '{pattern}'").collect()] == models


def test_show_models_in_an_unknown_database(spark: SparkSession, database: str) -> None:
    assert refusal(spark, f"SHOW MODELS IN {database}s") == (
        f"[DLSQL_NAMESPACE_NOT_FOUND] Database `{database}s` does not exist. Did you mean `{database}`? SQLSTATE: 42704"
    )


def test_show_versions(spark: SparkSession, register: Callable[..., Version]) -> None:
    one, two = register("churn"), register("churn", comment="second")
    spark.sql("ALTER MODEL churn VERSION 1 SET ALIAS = old")
    spark.sql("ALTER MODEL churn VERSION 1 SET ALIAS = a")
    shown = spark.sql("SHOW VERSIONS IN MODEL churn")
    assert shown.columns == [
        "version", "is_default", "aliases", "status", "model_type", "rows_trained", "loss", "metrics", "created_at", "owner", "comment", "uri",
    ]  # fmt: skip

    def expected(version: Version, default: bool, aliases: list[str]) -> tuple[Any, ...]:
        measured = (version.rows_trained, version.loss, dict(version.metrics), version.created_at.timestamp())
        told = (version.owner, version.comment, version.uri)
        return (version.version, default, aliases, "ready", "linear_regressor", *measured, *told)

    assert stamped(shown.collect()) == [expected(one, False, ["a", "old"]), expected(two, True, [])]
    assert rows(spark, "SELECT * FROM ML_MODEL_VERSIONS('churn')") == [tuple(row) for row in shown.collect()]


def test_describe_model(spark: SparkSession, database: str, register: Callable[..., Version]) -> None:
    version = register("churn", comment="of the line")
    spark.sql("ALTER MODEL churn VERSION 1 SET ALIAS = champion")
    brief = [
        ("x", "double", "input"), ("y", "double", "output"), ("", "", ""), ("# Detailed Model Information", "", ""),
        ("Name", f"{database}.churn", ""), ("Version", "1", ""), ("Aliases", "champion", ""), ("Type", "linear_regressor", ""),
        ("Status", "ready", ""), ("Rows trained", "20", ""), ("Loss", str(version.loss), ""),
        ("Metrics", ", ".join(f"{key} = {value:.6g}" for key, value in version.metrics.items()), ""), ("Parameters", "2", ""),
        ("Comment", "of the line", ""), ("Owner", version.owner, ""), ("Created at", version.created_at.isoformat(), ""),
        ("Location", version.uri, ""),
    ]  # fmt: skip
    for statement in ("DESCRIBE MODEL churn", "DESC MODEL churn@champion", "SHOW MODEL churn@v1"):
        assert rows(spark, statement) == brief
    extended = rows(spark, "DESCRIBE MODEL EXTENDED churn")
    assert extended[: len(brief)] == brief
    more = {
        "Engine": "onnx", "SHA-256": version.sha256, "Bytes": str(version.bytes), "Seed": "42", "Query": QUERY, "Properties": "",
        "Tables": "spark_catalog.catalog_line.points", "Run": version.run,
    }  # fmt: skip
    found = {key: value for key, value, _ in extended[len(brief) :]}
    assert {key: found[key] for key in more} == more
    assert set(found) - set(more) == {"Seconds", "Options", "Libraries"}


def test_show_create_model_is_runnable_as_printed_and_makes_the_same_weights(spark: SparkSession, database: str) -> None:
    spark.sql(f"CREATE MODEL first COMMENT 'it''s' OPTIONS ({OPTIONS}, learn_rate = 0.5) AS\n{QUERY} -- all of it\n")
    digest = "SELECT sha256, comment FROM dlsql.models WHERE namespace = current_database() AND model = "
    made = rows(spark, f"{digest} 'first'")
    assert made[0][1] == "it's"
    spark.sql("ALTER MODEL first RENAME TO `odd name`")
    spark.sql("ALTER MODEL `odd name` SET COMMENT 'its'")
    ((printed,),) = rows(spark, "SHOW CREATE MODEL `odd name`")
    assert printed.startswith(f"CREATE MODEL {database}.`odd name`\nCOMMENT 'its'\nOPTIONS (\n")
    spark.sql("DROP MODEL `odd name`")
    spark.sql(printed)
    assert rows(spark, f"{digest} 'odd name'") == [(made[0][0], "its")]
    assert rows(spark, "SHOW CREATE MODEL `odd name`") == [(printed,)]


# CREATE


def test_create_on_an_existing_name(spark: SparkSession, database: str, register: Callable[..., Version]) -> None:
    version = register("churn")
    assert refusal(spark, f"CREATE MODEL Churn OPTIONS ({OPTIONS}) AS {QUERY}") == (
        f"[DLSQL_MODEL_EXISTS] Model `{database}.churn` is registered already. Use CREATE OR REPLACE MODEL for its next version. SQLSTATE: 42710"
    )
    (row,) = spark.sql(f"CREATE MODEL IF NOT EXISTS churn OPTIONS ({OPTIONS}) AS {QUERY}").collect()
    assert (row["model"], row["version"], row["uri"]) == (f"{database}.churn", 1, version.uri)
    assert len(rows(spark, "SHOW VERSIONS IN MODEL churn")) == 1


def test_or_replace_makes_the_next_version_the_default_also_after_a_pin(
    spark: SparkSession, database: str, register: Callable[..., Version]
) -> None:
    register("churn"), register("churn")
    spark.sql("ALTER MODEL churn SET DEFAULT_VERSION = 1")
    before = rows(spark, "SELECT PREDICT('churn', 1D)")
    (row,) = spark.sql(f"CREATE OR REPLACE MODEL churn OPTIONS ({OPTIONS}, learn_rate = 0.9) AS {QUERY}").collect()
    assert (row["model"], row["version"]) == (f"{database}.churn", 3)
    assert [row[:2] for row in rows(spark, "SHOW VERSIONS IN MODEL churn")] == [(1, False), (2, False), (3, True)]
    assert rows(spark, "SELECT PREDICT('churn', 1D)") == rows(spark, "SELECT PREDICT('churn@v3', 1D)") != before
    assert rows(spark, "SELECT PREDICT('churn@v1', 1D)") == before


@pytest.mark.parametrize(
    ("options", "query", "condition"),
    [
        ("learn_rate = 1e30, optimizer = 'sgd', batch_size = 1", QUERY, "DLSQL_DIVERGED"),  # while it trains
        ("", "SELECT x, y / 0 AS y FROM catalog_line.points", "DIVIDE_BY_ZERO"),  # in the query, on a worker
        ("", "SELECT x, y FROM catalog_line.points LIMIT 0", "DLSQL_TRAINING_DATA"),
        ("hiden_units = [1]", QUERY, "DLSQL_UNKNOWN_OPTION"),
        ("optimizer = 'adamm'", QUERY, "DLSQL_OPTION_VALUE"),
        ("", "SELECT x AS y FROM nowhere", "TABLE_OR_VIEW_NOT_FOUND"),
        ("warm_start = TRUE", "SELECT CAST(x AS STRING) AS x, y FROM catalog_line.points", "DLSQL_SHAPE"),
    ],
)  # fmt: skip
def test_failed_training_leaves_nothing_behind(
    spark: SparkSession, store: Path, register: Callable[..., Version], options: str, query: str, condition: str
) -> None:
    register("churn")
    spark.sql("ALTER MODEL churn SET DEFAULT_VERSION = 1")
    before = files(store), rows(spark, "SHOW VERSIONS IN MODEL churn"), rows(spark, "SELECT * FROM ML_TRAINING_INFO('churn')")
    with pytest.raises(Exception, match=condition):
        spark.sql(f"CREATE OR REPLACE MODEL churn OPTIONS ({OPTIONS}{', ' if options else ''}{options}) AS {query}")
    assert (files(store), rows(spark, "SHOW VERSIONS IN MODEL churn"), rows(spark, "SELECT * FROM ML_TRAINING_INFO('churn')")) == before


def test_explain_trains_nothing_and_writes_nothing(spark: SparkSession, store: Path, database: str, line: Version) -> None:
    before = files(store)
    explained = rows(spark, f"EXPLAIN CREATE MODEL churn OPTIONS ({OPTIONS}) AS {QUERY}")
    assert explained[0] == ("plan", "model", f"{database}.churn, linear_regressor")
    assert ("network", "parameters", "2") in explained
    assert files(store) == before
    assert rows(spark, "SHOW MODELS") == []


def test_create_in_an_unknown_database_trains_nothing(spark: SparkSession, store: Path, database: str, line: Version) -> None:
    before = files(store)
    assert refusal(spark, f"CREATE MODEL {database}x.churn OPTIONS ({OPTIONS}) AS {QUERY}") == (
        f"[DLSQL_NAMESPACE_NOT_FOUND] Database `{database}x` does not exist. Did you mean `{database}`? SQLSTATE: 42704"
    )
    assert files(store) == before


def test_number_of_a_dropped_version_is_never_given_again(spark: SparkSession, database: str, register: Callable[..., Version]) -> None:
    for _ in range(3):
        register("churn")
    spark.sql("CREATE VIEW pinned AS SELECT PREDICT('churn@v3', 1D) AS p")
    for version in (2, 3):
        spark.sql(f"DROP MODEL churn VERSION {version}")
    assert [row[0] for row in rows(spark, "SHOW VERSIONS IN MODEL churn")] == [1]
    assert rows(spark, f"SELECT version FROM dlsql.models WHERE namespace = '{database}'") == [(1,)]
    assert register("churn").version == 4
    assert refusal(spark, "SELECT * FROM pinned") == (
        f"[DLSQL_VERSION_NOT_FOUND] Model `{database}.churn` has no version 3. It has: 1, 4. SQLSTATE: 42704"
    )
    for version in (1, 4):
        spark.sql(f"DROP MODEL churn VERSION {version}")
    assert rows(spark, "SHOW MODELS") == []
    assert register("churn").version == 5
    spark.sql("DROP MODEL churn VERSION 5")
    assert register("spam").version == 1
    spark.sql("ALTER MODEL spam RENAME TO churn")
    assert [row[0] for row in rows(spark, "SHOW VERSIONS IN MODEL churn")] == [1]


def test_kept_number_goes_with_a_rename_outlives_vacuum_and_ends_with_the_model(
    spark: SparkSession, store: Path, database: str, register: Callable[..., Version]
) -> None:
    register("churn"), register("churn")
    spark.sql("DROP MODEL churn VERSION 2")
    spark.sql("ALTER MODEL churn RENAME TO left")
    spark.sql("CALL ml.vacuum(retain_hours => 1)")
    assert register("left").version == 3
    spark.sql("DROP MODEL left VERSION 3")
    spark.sql("DROP MODEL left")
    assert [path for path in files(store) if f"/{database}/" in path] == []
    assert register("left").version == 1


@pytest.mark.parametrize(("moment", "nth"), [("next_number", 2), ("_commit", 1)])  # a training asks for its number before it starts, too
def test_model_that_somebody_makes_while_it_is_registered_is_not_made_twice(
    spark: SparkSession,
    catalog: Catalog,
    store: Path,
    database: str,
    line: Version,
    register: Callable[..., Version],
    moment: str,
    nth: int,
) -> None:
    step, calls = getattr(Catalog, moment), []

    def after_another(self: Catalog, name: Name, *rest: Any) -> Any:
        calls.append(name)
        if len(calls) == nth:
            register("churn", comment="the winner")
        return step(self, name, *rest)

    def raced(statement: str) -> str | list[tuple[Any, ...]]:
        calls.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Catalog, moment, after_another)
            try:
                return [tuple(row) for row in spark.sql(statement).collect()]
            except AnalysisException as e:
                return str(e).split("\n")[0]

    before = [path for path in files(store) if path.startswith("checkpoints/")]
    assert raced(f"CREATE MODEL churn OPTIONS ({OPTIONS}) AS {QUERY}") == (
        f"[DLSQL_MODEL_EXISTS] Model `{database}.churn` is registered already. Use CREATE OR REPLACE MODEL for its next version. SQLSTATE: 42710"
    )
    assert [(row[0], row[-2]) for row in rows(spark, "SHOW VERSIONS IN MODEL churn")] == [(1, "the winner")]
    runs = {path.split("/")[3] for path in files(store) if path.startswith(f"artifacts/{database}/churn/")}
    assert runs == {catalog.find(Name(database, "churn")).run}
    assert [path for path in files(store) if path.startswith("checkpoints/")] == before
    spark.sql("DROP MODEL churn")
    assert [row[:2] for row in raced(f"CREATE MODEL IF NOT EXISTS churn OPTIONS ({OPTIONS}) AS {QUERY}")] == [(f"{database}.churn", 1)]
    assert [(row[0], row[-2]) for row in rows(spark, "SHOW VERSIONS IN MODEL churn")] == [(1, "the winner")]
    spark.sql("DROP MODEL churn")
    assert [row[:2] for row in raced(f"CREATE OR REPLACE MODEL churn OPTIONS ({OPTIONS}) AS {QUERY}")] == [(f"{database}.churn", 2)]


# DROP DATABASE


def test_models_of_a_dropped_database_are_gone_and_do_not_come_back(
    spark: SparkSession, catalog: Catalog, database: str, register: Callable[..., Version]
) -> None:
    register("churn"), register("churn")
    spark.sql("ALTER MODEL churn VERSION 1 SET ALIAS = champion")
    assert len(rows(spark, "SELECT PREDICT('churn', 1D)")) == 1
    spark.sql(f"DROP DATABASE {database} CASCADE")
    gone = f"[DLSQL_MODEL_NOT_FOUND] Model `{database}.churn` is not registered. SQLSTATE: 42704"
    for again in (False, True):
        if again:
            spark.sql(f"CREATE DATABASE {database}")
        assert refusal(spark, f"SELECT PREDICT('{database}.churn', 1D)") == gone
        assert refusal(spark, f"SELECT * FROM ML_TRAINING_INFO('{database}.churn')") == gone
        assert rows(spark, f"SELECT model FROM ML_MODELS() WHERE namespace = '{database}'") == []
    for table in ("models", "aliases", "training_info"):
        assert catalog._metastore.partitions(table, {"namespace": database}) == []
    assert register("churn").version == 1


def test_models_of_a_database_that_another_engine_dropped_are_not_shown_and_vacuum_takes_them(
    spark: SparkSession, catalog: Catalog, store: Path, database: str, line: Version
) -> None:
    spark.sql(f"CREATE DATABASE {database}_x")
    lost = catalog.register(replace(line, namespace=f"{database}_x", model="churn", run=new_run(), uri=f"{line.uri}-x"))
    catalog.set_alias(lost.name, "champion", 1)
    spark._jsparkSession.sharedState().externalCatalog().unwrapped().dropDatabase(f"{database}_x", False, False)
    assert rows(spark, f"SELECT model FROM ML_MODELS() WHERE namespace = '{database}_x'") == []
    assert refusal(spark, f"SELECT PREDICT('{database}_x.churn', 1D)").startswith("[DLSQL_MODEL_NOT_FOUND]")
    spark.sql("CALL ml.vacuum()")
    assert catalog._metastore.partitions("models", {"namespace": f"{database}_x"}) == []
    assert catalog._metastore.partitions("aliases", {"namespace": f"{database}_x"}) == []


# ALTER


def test_default_version_is_pinned(spark: SparkSession, database: str, register: Callable[..., Version]) -> None:
    register("churn"), register("churn")
    assert rows(spark, "ALTER MODEL churn SET DEFAULT_VERSION = 1") == [(f"{database}.churn", 1, "is the default version")]
    assert [row[:3] for row in rows(spark, "SHOW VERSIONS IN MODEL churn")] == [(1, True, []), (2, False, [])]
    assert rows(spark, "SHOW MODEL churn")[5] == rows(spark, "SHOW MODEL churn@default")[5] == ("Version", "1", "")
    assert refusal(spark, "ALTER MODEL churn SET DEFAULT_VERSION = 3") == (
        f"[DLSQL_VERSION_NOT_FOUND] Model `{database}.churn` has no version 3. It has: 1, 2. SQLSTATE: 42704"
    )


def test_alias_is_set_moved_and_unset(spark: SparkSession, database: str, register: Callable[..., Version]) -> None:
    register("churn"), register("churn")
    assert rows(spark, "ALTER MODEL churn VERSION 1 SET ALIAS = Champion") == [(f"{database}.churn", 1, "is @champion")]
    assert rows(spark, "SHOW MODEL churn@CHAMPION")[5] == ("Version", "1", "")
    assert rows(spark, "CALL ml.set_alias(model => 'churn', version => 2, alias => 'champion')") == [
        (f"{database}.churn", 2, "is @champion")
    ]
    assert [row[2] for row in rows(spark, "SHOW VERSIONS IN MODEL churn")] == [[], ["champion"]]
    assert refusal(spark, "SELECT PREDICT('churn@champoin', 1D)") == (
        f"[DLSQL_ALIAS_NOT_FOUND] Model `{database}.churn` has no alias `champoin`. Did you mean `champion`? SQLSTATE: 42704"
    )
    assert rows(spark, "ALTER MODEL churn UNSET ALIAS = champion") == [(f"{database}.churn", 2, "is no longer @champion")]
    assert refusal(spark, "ALTER MODEL churn UNSET ALIAS = champion") == (
        f"[DLSQL_ALIAS_NOT_FOUND] Model `{database}.churn` has no alias `champion`. SQLSTATE: 42704"
    )
    assert refusal(spark, "ALTER MODEL churn VERSION 9 SET ALIAS = a") == (
        f"[DLSQL_VERSION_NOT_FOUND] Model `{database}.churn` has no version 9. It has: 1, 2. SQLSTATE: 42704"
    )


def test_comment_and_properties_are_of_the_default_version(spark: SparkSession, database: str, register: Callable[..., Version]) -> None:
    register("churn"), register("churn", comment="second")
    spark.sql("ALTER MODEL churn SET DEFAULT_VERSION = 1")
    assert rows(spark, "ALTER MODEL churn SET COMMENT 'it''s ''ünï'''") == [(f"{database}.churn", 1, "has a new comment")]
    assert rows(spark, "ALTER MODEL churn SET TBLPROPERTIES ('team' = 'a', rate = 0.5)") == [
        (f"{database}.churn", 1, "has the properties team, rate")
    ]
    spark.sql("ALTER MODEL churn SET TBLPROPERTIES (team = 'b')")
    assert [row[-2] for row in rows(spark, "SHOW VERSIONS IN MODEL churn")] == ["it's 'ünï'", "second"]
    described = {key: value for key, value, _ in rows(spark, "DESCRIBE MODEL EXTENDED churn")}
    assert (described["Comment"], described["Properties"]) == ("it's 'ünï'", "team = b, rate = 0.5")


def test_rename_takes_versions_aliases_and_rounds_along(spark: SparkSession, database: str, register: Callable[..., Version]) -> None:
    register("churn"), register("churn"), register("spam")
    spark.sql("ALTER MODEL churn SET DEFAULT_VERSION = 1")
    spark.sql("ALTER MODEL churn VERSION 2 SET ALIAS = champion")
    versions, rounds = rows(spark, "SHOW VERSIONS IN MODEL churn"), rows(spark, "SELECT * FROM ML_TRAINING_INFO('churn')")
    assert [row[:2] for row in rounds] == [(1, 1), (2, 1)]
    assert refusal(spark, "ALTER MODEL churn RENAME TO spam").startswith(f"[DLSQL_MODEL_EXISTS] Model `{database}.spam` is registered")
    assert rows(spark, "ALTER MODEL churn RENAME TO `left`") == [(f"{database}.left", None, f"was `{database}.churn`")]
    assert rows(spark, "SHOW VERSIONS IN MODEL left") == versions
    assert rows(spark, "SELECT * FROM ML_TRAINING_INFO('left')") == rounds
    assert refusal(spark, "SHOW VERSIONS IN MODEL churn").startswith(f"[DLSQL_MODEL_NOT_FOUND] Model `{database}.churn` is not registered.")
    assert rows(spark, "ALTER MODEL left RENAME TO catalog_line.moved") == [("catalog_line.moved", None, f"was `{database}.left`")]
    assert rows(spark, "SHOW VERSIONS IN MODEL catalog_line.moved") == versions
    assert rows(spark, "SELECT PREDICT('catalog_line.moved@champion', 1D) = PREDICT('catalog_line.line', 1D)") == [(True,)]
    assert register("churn").version == 1  # the name is free, and its files are other files
    spark.sql("DROP MODEL catalog_line.moved")
    assert rows(spark, "SELECT PREDICT('churn', 1D) = PREDICT('catalog_line.line', 1D)") == [(True,)]
    assert refusal(spark, "ALTER MODEL churn RENAME TO no_such_db.churn").startswith("[DLSQL_NAMESPACE_NOT_FOUND]")


def test_rename_that_died_half_way_shares_files_and_dropping_either_name_keeps_them(
    spark: SparkSession, catalog: Catalog, database: str, register: Callable[..., Version]
) -> None:
    register("churn")
    location = catalog.numbers(Name(database, "churn"))[1]
    catalog._metastore.add("models", {"namespace": database, "model": "left", "version": "1"}, location)
    catalog._metastore.revise("died")
    spark.sql("DROP MODEL churn")
    assert rows(spark, "SELECT PREDICT('left', 1D) = PREDICT('catalog_line.line', 1D)") == [(True,)]


# DROP


def test_drop_model_leaves_no_file_and_no_round(spark: SparkSession, store: Path, database: str, register: Callable[..., Version]) -> None:
    before = files(store)
    register("churn"), register("churn")
    spark.sql("ALTER MODEL churn VERSION 1 SET ALIAS = champion")
    spark.sql("ALTER MODEL churn SET DEFAULT_VERSION = 1")
    assert rows(spark, "DROP MODEL churn") == [(f"{database}.churn", None, "is dropped")]
    assert files(store) == before
    for table in ("models", "aliases", "training_info"):
        assert rows(spark, f"SELECT * FROM dlsql.{table} WHERE namespace = '{database}'") == []
    message = f"[DLSQL_MODEL_NOT_FOUND] Model `{database}.churn` is not registered."
    assert refusal(spark, "DROP MODEL churn").startswith(message)
    assert refusal(spark, "DROP MODEL churn VERSION 1").startswith(message)
    assert refusal(spark, "SELECT PREDICT('churn', 1D)").startswith(message)
    assert rows(spark, "DROP MODEL IF EXISTS churn") == [(f"{database}.churn", None, "was not there")]
    assert register("churn").version == 1


def test_drop_version(spark: SparkSession, store: Path, database: str, register: Callable[..., Version]) -> None:
    register("churn"), register("churn")
    before = files(store)
    register("churn")
    spark.sql("ALTER MODEL churn VERSION 3 SET ALIAS = champion")
    spark.sql("ALTER MODEL churn SET DEFAULT_VERSION = 3")
    assert rows(spark, "DROP MODEL churn VERSION 3") == [(f"{database}.churn", 3, "is dropped")]  # the default, with an alias
    after = files(store)
    keeper = [path for path in after if "/dropped-" in path]  # of the number, in a file without rows
    assert {path: size for path, size in after.items() if path not in keeper} == before
    assert len(keeper) == 1
    assert [row[:3] for row in rows(spark, "SHOW VERSIONS IN MODEL churn")] == [(1, False, []), (2, True, [])]
    assert refusal(spark, "SELECT PREDICT('churn@champion', 1D)").startswith("[DLSQL_ALIAS_NOT_FOUND]")
    assert refusal(spark, "DROP MODEL churn@v3") == (
        f"[DLSQL_VERSION_NOT_FOUND] Model `{database}.churn` has no version 3. It has: 1, 2. SQLSTATE: 42704"
    )
    assert rows(spark, "DROP MODEL IF EXISTS churn VERSION 3") == [(f"{database}.churn", 3, "was not there")]
    assert rows(spark, "CALL ml.drop_model(model => 'churn', version => 2)") == [(f"{database}.churn", 2, "is dropped")]
    assert rows(spark, "CALL ml.drop_model(model => 'churn@v2', if_exists => TRUE)") == [(f"{database}.churn", 2, "was not there")]
    assert [row[:2] for row in rows(spark, "SHOW VERSIONS IN MODEL churn")] == [(1, True)]
    spark.sql("DROP MODEL churn VERSION 1")
    assert rows(spark, "SHOW MODELS") == []


def test_view_over_a_dropped_model_says_so_when_it_is_read(spark: SparkSession, database: str, register: Callable[..., Version]) -> None:
    register("churn")
    spark.sql("CREATE VIEW scored AS SELECT PREDICT('churn', x) AS score FROM catalog_line.points")
    assert spark.table("scored").count() == 20
    spark.sql("DROP MODEL churn")
    assert refusal(spark, "SELECT * FROM scored").startswith(f"[DLSQL_MODEL_NOT_FOUND] Model `{database}.churn` is not registered.")


def test_call_train_is_create_model(spark: SparkSession, database: str) -> None:
    options = "map('model_type', 'linear_regressor', 'input_label_cols', 'y', 'max_iterations', 1, 'num_workers', 1)"
    call = f"CALL ml.train(model => 'churn', query => '{QUERY}', options => {options})"
    (row,) = spark.sql(call).collect()
    assert (row["model"], row["version"], row["model_type"], row["rows_trained"]) == (f"{database}.churn", 1, "linear_regressor", 20)
    assert refusal(spark, call).startswith("[DLSQL_MODEL_EXISTS]")


# Names

NAMES = [
    "my model.v2", "ünïcödé 模型", "../a//b", "100% #1 a=b", "%2f", "it's \"x\" `y`", "{[^]} c:\\d *?\there", "select", "default", "v1", "123", "..",
    "__hive_default_partition__", "'" * 200, "模" * 200,
]  # fmt: skip


@pytest.mark.parametrize("model", NAMES, ids=lambda model: ascii(model)[:24])
def test_odd_names(spark: SparkSession, store: Path, database: str, register: Callable[..., Version], model: str) -> None:
    before = files(store)
    register(model), register(model)
    name = quote_name(Name(database, model))
    text = literal(f"{name}@champion")
    spark.sql(f"ALTER MODEL {name} VERSION 1 SET ALIAS = champion")
    assert [row[:3] for row in rows(spark, "SHOW MODELS")] == [(database, model, 2)]
    assert [row[:3] for row in rows(spark, f"SHOW VERSIONS IN MODEL {name}")] == [(1, False, ["champion"]), (2, True, [])]
    assert rows(spark, f"SELECT PREDICT({text}, 1D) = PREDICT('catalog_line.line', 1D)") == [(True,)]
    found = spark.table("dlsql.models").where(f"namespace = '{database}'").select("model", "version")
    assert sorted(map(tuple, found.collect())) == [(model, 1), (model, 2)]
    spark.sql(f"ALTER MODEL {name} SET COMMENT 'x'")
    spark.sql(f"ALTER MODEL {name} VERSION 2 SET ALIAS = champion")
    spark.sql(f"DROP MODEL {name} VERSION 1")
    spark.sql(f"ALTER MODEL {name} RENAME TO plain")
    spark.sql(f"ALTER MODEL plain RENAME TO {name}")
    assert [row[:3] for row in rows(spark, f"SHOW VERSIONS IN MODEL {name}")] == [(2, True, ["champion"])]
    spark.sql(f"DROP MODEL {name}")
    # A comment is a new row: the one before it stays for those who read it, until `vacuum`.
    assert [path for path in files(store) if path not in before and not path.startswith("models/")] == []


def test_names_that_differ_by_a_space_or_by_a_sign_are_other_models(spark: SparkSession, register: Callable[..., Version]) -> None:
    assert [register(model).version for model in ("m", "m ", " m", "m_", "m%20", "m%", "my model", "my_model")] == [1] * 8
    spark.sql("DROP MODEL m")
    assert len(rows(spark, "SHOW MODELS")) == 7


def test_names_do_not_know_case(spark: SparkSession, database: str, register: Callable[..., Version]) -> None:
    register("churn")
    assert rows(spark, f"SELECT PREDICT('{database.upper()}.CHURN@V1', 1D) = PREDICT('catalog_line.Line', 1D)") == [(True,)]
    assert rows(spark, "DROP MODEL CHURN") == [(f"{database}.churn", None, "is dropped")]


def test_name_that_a_metastore_cannot_keep(spark: SparkSession, store: Path, database: str, register: Callable[..., Version]) -> None:
    register("churn")
    before = files(store)
    long, quotes = "n" * 257, "'" * 250
    too_long = f"[DLSQL_NAME_TOO_LONG] `{long[:40]}...` has 257 characters; the metastore keeps 256 at most. SQLSTATE: 42601"
    assert refusal(spark, f"CREATE MODEL {long} OPTIONS ({OPTIONS}) AS {QUERY}") == too_long
    assert refusal(spark, f"ALTER MODEL churn RENAME TO {long}") == too_long
    assert refusal(spark, f"ALTER MODEL churn VERSION 1 SET ALIAS = {long}") == too_long
    assert "DLSQL_NAME_TOO_LONG" in refusal(spark, f"CREATE MODEL `{quotes}` OPTIONS ({OPTIONS}) AS {QUERY}")
    assert refusal(spark, f"SELECT PREDICT('{long}', 1D)").startswith("[DLSQL_MODEL_NOT_FOUND]")
    assert files(store) == before


def test_model_with_the_name_of_a_table_and_of_a_view(spark: SparkSession, database: str) -> None:
    spark.sql("CREATE TABLE points AS SELECT * FROM catalog_line.points")
    spark.sql("CREATE VIEW seen AS SELECT * FROM points")
    for name in ("points", "seen"):
        spark.sql(f"CREATE MODEL {name} OPTIONS ({OPTIONS}) AS SELECT x, y FROM {name}")
    assert rows(spark, "SELECT count(PREDICT('points', x)), count(PREDICT('seen', x)) FROM points") == [(20, 20)]
    spark.sql("DROP MODEL points")
    spark.sql("DROP MODEL seen")
    assert spark.table("seen").count() == spark.table("points").count() == 20
    spark.sql("DROP VIEW seen")


def test_database_whose_name_is_a_keyword(spark: SparkSession, register: Callable[..., Version]) -> None:
    spark.sql("CREATE DATABASE `select`")
    register("churn")
    spark.sql("ALTER MODEL churn RENAME TO `select`.`from`")
    assert rows(spark, "SELECT PREDICT('`select`.`from`', 1D) = PREDICT('catalog_line.line', 1D)") == [(True,)]
    assert [row[:2] for row in rows(spark, "SHOW MODELS IN `select`")] == [("select", "from")]
    spark.sql("DROP MODEL `select`.`from`")
    spark.sql("DROP DATABASE `select`")


# The tables, as any engine reads them


def test_tables_are_read_with_plain_sql_and_only_what_is_asked_for(
    spark: SparkSession, database: str, register: Callable[..., Version]
) -> None:
    version = register("churn", comment="seen", properties={"a": "b"})
    spark.sql("ALTER MODEL churn VERSION 1 SET ALIAS = champion")
    query = f"SELECT * FROM dlsql.models WHERE namespace = '{database}'"
    (row,) = spark.sql(query).collect()
    expected = {name: getattr(version, name) for name in row.asDict() if name not in ("created_at", "tables")}
    assert {name: value for name, value in row.asDict().items() if name not in ("created_at", "tables")} == expected
    assert (row["created_at"].timestamp(), tuple(row["tables"])) == (version.created_at.timestamp(), version.tables)
    read = spark.sql(query).inputFiles()
    assert len(read) == 1 and f"/models/{database}/churn/" in read[0]  # the other models' files are not opened
    assert rows(spark, f"SELECT model, alias, version FROM dlsql.aliases WHERE namespace = '{database}'") == [("churn", "champion", 1)]
    trained = (
        f"SELECT run, round, rows, train_loss, eval_loss, `at` FROM dlsql.training_info WHERE namespace = '{database}' AND model = 'churn'"
    )
    ((run, *numbers, at),) = rows(spark, trained)
    assert (run, numbers, at.timestamp()) == (version.run, [1, 20, 0.5, None], ROUND.at.timestamp())


# Vacuum


def test_vacuum_removes_old_orphans_and_nothing_else(
    spark: SparkSession, catalog: Catalog, store: Path, database: str, register: Callable[..., Version]
) -> None:
    register("churn"), register("churn")
    spark.sql("ALTER MODEL churn VERSION 2 SET ALIAS = champion")
    spark.sql("ALTER MODEL churn SET COMMENT 'x'")  # its row before this one is an orphan now
    spark.sql("CALL ml.vacuum(retain_hours => 1)")
    kept = set(files(store))
    name = Name(database, "churn")

    def left(at: str) -> None:
        (store / at).mkdir(parents=True)
        (store / at / "file").write_text("x")

    old = [f"artifacts/{database}/churn/r1", f"models/{database}/gone/r2", f"aliases/{database}/churn/r3", "checkpoints/c1"]
    young = [f"artifacts/{database}/churn/r4", "checkpoints/c2"]
    for one in (*old, *young):
        left(one)
    catalog.write_rounds(name, "20200101t000000-old", [ROUND])
    old_rounds = catalog._metastore.partitions("training_info", {"namespace": database, "model": "churn", "run": "20200101t000000-old"})[0][
        ""
    ]
    hours = time.time() - 2 * 3600
    for folder in (*(store / one for one in old), path_of(old_rounds), *(path_of(one.uri) for one in catalog.versions(name))):
        for path in (*folder.rglob("*"), folder):
            os.utime(path, (hours, hours))
    catalog.write_rounds(name, "20300101t000000-running", [ROUND])  # of a training that runs
    removed = {str(path_of(path).relative_to(store)) for (path,) in rows(spark, "CALL ml.vacuum(retain_hours => 1)")}
    assert removed >= {*old, str(path_of(old_rounds).relative_to(store))}
    assert not removed & set(young)
    assert {path for path in files(store) if "running" not in path} >= kept | {f"{one}/file" for one in young}
    assert [row[0] for row in rows(spark, "SELECT version FROM ML_TRAINING_INFO('churn')")] == [1, 2, 3]
    assert rows(spark, "SELECT PREDICT('churn@champion', 1D) = PREDICT('churn@v1', 1D)") == [(True,)]
    assert rows(spark, "SHOW MODEL churn")[13] == ("Comment", "x", "")
    catalog.drop_run(name, "20300101t000000-running")
    assert rows(spark, "CALL ml.vacuum()") == []


@pytest.mark.parametrize("hours", ["0", "0.5", "-1"])
def test_vacuum_of_files_that_a_running_training_may_need(spark: SparkSession, hours: str) -> None:
    assert refusal(spark, f"CALL ml.vacuum(retain_hours => {hours})") == (
        f"[DLSQL_OPTION_VALUE] Option `retain_hours` is {hours}; it takes a number of at least 1: "
        "younger files may belong to a training that runs. SQLSTATE: 22023"
    )


# Storage that fails


@pytest.fixture
def elsewhere(spark: SparkSession) -> Iterator[Callable[[Path], None]]:
    """Moves the catalog of the session to a database of its own in a folder."""

    def move(folder: Path) -> None:
        spark.sql(f"CREATE DATABASE elsewhere LOCATION '{folder}'")
        spark.conf.set("spark.dlsql.catalog.database", "elsewhere")

    yield move
    spark.conf.unset("spark.dlsql.catalog.database")
    spark.sql("DROP DATABASE IF EXISTS elsewhere CASCADE")


def test_unwritable_store(spark: SparkSession, database: str, tmp_path: Path, line: Version, elsewhere: Callable[[Path], None]) -> None:
    folder = tmp_path / "store"
    elsewhere(folder)
    create = f"CREATE OR REPLACE MODEL churn OPTIONS ({OPTIONS}) AS {QUERY}"
    spark.sql(create)
    answer = rows(spark, "SELECT PREDICT('churn', 1D)")
    folder.rename(tmp_path / "away")
    folder.write_text("a file in the folder's place")  # no permission binds root
    message = refusal(spark, create)
    assert re.match(r"\[DLSQL_STORAGE\] Could not \w+ file:.*/store/.*: .+ SQLSTATE: 58030", message)
    folder.unlink()
    (tmp_path / "away").rename(folder)
    assert [row[:2] for row in rows(spark, "SHOW VERSIONS IN MODEL churn")] == [(1, True)]
    assert rows(spark, "SELECT PREDICT('churn', 1D)") == answer
    spark.sql(create)
    assert [row[:2] for row in rows(spark, "SHOW VERSIONS IN MODEL churn")] == [(1, False), (2, True)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no right to mount a small file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(spark: SparkSession, small_disk: Path, database: str, line: Version, elsewhere: Callable[[Path], None]) -> None:
    elsewhere(small_disk / "store")
    create = f"CREATE OR REPLACE MODEL churn OPTIONS ({OPTIONS}) AS {QUERY}"
    spark.sql(create)
    answer = rows(spark, "SELECT PREDICT('churn', 1D)")
    before = files(small_disk)
    filler = small_disk / "filler"
    with pytest.raises(OSError), filler.open("wb") as out:
        while True:
            out.write(b"x" * 4096)
            out.flush()
    os.truncate(filler, filler.stat().st_size - 8192)  # room for some of the files
    assert re.match(r"\[DLSQL_STORAGE\] Could not write file:.*: .*No space left on device.* SQLSTATE: 58030", refusal(spark, create))
    filler.unlink()
    after = {path: size for path, size in files(small_disk).items() if "/checkpoints/" not in path}  # so that it can go on
    assert after == before
    assert rows(spark, "SELECT PREDICT('churn', 1D)") == answer
    assert [row[:2] for row in rows(spark, "SHOW VERSIONS IN MODEL churn")] == [(1, True)]
    spark.sql(create)
    assert [row[:2] for row in rows(spark, "SHOW VERSIONS IN MODEL churn")] == [(1, False), (2, True)]


# Looking up


def test_look_up_reads_again_where_a_file_went_in_between(
    spark: SparkSession, catalog: Catalog, database: str, register: Callable[..., Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    register("churn"), register("churn")
    spark.sql("ALTER MODEL churn VERSION 1 SET ALIAS = champion")
    fresh = Catalog(catalog._bridge, spark, type(catalog._memory)())
    read, moved, reader = Files.read, [], [fresh]

    def while_it_moves(self: Files, path: str) -> bytes:
        if "/aliases/" in path and len(moved) < 3 and reader:
            moved.append(path)
            reader.clear()
            catalog.set_alias(Name(database, "churn"), "champion", 2)  # deletes the file that is about to be read
            reader.append(fresh)
        return read(self, path)

    monkeypatch.setattr(Files, "read", while_it_moves)
    assert fresh.find(Name(database, "churn", alias="champion")).version == 2
    assert len(set(moved)) == 3


def first_call(monkeypatch: pytest.MonkeyPatch, name: str, then: Callable[[], object]) -> list[str]:
    """Has something happen before the first call of a method of the metastore; gives a list that holds its name from then on."""
    method, happened = getattr(Metastore, name), list[str]()

    def call(self: Metastore, *given: Any) -> Any:
        if not happened:
            happened.append(name)
            then()
        return method(self, *given)

    monkeypatch.setattr(Metastore, name, call)
    return happened


@pytest.fixture
def other(catalog: Catalog, spark: SparkSession) -> Catalog:
    """The catalog as another application sees it."""
    return Catalog(catalog._bridge, spark, type(catalog._memory)())


@pytest.mark.parametrize("version", [1, 2], ids=["first", "last"])
def test_alias_that_is_set_while_another_application_drops_its_version_does_not_stay(
    catalog: Catalog, other: Catalog, database: str, register: Callable[..., Version], monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    name = Name(database, "churn")
    register("churn"), register("churn")
    happened = first_call(monkeypatch, "add", lambda: other.drop(name, version))
    with pytest.raises(NotFoundError, match=r"DLSQL_VERSION_NOT_FOUND"):
        catalog.set_alias(name, "champion", version)
    assert happened == ["add"]
    assert catalog._metastore.partitions("aliases", {"namespace": database}) == []


@pytest.mark.parametrize("version", [None, 1])
def test_model_or_version_that_is_dropped_takes_an_alias_along_that_another_application_sets_meanwhile(
    catalog: Catalog, other: Catalog, database: str, register: Callable[..., Version], monkeypatch: pytest.MonkeyPatch, version: int | None
) -> None:
    name = Name(database, "churn")
    register("churn"), register("churn")
    happened = first_call(monkeypatch, "drop", lambda: other.set_alias(name, "champion", 1))
    catalog.drop(name, version)
    assert happened == ["drop"]
    assert catalog._metastore.partitions("aliases", {"namespace": database}) == []


def test_version_that_another_application_makes_under_a_name_that_is_given_away_stays(
    catalog: Catalog, other: Catalog, database: str, register: Callable[..., Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    register("churn")
    made = register("spam")
    late = replace(made, model="churn", run=new_run())
    happened = first_call(monkeypatch, "drop", lambda: other.register(late))
    catalog.rename(Name(database, "churn"), Name(database, "left"))
    assert happened == ["drop"]
    assert [list(catalog.numbers(Name(database, model))) for model in ("left", "churn")] == [[1], [2]]


def test_alias_that_another_application_takes_away_while_it_moves_is_set(
    catalog: Catalog, other: Catalog, database: str, register: Callable[..., Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = Name(database, "churn")
    register("churn"), register("churn")
    catalog.set_alias(name, "champion", 1)
    happened = first_call(monkeypatch, "move", lambda: other.unset_alias(name, "champion"))
    catalog.set_alias(name, "champion", 2)
    assert happened == ["move"]
    assert other.aliases(name) == {"champion": 2}


def test_changes_of_one_model_at_once_are_all_kept(spark: SparkSession, database: str, register: Callable[..., Version]) -> None:
    register("churn")
    changes = [f"ALTER MODEL {database}.churn SET TBLPROPERTIES ('p{i}' = '{i}')" for i in range(6)]
    changes.append(f"ALTER MODEL {database}.churn SET COMMENT 'kept'")
    with ThreadPoolExecutor(len(changes)) as clients:
        for done in [clients.submit(rows, spark, one) for one in changes]:
            done.result()
    described = dict(tuple(row)[:2] for row in spark.sql("DESCRIBE MODEL EXTENDED churn").collect())
    assert sorted(described["Properties"].split(", ")) == [f"p{i} = {i}" for i in range(6)]
    assert described["Comment"] == "kept"


def test_model_whose_database_goes_while_it_trains_is_not_registered(
    spark: SparkSession, catalog: Catalog, database: str, line: Version
) -> None:
    with pytest.raises(NotFoundError, match=r"DLSQL_NAMESPACE_NOT_FOUND.*gone"):
        catalog.register(replace(line, namespace=f"{database}_gone", model="churn", run=new_run()))
    assert catalog._metastore.partitions("models", {"namespace": f"{database}_gone"}) == []


class Deadlocked:
    """A metastore whose database ends so many calls before it answers."""

    def __init__(self, ended: int) -> None:
        self.ended, self.calls = ended, 0

    def partitions(self, table: str, values: str) -> str:
        self.calls += 1
        if self.calls <= self.ended:
            raise CapturedException(
                "MetaException(message:See previous errors)", "SQLException: A lock could not be obtained due to a deadlock"
            )
        return "[]"


def test_call_that_the_metastores_database_ended_in_a_deadlock_is_made_again(spark: SparkSession) -> None:
    assert Metastore(Deadlocked(4)).partitions("aliases", {}) == []
    always = Deadlocked(1000)
    with pytest.raises(StorageError, match="The metastore could not list aliases: MetaException"):
        Metastore(always).partitions("aliases", {})
    assert always.calls == 5


def test_alias_whose_file_is_lost_is_an_error_that_names_it(
    spark: SparkSession, catalog: Catalog, database: str, register: Callable[..., Version]
) -> None:
    register("churn")
    catalog.set_alias(Name(database, "churn"), "champion", 1)
    (row,) = catalog._metastore.partitions("aliases", {"namespace": database, "model": "churn"})
    shutil.rmtree(path_of(row[""]))
    catalog._memory.rows.pop(row[""], None)
    with pytest.raises(StorageError, match=r"DLSQL_STORAGE.*Could not read .*/aliases/"):
        catalog.find(Name(database, "churn", alias="champion"))
    catalog._metastore.drop("aliases", {"namespace": database, "model": "churn", "alias": "champion"})
    catalog._metastore.revise("repaired")
