"""Merges the config of a stopped run with the flags of the command that resumes it."""

from collections.abc import Collection

from kseg.config import DeviceConfig, TrackingConfig, TrainConfig, flatten
from kseg.config.fields import build, flag_names
from kseg.utils.errors import KsegError

MAY_CHANGE = {"resume", "run_dir", "data_dir", "cache", "callbacks"}.union(
    *(flag_names(group) for group in (TrackingConfig, DeviceConfig))
)
"""Flags that affect neither the weights nor metrics.csv."""

_UNSETTLED = {"backbone": None, "backbone_weights": "auto", "output_stride": None}
"""Values that config.json has settled."""

PER_PROCESS = {"coordinator", "num_processes", "process_id"}
"""Flags that identify this process. They are never taken from config.json: the processes of a resumed run may be others."""


def resumed_config(config: TrainConfig, given: Collection[str] | None, stored: TrainConfig) -> TrainConfig:
    """Returns the stored config with the flags that may change taken from the new one.

    given: names of the flags that were given; None: all. Raises KsegError if one of those affects the result and differs from
    the stored run.
    """
    new, old = flatten(config), flatten(stored)
    for name in new if given is None else sorted(given):
        if name in MAY_CHANGE:
            old[name] = new[name]
        elif new[name] != old[name] and new[name] != _UNSETTLED.get(name, old[name]):
            further = f" from its model, with --init={config.run_dir}" if name == "epochs" else ""
            raise KsegError(
                f"--{name}={new[name]}: the run in {config.run_dir} has {old[name]}, and a resumed run keeps what affects its "
                f"result; leave the flag out, or start another run{further}"
            )
    return build(TrainConfig, old | {name: new[name] for name in PER_PROCESS})
