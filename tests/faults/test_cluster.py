"""Trainings on executors in processes of their own, which are killed, stopped, sent away and added: the weights come out the same."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.applications import Application, application

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

CONF = {
    "spark.decommission.enabled": "true",
    "spark.storage.decommission.enabled": "true",
}
OPTIONS = "model_type = 'dnn_regressor', hidden_units = [64, 32], batch_size = 32, max_iterations = 10, early_stop = false"
INSIDE = f"{OPTIONS}, num_workers = 2, sync_every = 10"  # two cores: the workers meet inside a round
OUTSIDE = f"{OPTIONS}, num_workers = 3, sync_every = 32"  # three workers do not fit: the driver merges


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """Two executors with a core each."""
    with application(tmp_path_factory.mktemp("cluster"), "local-cluster[2,1,1024]", CONF) as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(cluster: Application) -> dict[str, str]:
    """The weights of trainings that nothing happened to, by their options."""
    told = {options: cluster.train(name, options, []) for name, options in (("inside", INSIDE), ("outside", OUTSIDE))}
    assert [(one.get("error"), one["cached"]) for one in told.values()] == [(None, 0)] * 2
    return {options: one["weights"] for options, one in told.items()}


@pytest.mark.parametrize(
    ("name", "options", "faults"),
    [
        ("killed_inside", INSIDE, ["kill_executor", "kill_executor"]),
        ("killed_outside", OUTSIDE, ["kill_executor", "kill_executor"]),
        ("out_of_memory_inside", INSIDE, ["kill_worker"]),  # what the kernel does to a worker that takes too much
        ("out_of_memory_outside", OUTSIDE, ["kill_worker"]),
        ("sent_away", INSIDE, ["decommission_executor"]),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_what_happens_to_executors_does_not_change_the_weights(
    cluster: Application, undisturbed: dict[str, str], name: str, options: str, faults: list[str]
) -> None:
    told = cluster.train(name, options, faults)
    assert told.get("error") is None
    assert told["happened"] == faults
    assert told["weights"] == undisturbed[options]
    assert told["cached"] == 0


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
    with application(tmp_path, "local-cluster[2,1,1024]", CONF | coming) as running:
        told = running.train("inside", INSIDE, ["kill_executor"])
    assert told.get("error") is None
    assert (told["happened"], told["weights"]) == (["kill_executor"], undisturbed[INSIDE])
