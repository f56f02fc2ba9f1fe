"""A residual network for small images (He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", 2016, section 4.2)."""

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from udfs.networks.shapes import Numbers, the_image


def resnet(inputs: Mapping[str, tuple[int, ...]], outputs: int, blocks: int = 1, width: int = 16) -> nn.Module:
    """Image [rows, channels, height, width] -> [rows, outputs].

    6 * blocks + 2 layers in three stages of `width`, 2 * width and 4 * width maps: the paper's ResNet-20 has blocks = 3. A shortcut to more
    maps is a 1 x 1 convolution (the paper's option B).
    """
    channels, _, _ = the_image("resnet", inputs)
    layers: list[nn.Module] = [Numbers(), nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    before = width
    for stage in range(3):
        for block in range(blocks):
            after = width << stage
            layers.append(_Block(before, after, stride=2 if stage and not block else 1))
            before = after
    # Pooled to 1 x 1 whatever the image's size: [rows, 4 * width].
    features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(OrderedDict(features=features, head=nn.Linear(before, outputs)))


class _Block(nn.Module):
    """[rows, before, height, width] -> [rows, after, height / stride, width / stride]."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after))
        same = before == after and stride == 1
        self.shortcut: nn.Module = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        )

    def forward(self, image: Tensor) -> Tensor:
        return functional.relu(self.second(self.first(image)) + self.shortcut(image))
