"""Write golden/imagenet.npz from the PyTorch networks of torchvision, mdistiller and timm, run in float64.

    git clone https://github.com/megvii-research/mdistiller
    python -m tests.models.make_imagenet mdistiller      # needs torch, torchvision, timm and kd_jax

As make_golden.py does it, with small images. The names, sizes and logits of the ResNets are torchvision's; their
stages are mdistiller's, once it is found that both give the same logits. MobileNetV1 is mdistiller's. Its stem, which
is none of its stages there, is put in front of them.
"""

import importlib
import sys
from pathlib import Path

import numpy as np

from tests.models import make_golden
from tests.models.make_golden import flat_outputs, sample

FILE = Path(__file__).parent / "golden" / "imagenet.npz"
VITS = (
    "vit_tiny_patch16_224", "vit_small_patch16_224", "deit_tiny_distilled_patch16_224",
    "deit_small_distilled_patch16_224",
)  # fmt: skip
# label: images (B, H, W, 3), train. In the odd ones every convolution and pool meets sizes it does not divide
CASES = {
    "eval": ((4, 64, 64, 3), False),
    "train": ((4, 64, 64, 3), True),
    "odd": ((2, 75, 50, 3), False),
}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """As make_golden's; a ViT's class token and positions, which have no layer, are as large as its patches."""
    array = make_golden.weight(name, shape)
    return array if "." in name else array * np.float32(np.prod(shape[1:]) ** 0.5)


def images(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.RandomState(7).normal(size=shape).astype("f")


def found_in(golden, prefix: str) -> dict[str, np.ndarray]:
    """What the golden file has under a prefix."""
    return {key.removeprefix(prefix): golden[key] for key in golden if key.startswith(prefix)}


def worst(named: dict[str, np.ndarray], golden: dict[str, np.ndarray]) -> float:
    """Of all outputs, the largest difference from the golden ones, as a share of the output's largest value."""
    assert set(named) == set(golden)
    return max(float(np.abs(sample(named[k]) - golden[k]).max() / golden[k][0]) for k in golden)


def convolutional(net, image, twin=None) -> dict:
    """Outputs of mdistiller's network on a tensor; twin: torchvision's."""
    import torch

    if hasattr(net, "model"):  # MobileNetV1; both pool 7 x 7 places
        net.model[14] = torch.nn.AdaptiveAvgPool2d(1)
    else:
        net.avgpool = torch.nn.AdaptiveAvgPool2d(1)
    stem = []
    if hasattr(net, "model"):
        handle = net.model[0][1].register_forward_hook(lambda module, args, out: stem.append(out.clone()))
    logits, features = net(image)
    if stem:
        handle.remove()
    if twin is not None:
        assert torch.allclose(twin(image), logits, rtol=1e-10, atol=1e-10)
    maps = [*(s.relu() for s in stem), *features["feats"]], [*stem, *features["preact_feats"]]
    stages, preacts = ([m.permute(0, 2, 3, 1).numpy() for m in part] for part in maps)
    return flat_outputs(stages, preacts, features["pooled_feat"].numpy(), logits.numpy())


def tokens(net, image, groups=(3, 6, 9, 12)) -> dict:
    """Outputs of timm's ViT on a tensor."""
    stages, handles = [], []
    for part in (net.norm_pre, *(net.blocks[i - 1] for i in groups)):
        handles.append(part.register_forward_hook(lambda module, args, out: stages.append(out.numpy())))
    pooled = []
    handles.append(net.head.register_forward_pre_hook(lambda module, args: pooled.append(args[0].numpy())))
    distilled = {}
    if hasattr(net, "head_dist"):
        net.set_distilled_training(True)
        hook = net.head_dist.register_forward_hook(lambda module, args, out: distilled.update({"": out.numpy()}))
        handles.append(hook)
    logits = net(image)
    for handle in handles:
        handle.remove()
    logits = logits[0] if isinstance(logits, tuple) else logits  # in training, of both heads
    return flat_outputs(stages, None, pooled[0], logits.numpy()) | {
        f"distill_logits{k}": v for k, v in distilled.items()
    }


def networks(folder: str):
    """(name, image size -> network, image size -> its twin or None, how it is run) of every network."""
    import timm
    import torchvision

    sys.path.insert(0, str(Path(folder) / "mdistiller" / "models"))  # its own __init__ needs more than torch
    theirs = importlib.import_module("imagenet").imagenet_model_dict
    for name in ("ResNet18", "ResNet34", "ResNet50", "ResNet101"):
        twin = getattr(torchvision.models, name.lower())
        yield f"imagenet_{name}", lambda _, make=theirs[name]: make(), lambda _, make=twin: make(), convolutional
    yield "imagenet_MobileNetV1", lambda _: theirs["MobileNetV1"](), lambda _: None, convolutional
    for name in VITS:
        yield name, lambda size, name=name: timm.create_model(name, img_size=size), lambda _: None, tokens


def filled(net):
    """The network with our weights, in float64."""
    import torch

    shapes = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    net.load_state_dict({k: torch.from_numpy(weight(k, shape)) for k, shape in shapes.items()})
    return net.double()


def cases(make, twin, how):
    """(label, outputs) of every case."""
    import torch

    for label, (shape, train) in CASES.items():
        net, other = filled(make(shape[1:3])).train(train), twin(shape[1:3])
        image = torch.from_numpy(images(shape)).double().permute(0, 3, 1, 2)
        with torch.no_grad():
            outputs = how(net, image) if other is None else how(net, image, filled(other).train(train))
        yield label, {k: sample(v) for k, v in outputs.items()}


def main(folder: str) -> None:
    golden = {}
    for name, make, twin, how in networks(folder):
        net = twin((224, 224)) or make((224, 224))
        shapes = sorted((k, tuple(v.shape)) for k, v in net.state_dict().items())
        golden[f"{name}/names"] = np.array([f"{k} {shape}" for k, shape in shapes])
        golden[f"{name}/parameters"] = np.array(sum(p.numel() for p in net.parameters()))
        for label, outputs in cases(make, twin, how):
            golden |= {f"{name}/{label}/{k}": v for k, v in outputs.items()}
    np.savez_compressed(FILE, **golden)
    print(f"{FILE}: {len(golden)} arrays, {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
