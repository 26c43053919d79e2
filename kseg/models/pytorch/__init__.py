"""PyTorch checkpoints: reading and writing them."""
