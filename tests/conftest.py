"""Settings and fixtures that all tests share. The backend is JAX unless KERAS_BACKEND says otherwise."""

import atexit
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "XLA_FLAGS" not in os.environ:  # Compiling takes longer than computing here, so XLA optimizes little.
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    quicker = f"{os.environ['XLA_FLAGS']} --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    start = [sys.executable, "-c", "import jax; jax.devices('cpu')"]  # aborts if this jaxlib lacks one of the flags
    if subprocess.run(start, env={**os.environ, "XLA_FLAGS": quicker}, capture_output=True, check=False).returncode == 0:
        os.environ["XLA_FLAGS"] = quicker
if "PYTEST_XDIST_WORKER" in os.environ:  # Every core has a test process: more threads of torch would wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # The first process of the run; the others inherit it.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="kseg-tests-xla-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import keras
import numpy as np
import pytest
from PIL import Image
from torchvision_ops import declare_torchvision_ops

from kseg.runtime.main import GC_THRESHOLD
from kseg.runtime.xla_flags import order_for_memory

gc.set_threshold(*GC_THRESHOLD)
order_for_memory()  # as the commands that some tests start: then they share what is compiled

ROOT = Path(__file__).resolve().parent.parent
BACKEND = keras.backend.backend()
LONGEST = ["test_backends.py", "test_experiments.py", "test_resume.py", "test_distribution.py", "test_loop.py", "test_models.py"]


def pytest_collection_modifyitems(config, items) -> None:
    """Leaves out the tests marked for other backends. Starts the files that take longest first, so that no process works on
    one alone at the end.
    """
    others = [item for item in items if (mark := item.get_closest_marker("backends")) and BACKEND not in (mark.args or [BACKEND])]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def smp():
    """segmentation_models_pytorch, whose numbers kseg's must match."""
    declare_torchvision_ops()
    import segmentation_models_pytorch

    return segmentation_models_pytorch


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data sets camvid and facade: $KSEG_SHARED/data, or ../shared/data beside the checkout."""
    path = Path(os.environ.get("KSEG_SHARED", ROOT.parent / "shared")) / "data"
    if not path.is_dir():
        pytest.skip(f"the real data sets are not at {path}; set KSEG_SHARED to the folder that holds data/camvid and data/facade")
    return path


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="module", autouse=True)
def _forget():
    """Drops what a file's tests compiled; else the process would grow to many gigabytes."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def tiny_coco(tmp_path_factory) -> Path:
    """COCO data with 9 training and 5 validation images, 64x48 and 40x50: coloured rectangles on grey, a category a colour."""
    folder = tmp_path_factory.mktemp("tiny_coco")
    generator = np.random.default_rng(7)
    colours = {3: (220, 40, 40), 5: (40, 200, 60), 11: (50, 60, 230)}
    for split, count in (("train", 9), ("val", 5)):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "annotations").mkdir(exist_ok=True)
        images, annotations = [], []
        for i in range(count):
            height, width = (48, 64) if i % 2 == 0 else (50, 40)
            picture = generator.integers(90, 130, (height, width, 3)).astype("uint8")
            for category, colour in colours.items():
                top, left = (int(generator.integers(0, side - 20)) for side in (height, width))
                picture[top : top + 18, left : left + 18] = colour
                corners = [left, top, left + 18, top, left + 18, top + 18, left, top + 18]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i + 1,
                        "category_id": category,
                        "segmentation": [corners],
                        "iscrowd": 0,
                    }
                )
            name = f"{i:03d}.png"
            Image.fromarray(picture).save(folder / "images" / split / name)
            images.append({"id": i + 1, "file_name": name, "height": height, "width": width})
        categories = [{"id": category, "name": name} for category, name in zip(colours, ("red", "green", "blue"), strict=True)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return folder
