"""Executors in processes of their own on this machine: trains a model or scores with one while something goes wrong, and tells what came of it.

A line of JSON in, {"name", "options", "faults", "query", "executors_wanted"}; a line out: the SHA-256 of the model's weights or the error, the rounds, what
Spark kept of the blocks, and what is left. Or {"name", "faults", "rows"}; a line out: how many rows were scored, a hash of all predictions, what happened,
and which workers have a large network in their memory, from which file. "catalog" beside it names the database of the models,
which lies in a file system of its own where it is another than "dlsql".
"""

import hashlib
import io
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np

import dlsql
from dlsql.bridge import Bridge
from dlsql.session import language
from dlsql.training import jobs
from dlsql.training import rounds as loop

T = TypeVar("T")
warehouse, master, conf = json.loads(sys.argv[1])
started = datetime.now()
spark = dlsql.session(warehouse, master=master, name="cluster", conf=conf)
context = spark.sparkContext
COLUMNS = [f"sin(id * {i}) AS x{i}" for i in range(1, 13)]
spark.range(2000).selectExpr("id", *COLUMNS).selectExpr("* EXCEPT (id)", "x1 * x2 + 3 * x3 - x4 * x5 + (id % 7) / 7 AS label").write.mode(
    "overwrite"
).saveAsTable("readings")


def processes() -> Iterator[tuple[int, int, str]]:
    """Pid, pid of the parent, command line."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                said = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield int(folder.name), int((folder / "stat").read_text().rpartition(")")[2].split()[1]), said
            except OSError:
                continue  # it has ended


def executors(host: str = "") -> list[int]:
    """Those of the application, on one host or on all."""
    named = ("CoarseGrainedExecutorBackend", f"--app-id {context.applicationId}", f"--hostname {host}")
    return sorted(pid for pid, _, said in processes() if all(one in said for one in named))


def workers(of: list[int]) -> list[int]:
    """Python workers: what the daemons of executors have forked."""
    found = list(processes())
    daemons = {pid for pid, parent, said in found if "pyspark.daemon" in said and parent in of}
    return sorted(pid for pid, parent, said in found if "pyspark.daemon" in said and parent in daemons)


def until(true: Callable[[], T], seconds: float = 100) -> T:
    """Waits for a condition, and gives what made it true."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
    return found


def busy() -> bool:
    return bool(context.statusTracker().getActiveJobsIds())


def busy_hosts() -> list[str]:
    return [one.host() for one in context._jsc.sc().statusTracker().getExecutorInfos() if one.numRunningTasks()]


def kill_executor() -> None:
    until(lambda: executors() and busy())
    os.kill(executors()[0], signal.SIGKILL)


def decommission_executor() -> None:
    os.kill(executors()[0], signal.SIGPWR)


def kept_blocks() -> int:
    """The RDD of the blocks that are trained on."""
    return max(int(number) for number in context._jsc.getPersistentRDDs())


def lose_runs() -> None:
    """What an executor's blocks are made of again is gone where Spark says it is: on another one."""
    for rdd in range(kept_blocks() - 5, kept_blocks()):  # that the blocks' descends from
        context._jsc.sc().unpersistRDD(rdd, True)
    kill_executor()


def lose_blocks() -> None:
    """They are made again, of runs of which some went with an executor whose shuffle files Spark has moved."""
    (pid,) = until(lambda: (left := executors()) and len(left) == 1 and left)
    environment = dict(one.partition("=")[::2] for one in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    lost = list(Path(environment["SPARK_EXECUTOR_DIRS"]).rglob(f"rdd_{kept_blocks()}_*"))
    assert lost
    for one in lost:
        one.unlink()


def kill_worker() -> None:
    until(lambda: workers(executors()) and busy())
    os.kill(workers(executors())[0], signal.SIGKILL)


def stop_workers() -> None:
    """Those of an executor on a host that has a task hang from now on."""
    host = until(busy_hosts)[0]
    stopped[:] = workers(executors(host)[:1])
    for worker in stopped:
        os.kill(worker, signal.SIGSTOP)


def limit_files(most: int | None) -> None:
    """The largest file that the driver's JVM can write from now on: a longer one ends half-way in an error, as on a full disk."""
    jvm = context._gateway.proc.pid
    hard = resource.prlimit(jvm, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(jvm, resource.RLIMIT_FSIZE, (hard if most is None else most, hard))


def fill_disk_but_4_mb() -> None:
    limit_files(4_000_000)


def fill_disk_but_1500_kb() -> None:
    limit_files(1_500_000)


FAULTS = {f.__name__: f for f in (
    kill_executor, decommission_executor, lose_runs, lose_blocks, kill_worker, stop_workers, fill_disk_but_4_mb, fill_disk_but_1500_kb,
)}  # fmt: skip


begun = 0
pending: list[str] = []
threads: list[threading.Thread] = []
done: list[str] = []
stopped: list[int] = []  # Python workers
kept: dict[str, int] = {}
wanted = 0  # executors that the third round waits for
run_job = jobs.train
settle = Bridge.settle


def happen(fault: str) -> None:
    FAULTS[fault]()
    done.append(fault)


def watched_job(*given: object) -> object:
    """Every other round something happens to, while it runs."""
    global begun
    begun += 1
    if pending and begun % 2 == 0:
        threads.append(threading.Thread(target=happen, args=(pending.pop(0),)))
        threads[-1].start()
    if begun == 3:
        until(lambda: len(executors()) >= wanted)
    for blocks in context._jsc.sc().getRDDStorageInfo():
        kept.update(memory=blocks.memSize(), disk=blocks.diskSize())
    return run_job(*given)


jobs.train = watched_job
loop._JOINED_SECONDS = 0.0  # each round is a job, for something to happen to; it does not change the weights


def storage() -> int:
    """Bytes that the executors have for blocks, all together."""
    found = context._jsc.sc().statusTracker().getExecutorInfos()  # the driver, which has more, among them
    return len(executors()) * min(one.totalOnHeapStorageMemory() for one in found)


def train(name: str, options: str, faults: list[str], query: str, executors_wanted: int) -> dict[str, object]:
    global begun, wanted
    begun, wanted, pending[:] = 0, executors_wanted, faults
    Bridge.settle = settle if set(faults).isdisjoint({"lose_runs", "lose_blocks"}) else lambda *_: None  # type: ignore[method-assign]
    threads.clear()
    done.clear()
    kept.clear()
    try:
        row = spark.sql(f"CREATE OR REPLACE MODEL {name} OPTIONS ({options}) AS {query}").collect()[0]
        with np.load(io.BytesIO(language(spark).bridge.files().read(f"{row['uri']}/weights.npz"))) as stored:
            told: dict[str, object] = {"weights": hashlib.sha256(b"".join(stored[key].tobytes() for key in stored.files)).hexdigest()}
    except Exception as e:
        told = {"error": str(e)}
    for thread in threads:
        thread.join()
    limit_files(None)
    for worker in stopped:  # those that had no task when they were stopped would hang in the next training
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    stopped.clear()
    if "weights" in told:
        began = spark.sql(f"SELECT min(at) FROM ML_TRAINING_INFO('{name}@v{row['version']}')").collect()[0][0]
        told["resumed"] = began < started  # its first round is another process's
    left = context._jsc.getPersistentRDDs().size()
    return {
        "error": None, **told, **kept, "happened": [*done], "rounds": begun, "cached": left, "executors": len(executors()), "storage": storage(),
    }  # fmt: skip


def half_scored() -> bool:
    """Whether some tasks of a job have ended and others have not."""
    tracker = context.statusTracker()
    stages = filter(None, map(tracker.getStageInfo, tracker.getActiveStageIds()))
    return any(2 <= one.numCompletedTasks < one.numTasks - 2 for one in stages)


def mapped() -> dict[int, str]:
    """The workers that have a large network in their memory, and from which file."""
    maps = {worker: Path(f"/proc/{worker}/maps").read_text().splitlines() for worker in workers(executors())}
    return {worker: line.split()[-1] for worker, lines in maps.items() for line in lines if line.endswith("/model.onnx.data")}


def score(name: str, faults: list[str], rows: int) -> dict[str, object]:
    """The rows are made where they are scored: nothing is lost with an executor but its work."""
    given = spark.range(0, rows, 1, 40).selectExpr("id", *COLUMNS)
    scored = given.selectExpr("id", f"PREDICT('{name}', struct(*)) AS y").selectExpr("count(y)", "bit_xor(xxhash64(id, y))")
    done.clear()

    def meddle() -> None:
        for fault in faults:
            until(half_scored)
            happen(fault)

    meanwhile = threading.Thread(target=meddle)
    meanwhile.start()
    count, hashed = scored.collect()[0]
    meanwhile.join()
    return {"count": count, "hash": hashed, "happened": [*done], "mapped": mapped()}


print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    catalog = asked.pop("catalog")
    if catalog != "dlsql":
        spark.sql(f"CREATE DATABASE IF NOT EXISTS {catalog} LOCATION 'viewfs:///{catalog}'")
    spark.conf.set("spark.dlsql.catalog.database", catalog)
    print(json.dumps(train(**asked) if "options" in asked else score(**asked)), flush=True)
spark.stop()
