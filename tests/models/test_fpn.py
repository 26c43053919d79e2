"""FPN as a whole against smp's."""

import numpy as np
import pytest
import torch
from parity import channels_first, channels_last, randomise, relative_error

from kseg.models.build import build_model
from kseg.models.pytorch.load import load_torch_weights
from kseg.utils.errors import KsegError


@pytest.fixture(scope="module")
def pair(smp):
    reference = randomise(smp.FPN("resnet18", encoder_weights=None, classes=4))
    model = build_model("fpn", num_classes=4, backbone="resnet18", normalization=None)
    load_torch_weights(model, reference.state_dict())
    return reference, model


@pytest.mark.parametrize("size", [(64, 96), (32, 160)])
def test_logits_equal_smps(pair, rng, size):
    reference, model = pair
    images = rng.normal(size=(1, *size, 3)).astype("float32")
    with torch.no_grad():
        expected = channels_last(reference(channels_first(images)))
    assert relative_error(model.predict_on_batch(images), expected) <= 1e-4


def smp_to_the_levels_sizes(reference, images):
    """smp's parts, each fixed factor of 2 replaced by the size of the next level."""
    resize = torch.nn.functional.interpolate
    *_, c2, c3, c4, c5 = reference.encoder(images)
    sizes = [x.shape[2:] for x in (c4, c3, c2)]
    decoder = reference.decoder
    pyramid = [decoder.p5(c5)]
    for block, skip in ((decoder.p4, c4), (decoder.p3, c3), (decoder.p2, c2)):
        pyramid.append(resize(pyramid[-1], size=skip.shape[2:]) + block.skip_conv(skip))
    total = 0
    for i, (x, branch) in enumerate(zip(pyramid, decoder.seg_blocks, strict=True)):
        for j, step in enumerate(branch.block):
            x = step.block(x)
            if i < 3:
                x = resize(x, size=sizes[i + j], mode="bilinear", align_corners=True)
        total = total + x
    logits = reference.segmentation_head[0](total)
    return resize(logits, size=images.shape[2:], mode="bilinear", align_corners=True)


@pytest.mark.parametrize("size", [(64, 96), (65, 47)])
def test_odd_sizes_which_smp_refuses(pair, rng, size):
    reference, model = pair
    images = rng.normal(size=(1, *size, 3)).astype("float32")
    with torch.no_grad():
        expected = channels_last(smp_to_the_levels_sizes(reference, channels_first(images)))
        if size == (64, 96):  # where the two are the same thing
            assert relative_error(channels_last(reference(channels_first(images))), expected) <= 1e-6
    assert relative_error(model.predict_on_batch(images), expected) <= 1e-4


def test_group_norm_weights_go_to_gamma_and_beta(pair):
    reference, model = pair
    peer = reference.decoder.seg_blocks[0].block[2].block[1]
    gamma, beta = model.get_layer("decoder_seg_blocks_0_block_2_block_1").get_weights()
    np.testing.assert_array_equal(gamma, peer.weight.detach().numpy())
    np.testing.assert_array_equal(beta, peer.bias.detach().numpy())


def test_group_norm_without_a_bias_is_refused(pair):
    reference, model = pair
    state = {k: v for k, v in reference.state_dict().items() if k != "decoder.seg_blocks.3.block.0.block.1.bias"}
    with pytest.raises(KsegError, match=r"decoder_seg_blocks_3_block_0_block_1 has weight in the checkpoint; .* weight, bias"):
        load_torch_weights(model, state)
