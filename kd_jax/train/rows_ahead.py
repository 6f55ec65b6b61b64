"""The rows of a teacher's logits that training steps read: from a store, and computed in full batches where it has
none."""

from collections import Counter, deque
from collections.abc import Callable

import numpy as np

from kd_jax.storage.logit_rows import LogitRows
from kd_jax.typing import Array

LOOK_AHEAD = 2**26  # bytes of rows that are looked up before they are due, to fill the teacher's batches
IN_FLIGHT = 2  # the teacher's batches that the devices have at once, so that they need not wait for the disk


class RowsAhead:
    """The rows of the steps of a phase, asked for in their order. A step that the store has costs the teacher nothing.
    Where rows are missing, those of later steps are looked up until they make a full batch: so the teacher sees every
    missing row once, never a batch that is not full but for the last one, and no step waits for more than two.

    hits, misses: rows of the steps so far that were there, and that were computed for them.
    """

    def __init__(
        self,
        store: LogitRows,
        numbers_of: Callable[[int], np.ndarray],
        compute: Callable[[np.ndarray], Array],
        *,
        batch_size: int,
        last: int,
    ):
        """Nothing is read or computed before the first step is asked for.

        Args:
          store: of the rows.
          numbers_of: step -> the numbers of its rows (B,).
          compute: numbers (B,) -> the teacher's logits for them (B, K), on the devices.
          batch_size: B.
          last: the step before which all end.
        """
        self._store, self._numbers_of, self._compute = store, numbers_of, compute
        self._batch_size, self._last = batch_size, last
        self._far = max(1, LOOK_AHEAD // (batch_size * store.columns * store.dtype.itemsize))  # steps
        self.hits = self.misses = 0
        self._forget(0)

    def at(self, step: int) -> np.ndarray:
        """The rows (B, K) of a step, in float32."""
        if step != self._next:
            self._forget(step)
        self._next, numbers = step + 1, self._numbers_of(step)
        if self._looked_up == step:  # nothing is held for it, or for later ones
            rows, there = self._store.read(numbers)
            if there.all():
                self._looked_up, self.hits = step + 1, self.hits + len(numbers)
                return rows.astype(np.float32)
            self._look_up()
        numbers = numbers.tolist()
        while any(self._rows[n] is None for n in numbers):
            self._advance()
        rows = np.stack([self._rows[n] for n in numbers]).astype(np.float32)
        for n in numbers:
            self._used(n)
        return rows

    def _forget(self, step: int) -> None:
        """Begin with a step, as if none had been asked for."""
        self._next = self._looked_up = step
        self._rows: dict[int, np.ndarray | None] = {}  # None: missing, or being computed
        self._uses = Counter()  # by how many of the steps that are looked up
        self._fresh: set[int] = set()  # computed here, and not yet used
        self._missing: deque[int] = deque()
        self._flying: deque[tuple[np.ndarray, Array]] = deque()

    def _look_up(self) -> None:
        """Read what the store has for one more step."""
        numbers = np.unique(self._numbers_of(self._looked_up))
        self._looked_up += 1
        self._uses.update(numbers.tolist())
        new = np.array([n for n in numbers.tolist() if n not in self._rows], np.int64)
        rows, there = self._store.read(new)
        for number, row, is_there in zip(new.tolist(), rows, there, strict=True):
            self._rows[number] = row if is_there else None
            if not is_there:
                self._missing.append(number)

    def _advance(self) -> None:
        """Take the rows of one of the teacher's batches, and keep the devices busy meanwhile."""
        while len(self._flying) < IN_FLIGHT and self._launch():
            pass
        numbers, logits = self._flying.popleft()
        rows = np.asarray(logits)[: len(numbers)].astype(self._store.dtype)
        self._store.write(numbers, rows)
        self._fresh.update(numbers.tolist())
        self._rows.update(zip(numbers.tolist(), rows, strict=True))

    def _launch(self) -> bool:
        """Let the devices compute a batch of missing rows, if there are any."""
        while len(self._missing) < self._batch_size and self._looked_up < min(self._last, self._next + self._far):
            self._look_up()
        if not self._missing:
            return False
        count = min(self._batch_size, len(self._missing))
        numbers = np.array([self._missing.popleft() for _ in range(count)], np.int64)
        logits = self._compute(np.pad(numbers, (0, self._batch_size - count), mode="edge"))
        logits.copy_to_host_async()
        self._flying.append((numbers, logits))
        return True

    def _used(self, number: int) -> None:
        if number in self._fresh:
            self._fresh.remove(number)
            self.misses += 1
        else:
            self.hits += 1
        self._uses[number] -= 1
        if not self._uses[number]:
            del self._uses[number], self._rows[number]
