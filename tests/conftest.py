"""One Spark session with the embedded metastore for all tests of a process."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyspark.sql import SparkSession

import dlsql

if TYPE_CHECKING:
    from tests.clients import Server

collect_ignore = ["workers"]  # programs that tests start

CONF = {
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.driver.memory": "2g",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.dlsql.allowed_modules": "shop_networks",  # tests/workers/shop_networks.py
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs Spark: `make check` runs the rest."""
    for item in items:
        if "spark" in getattr(item, "fixturenames", ()):
            item.add_marker("spark")


@pytest.fixture(scope="session")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of tables, models and the embedded metastore."""
    return tmp_path_factory.mktemp("warehouse")


@pytest.fixture(scope="session")
def spark(warehouse: Path) -> Iterator[SparkSession]:
    """A session that knows the language, and viewfs:///elsewhere as another file system."""
    elsewhere = {"spark.hadoop.fs.viewfs.mounttable.default.link./elsewhere": warehouse.as_uri()}
    made = dlsql.session(warehouse, master="local[2]", name="tests", conf=CONF | elsewhere)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Server]":
    """A `dlsql serve` in a process of its own, for all tests that talk to one."""
    from tests.clients import serving

    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def database(spark: SparkSession, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of the test's own, current while it runs; its models and tables go with it."""
    name = f"t_{abs(hash(request.node.nodeid)) % 10**8}"
    spark.sql(f"CREATE DATABASE {name}")
    spark.sql(f"USE {name}")
    yield name
    for row in spark.sql(f"SHOW MODELS IN {name}").collect():
        spark.sql(f"DROP MODEL {name}.`{row['model'].replace('`', '``')}`")
    spark.sql("USE default")
    spark.sql(f"DROP DATABASE {name} CASCADE")


@pytest.fixture
def houses(spark: SparkSession, database: str) -> str:
    """A table of 600 rows: two numbers, a word, a price that follows from them, and a class that follows from the price."""
    spark.sql(
        """CREATE TABLE houses AS
        SELECT id, rooms, area, city, price, price > 250 AS expensive
        FROM (SELECT *, rooms * 20 + area * 2D + if(city = 'Ulm', 50, 0) AS price
              FROM (SELECT CAST(id AS INT) AS id, CAST(id % 5 + 1 AS INT) AS rooms, (id * 37 % 100) * 1.5D AS area,
                           element_at(array('Ulm', 'Rome', 'Oslo'), CAST(id % 3 + 1 AS INT)) AS city FROM range(600)))"""
    )
    return "houses"
