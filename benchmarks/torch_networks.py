"""The CIFAR ResNets of kd_jax/models/resnet.py in PyTorch: the same structure and number of parameters."""

import torch.nn.functional as F
from torch import nn

SHAPES = {  # name -> depth = 6 n + 2, widths of the stem and the three stages
    **{f"resnet{depth}": (depth, (16, 16, 32, 64)) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": (depth, (32, 64, 128, 256)) for depth in (8, 32)},
}


def conv(before: int, after: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = conv(before, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        projected = stride > 1 or before != width
        self.shortcut = nn.Identity()
        if projected:
            self.shortcut = nn.Sequential(conv(before, width, 1, stride), nn.BatchNorm2d(width))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """depth = 6 n + 2; widths of the stem and the three stages."""

    def __init__(self, depth: int, widths: tuple[int, ...], num_classes: int):
        super().__init__()
        self.stem = nn.Sequential(conv(3, widths[0], 3), nn.BatchNorm2d(widths[0]), nn.ReLU())
        blocks, before = [], widths[0]
        for stage, width in enumerate(widths[1:]):
            for b in range((depth - 2) // 6):
                blocks.append(Block(before, width, 2 if stage and not b else 1))
                before = width
        self.blocks, self.fc = nn.Sequential(*blocks), nn.Linear(before, num_classes)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def create(name: str, num_classes: int) -> ResNet:
    """A network by name; KeyError where it is none of these."""
    return ResNet(*SHAPES[name], num_classes)
