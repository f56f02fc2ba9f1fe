"""What an option may name of torch: optimisers, losses and learning-rate schedules; and the learning rate of each epoch or step."""

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from inspect import signature
from itertools import repeat
from typing import Any

import torch
from torch import nn

LOSSES: dict[str, tuple[str, ...]] = {
    "classification": ("cross_entropy", "multi_margin_loss"),
    "regression": ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"),
}
_UNFIT = ("LBFGS", "SparseAdam", "Muon")  # want a closure to call again, sparse gradients, matrices only
_BY_GRADIENT = ("SGD", "ASGD", "Rprop")  # step by the gradient itself, or by its sign alone
_FUSED = ("Adam", "AdamW", "SGD", "Adagrad")  # an eighth of Adam's time for half a million parameters
_OURS = ("params", "lr", "foreach", "fused", "capturable", "differentiable", "maximize")  # arguments that are our business
_CHAINS = ("LRScheduler", "_LRScheduler", "LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler")

_TRIED = 50_000  # steps of a schedule, 0.3 s, and its last: nobody waits for those of a hundred million rows

Schedule = tuple[str, Mapping[str, Any]]  # a class of torch.optim.lr_scheduler and its arguments, `lasts` among them where others follow


def optimizers() -> dict[str, str]:
    """The optimisers of torch by their name in lower case, all that step on gradients alone."""
    named = {name: kind for name, kind in vars(torch.optim).items() if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)}
    return {name.lower(): name for name in named if name != "Optimizer" and name not in _UNFIT}


def optimizer(
    name: str, parameters: Iterable[nn.Parameter], rate: float, arguments: Iterable[tuple[str, Any]] = ()
) -> torch.optim.Optimizer:
    """One of torch's optimisers, by torch's name for it; where torch has it in one kernel for all that it does, that one."""
    fused = {"fused": True} if name in _FUSED else {}
    made: torch.optim.Optimizer = getattr(torch.optim, name)(parameters, lr=rate, **fused, **dict(arguments))
    return made


def optimizer_arguments(name: str) -> list[str]:
    """What an optimiser takes beside its rate that changes what it learns, and not only how it computes.

    >>> optimizer_arguments("SGD")
    ['momentum', 'dampening', 'weight_decay', 'nesterov']
    """
    return [argument for argument in signature(getattr(torch.optim, name)).parameters if argument not in _OURS]


def try_optimizer(name: str, arguments: Iterable[tuple[str, Any]]) -> str | None:
    """What torch says against these arguments, if anything: it looks at some of them only in a step."""
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    try:
        optimizer(name, [parameter], 0.1, arguments).step()
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return None


def rate_factor(name: str, share: float) -> float:
    """By how much an optimiser's rate grows where each worker steps on a share of the batch, and the workers average what came of it.

    Where Adam and its kin divide a gradient by its size, the size is mostly noise, which grows with the root of 1 / share; the step that
    the workers have in common is smaller by as much, and the noise in their average is that of the joint batch (the square root rule of
    Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms", NeurIPS 2022). Without it 16 workers took 2.5 times
    the epochs of one to 0.93 on 10,000 digits, with it the same.

    >>> rate_factor("Adam", 1 / 4), rate_factor("SGD", 1 / 4)
    (2.0, 1.0)
    """
    return 1.0 if name in _BY_GRADIENT else math.sqrt(1 / share)


def schedules() -> dict[str, str]:
    """The learning-rate schedules of torch by their name in lower case, all that need no function and no other schedule."""
    kinds = vars(torch.optim.lr_scheduler).items()
    scheduler = torch.optim.lr_scheduler.LRScheduler
    return {name.lower(): name for name, kind in kinds if isinstance(kind, type) and issubclass(kind, scheduler) and name not in _CHAINS}


def learning_rates(schedule: Sequence[Schedule], rate: float, length: int) -> Generator[float, float, None]:
    """Gives the learning rate of an epoch, is sent the loss that the epoch ended with, and gives the next; of `length` epochs at most.

    It may be steps in the place of epochs: only ReduceLROnPlateau looks at the loss.

    Schedules follow one another, each from `rate` on; each but the last has its own `lasts`. None of them: `rate` for good.

    >>> def of_epochs(schedule, epochs):
    ...     rates = learning_rates(schedule, 0.1, epochs)
    ...     return [round(rate, 6) for rate in (next(rates), *(rates.send(1.0) for _ in range(epochs - 1)))]
    >>> of_epochs([("ExponentialLR", {"gamma": 0.5})], 3)
    [0.1, 0.05, 0.025]
    >>> warm_up = [("LinearLR", {"lasts": 2, "start_factor": 0.5, "total_iters": 2}), ("ReduceLROnPlateau", {"patience": 0})]
    >>> of_epochs(warm_up, 6)
    [0.05, 0.075, 0.1, 0.1, 0.01, 0.001]
    """
    at = 0
    for place, (name, arguments) in enumerate(schedule):
        lasts = int(arguments.get("lasts", length - at))
        scheduler, waits = _scheduler(name, arguments, rate, lasts), name == "ReduceLROnPlateau"
        for _ in repeat(None) if place == len(schedule) - 1 else repeat(None, lasts):
            loss = yield float(scheduler.optimizer.param_groups[0]["lr"])
            scheduler.step(*([loss] if waits else []))
        at += lasts
    while True:
        yield rate


def _scheduler(name: str, arguments: Mapping[str, Any], rate: float, lasts: int) -> Any:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    given = {key: value for key, value in arguments.items() if key != "lasts"}
    made = getattr(torch.optim.lr_scheduler, name)(optimizer, **{**_filled_in(name, max(lasts, 1)), **given})
    optimizer.step()  # torch warns of a schedule that goes on before its optimiser
    return made


def try_schedule(schedule: Sequence[Schedule], rate: float, length: int) -> tuple[Schedule, str] | None:
    """What torch says against one of the schedules in any epoch or step, and which it is: many look at their arguments only then."""
    left = length
    for place, one in enumerate(schedule):
        lasts = left if place == len(schedule) - 1 else min(int(one[1]["lasts"]), left)
        most = min(lasts, left - 1)  # the last rate of all is not stepped on from
        try:
            scheduler = _scheduler(*one, rate, int(one[1].get("lasts", left)))
            for step in (*range(min(most, _TRIED)), *range(max(most - 1, _TRIED), most)):
                scheduler.last_epoch = step
                scheduler.step(*([1.0] if one[0] == "ReduceLROnPlateau" else []))
        except (TypeError, ValueError, ArithmeticError) as e:
            return one, str(e)
        left -= lasts
    return None


def _filled_in(name: str, length: int) -> dict[str, Any]:
    """Arguments that torch wants to be told and that follow from the training; momentum is the optimiser's own business."""
    span = {"OneCycleLR": "total_steps", "CosineAnnealingLR": "T_max", "PolynomialLR": "total_iters"}
    filled: dict[str, Any] = {span[name]: length} if name in span else {}
    return filled | ({"cycle_momentum": False} if name in ("OneCycleLR", "CyclicLR") else {})
