"""One round: a state and a worker's blocks -> the state after its local steps; all of it pure in its arguments and the seed."""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from udfs.networks.mlp import Mlp
from udfs.spec import LocalSteps, NetworkSpec, Shared

State = dict[str, npt.NDArray[Any]]
"""Parameters and buffers as ``network/<name>``, the optimiser's tensors as ``optimizer/<index of the parameter>/<slot>``."""

Block = tuple[int, int, bytes, bytes, bytes, bytes]  # worker, rows, dense, codes, label, weight

LOSSES: dict[str, tuple[str, ...]] = {
    "classification": ("cross_entropy", "multi_margin_loss"),
    "regression": ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"),
}
_UNFIT = ("LBFGS", "SparseAdam", "Muon")  # want a closure to call again, sparse gradients, matrices only
_WINDOW_BYTES = 64 << 20  # rows are shuffled within a window of this size, so that a partition need not fit into memory


@dataclass(frozen=True, slots=True)
class Round:
    """The part of an epoch that one Spark job trains: `count` steps from step `first` on (None: to the end)."""

    epoch: int
    first: int
    count: int | None
    learning_rate: float


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows to step on."""

    dense: Tensor  # [rows, numbers]
    codes: Tensor  # [rows, categories]
    label: Tensor  # [rows]
    weight: Tensor  # [rows]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a worker returns from a round."""

    worker: int
    rows: int
    weight: float
    loss: float  # summed over the rows, each by its weight
    state: State


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
    """The learning-rate schedules of torch by their name in lower case."""
    kinds = vars(torch.optim.lr_scheduler).items()
    scheduler = torch.optim.lr_scheduler.LRScheduler
    chains = ("LRScheduler", "_LRScheduler", "LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler", "ReduceLROnPlateau")
    return {name.lower(): name for name, kind in kinds if isinstance(kind, type) and issubclass(kind, scheduler) and name not in chains}


def learning_rates(schedule: str | None, arguments: Mapping[str, Any], rate: float, epochs: int) -> list[float]:
    """The learning rate of each epoch.

    >>> learning_rates("ExponentialLR", {"gamma": 0.5}, 0.1, 3)
    [0.1, 0.05, 0.025]
    """
    if schedule is None:
        return [rate] * epochs
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = getattr(torch.optim.lr_scheduler, schedule)(optimizer, **arguments)
    rates = []
    for _ in range(epochs):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def initial_state(spec: NetworkSpec, seed: int) -> State:
    """The parameters that every worker starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _network_state(Mlp(spec))


def parameter_count(spec: NetworkSpec) -> int:
    """How many numbers are trained; nothing is allocated for them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Mlp(spec).parameters())


def network(spec: NetworkSpec, state: State) -> Mlp:
    """The network in this state."""
    module = Mlp(spec)
    prefix = "network/"
    module.load_state_dict({key.removeprefix(prefix): torch.tensor(v) for key, v in state.items() if key.startswith(prefix)})
    return module


def train_round(steps: LocalSteps, this: Round, state: Shared, blocks: Iterable[Block]) -> Iterator[Trained]:
    """A worker's part of a round: local steps of the optimiser from the shared state on the worker's own rows. Nothing for no rows."""
    torch.set_num_threads(steps.threads)
    module = network(steps.network, state.value).train()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not name.startswith(steps.frozen or ("\0",)))
    optimizer = _optimizer(steps, this, module, state.value)
    worker, rows, weight, loss = -1, 0, 0.0, 0.0
    for number, (worker, batch) in enumerate(_batches(steps, this.epoch, blocks)):
        # Blocks past the round's last step are read and left: a task that leaves input unread costs its Python worker.
        if number < this.first or (this.count is not None and number >= this.first + this.count):
            continue
        if steps.network.batch_norm and len(batch.label) == 1:  # one row has no deviation to norm by
            continue
        torch.manual_seed(_seed(steps.seed, this.epoch, worker, number))  # for dropout
        optimizer.zero_grad(set_to_none=True)
        of_batch, total = backward(steps, module, batch)
        if steps.grad_clip is not None:
            nn.utils.clip_grad_norm_(module.parameters(), steps.grad_clip)
        optimizer.step()
        rows, weight, loss = rows + len(batch.label), weight + total, loss + of_batch
    if rows:
        yield Trained(worker, rows, weight, loss, {**_network_state(module), **_optimizer_state(optimizer)})


def backward(steps: LocalSteps, module: nn.Module, batch: Batch) -> tuple[float, float]:
    """The gradients of a batch into the parameters' `grad`; gives the losses of its rows, each by its weight, in sum, and the weight."""
    of_batch = _losses(steps, module(batch.dense, batch.codes), batch).sum()
    total = batch.weight.sum()
    loss = of_batch / total.clamp_min(1e-12)
    if steps.l1_reg or steps.l2_reg:
        loss = loss + _penalty(steps, module)
    loss.backward()
    return float(of_batch.detach()), float(total)


def measured(steps: LocalSteps, outputs: Tensor, batch: Batch) -> tuple[float, npt.NDArray[np.float64]]:
    """The losses of a batch's rows in sum, and what `Evaluated` keeps of it."""
    sums = _hits(outputs, batch) if steps.task == "classification" else _errors(outputs, batch)
    return float(_losses(steps, outputs, batch).sum()), sums


def evaluate(steps: LocalSteps, state: Shared, blocks: Iterable[Block]) -> Iterator[Evaluated]:
    """A worker's part of an evaluation on the rows held out. Nothing for no rows."""
    torch.set_num_threads(steps.threads)
    module = network(steps.network, state.value).eval()
    worker, rows, weight, loss, sums = -1, 0, 0.0, 0.0, np.zeros(0)
    with torch.inference_mode():
        for block in blocks:
            worker, batch = block[0], _batch(steps, *_arrays(steps, block))
            of_batch, counted = measured(steps, module(batch.dense, batch.codes), batch)
            sums = counted if not rows else sums + counted
            rows, weight, loss = rows + len(batch.label), weight + float(batch.weight.sum()), loss + of_batch
    if rows:
        yield Evaluated(worker, rows, weight, loss, sums)


def _losses(steps: LocalSteps, outputs: Tensor, batch: Batch) -> Tensor:
    """The loss of each row times its weight. [rows]"""
    more = {"label_smoothing": steps.label_smoothing} if steps.label_smoothing else {}
    outputs = outputs if steps.task == "classification" else outputs[:, 0]
    losses: Tensor = getattr(functional, steps.loss)(outputs, batch.label, reduction="none", **more) * batch.weight
    return losses


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


def _batches(steps: LocalSteps, epoch: int, blocks: Iterable[Block]) -> Iterator[tuple[int, Batch]]:
    """An epoch's batches: rows shuffled within a window of blocks, the last batch short. The order follows from seed, epoch and worker."""
    held: list[Batch] = []
    size = 0
    worker = -1
    for window, block in enumerate(blocks):
        worker = block[0]
        held.append(_batch(steps, *_arrays(steps, block)))
        size += sum(len(buffer) for buffer in block[2:])
        if size >= _WINDOW_BYTES:
            mixed = _mixed(held, _seed(steps.seed, epoch, worker, -1 - window))
            whole = len(mixed.label) // steps.batch_size * steps.batch_size
            yield from ((worker, _cut(mixed, at, steps.batch_size)) for at in range(0, whole, steps.batch_size))
            held = [_cut(mixed, whole, steps.batch_size)]
            size = 0
    if held:
        mixed = _mixed(held, _seed(steps.seed, epoch, worker, 0))
        yield from ((worker, _cut(mixed, at, steps.batch_size)) for at in range(0, len(mixed.label), steps.batch_size))


def _mixed(parts: list[Batch], seed: int) -> Batch:
    order = torch.randperm(sum(len(part.label) for part in parts), generator=torch.Generator().manual_seed(seed))
    return Batch(*(torch.cat([getattr(part, name) for part in parts])[order] for name in ("dense", "codes", "label", "weight")))


def _cut(batch: Batch, at: int, rows: int) -> Batch:
    return Batch(*(getattr(batch, name)[at : at + rows] for name in ("dense", "codes", "label", "weight")))


def _arrays(steps: LocalSteps, block: Block) -> list[npt.NDArray[Any]]:
    _, rows, dense, codes, label, weight = block
    kinds = (np.float32, np.int64, np.int64 if steps.task == "classification" else np.float32, np.float32)
    flat = [np.frombuffer(bytearray(buffer), kind) for buffer, kind in zip((dense, codes, label, weight), kinds, strict=True)]
    return [flat[0].reshape(rows, steps.network.dense), flat[1].reshape(rows, len(steps.network.codes)), flat[2], flat[3]]


def _batch(steps: LocalSteps, *arrays: npt.NDArray[Any]) -> Batch:
    dense, codes, label, weight = (torch.from_numpy(array) for array in arrays)
    if steps.class_weights is not None:
        weight = weight * torch.tensor(steps.class_weights)[label]
    return Batch(dense, codes, label, weight)


def _seed(*parts: int) -> int:
    """One number of many, the same in every process: Python's own hash is salted."""
    return zlib.crc32(repr(parts).encode())


def _network_state(module: nn.Module) -> State:
    return {f"network/{name}": tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}


def _optimizer(steps: LocalSteps, this: Round, module: nn.Module, state: State) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = getattr(torch.optim, steps.optimizer)(module.parameters(), lr=this.learning_rate)
    saved = optimizer.state_dict()
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        if key.startswith("optimizer/"):
            _, index, slot = key.split("/")
            slots.setdefault(int(index), {})[slot] = torch.tensor(value)
    if slots:
        optimizer.load_state_dict({"state": slots, "param_groups": saved["param_groups"]})
    return optimizer


def _optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    slots = optimizer.state_dict()["state"].items()
    return {
        f"optimizer/{index}/{slot}": np.asarray(value)
        for index, of_parameter in slots
        for slot, value in of_parameter.items()
        if value is not None
    }
