"""What a network's answers on a batch are worth: its loss, the gradients that follow from it, and the counts that metrics are made of."""

from contextlib import nullcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from udfs import networks
from udfs.batches import Batch
from udfs.errors import NetworkError
from udfs.networks import code
from udfs.spec import Code, LocalSteps, NetworkSpec


def backward(steps: LocalSteps, module: nn.Module, batch: Batch) -> tuple[float, float]:
    """The gradients of a batch into the parameters' `grad`; gives the losses of its rows, each by its weight, in sum, and the weight."""
    with torch.autocast(batch.dense.device.type, torch.bfloat16) if steps.mixed_precision else nullcontext():
        outputs = module(batch.dense, batch.codes)
    of_batch = _losses(steps, outputs.float() if steps.mixed_precision else outputs, batch).sum()
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
    penalty = weights[0].new_zeros(()) if weights else torch.zeros(())
    for weight in weights:
        penalty = penalty + steps.l1_reg * weight.abs().sum() + steps.l2_reg / 2 * weight.square().sum()
    return penalty


def _hits(outputs: Tensor, batch: Batch) -> npt.NDArray[np.float64]:
    classes = outputs.shape[1]
    guesses = outputs.argmax(dim=1)
    right = guesses[guesses == batch.label]
    counts = torch.stack([torch.bincount(seen, minlength=classes) for seen in (right, guesses, batch.label)])  # [3, classes]
    log_loss = functional.cross_entropy(outputs.double(), batch.label, reduction="sum")
    return np.append(counts.double().cpu().numpy().ravel(), float(log_loss))


def _errors(outputs: Tensor, batch: Batch) -> npt.NDArray[np.float64]:
    """Sums of |e|, e^2, e, y, y^2, where y is the scaled label and e what the network lacks to it."""
    label = batch.label.double()
    lacks = label - outputs[:, 0].double()
    return np.array([float(s.sum()) for s in (lacks.abs(), lacks.square(), lacks, label, label.square())])
