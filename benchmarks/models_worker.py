"""A worker of the table of models: counts parameters and operations, and times inference and a training step.

Answers each JSON line with another: {"count": {"backbone" or "model": name}}, {"prepare": [the fields of Work, ...]}, or
{"time": kind, "steps": n} for n steps of what was prepared last.
"""

import gc
import json
import math
import sys
from typing import Any

from benchmarks.process import answer, release
from benchmarks.speed_worker import KSEG_WITHOUT, run_steps
from benchmarks.steps import Step, Work, kseg_step, torch_step
from kseg.utils.system import without

COUNTED = (512, 512)
"""The size of the images whose operations are counted."""


def main(settings: dict[str, Any]) -> None:
    """Runs the worker. settings: "worker" ("kseg" or "eager")."""
    ours = settings["worker"] == "kseg"
    with without(*(KSEG_WITHOUT if ours else ())):
        answer({})
        steps: dict[str, Step] = {}
        for line in sys.stdin:
            request = json.loads(line)
            try:
                if "count" in request:
                    answer(count(**request["count"]))
                elif "prepare" in request:
                    steps.clear()
                    _forget(ours)
                    steps |= {work["kind"]: _step(Work(**work), ours) for work in request["prepare"]}
                    answer({kind: run_steps(step, 1) for kind, step in steps.items()})
                else:
                    answer({"seconds": run_steps(steps[request["time"]], request["steps"])})
            except Exception as error:
                answer({"failed": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"})


def count(backbone: str, model: str | None = None) -> dict[str, int]:
    """Returns the trainable parameters, and the operations for one image, of a backbone alone or of a model.

    JAX traces shapes: neither weights nor features are computed.
    """
    import jax

    from kseg.models.backbones.registry import BACKBONES
    from kseg.models.build import build_backbone, build_model
    from kseg.training.flops import count_flops

    counts: dict[str, int] = {}

    def build():
        if model is None:
            network = build_backbone(backbone, output_stride=max(BACKBONES[backbone].info["output_strides"]))
        else:
            network = build_model(model, num_classes=Work.num_classes, backbone=backbone)
        counts["parameters"] = sum(math.prod(variable.shape) for variable in network.trainable_variables)
        counts["flops"] = count_flops(network, COUNTED)
        return 0

    jax.eval_shape(build)
    return counts


def _step(work: Work, ours: bool) -> Step:
    """Returns a step that has run once, which compiles it or lets torch choose its kernels."""
    step = kseg_step(work) if ours else torch_step(work)
    run_steps(step, 1)
    return step


def _forget(ours: bool) -> None:
    """Frees the memory of the steps before."""
    if ours:
        import jax
        import keras

        keras.utils.clear_session()
        jax.clear_caches()
    gc.collect()
    release()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
