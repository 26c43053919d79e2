"""Every network of cases.py by property: outputs and a training step as the PyTorch baseline's, gradients everywhere, a file that
loads, odd sizes, float32 logits.

On torch, where nothing is compiled, all of them run; on JAX and TensorFlow those whose case names the backend. test_backends.py
starts the other backends.
"""

import os
from pathlib import Path

import keras
import numpy as np
import pytest
from cases import ARCHITECTURES, BACKBONES, CASES, FILES, LARGE, PAIRS, TOLERANCES, network
from model_files import check_file, write_file
from parity import build_pair, evaluation_error, round_trip, training_errors

from kseg.losses import CrossEntropy
from kseg.models.backbones import keras_cv_tables, registry
from kseg.models.build import build_model
from kseg.models.registry import MODELS

BACKEND = keras.backend.backend()
pytestmark = [
    pytest.mark.backends,
    # smp points to its encoders of timm's form, which are other networks: the ones here are those its users trained.
    pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated:DeprecationWarning"),
]


def of(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def family(backbone):
    """The file that builds it, or keras-cv's class."""
    if backbone.startswith("keras_cv/"):
        return keras_cv_tables.BACKBONES[backbone.removeprefix("keras_cv/")][0].class_name
    build = registry.BACKBONES[backbone].build
    return getattr(build, "func", build).__module__


def test_the_table_has_every_model_and_every_family():
    assert len({case.name for case in CASES}) == len(CASES)
    assert sorted({case.model for case in FILES}) == ARCHITECTURES
    assert {family(case.backbone or MODELS[case.model].info["backbone"]) for case in FILES} == {family(b) for b in BACKBONES}
    compared = {network(case.backbone) for case in [*PAIRS, *LARGE] if not case.model}
    assert compared == {network(name) for name in BACKBONES if not name.startswith("keras_cv/")}


@pytest.mark.slow
@pytest.mark.parity
@of([case for case in PAIRS if BACKEND in case.backends])
def test_numbers_equal_the_baselines(case):
    baseline, model = build_pair(case)
    for size in case.test_sizes:
        assert evaluation_error(case, baseline, model, size) <= TOLERANCES["forward"], size
    if case.step and not case.model and BACKEND == "torch":  # of whole models: pytorch/test_torch_export.py
        assert round_trip(case, baseline, model)[1] == []
    if case.step and BACKEND != "tensorflow":
        errors = training_errors(case, baseline, model, case.test_sizes[0])
        for name in ("loss", "gradient", "statistics"):
            assert getattr(errors, name) <= TOLERANCES[name], name


# --- Files and gradients --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the run on torch puts the models' files and logits, which the other backends read."""
    return Path(os.environ.get("KSEG_TEST_MODELS") or tmp_path_factory.mktemp("models"))


def vary_constants(model: keras.Model) -> None:
    """What begins as a constant (biases, statistics, zero scores) would hide mistakes."""
    generator = np.random.default_rng(1)
    for variable in model.variables:
        value = keras.ops.convert_to_numpy(variable)
        if value.ndim and np.ptp(value) == 0 and "seed" not in variable.path:
            variable.assign(value + generator.uniform(0.05, 0.3, value.shape).astype(value.dtype))


def without_gradient(model: keras.Model) -> list[str]:
    """Paths of trainable variables whose gradient is zero (torch backend)."""
    found = model(np.random.default_rng(2).integers(0, 256, (4, 64, 64, 3)), training=True)
    labels = np.random.default_rng(3).integers(0, 3, (4, 64, 64))
    sum(CrossEntropy()(labels, y) for y in (found.values() if isinstance(found, dict) else [found])).backward()
    gradients = {v.path: v.value.grad for v in model.trainable_variables}
    return [path for path, gradient in gradients.items() if gradient is None or not gradient.any()]


if BACKEND == "torch":

    @pytest.mark.slow
    @of(FILES)
    def test_gradients_reach_every_variable_and_the_file_loads(case, folder):
        model = case.build()
        vary_constants(model)
        write_file(case, model, folder)
        # PAN's convolutions have a bias before batch norm: its gradient is 0 but for rounding.
        assert [path for path in without_gradient(model) if not path.endswith("_conv/bias")] == []
        check_file(case, folder)


if BACKEND == "tensorflow":

    @pytest.mark.slow
    @of(FILES)
    def test_a_file_of_torch_gives_the_same_logits(case, folder):
        check_file(case, folder)


# --- Shapes ---------------------------------------------------------------------------------------------------------------------

SIZES = ((32, 32), (33, 47), (64, 97))
LIGHT = {"segnet": "vgg11_bn"} | {f"fcn{stride}s": "vgg11" for stride in (8, 16, 32)}


def traced_logits(policy, name, sizes=SIZES, **options):
    """Shapes and dtypes of the logits at some sizes, with nothing computed: weights and maps are only traced."""
    import jax

    def forward():
        model = build_model(name, num_classes=3, **options)
        return [model(jax.numpy.zeros((2, *size, 3), "uint8"), training=True) for size in sizes]

    keras.config.set_dtype_policy(policy)
    try:
        return [(x.shape, str(x.dtype)) for x in jax.eval_shape(forward)]
    finally:
        keras.config.set_dtype_policy("float32")


if BACKEND == "jax":

    @pytest.mark.slow
    @pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_a_model_gives_float32_logits_of_the_images_size(name, policy):
        found = traced_logits(policy, name, backbone=LIGHT.get(name))
        assert found == [((2, *size, 3), "float32") for size in SIZES]

    @pytest.mark.slow
    @pytest.mark.parametrize("name", sorted({case.backbone for case in CASES if case.backbone and (case.step or case.file)}))
    def test_every_family_carries_a_decoder_at_odd_sizes_in_mixed_precision(name):
        stride = 32 if 32 in registry.BACKBONES[name].info["output_strides"] else 8
        found = traced_logits("mixed_bfloat16", "deeplabv3plus", [(33, 47)], backbone=name, output_stride=stride)
        assert found == [((2, 33, 47, 3), "float32")]
