"""The language over the network: one driver process that answers JDBC tools (the Hive Thrift server) and Spark Connect clients."""

import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from dlsql.errors import error
from dlsql.session import session

_THRIFT_HOST = "spark.hadoop.hive.server2.thrift.bind.host"
_THRIFT_PORT = "spark.hadoop.hive.server2.thrift.port"
_CONNECT_HOST = "spark.connect.grpc.binding.address"
_CONNECT_PORT = "spark.connect.grpc.binding.port"
_ADDRESSES = {_THRIFT_HOST: "127.0.0.1", _THRIFT_PORT: "10000", _CONNECT_HOST: "127.0.0.1", _CONNECT_PORT: "15002"}
_ISOLATION = "spark.sql.artifact.isolation.enabled"
_SECONDS_BETWEEN_LOOKS = 1.0  # at whether Spark is still there


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one protocol is spoken."""

    protocol: str
    url: str


def serve(
    warehouse: str | Path = "spark-warehouse", *, host: str | None = None, port: int | None = None, connect_port: int | None = None,
    master: str = "local[*]", conf: Mapping[str, str] | None = None, ready: Callable[[Endpoint], None] | None = None,
) -> None:  # fmt: skip
    """Serves JDBC and Spark Connect until the process is told to end (SIGINT or SIGTERM). To be called in the main thread.

    Every connection has a session of its own: temporary views, settings and the current database are private to it.

    Args:
        warehouse: the folder of tables, models and the embedded metastore.
        host: the address to listen on, where nobody is asked for a password. By default what `conf` says of it, else 127.0.0.1.
        port: of the Thrift server; 0 takes any that is free. By default `spark.hadoop.hive.server2.thrift.port` in `conf`, else 10000.
        connect_port: of Spark Connect; 0 takes any that is free. By default `spark.connect.grpc.binding.port` in `conf`, else 15002.
        master: where Spark runs.
        conf: more Spark settings.
        ready: is told each endpoint once it takes connections; by default it is printed.

    Raises:
        UnsupportedError: a port is taken (before Spark starts), or the environment is not one that dlsql runs in.
        StorageError: Spark's process ended by itself.
    """
    given = {_THRIFT_HOST: host, _THRIFT_PORT: port, _CONNECT_HOST: host, _CONNECT_PORT: connect_port}
    settings = {**_ADDRESSES, **(conf or {}), **{key: str(value) for key, value in given.items() if value is not None}}
    settings[_THRIFT_PORT] = str(_free_port(settings[_THRIFT_HOST], settings[_THRIFT_PORT], "--port"))
    settings[_CONNECT_PORT] = str(_free_port(settings[_CONNECT_HOST], settings[_CONNECT_PORT], "--connect-port"))
    with as_file(files("dlsql") / "fairscheduler.xml") as pools:
        defaults = {
            "spark.scheduler.mode": "FAIR",
            "spark.scheduler.allocation.file": pools.as_uri(),
            # How long the driver of Hive waits for an answer before it asks again; before that it sends no cancellation. Hive's own is 5 s.
            "spark.hadoop.hive.server2.long.polling.timeout": "500ms",
            _ISOLATION: "true",  # as Spark's own server has it: a Connect client's files are its own
        }
        spark = session(warehouse, master=master, name="dlsql server", conf={**defaults, **settings})
        with _told_to_end() as end:
            try:
                spark.catalog.listDatabases()  # opens the metastore: what may be wrong with it comes out now, and not before a client
                with _endpoints(spark, settings) as endpoints:
                    for endpoint in endpoints:
                        (ready or announce)(endpoint)
                    _wait(spark, end)
            finally:
                spark.stop()


def announce(endpoint: Endpoint) -> None:
    """Prints an endpoint in a line, at once: who started the process may wait for it."""
    print(f"{endpoint.protocol:<14} {endpoint.url}", flush=True)


@contextmanager
def _endpoints(spark: SparkSession, settings: Mapping[str, str]) -> Iterator[list[Endpoint]]:
    """Both servers, running. They make their clients' sessions from the session that they get, which has the language."""
    jvm: Any = spark._jvm
    service = jvm.org.apache.spark.sql.connect.service.SparkConnectService
    thrift = jvm.org.apache.spark.sql.hive.thriftserver.HiveThriftServer2.startWithContext(_sharing(spark).sqlContext())
    try:
        service.start(spark._jsparkSession.sparkContext())
        nothing = jvm.scala.Option.empty()
        try:
            yield [
                Endpoint("JDBC (Thrift)", f"jdbc:hive2://{_address(settings[_THRIFT_HOST])}:{settings[_THRIFT_PORT]}"),
                Endpoint("Spark Connect", f"sc://{_address(settings[_CONNECT_HOST])}:{settings[_CONNECT_PORT]}"),
            ]
        finally:
            service.stop(nothing, nothing)
    finally:
        thrift.stop()


def _sharing(spark: SparkSession) -> Any:
    """A session for JDBC: its files, and so its Python workers, which hold models in memory, are shared by all connections.

    As `newSession` makes it, but for a setting that counts only when a session is made.
    """
    jvm: Any = spark._jvm
    base = spark._jsparkSession
    shared, parent = jvm.scala.Option.apply(base.sharedState()), jvm.scala.Option.empty()
    options = base.initialSessionOptions().updated(_ISOLATION, "false")
    tags = options.empty()  # of jobs
    return jvm.org.apache.spark.sql.classic.SparkSession(base.sparkContext(), shared, parent, base.extensions(), options, tags)


def _wait(spark: SparkSession, end: threading.Event) -> None:
    process = getattr(spark.sparkContext._gateway, "proc", None)
    while not end.wait(_SECONDS_BETWEEN_LOOKS):
        if process is not None and process.poll() is not None:
            problem = f"Spark's process ended by itself, with exit code {process.returncode}. Its output above says why."
            raise error("DLSQL_STORAGE", problem=problem)


@contextmanager
def _told_to_end() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set. A second signal, while all is being stopped, ends the process at once."""
    end = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        end.set()
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_DFL)

    before = {one: signal.signal(one, on_signal) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield end
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _free_port(host: str, port: str, flag: str) -> int:
    """The port, if it can be listened on; any that can for 0."""
    if not port.isdecimal() or int(port) > 65535:
        raise error("DLSQL_ENVIRONMENT", problem=f"{port} is not a port; {flag} takes a number from 0 to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do: connections of an earlier one may linger
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as e:
        problem = f"Cannot listen on port {port} of {host}: {e.strerror}. Stop what listens there, or choose another with {flag}."
        raise error("DLSQL_ENVIRONMENT", problem=problem) from e


def _address(host: str) -> str:
    """A host as a client on another machine, or in a URL, names it."""
    if host in ("0.0.0.0", "::", ""):
        return socket.getfqdn()
    return f"[{host}]" if ":" in host else host
