"""What the factories of this room ask of their inputs: one tensor of the rank that they take."""

from collections.abc import Mapping

from torch import Tensor, nn


class Numbers(nn.Module):
    """Whole numbers as numbers: int64 or float32 [rows, *shape] -> float32 [rows, *shape]."""

    def forward(self, values: Tensor) -> Tensor:
        """One batch."""
        return values.float()


def the_image(network: str, inputs: Mapping[str, tuple[int, ...]]) -> tuple[int, int, int]:
    """The one input as channels, height, width.

    >>> the_image("lenet5", {"pixels": (1, 28, 28)})
    (1, 28, 28)
    """
    shape = _the_only("image", network, inputs)
    if len(shape) != 3:
        name = next(iter(inputs))
        hint = f"Say it by reshape = MAP('{name}', [channels, height, width])."
        raise ValueError(f"{network} takes an image of 3 dimensions, and `{name}` has {[*shape]}. {hint}")
    return shape[0], shape[1], shape[2]


def the_sequence(network: str, inputs: Mapping[str, tuple[int, ...]], vocabulary: int | None) -> tuple[int, int]:
    """The one input as steps and numbers a step; a plain array is a sequence of one number a step, and of one token with a vocabulary.

    >>> the_sequence("gru", {"words": (20,)}, 1000), the_sequence("gru", {"moves": (20, 3)}, None)
    ((20, 1), (20, 3))
    """
    shape = _the_only("sequence", network, inputs)
    most = 1 if vocabulary is not None else 2
    if not 1 <= len(shape) <= most:
        name = next(iter(inputs))
        wanted = "[steps] of tokens" if vocabulary is not None else "[steps] or [steps, numbers]"
        raise ValueError(f"{network} takes a sequence {wanted}, and `{name}` has {[*shape]}. Say it by reshape = MAP('{name}', [...]).")
    return shape[0], (shape[1] if len(shape) == 2 else 1)


def _the_only(what: str, network: str, inputs: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    if len(inputs) != 1:
        raise ValueError(f"{network} takes one {what}, and there are {len(inputs)} feature columns: {', '.join(inputs)}.")
    return next(iter(inputs.values()))
