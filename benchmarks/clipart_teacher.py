"""A teacher of openclipart that sees more than its students: EfficientNet-Lite0 on the drawings at 224 x 224 pixels.

python benchmarks/clipart_teacher.py --drawings=DIR --weights=FILE.pth --out=FILE.npz [--folds=5] [--strength=0.01]

DIR is what `launch/prepare_data.py --dataset=openclipart --size=224` makes, FILE.pth the network's published weights,
trained on ImageNet (docs/pytorch.md). A linear classifier reads its pooled features. FILE.npz holds its logits for the
training pictures, each from a classifier that was fitted without it, on the other folds, and for the test pictures,
from all training pictures; `--config.student.teacher=logits:FILE.npz` reads it, with the same drawings at any size.
"""

import argparse
from pathlib import Path

import numpy as np

BATCH = 32


def features(images: np.ndarray, weights: str) -> np.ndarray:
    """(N, 224, 224, 3) of bytes -> pooled features (N, 1280)."""
    import jax

    from kd_jax import models
    from kd_jax.models.network import normalize

    model = models.create("EfficientNetLite0", 1000)
    variables = models.load_torch(weights, model)

    @jax.jit
    def pooled(variables, pixels):
        images = normalize(pixels.astype(np.float32) / 255, **model.normalization)
        return models.apply(model, variables, images)[0].pooled

    last = np.concatenate([images, images[-1:].repeat(-len(images) % BATCH, axis=0)])  # whole batches
    parts = [np.asarray(pooled(variables, last[i : i + BATCH])) for i in range(0, len(last), BATCH)]
    return np.concatenate(parts)[: len(images)]


def main() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from kd_jax import data

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--drawings", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--strength", type=float, default=0.01, help="C, the inverse of the regularisation")
    flags = parser.parse_args()
    dataset = data.load(f"folder:{flags.drawings}")
    train, test = (features(np.asarray(part.images), flags.weights) for part in (dataset.train, dataset.test))
    labels = np.asarray(dataset.train.labels)
    folds = StratifiedKFold(flags.folds, shuffle=True, random_state=0)
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=flags.strength, max_iter=300))
    logits = cross_val_predict(linear, train, labels, cv=folds, method="decision_function").astype(np.float32)
    test_logits = linear.fit(train, labels).decision_function(test).astype(np.float32)
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(flags.out, logits=logits, test_logits=test_logits)
    for name, table, part in (("training", logits, dataset.train), ("test", test_logits, dataset.test)):
        right = 100 * np.mean(table.argmax(-1) == np.asarray(part.labels))
        print(f"{flags.out}: {len(table):,} {name} pictures, {right:.2f} % right")


if __name__ == "__main__":
    main()
