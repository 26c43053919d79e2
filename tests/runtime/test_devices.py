"""The flags for many devices, on each backend: test_backends.py runs this file on the others too."""

import keras
import pytest

from kseg.config import DeviceConfig
from kseg.runtime.distribution import check_batch, data_parallel, device_count
from kseg.runtime.hosts import connect
from kseg.utils.errors import KsegError

pytestmark = pytest.mark.backends


@pytest.mark.backends("jax")
def test_jax_divides_batches():
    import jax

    with data_parallel("data_parallel"):
        assert device_count() == jax.device_count()
        check_batch("data_parallel", 4 * jax.device_count())
    assert device_count() == 1


@pytest.mark.backends("tensorflow", "torch")
@pytest.mark.parametrize(
    ("call", "flag"),
    [
        (lambda: data_parallel("data_parallel"), "--distribution=data_parallel"),
        (lambda: check_batch("data_parallel", 8), "--distribution=data_parallel"),
        (lambda: connect(DeviceConfig(distribution="data_parallel", coordinator="auto")), "--coordinator=auto"),
    ],
)
def test_other_backends_say_what_they_cannot(call, flag):
    with pytest.raises(KsegError) as error:
        call()
    assert str(error.value) == f"{flag}: needs KERAS_BACKEND=jax; on {keras.backend.backend()} kseg computes on one device"


def test_one_device_is_what_every_backend_has():
    with data_parallel("none"):
        assert device_count() == 1
        check_batch("none", 7)
