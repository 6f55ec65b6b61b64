"""Networks in the formats of other libraries: PyTorch, safetensors, StableHLO."""
