"""Losses in PyTorch's float64, written from their equations for make_reference.py.

Examples, classes, cells and channels are looped over where that is nearer to the equation. Maps are (B, H, W, C).
"""

from itertools import product

import numpy as np
import torch
from slow_layers import pool, same_size


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


def crossed(logits, labels):
    return -sum(torch.log(soften(z)[y]) for z, y in zip(logits, labels, strict=True)) / len(logits)


def median(values):
    """The middle one, or the mean of the two in the middle."""
    values = sorted(values)
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2


def together(p):
    """For every two rows the sum over columns of their products."""
    return torch.stack([torch.stack([(a * b).sum() for b in p]) for a in p])


def levelled(pair, strong, plain, temperature):
    """MLLD as published: pair, strong and plain are (students, teachers)."""
    certain = [soften(t) for t in plain[1]]
    highest, summed = [max(p.tolist()) for p in certain], sum(certain).tolist()
    examples = sum(c <= median(highest) for c in highest) / len(highest)
    classes = sum(c <= median(summed) for c in summed) / len(summed)
    total = 0.0
    for t in (temperature, 3, 5, 2, 6):
        total += examples * hinton(*pair, t)
    for t in (temperature, 3, 5):
        total += hinton(*strong, t)
    for t in (2, 6):
        total += hinton(*pair, t)
    for t in (temperature, 3, 5, 2, 6):
        p, q = (torch.stack([soften(z / t) for z in logits]) for logits in plain)
        total += classes * ((together(q.T) - together(p.T)) ** 2).sum() / p.shape[1]
        total += examples * ((together(q) - together(p)) ** 2).sum() / len(p)
    return total


def contrasted(anchors, bank, index, labels, scale, temperature=0.07):
    """One of CRD's two parts: anchors that tell their own row of the bank from all rows of other classes. A scale of 0
    is set from the scores, and differentiated with them."""
    scores = []
    for v, i in zip(anchors, index, strict=True):
        rows = [i, *(j for j in range(len(bank)) if labels[j] != labels[i])]
        scores.append([torch.exp((v * bank[j]).sum() / temperature) for j in rows])
    if not scale:
        every = [x for row in scores for x in row]
        scale = len(bank) * sum(every) / len(every)
    total = 0.0
    for positive, *others in scores:
        noise = len(others) / len(bank)
        total -= torch.log(positive / scale / (positive / scale + noise + 1e-7))
        total -= sum(torch.log(noise / (x / scale + noise + 1e-7)) for x in others)
    return total / len(anchors)


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


def boundary(s, t):
    """AB of one stage: squared distances to the teacher's side of 0 and a margin of 1, summed over an example."""
    total = 0.0
    for place in product(*map(range, s.shape)):
        a = s[place] if t[place] > 0 else -s[place]
        if a < 1:
            total += (1 - a) ** 2
    return total / len(s)


def flow(a, b):
    """FSP of two stages of one network: (B, channels, channels of the next), the mean over positions."""
    a, b = same_size(a, b)
    places = [*product(range(a.shape[1]), range(a.shape[2]))]
    products = [a[:, y, x, :, None] * b[:, y, x, None, :] for y, x in places]
    return sum(products) / len(products)


def active(x):
    """FT: of every example, the mean square over channels at every position, of length 1."""
    squares = [torch.stack([(v**2).sum() / len(v) for v in f.reshape(-1, f.shape[-1])]) for f in x]
    return torch.stack([v / length(v) for v in squares])


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
