"""A task of 100 classes from Fashion-MNIST: two images at once, in the red and the green channel.

python benchmarks/image_pairs.py --out=DIR [--fashion=FOLDER] [--train=20000] [--seed=0]

Writes train.bin and test.bin (10,000 pairs) in the layout of CIFAR-100's binary files, which
`--config.data.name=cifar100 --config.data.dir=DIR` reads: 32 x 32 pixels, the blue channel empty, class 10 a + b for
images of the classes a and b. The pairs of train.bin are images of the training set, those of test.bin of the test set.
"""

import argparse
from pathlib import Path

import numpy as np

SIDE, TEST = 32, 10_000


def pairs(images: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Records (count, 2 + 3072) of bytes: a coarse label that nobody reads, the fine one, planes of pixels."""
    first, second = rng.integers(0, len(images), (2, count))
    pad = (SIDE - images.shape[1]) // 2
    planes = np.zeros((count, 3, SIDE, SIDE), np.uint8)
    inside = slice(pad, pad + images.shape[1])
    planes[:, 0, inside, inside], planes[:, 1, inside, inside] = images[first], images[second]
    fine = (10 * labels[first] + labels[second]).astype(np.uint8)
    return np.concatenate([np.zeros((count, 1), np.uint8), fine[:, None], planes.reshape(count, -1)], axis=1)


def main() -> None:
    from kd_jax import data

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fashion", default="", help="folder of the idx files")
    parser.add_argument("--train", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    whole, rng = data.load("fashion_mnist", dir=flags.fashion), np.random.default_rng(flags.seed)
    folder = flags.out / "cifar-100-binary"
    folder.mkdir(parents=True, exist_ok=True)
    for name, split, count in (("train", whole.train, flags.train), ("test", whole.test, TEST)):
        images = np.asarray(split.images)[..., 0]
        (folder / f"{name}.bin").write_bytes(pairs(images, np.asarray(split.labels), count, rng).tobytes())
        print(f"{folder / f'{name}.bin'}: {count:,} pairs of {len(images):,} images")


if __name__ == "__main__":
    main()
