"""A network of 100 million parameters trains and predicts where the driver's JVM, which is an executor's too, has 1 GB of heap; and what
the driver holds does not grow with the rows of a table.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import memory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

_ROOT = Path(__file__).resolve().parent.parent
_SCRIPT = _ROOT / "tests" / "workers" / "large.py"
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


def test_what_the_driver_holds_in_a_training_does_not_grow_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by two bytes a row, of which a single column of float32 has four, in its JVM or in its Python process. A column that is collected
    shows that the measurement sees rows.
    """
    monkeypatch.chdir(_ROOT)  # whose `bench` the other process runs
    few, many = 20_000, 2_000_000
    told = memory.apart("driver", memory.CLUSTER, few, many)
    held = {what: told[f"{what} many"] - told[f"{what} few"] for what in ("heap", "process")}
    collected = {what: told[f"{what} collected"] - told[f"{what} few"] for what in ("heap", "process")}
    assert max(held.values()) < 2 * (many - few) < min(collected.values()), told


@pytest.mark.large
def test_both_ways_of_agreeing_give_a_hundred_million_parameters_the_same_bits(tmp_path: Path) -> None:
    inside, _ = trained(tmp_path / "inside", "local[2]", 1024)
    after, _ = trained(tmp_path / "after", "local[1]", 1024)
    assert len(after["rounds"]) > len(inside["rounds"])
    assert after["weights"] == inside["weights"]
