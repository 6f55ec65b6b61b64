"""Sweeps as data: CONFIG, perhaps SEEDS and BASELINE, and sweep(), which yields what is changed in each cell."""
