"""LeNet-5 for small images.

LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998, figure 2.
"""

from collections import OrderedDict
from collections.abc import Mapping

from torch import nn

from udfs.networks.shapes import Numbers, the_image

_LEAST = 12  # pixels a side: what two convolutions and two poolings leave something of


def lenet5(inputs: Mapping[str, tuple[int, ...]], outputs: int) -> nn.Module:
    """Image [rows, channels, height, width] -> [rows, outputs].

    As in the paper, with tanh and average pooling, but for its table of which maps are joined, and softmax in place of its RBF units. A
    28 x 28 image is padded by 2, as there.
    """
    channels, height, width = the_image("lenet5", inputs)
    if min(height, width) < _LEAST:
        raise ValueError(f"lenet5 takes images of at least {_LEAST} x {_LEAST}, and this is {height} x {width}.")
    high, wide = ((side // 2 - 4) // 2 for side in (height, width))
    features = nn.Sequential(
        Numbers(), nn.Conv2d(channels, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2),  # [rows, 6, height / 2, width / 2]
        nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),  # [rows, 16 * high * wide]
    )  # fmt: skip
    head = nn.Sequential(nn.Linear(16 * high * wide, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, outputs))
    return nn.Sequential(OrderedDict(features=features, head=head))
