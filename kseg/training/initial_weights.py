"""The weights that a run starts from: of its backbone (--backbone_weights), or of a whole model (--init)."""

import dataclasses
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras

from kseg.config import TrainConfig, flatten
from kseg.inference.source import EXPECTED, Source, find_source
from kseg.models.backbones.registry import BACKBONES, find_backbone, has_weights
from kseg.models.build import build_model
from kseg.models.credits import NO_CREDITS, Credits
from kseg.models.model_folder import is_model_folder, normalization_of
from kseg.models.options import read_options
from kseg.models.package_files import describe, is_installed
from kseg.models.pretrained import TORCH_FILES, find_weights
from kseg.models.pytorch.load import count_classes, load_torch_weights, read_state_dict
from kseg.models.registry import MODELS
from kseg.models.transfer import Transfer, transfer_weights
from kseg.utils.errors import KsegError

REAL_BACKBONE = "keras_cv/resnet50"
"""Backbone on real data of a model whose own is one of keras-cv's without ImageNet weights."""
_LISTED = 8  # classes


def registered_backbone(config: TrainConfig, output_stride: int | None, model: str) -> TrainConfig:
    """Returns the config with the registered name of its backbone, which may have smp's.

    output_stride: of the model to be built; None for the default of `model`.
    """
    if config.backbone is None:
        return config
    stride = output_stride or MODELS[model].info["output_stride"]
    return dataclasses.replace(config, backbone=find_backbone(config.backbone, stride))


def settle_weights(config: TrainConfig, given: Collection[str] | None = None) -> TrainConfig:
    """Returns the config with the model, the backbone and its weights filled in. Loads no weights.

    given: names of the flags that were given; None: those that differ from their defaults. Raises KsegError for an --init that is
    missing, or that is another model than the flags say.
    """
    if config.init is not None:
        return _settle_init(config, given)
    config = registered_backbone(config, config.output_stride, config.model)
    real = config.data.dataset != "synthetic"
    backbone, weights = config.backbone or _default_backbone(config.model, real), config.backbone_weights
    if weights == "auto":
        # A model given from Python has all weights.
        weights = "imagenet" if real and has_weights(backbone, "imagenet") and not config.python.initial_model else "none"
    return dataclasses.replace(config, backbone=backbone, backbone_weights=weights)


def _default_backbone(model: str, real: bool) -> str:
    own = MODELS[model].info["backbone"]
    return REAL_BACKBONE if real and own.startswith("keras_cv/") and not has_weights(own, "imagenet") else own


def check_weights(config: TrainConfig) -> None:
    """Downloads the weights of a settled config's backbone. Raises KsegError if that fails. keras-cv's are loaded later."""
    if config.backbone_weights == "none" or config.init is not None:
        return
    assert config.backbone is not None  # settled
    try:
        find_weights(config.backbone, config.backbone_weights)
    except KsegError as error:
        raise KsegError(f"{error}; to train from scratch, pass --backbone_weights=none") from None


def describe_weights(config: TrainConfig) -> str:
    """Returns what a settled config starts from, in one line."""
    tag, backbone = config.backbone_weights, config.backbone
    assert backbone is not None  # settled
    if config.python.initial_model is not None:
        return f"{config.python.initial_model.partition(':')[2]}: this run goes on from them"
    if config.init is not None:
        return config.init
    info = BACKBONES[backbone].info
    if tag == "none":
        lacking = config.data.dataset != "synthetic" and not has_weights(backbone, "imagenet")
        return f"none: {f'{backbone} has no ImageNet weights, so it starts ' if lacking else ''}from scratch"
    name = tag.replace("-", "_")
    if hub := info.get("weights", {}).get(name):
        if hub.package is not None and is_installed(hub.package):
            return f"{tag} ({describe(hub.package)})"
        return f"{tag} ({hub.repo}, revision {(hub.revision or 'main')[:8]})"
    return f"{tag} (a preset of keras-cv)" if name in info.get("presets", {}) else tag


# --- Whole models ---------------------------------------------------------------------------------------------------------------


def _settle_init(config: TrainConfig, given: Collection[str] | None) -> TrainConfig:
    default, values, name = flatten(TrainConfig()), flatten(config), config.init
    assert name is not None
    for flag in ("backbone_weights", "double_normalization"):
        if values[flag] not in (default[flag], "none"):
            raise KsegError(f"--{flag}={values[flag]}: --init={name} has all weights and its own normalisation; leave one out")
    source = _find(name)
    known = {} if isinstance(source, Path) else _architecture(source)
    if not known and given is not None and "model" not in given:
        raise KsegError(f"--init={name}: does not record its architecture; name it with --model and --backbone")
    config = registered_backbone(config, config.output_stride or known.get("output_stride"), known.get("model", config.model))
    values["backbone"] = config.backbone
    for flag in ("model", "backbone", "model_options"):
        is_given = values[flag] != default[flag] if given is None else flag in given and values[flag] is not None
        if flag in known and is_given and values[flag] != known[flag]:
            raise KsegError(
                f"--{flag}={values[flag]}: --init={name} has {known[flag] or 'none'}, which its weights need; leave --{flag} out"
            )
    size = None if isinstance(source, Path) else source.image_size
    is_given = values["image_size"] != default["image_size"] if given is None else "image_size" in given
    return dataclasses.replace(
        config,
        model=known.get("model", config.model),
        backbone=known.get("backbone") or config.backbone or MODELS[config.model].info["backbone"],
        output_stride=config.output_stride or known.get("output_stride"),
        model_options=known.get("model_options", config.model_options),
        backbone_weights="none",
        image_size=config.image_size if is_given or size is None else size,
    )


def initial_source(config: TrainConfig) -> Source | None:
    """Returns the trained model of --init; None without --init, or for a PyTorch checkpoint."""
    found = None if config.init is None else _find(config.init)
    return found if isinstance(found, Source) else None


def _find(name: str) -> Source | Path:
    """Returns the trained model, or a PyTorch checkpoint's path."""
    path = Path(name)
    if not name.startswith("hf://") and path.suffix in TORCH_FILES:
        if not path.is_file():
            raise KsegError(f"--init={name}: no such file; name {EXPECTED}, or a PyTorch checkpoint")
        if path.suffix == ".safetensors" and is_model_folder(path.parent):
            raise KsegError(f"--init={name}: is part of a model folder; pass --init={path.parent}")
        return path
    return find_source(name, "--init")


def _architecture(source: Source) -> dict[str, Any]:
    """Returns model, backbone, output stride and options by flag; nothing if the source does not record them."""
    described = source.info or source.config
    if described is None:
        return {}
    known = {name: getattr(described, name) for name in ("model", "backbone", "output_stride")}
    return {**known, "model_options": source.model_options}


@dataclass
class InitialModel:
    """A whole model that a run starts from.

    name: for messages. load: returns the model from images to logits; None for a resumed run, whose checkpoint has the weights.
    class_names: None if unknown. normalization: (mean, std) of the model, None if it does not normalise. credits: its base model.
    transfer: what initialize did.
    """

    name: str
    load: Callable[[], keras.Model] | None
    class_names: tuple[str, ...] | None
    normalization: Any
    credits: Credits = NO_CREDITS
    transfer: Transfer | None = None

    @classmethod
    def of_model(
        cls, model: keras.Model, name: str, class_names: tuple[str, ...] | None = None, credits: Credits = NO_CREDITS
    ) -> "InitialModel":
        """Wraps a model in memory."""
        return cls(name, lambda: model, class_names, normalization_of(model), credits)

    @classmethod
    def of_run(cls, text: str) -> "InitialModel":
        """Reads what to_json wrote, for a resumed run. Raises KsegError for other text."""
        try:
            content = json.loads(text)
            normalization = content["normalization"]
            return cls(content["source"], None, None, normalization and tuple(map(tuple, normalization)))
        except (ValueError, TypeError, KeyError):
            raise KsegError("initial_weights.json of the run directory is damaged; start another run") from None

    def to_json(self) -> str:
        """Returns the text of initial_weights.json."""
        assert self.transfer is not None
        names = self.class_names and list(self.class_names)
        content = {"source": self.name, "class_names": names, "normalization": self.normalization}
        return json.dumps({**content, **self.credits.members(), **dataclasses.asdict(self.transfer)}, indent=1) + "\n"

    def initialize(self, model: keras.Model, class_names: Sequence[str], rebuild: Callable[[int], keras.Model]) -> None:
        """Copies the weights to a model of the same architecture, which classes of the same name share.

        rebuild: builds the model with another number of classes. Raises KsegError if the architectures differ.
        """
        if self.load is None:
            return
        try:
            self.transfer = transfer_weights(self.load(), model, self.class_names, class_names, rebuild)
            self.load = None  # frees the model
        except KsegError as error:
            hint = "" if self.class_names else "; say with --model, --backbone and --output_stride what it is"
            raise KsegError(f"--init={self.name}: {error}{hint}") from None

    def lines(self, classes: int) -> list[str]:
        """Returns lines that say what was loaded, kept and made anew; none for a resumed run. classes: of the run."""
        if (done := self.transfer) is None:
            return []
        if not done.head:
            same = "" if done.by_name else f"; it does not name its {classes} classes, which are taken for these"
            return [f"loaded  all {done.copied} weights{same}"]
        layers = ", ".join(done.head)
        if not done.kept:
            return [f"loaded  {done.copied} weights; made anew for other classes: {layers}"]
        lines = [f"loaded  {done.copied} weights, and the rows of classes of the same name in {layers}"]
        parts = (("kept", done.kept), ("new", done.new), ("left out", done.dropped))
        return [*lines, "classes " + "; ".join(f"{what} {_listed(names)}" for what, names in parts if names)]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} ({', '.join(names[:_LISTED])}{more})"


def open_initial(config: TrainConfig) -> InitialModel | None:
    """Loads the model of a settled config's --init; None without. Raises KsegError if it cannot be loaded."""
    if config.init is None:
        return None
    source = _find(config.init)
    model = _torch_model(config, source) if isinstance(source, Path) else source.load()
    if isinstance(source, Path):
        return InitialModel.of_model(model, config.init)
    return InitialModel.of_model(model, config.init, source.class_names, source.credits)


def _torch_model(config: TrainConfig, path: Path) -> keras.Model:
    state = read_state_dict(path)
    try:
        build = partial(
            build_model,
            config.model,
            backbone=config.backbone,
            output_stride=config.output_stride,
            **read_options(config.model, config.model_options),
        )
        model = build(num_classes=count_classes(state))
        load_torch_weights(model, state)
    except KsegError as error:
        raise KsegError(f"--init={path}: {error}") from None
    return model
