"""mdistiller's own training step and loader, from a checkout (https://github.com/megvii-research/mdistiller), run
as its tools/train.py runs them, on made-up images in place of CIFAR-100."""

import sys
import tempfile
from pathlib import Path

EPOCH = 40  # past every warm-up


def _config(asked: dict, method: str):
    """The checkout's configuration of a method, for the pair that was asked for."""
    sys.path.insert(0, asked["mdistiller"])
    from mdistiller.engine.cfg import CFG

    cfg, folder = CFG.clone(), Path(asked["mdistiller"]) / "configs" / "cifar100"
    files = [folder / f"{method}.yaml", folder / method / "res32x4_res8x4.yaml"]
    cfg.merge_from_file(str(next((file for file in files if file.exists()), files[0])))
    cfg.DISTILLER.TEACHER, cfg.DISTILLER.STUDENT = asked["pair"].split(",")
    cfg.SOLVER.BATCH_SIZE, cfg.DATASET.NUM_WORKERS = asked["batch"], asked["workers"]
    cfg.LOG.PREFIX, cfg.LOG.WANDB = tempfile.mkdtemp(prefix="mdistiller"), False
    return cfg


def _stay_on_cpu() -> None:
    """Its code says .cuda() everywhere."""
    import torch

    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    torch.nn.Module.cuda = lambda self, *args, **kwargs: self


def iteration(asked: dict, method: str, device: str, mode: str, form):
    """A function (image, label, ...) that takes one step by the checkout's trainer."""
    import torch

    cfg = _config(asked, method)
    from mdistiller.distillers import distiller_dict
    from mdistiller.engine import trainer_dict
    from mdistiller.engine.utils import AverageMeter
    from mdistiller.models import cifar_model_dict

    if device == "cpu":
        _stay_on_cpu()
    teacher, student = (cifar_model_dict[name][0](num_classes=100) for name in asked["pair"].split(","))
    more = (cfg, asked["examples"] or 50_000) if cfg.DISTILLER.TYPE == "CRD" else (cfg,)
    distiller = distiller_dict[cfg.DISTILLER.TYPE](student, teacher, *more).cuda().to(memory_format=form)
    distiller = torch.nn.DataParallel(distiller)
    trainer = trainer_dict[cfg.SOLVER.TRAINER]("step", distiller, None, None, cfg)
    trainer.distiller.train()
    if mode == "compiled":
        trainer.distiller = torch.compile(distiller)
    meters = {name: AverageMeter() for name in ("training_time", "data_time", "losses", "top1", "top5")}

    def train(image, label, *others) -> None:
        index = torch.arange(len(label))
        if cfg.DISTILLER.TYPE == "CRD":
            others = (index, torch.randint(asked["examples"] or 50_000, (len(label), cfg.CRD.NCE.K + 1)))
        with torch.autocast(device, torch.bfloat16, enabled=asked["precision"] == "bf16"):
            trainer.train_iter((image, label, *(others or (index,))), EPOCH, meters)

    return train


def loader(asked: dict):
    """The checkout's own loader of CIFAR-100's training set, of `examples` made-up images."""
    import numpy as np
    from torchvision import datasets

    def __init__(self, root, train=True, transform=None, target_transform=None, download=False):
        self.transform, self.target_transform, count = transform, target_transform, asked["examples"]
        self.data = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
        self.targets = [i % 100 for i in range(count)]

    datasets.CIFAR100.__init__ = __init__
    _config(asked, asked["methods"][0])
    from mdistiller.dataset import cifar100

    cifar100.get_data_folder = lambda: "not-read"
    return cifar100.get_cifar100_dataloaders(asked["batch"], asked["batch"], asked["workers"])[0]
