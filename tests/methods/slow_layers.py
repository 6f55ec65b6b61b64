"""Layers and a network in PyTorch's float64, cell by cell, for make_reference.py. Maps are (B, H, W, C)."""

import torch


def cells(have: int, want: int) -> list[range]:
    """Which cells of a row are averaged for each of `want`."""
    return [range(i * have // want, -(-(i + 1) * have // want)) for i in range(want)]


def pool(x, height: int, width: int):
    """(B, H, W, C) averaged to a smaller size."""
    rows = [
        torch.stack([x[:, r.start : r.stop, c.start : c.stop].mean((1, 2)) for c in cells(x.shape[2], width)], 1)
        for r in cells(x.shape[1], height)
    ]
    return torch.stack(rows, 1)


def same_size(a, b):
    height, width = min(a.shape[1], b.shape[1]), min(a.shape[2], b.shape[2])
    return pool(a, height, width), pool(b, height, width)


def convolve(x, kernel, stride: int = 1, padding: int = 0, bias=0.0):
    """Kernel (h, w, in, out)."""
    b, h, w, c = x.shape
    wide = x.new_zeros(b, h + 2 * padding, w + 2 * padding, c)
    wide[:, padding : padding + h, padding : padding + w] = x
    kh, kw = kernel.shape[:2]
    rows = []
    for i in range(0, wide.shape[1] - kh + 1, stride):
        at = range(0, wide.shape[2] - kw + 1, stride)
        rows.append(torch.stack([torch.tensordot(wide[:, i : i + kh, j : j + kw], kernel, 3) for j in at], 1))
    return torch.stack(rows, 1) + bias


def doubled(x, kernel, bias):
    """A transposed 4x4 convolution with stride 2, as a convolution of the cells with zeros between. The kernel is
    read the way the library lays it out, from PyTorch's the other way round."""
    b, h, w, c = x.shape
    spread = x.new_zeros(b, 2 * h - 1, 2 * w - 1, c)
    spread[:, ::2, ::2] = x
    return convolve(spread, kernel, 1, 2, bias)


def normalise(x, scale, bias):
    """BatchNorm in training: by the batch's own mean and (biased) variance."""
    columns = []
    for c in range(x.shape[-1]):
        v = x[..., c]
        mean = v.sum() / v.numel()
        variance = ((v - mean) ** 2).sum() / v.numel()
        columns.append((v - mean) / torch.sqrt(variance + 1e-5) * scale[c] + bias[c])
    return torch.stack(columns, -1)


def leaky(x):
    return torch.where(x > 0, x, x / 10)


def nearest(x, size: int):
    at = [i * x.shape[1] // size for i in range(size)]
    return x[:, at][:, :, [i * x.shape[2] // size for i in range(size)]]


def resnet8(images, p, widths, classes):
    """Logits; p(path, *shape) gives parameters. BatchNorm is in training."""

    def layer(x, conv, norm, width, size=3, stride=1):
        x = convolve(x, p(f"{conv}/kernel", size, size, x.shape[-1], width), stride, size // 2)
        return normalise(x, p(f"{norm}/scale", width), p(f"{norm}/bias", width))

    x = torch.relu(layer(images, "conv1", "bn1", widths[0]))
    for i in (1, 2, 3):
        at, width, stride = f"layer{i}/0", widths[i], 2 if i > 1 else 1
        y = torch.relu(layer(x, f"{at}/conv1", f"{at}/bn1", width, stride=stride))
        y = layer(y, f"{at}/conv2", f"{at}/bn2", width)
        if y.shape != x.shape:
            x = layer(x, f"{at}/downsample.0", f"{at}/downsample.1", width, 1, stride)
        x = torch.relu(y + x)
    return x.mean((1, 2)) @ p("fc/kernel", widths[-1], classes) + p("fc/bias", classes)
