"""A large network as files on an executor's host: written once, and then mapped into the memory of every worker there."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from udfs.errors import ScoringError
from udfs.spec import TENSORS, Scoring, Shared


def placed_files(scoring: Scoring) -> tuple[Mapping[str, bytes], Path | None]:
    """The files of a model; of a large one the folder that holds them all, too, where this host has one."""
    files: Mapping[str, bytes] = scoring.bundle.files.value
    large, folder = scoring.bundle.large, scoring.bundle.folder
    if folder is not None and Path(folder, TENSORS).is_file():
        return files, Path(folder)
    if large is None and folder is not None:
        raise ScoringError(f"The model's files are not in {folder} any more.")
    if large is None:
        return files, None
    made = placed(large, scoring.sha256, files)
    return (files if made else {**files, TENSORS: large.value}), made


def placed(large: Shared, key: str, files: Mapping[str, bytes]) -> Path | None:
    """A folder with these files and the tensors, beside what Spark keeps on this host, and gone with it.

    Args:
        large: a broadcast of the tensors, as the file that they are.
        key: of the folder, by content.
        files: what else belongs there.

    Returns:
        The folder; None where Spark keeps no plain files, as when it encrypts what it writes.
    """
    path = getattr(large, "_path", None)
    if path is None:
        return None
    folder = Path(path).parent / f"dlsql-{key}"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # which ends with the process, whatever ends it
        if not folder.exists():
            half = Path(tempfile.mkdtemp(dir=folder.parent))
            try:
                for name, content in files.items():
                    (half / name).write_bytes(content)
                os.link(path, half / TENSORS)
                os.replace(half, folder)
            except BaseException:
                shutil.rmtree(half, ignore_errors=True)
                raise
    return folder
