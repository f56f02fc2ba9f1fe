"""When a training has learned enough: asked after each epoch, by the driver, and by workers that have more of them to do in one job."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """What ends a training before its last epoch."""

    min_rel_progress: float  # by how much a loss must be below the best before it, relative to that, to count as progress
    patience: int | None  # epochs without progress that end it; None: any number is borne
    min_loss: float | None
    max_score: float | None
    score: str  # the metric that `max_score` is about


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of the epochs so far."""

    reference: float = math.inf  # the loss that the next one must beat by min_rel_progress
    stale: int = 0  # epochs without progress

    def after(self, rules: Rules, loss: float) -> "Standing":
        """With one epoch more. Early stopping as BigQuery ML defines it.

        >>> rules = Rules(0.01, 2, None, None, "accuracy")
        >>> Standing().after(rules, 1.0).after(rules, 0.995)
        Standing(reference=1.0, stale=1)
        """
        if loss < self.reference * (1 - rules.min_rel_progress):
            return Standing(loss)
        return Standing(self.reference, self.stale + 1)

    def is_enough(self, rules: Rules, loss: float, metrics: Mapping[str, float]) -> bool:
        """Whether the training ends with the epoch that had this loss and these metrics."""
        score = metrics.get(rules.score)
        return bool(
            (rules.patience is not None and self.stale >= rules.patience)
            or (rules.min_loss is not None and loss <= rules.min_loss)
            or (rules.max_score is not None and score is not None and score >= rules.max_score)
        )
