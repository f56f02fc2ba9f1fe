"""The batches of an epoch: every row once, in an order that follows from seed, epoch and worker, however the epoch is cut."""

import os
import resource
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from udfs.batches import Batch, Block, as_batch, batches, opened, seed_of
from udfs.spec import LocalSteps, NetworkSpec

BATCH = 8
STEPS = LocalSteps(NetworkSpec(1, (), 1), "regression", "mse_loss", "SGD", BATCH, 7, 1)


def blocks(*sizes: int, worker: int = 2) -> list[Block]:
    """Blocks whose rows are numbered through: the number is the feature, the label and the weight."""
    found, at = [], 0
    for size in sizes:
        numbers = np.arange(at, at + size, dtype=np.float32).tobytes()
        found.append((worker, False, size, numbers, b"", numbers, numbers))
        at += size
    return found


def rows(steps: LocalSteps, epoch: int, given: list[Block], first: int = 0, count: int = 1000) -> list[list[int]]:
    found = list(batches(steps, epoch, iter(given), first, count))
    assert [number for number, _, _ in found] == list(range(first, first + len(found)))
    assert {worker for _, worker, _ in found} <= {one[0] for one in given}
    assert all(torch.equal(batch.dense[:, 0], batch.label) and torch.equal(batch.label, batch.weight) for _, _, batch in found)
    return [batch.label.int().tolist() for _, _, batch in found]


def order(steps: LocalSteps, epoch: int, given: list[Block]) -> list[int]:
    """The places of the blocks in the order in which an epoch comes to their rows."""
    ends = np.cumsum([one[2] for one in given])
    places = [int(np.searchsorted(ends, row, side="right")) for batch in rows(steps, epoch, given) for row in batch]
    return list(dict.fromkeys(places))


@pytest.mark.parametrize("sizes", [(20,), (8, 8, 8), (5, 5, 5, 5, 5, 5), (30, 3, 1, 17), ()])
def test_an_epoch_has_every_row_once_in_full_batches_but_the_last(sizes: tuple[int, ...]) -> None:
    found = rows(STEPS, 0, blocks(*sizes))
    assert sorted(row for batch in found for row in batch) == list(range(sum(sizes)))
    assert all(len(batch) == BATCH for batch in found[:-1])


@pytest.mark.parametrize("every", [1, 2, 5])
def test_an_epoch_that_is_cut_into_rounds_has_the_batches_of_a_whole_one(every: int) -> None:
    given = blocks(30, 3, 1, 17, 9, 9)
    whole = rows(STEPS, 3, given)
    assert [batch for first in range(0, len(whole), every) for batch in rows(STEPS, 3, given, first, every)] == whole


def test_blocks_are_shuffled_among_themselves_by_seed_epoch_and_worker() -> None:
    given = blocks(*[10] * 6)
    orders = [order(STEPS, epoch, given) for epoch in range(4)]
    assert all(sorted(one) == list(range(6)) for one in orders)
    assert len({tuple(one) for one in orders}) > 1
    assert orders == [order(STEPS, epoch, given) for epoch in range(4)]
    others = [order(replace(STEPS, seed=8), 0, given), order(STEPS, 0, blocks(*[10] * 6, worker=3))]
    assert all(one != orders[0] for one in others)


def test_a_single_block_is_shuffled_by_its_place_alone() -> None:
    (block,) = given = blocks(20)
    drawn = torch.randperm(20, generator=torch.Generator().manual_seed(seed_of(7, 5, 2, 0)))
    assert rows(STEPS, 5, given) == [part.int().tolist() for part in as_batch(STEPS, block).label[drawn].split(BATCH)]


def test_blocks_are_let_go_once_their_rows_are_taken(tmp_path: Path) -> None:
    paths = []
    for place, block in enumerate(blocks(*[10] * 4)):
        parts = [bytes(part) for part in block[3:]]
        paths.append(tmp_path / str(place))
        paths[-1].write_bytes(struct.pack("<8i", 2, 0, 10, 0, *map(len, parts)) + b"".join(parts))

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(str(tmp_path))

    seen: list[tuple[Batch, int]] = [(batch, mapped()) for _, _, batch in batches(STEPS, 0, (opened(str(path)) for path in paths), 0, 99)]
    assert [count for _, count in seen] == [4, 3, 2, 1, 1]
    assert mapped() == 0
    assert sorted(row for batch, _ in seen for row in batch.label.int().tolist()) == list(range(40))


def test_a_worker_maps_more_blocks_than_it_may_have_files_open(tmp_path: Path) -> None:
    stored = tmp_path / "block"
    stored.write_bytes(struct.pack("<8i", 2, 0, 3, 0, 12, 0, 12, 12) + np.arange(9, dtype=np.float32).tobytes())
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = max(map(int, os.listdir("/proc/self/fd"))) + 50  # more than the tests before have open
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, limits[1]))
    try:
        held = [opened(str(stored)) for _ in range(300)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert {bytes(one[3]) for one in held} == {np.arange(3, dtype=np.float32).tobytes()}
