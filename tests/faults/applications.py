"""Spark applications in processes of their own, which tests can do anything to."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SCRIPT = Path(__file__).resolve().parent.parent / "workers" / "cluster.py"
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
    log: Path

    def ask(self, name: str, options: str, faults: list[str]) -> None:
        """Begins to train a model."""
        print(json.dumps({"name": name, "options": options, "faults": faults}), file=self.process.stdin, flush=True)

    def line(self) -> Any:
        """What it says next."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said, self.log.read_text()[-4000:]
        return json.loads(said)

    def train(self, name: str, options: str, faults: list[str]) -> dict[str, Any]:
        """Trains a model while something happens, and tells what came of it."""
        self.ask(name, options, faults)
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
    made = Application(process, folder / "log")
    try:
        assert made.line() == "ready"
        yield made
        if process.poll() is None and process.stdin is not None:
            process.stdin.close()
            assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            made.kill()
