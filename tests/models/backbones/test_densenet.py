"""DenseNet's first checkpoints. tests/models/test_models.py compares the numbers."""

import re

import numpy as np
import pytest

from kseg.models.build import build_backbone
from kseg.models.pytorch.export import export_torch_weights
from kseg.models.pytorch.load import load_torch_weights


@pytest.mark.slow
def test_names_of_torchvisions_first_files_are_read():
    backbone = build_backbone("densenet121")
    expected = backbone.get_weights()
    state = {key.removeprefix("encoder."): value for key, value in export_torch_weights(backbone).items()}
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value for key, value in state.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    old |= {"classifier.weight": np.zeros((5, 1024), "float32"), "classifier.bias": np.zeros(5, "float32")}
    backbone.set_weights([np.zeros_like(weight) for weight in expected])
    found = load_torch_weights(backbone, old, source="torchvision")
    assert found.left_out == ("classifier",)
    for weight, value in zip(backbone.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(weight, value)
