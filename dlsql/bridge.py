"""The py4j edge: our Java compiled and installed in the driver's JVM, its questions answered, and the JVM services the driver needs."""

import json
import logging
import math
import re
import tempfile
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from py4j.java_gateway import JavaClass
from py4j.protocol import Py4JJavaError
from pyspark import RDD, Broadcast, SparkContext
from pyspark.errors.exceptions.captured import CapturedException
from pyspark.java_gateway import ensure_callback_server_started
from pyspark.serializers import CPickleSerializer
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import DataType
from pyspark.sql.udf import UserDefinedFunction
from pyspark.util import PythonEvalType

from dlsql.errors import DlsqlError, error

_LOG = logging.getLogger("dlsql")
# In an order in which each uses those before it.
_SOURCES = (
    "Lists", "Language", "Asked", "Values", "Element", "TensorPart", "Encoder", "Inputs", "Wanted", "Encode", "Answers", "Labels",
    "Tensors", "Answer", "PackColumns", "Blocks", "Predict", "Numbers", "Unpacked", "Scoring", "Storage", "Run", "Packing",
    "Statistics", "Functions", "Metastore",
)  # fmt: skip

_T = TypeVar("_T")
Question = Mapping[str, Any]
Answer = Callable[[SparkSession, Question], Any]
Builders = Mapping[str, tuple[str, ...]]  # a class of Functions.java that builds functions -> their names


@dataclass(frozen=True, slots=True)
class Summary:
    """What a column's numbers are like, NULL aside."""

    count: float
    sum: float
    center: float  # their mean but for rounding; of this and what follows nothing is said where there is no number
    squares: float  # the sum of squared deviations from it
    least: float
    largest: float

    @property
    def mean(self) -> float:
        """The mean; of whole numbers the same whatever order they come in."""
        return self.sum / self.count

    @property
    def deviation(self) -> float:
        """The standard deviation, of a population."""
        return math.sqrt(self.squares / self.count)


class Bridge:
    """Our half of a driver's JVM. One for each Spark application; `attach` in session.py makes it."""

    def __init__(self, spark: SparkSession, answer: Answer) -> None:
        self.context = spark.sparkContext
        self._jvm: Any = spark._jvm
        self._gateway: Any = self.context._gateway
        ensure_callback_server_started(self._gateway)  # type: ignore[no-untyped-call]
        self._loader = _compile(spark)
        self._python = self._new("Language$Python", _Callback(self, answer))
        self._shipped: set[str] = set()  # sessions that keep their files apart and have ours
        self._shipping = threading.Lock()
        self._metastores: dict[str, Metastore] = {}
        self._files = Files(self._jvm, self.context._jsc.hadoopConfiguration())

    def _new(self, name: str, *arguments: Any) -> Any:
        """An instance of one of our classes. A proxy of a Python object must travel as a method's argument, not in a Java array."""
        return self._loader.loadClass(f"dlsql.{name}").getConstructors()[0].newInstance(self._list(*arguments).toArray())

    def _class(self, name: str) -> Any:
        """A class by its full name. Each dot after `_jvm` has the JVM look for a class in all its jars: half a millisecond."""
        return JavaClass(name, self._gateway._gateway_client)

    def _list(self, *values: Any) -> Any:
        made = self._class("java.util.ArrayList")()
        for value in values:
            made.add(value)
        return made

    def install(self, spark: SparkSession, builders: Builders) -> None:
        """Teaches the language to every session that is made from now on: parser by extension, functions among Spark's built-in ones.

        A function that is injected by an extension counts as temporary, and a persistent view may not use one; a built-in may.
        """
        extensions = spark._jsparkSession.extensions()
        extensions.injectParser(self._new("Language$ParserFactory", self._python))
        extensions.injectColumnar(self._new("Scoring$Planning"))
        extensions.injectOptimizerRule(self._new("Scoring$Guarding"))
        extensions.injectOptimizerRule(self._new("Functions$Following", self._python))
        analysis = self._jvm.org.apache.spark.sql.catalyst.analysis
        self._teach(analysis.FunctionRegistry.builtin(), analysis.TableFunctionRegistry.builtin(), builders)

    def _teach(self, functions: Any, tables: Any, builders: Builders) -> None:
        for builder, names in builders.items():
            self._register(tables if builder == "Table" else functions, f"Functions${builder}", names)

    def _register(self, registry: Any, builder: str, names: tuple[str, ...]) -> None:
        catalyst, some = self._jvm.org.apache.spark.sql.catalyst, self._jvm.scala.Option.apply
        for name in names:
            identifier = catalyst.FunctionIdentifier(name, some("builtin"), some("system"))
            registry.registerFunction(
                identifier, catalyst.expressions.ExpressionInfo("dlsql", name), self._new(builder, self._python, name)
            )

    def clone(self, spark: SparkSession, builders: Builders) -> SparkSession:
        """A session with the settings, views and current database of another, and with the language.

        A session that has run a query keeps its parser for good, so statements cannot be taught in place. Functions can, and are: what
        a DataFrame of the session is asked to predict, it predicts. The clone takes them over.
        """
        state = spark._jsparkSession.sessionState()
        self._teach(state.functionRegistry(), state.tableFunctionRegistry(), builders)
        return self.session(spark._jsparkSession.cloneSession())

    def session(self, jsession: Any) -> SparkSession:
        """A JVM session as Python's."""
        return SparkSession(self.context, jsparkSession=jsession)

    def ship(self, spark: SparkSession, archive: Path) -> None:
        """Gives an archive of Python files to the workers of a session that keeps its files apart from the application's.

        Such a session (spark.sql.artifact.isolation.enabled, as servers of Spark Connect have it) does not see what `addPyFile` sent.
        """
        manager = spark._jsparkSession.artifactManager()
        state = manager.state()
        with self._shipping:
            if state is not None and state.uuid() not in self._shipped:
                name, file = (self._jvm.java.io.File(one).toPath() for one in (f"pyfiles/{archive.name}", str(archive)))
                manager.addArtifact(name, file, self._jvm.scala.Option.empty(), False)
                self._shipped.add(state.uuid())

    def knows_language(self, spark: SparkSession) -> bool:
        """Whether a session has our parser."""
        parser = spark._jsparkSession.sessionState().sqlParser()
        proxies = self._class("java.lang.reflect.Proxy")
        return bool(proxies.isProxyClass(parser.getClass())) and proxies.getInvocationHandler(parser).getClass().getName().startswith(
            "dlsql."
        )

    def check_parses(self, spark: SparkSession, text: str) -> None:
        """Raises Spark's ParseException where a text is not one statement."""
        spark._jsparkSession.sessionState().sqlParser().parsePlan(text)

    def check_means(self, spark: SparkSession, text: str) -> None:
        """Raises Spark's AnalysisException where a text that parses means nothing. It runs nothing."""
        state = spark._jsparkSession.sessionState()
        state.executePlan(state.sqlParser().parsePlan(text), getattr(state, "executePlan$default$2")()).assertAnalyzed()

    def bound(self, udf: UserDefinedFunction, plan: Mapping[str, Any], *objects: Any) -> Any:
        """An answer to "bind": the worker's function, how the arguments feed it, and for a model that is known its encoder and answers."""
        return self._list(udf._judf, json.dumps(plan), *objects)

    def finite(self, rows: DataFrame, numbers: Sequence[int], lists: Sequence[int]) -> DataFrame:
        """The rows that hold no NaN and nothing infinite in these columns, by their places: numbers, and arrays of them."""
        return DataFrame(self._class("dlsql.Statistics").finite(rows._jdf, json.dumps(numbers), json.dumps(lists)), rows.sparkSession)

    def statistics(self, rows: DataFrame, columns: Sequence[int], checked: Sequence[int]) -> tuple[int, int, list[Summary]]:
        """How many rows count and how many do not, and of each of these columns, by their places, a summary; see Statistics.java."""
        count, skipped, *found = json.loads(self._class("dlsql.Statistics").of(rows._jdf, json.dumps(columns), json.dumps(checked)))
        each = len(found) // len(columns)
        return int(count), int(skipped), [Summary(*found[at : at + each]) for at in range(0, len(found), each)]

    def encoder(self, told: str) -> Any:
        """What packs rows in the JVM, see dlsql.encoding."""
        return self._new("Encoder", told)

    def blocks(
        self, rows: DataFrame, columns: Sequence[int], encoder: Any, workers: int, buckets: int, joined: int, ends: Sequence[int],
        seed: int, drawn: int, title: str,
    ) -> "RDD[Any]":  # fmt: skip
        """Rows as blocks, see Packing.java; the encoder takes these of the frame's columns, by their places."""
        taken, parts = json.dumps(columns), json.dumps(ends)
        packed = self._class("dlsql.Packing").blocks(rows._jdf, taken, encoder, workers, buckets, joined, parts, seed, drawn, title)
        return RDD(packed, self.context, CPickleSerializer())

    def counted(self, blocks: "RDD[Any]") -> list[tuple[int, ...]]:
        """Of each partition of blocks: the rows to train on, those held out, and a checksum of either. It makes the blocks."""
        found: list[tuple[int, ...]] = [tuple(one) for one in json.loads(self._class("dlsql.Packing").counted(blocks._jrdd))]
        return found

    def settle(self, blocks: "RDD[Any]") -> None:
        """Frees what blocks, which are made, were made of."""
        self._class("dlsql.Packing").settle(blocks._jrdd)

    def labels(self, told: str) -> Any:
        """What reads the outputs of a network that was trained here, in the JVM, see dlsql.encoding."""
        return self._new("Labels", told)

    def tensors(self, told: str) -> Any:
        """What reads those of an imported graph."""
        return self._new("Tensors", told)

    def query(self, text: str, placeholder: str) -> Any:
        """An answer to "table": a query over a stand-in relation."""
        return self._list(text, placeholder)

    def dataset(self, frame: DataFrame) -> Any:
        """A DataFrame as the JVM's."""
        return frame._jdf

    def refusal(self, raised: DlsqlError) -> Any:
        """An error as the JVM throws it."""
        return self._new("Language$Refusal", raised.condition, raised.sqlstate, str(raised))

    def metastore(self, spark: SparkSession, database: str) -> "Metastore":
        """The partitions of a database's tables."""
        if database not in self._metastores:  # an application's sessions share one
            self._metastores[database] = Metastore(self._new("Metastore", spark._jsparkSession, database))
        return self._metastores[database]

    def files(self) -> "Files":
        """The file systems that Spark's own settings reach."""
        return self._files

    def database_location(self, spark: SparkSession, database: str) -> str:
        """Where a database keeps its tables."""
        return str(spark._jsparkSession.sharedState().externalCatalog().getDatabase(database).locationUri().toString())

    def threads(self) -> int:
        """How many cores a task has."""
        return int(self.context.getConf().get("spark.task.cpus", "1") or 1)

    def user(self) -> str:
        """Whom a statement runs for, as current_user() tells: a JDBC connection has its own."""
        return str(self._class("org.apache.spark.sql.catalyst.CurrentUserContext").getCurrentUser())

    def client_log(self) -> Callable[[str], None]:
        """Writes a line to the JDBC client for which this thread runs a statement; nowhere where there is none.

        Beeline and DBeaver show such lines while they wait. A server with hive.server2.logging.operation.enabled = false passes none on.
        """
        log = self._class("org.apache.hadoop.hive.ql.session.OperationLog").getCurrentOperationLog()
        return (lambda line: None) if log is None else lambda line: log.writeOperationLog(f"{line}\n")

    def tables_read(self, frame: DataFrame) -> tuple[str, ...]:
        """The tables that a query reads, by full name."""
        plan = frame._jdf.queryExecution().analyzed().collectLeaves().iterator()
        names = set()
        while plan.hasNext():
            leaf = plan.next()
            if leaf.getClass().getSimpleName() in ("HiveTableRelation", "LogicalRelation"):
                table = leaf.tableMeta() if leaf.getClass().getSimpleName() == "HiveTableRelation" else leaf.catalogTable()
                if leaf.getClass().getSimpleName() == "LogicalRelation":
                    if table.isEmpty():
                        continue
                    table = table.get()
                names.add(str(table.identifier().unquotedString()))
        return tuple(sorted(names))


_PATCHING = threading.Lock()


class _Callback:
    """A java.util.function.BiFunction: py4j can proxy a JDK interface, and none from the loader of our classes."""

    def __init__(self, bridge: Bridge, answer: Answer) -> None:
        self._bridge, self._answer = bridge, answer

    def apply(self, jsession: Any, question: str) -> Any:
        """Answers one question of the JVM; an exception goes back as a Throwable, which is thrown there."""
        try:
            return self._answer(self._session(jsession), json.loads(question))
        except DlsqlError as e:
            return self._bridge.refusal(e)
        except Py4JJavaError as e:
            return e.java_exception
        except CapturedException as e:
            return e._origin if e._origin is not None else self._unexpected(e)
        except BaseException as e:  # whatever it is, the JVM thread that waits must hear of it
            return self._unexpected(e)

    def _session(self, jsession: Any) -> SparkSession:
        """PySpark's `RDD.toDF` belongs to the session that was made last: to one of the user's, not to this."""
        with _PATCHING:
            to_df = RDD.toDF
            made = self._bridge.session(jsession)
            RDD.toDF = to_df  # type: ignore[method-assign]
            return made

    def _unexpected(self, raised: BaseException) -> Any:
        _LOG.exception("dlsql failed on a question of the JVM")
        return self._bridge.refusal(DlsqlError("DLSQL_INTERNAL", "XX000", f"{type(raised).__name__}: {raised}"))

    class Java:
        """What py4j reads."""

        implements = ("java.util.function.BiFunction",)


class Metastore:
    """The partitions of a database's tables by their values, in one call each. What it cannot do is a StorageError."""

    def __init__(self, java: Any) -> None:
        self._java = java

    def revision(self) -> str | None:
        """What `revise` left; None before it was ever called."""
        found = _metastore("read the catalog's revision", self._java.revision)
        return None if found is None else str(found)

    def revise(self, revision: str) -> None:
        """Leaves a revision for every client to see."""
        _metastore("write the catalog's revision", self._java.revise, revision)

    def exists(self, table: str) -> bool:
        """Whether there is such a table."""
        return bool(_metastore(f"find table {table}", self._java.exists, table))

    def has_database(self, name: str) -> bool:
        """Whether there is such a database."""
        return bool(_metastore(f"find database {name}", self._java.hasDatabase, name))

    def partitions(self, table: str, values: Mapping[str, str]) -> list[dict[str, str]]:
        """The partitions that agree with `values`: each its columns, and its location under ''."""
        found: list[dict[str, str]] = json.loads(_metastore(f"list {table}", self._java.partitions, table, json.dumps(values)))
        return found

    def names(self, table: str, values: Mapping[str, str]) -> list[dict[str, str]]:
        """As `partitions`, without the locations, for a fraction of its price."""
        found: list[dict[str, str]] = json.loads(_metastore(f"list {table}", self._java.names, table, json.dumps(values)))
        return found

    def add(self, table: str, values: Mapping[str, str], location: str) -> bool:
        """Adds a partition, atomically; False if there is one."""
        return bool(_metastore(f"add to {table}", self._java.add, table, json.dumps(values), location))

    def move(self, table: str, values: Mapping[str, str], location: str) -> None:
        """Points a partition to another location, atomically."""
        _metastore(f"change {table}", self._java.move, table, json.dumps(values), location)

    def drop(self, table: str, values: Mapping[str, str]) -> bool:
        """Takes a partition away and leaves its files; False if there is none."""
        return bool(_metastore(f"drop from {table}", self._java.drop, table, json.dumps(values)))


def _metastore(action: str, call: Callable[..., Any], *arguments: str) -> Any:
    for _ in range(_TIMES):
        try:
            return call(*arguments)
        except Py4JJavaError as e:
            reason, trace = str(e.java_exception.toString()), str(e)
        except CapturedException as e:
            reason, trace = str(e), str(e._stackTrace)
        if not _DEADLOCK.search(reason + trace):
            break
    raise error("DLSQL_CATALOG", problem=f"The metastore could not {action}: {reason.splitlines()[0]}")


# In which a database takes back all that one side did: the words of Derby, MySQL, PostgreSQL and Oracle, SQL Server.
_DEADLOCK = re.compile("due to a deadlock|deadlock found|deadlock detected|was deadlocked", re.IGNORECASE)
_TIMES = 5  # that such a call is made


class Files:
    """Files through Spark's Hadoop FileSystem, whatever the scheme."""

    def __init__(self, jvm: Any, configuration: Any) -> None:
        self._path: Any = jvm.org.apache.hadoop.fs.Path
        self._configuration = configuration

    def _at(self, path: str) -> tuple[Any, Any]:
        place = self._path(path)
        return place.getFileSystem(self._configuration), place

    def read(self, path: str) -> bytes:
        """A file's bytes."""
        return self.get(path, Path.read_bytes)

    def get(self, path: str, use: Callable[[Path], _T]) -> _T:
        """What comes of a file's copy on this machine, which is there meanwhile: py4j would carry the bytes as base64 text."""
        return self._guarded("read", path, lambda: self._get(path, use))

    def _get(self, path: str, use: Callable[[Path], _T]) -> _T:
        system, place = self._at(path)
        with tempfile.TemporaryDirectory() as folder:
            local = f"{folder}/file"
            system.copyToLocalFile(False, place, self._path(f"file://{local}"), True)
            return use(Path(local))

    def write(self, path: str, data: bytes) -> None:
        """Writes bytes as a new file, as `put` does."""
        self.put(path, lambda local: local.write_bytes(data))

    def put(self, path: str, fill: Callable[[Path], object]) -> None:
        """Has a file filled on this machine, copies it under a name of its own and renames it, so that no reader sees half of it."""
        self._guarded("write", path, lambda: self._put(path, fill))

    def _put(self, path: str, fill: Callable[[Path], object]) -> None:
        system, place = self._at(path)
        parted = self._path(f"{path}.part")
        try:
            with tempfile.TemporaryDirectory() as folder:
                local = f"{folder}/file"
                fill(Path(local))
                system.copyFromLocalFile(True, True, self._path(f"file://{local}"), parted)
            if not system.rename(parted, place):
                raise OSError("a file of that name is there already")
        except BaseException:
            with suppress(Py4JJavaError, CapturedException):  # half a file on a full disk would keep it full
                system.delete(parted, False)
            raise

    def delete(self, path: str) -> None:
        """Removes a file or a folder with all that is in it, if it is there."""

        def delete() -> None:
            system, place = self._at(path)
            system.delete(place, True)

        self._guarded("delete", path, delete)

    def list(self, path: str) -> list[tuple[str, float]]:
        """The full names in a folder, sorted, each with the second it was modified; nothing where there is no folder."""
        return sorted((str(one.getPath().toString()), one.getModificationTime() / 1000) for one in self._entries(path))

    def sizes(self, path: str) -> dict[str, int]:
        """The names in a folder, each with its bytes; nothing where there is no folder."""
        return {str(one.getPath().getName()): int(one.getLen()) for one in self._entries(path)}

    def _entries(self, path: str) -> Sequence[Any]:
        def entries() -> Sequence[Any]:
            system, place = self._at(path)
            return list(system.listStatus(place)) if system.exists(place) else []

        return self._guarded("list", path, entries)

    def _guarded(self, verb: str, path: str, action: Callable[[], _T]) -> _T:
        try:
            return action()
        except Py4JJavaError as e:
            reason = str(e.java_exception.toString()).split("\n")[0]
        except (CapturedException, OSError) as e:
            reason = str(e).split("\n")[0]
        raise error("DLSQL_STORAGE", problem=f"Could not {verb} {path}: {reason}")


def was_cancelled(raised: BaseException) -> bool:
    """Whether somebody ended a job, or interrupted the thread of a statement between two jobs, as servers do for their clients."""
    said = r"SPARK_JOB_CANCELLED|[Jj]ob \d+ cancelled|cancelled part of|^: java\.lang\.InterruptedException"
    return isinstance(raised, KeyboardInterrupt) or bool(re.search(said, str(raised), re.MULTILINE))


def slots(context: SparkContext) -> int:
    """How many tasks can run at once in a barrier stage, which takes them all together, on the executors that are there.

    0 where Spark may take executors away at any time: it refuses barrier stages under dynamic allocation. 0 also where somebody asked for
    speculation: of a barrier stage's task Spark starts no copy, and one that hangs would hold up the whole stage.
    """
    scala: Any = context._jsc.sc()
    conf = scala.conf()  # the context's getConf would copy all settings: 20 ms
    if any(str(conf.get(f"spark.{what}", "false")).lower() == "true" for what in ("dynamicAllocation.enabled", "speculation")):
        return 0
    return int(scala.maxNumConcurrentTasks(scala.resourceProfileManager().defaultResourceProfile()))


def has_begun(context: SparkContext, tag: str) -> bool:
    """Whether any task of the jobs of a tag has begun. Asked of the scheduler: what Spark's UI shows may be ten seconds old."""
    scheduler: Any = context._jsc.sc().taskScheduler()
    tracker = context.statusTracker()
    jobs = filter(None, map(tracker.getJobInfo, context._jsc.sc().statusTracker().getJobIdsForTag(tag)))
    for stage in filter(None, (tracker.getStageInfo(stage) for job in jobs for stage in job.stageIds)):
        tasks = scheduler.taskSetManagerForAttempt(stage.stageId, stage.currentAttemptId)
        if stage.numCompletedTasks or (tasks.isDefined() and tasks.get().runningTasks()):
            return True
    return False


def patience(context: SparkContext) -> int:
    """Seconds that a worker waits for the others of its barrier stage: a time as Spark writes them, 90s or 2h. Static, like its own."""
    conf: Any = context._jsc.sc().conf()
    return int(conf.getTimeAsSeconds("spark.dlsql.gang_patience", "1h"))


def shared_file(context: SparkContext, place: str) -> "Broadcast[bytes]":
    """A file as a broadcast for workers, where `_path` says where it lies on their host. Not for a Spark that encrypts its own files.

    `place` is a path of this machine, whose file travels as Spark's broadcasts do; or a URI of another file system, from which each
    executor reads it by itself, see Storage.java.
    """
    jvm: Any = context._jvm
    if place.startswith("/"):
        file = jvm.PythonRDD.setupBroadcast(place)
    else:
        file = JavaClass("dlsql.Storage$Distant", jvm._gateway_client)(place, context._jsc.hadoopConfiguration())
    shared: Any = object.__new__(Broadcast)  # whose constructor pickles a value
    shared._jbroadcast, shared._pickle_registry = context._jsc.broadcast(file), context._pickled_broadcast_vars
    return shared  # type: ignore[no-any-return]


def scalar_arrow_udf(function: Callable[..., Any], returns: DataType, name: str) -> UserDefinedFunction:
    """A worker's function over Arrow arrays as a Spark function of this name."""
    return UserDefinedFunction(function, returns, name=name, evalType=PythonEvalType.SQL_SCALAR_ARROW_UDF, deterministic=True)


def grouped_arrow_udf(function: Callable[..., Any], returns: DataType, name: str) -> UserDefinedFunction:
    """A worker's function over the Arrow arrays of a group as a Spark aggregate of this name."""
    return UserDefinedFunction(function, returns, name=name, evalType=PythonEvalType.SQL_GROUPED_AGG_ARROW_UDF, deterministic=True)


def _compile(spark: SparkSession) -> Any:
    """The class loader of our Java, compiled by the Janino that Spark ships: no JDK, no build step.

    Executors need the classes too, whose code Spark generates to call them: they get them as a jar. The driver has them in the loader
    that all others descend from, since Spark compiles that code here first, in whatever thread plans a query.
    """
    jvm: Any = spark._jvm
    jar = Path(str(spark.sparkContext._temp_dir)) / "dlsql.jar"  # Spark removes that folder when it stops
    root = loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
    names = []
    with zipfile.ZipFile(jar, "w") as out:
        for name in _SOURCES:
            compiler = jvm.org.codehaus.janino.SimpleCompiler()
            compiler.setParentClassLoader(loader)
            compiler.setSourceVersion(8)
            compiler.setTargetVersion(8)
            compiler.cook((files("dlsql") / "jvm" / f"{name}.java").read_text())
            loader = compiler.getClassLoader()
            for path, code in dict(compiler.getBytecodes()).items():
                names.append(path)
                out.writestr(f"{path.replace('.', '/')}.class", bytes(code))
    root.addURL(jvm.java.io.File(str(jar)).toURI().toURL())
    for name in names:  # now, for good: Hive's server closes the loaders of a JDBC session that ends, up to this one
        root.loadClass(name)
    spark.sparkContext._jsc.addJar(str(jar))
    return root
