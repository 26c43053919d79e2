"""While a step computes, the next batch is sent to the device, and nothing waits for the step's results."""

import keras
import pytest

if keras.backend.backend() != "jax":
    pytest.skip("how Keras feeds JAX", allow_module_level=True)

import itertools

import jax
import tiny_model
from keras.src.backend.jax import trainer

from kseg import train


class OnAnAccelerator:
    """The module jax as it is with an accelerator: on a CPU, Keras's trainer sends no batch ahead."""

    def __getattr__(self, name):
        return getattr(jax, name)

    def default_backend(self):
        return "gpu"


@pytest.fixture
def events(monkeypatch):
    """The events in order: ("sent", id) when a batch is sent to the device, ("step", id) when its step is dispatched."""
    happened, alive = [], []

    def send(batch, layouts=None):
        sent = distribute(batch, layouts)
        happened.append(("sent", id(sent[0])))
        alive.append(sent)  # so that no other gets its id
        return sent

    def make_train_function(model, force=False):
        def step(state, iterator):
            def batches():
                for batch in iterator:
                    happened.append(("step", id(batch[0])))
                    yield batch

            return compiled(state, batches())

        make(model, force)
        compiled, model.train_function = model.train_function, step

    distribute, make = trainer._distribute_data, trainer.JAXTrainer.make_train_function
    monkeypatch.setattr(trainer, "jax", OnAnAccelerator())
    monkeypatch.setattr(trainer, "_distribute_data", send)
    monkeypatch.setattr(trainer.JAXTrainer, "make_train_function", make_train_function)
    return happened


def test_the_next_batch_is_sent_before_a_step_begins(tiny_coco, tmp_path, events):
    train.main(tiny_model.flags(tiny_coco, tmp_path / "run", "--epochs=1", "--batch_size=2"))
    steps = [batch for kind, batch in events if kind == "step"]
    assert len(steps) == 4
    for batch, following in itertools.pairwise(steps):
        assert events.index(("sent", following)) < events.index(("step", batch))
