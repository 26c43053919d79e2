"""kseg.load: opens a trained model."""

import os
from collections.abc import Sequence

from kseg.api.architecture import Architecture
from kseg.api.messages import keyword_messages
from kseg.api.segmenter import Segmenter
from kseg.config.fields import parse_size
from kseg.data.label_map import check_class_names
from kseg.inference.source import Source, find_source
from kseg.utils.errors import KsegError


def load(
    source: str | os.PathLike[str],
    *,
    class_names: Sequence[str] | None = None,
    image_size: int | str | tuple[int, int] | None = None,
) -> Segmenter:
    """Opens a trained model.

    Args:
        source: a run directory, a .keras file, a model folder (of Segmenter.save, kseg.hub, smp or transformers), a folder of
            kseg.export (to predict and evaluate only), or hf://owner/name[@revision].
        class_names: for a .keras file that does not record them, which otherwise are "class 0", "class 1", ....
        image_size: (height, width) of the network's input, where the source does not record it.

    Returns:
        A Segmenter. Of a run that was stopped, it has the best epoch's model, or else the last checkpoint's.

    Raises:
        KsegError: for what is no trained model of kseg; the message says what it is.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise KsegError(f"source: expected a path or hf://owner/name, not a {type(source).__name__}")
    with keyword_messages():
        found = find_source(os.fspath(source), "source", exported=True)
        model = found.load()
        count = model.output.shape[-1]
        names = check_class_names(class_names) if class_names is not None else found.class_names
        names = names or tuple(f"class {number}" for number in range(count))
        if len(names) != count:
            raise KsegError(f"class_names: has {len(names)} names, and the model of {found.shown} has {count} classes")
        shape = tuple(model.input.shape[1:3])
        size = parse_size(image_size) if image_size is not None else found.image_size or (None if None in shape else shape)
        config = found.config
        return Segmenter.of_model(
            model,
            names,
            origin=found.name,
            architecture=_architecture(found),
            image_size=size,
            window=found.window if image_size is None else None,
            batch_size=None if config is None else config.batch_size,
            precision=_precision(found),
            credits=found.credits,
        )


def _architecture(source: Source) -> Architecture | None:
    described = source.info or source.config
    if described is None:
        return None
    stride, options = described.output_stride, source.model_options
    return Architecture(described.model, described.backbone, output_stride=stride, model_options=options)


def _precision(source: Source) -> str:
    if source.info is not None:
        return source.info.precision
    return "float32" if source.config is None else source.config.optimization.precision
