"""Workers that agree inside a round, over torch.distributed's gloo: what the driver would merge after it, bit for bit."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed

from udfs.state import State, average, cut, is_averaged

_torch: Any = distributed  # whose types leave out what its process groups are made of

_AT_ONCE = 16 << 20  # bytes of a state that are averaged at once


@dataclass(frozen=True, slots=True)
class Seat:
    """A task's place among those that train one round together."""

    rank: int
    hosts: tuple[str, ...]  # of all of them, by rank
    book: tuple[str, int]  # host and port of the address book by which they find one another
    # Seconds that it waits for the others. Of a host that dies it hears from Spark, which ends the whole stage; this is for what Spark
    # does not see: a task that hangs.
    patience: int


class Gang:
    """The workers of a round, all at work at once, or a single one. Every method is called by all of them, in the same order."""

    def __init__(self, group: Any, rank: int, world: int) -> None:
        self._group, self.rank, self.world = group, rank, world
        self._rooms = [np.zeros(0, np.uint8)] * 2

    def gather(self, values: Sequence[float]) -> npt.NDArray[np.float64]:
        """A few numbers from each -> [workers, numbers], by rank."""
        if self.world == 1:
            return np.array([values], np.float64)
        mine = torch.tensor(values, dtype=torch.float64)
        everybodys = torch.empty(self.world * len(mine), dtype=torch.float64)
        self._group._allgather_base(everybodys, mine).wait()
        rows: npt.NDArray[np.float64] = everybodys.view(self.world, -1).numpy()
        return rows

    def share(self, values: Sequence[float]) -> list[npt.NDArray[np.float64]]:
        """As many numbers as each has to tell, by rank."""
        counts = self.gather([len(values)])[:, 0].astype(int)
        padded = self.gather([*values, *[0.0] * (int(counts.max()) - len(values))])
        return [own[:count] for own, count in zip(padded, counts, strict=True)]

    def merge(self, state: State, weight: float) -> bool:
        """As `udfs.state.merge`, of everybody's state and into the arrays of each; False where nobody's weighs anything."""
        counters = [key for key, value in state.items() if not is_averaged(key, value)]
        told = self.gather([weight, *(float(state[key]) for key in counters)])
        weights = told[:, 0].tolist()
        if not any(weights):
            return False
        for key, most in zip(counters, told[:, 1:].max(axis=0), strict=True):
            state[key][...] = most
        vectors = {key: value for key, value in state.items() if key not in set(counters)}
        for kind in sorted({value.dtype for value in vectors.values()}, key=str):
            for piece in cut({key: value for key, value in vectors.items() if value.dtype == kind}, _AT_ONCE):
                self._average(list(piece.parts.values()), weights, kind)
        return True

    def _average(self, parts: Sequence[npt.NDArray[Any]], weights: Sequence[float], kind: np.dtype[Any]) -> None:
        """A few arrays of each -> their average by `weights`, which holds one for each rank, in their place.

        Each worker averages one slice for all and hands it round: reduce-scatter, then all-gather, as BigDL's parameter manager does in
        two Spark jobs (Dai et al., "BigDL: A Distributed Deep Learning Framework for Big Data", SoCC 2019). Nobody holds all vectors,
        and the sum runs in the order of the ranks, which gloo's own all-reduce does not promise.
        """
        count = sum(part.size for part in parts)
        size = -(-count // self.world)
        mine, everybodys = self._room(kind, self.world * size)
        np.concatenate(parts, out=mine[:count])
        mine[count:] = 0
        self._group.alltoall_base(_bytes(everybodys), _bytes(mine), [], []).wait()
        mine.reshape(self.world, size)[:] = average(everybodys.reshape(self.world, size), weights)
        self._group.alltoall_base(_bytes(everybodys), _bytes(mine), [], []).wait()  # gloo's all-gather takes half as long again
        at = 0
        for part in parts:
            part[:] = everybodys[at : at + part.size]
            at += part.size

    def _room(self, kind: np.dtype[Any], count: int) -> list[npt.NDArray[Any]]:
        """Two vectors to work in, kept from one averaging to the next: fresh memory costs as much as what is done in it."""
        if self._rooms[0].nbytes < count * kind.itemsize:
            self._rooms = [np.zeros(count * kind.itemsize, np.uint8) for _ in range(2)]
        return [room[: count * kind.itemsize].view(kind) for room in self._rooms]


def _bytes(vector: npt.NDArray[Any]) -> torch.Tensor:
    """A vector as gloo is given it, which need not know what its bytes mean."""
    return torch.from_numpy(vector.view(np.uint8))


@contextmanager
def gang(seat: Seat | None) -> Iterator[Gang | None]:
    """The workers of a round, met; None for one of several that are on their own until the round is over."""
    if seat is None:
        yield None
        return
    world = len(seat.hosts)
    if world == 1:
        yield Gang(None, 0, 1)
        return
    patience = timedelta(seconds=seat.patience)
    book = _torch.TCPStore(*seat.book, is_master=False, timeout=patience, wait_for_workers=False)
    # A gang of which one has died meets no more: its addresses stand in the book. The driver begins the round anew, with another book.
    if book.add(f"arrived/{seat.rank}", 1) > 1:
        raise RuntimeError("Spark has begun a gang's round a second time.")
    options = _torch.ProcessGroupGloo._Options()
    options._timeout = patience
    # By the address that Spark knows the host by: the one of its name may be the loopback's.
    options._devices = [_torch.ProcessGroupGloo.create_device(hostname=seat.hosts[seat.rank])]
    yield Gang(_torch.ProcessGroupGloo(book, seat.rank, world, options), seat.rank, world)


def address_book(host: str) -> Any:
    """An address book at a port that the system chooses, its `port`, for as long as it is held. The driver keeps it for a round.

    A barrier of Spark's would do in its place, and costs a second: BarrierTaskContext looks for its end once a second.
    """
    return _torch.TCPStore(host, 0, is_master=True, wait_for_workers=False)
