"""The encoder of a transformer over sequences of numbers or tokens (Vaswani et al., "Attention Is All You Need", 2017).

Layers norm before attention (Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020), which trains without a
warm-up of the learning rate; positions are learned; the mean over the steps answers.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from udfs.networks.shapes import the_sequence


def transformer(
    inputs: Mapping[str, tuple[int, ...]], outputs: int, width: int = 64, heads: int = 4, layers: int = 2, dropout: float = 0.1,
    vocabulary: int | None = None,
) -> nn.Module:  # fmt: skip
    """Sequence [rows, steps], [rows, steps, numbers] or, with a `vocabulary`, tokens [rows, steps] -> [rows, outputs]."""
    steps, numbers = the_sequence("transformer", inputs, vocabulary)
    if width % heads:
        raise ValueError(f"transformer divides width = {width} by heads = {heads}, and that leaves a remainder.")
    return _Encoder(steps, numbers, outputs, width, heads, layers, dropout, vocabulary)


class _Encoder(nn.Module):
    def __init__(
        self, steps: int, numbers: int, outputs: int, width: int, heads: int, layers: int, dropout: float, vocabulary: int | None
    ) -> None:
        super().__init__()
        self.tokens = vocabulary is not None
        self.entry: nn.Module = nn.Linear(numbers, width) if vocabulary is None else nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(steps, width) * 0.02)  # small beside the steps, as is usual
        self.layers = nn.Sequential(*(_Layer(width, heads, dropout) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, sequence: Tensor) -> Tensor:
        if self.tokens:
            entered = self.entry(sequence.long())
        else:
            entered = self.entry((sequence if sequence.ndim == 3 else sequence.unsqueeze(2)).float())
        seen = self.layers(entered + self.positions)  # [rows, steps, width]
        answer: Tensor = self.head(self.norm(seen).mean(dim=1))
        return answer


class _Layer(nn.Module):
    """[rows, steps, width] -> the same: attention, then two dense layers, each added to what came in."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.share = heads, dropout
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asked, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dense = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, steps: Tensor) -> Tensor:
        steps = steps + self.dropout(self.joined(self._attended(self.before(steps))))
        after: Tensor = steps + self.dropout(self.dense(self.between(steps)))
        return after

    def _attended(self, steps: Tensor) -> Tensor:
        rows, length, width = steps.shape
        parts = self.asked(steps).reshape(rows, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each [rows, heads, steps, width / heads]
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=self.share if self.training else 0.0)
        return mixed.transpose(1, 2).reshape(rows, length, width)
