"""Write golden/lite.npz from the PyTorch network of the PyPI package efficientnet_lite_pytorch, run in float64.

    pip download --no-deps efficientnet_lite_pytorch==0.1.0 && unzip efficientnet_lite_pytorch-*.whl
    PYTHONPATH=. python -m tests.models.make_lite        # needs torch and the package, and no kd_jax

As make_imagenet.py does it. Dropout and stochastic depth are off, and padding is made for the size of the images.
"""

from pathlib import Path

import numpy as np

from tests.models.make_golden import flat_outputs, sample, weight
from tests.models.make_imagenet import CASES, images

FILE = Path(__file__).parent / "golden" / "lite.npz"
ENDS = (2, 4, 10, 15)  # the last block of every stage
SIZED = {**CASES, "train": ((4, 32, 32, 3), True), "whole": ((1, 224, 224, 3), False)}


def network(size: tuple[int, int]):
    """The published network with our weights, in float64."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0", image_size=size, dropout_rate=0.0, drop_connect_rate=0.0)
    shapes = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    net.load_state_dict({k: torch.from_numpy(weight(k, shape)) for k, shape in shapes.items()})
    return net.double()


def outputs(net, image: np.ndarray) -> dict[str, np.ndarray]:
    """Samples of what it computes on the way."""
    import torch

    stages, pooled = [], []
    net._blocks[0].register_forward_pre_hook(lambda module, args: stages.append(args[0]))
    for i in ENDS:
        net._blocks[i].register_forward_hook(lambda module, args, out: stages.append(out))
    net._fc.register_forward_pre_hook(lambda module, args: pooled.append(args[0].numpy()))
    with torch.no_grad():
        logits = net(torch.from_numpy(image).double().permute(0, 3, 1, 2))
    maps = [m.permute(0, 2, 3, 1).numpy() for m in stages]
    return {k: sample(v) for k, v in flat_outputs(maps, None, pooled[0], logits.numpy()).items()}


def main() -> None:
    net, golden = network((224, 224)), {}
    shapes = sorted((k, tuple(v.shape)) for k, v in net.state_dict().items())
    golden["names"] = np.array([f"{k} {shape}" for k, shape in shapes])
    golden["parameters"] = np.array(sum(p.numel() for p in net.parameters()))
    for label, (shape, train) in SIZED.items():
        taken = outputs(network(shape[1:3]).train(train), images(shape))
        golden |= {f"{label}/{k}": v for k, v in taken.items()}
    np.savez_compressed(FILE, **golden)
    print(f"{FILE}: {len(golden)} arrays, {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
