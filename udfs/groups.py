"""One group's rows -> its trained network as a BINARY value: the body of TRAIN and of CREATE MODEL with `partition_cols`.

The columns come in this order: the hash of the row's content, the weight and the split column where the training has them, the label, the
features. Rows are put in the order of their content first, so that the bytes depend on the rows and not on the way they came.
"""

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from udfs import metrics, networks, preprocess, schedules, tensors, values
from udfs.batches import Batch
from udfs.errors import GroupError, TrainingError
from udfs.learn import held_out_share, label_shares, learn
from udfs.losses import backward, clip, measured
from udfs.metrics import Evaluated
from udfs.spec import GroupTraining, LocalSteps, NetworkSpec, Preprocess
from udfs.stopping import Rules, Standing
from udfs.train import initial_state

REPORT = pa.struct([("value", pa.binary()), ("report", pa.string())])  # of `report_group`; the report is JSON

_LARGEST = 2 << 30  # bytes of a group's encoded rows: a task holds them beside the Arrow columns that they came in
_EVALUATED_ROWS = 8192  # rows of an evaluation that go through the network at once
_BY_MATRIX = ("Adafactor",)  # an optimiser that looks at a parameter's rows and columns; to the others each number is one alone
_FLOATS = ("float", "double", "array<float>", "array<double>")


def train_group(how: GroupTraining, *columns: pa.Array) -> bytes | None:
    """The network of a group; None for a group that none can be learned from."""
    try:
        return values.write(_train(how, columns))
    except GroupError:
        return None


def report_group(how: GroupTraining, *columns: pa.Array) -> pa.Scalar:
    """The network of a group and what was measured, or why there is none; of type REPORT."""
    began = time.perf_counter()
    try:
        value = _train(how, columns)
        found = values.write(value)
        told = dict(value.measured)
    except GroupError as e:
        found, told = None, {"rows": len(columns[0]), "note": str(e)}
    return pa.scalar({"value": found, "report": json.dumps({**told, "seconds": time.perf_counter() - began})}, REPORT)


@dataclass(frozen=True, slots=True)
class _Rows:
    """A group's usable rows, in the order of their content."""

    learned: Preprocess
    everything: Batch
    held_out: npt.NDArray[np.bool_]
    skipped: int


@dataclass(slots=True)
class _Best:
    """The best epoch so far, and whether it is time to stop."""

    loss: float = math.inf
    tensors: tuple[Tensor, ...] = ()
    standing: Standing = field(default_factory=Standing)

    def judge(self, loss: float, module: nn.Module, rules: Rules) -> bool:
        """Takes an epoch in; True to stop."""
        if loss < self.loss:
            self.loss, self.tensors = loss, tuple(tensor.detach().clone() for tensor in module.state_dict().values())
        self.standing = self.standing.after(rules, loss)
        return self.standing.is_enough(rules, loss, {})


def _train(how: GroupTraining, columns: Sequence[pa.Array]) -> values.Value:
    rows = _rows(how, columns)
    steps = _steps(how, rows)
    torch.set_num_threads(steps.threads)
    learning, held_out = _parts(rows, steps)
    module, flat = _fresh(steps.network, steps.seed)
    stepping = module.parameters() if steps.optimizer in _BY_MATRIX else [flat]
    optimizer = schedules.optimizer(steps.optimizer, stepping, how.rates[0], steps.optimizer_args)
    best, epoch = _Best(), 0
    for epoch, rate in enumerate(how.rates):
        optimizer.param_groups[0]["lr"] = rate
        loss = _epoch(steps, epoch, module, flat, optimizer, learning)
        if held_out is not None:
            evaluated = _evaluate(steps, module, held_out)
            loss = evaluated.loss / max(evaluated.weight, 1e-12)
        _check_finite("The loss", loss, epoch, rate)
        _check_weights(module, flat, epoch, rate)
        if best.judge(loss, module, how.rules):
            break
    with torch.no_grad():
        for tensor, kept in zip(module.state_dict().values(), best.tensors, strict=True):
            tensor.copy_(kept)
    last = _evaluate(steps, module, learning if held_out is None else held_out)
    _check_finite("The loss after the last step", last.loss / max(last.weight, 1e-12), epoch, how.rates[epoch])
    told = {
        "rows": len(rows.held_out), "skipped": rows.skipped, "epochs": epoch + 1, "loss": best.loss,
        "parameters": sum(parameter.numel() for parameter in module.parameters()), "metrics": metrics.metrics([last], rows.learned.labels),
    }  # fmt: skip
    named = {name: tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}
    return values.Value(rows.learned, steps.network, named, told)


def _check_finite(what: str, value: float, epoch: int, rate: float) -> None:
    """Raises GroupError, as a training of many workers raises DLSQL_DIVERGED."""
    if not math.isfinite(value):
        raise GroupError(f"{what} became {value} in epoch {epoch + 1}. Lower learn_rate (now {rate:g}) or set grad_clip.")


def _check_weights(module: nn.Module, flat: Tensor, epoch: int, rate: float) -> None:
    """An epoch's loss is that of the weights before its last step."""
    for tensor in (flat.detach(), *(buffer for buffer in module.buffers() if buffer.is_floating_point())):
        strange = tensor[~tensor.isfinite()]
        if len(strange):
            _check_finite("A weight", float(strange[0]), epoch, rate)


def _rows(how: GroupTraining, columns: Sequence[pa.Array]) -> _Rows:
    """Learns the columns and encodes the rows. Raises GroupError for too few, TrainingError for too many."""
    given = iter(columns)
    content = next(given)
    weight = next(given) if how.weighted else None
    split = next(given) if how.splits_by_column else None
    label, *features = given
    usable = _usable(how, label, weight, features)
    count = int(usable.sum())
    if count < 2:
        why = f" ({len(usable) - count} of {len(usable)} rows have no label, no positive weight, or a NaN or infinite number)"
        left_out = "" if count == len(usable) else why
        raise GroupError(f"The group has {count} usable row{'' if count == 1 else 's'}{left_out}; training needs at least 2.")
    hashes = _hashes(content, [*([] if weight is None else [weight]), *([] if split is None else [split]), *features])
    order = np.flatnonzero(usable)
    order = order[np.argsort(hashes[order], kind="stable")]
    place = pa.array(order)
    label, *features = (column.take(place) for column in (label, *features))
    learned = learn(how.features, features, how.label, label, task=how.steps.task, deep=how.deep)
    _check_size(learned, count)
    inputs = preprocess.encode(learned, features)
    weights = np.ones(count, np.float32) if weight is None else tensors.numbers(weight.take(place))[0].astype(np.float32)
    arrays = (inputs.dense, inputs.codes, preprocess.encode_label(learned.label, label), weights)
    held_out = _held_out(how, hashes[order], None if split is None else split.take(place))
    if held_out.all():
        raise GroupError("Every usable row is held out for evaluation; none is left to train on.")
    return _Rows(learned, Batch(*map(torch.from_numpy, arrays)), held_out, len(usable) - count)


def _hashes(content: pa.Array, columns: Sequence[pa.Array]) -> npt.NDArray[np.int64]:
    """Spark's hash of each row, which passes over NULLs, with the places of the NULLs mixed in: (1, NULL) is not (NULL, 1)."""
    hashes = np.asarray(content, dtype=np.int64).copy()
    for place, column in enumerate(columns):
        if column.null_count:
            hashes[np.asarray(pc.is_null(column), dtype=bool)] ^= _spread(np.array(place + 1))
        if pa.types.is_list(column.type) and (flat := column.flatten()).null_count:
            rows = np.asarray(pc.list_parent_indices(column), dtype=np.int64)
            within = np.arange(len(rows)) - np.searchsorted(rows, rows)
            null = np.asarray(pc.is_null(flat), dtype=bool)
            np.bitwise_xor.at(hashes, rows[null], _spread((place + 1 << 32) + within[null] + 1))
    return hashes


def _spread(number: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A number's bits spread over all 64: the odd constant is 2^64 over the golden ratio (Knuth, TAOCP 3, 6.4)."""
    with np.errstate(over="ignore"):
        product = number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (product ^ (product >> np.uint64(29))).astype(np.int64)


def _check_size(learned: Preprocess, rows: int) -> None:
    size = rows * (4 * preprocess.dense_width(learned.features) + 8 * len(learned.features) + 12)
    if size > _LARGEST:
        raise TrainingError(
            f"A group of {rows} rows takes {size / 2**30:.1f} GiB in one task, which is given {_LARGEST / 2**30:.0f}. Train such a group "
            "with CREATE MODEL without partition_cols, which shares the rows out among tasks, or train on a sample."
        )


def _usable(how: GroupTraining, label: pa.Array, weight: pa.Array | None, features: Sequence[pa.Array]) -> npt.NDArray[np.bool_]:
    """Which rows can be learned from, by the rule of `dlsql.training.profile`."""
    usable: npt.NDArray[np.bool_] = np.asarray(pc.is_valid(label), dtype=bool).copy()
    if how.label.type in _FLOATS:
        usable &= np.isfinite(tensors.numbers(label)[0])
    if weight is not None:
        amounts, missing = tensors.numbers(weight)
        usable &= ~missing & np.isfinite(amounts) & (amounts > 0)
    for feature, column in zip(how.features, features, strict=True):
        if feature.type in _FLOATS and feature.kind == "number":
            usable &= np.isfinite(tensors.numbers(column)[0])  # a NULL is read as 0
        elif feature.type in _FLOATS:
            odd = ~np.isfinite(tensors.numbers(column.flatten())[0])
            usable[np.asarray(pc.list_parent_indices(column))[odd]] = False
    return usable


def _held_out(how: GroupTraining, hashes: npt.NDArray[np.int64], split: pa.Array | None) -> npt.NDArray[np.bool_]:
    """Which rows are held out for evaluation, by the rule of `dlsql.training.profile`."""
    if how.split == "custom":
        return np.asarray(pc.fill_null(split, False), dtype=bool)
    share = held_out_share(how.split, how.held_out, len(hashes))
    if split is not None:
        ordered, missing = tensors.numbers(split)
        if missing.all():
            return np.zeros(len(hashes), dtype=bool)
        return ~missing & (ordered > np.quantile(ordered[~missing], 1.0 - share))
    chosen: npt.NDArray[np.bool_] = hashes % (1 << 30) < int((1 << 30) * share)
    return chosen


def _steps(how: GroupTraining, rows: _Rows) -> LocalSteps:
    learned, codes = rows.learned, rows.everything.label.numpy()
    sizes = tuple(feature.codes for feature in learned.features if feature.kind == "category")
    network = dataclasses.replace(
        how.steps.network, dense=preprocess.dense_width(learned.features), codes=sizes, outputs=learned.label.outputs
    )
    weights: tuple[float, ...] | None = None
    if how.auto_class_weights:
        weights = label_shares(codes, learned.label.outputs)
    elif how.class_weights and learned.label.classes is not None:
        given = {name.casefold(): weight for name, weight in how.class_weights}
        weights = tuple(given.get(str(one).casefold(), 1.0) for one in learned.label.classes.to_pylist())
    return dataclasses.replace(how.steps, network=network, class_weights=weights)


def _parts(rows: _Rows, steps: LocalSteps) -> tuple[Batch, Batch | None]:
    """The rows to train on, and those held out, if any."""
    whole = rows.everything
    if steps.class_weights is not None:
        whole = dataclasses.replace(whole, weight=whole.weight * torch.tensor(steps.class_weights)[whole.label])
    if not rows.held_out.any():
        return whole, None
    held_out = torch.from_numpy(rows.held_out)
    return _taken(whole, ~held_out), _taken(whole, held_out)


def _taken(batch: Batch, rows: Tensor | slice) -> Batch:
    return Batch(batch.dense[rows], batch.codes[rows], batch.label[rows], batch.weight[rows])


def _epoch(steps: LocalSteps, epoch: int, module: nn.Module, flat: nn.Parameter, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """Steps through the rows in an order that follows from the seed and the epoch; gives their mean loss."""
    order = torch.randperm(len(batch.label), generator=torch.Generator().manual_seed(steps.seed + epoch))
    parts = [whole[order].split(steps.batch_size) for whole in (batch.dense, batch.codes, batch.label, batch.weight)]
    torch.manual_seed(steps.seed + epoch)  # for dropout
    module.train()
    loss, weight, one_is_none = 0.0, 0.0, networks.norms_over_rows(module)
    for step in map(Batch, *parts):
        if one_is_none and len(step.label) == 1:
            continue
        flat.grad.zero_()  # type: ignore[union-attr]  # kept, since the parameters' are views of it
        of_step, total = backward(steps, module, step)
        clip(steps, module)
        optimizer.step()
        loss, weight = loss + of_step, weight + total
    return loss / max(weight, 1e-12)


def _evaluate(steps: LocalSteps, module: nn.Module, batch: Batch) -> Evaluated:
    module.eval()
    loss, sums = 0.0, np.zeros(())
    with torch.inference_mode():
        for at in range(0, len(batch.label), _EVALUATED_ROWS):
            part = _taken(batch, slice(at, at + _EVALUATED_ROWS))
            of_part, counted = measured(steps, module(part.dense, part.codes), part)
            loss, sums = loss + of_part, sums + counted
    return Evaluated(0, len(batch.label), float(batch.weight.sum()), loss, sums)


@lru_cache(maxsize=64)
def _module(network: NetworkSpec, seed: int) -> tuple[nn.Module, nn.Parameter, dict[str, Tensor]]:
    """A network, all its parameters in one, and the tensors that it starts from: groups of the same shape share them, one after the other.

    The parameters and their gradients are views of one tensor each, so that an optimiser has one to step on: half its time for small ones.
    """
    state = initial_state(network, seed)
    module = networks.build(network)
    parameters = list(module.parameters())
    flat = nn.Parameter(torch.cat([parameter.detach().ravel() for parameter in parameters]))
    flat.grad = torch.zeros_like(flat)
    at = 0
    for parameter in parameters:
        own = slice(at, at + parameter.numel())
        parameter.data = flat.detach()[own].view_as(parameter)
        parameter.grad = flat.grad[own].view_as(parameter)
        at = own.stop
    return module, flat, {key.removeprefix("network/"): torch.from_numpy(value) for key, value in state.items()}


def _fresh(network: NetworkSpec, seed: int) -> tuple[nn.Module, nn.Parameter]:
    module, flat, start = _module(network, seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            tensor.copy_(start[name])
    return module, flat
