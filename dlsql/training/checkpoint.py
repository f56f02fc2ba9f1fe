"""The state of an unfinished training in the model store, so that the same statement over the same data goes on where it stopped."""

import hashlib
import io
import json
import uuid
from dataclasses import dataclass
from typing import Any
from zipfile import BadZipFile

import numpy as np

from dlsql.bridge import Files
from dlsql.errors import StorageError
from udfs.state import State

_PROGRESS = "progress"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A training after `rounds` rounds."""

    rounds: int
    state: State
    progress: dict[str, Any]  # what the loop over rounds carries: plain JSON


def fingerprint(*parts: str) -> str:
    """What a checkpoint belongs to: statement, options, columns and their statistics, library versions."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def save(files: Files, folder: str, checkpoint: Checkpoint) -> None:
    """Writes a new file, renames it, then removes the older ones."""
    sink = io.BytesIO()
    np.savez(sink, **checkpoint.state, **{_PROGRESS: np.array(json.dumps(checkpoint.progress))})  # type: ignore[arg-type]
    before = files.list(folder)
    # A name of its own: two clients that run one statement at once keep out of each other's way.
    files.write(f"{folder}/{checkpoint.rounds:08d}-{uuid.uuid4().hex[:8]}.npz", sink.getvalue())
    for old, _ in before:
        files.delete(old)


def load(files: Files, folder: str) -> Checkpoint | None:
    """The newest complete checkpoint, if there is one that can be read."""
    for path, _ in reversed(files.list(folder)):
        if path.endswith(".npz"):
            try:
                return _read(files.read(path), int(path.rsplit("/", 1)[1].split("-")[0]))
            except (StorageError, BadZipFile, ValueError, OSError):
                continue  # half a file, from a crash of the store itself: the one before it will do
    return None


def _read(data: bytes, rounds: int) -> Checkpoint:
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        state = {key: stored[key] for key in stored.files if key != _PROGRESS}
        return Checkpoint(rounds, state, json.loads(str(stored[_PROGRESS])))
