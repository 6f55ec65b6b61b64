"""A worker of benchmarks: PyTorch's steps and epochs, in a Python that has torch.

python benchmarks/torch_worker.py '{"pair": "resnet32x4,resnet8x4", "batch": 64, "methods": ["kd"], ...}'
    Calls "METHOD, eager|compiled, contiguous|channels last": a step as mdistiller's trainer takes it, the reading of
    loss and accuracy after every step included, on one batch that is on the device already. With "examples": calls
    "epoch" instead: the same step over a DataLoader of so many images with its own crop, flip and normalisation. With
    "mdistiller": a checkout's own distiller, trainer and (for epochs) loader, on made-up images, in place of ours.
    "precision": float32, tf32 or bf16 (autocast). "repeat": steps of one call, whose seconds are those of one.
"""

import json
import sys
import time

import torch_mdistiller
import worker

OURS = ("kd", "dkd")  # methods that are written here; others need a checkout of mdistiller


def main() -> None:
    answers, asked = worker.quiet(), json.loads(sys.argv[1])
    import torch

    asked = {"mdistiller": "", "precision": "float32", "repeat": 1, "examples": 0, "image": 32, "workers": 2, **asked}
    device = "cuda" if torch.cuda.is_available() and not asked.get("cpu") else "cpu"
    tf32 = asked["precision"] == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True  # as mdistiller's tools/train.py
    calls = epochs(asked, device) if asked["examples"] else steps(asked, device)
    threads = f", {torch.get_num_threads()} threads" if device == "cpu" else f", {torch.cuda.get_device_name()}"
    worker.serve(calls, {"torch": f"torch {torch.__version__}{threads}"}, answers)


def steps(asked: dict, device: str) -> dict:
    """Name -> a step of every method, layout and mode that was asked for."""
    import torch

    image = torch.randn(asked["batch"], 3, asked["image"], asked["image"])
    label = torch.arange(asked["batch"]) % 100
    calls = {}
    for method in asked["methods"]:
        for mode in asked.get("modes", ["eager"]):
            for layout in asked.get("layouts", ["contiguous"]):
                form = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}[layout]
                train = iteration(asked, method, device, mode, form)
                data = (image.to(device).contiguous(memory_format=form), label.to(device))
                calls[f"{method}, {mode}, {layout}"] = repeated(train, data, asked["repeat"], device)
    return calls


def repeated(train, data, count: int, device: str):
    """A call of so many steps that returns the seconds of one."""
    import torch

    def call() -> float:
        began = time.perf_counter()
        for _ in range(count):
            train(*data)
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / count

    return call


def iteration(asked: dict, method: str, device: str, mode: str, form):
    """A function (image, label) that takes one training step."""
    import torch

    if asked["mdistiller"]:
        return torch_mdistiller.iteration(asked, method, device, mode, form)
    import torch_networks

    if method not in OURS:
        raise SystemExit(f"{method}: PyTorch's {', '.join(OURS)} are here; others need --mdistiller=DIR")
    teacher, student = (
        torch_networks.create(name, 100).to(device).to(memory_format=form) for name in asked["pair"].split(",")
    )
    forward = losses(method, teacher.eval(), student.train())
    forward = torch.compile(forward) if mode == "compiled" else forward
    optimiser = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)

    def train(image, label) -> None:
        """As BaseTrainer.train_iter in mdistiller's engine/trainer.py."""
        optimiser.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=asked["precision"] == "bf16"):
            logits, loss = forward(image, label)
        loss.backward()
        optimiser.step()
        read(logits, loss, label)

    return train


def read(logits, loss, label) -> tuple[float, ...]:
    """Loss and top-1, top-5 on the host, as mdistiller reads them after every step."""
    hits = logits.topk(5, 1)[1].t() == label[None]
    return float(loss.detach().cpu()), *(float(hits[:k].reshape(-1).float().sum()) for k in (1, 5))


def losses(method: str, teacher, student):
    """(image, label) -> the student's logits and the loss, with mdistiller's weights."""
    import torch
    import torch.nn.functional as F

    def kd(logits, target, label):
        divergence = F.kl_div(F.log_softmax(logits / 4, 1), F.softmax(target / 4, 1), reduction="none").sum(1).mean()
        return 0.1 * F.cross_entropy(logits, label) + 0.9 * 16 * divergence

    def dkd(logits, target, label):
        true = torch.zeros_like(logits).scatter_(1, label[:, None], 1)
        p, q = F.softmax(logits / 4, 1), F.softmax(target / 4, 1)
        pair = [torch.stack([(x * true).sum(1), (x * (1 - true)).sum(1)], 1) for x in (p, q)]
        tckd = F.kl_div(torch.log(pair[0]), pair[1], reduction="sum")
        others = [x / 4 - 1000.0 * true for x in (logits, target)]
        nckd = F.kl_div(F.log_softmax(others[0], 1), F.softmax(others[1], 1), reduction="sum")
        return F.cross_entropy(logits, label) + (tckd + 8 * nckd) * 16 / len(label)

    loss = {"kd": kd, "dkd": dkd}[method]

    def forward(image, label):
        logits = student(image)
        with torch.no_grad():
            target = teacher(image)
        return logits, loss(logits.float(), target.float(), label)

    return forward


def epochs(asked: dict, device: str) -> dict:
    """ "epoch": the seconds of one pass of the training loop over its loader, validation left out."""
    import torch

    method, form = asked["methods"][0], torch.contiguous_format
    train = iteration(asked, method, device, "eager", form)
    loader = torch_mdistiller.loader(asked) if asked["mdistiller"] else crops(asked)

    def call() -> float:
        began = time.perf_counter()
        for image, label, *_ in loader:
            train(image.to(device, non_blocking=True), label.to(device, non_blocking=True))
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return {"epoch": call}


def crops(asked: dict):
    """A DataLoader with CIFAR's crop (pad 4), flip and normalisation, one image after the other."""
    import torch
    import torch.nn.functional as F

    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)))
    size, images = asked["image"], torch.randint(0, 256, (asked["examples"], 3, asked["image"], asked["image"]))
    images = images.to(torch.uint8)

    class Crops(torch.utils.data.Dataset):
        def __len__(self):
            return len(images)

        def __getitem__(self, i):
            top, left, flip = (int(torch.randint(n, ())) for n in (9, 9, 2))
            image = F.pad(images[i], (4, 4, 4, 4))[:, top : top + size, left : left + size]
            image = image.flip(-1) if flip else image
            return (image.float() / 255 - mean) / std, i % 100

    how = {"batch_size": asked["batch"], "shuffle": True, "num_workers": asked["workers"], "drop_last": True}
    return torch.utils.data.DataLoader(Crops(), **how)


if __name__ == "__main__":
    main()
