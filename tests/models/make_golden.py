"""Write golden/torch_nets.npz from the published PyTorch networks, run in float64.

    git clone https://github.com/megvii-research/mdistiller
    python tests/models/make_golden.py mdistiller        # needs torch and kd_jax

For every network: the names and shapes of its state dict and, with weights that are a function of the
name, samples of every output in eval and in train mode. The tests make the same weights and images
from the same functions, without torch.
"""

import importlib
import sys
from pathlib import Path
from zlib import crc32

import numpy as np

FILE = Path(__file__).parent / "golden" / "torch_nets.npz"
SAMPLES = 64


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A float32 tensor that depends on its name alone; BatchNorm statistics far from (0, 1)."""
    random = np.random.RandomState(crc32(name.encode()))  # its streams are frozen, unlike Generator's
    last = name.rpartition(".")[2]
    if last == "num_batches_tracked":
        return np.zeros((), np.int64)
    if last == "running_var":
        return random.uniform(0.5, 2, shape).astype("f")
    if len(shape) == 1:  # BatchNorm's scale is drawn around 1, everything else around 0
        return (0.3 * random.normal(size=shape) + (last == "weight")).astype("f")
    return (random.normal(size=shape) / np.prod(shape[1:]) ** 0.5).astype("f")


def images() -> np.ndarray:
    """(4, 32, 32, 3)."""
    return np.random.RandomState(7).normal(size=(4, 32, 32, 3)).astype("f")


def sample(array: np.ndarray) -> np.ndarray:
    """The largest magnitude of an output (channels last), then values from all over it."""
    flat = np.asarray(array, np.float64).ravel()
    picked = flat[np.random.RandomState(0).randint(0, flat.size, SAMPLES)]
    return np.concatenate([[np.abs(flat).max()], picked]).astype("f")


def flat_outputs(stages, preacts, pooled, logits) -> dict[str, np.ndarray]:
    """Every array of an Outputs under a name."""
    named = {f"stages/{i}": s for i, s in enumerate(stages)} | {f"preacts/{i}": s for i, s in enumerate(preacts or ())}
    return named | {"pooled": pooled, "logits": logits}


def run(net, mode: str) -> dict[str, np.ndarray]:
    """Samples of what a published network returns, its maps turned to channels last."""
    import torch

    net.train(mode == "train")
    with torch.no_grad():
        logits, features = net(torch.from_numpy(images()).double().permute(0, 3, 1, 2))
    maps = {k: [m.permute(0, 2, 3, 1).numpy() for m in features.get(k, [])] for k in ("feats", "preact_feats")}
    named = flat_outputs(maps["feats"], maps["preact_feats"], features["pooled_feat"].numpy(), logits.numpy())
    return {k: sample(v) for k, v in named.items()}


def published(folder: str):
    """(name, network at 100 classes with our weights, its names and shapes) for every network."""
    import torch

    sys.path.insert(0, str(Path(folder) / "mdistiller" / "models"))  # its own __init__ needs more than torch
    for name, (make, _) in importlib.import_module("cifar").cifar_model_dict.items():
        net = make(num_classes=100).double()
        shapes = {k: tuple(v.shape) for k, v in net.state_dict().items()}
        net.load_state_dict({k: torch.from_numpy(weight(k, shape)) for k, shape in shapes.items()})
        yield name, net, shapes


def main(folder: str) -> None:
    golden = {}
    for name, net, shapes in published(folder):
        golden[f"{name}/names"] = np.array([f"{k} {shape}" for k, shape in sorted(shapes.items())])
        golden[f"{name}/parameters"] = np.array(sum(p.numel() for p in net.parameters()))
        for mode in ("eval", "train"):
            golden |= {f"{name}/{mode}/{k}": v for k, v in run(net, mode).items()}
    np.savez_compressed(FILE, **golden)
    print(f"{FILE}: {len(golden)} arrays, {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
