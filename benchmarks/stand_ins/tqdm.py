"""What kd_jax uses of tqdm, for benchmarks/gpu.py on machines without it: a bar that is never drawn."""

from contextlib import nullcontext


class tqdm:  # noqa: N801
    """Counts, and draws nothing."""

    def __init__(self, initial=0, **_):
        self.n = initial

    def update(self, steps):
        self.n += steps

    def set_postfix(self, *_, **__):
        """Nothing."""

    def close(self):
        """Nothing."""

    @staticmethod
    def external_write_mode(**_):
        return nullcontext()
