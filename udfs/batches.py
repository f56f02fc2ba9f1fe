"""A worker's blocks -> the batches of an epoch, in an order that follows from the seed; any part of the epoch without the rest."""

import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from udfs.spec import LocalSteps

Buffer = bytes | memoryview
Block = tuple[int, bool, int, Buffer, Buffer, Buffer, Buffer]  # worker, held out, rows, dense, codes, label, weight

_AT_ONCE = 4096
_PARTS = ("dense", "codes", "label", "weight")
warnings.filterwarnings("ignore", message="The given buffer is not writable")  # nobody writes into a block


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows to step on."""

    dense: Tensor  # [rows, numbers]
    codes: Tensor  # [rows, categories]
    label: Tensor  # [rows]; of several labels int32 [rows, labels], where a number lies as the bits of its float32
    weight: Tensor  # [rows]

    def to(self, device: torch.device) -> "Batch":
        """The same rows on a device."""
        return self if device.type == "cpu" else Batch(*(getattr(self, name).to(device) for name in _PARTS))


def opened(stored: str | bytes) -> Block:
    """A block that the JVM packed, see dlsql/jvm/Packing.java, from the path of its file, which is mapped into memory, or its bytes."""
    content = _mapped(stored) if isinstance(stored, str) else memoryview(stored)
    worker, held_out, rows, _, *sizes = struct.unpack_from("<8i", content)
    ends = [*accumulate(sizes, initial=struct.calcsize("<8i"))]
    dense, codes, label, weight = (content[begin:end] for begin, end in pairwise(ends))
    return worker, bool(held_out), rows, dense, codes, label, weight


def _mapped(path: str) -> memoryview:
    """A file's bytes. Python's mmap would keep a descriptor of it, and a worker may hold more blocks than it may have of these."""
    storage: Any = torch.UntypedStorage.from_file(path, False, Path(path).stat().st_size)
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy().data


def batches(steps: LocalSteps, epoch: int, blocks: Iterable[Block], first: int, count: int) -> Iterator[tuple[int, int, Batch]]:
    """Batches `first` .. `first + count - 1` of an epoch: number, worker, batch. The last of an epoch is short.

    By seed, epoch and worker blocks are shuffled among themselves, and rows within their block, which is large and holds rows of all kinds.
    All are taken at once: mapped files cost next to nothing until they are read, and are let go one by one after it. Where Spark encrypts
    what it writes they come as bytes, and a worker holds all of them until it has trained on them.
    """
    number, left = 0, list[Batch]()  # rows of the blocks so far that fill no batch
    waiting = dict(enumerate(blocks))  # to the last: a task that leaves input unread costs its Python worker
    worker = waiting[0][0] if waiting else -1
    for place in _permutation(len(waiting), steps.seed, epoch, worker).tolist():
        if number >= first + count:
            return
        rows = as_batch(steps, waiting.pop(place))
        order = _permutation(len(rows.label), steps.seed, epoch, worker, place)
        while True:
            wanted = steps.batch_size - sum(len(part.label) for part in left)
            if len(order) < wanted or number >= first + count:
                break
            if number >= first:
                yield number, worker, joined([*left, _take(rows, order[:wanted])])
            number, order, left = number + 1, order[wanted:], []
        if len(order) and number < first + count:
            left.append(_take(rows, order))
    if left and first <= number < first + count:
        yield number, worker, joined(left)


def _permutation(count: int, *seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed_of(*seed)))


def joined(parts: list[Batch]) -> Batch:
    """Rows of several batches as one."""
    return parts[0] if len(parts) == 1 else Batch(*(torch.cat([getattr(part, name) for part in parts]) for name in _PARTS))


def _take(rows: Batch, places: Tensor) -> Batch:
    return Batch(*(getattr(rows, name)[places] for name in _PARTS))


def parts(rows: Batch) -> Iterator[Batch]:
    """Rows in their order, so many at a time that what a network makes of them takes little memory."""
    for chunks in zip(*(getattr(rows, name).split(_AT_ONCE) for name in _PARTS), strict=True):
        yield Batch(*chunks)


def as_batch(steps: LocalSteps, block: Block) -> Batch:
    """A block's rows in their order."""
    _, _, rows, *buffers = block
    heads = len(steps.network.heads)
    kinds = (torch.float32, torch.int32, torch.int32 if heads or steps.task == "classification" else torch.float32, torch.float32)
    dense, codes, label, weight = (_tensor(buffer, kind) for buffer, kind in zip(buffers, kinds, strict=True))
    codes = codes.long()
    if heads:
        label = label.view(rows, heads)
    elif steps.task == "classification":
        label = label.long()
    if steps.class_weights is not None:
        weight = weight * torch.tensor(steps.class_weights)[label]
    return Batch(dense.view(rows, steps.network.dense), codes.view(rows, len(steps.network.codes)), label, weight)


def _tensor(buffer: Buffer, kind: torch.dtype) -> Tensor:
    return torch.frombuffer(buffer, dtype=kind) if buffer else torch.empty(0, dtype=kind)


def seed_of(*parts: int) -> int:
    """One number of many, the same in every process: Python's own hash is salted."""
    return zlib.crc32(repr(parts).encode())
