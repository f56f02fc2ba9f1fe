"""The loop over rounds: what the workers agree on, by either way of agreeing, equals what one process would have learned."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count, product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pyspark import RDD
from pyspark.sql import SparkSession
from torch.nn import functional

from dlsql import options
from dlsql.training import jobs, rounds, schedule_of
from dlsql.training.pack import Blocks
from udfs.batches import Batch, Block, batches
from udfs.spec import Label, LocalSteps, NetworkSpec
from udfs.state import State, cut
from udfs.train import initial_state, network

WIDTH, RATE, BATCH = 5, 0.05, 16


def worker_blocks(worker: int, rows: int, held_out: int = 0) -> list[Block]:
    """A worker's blocks of 50 rows: a label that follows from the numbers, and a little noise."""
    random = np.random.default_rng(worker)

    def block(aside: bool, size: int) -> Block:
        dense = random.normal(size=(size, WIDTH)).astype(np.float32)
        label = (dense @ np.arange(WIDTH) + random.normal(size=size)).astype(np.float32)
        weight = random.uniform(0.5, 2, size).astype(np.float32)
        return worker, aside, size, dense.tobytes(), b"", label.tobytes(), weight.tobytes()

    sizes = [(aside, min(50, total - at)) for aside, total in ((False, rows), (True, held_out)) for at in range(0, total, 50)]
    return [block(aside, size) for aside, size in sizes]


def local_steps(optimizer: str = "SGD", **more: object) -> LocalSteps:
    arguments = {"hidden_units": (8,), "activation": "relu", "dropout": 0.0, "batch_norm": bool(more.pop("batch_norm", False))}
    spec = NetworkSpec(WIDTH, (), 1, arguments=tuple(arguments.items()))
    return LocalSteps(spec, "regression", "mse_loss", optimizer, BATCH, 7, 1, **more)  # type: ignore[arg-type]


class Ready(Blocks):
    """Blocks that need not be opened."""

    @property
    def rdd(self) -> "RDD[Block]":
        return self.stored  # type: ignore[return-value]


def train(spark: SparkSession, parts: list[list[Block]], steps: LocalSteps, epochs: int, **given: object) -> tuple[State, rounds.Progress]:
    """What `run` gives for these blocks."""
    settings = options.read((("model_type", "dnn_regressor"), ("learn_rate", RATE), ("batch_size", BATCH), ("early_stop", False),
                             ("max_iterations", epochs), *given.items()))  # type: ignore[arg-type]  # fmt: skip
    rdd = spark.sparkContext.parallelize(parts, len(parts)).flatMap(lambda part: part)
    plan = rounds.Plan("test", settings, steps, schedule_of(settings), (Label("y", "double"),))
    start = initial_state(steps.network, 3)
    sizes = tuple((sum(one[2] for one in part if not one[1]), sum(one[2] for one in part if one[1])) for part in parts)
    blocks = Ready(rdd, sizes, ())
    return rounds.run(spark.sparkContext, blocks, plan, start, None, lambda done: None, lambda last: None, lambda _, write: write())  # fmt: skip


@pytest.fixture(params=["gang", "merge"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways to agree: inside a round, and by the driver after each, as where no cores are free for all workers at once."""
    if request.param == "merge":
        monkeypatch.setattr(rounds, "slots", lambda context: 0)
    yield request.param


def reference(
    parts: list[list[Block]], steps: LocalSteps, epochs: int, make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]
) -> State:
    """One process, plain PyTorch, on the workers' batches of each step joined to one."""
    module = network(steps.network, initial_state(steps.network, 3)).train()
    optimizer = make(list(module.parameters()))
    for epoch in range(epochs):
        streams = [{number: batch for number, _, batch in batches(steps, epoch, part, 0, 1 << 30)} for part in parts]
        for number in range(max(map(len, streams))):
            joint = joined([stream[number] for stream in streams if number in stream])
            optimizer.zero_grad()
            losses = functional.mse_loss(module(joint.dense, joint.codes)[:, 0], joint.label, reduction="none")
            ((losses * joint.weight).sum() / joint.weight.sum()).backward()
            optimizer.step()
    return {f"network/{name}": tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def joined(parts: list[Batch]) -> Batch:
    return Batch(*(torch.cat([getattr(part, name) for part in parts]) for name in ("dense", "codes", "label", "weight")))


def distance(one: State, other: State) -> float:
    """The largest relative difference of a tensor."""
    keys = [key for key in other if key.startswith("network/")]
    return max(float(np.abs(one[key] - other[key]).max() / np.abs(other[key]).max()) for key in keys)


# 33 batches of 16 an epoch in the largest part: about 100 steps in 3 epochs.
UNEVEN = {1: (520,), 2: (520, 300), 4: (520, 300, 7, 0)}


@pytest.mark.parametrize("workers", UNEVEN)
def test_averaging_every_gradient_with_sgd_equals_one_process_on_the_joint_batches(spark: SparkSession, way: str, workers: int) -> None:
    parts = [worker_blocks(i, rows) for i, rows in enumerate(UNEVEN[workers])]
    epochs = 4 if way == "gang" and workers < 4 else 1  # where the cores do not do for a gang a step is a job, which takes its time
    state, progress = train(spark, parts, local_steps(), epochs, sync_every=1)
    epochs = 1 + int(np.argmin(progress.losses))  # the best one's state comes back
    expected = reference(parts, local_steps(), epochs, lambda parameters: torch.optim.SGD(parameters, lr=RATE))
    assert distance(state, expected) < 1e-5  # float32 sums of another order


WARM_UP = [
    {"name": "LinearLR", "steps": 10, "start_factor": 0.1, "total_iters": 10},
    {"name": "CosineAnnealingLR", "T_max": 30},
]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_schedule_by_step_equals_one_process_that_steps_it(spark: SparkSession, way: str, workers: int) -> None:
    """Warm-up, then a cosine: torch's own SequentialLR in a loop of its own."""
    parts = [worker_blocks(i, rows) for i, rows in enumerate(UNEVEN[workers])]
    epochs = 3 if way == "gang" else 1
    state, progress = train(spark, parts, local_steps(), epochs, sync_every=1, lr_schedule=WARM_UP, lr_interval="step")

    class Scheduled(torch.optim.SGD):
        def step(self) -> None:  # type: ignore[override]
            super().step()
            schedule.step()

    def make(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        nonlocal schedule
        optimizer = Scheduled(parameters, lr=RATE)
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], [10])
        return optimizer

    schedule: Any = None
    expected = reference(parts, local_steps(), 1 + int(np.argmin(progress.losses)), make)
    assert distance(state, expected) < 1e-5  # float32 sums of another order
    assert progress.rounds[0].learning_rate == pytest.approx(0.1 * RATE)


@pytest.mark.parametrize(
    ("kind", "arguments", "tolerance"),
    [
        (torch.optim.Adam, {"betas": [0.8, 0.99]}, 1e-4),  # Adam divides by the gradient's size: its rounding grows where that is small
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}, 1e-4),  # nor does momentum forget one
    ],
)
def test_averaging_every_gradient_is_exact_for_optimisers_with_a_memory_too(
    spark: SparkSession, way: str, kind: type[torch.optim.Optimizer], arguments: dict[str, object], tolerance: float
) -> None:
    parts = [worker_blocks(i, rows) for i, rows in enumerate((200, 90))]
    steps = local_steps(kind.__name__, optimizer_args=tuple(arguments.items()))
    state, _ = train(spark, parts, steps, 1, sync_every=1)
    expected = reference(parts, steps, 1, lambda parameters: kind(parameters, lr=RATE, **arguments))  # type: ignore[call-arg]
    assert distance(state, expected) < tolerance


@pytest.mark.parametrize(
    ("steps", "given"),
    [
        (local_steps("Adam"), {"sync_every": 4}),
        (local_steps("SGD", optimizer_args=(("momentum", 0.9),)), {"sync_every": 4}),
        (local_steps("Adam", batch_norm=True), {"sync_every": 1}),
        (local_steps("NAdam", batch_norm=True), {"sync_every": 5}),
        (local_steps(outer_learn_rate=0.7, outer_momentum=0.9), {"sync_every": 3, "outer_learn_rate": 0.7, "outer_momentum": 0.9}),
        (local_steps("ASGD", frozen=("layers.0",)), {"sync_every": 4}),
        (local_steps("Adam", batch_norm=True, transport="bfloat16"), {"sync_every": 4}),
        (local_steps("Adam", batch_norm=True, transport="float16"), {"sync_every": 1}),
        (
            local_steps(outer_learn_rate=0.7, outer_momentum=0.9, transport="float16"),
            {"sync_every": 3, "outer_learn_rate": 0.7, "outer_momentum": 0.9},
        ),
        (local_steps("Adam", mixed_precision="bfloat16"), {"sync_every": 4}),
        (local_steps("Adam", mixed_precision="float16"), {"sync_every": 1}),
    ],
    ids=["adam", "momentum", "sync", "batch norm", "outer", "frozen", "short", "short gradients", "short outer", "bfloat16", "float16"],
)
def test_both_ways_of_agreeing_give_the_same_bits(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, steps: LocalSteps, given: dict[str, object]
) -> None:
    parts = [worker_blocks(i, rows, held_out=60) for i, rows in enumerate((150, 40))]
    inside, seen = train(spark, parts, steps, 2, **given)
    monkeypatch.setattr(rounds, "slots", lambda context: 0)
    outside, seen_outside = train(spark, parts, steps, 2, **given)
    assert inside.keys() == outside.keys()
    assert all(np.array_equal(inside[key], outside[key]) for key in inside)
    assert [one.eval_loss for one in seen.rounds] == [one.eval_loss for one in seen_outside.rounds if one.eval_loss is not None]


@pytest.mark.parametrize("every", [1, 4])
def test_short_transport_and_mixed_precision_learn_nearly_what_float32_learns(spark: SparkSession, every: int) -> None:
    parts = [worker_blocks(i, 300) for i in range(2)]
    whole, seen = train(spark, parts, local_steps("Adam"), 3, sync_every=every)
    for name, kind in product(("transport", "mixed_precision"), ("bfloat16", "float16")):
        steps = local_steps("Adam", **{name: kind})
        found, seen_short = train(spark, parts, steps, 3, sync_every=every)
        assert seen_short.losses == pytest.approx(seen.losses, rel=0.01)  # a bfloat16 has 8 bits: 0.8 % a number; a float16 11
        assert 0 < distance(found, whole) < 0.2  # which Adam's steps add up, 100 of them


def test_a_state_in_many_pieces_is_learned_to_the_same_bits(spark: SparkSession, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    parts = [worker_blocks(i, rows, held_out=60) for i, rows in enumerate((150, 40))]
    whole, seen = train(spark, parts, local_steps("Adam", batch_norm=True), 2, sync_every=4)
    for module in (rounds, jobs):
        monkeypatch.setattr(module, "PIECE", 100)
    monkeypatch.setattr(jobs, "cut", partial(cut, size=100))
    pieces, seen_in_pieces = train(spark, parts, local_steps("Adam", batch_norm=True), 2, sync_every=4)
    assert list(pieces) == list(whole)
    assert all(np.array_equal(pieces[key], whole[key]) for key in whole)
    assert [one.eval_loss for one in seen.rounds] == [one.eval_loss for one in seen_in_pieces.rounds]


@pytest.mark.parametrize("given", [{}, {"lr_schedule": "CosineAnnealingLR", "lr_interval": "step"}], ids=["constant", "by step"])
@pytest.mark.parametrize("workers", [1, 2])
def test_where_rounds_are_cut_does_not_change_the_weights(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, workers: int, given: dict[str, object]
) -> None:
    parts = [worker_blocks(i, 300) for i in range(workers)]
    whole, _ = train(spark, parts, local_steps("Adam"), 2, sync_every=4, **given)
    monkeypatch.setattr(rounds, "_FIRST_STEPS", 4)
    monkeypatch.setattr(rounds, "_ROUND_SECONDS", 0.0)
    cut, progress = train(spark, parts, local_steps("Adam"), 2, sync_every=4, **given)
    assert len(progress.rounds) > 8
    assert all(np.array_equal(whole[key], cut[key]) for key in whole)


@pytest.mark.parametrize(
    ("workers", "given"),
    [
        (1, {}),
        (2, {"sync_every": 4}),
        (2, {"sync_every": 4, "lr_schedule": [{"name": "ExponentialLR", "gamma": 0.5}]}),
        (2, {"sync_every": 1, "max_steps": 100}),
        (1, {"early_stop": True, "min_rel_progress": 0.2}),
        (2, {"early_stop": True, "min_rel_progress": 0.2, "sync_every": 1000}),
        (2, {"max_score": 0.95, "learn_rate": 0.01}),
        (2, {"lr_schedule": "ReduceLROnPlateau"}),
        (2, {"lr_schedule": {"name": "OneCycleLR", "max_lr": 0.1}, "lr_interval": "step", "sync_every": 4}),
    ],
    ids=lambda value: ", ".join(map(str, value)) if isinstance(value, dict) else str(value),
)
def test_epochs_of_one_job_are_those_of_a_job_each(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, workers: int, given: dict[str, object]
) -> None:
    """The workers carry the state on, know the rates to come, and stop where the driver would have stopped."""
    parts = [worker_blocks(i, 300, held_out=60) for i in range(workers)]
    steps = local_steps("Adam", batch_norm=True)
    jobs_begun, run_job = [], jobs.train
    monkeypatch.setattr(jobs, "train", lambda *job: jobs_begun.append(job) or run_job(*job))
    together, seen = train(spark, parts, steps, 9, **given)
    count = len(jobs_begun)
    monkeypatch.setattr(rounds, "_JOINED_SECONDS", 0.0)
    apart, seen_apart = train(spark, parts, steps, 9, **given)
    assert len(jobs_begun) - count == len(seen_apart.rounds)
    assert count == len(seen.rounds) if given.get("lr_schedule") == "ReduceLROnPlateau" else count < len(seen.rounds)
    assert [replace(one, seconds=0, rows_per_second=0, at=None) for one in seen.rounds] == [
        replace(one, seconds=0, rows_per_second=0, at=None) for one in seen_apart.rounds
    ]
    assert all(np.array_equal(together[key], apart[key]) for key in apart)


def test_time_that_is_up_within_a_long_epoch_ends_the_training_there(
    spark: SparkSession, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_FIRST_STEPS", 8)
    monkeypatch.setattr(rounds, "_ROUND_SECONDS", 0.0)
    monkeypatch.setattr(rounds, "_JOINED_SECONDS", 0.0)
    monkeypatch.setattr(rounds, "time", SimpleNamespace(perf_counter=count(0.0, 1.0).__next__))  # a second each round
    parts = [worker_blocks(i, 300, held_out=60) for i in range(2)]
    state, progress = train(spark, parts, local_steps("Adam"), 9, max_seconds=2.5, sync_every=4)
    steps = [8, 4, 2] if way == "gang" else [4, 4, 2]
    assert [one.rows for one in progress.rounds] == [2 * BATCH * some for some in steps]
    assert [one.eval_loss is not None for one in progress.rounds] == [False, False, True]
    assert (progress.losses, progress.stopped) == ([progress.rounds[-1].eval_loss], True)
    assert progress.best is state


def test_a_worker_without_rows_holds_nobody_up(spark: SparkSession, way: str) -> None:
    full, empty = worker_blocks(0, 100), list[Block]()
    both, _ = train(spark, [full, empty], local_steps("Adam"), 2, sync_every=3)
    alone, _ = train(spark, [full], local_steps("Adam"), 2, sync_every=3)
    assert all(np.array_equal(both[key], alone[key]) for key in alone)


def test_a_last_batch_of_one_row_is_left_out_where_a_network_norms_over_rows(spark: SparkSession, way: str) -> None:
    parts = [worker_blocks(0, 2 * BATCH + 1), worker_blocks(1, BATCH)]
    _, progress = train(spark, parts, local_steps(batch_norm=True), 1, sync_every=1)
    assert sum(one.rows for one in progress.rounds) == 3 * BATCH


def test_a_diverging_training_names_the_round(spark: SparkSession, way: str) -> None:
    parts = [worker_blocks(i, 100) for i in range(2)]
    with pytest.raises(
        ValueError,
        match=r"\[DLSQL_DIVERGED\] (The training loss|A weight) became (nan|inf|-inf) in round \d+\. Lower learn_rate \(now 1e\+20\)",
    ):
        train(spark, parts, local_steps(), 20, sync_every=2, learn_rate=1e20)


def test_a_round_without_a_batch_to_learn_from_changes_nothing(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_FIRST_STEPS", 1)
    monkeypatch.setattr(rounds, "_ROUND_SECONDS", 0.0)
    steps = local_steps("Adam", batch_norm=True)
    state, progress = train(spark, [worker_blocks(0, BATCH + 1)], steps, 2, max_steps=2)
    cut_off, _ = train(spark, [worker_blocks(0, BATCH + 1)], steps, 1, max_steps=1)
    assert [one.rows for one in progress.rounds] == [BATCH, 0]
    assert all(np.array_equal(state[key], cut_off[key]) for key in state)
