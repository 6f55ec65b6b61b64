"""Runs of one module are much alike."""

import pytest


@pytest.fixture
def host_patch():
    """A monkeypatch for what no compiled program is made of: programs stay shared."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(autouse=True)
def _runs_share_programs(shared_programs):
    yield
