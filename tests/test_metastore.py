"""Two Spark applications and a real remote Hive metastore: nothing is lost, nothing is doubled, and each sees what the other did."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlparse

import pyspark
import pytest

from dlsql.inference import digest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
EACH = 3  # versions that each of two applications makes at once
OPTIONS = "model_type = 'linear_regressor', input_label_cols = ['y'], max_iterations = 1, num_workers = 1"
CREATE = f"CREATE OR REPLACE MODEL race OPTIONS ({OPTIONS}, learn_rate = %s) AS SELECT id * 1D AS x, id * 3D AS y FROM range(20)"

# Runs what comes on its standard input, one JSON list of texts a line, after a file is there; says a JSON list of rows and errors.
APPLICATION = """
import json, pathlib, sys, time
warehouse, conf, taught = json.loads(sys.argv[1])
if taught:
    import dlsql
    spark = dlsql.session(warehouse, master="local[1]", conf=conf)
else:
    from pyspark.sql import SparkSession
    conf |= {"spark.sql.catalogImplementation": "hive", "spark.sql.warehouse.dir": warehouse, "spark.master": "local[1]"}
    builder = SparkSession.builder
    for key, value in conf.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()

def answer(text):
    try:
        return [list(row) for row in spark.sql(text).collect()]
    except Exception as e:
        return str(e).split("\\n")[0]

print("ready", flush=True)
for line in sys.stdin:
    texts, barrier = json.loads(line)
    while barrier and not pathlib.Path(barrier).exists():
        time.sleep(0.001)
    print(json.dumps([answer(text) for text in texts], default=str), flush=True)
spark.stop()
"""


@dataclass
class Application:
    """A Spark application in a process of its own."""

    process: subprocess.Popen[str]
    log: Path

    def ask(self, texts: list[str], barrier: Path | None = None) -> None:
        assert self.process.stdin is not None
        print(json.dumps([texts, barrier and str(barrier)]), file=self.process.stdin, flush=True)

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()[-4000:]
        return line

    def answers(self) -> list[Any]:
        return list(json.loads(self.line()))

    def sql(self, text: str) -> Any:
        """The rows of a statement as lists; the message of its error as a text."""
        self.ask([text])
        return self.answers()[0]


@dataclass
class Metastore:
    """Hive's own, of PySpark's jars, in a process of its own, on Derby."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"thrift://127.0.0.1:{self.port}"

    def start(self) -> None:
        site = {
            "javax.jdo.option.ConnectionURL": f"jdbc:derby:;databaseName={self.folder}/db;create=true",
            "datanucleus.schema.autoCreateAll": "true",
            "datanucleus.connectionPoolingType": "dbcp",  # Hive's default pool is not among PySpark's jars, and DROP DATABASE wants one
            "hive.metastore.schema.verification": "false",
            "hive.async.log.enabled": "false",
            "hive.metastore.warehouse.dir": f"file://{self.folder}/warehouse",
        }
        properties = "".join(f"<property><name>{key}</name><value>{value}</value></property>" for key, value in site.items())
        (self.folder / "hive-site.xml").write_text(f"<configuration>{properties}</configuration>")
        jars = Path(pyspark.__file__).parent / "jars"
        java = f"{os.environ['JAVA_HOME']}/bin/java" if "JAVA_HOME" in os.environ else "java"
        command = [java, "-Xmx512m", f"-Dderby.stream.error.file={self.folder}/derby.log", "-cp", f"{self.folder}:{jars}/*"]
        server = ["org.apache.hadoop.hive.metastore.HiveMetaStore", "-p", str(self.port)]
        with (self.folder / "metastore.log").open("ab") as log:
            self.process = subprocess.Popen([*command, *server], stdout=log, stderr=log, cwd=self.folder)
        until = time.monotonic() + 120
        while not self.listens():
            assert self.process.poll() is None and time.monotonic() < until, (self.folder / "metastore.log").read_text()[-4000:]
            time.sleep(0.1)

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None


@pytest.fixture(scope="module")
def metastore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Metastore]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        made = Metastore(tmp_path_factory.mktemp("metastore"), free.getsockname()[1])
    try:
        made.start()
        yield made
    finally:
        made.stop()


def launched(metastore: Metastore, name: str, *, taught: bool) -> Application:
    conf = {
        "spark.hadoop.hive.metastore.uris": metastore.uri, "spark.hadoop.hive.metastore.connect.retries": "1", "spark.app.name": name,
        "spark.ui.enabled": "false", "spark.driver.memory": "1g", "spark.sql.shuffle.partitions": "1", "spark.log.level": "ERROR",
        "spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1",
    }  # fmt: skip
    log, folder = metastore.folder / f"{name}.log", metastore.folder / name
    folder.mkdir()
    arguments = json.dumps([str(metastore.folder / "warehouse"), conf, taught])
    paths = {"PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable}
    with log.open("wb") as errors:
        pipe: dict[str, int | IO[bytes]] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        process = subprocess.Popen(
            [sys.executable, "-c", APPLICATION, arguments], text=True, cwd=folder, env={**os.environ, **paths}, **pipe
        )  # type: ignore[call-overload]
    return Application(process, log)


def ended(application: Application) -> None:
    if application.process.stdin is not None:
        application.process.stdin.close()  # the end of its input ends it
    try:
        application.process.wait(60)
    except subprocess.TimeoutExpired:
        application.process.kill()
        raise


@pytest.fixture(scope="module")
def applications(metastore: Metastore) -> Iterator[tuple[Application, Application]]:
    pair = launched(metastore, "one", taught=True), launched(metastore, "two", taught=True)
    try:
        for application in pair:
            assert application.line() == "ready\n"
        yield pair
    finally:
        for application in pair:
            ended(application)


@pytest.fixture(scope="module")
def raced(applications: tuple[Application, Application], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What two applications got that made versions of one model at once, in a metastore where nobody had made anything."""
    barrier = tmp_path_factory.mktemp("barrier") / "go"
    for place, application in enumerate(applications):
        application.ask([CREATE % (0.1 + place + i / 100) for i in range(EACH)], barrier)
    barrier.touch()
    return [answer for application in applications for answer in application.answers()]


def test_versions_made_at_once_are_all_there_and_none_is_doubled(applications: tuple[Application, Application], raced: list[Any]) -> None:
    assert [answer for answer in raced if isinstance(answer, str)] == []  # also where both made the database and its tables
    told = {row[1]: row[7] for ((*row,),) in raced}
    assert sorted(told) == list(range(1, 2 * EACH + 1))
    for application in applications:
        assert {row[0]: row[11] for row in application.sql("SHOW VERSIONS IN MODEL race")} == told
        assert [row[0] for row in application.sql("SHOW VERSIONS IN MODEL race") if row[1]] == [2 * EACH]
        assert application.sql("SELECT version, count(*) FROM ML_TRAINING_INFO('race') GROUP BY version ORDER BY version") == [
            [v, 1] for v in sorted(told)
        ]


def test_every_artefact_is_whole(applications: tuple[Application, Application], raced: list[Any]) -> None:
    stored = applications[0].sql("SELECT version, uri, sha256, bytes FROM dlsql.models WHERE model = 'race'")
    assert len({uri for _, uri, _, _ in stored}) == len({sha256 for _, _, sha256, _ in stored}) == 2 * EACH
    for _, uri, sha256, size in stored:
        held = {path.name: path.read_bytes() for path in Path(urlparse(uri).path).iterdir() if not path.name.startswith((".", "events."))}
        assert (digest(held), sum(map(len, held.values()))) == (sha256, size)


def test_changes_in_one_application_are_seen_by_the_next_query_of_the_other(
    applications: tuple[Application, Application], raced: list[Any]
) -> None:
    one, two = applications
    score = "SELECT PREDICT('race@champion', 1D)"
    assert two.sql(score).startswith("[DLSQL_ALIAS_NOT_FOUND]")
    for version in (1, 2, 1):
        one.sql(f"ALTER MODEL race VERSION {version} SET ALIAS = champion")
        assert two.sql(score) == two.sql(f"SELECT PREDICT('race@v{version}', 1D)")
    assert two.sql("SELECT PREDICT('race@v1', 1D)") != two.sql("SELECT PREDICT('race@v2', 1D)")
    two.sql("ALTER MODEL race SET DEFAULT_VERSION = 2")
    assert one.sql("SELECT PREDICT('race', 1D)") == one.sql("SELECT PREDICT('race@v2', 1D)")
    one.sql("ALTER MODEL race SET COMMENT 'seen'")
    assert [row[10] for row in two.sql("SHOW VERSIONS IN MODEL race")][:3] == ["", "seen", ""]
    two.sql("DROP MODEL race VERSION 1")
    left = ", ".join(map(str, range(2, 2 * EACH + 1)))
    gone = f"[DLSQL_VERSION_NOT_FOUND] Model `default.race` has no version 1. It has: {left}. SQLSTATE: 42704"
    assert one.sql("SELECT PREDICT('race@v1', 1D)") == gone
    assert one.sql(score).startswith("[DLSQL_ALIAS_NOT_FOUND]")
    one.sql("ALTER MODEL race RENAME TO raced")
    assert two.sql("SELECT PREDICT('race', 1D)").startswith(
        "[DLSQL_MODEL_NOT_FOUND] Model `default.race` is not registered. Did you mean `default.raced`?"
    )
    assert two.sql("SELECT PREDICT('raced', 1D)") == one.sql("SELECT PREDICT('raced@v2', 1D)")
    two.sql("ALTER MODEL raced RENAME TO race")


def test_aliases_moved_at_once_point_to_one_of_the_two(
    applications: tuple[Application, Application], raced: list[Any], tmp_path: Path
) -> None:
    for place, application in enumerate(applications):
        application.ask([f"ALTER MODEL race VERSION {3 + place} SET ALIAS = contested"] * 8, tmp_path / "go")
    (tmp_path / "go").touch()
    assert [answer for application in applications for answer in application.answers() if isinstance(answer, str)] == []
    seen = [application.sql("SELECT PREDICT('race@contested', 1D)") for application in applications]
    assert seen[0] == seen[1]
    assert seen[0] in [applications[0].sql(f"SELECT PREDICT('race@v{version}', 1D)") for version in (3, 4)]


def test_name_that_is_made_at_once_is_made_once_and_a_dropped_number_is_not_given_by_the_other(
    metastore: Metastore, applications: tuple[Application, Application], raced: list[Any], tmp_path: Path
) -> None:
    create = CREATE.replace("CREATE OR REPLACE MODEL race", "CREATE MODEL{} {}") % 0.1
    for application in applications:
        application.ask([create.format("", "once"), create.format(" IF NOT EXISTS", "kept")], tmp_path / "go")
    (tmp_path / "go").touch()
    (once, kept), (other_once, other_kept) = (application.answers() for application in applications)
    refused = (
        "[DLSQL_MODEL_EXISTS] Model `default.once` is registered already. Use CREATE OR REPLACE MODEL for its next version. SQLSTATE: 42710"
    )
    assert refused in (once, other_once)
    assert [answer[0][:2] for answer in (once, other_once) if answer != refused] == [["default.once", 1]]
    assert kept == other_kept
    for name in ("once", "kept"):
        ((uri,),) = applications[0].sql(f"SELECT uri FROM dlsql.models WHERE model = '{name}'")
        assert [path.name for path in (Path(urlparse(uri).path).parent).iterdir()] == [uri.rsplit("/", 1)[1]]
    applications[0].sql("DROP MODEL once VERSION 1")
    assert applications[1].sql(create.format("", "once"))[0][:2] == ["default.once", 2]


def test_database_that_one_application_drops_takes_the_models_from_the_other(
    applications: tuple[Application, Application], raced: list[Any]
) -> None:
    one, two = applications
    for again in (False, True):
        assert one.sql("CREATE DATABASE brief") == []
        score = two.sql("SELECT PREDICT('brief.m', 1D)")
        assert score.startswith("[DLSQL_MODEL_NOT_FOUND] Model `brief.m` is not registered.")
        if not again:
            assert one.sql(CREATE.replace("OR REPLACE MODEL race", "MODEL brief.m") % 0.1)[0][:2] == ["brief.m", 1]
            assert len(two.sql("SELECT PREDICT('brief.m', 1D)")) == 1
        assert one.sql("DROP DATABASE brief") == []


def test_engine_that_knows_nothing_of_us_reads_the_tables(
    metastore: Metastore, applications: tuple[Application, Application], raced: list[Any]
) -> None:
    applications[0].sql("ALTER MODEL race VERSION 4 SET ALIAS = plain")
    plain = launched(metastore, "plain", taught=False)
    try:
        assert plain.line() == "ready\n"
        where = "WHERE namespace = 'default' AND model = 'race'"
        assert plain.sql("SELECT PREDICT('race', 1D)").startswith("[UNRESOLVED_ROUTINE]")
        ours = applications[0].sql(f"SELECT * FROM dlsql.models {where} ORDER BY version")
        assert plain.sql(f"SELECT * FROM dlsql.models {where} ORDER BY version") == ours
        assert plain.sql(f"SELECT version FROM dlsql.aliases {where} AND alias = 'plain'") == [[4]]
        assert plain.sql(f"SELECT count(DISTINCT run), count(*) FROM dlsql.training_info {where}") == [[len(ours), len(ours)]]
        assert "namespace=default/model=race/version=4" in [row[0] for row in plain.sql("SHOW PARTITIONS dlsql.models")]
    finally:
        ended(plain)


def test_metastore_that_is_away_is_one_clear_error_and_nothing_is_lost(
    metastore: Metastore, applications: tuple[Application, Application], raced: list[Any]
) -> None:
    one, _ = applications
    answer, versions = one.sql("SELECT PREDICT('race', 1D)"), one.sql("SHOW VERSIONS IN MODEL race")
    metastore.stop()
    assert one.sql("SELECT PREDICT('default.race', 1D)").startswith("[DLSQL_CATALOG] The metastore could not read the catalog's revision: ")
    metastore.start()
    assert one.sql("SELECT PREDICT('default.race', 1D)") == answer
    assert one.sql("SHOW VERSIONS IN MODEL race") == versions
