"""Runs of one module are much alike."""

import pytest


@pytest.fixture(autouse=True)
def _runs_share_programs(shared_programs):
    yield
