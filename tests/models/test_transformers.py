"""SegFormer and UPerNet in the form of Hugging Face transformers against small random models that its save_pretrained wrote."""

import keras
import numpy as np
import pytest
import tiny_transformers
import torch
from baselines import randomise
from cases import Case
from parity import channels_first, channels_last, relative_error, training_errors
from tiny_transformers import CHANNELS, CLASSES, model_of, reference, saved

from kseg.models.build import build_backbone, build_model, precision
from kseg.models.pytorch.export import export_torch_weights, export_transformers_weights
from kseg.models.pytorch.load import count_classes, load_backbone_weights, load_torch_weights
from kseg.utils.errors import KsegError

pytestmark = pytest.mark.backends("torch")  # which compiles nothing
SIZES = ((64, 96), (47, 65))
each_backbone = pytest.mark.parametrize("backbone", tiny_transformers.BACKBONES)


def random_reference(backbone, **options):
    return randomise(reference(backbone, **options))


def build(backbone, **options):
    options = {"decoder_channels": CHANNELS, "form": "transformers", "normalization": None} | options
    return build_model(model_of(backbone), backbone=backbone, num_classes=CLASSES, **options)


@pytest.fixture
def pair(backbone, tmp_path):
    """transformers' model, and kseg's with the weights of its saved file."""
    network = random_reference(backbone)
    model = build(backbone)
    load_torch_weights(model, saved(network, tmp_path))
    return network, model


def their_outputs(network, images):
    """Returns the features of each level and the logits before the resize, [B, C, h, w]."""
    if hasattr(network, "segformer"):
        features = network.segformer(images, output_hidden_states=True).hidden_states
    else:
        features = network.backbone.forward_with_filtered_kwargs(images).feature_maps
    return [*features, network.decode_head(features)]


def our_outputs(model):
    """Returns a model from images to the same."""
    backbone = model.get_layer("backbone")
    features = model.get_layer("backbone").output
    logits = model.get_layer("segmentation_head_0").output
    whole = keras.Model(model.input, logits)
    return lambda images: [*(y for _, y in sorted(backbone(images).items())), whole(images)] if features else []


def squares(outputs):
    """A loss whose gradient tells every place of every output from the others."""
    return sum((y * y * torch.linspace(0.5, 1.5, y.numel()).reshape(y.shape)).sum() for y in outputs)


@pytest.mark.slow
@pytest.mark.parity
@each_backbone
def test_features_logits_and_gradients_are_the_references(pair, rng):
    network, model = pair
    ours = our_outputs(model)
    for size in SIZES:
        images = rng.normal(size=(2, *size, 3)).astype("float32")
        expected = their_outputs(network, channels_first(images))
        found = ours(images)
        for y, theirs in zip(found, expected, strict=True):
            assert relative_error(y, channels_last(theirs)) < 1e-4
        network.zero_grad()
        squares([y.permute(0, 2, 3, 1) for y in expected]).backward()
        for variable in model.trainable_variables:
            variable.value.grad = None
        squares(found).backward()
        gradients = {v.path: keras.ops.convert_to_numpy(v.value.grad) for v in model.trainable_variables}
        other = build_model_with(network, model)
        largest = max(np.abs(value).max() for value in other.values())
        for path, gradient in gradients.items():
            scale = max(np.abs(other[path]).max(), 1e-2 * largest)
            assert np.abs(gradient - other[path]).max() < 1e-4 * scale, (size, path)


def build_model_with(network, model):
    """Returns the reference's gradients, laid out as the model's variables, by path. The model keeps its weights."""
    weights = model.get_weights()
    state = network.state_dict()
    state |= {key: torch.zeros_like(p) if p.grad is None else p.grad for key, p in network.named_parameters()}
    load_torch_weights(model, state)
    found = {variable.path: keras.ops.convert_to_numpy(variable).copy() for variable in model.trainable_variables}
    model.set_weights(weights)
    return found


@pytest.mark.parity
def test_the_features_of_swin_in_smps_form_are_timms(rng):
    """timm rolls a map before it pads it to whole windows."""
    variant = tiny_transformers.SWIN
    options = {"depths": variant.blocks, "embed_dim": variant.channels, "num_heads": variant.heads, "window_size": variant.window}
    network = randomise(tiny_transformers.timms_swin(**options))
    model = build_backbone("test_swin")
    load_torch_weights(model, network.state_dict())
    images = rng.normal(size=(1, 132, 100, 3)).astype("float32")
    expected = network(channels_first(images))
    for (_, y), theirs in zip(sorted(model(images).items()), expected, strict=True):
        assert relative_error(y, channels_last(theirs)) < 1e-4


@pytest.mark.slow
@pytest.mark.parity
@each_backbone
def test_a_training_step_is_the_references(pair, backbone):
    network, model = pair
    network = tiny_transformers.with_full_size_logits(network)
    errors = training_errors(Case(model_of(backbone), backbone, "transformers"), network, model)
    assert max(errors.loss, errors.gradient, errors.statistics) < 1e-3


@each_backbone
def test_a_file_comes_back_to_the_byte(backbone, tmp_path):
    network = random_reference(backbone)
    state = saved(network, tmp_path)
    model = build(backbone)
    loaded = load_torch_weights(model, state)
    assert loaded.sources == ("transformers",)
    parts = {"test_mit": 1, "test_convnext": 0, "test_swin": 2}[backbone]
    blocks = sum(getattr(tiny_transformers, backbone.removeprefix("test_").upper()).blocks)
    unused = [key for key in state if key.endswith("num_batches_tracked") or key.startswith("backbone.swin.layernorm")]
    assert loaded.tensors == len(state) - len(unused) - 2 * parts * blocks  # keys and values, or with queries, are one tensor
    written = export_transformers_weights(model)
    assert {key: (array.dtype, array.shape) for key, array in written.items()} == {
        key: (array.dtype, array.shape) for key, array in state.items()
    }
    norm = "backbone.swin.layernorm"  # which nothing reads
    assert [key for key in state if not key.startswith(norm) and written[key].tobytes() != state[key].tobytes()] == []
    assert all(key in written and written[key].tobytes() == array.tobytes() for key, array in export_torch_weights(model).items())
    # What is read once is read again, and changes nothing.
    again = build(backbone)
    load_torch_weights(again, written)
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_kseg_has_no_place_for_is_named(tmp_path):
    network = random_reference("test_swin", auxiliary=True)
    state = saved(network, tmp_path)
    state["backbone.encoder.layers.0.blocks.0.attention.self.relative_position_index"] = np.zeros(
        (25, 25), "int64"
    )  # of old files
    loaded = load_torch_weights(build("test_swin"), state)
    assert loaded.left_out == (
        "auxiliary_head.classifier", "auxiliary_head.convs.0.batch_norm", "auxiliary_head.convs.0.conv", "encoder.norm",
    )  # fmt: skip
    assert count_classes(state) == CLASSES


def test_the_names_of_a_live_model_are_read(tmp_path):
    for backbone in ("test_mit", "test_swin"):
        network = random_reference(backbone)
        one, other = build(backbone), build(backbone)
        load_torch_weights(one, saved(network, tmp_path))
        load_torch_weights(other, network.state_dict())
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


# --- Forms ----------------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_the_other_form_is_refused(tmp_path):
    state = saved(random_reference("test_mit"), tmp_path)
    plain = build_model("segformer", backbone="test_mit", num_classes=CLASSES, decoder_channels=CHANNELS)
    with pytest.raises(KsegError, match=r"^the checkpoint is of transformers, the model is not; .*form=transformers"):
        load_torch_weights(plain, state)
    with pytest.raises(KsegError, match=r"^the model has the form of transformers, the checkpoint has not"):
        load_torch_weights(build("test_mit"), export_torch_weights(plain))
    with pytest.raises(KsegError, match=r"^segformer has not the form of transformers"):
        export_transformers_weights(plain)


def test_a_broken_checkpoint_is_one_line(tmp_path):
    state = saved(random_reference("test_mit"), tmp_path)
    key = "segformer.encoder.block.0.0.attention.self.key.weight"
    model = build("test_mit")
    with pytest.raises(KsegError, match=f"^the checkpoint has no {key}$"):
        load_torch_weights(model, {name: array for name, array in state.items() if name != key})
    with pytest.raises(KsegError, match="differ in shape"):
        load_torch_weights(model, state | {key: state[key][:4]})
    for wrong in ("patch_embeddings.0.proj.weight", "layer_norm.0.weight", "block.0.0.mlp.dense1.weight"):
        array = state[f"segformer.encoder.{wrong}"]
        for shape in (array.ravel()[:6].reshape(2, 3), array.ravel()[:6].reshape(1, 2, 1, 3)):
            with pytest.raises(KsegError, match=r"weight is \(.* in the checkpoint, \(.* in the model"):
                load_torch_weights(model, state | {f"segformer.encoder.{wrong}": shape})
    twice = "segformer.stages.0.blocks.0.attention.k_proj.weight"
    with pytest.raises(KsegError, match="under two names"):
        load_torch_weights(model, state | {twice: state[key]})


def test_a_backbones_weights_go_into_either_form(tmp_path):
    state = saved(random_reference("test_convnext"), tmp_path)
    for form in ("smp", "transformers"):
        backbone = build_backbone("test_convnext", form=form)
        load_backbone_weights(backbone, state)
        found = backbone.get_layer("encoder_stem_0").get_weights()[1]
        np.testing.assert_array_equal(found, state["backbone.embeddings.patch_embeddings.bias"])
    of_timm = export_torch_weights(build_backbone("test_convnext"))
    load_backbone_weights(backbone, of_timm)  # which has no norms at the end
    np.testing.assert_array_equal(backbone.get_layer("encoder_stem_0").get_weights()[1], of_timm["stem.0.bias"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "tf"}, r"^form='tf': must be 'smp' or 'transformers'"),
        ({"backbone": "resnet18"}, r"^form='transformers': backbone resnet18 has no such form; .*mit_b0"),
        ({"backbone": "convnext_atto"}, r"^form='transformers': backbone convnext_atto has no such form"),
        ({"drop_path": 1.0}, r"^drop_path=1.0: must be 0 or more, and less than 1"),
        ({"backbone": "resnet18", "form": "smp", "drop_path": 0.1}, r"^drop_path=0.1: backbone resnet18 has no blocks to drop"),
        ({"dropout": 1.0}, r"^dropout=1.0: must be 0 or more"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(KsegError, match=message):
        build_model("segformer", **{"backbone": "test_mit", "num_classes": 3, "form": "transformers"} | options)


# --- Training -------------------------------------------------------------------------------------------------------------------


@each_backbone
def test_chance_takes_part_in_training_alone_and_not_in_a_frozen_backbone(backbone, rng):
    model = build(backbone, drop_path=0.5)
    images = rng.normal(size=(2, 32, 32, 3)).astype("float32")
    encoder = model.get_layer("backbone")

    def features(training):
        return keras.ops.convert_to_numpy(encoder(images, training=training)["c5"])

    assert (features(True) != features(False)).any()
    encoder.frozen = True
    np.testing.assert_array_equal(features(True), features(False))


@pytest.mark.backends("jax")
@pytest.mark.parametrize("backbone", ["test_mit", "test_swin"])
def test_activations_can_be_recomputed(backbone):
    """The backward pass has recomputed segments; the same numbers are tested with other backbones. Nothing is compiled."""
    import jax

    with precision("mixed_bfloat16"):
        model = build(backbone)
    model.get_layer("backbone").remat = True

    def loss(values, state, images):
        logits = model.stateless_call(values, state, images, training=True)[0]
        assert logits.shape == (1, 47, 65, CLASSES) and logits.dtype == "float32"
        return logits.sum()

    values = [variable.value for variable in model.trainable_variables]
    state = [variable.value for variable in model.non_trainable_variables]
    program = jax.make_jaxpr(jax.grad(loss))(values, state, np.zeros((1, 47, 65, 3), "float32"))
    assert sum(equation.primitive.name in ("remat2", "checkpoint") for equation in program.eqns) > 6


# --- Sizes ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.backends
def test_swin_takes_any_size_on_every_backend(tmp_path, rng):
    """The size is known at run time only: on TensorFlow after the program is traced."""
    network, model = random_reference("test_swin"), build("test_swin")
    load_torch_weights(model, saved(network, tmp_path))
    images = rng.normal(size=(2, 75, 97, 3)).astype("float32")
    with torch.no_grad():
        expected = network(channels_first(images)).logits
    run = model.predict_on_batch
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        run = tf.function(lambda x: model(x), input_signature=[tf.TensorSpec([None, None, None, 3], "float32")])
    assert relative_error(run(images), channels_last(expected)) < 1e-4


FULL = {
    "mit_b0": 256, "mit_b5": 768, "convnext_tiny": 512, "convnext_large": 512, "swin_tiny": 512, "swin_large": 512,
}  # fmt: skip
"""Published sizes, with the channels of the decoder. benchmarks/parity.py compares all of them, with their numbers."""


@pytest.mark.parametrize("backbone", FULL)
def test_full_sizes_have_the_references_parameters(backbone):
    with torch.device("meta"):
        network = reference(backbone, classes=150, channels=FULL[backbone])
    with keras.device("meta"):
        model = build_model(
            model_of(backbone), backbone=backbone, num_classes=150, decoder_channels=FULL[backbone], form="transformers"
        )
    unused = sum(p.numel() for name, p in network.named_parameters() if name.startswith("backbone.swin.layernorm"))
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == sum(p.numel() for p in network.parameters()) - unused
