"""What a resumed run is told by its config.json and what by the flags of the moment."""

from collections.abc import Collection

from kseg.config import DeviceConfig, TrackingConfig, TrainConfig, flatten, leaves
from kseg.config.fields import build
from kseg.utils.errors import KsegError

MAY_CHANGE = {"resume", "run_dir", "data_dir", "cache"} | {
    item.name for group in (TrackingConfig, DeviceConfig) for item, _ in leaves(group)
}
"""Flags that decide neither the weights nor metrics.csv."""

OF_THE_MOMENT = {"coordinator", "num_processes", "process_id"}
"""Flags that say which process this is, and so are never taken from config.json: a run may go on with other processes."""


def resumed_config(config: TrainConfig, given: Collection[str] | None, stored: TrainConfig) -> TrainConfig:
    """Returns the stored config with what may change taken from the new one.

    given: names of the flags that were given; None: all of them. Raises KsegError if one of those decides what the run trains
    and is not as it was.
    """
    new, old = flatten(config), flatten(stored)
    for name in new if given is None else sorted(given):
        if name in MAY_CHANGE:
            old[name] = new[name]
        elif new[name] != old[name] and not (name == "backbone" and new[name] is None):
            raise KsegError(
                f"--{name}={new[name]}: the run in {config.run_dir} has {old[name]}; a resumed run keeps what decides "
                "its result: leave the flag out, or start another run"
            )
    return build(TrainConfig, old | {name: new[name] for name in OF_THE_MOMENT})
