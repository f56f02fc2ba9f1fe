"""A training's rounds -> a TensorBoard event file, to lie beside the artefact. Without the package `tensorboard` there is none."""

import logging
import tempfile
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from dlsql.model import RoundInfo

_LOG = logging.getLogger("dlsql")


def events(rounds: Iterable[RoundInfo]) -> Mapping[str, bytes]:
    """The file by its name: the losses, metrics, learning rate and speed of each round, at the second it ended.

    None where the package fails, in whatever way: it comes with a protobuf that must suit it, and the network is trained by then.
    """
    if find_spec("tensorboard") is None:
        return {}
    scalars = [(one.round, one.at.timestamp(), _scalars(one)) for one in rounds]
    try:
        # The library ends the name with the host's; TensorBoard looks for how it begins.
        return {"events.out.tfevents.training": _written(scalars)}
    except Exception as e:
        _LOG.warning("TensorBoard's event file was not written, the model goes without it: %s: %s", type(e).__name__, e)
        return {}


def _written(scalars: Iterable[tuple[int, float, Mapping[str, float]]]) -> bytes:
    """An event for each step, second and values by their tags."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    with tempfile.TemporaryDirectory() as folder:
        writer = EventFileWriter(folder)
        for step, second, values in scalars:
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
            writer.add_event(Event(step=step, wall_time=second, summary=summary))
        writer.close()
        (file,) = Path(folder).iterdir()
        return file.read_bytes()


def _scalars(one: RoundInfo) -> dict[str, float]:
    shown = {
        "loss/train": one.train_loss,
        "loss/eval": one.eval_loss,
        "learning_rate": one.learning_rate,
        "rows_per_second": one.rows_per_second,
        **{f"metrics/{name}": value for name, value in one.metrics.items()},
    }
    return {tag: float(value) for tag, value in shown.items() if value is not None}
