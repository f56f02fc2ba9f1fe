"""Event files, as TensorBoard's own reader finds them; and a TensorBoard that does not work."""

import logging
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dlsql.formats.tensorboard import events
from dlsql.model import RoundInfo

BEGAN = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


def info(number: int, train_loss: float | None, eval_loss: float | None, metrics: dict[str, float]) -> RoundInfo:
    at = BEGAN + timedelta(seconds=number)
    return RoundInfo(number, 1 + number // 2, 100, train_loss, eval_loss, metrics, 0.5**number, 2.0, 50.0 * number, at)


ROUNDS = [
    info(1, 4.0, None, {}),
    info(2, 2.0, 3.0, {"r2_score": 0.25, "groß": 1.5}),
    info(3, None, 2.5, {"r2_score": 0.5, "groß": 1.25}),
]  # numbers that a float32 holds


def test_tensorboard_reads_the_tags_the_steps_and_the_values(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    ((name, data),) = events(ROUNDS).items()
    (tmp_path / name).write_bytes(data)
    read = reader.EventAccumulator(str(tmp_path))
    read.Reload()
    found = {tag: [(one.step, one.value) for one in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    assert found == {
        "loss/train": [(1, 4.0), (2, 2.0)],
        "loss/eval": [(2, 3.0), (3, 2.5)],
        "learning_rate": [(1, 0.5), (2, 0.25), (3, 0.125)],
        "rows_per_second": [(1, 50.0), (2, 100.0), (3, 150.0)],
        "metrics/r2_score": [(2, 0.25), (3, 0.5)],
        "metrics/groß": [(2, 1.5), (3, 1.25)],
    }
    assert [one.wall_time for one in read.Scalars("learning_rate")] == [one.at.timestamp() for one in ROUNDS]


def test_a_training_of_no_rounds_has_a_file_without_values(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    ((name, data),) = events([]).items()
    (tmp_path / name).write_bytes(data)
    read = reader.EventAccumulator(str(tmp_path))
    read.Reload()
    assert read.Tags()["scalars"] == []


def writer(fails: str) -> Any:
    """A module of TensorBoard's writer that fails at being made, written to or closed."""

    def fail(*_: Any) -> None:
        raise TypeError("Descriptors cannot be created directly.")

    calls = {one: fail if one == fails else lambda *_: None for one in ("__init__", "add_event", "close")}
    module: Any = ModuleType("event_file_writer")
    module.EventFileWriter = type("EventFileWriter", (), calls)
    return module


@pytest.mark.parametrize(
    ("module", "broken", "said"),
    [
        ("tensorboard.compat.proto.event_pb2", None, "ModuleNotFoundError: import of tensorboard.compat.proto.event_pb2 halted"),
        *(
            ("tensorboard.summary.writer.event_file_writer", writer(fails), "TypeError: Descriptors cannot be created directly.")
            for fails in ("__init__", "add_event", "close")
        ),
    ],
    ids=["import", "made", "written", "closed"],
)
def test_a_tensorboard_that_fails_leaves_a_warning_and_no_file(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, module: str, broken: ModuleType | None, said: str
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setitem(sys.modules, module, broken)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "dlsql"):
        assert events(ROUNDS) == {}
    (message,) = (one.getMessage() for one in caplog.records)
    assert message.startswith(f"TensorBoard's event file was not written, the model goes without it: {said}")


def test_a_mistake_of_ours_is_no_failure_of_tensorboard() -> None:
    pytest.importorskip("tensorboard")
    with pytest.raises(ValueError, match="could not convert"):
        events([info(1, 1.0, None, {"r2_score": "high"})])  # type: ignore[dict-item]


def test_without_tensorboard_there_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlsql.formats.tensorboard.find_spec", lambda name: None)
    assert events(ROUNDS) == {}
