"""Large files of an artefact on an executor's host: there once, and mapped into the memory of every worker that can do with it."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from udfs.errors import ScoringError
from udfs.spec import Scoring, Shared

_SESSION = 1 << 20  # bytes that an engine takes for the smallest model: 0.8 MB measured in ONNX Runtime


def placed_files(scoring: Scoring) -> tuple[Mapping[str, bytes], Path | None]:
    """The files of a model; of one with large files only the others, and the folder that holds them all, where this host has one."""
    files: Mapping[str, bytes] = scoring.bundle.files.value
    large, folder = scoring.bundle.large, scoring.bundle.folder
    if folder is not None and Path(folder).is_dir():
        return files, Path(folder)
    if folder is not None and not large:
        raise ScoringError(f"The model's files are not in {folder} any more.")
    made = placed(large, scoring.sha256, files) if large else None
    return (files if made else {**files, **{name: file.value for name, file in large.items()}}), made


def held(files: Mapping[str, bytes], folder: Path | None) -> int:
    """About how many bytes of its own a process takes for a model of these files, see `placed_files`: what it maps is not its own.

    >>> held({"model.onnx": bytes(1000)}, None) - held({}, None)
    1000
    """
    program = 0 if folder is None or "model.pt" in files or not (folder / "model.pt").exists() else (folder / "model.pt").stat().st_size
    return _SESSION + sum(map(len, files.values())) + program


def placed(large: Mapping[str, Shared], key: str, files: Mapping[str, bytes]) -> Path | None:
    """A folder with all files, beside what Spark keeps on this host, and gone with it.

    Args:
        large: broadcasts, each of a file as it is.
        key: of the folder, by content.
        files: what else belongs there.

    Returns:
        The folder; None where Spark keeps no plain files, as when it encrypts what it writes.
    """
    paths = {name: Path(file._path) for name, file in large.items() if hasattr(file, "_path")}
    if not paths:
        return None
    folder = next(iter(paths.values())).parent / f"dlsql-{key}"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # which ends with the process, whatever ends it
        if not folder.exists():
            half = Path(tempfile.mkdtemp(dir=folder.parent))
            try:
                for name, content in files.items():
                    (half / name).write_bytes(content)
                for name, path in paths.items():
                    os.link(path, half / name)
                os.replace(half, folder)
            except BaseException:
                shutil.rmtree(half, ignore_errors=True)
                raise
    return folder
