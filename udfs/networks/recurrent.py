"""Recurrent networks over sequences of numbers or tokens.

LSTM: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997; GRU: Cho et al., "Learning Phrase Representations using RNN
Encoder-Decoder", 2014. The last layer's state after the last step, of both directions where there are two, answers.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from udfs.networks.shapes import the_sequence


def lstm(inputs: Mapping[str, tuple[int, ...]], outputs: int, **arguments: Any) -> nn.Module:
    """Sequence [rows, steps], [rows, steps, numbers] or tokens [rows, steps] -> [rows, outputs]. Arguments: see `Recurrent`."""
    return Recurrent(nn.LSTM, inputs, outputs, **arguments)


def gru(inputs: Mapping[str, tuple[int, ...]], outputs: int, **arguments: Any) -> nn.Module:
    """Sequence [rows, steps], [rows, steps, numbers] or tokens [rows, steps] -> [rows, outputs]. Arguments: see `Recurrent`."""
    return Recurrent(nn.GRU, inputs, outputs, **arguments)


class Recurrent(nn.Module):
    """`layers` layers of `units` units; with a `vocabulary` the numbers are tokens from 0 to vocabulary - 1, each a row of an embedding."""

    def __init__(
        self, kind: type[nn.LSTM] | type[nn.GRU], inputs: Mapping[str, tuple[int, ...]], outputs: int, units: int = 64, layers: int = 1,
        bidirectional: bool = False, dropout: float = 0.0, vocabulary: int | None = None, embedding: int = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        _, numbers = the_sequence(kind.__name__.lower(), inputs, vocabulary)
        self.embedding = nn.Embedding(vocabulary, embedding) if vocabulary is not None else None
        self.cells = kind(
            embedding if vocabulary is not None else numbers, units, layers, batch_first=True, bidirectional=bidirectional,
            dropout=dropout if layers > 1 else 0.0,
        )  # fmt: skip
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(units * (2 if bidirectional else 1), outputs)

    def forward(self, sequence: Tensor) -> Tensor:
        """One batch."""
        if self.embedding is not None:
            steps = self.embedding(sequence.long())  # [rows, steps, embedding]
        else:
            steps = (sequence if sequence.ndim == 3 else sequence.unsqueeze(2)).float()  # [rows, steps, numbers]
        _, state = self.cells(steps)
        hidden: Tensor = state[0] if isinstance(state, tuple) else state  # [layers * directions, rows, units]
        last = torch.cat([hidden[-2], hidden[-1]], dim=1) if self.cells.bidirectional else hidden[-1]  # [rows, units * directions]
        answer: Tensor = self.head(self.dropout(last))
        return answer
