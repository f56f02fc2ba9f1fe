"""One Spark job: its tasks train a round, or several, from the state before it; what they tell becomes the state after each."""

import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
from py4j.protocol import Py4JJavaError
from pyspark import RDD, Broadcast, InheritableThread, SparkContext
from pyspark.errors import PySparkException

from dlsql.bridge import has_begun, patience
from dlsql.training.pack import Blocks
from udfs.metrics import Evaluated
from udfs.spec import LocalSteps
from udfs.state import PIECE, Piece, Shares, State, cut, joined, merged, numbered
from udfs.sync import address_book
from udfs.train import (
    Gpus,
    Seated,
    Task,
    Told,
    Trained,
    alone,
    evaluate,
    evaluate_graph,
    half_step,
    no_seat,
    sample,
    stepped_out,
    train_rounds,
)


@dataclass(frozen=True, slots=True)
class Done:
    """What a round came to."""

    state: State  # empty where nobody will ask for it: a better one came after it in the same job
    parts: list[Trained]
    evaluated: list[Evaluated]


class StarvedError(Exception):
    """A gang's job that was given up, since its tasks did not begin."""


def train(context: SparkContext, blocks: Blocks, task: Task, state: State, host: str | None, free: bool) -> list[Done]:
    """The rounds of one job, from `state` on. A gang meets at `host`. Raises StarvedError where the cores for it do not get free."""
    fused = host is not None or free  # then the workers hold the merged state already
    (first, *others), steps = task.rounds, task.steps
    asked = replace(task, rounds=(replace(first, evaluates=first.evaluates and fused), *others))
    book = None if host is None else address_book(host)
    found: list[Done] = []
    with shared(context, state) as shares:
        seat = (alone if free else no_seat) if book is None else _barrier_seat((str(host), book.port), patience(context))
        train = partial(train_rounds, asked, shares, seat, _gpus())
        tasks: RDD[tuple[int, Told]] = blocks.rdd.mapPartitions(train) if book is None else blocks.rdd.barrier().mapPartitions(train)
        with nullcontext() if book is None else _begun_soon(context):
            for told in _found(tasks, _pieces_back(state)):
                parts, evaluated, pieces = _sorted_out(told)
                after = joined(pieces)
                if not parts:  # nobody had a batch to learn from
                    after = state
                found.append(Done(after, sorted(parts, key=attrgetter("worker")), evaluated))
    del book
    if fused:
        return found
    (done,) = found
    after = done.state
    if done.parts:
        after = half_step(steps, first.learning_rate, state, after) if first.sync_every == 1 else stepped_out(steps, state, after)
    return [Done(after, done.parts, evaluate_all(context, blocks, steps, after, held_out=True) if first.evaluates else [])]


@contextmanager
def _begun_soon(context: SparkContext) -> Iterator[None]:
    """A gang begins when cores for all of it are free at once, and Spark gives each that gets free to whoever waits for one: beside jobs of
    others that follow one another it would wait for their end.
    """
    tag, over, deadline = f"dlsql-{uuid.uuid4()}", threading.Event(), time.monotonic() + _SECONDS_TO_BEGIN

    def watch() -> None:
        while not over.wait(0.2) and not has_begun(context, tag):
            if time.monotonic() > deadline:
                context.cancelJobsWithTag(tag)
                return

    context.addJobTag(tag)
    watching = InheritableThread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    except (Py4JJavaError, PySparkException) as e:
        if tag in str(e):  # Spark says what was cancelled
            raise StarvedError from e
        raise
    finally:
        over.set()
        watching.join()
        context.removeJobTag(tag)


_SECONDS_TO_BEGIN = 3.0


def evaluate_all(context: SparkContext, blocks: Blocks, steps: LocalSteps, state: State, *, held_out: bool) -> list[Evaluated]:
    """What the workers count on their rows that are held out, or on those that are not."""
    with shared(context, state) as shares:
        return blocks.rdd.mapPartitions(partial(evaluate, steps, shares, held_out, _gpus())).collect()


def evaluate_files(
    context: SparkContext, blocks: Blocks, steps: LocalSteps, files: Mapping[str, bytes], *, held_out: bool
) -> list[Evaluated]:
    """As `evaluate_all`, of the network that an artefact's files hold."""
    sent = context.broadcast(dict(files))
    try:
        return blocks.rdd.mapPartitions(partial(evaluate_graph, steps, sent, held_out)).collect()
    finally:
        sent.destroy()


def first_rows(blocks: Blocks, steps: LocalSteps, rows: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Some of the rows to train on: dense [rows, numbers], codes [rows, categories]."""
    found = sorted(blocks.rdd.mapPartitions(partial(sample, steps, -(-rows // blocks.workers))).collect(), key=itemgetter(0))
    return np.concatenate([dense for _, dense, _ in found]), np.concatenate([codes for _, _, codes in found])


def _found(tasks: "RDD[tuple[int, Told]]", pieces: int) -> Iterator[Iterator[Told]]:
    """What the tasks tell of each of a job's rounds, the same pieces of several workers as one.

    Where there are many, in a round that is a job of its own, tasks average them, as in BigDL (Dai et al., SoCC 2019), and they come to
    the driver one after the other: a job's result lies several times in the heap of the driver's JVM, and may not exceed
    spark.driver.maxResultSize.
    """
    if pieces > 1:
        yield tasks.values().map(numbered).partitionBy(pieces, int).values().mapPartitions(merged).toLocalIterator()
        return
    rounds: list[list[Told]] = [[]]
    for place, told in sorted(tasks.collect(), key=itemgetter(0)):
        if place == len(rounds):
            rounds.append([])
        rounds[place].append(told)
    yield from map(merged, rounds)


def _pieces_back(state: State) -> int:
    """How many pieces the state of a round may have; before the first one the optimiser has nothing yet, and most then hold two moments."""
    size = sum(value.nbytes for value in state.values())
    begun = any(key.startswith("optimizer/") for key in state)
    return -(-size * (1 if begun or size <= PIECE else 3) // PIECE) or 1


def _sorted_out(found: Iterable[Told]) -> tuple[list[Trained], list[Evaluated], Iterator[Piece]]:
    """What the workers tell, in lists that fill up as the pieces are taken."""
    parts: list[Trained] = []
    evaluated: list[Evaluated] = []

    def pieces() -> Iterator[Piece]:
        for one in found:
            if isinstance(one, Piece):
                yield one
            else:
                parts.append(one) if isinstance(one, Trained) else evaluated.append(one)

    return parts, evaluated, pieces()


# What follows is defined within functions, so that it travels by value: executors do not have this module.


def _barrier_seat(book: tuple[str, int], seconds: int) -> Seated:
    def seat() -> Any:
        from pyspark import BarrierTaskContext

        from udfs.sync import Seat

        task = BarrierTaskContext.get()
        hosts = tuple(one.address.rpartition(":")[0] or one.address for one in task.getTaskInfos())
        return Seat(task.partitionId(), hosts, book, seconds)

    return seat


def _gpus() -> Gpus:
    def gpus() -> Sequence[str]:
        from pyspark import TaskContext

        task = TaskContext.get()
        given = None if task is None else task.resources().get("gpu")
        return () if given is None else tuple(given.addresses)

    return gpus


@contextmanager
def shared(context: SparkContext, state: State) -> Iterator[Shares]:
    """A state that every executor fetches once, for as long as a round lasts."""
    pieces: list[Broadcast[Piece]] = []
    try:
        for piece in cut(state):
            pieces.append(context.broadcast(piece))
        yield Shares(tuple(pieces))
    finally:
        for one in pieces:
            one.destroy()


@contextmanager
def described(context: SparkContext, text: str) -> Iterator[None]:
    """What Spark's UI says of the jobs within."""
    before = context.getLocalProperty("spark.job.description")
    context.setLocalProperty("spark.job.description", text)
    try:
        yield
    finally:
        context.setLocalProperty("spark.job.description", before)  # type: ignore[arg-type]
