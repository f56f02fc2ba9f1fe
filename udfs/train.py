"""One round: a state and a worker's blocks -> the state after its local steps; all of it pure in its arguments and the seed."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from udfs import networks
from udfs.batches import Batch, Block, as_batch, batches, seed_of
from udfs.errors import NetworkError
from udfs.networks import code
from udfs.spec import Code, LocalSteps, NetworkSpec, Shared
from udfs.state import State, outer_step
from udfs.sync import Gang, Seat, gang

LOSSES: dict[str, tuple[str, ...]] = {
    "classification": ("cross_entropy", "multi_margin_loss"),
    "regression": ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"),
}
_UNFIT = ("LBFGS", "SparseAdam", "Muon")  # want a closure to call again, sparse gradients, matrices only
_GRADIENT = "gradient"  # of all parameters that move, in one vector: what half a step returns in the place of a state


@dataclass(frozen=True, slots=True)
class Round:
    """The part of an epoch that one Spark job trains: `count` steps from step `first` on."""

    epoch: int
    first: int
    count: int
    learning_rate: float
    sync_every: int  # steps between averagings; a round ends with one, and those inside it take a gang
    evaluates: bool = False  # on the worker's held-out rows, in the state that the workers agreed on


Seated = Callable[[], Seat | None]
"""Tells a task its seat in the gang; None where the driver merges what the tasks return."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a worker returns from a round."""

    worker: int
    rows: int
    weight: float
    loss: float  # summed over the rows, each by its weight
    state: State  # in a gang the one that all agreed on, from the first worker alone; of half a step the gradient and the buffers


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What a worker counts on the rows held out. Sums, so that workers' counts add up."""

    worker: int
    rows: int
    weight: float
    loss: float
    sums: npt.NDArray[np.float64]  # classification: [classes, (true positives, predicted, actual)] and log loss; regression: see _errors


def optimizers() -> dict[str, str]:
    """The optimisers of torch by their name in lower case, all that step on gradients alone."""
    named = {name: kind for name, kind in vars(torch.optim).items() if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)}
    return {name.lower(): name for name in named if name != "Optimizer" and name not in _UNFIT}


def schedules() -> dict[str, str]:
    """The learning-rate schedules of torch by their name in lower case, all that need no function and no other schedule."""
    kinds = vars(torch.optim.lr_scheduler).items()
    scheduler = torch.optim.lr_scheduler.LRScheduler
    chains = ("LRScheduler", "_LRScheduler", "LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler")
    return {name.lower(): name for name, kind in kinds if isinstance(kind, type) and issubclass(kind, scheduler) and name not in chains}


Schedule = tuple[str, Mapping[str, Any]]  # a class of torch.optim.lr_scheduler and its arguments, `epochs` among them for how long it lasts


def learning_rate(schedule: Sequence[Schedule], rate: float, epochs: int, losses: Sequence[float]) -> float:
    """The learning rate of the epoch after those that ended with `losses`, of `epochs` at most. None of the schedules: `rate` for good.

    Schedules follow one another, each from `rate` on; each but the last lasts `epochs` epochs.

    >>> [learning_rate([("ExponentialLR", {"gamma": 0.5})], 0.1, 3, [1.0] * epoch) for epoch in range(3)]
    [0.1, 0.05, 0.025]
    >>> warm_up = [("LinearLR", {"epochs": 2, "start_factor": 0.5, "total_iters": 2}), ("ReduceLROnPlateau", {"patience": 0})]
    >>> [round(learning_rate(warm_up, 0.1, 9, [1.0] * epoch), 6) for epoch in range(6)]
    [0.05, 0.075, 0.1, 0.1, 0.01, 0.001]
    """
    at = 0
    for name, arguments in schedule:
        given = dict(arguments)
        lasts = int(given.pop("epochs", epochs - at))
        if at + lasts > len(losses) or (name, arguments) == schedule[-1]:
            return _scheduled(name, {**_filled_in(name, max(lasts, 1)), **given}, rate, losses[at:])
        at += lasts
    return rate


def _filled_in(name: str, epochs: int) -> dict[str, Any]:
    """Arguments that torch wants to be told and that follow from the training; momentum is the optimiser's own business."""
    span = {"OneCycleLR": "total_steps", "CosineAnnealingLR": "T_max", "PolynomialLR": "total_iters"}
    filled: dict[str, Any] = {span[name]: epochs} if name in span else {}
    return filled | ({"cycle_momentum": False} if name in ("OneCycleLR", "CyclicLR") else {})


def _scheduled(name: str, arguments: Mapping[str, Any], rate: float, losses: Sequence[float]) -> float:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **arguments)
    for loss in losses:
        optimizer.step()
        scheduler.step(*([loss] if name == "ReduceLROnPlateau" else []))
    return float(optimizer.param_groups[0]["lr"])


def initial_state(spec: NetworkSpec, seed: int) -> State:
    """The parameters that every worker starts from."""
    drawn = random.getstate()  # which Keras draws from
    try:
        with torch.random.fork_rng(devices=[]):
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
    module.load_state_dict(_tensors(state))
    return module


class Learner:
    """A network and its optimiser on their way from one state to the next, and what they saw on it."""

    def __init__(self, steps: LocalSteps, learning_rate: float, state: State) -> None:
        self.steps, self.rows, self.weight, self.loss = steps, 0, 0.0, 0.0
        self.module = network(steps.network, state).train()
        for name, parameter in self.module.named_parameters():
            if name.startswith(steps.frozen or ("\0",)):  # a network may have others that it never trains
                parameter.requires_grad_(False)
        self._one_is_none = networks.norms_over_rows(self.module)
        moving = {name: parameter for name, parameter in self.module.named_parameters() if parameter.requires_grad}
        self.moving = list(moving.values())
        # What a step changes beside them: batch norm's means, which torch keeps as buffers and Keras as parameters that do not move.
        self._kept = {
            f"network/{name}": tensor
            for name, tensor in self.module.state_dict().items()
            if name not in moving and not name.startswith(steps.frozen or ("\0",))
        }
        self.optimizer: torch.optim.Optimizer = getattr(torch.optim, steps.optimizer)(self.module.parameters(), lr=learning_rate)
        self._outer = {key: value for key, value in state.items() if key.startswith("outer/")}
        self._load_optimizer(state)

    def take(self, epoch: int, number: int, worker: int, batch: Batch) -> float:
        """Forward and backward; the weight of the batch, 0 for one that cannot be learned from."""
        steps = self.steps
        if self._one_is_none and len(batch.label) == 1:
            return 0.0
        torch.manual_seed(seed_of(steps.seed, epoch, worker, number))  # for dropout
        self.optimizer.zero_grad(set_to_none=True)
        loss, weight = backward(steps, self.module, batch)
        self.rows, self.weight, self.loss = self.rows + len(batch.label), self.weight + weight, self.loss + loss
        return weight

    def step(self) -> None:
        """The optimiser's step on the gradient that is there."""
        clip(self.steps, self.module)
        self.optimizer.step()

    def half(self) -> State:
        """Half a step: the gradient of all parameters that move, zeros where there is none, and what is kept beside them."""
        gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in self.moving])
        return {_GRADIENT: gradient.numpy(), **{key: tensor.numpy() for key, tensor in self._kept.items()}}

    def finish(self, averaged: State) -> None:
        """The other half: the optimiser's step on the workers' average gradient, with what they kept on average."""
        gradient = torch.from_numpy(averaged[_GRADIENT])
        for parameter, part in zip(self.moving, gradient.split([p.numel() for p in self.moving]), strict=True):
            parameter.grad = part.view_as(parameter)
        for key, tensor in self._kept.items():
            tensor.copy_(torch.from_numpy(averaged[key]))
        self.step()

    def state(self) -> State:
        """Everything that the next round goes on from."""
        slots = self.optimizer.state_dict()["state"].items()
        held = {
            f"optimizer/{index}/{slot}": value.numpy().copy() if isinstance(value, Tensor) else np.array(value)
            for index, of_parameter in slots
            for slot, value in of_parameter.items()
            if value is not None
        }
        return {**_network_state(self.module), **held, **self._outer}

    def meet(self, together: Gang, rows: int, before: State) -> State:
        """Agrees with the other workers on one state, of which all then go on. `before` is the one that they agreed on last."""
        if not self.optimizer.state_dict()["state"]:
            self._make_slots()  # a worker without rows has to hold what the others hold
        own = {key: value for key, value in self.state().items() if key not in self._outer}
        merged = together.merge(own, rows)
        if merged is None:
            return before
        agreed = stepped_out(self.steps, before, merged)
        self._outer = {key: value for key, value in agreed.items() if key.startswith("outer/")}
        self.module.load_state_dict(_tensors(agreed))
        self._load_optimizer(agreed)
        return agreed

    def trained(self, worker: int, state: State) -> Trained:
        """What the worker returns."""
        return Trained(worker, self.rows, self.weight, self.loss, state)

    def _make_slots(self) -> None:
        for parameter in self.moving:
            parameter.grad = torch.zeros_like(parameter)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = torch.zeros(()) if isinstance(group["lr"], Tensor) else 0.0
        self.optimizer.step()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _load_optimizer(self, state: State) -> None:
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            if key.startswith("optimizer/"):
                _, index, slot = key.split("/")
                slots.setdefault(int(index), {})[slot] = torch.tensor(value)
        if slots:
            self.optimizer.load_state_dict({"state": slots, "param_groups": self.optimizer.state_dict()["param_groups"]})


def no_seat() -> None:
    """The seat of a worker that is on its own."""


def train_round(steps: LocalSteps, this: Round, state: Shared, seated: Seated, blocks: Iterable[Block]) -> Iterator[Trained | Evaluated]:
    """A worker's part of a round: local steps of the optimiser from the shared state on the worker's own rows.

    In a gang the workers average their states after every `sync_every` steps: local SGD (Stich, "Local SGD Converges Fast and Communicates
    Little", ICLR 2019). Where that is 1 they average the gradients instead: synchronous SGD, for any optimiser (Chen et al., "Revisiting
    Distributed Synchronous SGD", 2016). Without a gang the round is one such stretch: the driver averages what the workers return, and
    where it is a single step that is its gradient, for `half_step` to go on with.
    """
    torch.set_num_threads(steps.threads)
    parts = groupby(blocks, key=lambda block: block[1])  # blocks to train on come before those held out
    held_out, first = next(parts, (True, iter(())))
    training: Iterable[Block] = () if held_out else first
    learner = Learner(steps, this.learning_rate, state.value)
    with gang(seated()) as together:
        if together is None:
            yield from _alone(learner, this, training)
        else:
            yield _together(learner, this, training, state.value, together)
    evaluation = first if held_out else next(parts, (True, iter(())))[1]
    yield from _evaluated(steps, learner.module, evaluation if this.evaluates else ())
    for _ in evaluation:  # a task that leaves input unread costs its Python worker
        pass


def _alone(learner: Learner, this: Round, blocks: Iterable[Block]) -> Iterator[Trained]:
    worker, exact = -1, this.sync_every == 1
    for number, worker, batch in batches(learner.steps, this.epoch, blocks, this.first, this.count):
        if learner.take(this.epoch, number, worker, batch) and not exact:
            learner.step()
    if learner.rows:
        yield learner.trained(worker, learner.half() if exact else learner.state())


def _together(learner: Learner, this: Round, blocks: Iterable[Block], state: State, together: Gang) -> Trained:
    """Every worker goes through all the round's numbers, with or without a batch of its own, so that all meet at the same ones."""
    own = batches(learner.steps, this.epoch, blocks, this.first, this.count)
    exact, agreed, met, end = this.sync_every == 1, state, 0, this.first + this.count
    for number in range(this.first, end):
        taken = next(own, None)
        weight = 0.0 if taken is None else learner.take(this.epoch, *taken)
        if exact:
            averaged = together.merge(learner.half(), weight)
            if averaged is not None:
                learner.finish(averaged)
            continue
        if weight:
            learner.step()
        if number + 1 == end or (number + 1) % this.sync_every == 0:
            agreed, met = learner.meet(together, learner.rows - met, agreed), learner.rows
    for _ in own:
        pass
    return learner.trained(together.rank, {} if together.rank else learner.state() if exact else agreed)


def half_step(steps: LocalSteps, learning_rate: float, state: State, averaged: State) -> State:
    """The other half of a step that the workers began: the optimiser's, on their average gradient, with their average buffers."""
    learner = Learner(steps, learning_rate, state)
    learner.finish(averaged)
    return learner.state()


def stepped_out(steps: LocalSteps, before: State, merged: State) -> State:
    """What the workers go on from: their merged state, or a step of the outer optimiser towards it."""
    if (steps.outer_learn_rate, steps.outer_momentum) == (1.0, 0.0):
        return merged
    parameters = network(steps.network, merged).named_parameters()
    names = [name for name, parameter in parameters if parameter.requires_grad and not name.startswith(steps.frozen or ("\0",))]
    return outer_step(before, merged, names, steps.outer_learn_rate, steps.outer_momentum)


def backward(steps: LocalSteps, module: nn.Module, batch: Batch) -> tuple[float, float]:
    """The gradients of a batch into the parameters' `grad`; gives the losses of its rows, each by its weight, in sum, and the weight."""
    of_batch = _losses(steps, module(batch.dense, batch.codes), batch).sum()
    total = batch.weight.sum()
    loss = of_batch / total.clamp_min(1e-12)
    if steps.l1_reg or steps.l2_reg:
        loss = loss + _penalty(steps, module)
    loss.backward()
    return float(of_batch.detach()), float(total)


def clip(steps: LocalSteps, module: nn.Module) -> None:
    """Bounds the gradient that is there, each of its numbers and its norm, where the training asks for it."""
    if steps.grad_clip_value is not None:
        nn.utils.clip_grad_value_(module.parameters(), steps.grad_clip_value)
    if steps.grad_clip is not None:
        nn.utils.clip_grad_norm_(module.parameters(), steps.grad_clip)


def measured(steps: LocalSteps, outputs: Tensor, batch: Batch) -> tuple[float, npt.NDArray[np.float64]]:
    """The losses of a batch's rows in sum, and what `Evaluated` keeps of it."""
    sums = _hits(outputs, batch) if steps.task == "classification" else _errors(outputs, batch)
    return float(_losses(steps, outputs, batch).sum()), sums


def evaluate(steps: LocalSteps, state: Shared, held_out: bool, blocks: Iterable[Block]) -> Iterator[Evaluated]:
    """A worker's part of an evaluation, on its rows that are held out or on those that are not. Nothing for no rows."""
    torch.set_num_threads(steps.threads)
    yield from _evaluated(steps, network(steps.network, state.value), (block for block in blocks if block[1] == held_out))


def _evaluated(steps: LocalSteps, module: nn.Module, blocks: Iterable[Block]) -> Iterator[Evaluated]:
    module.eval()
    worker, rows, weight, loss, sums = -1, 0, 0.0, 0.0, np.zeros(0)
    with torch.inference_mode():
        for block in blocks:
            worker, batch = block[0], as_batch(steps, block)
            of_batch, counted = measured(steps, module(batch.dense, batch.codes), batch)
            sums = counted if not rows else sums + counted
            rows, weight, loss = rows + len(batch.label), weight + float(batch.weight.sum()), loss + of_batch
    if rows:
        yield Evaluated(worker, rows, weight, loss, sums)


def _losses(steps: LocalSteps, outputs: Tensor, batch: Batch) -> Tensor:
    """The loss of each row times its weight. [rows]"""
    if steps.own_loss is not None:
        return _own_losses(steps.own_loss, outputs if steps.task == "classification" else outputs[:, 0], batch)
    more = {"label_smoothing": steps.label_smoothing} if steps.label_smoothing else {}
    outputs = outputs if steps.task == "classification" else outputs[:, 0]
    losses: Tensor = getattr(functional, steps.loss)(outputs, batch.label, reduction="none", **more) * batch.weight
    return losses


def _own_losses(loss: Code, outputs: Tensor, batch: Batch) -> Tensor:
    """The losses of a user's function times the weights; one loss of the whole batch counts for each of its rows. [rows]"""
    losses = code.load(loss)(outputs, batch.label)
    if not isinstance(losses, Tensor) or losses.shape not in ((), batch.label.shape):
        found = f"a tensor {[*losses.shape]}" if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
        raise NetworkError(
            f"`{loss.name}` gives {found} for {len(batch.label)} rows; a loss gives one number for each row, or one for all."
        )
    each: Tensor = losses * batch.weight
    return each


def problem_of(spec: NetworkSpec, loss: Code | None, _: object) -> str | None:
    """What keeps this process from building the network or loading the loss; None where nothing does."""
    try:
        networks.build(spec)
        if loss is not None:
            code.load(loss)
    except NetworkError as e:
        return e.problem
    return None


def try_loss(loss: Code, outputs: int, task: str) -> None:
    """Calls a user's loss on two rows of nothing.

    Raises:
        NetworkError: it fails, or gives another shape than a loss has.
    """
    rows = Batch(
        torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(2, dtype=torch.int64 if task == "classification" else None), torch.ones(2)
    )
    answers = torch.zeros((2, outputs) if task == "classification" else 2)
    try:
        _own_losses(loss, answers, rows)
    except NetworkError:
        raise
    except Exception as e:
        shown = f"outputs {[*answers.shape]} and labels {[*rows.label.shape]}"
        raise NetworkError(f"`{loss.name}` fails, called with {shown}: {type(e).__name__}: {e}") from e


def _penalty(steps: LocalSteps, module: nn.Module) -> Tensor:
    """l1 |w| + l2 / 2 w^2 over the weights; biases are left free, as is usual (Goodfellow et al., Deep Learning, 7.1)."""
    weights = [p for p in module.parameters() if p.ndim > 1]
    penalty = torch.zeros(())
    for weight in weights:
        penalty = penalty + steps.l1_reg * weight.abs().sum() + steps.l2_reg / 2 * weight.square().sum()
    return penalty


def _hits(outputs: Tensor, batch: Batch) -> npt.NDArray[np.float64]:
    classes = outputs.shape[1]
    guesses = outputs.argmax(dim=1)
    right = guesses[guesses == batch.label]
    counts = torch.stack([torch.bincount(seen, minlength=classes) for seen in (right, guesses, batch.label)])  # [3, classes]
    log_loss = functional.cross_entropy(outputs.double(), batch.label, reduction="sum")
    return np.append(counts.double().numpy().ravel(), float(log_loss))


def _errors(outputs: Tensor, batch: Batch) -> npt.NDArray[np.float64]:
    """Sums of |e|, e^2, e, y, y^2, where y is the scaled label and e what the network lacks to it."""
    label = batch.label.double()
    lacks = label - outputs[:, 0].double()
    return np.array([float(s.sum()) for s in (lacks.abs(), lacks.square(), lacks, label, label.square())])


def _network_state(module: nn.Module) -> State:
    return {f"network/{name}": tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}


def _tensors(state: State) -> dict[str, Tensor]:
    """The inverse of `_network_state`."""
    prefix = "network/"
    return {key.removeprefix(prefix): torch.tensor(value) for key, value in state.items() if key.startswith(prefix)}
