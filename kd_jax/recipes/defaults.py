"""The values in which the papers' recipes for some networks differ from the defaults of kd_jax.config.records."""

from kd_jax.models import efficientnet, imagenet, vit

# learning rates of the papers' CIFAR-100 recipe, by network in lower case
LEARNING_RATES = {name: {"optim.lr": 0.01} for name in ("mobilenetv2", "shufflev1", "shufflev2")}
# convolutional networks on ImageNet (mdistiller's configs/imagenet)
IMAGENET = {
    "epochs": 100, "batch_size": 512, "optim.lr": 0.2, "optim.weight_decay": 1e-4, "schedule.milestones": (30, 60, 90),
}  # fmt: skip
# vision transformers (Touvron et al. 2020, arXiv 2012.12877: lr 5e-4 x batch / 512). Our choice: we leave out its
# stronger augmentations and stochastic depth, and AdamW decays all parameters, where theirs spares biases and norms;
# configs/deit.py has all that
VIT = {
    "epochs": 300, "batch_size": 1024, "optim.name": "adamw", "optim.lr": 1e-3, "optim.weight_decay": 0.05,
    "schedule.name": "cosine", "schedule.milestones": (), "schedule.warmup_epochs": 5.0,
}  # fmt: skip
LARGE = {  # by network made for large images, in lower case
    name.lower(): changes
    for family, changes in ((imagenet, IMAGENET), (efficientnet, IMAGENET), (vit, VIT))
    for name in family.NETWORKS
}
IMAGENET_DATA = {"name": "tfds:imagenet2012", "stream": True, "crop": 224}
