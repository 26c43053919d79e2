"""Every (ours, reference) pair of parity.py: logits and features in evaluation mode, and one step in training mode for each
decoder and each kind of block.

On the torch backend, where nothing is compiled, all of them run (test_parity_torch.py runs this file there); on JAX those of
ON_JAX. `python -m benchmarks parity` runs all of them on JAX, too, also at 256x256 and in training mode.
"""

import re

import keras
import pytest
from parity import BACKBONE_PAIRS, MODEL_PAIRS, ON_JAX, build_pair, evaluation_error, training_errors

pytestmark = pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated:DeprecationWarning")

PAIRS = [pair for pair in MODEL_PAIRS + BACKBONE_PAIRS if keras.backend.backend() != "jax" or pair.name in ON_JAX]
TRAINED = re.compile(r"^unet (?!resnet101|timm-efficientnet-b4)|resnet18|resnet50.* / torchvision|vgg11|legacy_seresnext50")


def test_every_pair_has_a_name_of_its_own():
    names = {pair.name for pair in MODEL_PAIRS + BACKBONE_PAIRS}
    assert len(names) == len(MODEL_PAIRS + BACKBONE_PAIRS)
    assert names >= ON_JAX


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_numbers_equal_the_references(smp, pair):  # smp's fixture makes torchvision importable
    reference, model = build_pair(pair)
    for size in pair.sizes:
        if size != (256, 256):  # the table's
            assert evaluation_error(pair, reference, model, size) <= 1e-4, size
    if keras.backend.backend() != "jax" and not TRAINED.search(pair.name):
        return
    errors = training_errors(pair, reference, model)
    assert errors.loss <= 1e-3
    assert errors.gradient <= 1e-3
    assert errors.statistics <= 1e-3
