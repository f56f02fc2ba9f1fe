"""Drivers that are killed while they train: the same statement run again goes on where they were, and to the same weights."""

from pathlib import Path

import pytest

from tests.faults.applications import application
from tests.waiting import until

pytestmark = pytest.mark.slow

OPTIONS = "model_type = 'dnn_regressor', hidden_units = [64, 32], batch_size = 32, max_iterations = 6, early_stop = false, num_workers = 2"
MANY_ROUNDS = f"{OPTIONS}, sync_every = 10, dropout = 0.1, lr_interval = 'step', lr_schedule = 'CosineAnnealingLR'"


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "warehouse" / "dlsql.db" / "checkpoints").glob("*/*.npz"))


def rounds_done(folder: Path) -> int:
    return max((int(one.name.split("-")[0]) for one in checkpoints(folder)), default=0)


def test_a_killed_driver_goes_on_at_its_last_checkpoint_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    with application(tmp_path, "local[2]", {}) as first:
        whole = first.train("whole", MANY_ROUNDS, [])
        assert (whole.get("error"), whole["resumed"]) == (None, False)
        first.ask("m", MANY_ROUNDS, [])
        until(lambda: rounds_done(tmp_path) >= 3)
        first.kill()
    newest = checkpoints(tmp_path)[-1]
    # A store that renames before all bytes are down leaves such a file when its machine dies.
    (newest.parent / "00000999-00000000.npz").write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    with application(tmp_path, "local[2]", {}) as second:
        other = second.train("m", MANY_ROUNDS.replace("max_iterations = 6", "max_iterations = 1"), [])
        assert (other.get("error"), other["resumed"]) == (None, False)  # another option: another training
        told = second.train("m", MANY_ROUNDS, [])
    assert (told.get("error"), told["resumed"], told["weights"]) == (None, True, whole["weights"])
    assert checkpoints(tmp_path) == []
