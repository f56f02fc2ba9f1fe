"""The workers' states of a round -> one: a row-weighted average in the workers' order, so that it cannot depend on who ended first."""

from collections.abc import Sequence

import numpy as np

from udfs.train import State, Trained


def merge(parts: Sequence[Trained]) -> State:
    """Parameters and the optimiser's moments, averaged by the rows that made them.

    Averaging local steps is local SGD (Stich, "Local SGD Converges Fast and Communicates Little", ICLR 2019); averaging the moments of
    adaptive optimisers as well follows Reddi et al., "Adaptive Federated Optimization", ICLR 2021, and keeps one state for all workers.
    Counters (steps, batches seen) are integers in meaning: the largest is kept.

    >>> one, two = (Trained(i, rows, 1.0, 0.0, {"network/w": np.array([float(rows)])}) for i, rows in enumerate((1, 3)))
    >>> merge([two, one])["network/w"].tolist()
    [2.5]
    """
    ordered = sorted(parts, key=lambda part: part.worker)
    if len(ordered) == 1:
        return ordered[0].state
    total = sum(part.rows for part in ordered)
    merged: State = {}
    for key in ordered[0].state:
        values = [part.state[key] for part in ordered if key in part.state]
        if key.endswith(("/step", "num_batches_tracked")) or not np.issubdtype(values[0].dtype, np.floating):
            merged[key] = np.maximum.reduce(values)
        else:
            # In float64, so that the average of equal parameters is the parameter itself.
            weighted = sum(value.astype(np.float64) * (part.rows / total) for value, part in zip(values, ordered, strict=True))
            merged[key] = np.asarray(weighted).astype(values[0].dtype)
    return merged
