"""Lists the functions that JAX compiles."""

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """Yields a list. Inside the block, JAX appends the name of every function that it compiles or reads from its cache.

    On other backends the list stays empty.
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
