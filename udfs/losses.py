"""What a network's answers on a batch are worth: its loss, the gradients that follow from it, and the counts that metrics are made of."""

from collections.abc import Iterator
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
from udfs.schedules import LOSSES
from udfs.spec import Code, LocalSteps, NetworkSpec

_SCALES = (2.0**14, 2.0**10, 2.0**6, 2.0**2, 2.0**-2)  # of a loss: the first whose gradients a float16 holds

_Told = Tensor | tuple[Tensor, ...]  # of several labels one each


def backward(steps: LocalSteps, module: nn.Module, batch: Batch) -> tuple[float, float]:
    """The gradients of a batch into the parameters' `grad`; gives the losses of its rows, each by its weight, in sum, and the weight."""
    precision: torch.dtype = getattr(torch, steps.mixed_precision)
    mixed = precision != torch.float32
    with torch.autocast(batch.dense.device.type, precision) if mixed else nullcontext():
        outputs = module(batch.dense, batch.codes)
    of_batch = _losses(steps, outputs.float() if mixed else outputs, batch).sum()
    total = batch.weight.sum()
    loss = of_batch / total.clamp_min(1e-12)
    if steps.l1_reg or steps.l2_reg:
        loss = loss + _penalty(steps, module)
    if precision == torch.float16:
        _scaled_backward(loss, module)
    else:
        loss.backward()
    return float(of_batch.detach()), float(total)


def _scaled_backward(loss: Tensor, module: nn.Module) -> None:
    """The gradients by way of those of a multiple of the loss, of which fewer are too small for a float16 (Micikevicius et al., "Mixed
    Precision Training", ICLR 2018).

    Where some are too large, of a smaller multiple. torch's GradScaler leaves out the step then, and remembers what multiple did: workers
    would have to agree on that, and checkpoints to hold it.
    """
    for scale in _SCALES:
        module.zero_grad(set_to_none=True)
        (loss * scale).backward(retain_graph=True)
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        if torch.stack([gradient.isfinite().all() for gradient in gradients]).all():
            break
    for gradient in gradients:
        gradient /= scale


def clip(steps: LocalSteps, module: nn.Module) -> None:
    """Bounds the gradient that is there, each of its numbers and its norm, where the training asks for it."""
    if steps.grad_clip_value is not None:
        nn.utils.clip_grad_value_(module.parameters(), steps.grad_clip_value)
    if steps.grad_clip is not None:
        nn.utils.clip_grad_norm_(module.parameters(), steps.grad_clip)


def measured(steps: LocalSteps, outputs: Tensor, batch: Batch) -> tuple[float, npt.NDArray[np.float64]]:
    """The losses of a batch's rows in sum, and what `Evaluated` keeps of it."""
    counted = [_COUNTS[task](given, label) for task, given, label in _by_label(steps, outputs, batch)]
    return float(_losses(steps, outputs, batch).sum()), np.concatenate(counted)


def _by_label(steps: LocalSteps, outputs: Tensor, batch: Batch) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each label's task, outputs and values: of a classification [rows, classes] and int64 [rows], of a regression both [rows]."""
    if not steps.network.heads:
        yield steps.task, outputs if steps.task == "classification" else outputs[:, 0], batch.label
    for place, head in enumerate(steps.network.heads):
        given, bits = outputs[:, head.place], batch.label[:, place].contiguous()
        if head.task == "classification":
            yield head.task, given, bits.long()
        else:
            yield head.task, given[:, 0], bits.view(torch.float32)


def _losses(steps: LocalSteps, outputs: Tensor, batch: Batch) -> Tensor:
    """The loss of each row, the sum of its labels', times its weight. [rows]"""
    labels = list(_by_label(steps, outputs, batch))
    if steps.own_loss is not None:
        several = bool(steps.network.heads)
        _, given, wanted = zip(*labels, strict=True) if several else labels[0]
        return _own_losses(steps.own_loss, given, wanted, batch.weight)
    more = {"label_smoothing": steps.label_smoothing} if steps.label_smoothing else {}
    total = batch.weight.new_zeros(())
    for task, given, wanted in labels:
        named = steps.loss if task == steps.task else LOSSES[task][0]
        total = total + getattr(functional, named)(given, wanted, reduction="none", **more)
    return total * batch.weight


def _own_losses(loss: Code, outputs: _Told, labels: _Told, weight: Tensor) -> Tensor:
    """The losses of a user's function times the weights; one loss of the whole batch counts for each of its rows. [rows]"""
    losses = code.load(loss)(outputs, labels)
    if not isinstance(losses, Tensor) or losses.shape not in ((), weight.shape):
        found = f"a tensor {[*losses.shape]}" if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
        raise NetworkError(f"`{loss.name}` gives {found} for {len(weight)} rows; a loss gives one number for each row, or one for all.")
    each: Tensor = losses * weight
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


def try_loss(loss: Code, spec: NetworkSpec, task: str) -> None:
    """Calls a user's loss on two rows of nothing.

    Raises:
        NetworkError: it fails, or gives another shape than a loss has.
    """
    tasks = [(task, spec.outputs)] if not spec.heads else [(head.task, head.width) for head in spec.heads]
    outputs = tuple(torch.zeros((2, width) if task == "classification" else 2) for task, width in tasks)
    labels = tuple(torch.zeros(2, dtype=torch.int64 if task == "classification" else None) for task, _ in tasks)
    try:
        _own_losses(loss, outputs if spec.heads else outputs[0], labels if spec.heads else labels[0], torch.ones(2))
    except NetworkError:
        raise
    except Exception as e:
        given, wanted = (", ".join(str([*one.shape]) for one in some) for some in (outputs, labels))
        shown = f"outputs ({given}) and labels ({wanted})" if spec.heads else f"outputs {given} and labels {wanted}"
        raise NetworkError(f"`{loss.name}` fails, called with {shown}: {type(e).__name__}: {e}") from e


def _penalty(steps: LocalSteps, module: nn.Module) -> Tensor:
    """l1 |w| + l2 / 2 w^2 over the weights; biases are left free, as is usual (Goodfellow et al., Deep Learning, 7.1)."""
    weights = [p for p in module.parameters() if p.ndim > 1]
    penalty = weights[0].new_zeros(()) if weights else torch.zeros(())
    for weight in weights:
        penalty = penalty + steps.l1_reg * weight.abs().sum() + steps.l2_reg / 2 * weight.square().sum()
    return penalty


def _hits(outputs: Tensor, label: Tensor) -> npt.NDArray[np.float64]:
    classes = outputs.shape[1]
    guesses = outputs.argmax(dim=1)
    right = guesses[guesses == label]
    counts = torch.stack([torch.bincount(seen, minlength=classes) for seen in (right, guesses, label)])  # [3, classes]
    log_loss = functional.cross_entropy(outputs.double(), label, reduction="sum")
    return np.append(counts.double().cpu().numpy().ravel(), float(log_loss))


def _errors(outputs: Tensor, label: Tensor) -> npt.NDArray[np.float64]:
    """Sums of |e|, e^2, e, y, y^2, where y is the scaled label and e what the network lacks to it."""
    label = label.double()
    lacks = label - outputs.double()
    return np.array([float(s.sum()) for s in (lacks.abs(), lacks.square(), lacks, label, label.square())])


_COUNTS = {"classification": _hits, "regression": _errors}
