"""A training's rounds -> a TensorBoard event file, to lie beside the artefact. Without the package `tensorboard` there is none."""

import tempfile
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dlsql.model import RoundInfo


def events(rounds: Iterable[RoundInfo]) -> Mapping[str, bytes]:
    """The file by its name: the losses, metrics, learning rate and speed of each round, at the second it ended."""
    if find_spec("tensorboard") is None:
        return {}
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    with tempfile.TemporaryDirectory() as folder:
        writer = EventFileWriter(folder)
        for one in rounds:
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(one).items() if value is not None]
            writer.add_event(Event(step=one.round, wall_time=one.at.timestamp(), summary=Summary(value=values)))
        writer.close()
        (file,) = Path(folder).iterdir()
        # The library ends the name with the host's; TensorBoard looks for how it begins.
        return {"events.out.tfevents.training": file.read_bytes()}


def _scalars(one: RoundInfo) -> dict[str, Any]:
    shown = {
        "loss/train": one.train_loss,
        "loss/eval": one.eval_loss,
        "learning_rate": one.learning_rate,
        "rows_per_second": one.rows_per_second,
    }
    return shown | {f"metrics/{name}": value for name, value in one.metrics.items()}
