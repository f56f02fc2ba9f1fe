"""Trainings on executors in processes of their own, which are killed, stopped, sent away and added: the weights come out the same."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.applications import Application, application, cluster
from tests.waiting import until

pytestmark = pytest.mark.slow

CONF = {
    "spark.decommission.enabled": "true",
    "spark.storage.decommission.enabled": "true",
    "spark.storage.decommission.replicationReattemptInterval": "1s",
    "spark.dlsql.gang_patience": "20s",
    "spark.executor.memory": "512m",
    "spark.memory.fraction": "0.1",  # an executor has some 20 MB for blocks, which a table of any size is larger than
}
COPIED = "reason: another attempt succeeded"  # an executor, of a task that it ends
OPTIONS = "model_type = 'dnn_regressor', hidden_units = [64, 32], batch_size = 32, max_iterations = 4, early_stop = false"
INSIDE = f"{OPTIONS}, num_workers = 2, sync_every = 10"  # two cores: the workers meet inside a round
OUTSIDE = f"{OPTIONS}, num_workers = 3, sync_every = 32"  # three workers do not fit: the driver merges


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """Two executors with a core each."""
    folder = tmp_path_factory.mktemp("cluster")
    distant = {"spark.hadoop.fs.viewfs.mounttable.default.link./distant": (folder / "distant").as_uri()}
    with application(folder, "local-cluster[2,1,512]", CONF | distant) as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(two: Application) -> dict[str, str]:
    """The weights of trainings that nothing happened to, by their options."""
    told = {options: two.train(name, options, []) for name, options in (("inside", INSIDE), ("outside", OUTSIDE))}
    assert [(one["error"], one["cached"]) for one in told.values()] == [(None, 0)] * 2
    return {options: one["weights"] for options, one in told.items()}


@pytest.mark.parametrize(
    ("name", "options", "faults"),
    [
        ("killed_inside", INSIDE, ["kill_executor", "kill_executor"]),
        ("killed_outside", OUTSIDE, ["kill_executor", "kill_executor"]),
        ("out_of_memory_inside", INSIDE, ["kill_worker"]),  # what the kernel does to a worker that takes too much
        ("out_of_memory_outside", OUTSIDE, ["kill_worker"]),
        ("hung_inside", INSIDE, ["stop_workers"]),
        ("sent_away", INSIDE, ["decommission_executor"]),
        ("runs_lost", INSIDE, ["lose_runs"]),
        ("runs_sent_away", INSIDE, ["decommission_executor", "lose_blocks"]),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_what_happens_to_executors_does_not_change_the_weights(
    two: Application, undisturbed: dict[str, str], name: str, options: str, faults: list[str]
) -> None:
    told = two.train(name, options, faults)
    assert (told["error"], told["happened"], told["weights"], told["cached"]) == (None, faults, undisturbed[options], 0)


def test_what_happens_to_executors_does_not_change_predictions(two: Application, undisturbed: dict[str, str]) -> None:
    """A worker is killed in the middle of a scoring, then an executor; Spark scores again what was under way."""
    quiet = two.score("inside", [])
    assert (quiet["count"], quiet["happened"]) == (800_000, [])
    for fault in ("kill_worker", "kill_executor"):
        told = two.score("inside", [fault])
        assert (told["happened"], told["count"], told["hash"]) == ([fault], 800_000, quiet["hash"])


def test_each_executor_reads_a_large_network_from_a_distant_store_by_itself(two: Application) -> None:
    """Where the store is a file system of this machine all of them map the file there."""
    options = INSIDE.replace("[64, 32]", "[2100, 2100]").replace("max_iterations = 4", "max_iterations = 1")
    (two.folder / "distant").mkdir()
    near, far = (two.train("large", options, [], catalog=catalog) for catalog in ("dlsql", "distant"))
    assert (near["error"], far["error"], far["weights"]) == (None, None, near["weights"])
    (stored,) = two.files("artifacts/*/large/*/model.onnx.data")
    scored_far = two.score("large", [], 4000, "distant")
    assert len(set(scored_far["mapped"].values()) - {str(stored)}) == far["executors"] == 2
    assert [Path(one).read_bytes() == stored.read_bytes() for one in scored_far["mapped"].values()] == [True] * 2
    for worker in scored_far["mapped"]:
        os.kill(int(worker), signal.SIGKILL)  # else it goes on with the network that it has
    scored = two.score("large", [], 4000)
    assert set(scored["mapped"].values()) == {str(stored)}
    assert (scored_far["count"], scored_far["hash"]) == (4000, scored["hash"])


def test_a_table_three_times_the_memory_trains(two: Application) -> None:
    """Blocks that memory does not hold are read from disk."""
    query = "SELECT transform(sequence(1, 128), i -> sin(id * i)) AS x, id % 7 * 1D AS label FROM range(270000)"
    options = "model_type = 'linear_regressor', num_workers = 2, batch_size = 4096, max_iterations = 2, early_stop = false"
    told = two.train("large", options, [], query)
    assert (told["error"], told["cached"]) == (None, 0)
    assert told["memory"] + told["disk"] >= 3 * told["storage"]
    assert told["disk"] > told["storage"]


def test_a_full_disk_costs_checkpoints_and_no_training(two: Application) -> None:
    """The checkpoint, of 6 MB, does not fit; the model, of 2, does. Where it does not fit either, the same statement goes on later."""
    options = INSIDE.replace("[64, 32]", "[700, 700]")
    told = two.train("large_enough", options, ["fill_disk_but_4_mb"])
    assert told["error"] is None
    assert two.log.count("A checkpoint was not written, the training goes on: [DLSQL_STORAGE] Could not write") == 1
    failed = two.train("too_small", options, ["fill_disk_but_1500_kb"])
    assert failed["error"].startswith("[DLSQL_STORAGE] Could not write ")
    assert failed["cached"] == 0
    assert len(two.files("checkpoints/*/*")) == 1  # that of the first round, and no half of another
    assert two.files("artifacts/*/too_small/*/*") == []
    again = two.train("too_small", options, [])
    assert (again["error"], again["rounds"], again["weights"]) == (None, told["rounds"] - 1, told["weights"])
    assert two.files("checkpoints/*/*") == []


def test_executors_that_come_and_go_give_the_weights_of_those_that_stay(undisturbed: dict[str, str], tmp_path: Path) -> None:
    """Under dynamic allocation Spark runs no barrier stages: the driver merges, and to the same bits."""
    coming = {
        "spark.dynamicAllocation.enabled": "true",
        "spark.dynamicAllocation.shuffleTracking.enabled": "true",
        "spark.dynamicAllocation.minExecutors": "1",
        "spark.dynamicAllocation.initialExecutors": "1",
        "spark.dynamicAllocation.maxExecutors": "2",
        "spark.dynamicAllocation.executorIdleTimeout": "1s",
        "spark.dynamicAllocation.cachedExecutorIdleTimeout": "2s",
        "spark.dynamicAllocation.schedulerBacklogTimeout": "1s",
    }
    with application(tmp_path, "local-cluster[2,1,512]", CONF | coming) as running:
        told = running.train("inside", INSIDE, ["kill_executor"])
    assert (told["error"], told["happened"], told["weights"]) == (None, ["kill_executor"], undisturbed[INSIDE])


def test_a_host_that_is_added_takes_part_and_one_that_hangs_is_done_without(undisturbed: dict[str, str], tmp_path: Path) -> None:
    """Spark starts a second copy of a task that hangs, on another host, where it is asked to speculate; not in barrier stages."""
    with cluster(tmp_path / "cluster") as hosts:
        hosts.add_host("127.0.0.1")
        with application(tmp_path, hosts.master, CONF | {"spark.speculation": "true"}) as running:
            running.ask("added", INSIDE, [], executors_wanted=2)
            until(lambda: running.files("checkpoints/*/*.npz"))
            hosts.add_host("127.0.0.2")
            told = running.line()
            assert (told["error"], told["executors"], told["weights"]) == (None, 2, undisturbed[INSIDE])
            copied = hosts.log.count(COPIED)
            told = running.train("hung", INSIDE, ["stop_workers"])
            assert (told["error"], told["happened"], told["weights"]) == (None, ["stop_workers"], undisturbed[INSIDE])
            until(lambda: hosts.log.count(COPIED) > copied)


def test_where_spark_encrypts_its_files_blocks_travel_as_bytes_to_the_same_weights(
    two: Application, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """Packed rows of a small table pass through memory alone; those of a larger one through files, too."""
    query = "SELECT transform(sequence(1, 128), i -> sin(id * i)) AS x, id % 7 * 1D AS label FROM range(60000)"
    options = "model_type = 'linear_regressor', num_workers = 2, batch_size = 4096, max_iterations = 1, early_stop = false"
    plain = two.train("plain", options, [], query)
    little = {"spark.memory.fraction": "0.01"}  # 7 MB for blocks, of which a run takes no more than half
    with application(tmp_path, "local[2]", little | {"spark.io.encryption.enabled": "true"}) as running:
        told = [running.train("encrypted", INSIDE, []), running.train("larger", options, [], query)]
    assert [(one["error"], one["weights"], one["cached"]) for one in told] == [(None, undisturbed[INSIDE], 0), (None, plain["weights"], 0)]
