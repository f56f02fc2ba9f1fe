"""Executors in processes of their own on this machine: trains a model while something goes wrong, and tells what came of it.

A line of JSON in, {"name", "options", "faults"}; a line out: the SHA-256 of the model's weights or the error, the rounds, and what is left.
"""

import hashlib
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import numpy as np

import dlsql
from dlsql.training import rounds as loop

warehouse, master, conf = json.loads(sys.argv[1])
started = datetime.now()
spark = dlsql.session(warehouse, master=master, name="cluster", conf=conf)
context = spark.sparkContext
spark.range(6000).selectExpr("id", *(f"sin(id * {i}) AS x{i}" for i in range(1, 13))).selectExpr(
    "* EXCEPT (id)", "x1 * x2 + 3 * x3 - x4 * x5 + (id % 7) / 7 AS label"
).write.mode("overwrite").saveAsTable("readings")


def processes() -> Iterator[tuple[int, int, str]]:
    """Pid, pid of the parent, command line."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                said = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield int(folder.name), int((folder / "stat").read_text().rpartition(")")[2].split()[1]), said
            except OSError:
                continue  # it has ended


def executors() -> list[int]:
    return sorted(pid for pid, _, said in processes() if "CoarseGrainedExecutorBackend" in said and str(context.applicationId) in said)


def workers() -> list[int]:
    """Python workers: what the daemons of the executors have forked."""
    found = list(processes())
    daemons = {pid for pid, parent, said in found if "pyspark.daemon" in said and parent in executors()}
    return sorted(pid for pid, parent, said in found if "pyspark.daemon" in said and parent in daemons)


def until(true: Callable[[], object], seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def rounds(name: str) -> list[int]:
    try:
        return [row[0] for row in spark.sql(f"SELECT round FROM ML_TRAINING_INFO('{name}')").collect()]
    except Exception:
        return []  # nothing is known of it yet


def busy() -> bool:
    return bool(context.statusTracker().getActiveJobsIds())


def kill_executor() -> None:
    until(lambda: executors() and busy())
    os.kill(executors()[0], signal.SIGKILL)


def decommission_executor() -> None:
    os.kill(executors()[0], signal.SIGPWR)


def kill_worker() -> None:
    until(lambda: workers() and busy())
    os.kill(workers()[0], signal.SIGKILL)


FAULTS = {f.__name__: f for f in (kill_executor, decommission_executor, kill_worker)}


begun = 0
pending: list[str] = []
threads: list[threading.Thread] = []
run_round = loop._round


def watched_round(*given: object) -> object:
    """Every other round something happens to, while it runs."""
    global begun
    begun += 1
    if pending and begun % 2 == 0:
        threads.append(threading.Thread(target=FAULTS[pending.pop(0)]))
        threads[-1].start()
    return run_round(*given)


loop._round = watched_round


def train(name: str, options: str, faults: list[str]) -> dict[str, object]:
    pending[:] = faults
    threads.clear()
    try:
        row = spark.sql(f"CREATE OR REPLACE MODEL {name} OPTIONS ({options}) AS SELECT * FROM readings").collect()[0]
        with np.load(io.BytesIO((Path(row["uri"].removeprefix("file:")) / "weights.npz").read_bytes())) as stored:
            told: dict[str, object] = {"weights": hashlib.sha256(b"".join(stored[key].tobytes() for key in stored.files)).hexdigest()}
    except Exception as e:
        told = {"error": str(e)}
    for thread in threads:
        thread.join()
    happened = faults[: len(threads)]
    if "weights" in told:
        began = spark.sql(f"SELECT min(at) FROM ML_TRAINING_INFO('{name}@v{row['version']}')").collect()[0][0]
        told["resumed"] = began < started  # its first round is another process's
    left = context._jsc.getPersistentRDDs().size()
    return {**told, "happened": happened, "rounds": len(rounds(name)), "cached": left, "executors": len(executors())}


print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    print(json.dumps(train(**json.loads(line))), flush=True)
spark.stop()
