"""The CIFAR ResNets of kd_jax/models/resnet.py in PyTorch, and a plain KD step of them, to be timed beside ours.

Used by benchmarks/step.py where torch is installed (extra `torch`). Structure and parameter counts are equal;
the step is what a PyTorch user writes: eager, SGD with momentum, the teacher under no_grad.
"""

import torch
import torch.nn.functional as F
from torch import nn


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


def describe() -> str:
    """Version and threads, for the record."""
    return f"torch {torch.__version__}, eager, {torch.get_num_threads()} threads"


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def kd_step(teacher: nn.Module, student: nn.Module, image, label):
    """A function that takes one step: 0.1 CE + 0.9 T^2 KL(teacher || student), T = 4.

    Args:
      teacher, student: modules.
      image: (B, H, W, C) numpy, normalised. label: (B,) numpy.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher, student = teacher.to(device).eval(), student.to(device).train()
    image = torch.tensor(image).permute(0, 3, 1, 2).contiguous().to(device)
    label, temperature = torch.tensor(label).long().to(device), 4.0
    optimiser = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)

    def step() -> float:
        with torch.no_grad():
            target = F.softmax(teacher(image) / temperature, dim=-1)
        logits = student(image)
        taught = F.kl_div(F.log_softmax(logits / temperature, dim=-1), target, reduction="batchmean")
        loss = 0.1 * F.cross_entropy(logits, label) + 0.9 * temperature**2 * taught
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()  # waits for the device

    return step
