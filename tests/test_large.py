"""A network of 100 million parameters trains and predicts where the driver's JVM, which is an executor's too, has 1 GB of heap."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

_SCRIPT = Path(__file__).resolve().parent / "workers" / "large.py"
_CONF = {
    "spark.ui.enabled": "false",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "1g",
}
_OPTIONS = {"optimizer": "sgd", "batch_size": 512, "sync_every": 1, "max_iterations": 1}


def trained(folder: Path, master: str, rows: int) -> list[Any]:
    """What a driver of its own tells."""
    given = json.dumps([str(folder), master, _CONF, 1_000_000, 100, rows, _OPTIONS])
    done = subprocess.run([sys.executable, str(_SCRIPT), given], cwd=folder.parent, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_a_hundred_million_parameters_train_under_a_small_heap(tmp_path: Path) -> None:
    """Merged in slices by a shuffle: two workers outnumber one core."""
    told, predicted = trained(tmp_path / "after", "local[1]", 512)
    assert told["heap"] == 1 << 30
    assert [row["train_loss"] > 0 for row in told["rounds"]] == [True]
    assert predicted == {"predicted": 1000}


@pytest.mark.large
def test_both_ways_of_agreeing_give_a_hundred_million_parameters_the_same_bits(tmp_path: Path) -> None:
    inside, _ = trained(tmp_path / "inside", "local[2]", 1024)
    after, _ = trained(tmp_path / "after", "local[1]", 1024)
    assert len(after["rounds"]) > len(inside["rounds"])
    assert after["weights"] == inside["weights"]
