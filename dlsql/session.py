"""A Spark session that knows the language: `attach` teaches it to one that is there, `session` makes one with a metastore of its own."""

import fcntl
import importlib.util
import os
import shutil
import sys
import threading
import uuid
import zipfile
from collections.abc import Callable, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pyspark
from pyspark.sql import DataFrame, SparkSession

import udfs
from dlsql import functions, values
from dlsql.bridge import Bridge, Question
from dlsql.catalog import Catalog, Memory
from dlsql.errors import error
from dlsql.interrupts import interruptible
from dlsql.parser import is_ours, parse
from dlsql.rewrite import rewrite

_SPARK = "4.3"
_BUILDERS = {"Scalar": functions.SCALARS, "Aggregate": values.AGGREGATES, "Table": functions.TABLES}
_WORKER_NEEDS = ("numpy", "pyarrow", "onnxruntime", "torch")


def attach(spark: SparkSession) -> SparkSession:
    """Teaches the language to a Spark application.

    Every session made from now on knows it too: new ones, those of JDBC connections, those of Spark Connect clients.

    Args:
        spark: any classic session; it may have run queries already.

    Returns:
        `spark` itself if it knows the language; else a session with the same settings, temporary views and current database that does.

    Raises:
        UnsupportedError: this is another Spark than the one dlsql is built for, or the workers' Python lacks what it needs.
    """
    bridge = language(spark).bridge
    return _interruptible(spark if bridge.knows_language(spark) else bridge.clone(spark, _BUILDERS))


def _interruptible(spark: SparkSession) -> SparkSession:
    """The session, whose statements of the language Ctrl-C and a notebook's stop button end, and whose trainings show a bar meanwhile.

    PySpark's own answer to them, to cancel all jobs from the thread that waits for the JVM, gets through to no job, and in a notebook it
    is not asked: the training would go on, and only its client would know nothing of it.
    """
    plain, context = spark.sql, spark.sparkContext
    if hasattr(plain, "__wrapped__"):
        return spark

    @wraps(plain)
    def sql(sqlQuery: str, *args: Any, **kwargs: Any) -> DataFrame:
        if threading.current_thread() is not threading.main_thread() or not is_ours(sqlQuery):
            return plain(sqlQuery, *args, **kwargs)
        tag = f"dlsql-{uuid.uuid4()}"

        def tagged() -> DataFrame:
            context.addJobTag(tag)
            return plain(sqlQuery, *args, **kwargs)

        return interruptible(tagged, partial(context.cancelJobsWithTag, tag))

    spark.sql = sql  # type: ignore[method-assign]
    return spark


def session(
    warehouse: str | Path = "spark-warehouse", *, master: str = "local[*]", name: str = "dlsql", conf: Mapping[str, str] | None = None
) -> SparkSession:
    """A new local application whose metastore and data lie under one folder, with the language.

    Args:
        warehouse: the folder of tables, models and the embedded metastore (Derby: one process at a time). A `hive.metastore.uris` or a
            `javax.jdo.option.ConnectionURL` in `conf` takes another metastore.
        master: where Spark runs.
        name: of the application, in Spark's UI.
        conf: more Spark settings.

    Raises:
        UnsupportedError: there is no Java, another Spark than the one dlsql is built for, or another process in the folder.
    """
    check_spark()
    check_java()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    folder = Path(warehouse).resolve()
    given = dict(conf or {})
    defaults = {
        "spark.sql.catalogImplementation": "hive",
        "spark.sql.warehouse.dir": folder.as_uri(),
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        # A gang for which there are too few cores, since an executor went a moment ago, is refused in seconds, and the driver merges. By
        # default Spark waits ten minutes for another executor, and looks for it every 15 seconds.
        "spark.scheduler.barrier.maxConcurrentTasksCheck.interval": "1s",
        "spark.scheduler.barrier.maxConcurrentTasksCheck.maxFailures": "1",
        # Rows go to Python's workers and back without TCP: a prediction over a cached table takes 0.8 of the time.
        "spark.python.unix.domain.socket.enabled": "true",
    }
    if not any(key.endswith(("hive.metastore.uris", "javax.jdo.option.ConnectionURL")) for key in given):
        _check_metastore_is_free(folder)
        defaults["spark.hadoop.javax.jdo.option.ConnectionURL"] = f"jdbc:derby:;databaseName={folder / 'metastore_db'};create=true"
        # Derby writes its log where the process started, unless it is told another place.
        extra = f"-Dderby.stream.error.file={folder / 'derby.log'}"
        given["spark.driver.extraJavaOptions"] = f"{given.get('spark.driver.extraJavaOptions', '')} {extra}".strip()
    builder = SparkSession.builder.master(master).appName(name)
    for key, value in {**defaults, **given}.items():
        builder = builder.config(key, value)
    folder.mkdir(parents=True, exist_ok=True)
    return attach(builder.getOrCreate())


def _check_metastore_is_free(folder: Path) -> None:
    """Derby lets one process in; Hive asks it for a minute before it says so, and in other words."""
    lock = folder / "metastore_db" / "dbex.lck"  # which Derby holds a lock on as long as it runs
    if SparkSession.getActiveSession() is not None or not lock.exists():
        return
    with lock.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            what_to_do = "Talk to it if it is a server (dlsql sql --remote sc://127.0.0.1:15002), or take another warehouse."
            raise error("DLSQL_ENVIRONMENT", problem=f"Another process works in {folder}. {what_to_do}") from e


def check_spark() -> None:
    """Raises UnsupportedError for a Spark that dlsql is not built for."""
    if not pyspark.__version__.startswith(f"{_SPARK}."):
        raise error(
            "DLSQL_ENVIRONMENT",
            problem=f"dlsql needs PySpark {_SPARK}; this is {pyspark.__version__}. Run: pip install 'pyspark=={_SPARK}.*'.",
        )


def check_java() -> None:
    """Raises UnsupportedError where Spark would find no Java."""
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java", path=f"{home}/bin" if home else None) is None:
        where = f"in JAVA_HOME ({home})" if home else "on the PATH"
        raise error(
            "DLSQL_ENVIRONMENT",
            problem=f"Spark needs Java 17 or 21, and there is none {where}. Install it, e.g. apt-get install openjdk-17-jre-headless.",
        )


class _Language:
    """The language in one Spark application: what answers the JVM's questions."""

    def __init__(self, spark: SparkSession) -> None:
        self.archive = _ship_udfs(spark)
        _check_workers(spark)
        self.bridge = Bridge(spark, self.answer)
        self.bindings = functions.Bindings(self.bridge)
        self.memory = Memory()
        self.bridge.install(spark, _BUILDERS)
        self.catalog(spark)  # from now on it hears of databases that are dropped

    def answer(self, spark: SparkSession, question: Question) -> Any:
        """Answers a question of the JVM."""
        return _ANSWERS[question["op"]](self, spark, question)

    def catalog(self, spark: SparkSession, namespace: str | None = None) -> Catalog:
        """The catalog as a session sees it, or a view in a database of its own."""
        return Catalog(self.bridge, spark, self.memory, namespace)

    def parse(self, spark: SparkSession, question: Question) -> Any:
        """True for a statement of ours, another text for one with our functions in another system's spelling, None for Spark's own."""
        text = question["text"]
        if parse(text) is None:
            return rewrite(text)
        if question["parameters"]:
            raise error(
                "DLSQL_UNSUPPORTED", feature="A parameter marker in a statement of the language", hint=" Write the value into the text."
            )
        return True

    def run(self, spark: SparkSession, question: Question) -> Any:
        """The rows of a statement of ours."""
        from dlsql import commands  # brings torch, which takes two seconds that a session which only predicts need not spend

        statement = parse(question["text"])
        assert statement is not None
        self.bridge.ship(spark, self.archive)
        return self.bridge.dataset(commands.run(commands.Client(spark, self.catalog(spark), self.bridge), statement))

    def bind(self, spark: SparkSession, question: Question) -> Any:
        """A scalar function at analysis."""
        self.bridge.ship(spark, self.archive)
        return functions.bind(self.bindings, self.bridge, self.catalog(spark, question["namespace"]), question)

    def bind_value(self, spark: SparkSession, question: Question) -> Any:
        """A scalar function over networks that are values, at analysis."""
        self.bridge.ship(spark, self.archive)
        return values.bind(self.bindings, self.bridge, question)

    def train(self, spark: SparkSession, question: Question) -> Any:
        """The aggregate TRAIN at analysis."""
        self.bridge.ship(spark, self.archive)
        return values.train(self.bindings, self.bridge, question)

    def table(self, spark: SparkSession, question: Question) -> Any:
        """A table function at analysis."""
        return functions.table(self.bridge, spark, self.catalog(spark, question["namespace"]), question)


_ANSWERS: dict[str, Callable[[_Language, SparkSession, Question], Any]] = {
    "parse": _Language.parse,
    "run": _Language.run,
    "bind": _Language.bind,
    "bind_value": _Language.bind_value,
    "train": _Language.train,
    "table": _Language.table,
}
_LANGUAGES: dict[str, _Language] = {}  # by application id
_TEACHING = threading.Lock()


def language(spark: SparkSession) -> _Language:
    """The language of a session's application, which learns it if it did not know it. `attach` says what it raises."""
    check_spark()
    application = spark.sparkContext.applicationId or ""
    with _TEACHING:
        if application not in _LANGUAGES:
            taught = _Language(spark)
            _LANGUAGES.clear()  # of applications that have ended: one driver runs one at a time
            _LANGUAGES[application] = taught
        return _LANGUAGES[application]


def _ship_udfs(spark: SparkSession) -> Path:
    """Sends the package that workers run, so that a cluster needs only the engines installed; gives its archive."""
    if getattr(udfs, "MARKER", None) != "dlsql.udfs":
        raise error(
            "DLSQL_ENVIRONMENT",
            problem=f"Another module named udfs ({udfs.__file__}) hides the one dlsql brings. Rename it, or move it off the path.",
        )
    root = Path(str(udfs.__file__)).parent
    archive = Path(str(spark.sparkContext._temp_dir)) / "dlsql-udfs.zip"  # Spark removes that folder when it stops
    with zipfile.ZipFile(archive, "w") as out:
        for source in sorted(root.rglob("*.py")):
            out.write(source, Path("udfs") / source.relative_to(root))
    spark.sparkContext.addPyFile(str(archive))
    return archive


def _check_workers(spark: SparkSession) -> None:
    """Looks whether the workers' Python is this one and can import what it needs, in one short job."""
    versions, needs = sys.version_info[:2], _WORKER_NEEDS

    def look(_: Any) -> list[Any]:
        import udfs as shipped

        missing = [name for name in needs if importlib.util.find_spec(name) is None]
        return [(sys.executable, missing, getattr(shipped, "MARKER", None), str(shipped.__file__))]

    try:
        executable, missing, marker, place = spark.sparkContext.parallelize([0], 1).mapPartitions(look).collect()[0]
    except Exception as e:
        if "PYTHON_VERSION_MISMATCH" in str(e) or "different version" in str(e):
            said = f"The workers' Python is not the driver's, {versions[0]}.{versions[1]}. Set PYSPARK_PYTHON to one that is"
            raise error("DLSQL_ENVIRONMENT", problem=f"{said}, with dlsql's dependencies, e.g. {sys.executable}.") from e
        raise
    if missing:
        raise error(
            "DLSQL_ENVIRONMENT",
            problem=f"The workers' Python ({executable}) lacks {', '.join(missing)}. Install them there, or set PYSPARK_PYTHON.",
        )
    if marker != "dlsql.udfs":
        raise error(
            "DLSQL_ENVIRONMENT", problem=f"Another module named udfs ({place}) hides the one dlsql brings on the workers. Rename it."
        )
