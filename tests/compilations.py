"""What JAX compiles."""

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """Yields a list that grows, within, with the name of every function that JAX compiles or reads from its cache. On other
    backends it stays empty.
    """
    names: list[str] = []
    if keras.backend.backend() != "jax":
        yield names
        return
    import jax

    def listen(event, duration, fun_name=None, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
