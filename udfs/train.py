"""One round: a state and a worker's blocks -> the state after its local steps; all of it pure in its arguments and the seed."""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from udfs import networks
from udfs.batches import Batch, Block, as_batch, batches, parts, seed_of
from udfs.engines import Predictor, load
from udfs.losses import backward, clip, measured
from udfs.metrics import Evaluated, loss, metrics
from udfs.schedules import optimizer
from udfs.spec import Label, LocalSteps, NetworkSpec, Shared
from udfs.state import PIECE, Piece, State, cut, outer_step, restored, shortened
from udfs.stopping import Rules, Standing
from udfs.sync import Gang, Seat, gang
from udfs.worker import settle


@dataclass(frozen=True, slots=True)
class Round:
    """A part of an epoch: `count` steps from step `first` on."""

    epoch: int
    first: int
    count: int
    learning_rate: float
    sync_every: int  # steps between averagings; a round ends with one, and those inside it take a gang
    evaluates: bool = False  # on the worker's held-out rows, in the state that the workers agreed on
    last: bool = False  # the training's budget of steps or of time ends with it
    rates: tuple[float, ...] = ()  # of each step, from `learning_rate` on; none where all have that


CPU = torch.device("cpu")

Gpus = Callable[[], Sequence[str]]
"""Tells a task the addresses of the GPUs that it has to itself."""

Seated = Callable[[], Seat | None]
"""Tells a task its seat in the gang; None where the driver merges what the tasks return."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a worker tells of a round, beside the pieces of its state."""

    worker: int
    rows: int
    weight: float
    loss: float  # summed over the rows, each by its weight


def initial_state(spec: NetworkSpec, seed: int) -> State:
    """The parameters that every worker starts from."""
    with networks.DRAWING, torch.random.fork_rng(devices=[]):
        drawn = random.getstate()  # which Keras draws from
        try:
            torch.manual_seed(seed)
            random.seed(seed)
            return _network_state(networks.build(spec))
        finally:
            random.setstate(drawn)


def parameter_count(spec: NetworkSpec) -> int:
    """How many numbers are trained; for the tabular kinds nothing is allocated for them."""
    with torch.device("meta") if spec.builder == "perceptron" else nullcontext():
        return sum(parameter.numel() for parameter in networks.build(spec).parameters() if parameter.requires_grad)


def network(spec: NetworkSpec, state: State) -> nn.Module:
    """The network in this state."""
    module = networks.build(spec)
    prefix = "network/"
    module.load_state_dict({key.removeprefix(prefix): torch.from_numpy(value) for key, value in state.items() if key.startswith(prefix)})
    return module


class Learner:
    """A network and its optimiser on their way from one state to the next, and what they saw on it."""

    def __init__(self, steps: LocalSteps, state: State, device: torch.device = CPU) -> None:
        self.steps, self.rows, self.weight, self.loss, self.stepped = steps, 0, 0.0, 0.0, False
        self._factor = 1.0  # of a round's learning rates
        self.module, self.device = network(steps.network, state).to(device), device
        frozen = steps.frozen or ("\0",)
        named = dict(self.module.named_parameters(remove_duplicate=False))
        # What a step changes beside them: batch norm's means, which torch keeps as buffers and Keras as parameters without gradients.
        beside = {name: tensor for name, tensor in self.module.state_dict().items() if name not in named or not named[name].requires_grad}
        self._kept = {f"network/{name}": tensor for name, tensor in beside.items() if not name.startswith(frozen)}
        self._fixed = [(tensor, tensor.clone()) for name, tensor in beside.items() if name.startswith(frozen)]
        for name, parameter in named.items():
            if name.startswith(frozen):
                parameter.requires_grad_(False)
        self._resting = networks.resting(self.module, steps.frozen)
        self._one_is_none = networks.norms_over_rows(self.module)
        self.moving = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self.optimizer = optimizer(steps.optimizer, self.module.parameters(), 0.0, steps.optimizer_args)
        self._outer = {key: value for key, value in state.items() if key.startswith("outer/")}
        # The last state that all agreed on, which an outer optimiser steps from and differences are told from, is kept for them alone.
        self._before: State = state if steps.steps_out or steps.is_short else {}
        self._load_optimizer(state)

    def begin(self, this: Round) -> None:
        """From here on it sees and counts the rows of this round."""
        self.rows, self.weight, self.loss = 0, 0.0, 0.0
        self.module.train()
        for one in self._resting:
            one.eval()
        self._factor = 1.0 if this.sync_every == 1 else self.steps.rate_factor
        self.set_rate(this.learning_rate * self._factor)

    def turn_to(self, this: Round, step: int) -> None:
        """From here on it has the learning rate of this step, where each has its own."""
        if this.rates:
            self.set_rate(this.rates[step - this.first] * self._factor)

    def set_rate(self, learning_rate: float) -> None:
        """The optimiser's learning rate of the steps to come."""
        for group in self.optimizer.param_groups:
            group["lr"] = torch.tensor(learning_rate) if isinstance(group["lr"], Tensor) else learning_rate

    def is_finite(self) -> bool:
        """Whether all parameters are numbers."""
        return all(bool(tensor.isfinite().all()) for tensor in self.module.state_dict().values() if tensor.is_floating_point())

    def take(self, epoch: int, number: int, worker: int, batch: Batch) -> float:
        """Forward and backward; the weight of the batch, 0 for one that cannot be learned from."""
        steps = self.steps
        if self._one_is_none and len(batch.label) == 1:
            return 0.0
        _reseed(self.device, seed_of(steps.seed, epoch, worker, number))  # for dropout
        self.optimizer.zero_grad(set_to_none=True)
        loss, weight = backward(steps, self.module, batch.to(self.device))
        for tensor, value in self._fixed:  # for a layer that changes what it keeps in either mode, as counters do
            tensor.copy_(value)
        self.rows, self.weight, self.loss = self.rows + len(batch.label), self.weight + weight, self.loss + loss
        return weight

    def step(self) -> None:
        """The optimiser's step on the gradient that is there."""
        clip(self.steps, self.module)
        self.optimizer.step()
        self.stepped = True

    def half(self) -> State:
        """Half a step: the gradients of all parameters that move, zeros where there are none, and what is kept beside them."""
        gradients = _views(self._gradients())
        return {**shortened(gradients, {}, self.steps.transport), **_views(self._kept)}

    def _gradients(self) -> dict[str, Tensor]:
        for parameter in self.moving:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return {f"gradient/{i}": parameter.grad for i, parameter in enumerate(self.moving) if parameter.grad is not None}

    def finish(self, averaged: State) -> None:
        """The other half: the optimiser's step on the workers' average gradient, with what they kept on average."""
        _put(restored(averaged, {}), {**self._gradients(), **self._kept})
        self.step()

    def state(self) -> State:
        """Everything that the next round goes on from: views of what the next step changes."""
        return {**_views(self._tensors()), **self._outer}

    def stretch(self) -> State:
        """What the steps since the workers last agreed came to, as it travels to whoever merges it."""
        self.make_slots()
        return shortened(self.state(), self._before, self.steps.transport)

    def _tensors(self) -> dict[str, Tensor]:
        slots = self.optimizer.state_dict()["state"].items()
        held = {f"optimizer/{i}/{slot}": value for i, of_parameter in slots for slot, value in of_parameter.items() if value is not None}
        return {**{f"network/{name}": tensor for name, tensor in self.module.state_dict().items()}, **held}

    def share_gradient(self, together: Gang, weight: float) -> None:
        """A step on the average of what all workers have taken, each by its weight; none where nobody has taken anything."""
        half = self.half()
        if together.merge(half, weight):
            self.finish(half)

    def meet(self, together: Gang, rows: int) -> None:
        """Agrees with the other workers, if there are any, on one state, from which all then go on."""
        if together.world == 1:
            return
        bare = not self.optimizer.state_dict()["state"]
        self.make_slots()
        held = self._tensors()
        own = shortened(_views(held), self._before, self.steps.transport)
        if together.merge(own, rows):
            agreed = stepped_out(self.steps, self._before, own)
            _put(agreed, held)
            self._outer = {key: value for key, value in agreed.items() if key.startswith("outer/")} or self._outer
            if self._before:
                self._before = {key: value.copy() for key, value in agreed.items()}
        elif bare:
            self.optimizer.state.clear()

    def trained(self, worker: int) -> Trained:
        """What the worker tells."""
        return Trained(worker, self.rows, self.weight, self.loss)

    def make_slots(self) -> None:
        """A worker that has taken no step holds what the others hold."""
        if self.stepped or self.optimizer.state_dict()["state"]:
            return
        for parameter in self.moving:
            parameter.grad = torch.zeros_like(parameter)
        rate = float(self.optimizer.param_groups[0]["lr"])
        self.set_rate(0.0)
        self.optimizer.step()
        self.set_rate(rate)

    def _load_optimizer(self, state: State) -> None:
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            if key.startswith("optimizer/"):
                _, index, slot = key.split("/")
                slots.setdefault(int(index), {})[slot] = torch.tensor(value)
        if slots:
            self.optimizer.load_state_dict({"state": slots, "param_groups": self.optimizer.state_dict()["param_groups"]})


def _reseed(device: torch.device, seed: int) -> None:
    """`torch.manual_seed`, which on its way to the GPUs that are not there takes 80 us a step."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _views(tensors: dict[str, Tensor]) -> State:
    """Tensors as arrays in one piece of memory: their own, where that will do."""
    return {key: tensor.detach().cpu().contiguous().numpy() for key, tensor in tensors.items()}


def _put(arrays: State, tensors: dict[str, Tensor]) -> None:
    """Arrays into tensors of their names, unless they are the tensors' own already."""
    for key, tensor in tensors.items():
        array = torch.from_numpy(arrays[key])
        if array.data_ptr() != tensor.data_ptr():
            tensor.detach().copy_(array)


def no_seat() -> None:
    """The seat of a worker whose state others merge with its fellows'."""


def alone() -> Seat:
    """The seat of a worker that has no fellows."""
    return Seat(0, ("",), ("", 0), 0)


def device_of(gpus: Sequence[str]) -> torch.device:
    """Where a task trains: on the first of the GPUs that Spark has given it, by their addresses, if torch can use it."""
    return torch.device(f"cuda:{gpus[0]}") if gpus and torch.cuda.is_available() else CPU


Told = Trained | Evaluated | Piece


@dataclass(frozen=True, slots=True)
class Task:
    """What one Spark job trains: a round, or several of an epoch each until time is up or the rules say that it is enough."""

    steps: LocalSteps
    rounds: tuple[Round, ...]
    rules: Rules
    standing: Standing
    best: float  # the lowest loss of the epochs before
    labels: tuple[Label, ...]
    seconds: float  # no epoch is begun that would end after so many


def train_rounds(task: Task, state: Shared, seated: Seated, gpus: Gpus, blocks: Iterable[Block]) -> Iterator[tuple[int, Told]]:
    """A worker's part of a job's rounds: what it tells of each, under its place among them.

    What a round ends with is what the next one begins with, as if it came from the driver. All workers know what all have told, and stop at
    the same one. The state comes back of the last round, and of the best one where that is another.
    """
    torch.set_num_threads(task.steps.threads)
    settle()
    kept = blocks if len(task.rounds) == 1 else list(blocks)
    learner = Learner(task.steps, state.value, device_of(gpus()))
    standing, lowest = task.standing, task.best
    best: list[tuple[int, Piece]] = []
    began = time.monotonic()
    with gang(seated()) as together:
        for place, this in enumerate(task.rounds):
            if place and task.steps.network.builder != "perceptron":  # which may keep more than its state from one epoch to the next
                learner = Learner(task.steps, learner.state(), learner.device)
            said: list[Trained | Evaluated] = []
            for told in train_round(learner, this, kept, together):
                if not isinstance(told, Piece):
                    said.append(told)
                yield place, told
            if together is None:
                return
            last = place + 1 == len(task.rounds)
            if len(task.rounds) > 1:
                is_over = not learner.is_finite() or (time.monotonic() - began) * (place + 2) / (place + 1) > task.seconds
                found, standing, enough = _judged(task, standing, said, is_over, together)
                last |= enough
                if found < lowest:
                    lowest, best = found, [] if last else [(place, one.copy()) for one in _own_pieces(learner, together)]
            if last:
                yield from best
                yield from ((place, one) for one in _own_pieces(learner, together))
                return


def _own_pieces(learner: Learner, together: Gang) -> Iterator[Piece]:
    """Those of the state that all agreed on that this worker gives back."""
    return (piece for piece in cut(learner.state()) if piece.number % together.world == together.rank)


def _judged(
    task: Task, standing: Standing, said: Sequence[Trained | Evaluated], is_over: bool, together: Gang
) -> tuple[float, Standing, bool]:
    """The loss of an epoch, from what this worker and all others tell of it, and whether it is the last: for one of them, or by rule."""
    own: list[float] = [is_over]
    for one in said:  # an epoch's training, then the evaluation of a worker that has rows for it
        own += [one.weight, one.loss, *([one.rows, *one.sums] if isinstance(one, Evaluated) else ())]
    everybodys = together.share(own)
    evaluated = [Evaluated(rank, int(told[5]), told[3], told[4], told[6:]) for rank, told in enumerate(everybodys) if len(told) > 3]
    found = loss(evaluated)
    if found is None:
        found = sum(told[2] for told in everybodys) / max(sum(told[1] for told in everybodys), 1e-12)
    standing = standing.after(task.rules, found)
    enough = standing.is_enough(task.rules, found, metrics(evaluated, task.labels))
    return found, standing, enough or any(told[0] for told in everybodys)


def train_round(learner: Learner, this: Round, blocks: Iterable[Block], together: Gang | None) -> Iterator[Told]:
    """A worker's part of a round: local steps of the optimiser from the shared state on the worker's own rows.

    In a gang the workers average their states after every `sync_every` steps: local SGD (Stich, "Local SGD Converges Fast and Communicates
    Little", ICLR 2019). Where that is 1 they average the gradients instead: synchronous SGD, for any optimiser (Chen et al., "Revisiting
    Distributed Synchronous SGD", 2016). All then hold the same state. Without a gang the round is one such stretch, whose state comes back
    in pieces: whoever merges what the workers return averages it, and where it is a single step that is its gradient, for `half_step` to go
    on with.
    """
    learner.begin(this)
    halves = groupby(blocks, key=lambda block: block[1])  # blocks to train on come before those held out
    held_out, first = next(halves, (True, iter(())))
    training: Iterable[Block] = () if held_out else first
    yield from _alone(learner, this, training) if together is None else _together(learner, this, training, together)
    evaluation = first if held_out else next(halves, (True, iter(())))[1]
    yield from _evaluated(learner.steps, learner.module, learner.device, evaluation if this.evaluates else ())
    for _ in evaluation:  # a task that leaves input unread costs its Python worker
        pass


def _alone(learner: Learner, this: Round, blocks: Iterable[Block]) -> Iterator[Told]:
    worker, exact = -1, this.sync_every == 1
    for number, worker, batch in batches(learner.steps, this.epoch, blocks, this.first, this.count):
        learner.turn_to(this, number)
        if learner.take(this.epoch, number, worker, batch) and not exact:
            learner.step()
    if learner.rows:
        yield learner.trained(worker)
        yield from cut(learner.half() if exact else learner.stretch(), PIECE, worker, learner.weight if exact else learner.rows)


def _together(learner: Learner, this: Round, blocks: Iterable[Block], together: Gang) -> Iterator[Told]:
    """Every worker goes through all the round's numbers, with or without a batch of its own, so that all meet at the same ones."""
    own = batches(learner.steps, this.epoch, blocks, this.first, this.count)
    met, end = 0, this.first + this.count
    for number in range(this.first, end):
        taken = next(own, None)
        learner.turn_to(this, number)
        weight = 0.0 if taken is None else learner.take(this.epoch, *taken)
        if this.sync_every == 1:
            learner.share_gradient(together, weight)
            continue
        if weight:
            learner.step()
        if number + 1 == end or (number + 1) % this.sync_every == 0:
            learner.meet(together, learner.rows - met)
            met = learner.rows
    for _ in own:
        pass
    yield learner.trained(together.rank)


def half_step(steps: LocalSteps, learning_rate: float, state: State, averaged: State) -> State:
    """The other half of a step that the workers began: the optimiser's, on their average gradient, with their average buffers."""
    learner = Learner(steps, state)
    learner.set_rate(learning_rate)
    learner.finish(averaged)
    return learner.state()


def stepped_out(steps: LocalSteps, before: State, merged: State) -> State:
    """What the workers go on from: their merged state, or a step of the outer optimiser towards it."""
    merged = restored(merged, before)
    if not steps.steps_out:
        return merged
    parameters = network(steps.network, merged).named_parameters(remove_duplicate=False)  # Keras has some under two names
    names = [name for name, parameter in parameters if parameter.requires_grad and not name.startswith(steps.frozen or ("\0",))]
    return outer_step(before, merged, names, steps.outer_learn_rate, steps.outer_momentum)


def evaluate(steps: LocalSteps, state: Shared, held_out: bool, gpus: Gpus, blocks: Iterable[Block]) -> Iterator[Evaluated]:
    """A worker's part of an evaluation, on its rows that are held out or on those that are not. Nothing for no rows."""
    torch.set_num_threads(steps.threads)
    settle()
    device = device_of(gpus())
    module = network(steps.network, state.value).to(device)
    yield from _evaluated(steps, module, device, (block for block in blocks if block[1] == held_out))


def evaluate_graph(steps: LocalSteps, files: Shared, held_out: bool, blocks: Iterable[Block]) -> Iterator[Evaluated]:
    """As `evaluate`, of the network that an artefact's files hold, run as predictions are."""
    settle()
    yield from _evaluated(steps, _Graph(load("onnx", files.value, steps.threads)), CPU, (block for block in blocks if block[1] == held_out))


class _Graph(nn.Module):
    """A network that an engine runs, to who would call a module."""

    def __init__(self, run: Predictor) -> None:
        super().__init__()
        self._run = run

    def forward(self, dense: Tensor, codes: Tensor) -> Tensor:
        return torch.from_numpy(self._run(dense.numpy(), codes.numpy()))


def sample(steps: LocalSteps, rows: int, blocks: Iterable[Block]) -> Iterator[tuple[int, npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    """A worker's first rows to train on, whose order follows from their content: worker, dense and codes [rows, n]."""
    left = rows
    for block in blocks:
        if left and not block[1]:
            batch = as_batch(steps, block)
            yield block[0], batch.dense[:left].numpy(), batch.codes[:left].numpy()
            left -= min(left, block[2])


def _evaluated(steps: LocalSteps, module: nn.Module, device: torch.device, blocks: Iterable[Block]) -> Iterator[Evaluated]:
    module.eval()
    worker, rows, weight, loss, sums = -1, 0, 0.0, 0.0, np.zeros(0)
    with torch.no_grad():
        for block in blocks:
            worker = block[0]
            for part in parts(as_batch(steps, block)):
                batch = part.to(device)
                of_batch, counted = measured(steps, module(batch.dense, batch.codes), batch)
                sums = counted if not rows else sums + counted
                rows, weight, loss = rows + len(batch.label), weight + float(batch.weight.sum()), loss + of_batch
    if rows:
        yield Evaluated(worker, rows, weight, loss, sums)


def _network_state(module: nn.Module) -> State:
    return _views({f"network/{name}": tensor for name, tensor in module.state_dict().items()})
