"""A worker's blocks -> the batches of an epoch, in an order that follows from the seed; any part of the epoch without the rest."""

import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from udfs.spec import LocalSteps

Block = tuple[int, bool, int, bytes, bytes, bytes, bytes]  # worker, held out, rows, dense, codes, label, weight

WINDOW_BYTES = 64 << 20  # rows are shuffled within a window of this size, so that a partition need not fit into memory
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


def batches(steps: LocalSteps, epoch: int, blocks: Iterable[Block], first: int, count: int) -> Iterator[tuple[int, int, Batch]]:
    """Batches `first` .. `first + count - 1` of an epoch: number, worker, batch. The last of an epoch is short.

    Rows are shuffled within windows of blocks by seed, epoch and worker. Blocks past the last batch are read and left: a task that leaves
    input unread costs its Python worker.
    """
    number, held, size = 0, list[Batch](), 0
    worker = window = -1
    for window, block in enumerate(blocks):
        worker = block[0]
        if number >= first + count:
            continue
        held.append(as_batch(steps, block))
        size += sum(map(len, block[3:]))
        if size >= WINDOW_BYTES:
            rows, order = _mixed(held, seed_of(steps.seed, epoch, worker, -1 - window))
            whole = len(order) // steps.batch_size
            yield from _cut(steps, worker, rows, order, number, first, count, whole)
            number, held, size = number + whole, [_take(rows, order[whole * steps.batch_size :])], 0
    if held and number < first + count:
        rows, order = _mixed(held, seed_of(steps.seed, epoch, worker, 0))
        yield from _cut(steps, worker, rows, order, number, first, count, -(-len(order) // steps.batch_size))


def _mixed(parts: list[Batch], seed: int) -> tuple[Batch, Tensor]:
    rows = Batch(*(torch.cat([getattr(part, name) for part in parts]) for name in _PARTS)) if len(parts) > 1 else parts[0]
    return rows, torch.randperm(len(rows.label), generator=torch.Generator().manual_seed(seed))


def _cut(
    steps: LocalSteps, worker: int, rows: Batch, order: Tensor, number: int, first: int, count: int, whole: int
) -> Iterator[tuple[int, int, Batch]]:
    """Of the `whole` batches that a window holds from `number` on, those that are asked for."""
    for i in range(max(first - number, 0), min(first + count - number, whole)):
        yield number + i, worker, _take(rows, order[i * steps.batch_size : (i + 1) * steps.batch_size])


def _take(rows: Batch, places: Tensor) -> Batch:
    return Batch(*(getattr(rows, name)[places] for name in _PARTS))


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


def _tensor(buffer: bytes, kind: torch.dtype) -> Tensor:
    return torch.frombuffer(buffer, dtype=kind) if buffer else torch.empty(0, dtype=kind)


def seed_of(*parts: int) -> int:
    """One number of many, the same in every process: Python's own hash is salted."""
    return zlib.crc32(repr(parts).encode())
