"""The multi-layer perceptron of the tabular kinds, a linear model where it has no hidden layer; and a plain one to call by name."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from udfs.networks.shapes import Numbers
from udfs.spec import NetworkSpec

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
}

ONE_HOT_CODES = 34  # up to 32 words: one input each. Beyond it an embedding is smaller than the columns it replaces.


def embedding_width(codes: int) -> int:
    """The width of a category's embedding: min(50, 1.6 n^0.56), the rule fast.ai found by experiment (fastai.tabular.model.emb_sz_rule).

    >>> embedding_width(100), embedding_width(10_000)
    (21, 50)
    """
    return int(min(50, round(1.6 * codes**0.56)))


class Mlp(nn.Module):
    """dense [rows, numbers] and codes [rows, categories] -> logits or a value [rows, outputs]. `spec.arguments` holds its options."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        given = dict(spec.arguments)
        hidden_units = given["hidden_units"]
        self.codes = spec.codes
        self.linear = not hidden_units
        widths = [spec.outputs if self.linear else embedding_width(n) for n in spec.codes]
        # A linear model's one-hot columns are rows of a table that are added up: the same numbers, without the columns.
        # Code 0, the unknown bucket, stays a row of zeros: nothing was learned about it.
        self.tables = nn.ModuleDict(
            {str(i): nn.Embedding(n, widths[i], padding_idx=0) for i, n in enumerate(spec.codes) if self.linear or n > ONE_HOT_CODES}
        )
        if self.linear:
            for table in self.tables.values():
                nn.init.zeros_(table.weight)  # type: ignore[arg-type]
        width = spec.dense
        if not self.linear:
            width += sum(widths[i] if str(i) in self.tables else n - 1 for i, n in enumerate(spec.codes))
        layers: list[nn.Module] = []
        for units in hidden_units:
            layers.append(nn.Linear(width, units))
            if given["batch_norm"]:
                layers.append(nn.BatchNorm1d(units))
            layers.append(ACTIVATIONS[given["activation"]]())
            if given["dropout"]:
                layers.append(nn.Dropout(given["dropout"]))
            width = units
        layers.append(nn.Linear(width, spec.outputs))
        self.layers = nn.Sequential(*layers)

    def forward(self, dense: Tensor, codes: Tensor) -> Tensor:
        """One batch."""
        if self.linear:
            out: Tensor = self.layers(dense)  # [rows, outputs]
            for i in range(len(self.codes)):
                out = out + self.tables[str(i)](codes[:, i])
            return out
        parts = [dense, *(self._category(i, codes[:, i]) for i in range(len(self.codes)))]
        joined: Tensor = self.layers(torch.cat(parts, dim=1) if len(parts) > 1 else dense)
        return joined

    def _category(self, i: int, column: Tensor) -> Tensor:
        if str(i) in self.tables:
            embedded: Tensor = self.tables[str(i)](column)  # [rows, width]
            return embedded
        return nn.functional.one_hot(column, self.codes[i])[:, 1:].float()  # [rows, n - 1]: the unknown bucket is all zeros


def mlp(
    inputs: Mapping[str, tuple[int, ...]],
    outputs: int,
    hidden_units: Sequence[int] = (128, 64),
    activation: str = "relu",
    dropout: float = 0.0,
) -> nn.Module:
    """A perceptron over numbers as they are: one tensor of any shape, or several columns of numbers, [rows, *shape] -> [rows, outputs].

    >>> mlp({"x": (4,)}, 3, hidden_units=[8])(torch.zeros(2, 4)).shape
    torch.Size([2, 3])
    """
    width = sum(math.prod(shape) for shape in inputs.values())
    layers: list[nn.Module] = [Numbers(), nn.Flatten()]  # [rows, width]
    for units in hidden_units:
        layers += [nn.Linear(width, units), ACTIVATIONS[activation](), *([nn.Dropout(dropout)] if dropout else [])]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, outputs))
