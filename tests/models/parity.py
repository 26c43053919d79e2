"""What parity tests share: random references, layouts, and the error that counts."""

import keras
import numpy as np
import torch


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Evaluation mode; random parameters and statistics of every normalisation, so that none of them can be swapped unseen."""
    torch.manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, (torch.nn.BatchNorm2d, torch.nn.GroupNorm)):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.0)
            torch.nn.init.uniform_(layer.bias, -0.3, 0.3)
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(layer.running_var, 0.8, 1.5)
        if isinstance(layer, torch.nn.Conv2d) and layer.bias is not None:
            torch.nn.init.uniform_(layer.bias, -0.3, 0.3)
    return module.eval()


def channels_last(x: torch.Tensor) -> np.ndarray:
    return x.detach().permute(0, 2, 3, 1).numpy()


def channels_first(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()


def relative_error(found, expected: np.ndarray) -> float:
    """max |found - expected| / max |expected|, printed for `pytest -s`."""
    found = keras.ops.convert_to_numpy(found)
    assert found.shape == expected.shape
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    print(f"relative error {error:.1e}")
    return error
