"""Write golden/reference.npz: every method once more, slowly, from its equations, in PyTorch's float64.

    python tests/methods/make_reference.py        # needs torch, not kd_jax

Own code, neither the library's nor published code. For every case: the value and its gradients by the student's
outputs and by the method's parameters.
"""

import cases
import numpy as np
import slow
import slow_layers as layers
import torch

# methods: (student, teacher, parameters) -> the weighted value; parameters(path, *shape) makes one


def fitnet(s, t, p, stage=2):
    a, b = s.stages[stage], t.stages[stage]
    size, stride = (1, 1) if a.shape[1] == b.shape[1] else (3, 2)
    kernel = p("regressor/conv0/kernel", size, size, a.shape[-1], b.shape[-1])
    x = layers.convolve(a, kernel, stride, size // 2, p("regressor/conv0/bias", b.shape[-1]))
    x = layers.normalise(x, p("regressor/bn0/scale", b.shape[-1]), p("regressor/bn0/bias", b.shape[-1]))
    return 100 * ((torch.relu(x) - b) ** 2).mean()


def at(s, t, p):
    pairs = [layers.same_size(a, b) for a, b in zip(s.stages[1:], t.stages[1:], strict=True)]
    return 1000 * sum(((slow.attention(a) - slow.attention(b)) ** 2).mean() for a, b in pairs)


def vid(s, t, p):
    total = 0.0
    for i in (1, 2, 3):
        a, b = layers.same_size(s.stages[i], t.stages[i])
        width = b.shape[-1]
        for j in range(3):
            a = layers.convolve(
                torch.relu(a) if j else a, p(f"stage{i}/projector/conv{j}/kernel", 1, 1, a.shape[-1], width)
            )
        variance = torch.log(1 + torch.exp(p(f"stage{i}/log_scale", width))) + 1e-5
        total += (0.5 * ((a - b) ** 2 / variance + torch.log(variance))).mean()
    return total


def ofd(s, t, p):
    total = 0.0
    for i in (1, 2, 3):
        a, b = s.preacts[i], t.preacts[i]
        width = b.shape[-1]
        a = layers.convolve(a, p(f"stage{i}/connector/conv/kernel", 1, 1, a.shape[-1], width))
        a = layers.normalise(a, p(f"stage{i}/connector/bn/scale", width), p(f"stage{i}/connector/bn/bias", width))
        margins = [slow.margin(*pair) for pair in zip(*cases.norm(i), strict=True)]
        total += slow.overhaul(a, b, torch.tensor(margins, dtype=torch.float64)) / 2 ** (3 - i)
    return 1e-3 * total


def reviewkd(s, t, p):
    names = ["stage1", "stage2", "stage3", "pooled"]
    ours = dict(zip(names, [*s.stages[1:], s.pooled[:, None, None]], strict=True))
    theirs = dict(zip(names, [*t.preacts[1:], t.pooled[:, None, None]], strict=True))
    mid, deeper, total = s.pooled.shape[-1], None, 0.0
    for name in reversed(names):
        x, y = ours[name], theirs[name]
        x = layers.convolve(x, p(f"{name}/conv1/kernel", 1, 1, x.shape[-1], mid))
        x = layers.normalise(x, p(f"{name}/bn1/scale", mid), p(f"{name}/bn1/bias", mid))
        if deeper is not None:
            deeper = layers.nearest(deeper, x.shape[1])
            both = torch.cat([x, deeper], -1)
            gates = layers.convolve(
                both, p(f"{name}/attention/kernel", 1, 1, 2 * mid, 2), bias=p(f"{name}/attention/bias", 2)
            )
            gates = 1 / (1 + torch.exp(-gates))
            x = x * gates[..., :1] + deeper * gates[..., 1:]
        deeper = x = layers.nearest(x, y.shape[1])
        x = layers.convolve(x, p(f"{name}/conv2/kernel", 3, 3, mid, y.shape[-1]), 1, 1)
        x = layers.normalise(x, p(f"{name}/bn2/scale", y.shape[-1]), p(f"{name}/bn2/bias", y.shape[-1]))
        total += slow.hierarchical(x, y)
    return total


def cc(s, t, p):
    """Neighbours in the batch, as RepDistiller has it."""
    embedded = []
    for who, net in (("student", s), ("teacher", t)):
        kernel = p(f"{who}/kernel", net.pooled.shape[-1], cases.EMBEDDING)
        embedded.append(net.pooled @ kernel + p(f"{who}/bias", cases.EMBEDDING))
    gap = (embedded[0] - embedded[1]).abs()
    return 0.02 * sum((a * b).sum() for a, b in zip(gap, gap[1:], strict=False)) / (len(gap) - 1)


def standardised(s, t, p):
    return slow.hinton(slow.standard(s.logits), slow.standard(t.logits), 2)


def curriculum(s, t, p):
    """The gradient of the temperature's parameter is multiplied by lambda."""
    raw = p("ctkd/t")
    epoch = cases.STEP // cases.STEPS_PER_EPOCH + 1
    reversal = (np.cos(np.pi * epoch / 10) - 1) / 2
    raw = reversal * raw + (raw - reversal * raw).detach()
    return slow.hinton(s.logits, t.logits, 1 + 20 / (1 + torch.exp(-raw)))


def nst(s, t, p):
    return 50 * sum(slow.selectivity(a, b) for a, b in zip(s.stages[1:], t.stages[1:], strict=True))


def cat_kd(s, t, p):
    maps = [layers.pool(net.cam, 2, 2) for net in (s, t)]
    lengths = [torch.sqrt((m**2).sum((1, 2), keepdim=True)) for m in maps]
    return 400 * ((maps[0] / lengths[0] - maps[1] / lengths[1]) ** 2).mean()


def mlld(s, t, p, refine=lambda z: z, temperature=4):
    """LSKD standardises what KD compares, and nothing else."""
    pair, strong = ([refine(z) for z in logits] for logits in ((s.logits, t.logits), (s.strong, t.strong)))
    levels = slow.levelled(pair, strong, (s.logits, t.logits), temperature)
    return 0.9 * levels + 0.1 * slow.crossed(s.strong, cases.labels())


def crd(setting):
    """Among all examples of other classes, which are as many as the test draws. While the constants are unset the
    gradient goes through them, as the library has it; the published code detaches them."""

    def method(s, t, p):
        said = {}
        for who, net in (("student", s), ("teacher", t)):
            rows = net.pooled @ p(f"{who}/kernel", net.pooled.shape[-1], cases.EMBEDDING)
            said[who] = [x / slow.length(x) for x in rows + p(f"{who}/bias", cases.EMBEDDING)]
        total, scales = 0.0, cases.scales(setting)
        for who, other in (("student", "teacher"), ("teacher", "student")):
            bank, scale = torch.tensor(cases.bank(other)), scales[who].item()
            total += slow.contrasted(said[who], bank, cases.INDEX, cases.TRAINING, scale)
        return 0.8 * total

    return method


def ab(s, t, p):
    total = 0.0
    for i in (1, 2, 3):
        a, b = s.preacts[i], t.preacts[i]
        if a.shape != b.shape:
            (have, channels), (want, width) = a.shape[2:], b.shape[2:]
            bias = p(f"stage{i}/conv0/bias", width)
            if 2 * have == want:
                a = layers.doubled(a, p(f"stage{i}/conv0/kernel", 4, 4, channels, width), bias)
            elif have == 2 * want:
                a = layers.convolve(a, p(f"stage{i}/conv0/kernel", 3, 3, channels, width), 2, 1, bias)
            else:
                window = 1 + have - want
                a = layers.convolve(a, p(f"stage{i}/conv0/kernel", window, window, channels, width), bias=bias)
            a = layers.normalise(a, p(f"stage{i}/bn0/scale", width), p(f"stage{i}/bn0/bias", width))
        total += slow.boundary(a, b) / 2 ** (3 - i)
    return 3 / 1000 * total


def fsp(s, t, p):
    ours, theirs = ([slow.flow(a, b) for a, b in zip(net.stages, net.stages[1:], strict=False)] for net in (s, t))
    return sum(((a - b) ** 2).mean() for a, b in zip(ours, theirs, strict=True))


def stack(x, widths, p, name="", norm=None):
    """3x3 convolutions; norm: what stands behind each, (x, its path) -> x, or None."""
    for i, width in enumerate(widths):
        kernel = p(f"{name}/conv{i}/kernel", 3, 3, x.shape[-1], width)
        x = layers.convolve(x, kernel, 1, 1, p(f"{name}/conv{i}/bias", width))
        x = layers.leaky(norm(x, f"{name}/bn{i}") if norm else x)
    return x


def paraphraser(s, t, p):
    f = s.stages[3]
    width, half = f.shape[-1], f.shape[-1] // 2
    rebuilt = stack(stack(f, (width, half, half), p, "encoder"), (half, width, width), p, "decoder")
    return ((rebuilt - f) ** 2).mean()


def ft(setting):
    params, stats = cases.encoder(setting)

    def given(path, *shape):
        _, layer, name = path.split("/")
        return torch.tensor(params[layer][name])

    def fixed(x, path):
        bn = {name: torch.tensor(x) for part in (params, stats) for name, x in part[path[1:]].items()}
        return (x - bn["mean"]) / torch.sqrt(bn["var"] + 1e-5) * bn["scale"] + bn["bias"]

    def method(s, t, p):
        def trained(x, path):
            return layers.normalise(x, p(f"{path}/scale", x.shape[-1]), p(f"{path}/bias", x.shape[-1]))

        a, b = s.stages[3], t.stages[3]
        factors = b.shape[-1] // 2
        a = stack(a, (a.shape[-1], factors, factors), p, "translator", trained)
        b = stack(b, (b.shape[-1], factors, factors), given, norm=fixed if stats else None)
        a, b = layers.same_size(a, b)
        return 200 * (slow.active(a) - slow.active(b)).abs().mean()

    return method


def simkd(s, t, p):
    f = s.stages[3]
    return ((f - layers.pool(torch.relu(t.preacts[3]), *f.shape[1:3])) ** 2).mean()


def dml(s, t, p):
    """Each of the two divergences moves the network that is to predict, not the one that is predicted."""
    images, under = torch.tensor(cases.images()), lambda path, *shape: p(f"peer/{path}", *shape)
    peer = layers.resnet8(images, under, cases.PEER, cases.CLASSES)
    mutual = slow.hinton(s.logits, peer.detach(), 1) + slow.hinton(peer, s.logits.detach(), 1)
    return slow.crossed(peer, cases.labels()) + mutual


METHODS = {  # case -> its setting and method
    "kd": ("even", lambda s, t, p: slow.hinton(s.logits, t.logits, 4)),
    "dkd": ("even", lambda s, t, p: slow.decoupled(s.logits, t.logits, cases.labels(), 1, 8, 4)),
    "dist": ("even", lambda s, t, p: slow.dist_of(s.logits, t.logits, 2, 2, 4)),
    "lskd+kd": ("even", standardised),
    "ctkd+kd": ("even", curriculum),
    "sp": ("even", lambda s, t, p: 3000 * ((slow.similarity(s.stages[3]) - slow.similarity(t.stages[3])) ** 2).mean()),
    "rkd": ("even", lambda s, t, p: slow.relational(s.pooled, t.pooled, 25, 50)),
    "pkt": ("even", lambda s, t, p: 30000 * slow.transferred(s.pooled, t.pooled)),
    "cc": ("even", cc),
    "cat_kd": ("even", cat_kd),
    "nst": ("even", nst),
    "kdsvd": ("even", lambda s, t, p: slow.singular_distance(s.stages[1:], t.stages[1:])),
    "fitnet": ("even", fitnet),
    "fitnet-uneven": ("uneven", fitnet),
    "at": ("even", at),
    "at-uneven": ("uneven", at),
    "vid": ("even", vid),
    "vid-uneven": ("uneven", vid),
    "ofd": ("even", ofd),
    "reviewkd-uneven": ("uneven", reviewkd),
    "crd": ("even", crd("even")),
    "crd-later": ("later", crd("later")),
    "mlld": ("even", mlld),
    "lskd+mlld": ("even", lambda s, t, p: mlld(s, t, p, slow.standard, 2)),
    "ab": ("even", ab),
    "ab-uneven": ("uneven", ab),
    "ab-alike": ("alike", ab),
    "fsp-alike": ("alike", fsp),
    "ft": ("even", ft("even")),
    "ft-alike": ("alike", ft("alike")),
    "paraphraser": ("even", paraphraser),
    "simkd-alike": ("alike", simkd),
    "dml": ("even", dml),
}


def measure(setting: str, method) -> dict[str, np.ndarray]:
    """value, student/<output> and params/<path>: gradients, where there are any."""
    leaves = {}

    def leaf(name, array):
        return leaves.setdefault(name, torch.tensor(array, requires_grad=True))

    def parameter(path, *shape):
        return leaf(f"params/{path}", cases.parameter(path, shape))

    student, teacher = cases.nets(setting)
    student = cases.Net(*(
        [leaf(f"student/{kind}/{i}", x) for i, x in enumerate(given)] if isinstance(given, list)
        else leaf(f"student/{kind}", given)
        for kind, given in zip(student._fields, student, strict=True)
    ))  # fmt: skip
    teacher = cases.Net(*([*map(torch.tensor, x)] if isinstance(x, list) else torch.tensor(x) for x in teacher))
    value = method(student, teacher, parameter)
    grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    gradients = {name: g.numpy() for name, g in zip(leaves, grads, strict=True) if g is not None}
    return {"value": value.detach().numpy(), **gradients}


def main() -> None:
    golden = {f"{case}/{k}": v for case, how in METHODS.items() for k, v in measure(*how).items()}
    np.savez_compressed(cases.FILE, **golden)
    print(f"{cases.FILE}: {len(METHODS)} cases, {cases.FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
