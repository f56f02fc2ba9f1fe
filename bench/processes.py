"""The processes of a Spark application on this host, and their memory as Linux counts it."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Processes:
    """Those that this process started: the JVM, and below it the Python workers."""

    jvm: list[int]
    workers: list[int]

    @property
    def every(self) -> list[int]:
        """All of them."""
        return [*self.jvm, *self.workers]


def found() -> Processes:
    """The processes below this one; the daemon that forks the workers is none of them."""
    below: dict[int, list[int]] = {}
    for process in Path("/proc").iterdir():
        with suppress(OSError):  # it has ended
            if process.name.isdigit():
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                below.setdefault(parent, []).append(int(process.name))
    jvm = [pid for pid in below.get(os.getpid(), []) if (Path(f"/proc/{pid}/comm").read_text().strip()) == "java"]
    daemons = [daemon for pid in jvm for daemon in below.get(pid, [])]
    return Processes(jvm, [pid for daemon in daemons for pid in below.get(daemon, [])])


def shared(pids: list[int]) -> int:
    """The bytes that processes take together: of a page that several have each counts its share (PSS)."""
    return sum(_kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in pids) << 10


def mapping(pids: list[int], name: str) -> list[int]:
    """Those processes that have a file of a name in their memory."""
    return [pid for pid in pids if f"/{name}\n" in Path(f"/proc/{pid}/maps").read_text()]


def forget_peaks(pids: list[int]) -> None:
    """Lets `peak` begin anew."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak(pids: list[int]) -> int:
    """The most bytes that processes have had each, together."""
    return sum(_kilobytes(f"/proc/{pid}/status", "VmHWM:") for pid in pids) << 10


def _kilobytes(file: str, key: str) -> int:
    return next(int(line.split()[1]) for line in Path(file).read_text().splitlines() if line.startswith(key))
