"""Losses and layers in PyTorch's float64, written from their equations for make_reference.py.

Examples, classes, cells and channels are looped over where that is nearer to the equation. Maps are (B, H, W, C).
"""

from itertools import product

import numpy as np
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


def normalise(x, scale, bias):
    """BatchNorm in training: by the batch's own mean and (biased) variance."""
    columns = []
    for c in range(x.shape[-1]):
        v = x[..., c]
        mean = v.sum() / v.numel()
        variance = ((v - mean) ** 2).sum() / v.numel()
        columns.append((v - mean) / torch.sqrt(variance + 1e-5) * scale[c] + bias[c])
    return torch.stack(columns, -1)


def nearest(x, size: int):
    at = [i * x.shape[1] // size for i in range(size)]
    return x[:, at][:, :, [i * x.shape[2] // size for i in range(size)]]


def length(v):
    return torch.sqrt((v * v).sum())


def huber(x):
    x = x.abs()
    return torch.where(x < 1, x * x / 2, x - 0.5)


def soften(z):
    e = torch.exp(z - z.max())
    return e / e.sum()


def kl(p, q):
    return sum(a * torch.log(a / b) for a, b in zip(p, q, strict=True))


def hinton(students, teachers, temperature):
    pairs = zip(students, teachers, strict=True)
    return temperature**2 * sum(kl(soften(t / temperature), soften(s / temperature)) for s, t in pairs) / len(students)


def decoupled(students, teachers, labels, alpha, beta, temperature):
    total = 0.0
    for s, t, y in zip(students, teachers, labels, strict=True):
        p, q = soften(t / temperature), soften(s / temperature)
        others = [k for k in range(len(p)) if k != y]
        rest = [sum(v[k] for k in others) for v in (p, q)]
        total += alpha * kl([p[y], rest[0]], [q[y], rest[1]])
        total += beta * kl([p[k] / rest[0] for k in others], [q[k] / rest[1] for k in others])
    return temperature**2 * total / len(students)


def pearson(a, b):
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / (length(a) * length(b) + 1e-8)


def dist_of(students, teachers, beta, gamma, temperature):
    p, q = ([soften(z / temperature) for z in zs] for zs in (teachers, students))
    p, q = torch.stack(p), torch.stack(q)
    rows = [1 - pearson(a, b) for a, b in zip(q, p, strict=True)]
    columns = [1 - pearson(a, b) for a, b in zip(q.T, p.T, strict=True)]
    return temperature**2 * (beta * sum(rows) / len(rows) + gamma * sum(columns) / len(columns))


def standard(z):
    """Each row: mean 0, (unbiased) deviation 1."""
    rows = [(r - r.mean()) / (torch.sqrt(((r - r.mean()) ** 2).sum() / (len(r) - 1)) + 1e-7) for r in z]
    return torch.stack(rows)


def similarity(f):
    """Rows of the Gram matrix of the batch, each of length 1."""
    flat = [x.reshape(-1) for x in f]
    rows = [torch.stack([(a * b).sum() for b in flat]) for a in flat]
    return torch.stack([r / length(r) for r in rows])


def relational(s, t, distance, angle):
    n = len(s)

    def relations(x):
        d = torch.stack([length(x[i] - x[j]) for i, j in product(range(n), repeat=2) if i != j])
        d = d / d.mean()
        cosines = []
        for j, i, k in product(range(n), repeat=3):
            if i != j and k != j:
                a, b = x[i] - x[j], x[k] - x[j]
                cosines.append((a * b).sum() / length(a) / length(b))
        return d, torch.stack(cosines)

    (ds, cs), (dt, ct) = relations(s), relations(t)
    return distance * huber(ds - dt).sum() / n**2 + angle * huber(cs - ct).sum() / n**3


def probabilities(f):
    unit = [x / (length(x) + 1e-7) for x in f]
    rows = [torch.stack([((a * b).sum() + 1) / 2 for b in unit]) for a in unit]
    return torch.stack([r / r.sum() for r in rows])


def transferred(s, t):
    p, q = probabilities(t), probabilities(s)
    return sum(a * torch.log((a + 1e-7) / (b + 1e-7)) for a, b in zip(p.ravel(), q.ravel(), strict=True)) / p.numel()


def attention(x):
    a = torch.stack([(f**2).sum(-1).reshape(-1) / f.shape[-1] for f in x])
    return torch.stack([r / length(r) for r in a])


def kernel_mean(a, b):
    """Of one example: the mean of the squared inner products of channels' unit maps."""
    units = [[f[..., c].reshape(-1) for c in range(f.shape[-1])] for f in (a, b)]
    units = [[u / length(u) if u.any() else torch.zeros_like(u) for u in us] for us in units]
    values = [(u * v).sum() ** 2 for u, v in product(*units)]
    return sum(values) / len(values)


def selectivity(s, t):
    s, t = same_size(s, t)
    each = [kernel_mean(b, b) + kernel_mean(a, a) - 2 * kernel_mean(a, b) for a, b in zip(s, t, strict=True)]
    return sum(each) / len(each)


def singular(x):
    """Of one map read as a matrix with a column for every x: singular values and right vectors, the largest first."""
    columns = [x[:, i].reshape(-1) for i in range(x.shape[1])]
    values, vectors = torch.linalg.eigh(torch.stack([torch.stack([(a * b).sum() for b in columns]) for a in columns]))
    return values.flip(0).sqrt(), vectors.flip(1)


def aligned(s, t):
    """First right singular vectors of one example: the teacher's, its entries' sum positive, and the student's, of the
    first four that one which points most along it, or against."""
    theirs = singular(t)[1][:, 0]
    theirs = theirs * theirs.sum().sign()
    cosines = [(v * theirs).sum() for v in singular(s)[1].T[:4]]
    best = max(range(len(cosines)), key=lambda i: cosines[i].abs().item())
    return singular(s)[1][:, best] * cosines[best].sign(), theirs


def related(now, before):
    return torch.stack([torch.exp(-((a - b) ** 2) / 8) for a in now for b in before])


def singular_distance(students, teachers):
    total = 0.0
    for maps in zip(*students, *teachers, strict=True):
        half = len(maps) // 2
        vectors = [aligned(a, b) for a, b in zip(maps[:half], maps[half:], strict=True)]
        for before, now in zip(vectors, vectors[1:], strict=False):
            total += ((related(now[0], before[0]) - related(now[1], before[1])) ** 2).sum()
    return total / len(students[0])


def overhaul(s, t, margins):
    """Partial squared distance, by cases."""
    total = 0.0
    for place in product(*map(range, s.shape)):
        a, b, m = s[place], t[place], margins[place[-1]]
        wanted = torch.maximum(b, m)
        if not (b <= 0 and a <= wanted):
            total += (a - wanted) ** 2
    return total / len(s)


def hierarchical(s, t):
    weight, total, weights = 1.0, ((s - t) ** 2).mean(), 1.0
    for size in (4, 2, 1):
        if size < s.shape[1]:
            weight /= 2
            total = total + weight * ((pool(s, size, size) - pool(t, size, size)) ** 2).mean()
            weights += weight
    return total / weights


def margin(scale: float, bias: float) -> float:
    """Mean of what is negative of N(bias, scale^2), by the trapezoid rule; -3 |scale| where that is almost nothing."""
    scale = abs(scale)
    x = np.linspace(min(bias, 0) - 12 * scale, 0, 400001)
    density = np.exp(-(((x - bias) / scale) ** 2) / 2) / scale / np.sqrt(2 * np.pi)
    mass = np.trapezoid(density, x)
    return np.trapezoid(x * density, x) / mass if mass > 0.001 else -3 * scale
