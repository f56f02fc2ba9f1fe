"""Networks and losses as a user's own package holds them: the tests send this file to the workers and allow its name."""

from os import getcwd  # noqa: F401 - what a module imports is no part of what was allowed

import torch
from torch import nn

SIZE = 3


class Small(nn.Module):
    """A number and a word by the names of their columns."""

    def __init__(self, outputs, inputs, codes, width=8):
        super().__init__()
        self.words = nn.Embedding(codes["city"], 4)
        self.body = nn.Sequential(nn.Linear(inputs["area"][0] + 4, width), nn.ReLU())
        self.head = nn.Linear(width, outputs)

    def forward(self, city, area):
        return self.head(self.body(torch.cat([area, self.words(city)], dim=1)))


class TooSmall(nn.Module):
    """Its embedding has fewer rows than there are words."""

    def __init__(self, outputs):
        super().__init__()
        self.words = nn.Embedding(2, outputs)

    def forward(self, city):
        return self.words(city)


def three(outputs):
    return nn.LazyLinear(3)


def poisson(outputs, labels):
    return nn.functional.poisson_nll_loss(outputs, labels, reduction="none")


def whole_batch(outputs, labels):
    return nn.functional.cross_entropy(outputs, labels)


def wrong_loss(outputs, labels):
    return torch.zeros(7)
