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

from udfs.state import State, Vector, average, is_averaged

_torch: Any = distributed  # whose types leave out what its process groups are made of


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
    """The workers of a round, all at work at once. Every method is called by all of them, in the same order."""

    def __init__(self, group: Any, rank: int, world: int) -> None:
        self.rank = rank
        self._group, self._world = group, world

    def gather(self, values: Sequence[float]) -> npt.NDArray[np.float64]:
        """A few numbers from each -> [workers, numbers], by rank."""
        mine = torch.tensor(values, dtype=torch.float64)
        everybodys = torch.empty(self._world * len(mine), dtype=torch.float64)
        self._group._allgather_base(everybodys, mine).wait()
        rows: npt.NDArray[np.float64] = everybodys.view(self._world, -1).numpy()
        return rows

    def average(self, vector: Vector, weights: Sequence[float]) -> Vector:
        """A vector [n] from each -> their average [n] by `weights`, which holds one for each rank.

        Each worker averages one slice for all and hands it round: reduce-scatter, then all-gather, as BigDL's parameter manager does in
        two Spark jobs (Dai et al., "BigDL: A Distributed Deep Learning Framework for Big Data", SoCC 2019). Nobody holds all vectors,
        and the sum runs in the order of the ranks, which gloo's own all-reduce does not promise.
        """
        size = -(-len(vector) // self._world)
        padded = torch.zeros(self._world * size)
        padded[: len(vector)] = torch.from_numpy(vector)
        slices = torch.empty_like(padded)
        self._group.alltoall_base(slices, padded, [], []).wait()
        mine = average(slices.view(self._world, size).numpy(), weights)
        self._group._allgather_base(padded, torch.from_numpy(mine)).wait()
        averaged: Vector = padded[: len(vector)].numpy()
        return averaged

    def merge(self, state: State, weight: float) -> State | None:
        """As `udfs.state.merge`, of everybody's state; None where nobody's weighs anything."""
        counters = [key for key, value in state.items() if not is_averaged(key, value)]
        told = self.gather([weight, *(float(state[key]) for key in counters)])
        weights = told[:, 0].tolist()
        if not any(weights):
            return None
        keys = [key for key in state if key not in set(counters)]
        flat = self.average(np.concatenate([state[key].ravel() for key in keys]).astype(np.float32, copy=False), weights)
        merged: State = {key: np.asarray(most, state[key].dtype) for key, most in zip(counters, told[:, 1:].max(axis=0), strict=True)}
        at = 0
        for key in keys:
            like = state[key]
            merged[key] = flat[at : at + like.size].reshape(like.shape).astype(like.dtype)
            at += like.size
        return {key: merged[key] for key in state}


@contextmanager
def gang(seat: Seat | None) -> Iterator[Gang | None]:
    """The workers of a round, met; None for a worker that is on its own until the round is over."""
    if seat is None:
        yield None
        return
    world = len(seat.hosts)
    patience = timedelta(seconds=seat.patience)
    book = _torch.TCPStore(*seat.book, is_master=False, timeout=patience, wait_for_workers=False)
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
