"""How large a cache becomes."""

from types import SimpleNamespace

import pytest

from kd_jax.train import cache_size


def test_the_size_of_cifar100():
    source = SimpleNamespace(num_views=162, sizes={"train": 50_000, "test": 10_000})
    size = {
        dtype: cache_size.store_size(SimpleNamespace(teacher_cache_dtype=dtype), source, 100, 240)
        for dtype in ("float32", "float16")
    }
    assert 3.2e9 < size["float32"] < 3.3e9 and 1.6e9 < size["float16"] < 1.7e9
    assert cache_size.distinct_views(162, 240) / 240 == pytest.approx(0.522, abs=0.001)
    assert cache_size.distinct_views(1, 30) == 1
