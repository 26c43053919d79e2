"""Layer-wise decay of the learning rate in a backbone, as in fine-tuning BEiT (Bao et al. 2021, arXiv:2106.08254)."""

import re
from collections.abc import Iterable

import keras

from kseg.models.pytorch.load import OUTPUT_NORMS, layers_with_weights
from kseg.utils.errors import KsegError

_BLOCK = re.compile(r"encoder_(?:block|blocks_|stages_|layers_|layer)(\d+)_(?:blocks_)?(\d+)(?:_|$)")
_STAGE = re.compile(r"encoder_(?:patch_embed|norm|stages_|layers_|layer)(\d+)(?:_|$)")


def layer_depths(names: Iterable[str]) -> dict[str, int]:
    """Numbers the layers of a backbone by name, in timm's order: 0 for the stem, then one more for each block.

    What makes a stage's map smaller counts to the first block of the stage, and a norm behind a stage to its last one. The layer
    norms at the end of a backbone of transformers count to the decoder: one more than the last block.
    Raises KsegError for a backbone without numbered blocks.
    """
    names = list(names)
    blocks = sorted({(int(match[1]), int(match[2])) for name in names if (match := _BLOCK.match(name))})
    if not blocks:
        raise KsegError("its layers are not in numbered blocks")
    return {name: _depth(name, blocks) for name in names}


def _depth(name: str, blocks: list[tuple[int, int]]) -> int:
    if name.startswith(OUTPUT_NORMS):
        return len(blocks) + 1
    if match := _BLOCK.match(name):
        return blocks.index((int(match[1]), int(match[2]))) + 1
    match = _STAGE.match(name)
    own = [number for number, (stage, _) in enumerate(blocks, start=1) if match and stage == int(match[1])]
    if not own or (own[0] == 1 and name.startswith("encoder_patch_embed")):
        return 0
    return own[-1] if name.startswith("encoder_norm") else own[0]


def rate_factors(backbone: keras.Model, decay: float) -> list[float]:
    """Returns the factor of the learning rate for each trainable variable of a backbone.

    decay: of each block against the one after it; the decoder, behind the last block, has 1. So a layer of depth d (layer_depths)
    has decay ** (blocks + 1 - d). Raises KsegError for a backbone without numbered blocks.
    """
    layers = layers_with_weights(backbone)
    depths = layer_depths(layers)
    last = 1 + max(depth for name, depth in depths.items() if not name.startswith(OUTPUT_NORMS))
    factors = {id(variable): decay ** (last - depths[name]) for name, layer in layers.items() for variable in layer.weights}
    return [factors[id(variable)] for variable in backbone.trainable_variables]
