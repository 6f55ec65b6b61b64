"""Networks from and for others: PyTorch's files, safetensors, StableHLO."""
