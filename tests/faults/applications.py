"""Spark applications in processes of their own, which tests can do anything to, and clusters of several hosts for them."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyspark

from tests.waiting import until

_SCRIPT = Path(__file__).resolve().parent.parent / "workers" / "cluster.py"
READINGS = "SELECT * FROM readings"
CONF = {
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "1g",
}


@dataclass(frozen=True, slots=True)
class Application:
    """One that runs."""

    process: subprocess.Popen[str]
    folder: Path

    @property
    def log(self) -> str:
        """What it and its JVM have said so far."""
        return (self.folder / "log").read_text()

    def files(self, pattern: str) -> list[Path]:
        """What lies in its model store."""
        return sorted((self.folder / "warehouse" / "dlsql.db").glob(pattern))

    def ask(
        self, name: str, options: str, faults: list[str], query: str = READINGS, catalog: str = "dlsql", executors_wanted: int = 0
    ) -> None:
        """Begins to train a model; its third round waits for executors."""
        self._ask(name=name, options=options, faults=faults, query=query, catalog=catalog, executors_wanted=executors_wanted)

    def _ask(self, **asked: object) -> None:
        print(json.dumps(asked), file=self.process.stdin, flush=True)

    def line(self) -> Any:
        """What it says next."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said, self.log[-4000:]
        return json.loads(said)

    def train(self, name: str, options: str, faults: list[str], query: str = READINGS, catalog: str = "dlsql") -> dict[str, Any]:
        """Trains a model while something happens, and tells what came of it."""
        self.ask(name, options, faults, query, catalog)
        told: dict[str, Any] = self.line()
        return told

    def score(self, name: str, faults: list[str], rows: int = 800_000, catalog: str = "dlsql") -> dict[str, Any]:
        """Scores rows while something happens, and tells what came of it."""
        self._ask(name=name, faults=faults, rows=rows, catalog=catalog)
        told: dict[str, Any] = self.line()
        return told

    def kill(self) -> None:
        """Ends it and its JVM, as a power cut would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)


@contextmanager
def application(folder: Path, master: str, conf: dict[str, str]) -> Iterator[Application]:
    """One that is ready, with the warehouse of the folder, until the block ends."""
    command = [sys.executable, str(_SCRIPT), json.dumps([str(folder / "warehouse"), master, CONF | conf])]
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
    made = Application(process, folder)
    try:
        assert made.line() == "ready"
        yield made
        if process.poll() is None and process.stdin is not None:
            process.stdin.close()
            assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            made.kill()


@dataclass(frozen=True, slots=True)
class Cluster:
    """Spark's own cluster manager on this machine, whose hosts are addresses of the loopback."""

    folder: Path
    daemons: ExitStack
    master: str  # spark://127.0.0.1:port

    @property
    def log(self) -> str:
        """What the executors have said so far."""
        return "".join(log.read_text() for log in self.folder.glob("127.*/app-*/*/stderr"))

    def add_host(self, host: str) -> None:
        """Another host, with a core."""
        more = ["--cores", "1", "--memory", "1g", "--work-dir", str(self.folder / host), self.master]
        log = self.daemons.enter_context(_daemon(self.folder, "worker.Worker", host, more))
        until(lambda: "Successfully registered with master" in log.read_text())


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """One without a host so far."""
    folder.mkdir()
    with ExitStack() as daemons:
        log = daemons.enter_context(_daemon(folder, "master.Master", "127.0.0.1", []))
        started = re.compile(r"Starting Spark master at (spark://[\d.:]+)")
        until(lambda: started.search(log.read_text()) and "I have been elected leader" in log.read_text())
        found = started.search(log.read_text())
        assert found
        yield Cluster(folder, daemons, found[1])


@contextmanager
def _daemon(folder: Path, name: str, host: str, more: list[str]) -> Iterator[Path]:
    """A process of the cluster manager, at ports that the system chooses; its log."""
    home = Path(pyspark.__file__).parent
    log = folder / f"{name}-{host}.log"
    command = [home / "bin" / "spark-class", f"org.apache.spark.deploy.{name}", "--host", host, "--port", "0", "--webui-port", "0", *more]
    env = {**os.environ, "SPARK_HOME": str(home), "SPARK_DAEMON_MEMORY": "256m", "SPARK_LOCAL_IP": host}
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, env=env)
    try:
        yield log
    finally:
        process.terminate()  # a worker takes its executors with it
        process.wait(60)
