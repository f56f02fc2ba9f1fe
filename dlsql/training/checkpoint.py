"""The state of an unfinished training in the model store, so that the same statement over the same data goes on where it stopped."""

import hashlib
import json
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from dlsql.bridge import Files
from dlsql.errors import StorageError
from udfs.state import State

_PROGRESS, _WORKERS = "progress", "workers"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A training after `rounds` rounds."""

    rounds: int
    workers: int  # that it was trained by
    state: State
    progress: dict[str, Any]  # what the loop over rounds carries: plain JSON


def fingerprint(*parts: str) -> str:
    """What a checkpoint belongs to: a model, options, columns and their statistics, rows, code."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def save(files: Files, folder: str, checkpoint: Checkpoint) -> None:
    """Writes a new file, renames it, then removes the older ones."""
    before = files.list(folder)
    # A name of its own: two clients that run one statement at once keep out of each other's way.
    files.put(f"{folder}/{checkpoint.rounds:08d}-{uuid.uuid4().hex[:8]}.npz", partial(_write, checkpoint))
    for old, _ in before:
        files.delete(old)


def load(files: Files, folder: str) -> Checkpoint | None:
    """The newest complete checkpoint, if there is one that can be read."""
    for path, _ in reversed(files.list(folder)):
        if path.endswith(".npz"):
            try:
                return files.get(path, partial(_read, int(path.rsplit("/", 1)[1].split("-")[0])))
            except (StorageError, BadZipFile, ValueError, OSError):
                continue  # half a file, from a crash of the store itself: the one before it will do
    return None


def _write(checkpoint: Checkpoint, local: Path) -> None:
    with local.open("wb") as out:
        told = json.dumps({**checkpoint.progress, _WORKERS: checkpoint.workers})
        np.savez(out, **checkpoint.state, **{_PROGRESS: np.array(told)})  # type: ignore[arg-type]


def _read(rounds: int, local: Path) -> Checkpoint:
    with np.load(local, allow_pickle=False) as stored:
        state = {key: stored[key] for key in stored.files if key != _PROGRESS}
        progress = json.loads(str(stored[_PROGRESS]))
        return Checkpoint(rounds, progress.pop(_WORKERS), state, progress)
