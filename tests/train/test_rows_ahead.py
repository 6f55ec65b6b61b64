"""Which of the teacher's batches are computed, and when."""

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from kd_jax.storage.logit_rows import LogitRows
from kd_jax.train import rows_ahead
from kd_jax.train.rows_ahead import RowsAhead

BATCH, STEPS, COLUMNS, ROWS = 8, 60, 3, 400
KEY = {"dtype": "float32"}


def content(numbers):
    return np.asarray(numbers, np.float32)[:, None] * np.ones(COLUMNS, np.float32)


class Reader:
    """Steps of random numbers, and the batches that were computed for them."""

    def __init__(self, folder, seed=0):
        rng = np.random.default_rng(seed)
        self.numbers = [rng.permutation(ROWS)[:BATCH].astype(np.int64) for _ in range(STEPS)]
        self.store = LogitRows(epath.Path(folder), "train", key=KEY, count=ROWS, columns=COLUMNS)
        self.batches = []
        last = {"batch_size": BATCH, "last": STEPS}
        self.ahead = RowsAhead(self.store, self.numbers.__getitem__, self.compute, **last)

    def compute(self, numbers):
        assert numbers.shape == (BATCH,)
        self.batches.append(numbers)
        return jnp.asarray(content(numbers))

    def check(self, steps):
        for step in steps:
            np.testing.assert_array_equal(self.ahead.at(step), content(self.numbers[step]))

    @property
    def distinct(self):
        return np.unique(np.concatenate(self.numbers))


def test_every_missing_row_is_computed_once_in_full_batches(tmp_path):
    reader = Reader(tmp_path)
    reader.check(range(STEPS))
    *full, _ = reader.batches
    assert all(len(set(batch.tolist())) == BATCH for batch in full)
    computed = np.concatenate(full).tolist()
    assert len(set(computed)) == len(computed) and len(reader.batches) == -(-len(reader.distinct) // BATCH)
    assert reader.ahead.misses == len(reader.distinct)
    assert reader.ahead.hits + reader.ahead.misses == STEPS * BATCH
    warm = Reader(tmp_path)
    warm.check(range(STEPS))
    assert not warm.batches and warm.ahead.hits == STEPS * BATCH
    assert not warm.ahead._rows and not reader.ahead._rows  # nothing is held that no step will read


def test_no_step_waits_for_more_than_two_batches(tmp_path):
    """So that a signal need not wait long; and nothing is computed that is not due soon."""
    reader, before = Reader(tmp_path), 0
    for step in range(STEPS):
        reader.check([step])
        assert len(reader.batches) - before <= 2
        before = len(reader.batches)


def test_it_goes_on_at_any_step(tmp_path):
    first = Reader(tmp_path)
    first.check(range(20))
    again = Reader(tmp_path)
    again.check([*range(12, STEPS), 3, 40, 41])
    assert sum(map(len, first.batches + again.batches)) <= len(first.distinct) + 2 * BATCH


def test_two_that_fill_one_store_in_turns(tmp_path):
    """In different orders: each takes what the other has written by then."""
    one, two = Reader(tmp_path), Reader(tmp_path, seed=1)
    for step in range(STEPS):
        one.check([step])
        two.check([step])
    needed = len(np.union1d(one.distinct, two.distinct))
    assert needed <= one.ahead.misses + two.ahead.misses <= needed + 3 * BATCH
    assert one.ahead.misses > BATCH < two.ahead.misses


def test_what_is_looked_up_ahead_has_an_end(tmp_path, monkeypatch):
    """Rows that are all there but one: its batch is not full, for the look ahead ends."""
    monkeypatch.setattr(rows_ahead, "LOOK_AHEAD", 4 * BATCH * COLUMNS * 4)
    reader = Reader(tmp_path)
    others = np.setdiff1d(np.arange(ROWS), reader.numbers[0][:1])
    reader.store.write(others, content(others))
    reader.check([0])
    assert len(reader.batches) == 1 and reader.ahead._looked_up <= 5
    assert set(reader.batches[0].tolist()) == {reader.numbers[0][0]}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_computed_is_rounded_as_what_is_read(tmp_path, dtype):
    store = LogitRows(epath.Path(tmp_path), "train", key={"dtype": dtype}, count=BATCH, columns=1)
    exact = np.linspace(0.1, 7.3, BATCH, dtype=np.float32)[:, None]
    more = {"batch_size": BATCH, "last": 2}
    ahead = RowsAhead(store, lambda _: np.arange(BATCH), lambda numbers: jnp.asarray(exact[numbers]), **more)
    computed, read = ahead.at(0), ahead.at(1)
    np.testing.assert_array_equal(computed, exact.astype(dtype).astype(np.float32))
    np.testing.assert_array_equal(computed, read)
    assert computed.dtype == np.float32
