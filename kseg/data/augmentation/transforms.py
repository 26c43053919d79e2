"""Parses --augment: a preset, a list of albumentations transforms with arguments, or a file that albumentations wrote.

Lists and files are data, not code: arguments are literals, and names are those of albumentations' transforms, so that nothing
else can be built or run. Both become the nested dicts of A.to_dict ("__class_fullname__", arguments), then transforms.
"""

import ast
import inspect
import json
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from kseg.data.augmentation.elastic import ElasticTransform
from kseg.data.augmentation.presets import PRESETS, A
from kseg.data.dataset import IGNORE_INDEX
from kseg.utils.errors import KsegError, suggest

MAX_FILE = 2**20
"""Largest file of transforms, in bytes."""
_MAX_DEPTH = 8  # of transforms within OneOf within Sequential ...
_NAME = "__class_fullname__"
_REFUSED = {
    **dict.fromkeys(
        ("Normalize", "ToFloat", "FromFloat"),
        "the model's first layer normalises, and takes images in 0..255",
    ),
    **dict.fromkeys(("ToTensorV2", "ToTensor3D"), "images stay uint8 [H, W, 3] until the model"),
    **dict.fromkeys(
        ("FDA", "HistogramMatching", "PixelDistributionAdaptation", "Mosaic", "OverlayElements", "TextImage"),
        "it needs other images or texts, which kseg does not pass",
    ),
    **dict.fromkeys(
        ("BBoxSafeRandomCrop", "AtLeastOneBBoxRandomCrop", "RandomCropNearBBox", "RandomSizedBBoxSafeCrop"), "it needs boxes"
    ),
    **dict.fromkeys(("FrequencyMasking", "TimeMasking"), "it is for spectrograms; XYMasking does the same to images"),
    **dict.fromkeys(("Lambda", "ReplayCompose"), "it cannot be built from text"),
    "ToRGB": "images are RGB already",
    "Morphological": "on label maps it would prefer classes by their index",
}
_LABEL_INTERPOLATIONS = (None, cv2.INTER_NEAREST, cv2.INTER_NEAREST_EXACT)
_ADVICE = ("special case of", "specialized version of", "is an alias for", "is very slow")  # parts of warnings to ignore
_build_lock = threading.Lock()  # warnings.catch_warnings changes the state of the whole process


def _classes() -> Iterator[tuple[str, type]]:
    for name in dir(A):
        value = getattr(A, name)
        if not isinstance(value, type) or inspect.isabstract(value) or issubclass(value, A.Transform3D):
            continue
        groups = (A.Compose, A.OneOf, A.OneOrOther, A.SomeOf, A.Sequential)
        if issubclass(value, (A.ImageOnlyTransform, A.DualTransform, *groups)):
            yield name, value


TRANSFORMS: dict[str, type] = {
    **{name: value for name, value in _classes() if name not in (*_REFUSED, "DualTransform", "ImageOnlyTransform")},
    "ElasticTransform": ElasticTransform,
}
"""Transforms that lists and files may name."""


@dataclass(frozen=True)
class Recipe:
    """Names of presets, and transforms in the form of A.to_dict. Plain data, which can be compared and pickled.

    where: the name of the text or file in messages.
    """

    steps: tuple[str | dict[str, Any], ...]
    where: str

    def build(self, height: int, width: int) -> list[Any]:
        """Returns new transforms for an input size. Raises KsegError if an argument is wrong."""
        transforms: list[Any] = []
        for step in self.steps:
            transforms += PRESETS[step].build(height, width) if isinstance(step, str) else [_build(step, self.where)]
        return transforms


def read_transforms(augment: str) -> Recipe:
    """Parses --augment: a preset's name ("aug"), a list ("aug,ElasticTransform(alpha=300, p=0.2)") or a file (.json, .yaml).

    Raises:
        KsegError: for anything else, with similar names; for a transform that kseg cannot use, with the reason.
    """
    if augment.lower().endswith((".json", ".yaml", ".yml")):
        recipe = Recipe(_steps(_read_file(Path(augment).expanduser(), augment), augment), augment)
    elif augment.isidentifier() and augment not in (*TRANSFORMS, *_REFUSED):
        PRESETS[augment]  # raises if there is no such preset
        return Recipe((augment,), f"--augment={augment}")
    else:
        recipe = Recipe(tuple(_read_list(augment)), f"--augment={augment}")
    recipe.build(64, 64)  # so that mistakes are found now
    return recipe


def to_dict(transform: Any) -> dict[str, Any]:
    """Returns A.to_dict(transform), with the name of albumentations' ElasticTransform instead of kseg's."""
    text = json.dumps(A.to_dict(transform))
    own = ElasticTransform.get_class_fullname()
    return json.loads(text.replace(f'"{own}"', '"ElasticTransform"'))


def _read_list(text: str) -> Iterator[str | dict[str, Any]]:
    where = f"--augment={text}"
    try:
        tree = ast.parse(f"[{text}]", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise KsegError(f"{where}: give a preset, a file, or transforms such as HorizontalFlip(p=0.5),GaussianBlur()") from None
    if not isinstance(tree, ast.List) or not tree.elts:
        raise KsegError(f"{where}: give transforms such as HorizontalFlip(p=0.5),GaussianBlur()")
    for node in tree.elts:
        if isinstance(node, ast.Name) and node.id in PRESETS:
            yield node.id
        else:
            yield _from_call(node, where)


def _from_call(node: ast.expr, where: str) -> dict[str, Any]:
    """Parses a transform: a name, or a call with literal arguments. Inner transforms are in a list, as in Python."""
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    if not isinstance(call.func, ast.Name):
        raise KsegError(f"{where}: {ast.unparse(node)} is not a transform; write it as in HorizontalFlip(p=0.5)")
    made: dict[str, Any] = {_NAME: call.func.id}
    if call.args:
        inner = call.args[0]
        if len(call.args) > 1 or not isinstance(inner, ast.List):
            raise KsegError(f"{where}: give the arguments of {call.func.id} by name, as in HorizontalFlip(p=0.5)")
        made["transforms"] = [_from_call(part, where) for part in inner.elts]
    for keyword in call.keywords:
        if keyword.arg == "transforms" and isinstance(keyword.value, ast.List):
            made["transforms"] = [_from_call(part, where) for part in keyword.value.elts]
            continue
        try:
            made[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            value = ast.unparse(keyword.value)
            raise KsegError(f"{where}: {call.func.id}({keyword.arg}={value}): write the value as a literal") from None
    return made


def _read_file(path: Path, shown: str) -> dict[str, Any]:
    """Returns the "transform" of a file that A.save wrote."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise KsegError(f"--augment={shown}: cannot be read ({error.strerror}); check the path") from None
    if len(content) > MAX_FILE:
        raise KsegError(f"--augment={shown}: is larger than {MAX_FILE} bytes; give a file that albumentations.save wrote")
    try:
        if path.suffix.lower() == ".json":
            values = json.loads(content)
        else:
            import yaml

            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(content, yaml.SafeLoader)):
                raise ValueError("it has aliases, which albumentations does not write")  # a few lines can expand to terabytes
            values = yaml.safe_load(content)
    except Exception as error:  # from json, yaml, the encoding, or the depth
        raise KsegError(
            f"--augment={shown}: cannot be read ({' '.join(str(error).split())}); write it with albumentations.save"
        ) from None
    transform = values.get("transform") if isinstance(values, dict) else None
    if not isinstance(transform, dict):
        raise KsegError(f'--augment={shown}: has no "transform"; write it with albumentations.save(transform, file)')
    return transform


def _steps(transform: dict[str, Any], where: str) -> tuple[dict[str, Any], ...]:
    """Unpacks a file's outermost Compose, so that its transforms draw the same random numbers as on their own."""
    inner = transform.get("transforms")
    if str(transform.get(_NAME)).rsplit(".", 1)[-1] == "Compose" and transform.get("p", 1) == 1 and isinstance(inner, list):
        _check_compose(transform, where)
        return tuple(inner)
    return (transform,)


def _check_compose(arguments: dict[str, Any], where: str) -> None:
    if arguments.get("bbox_params") or arguments.get("keypoint_params") or arguments.get("additional_targets"):
        raise KsegError(
            f"{where}: Compose has boxes, keypoints or additional targets; remove them: kseg has images and labels only"
        )


def _build(step: Any, where: str, depth: int = 0) -> Any:
    """Builds a transform and those inside it. Labels keep their values, and pixels from outside the image are ignored."""
    name = str(step.get(_NAME)).rsplit(".", 1)[-1] if isinstance(step, dict) else None
    if name is None or depth > _MAX_DEPTH:
        raise KsegError(
            f"{where}: is not a transform as albumentations.save writes it ({str(step)[:60]}); write the file with it"
        )
    if name in _REFUSED:
        raise KsegError(f"{where}: {name} cannot be used: {_REFUSED[name]}; remove it")
    if name not in TRANSFORMS:
        raise KsegError(f"{where}: unknown transform {name!r}{_close(name, TRANSFORMS)}")
    kind = TRANSFORMS[name]
    parameters = inspect.signature(kind).parameters
    arguments = {key: value for key, value in step.items() if key != _NAME}
    if issubclass(kind, A.Compose):
        _check_compose(arguments, where)
        kind, parameters = A.Sequential, inspect.signature(A.Sequential).parameters
        arguments = {"transforms": arguments.get("transforms"), "p": arguments.get("p", 1.0)}
    for key in arguments:
        if key not in parameters:
            raise KsegError(f"{where}: {name} has no argument {key!r}{_close(key, set(parameters) - {'self'})}")
    if "transforms" in parameters:
        inner = arguments.get("transforms")
        if not isinstance(inner, list) or not inner:
            raise KsegError(f"{where}: {name} needs a list of transforms, as in {name}([Blur(), HorizontalFlip()])")
        arguments["transforms"] = [_build(part, where, depth + 1) for part in inner]
    if arguments.get("mask_interpolation") not in _LABEL_INTERPOLATIONS:
        raise KsegError(f"{where}: {name}: labels are resampled by nearest neighbour only; remove mask_interpolation")
    if "fill_mask" in parameters and arguments.get("fill_mask", parameters["fill_mask"].default) is not None:
        arguments["fill_mask"] = IGNORE_INDEX  # A.save also writes the default 0, which would be class 0
    return _make(kind, name, arguments, where)


def _make(kind: type, name: str, arguments: dict[str, Any], where: str) -> Any:
    """Builds a transform. An error or a warning of albumentations becomes a KsegError."""
    with _build_lock, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            made = kind(**arguments)
        except Exception as error:  # from pydantic or the class itself
            raise KsegError(f"{where}: {name}: {_reason(error)}") from None
    for warning in caught:
        if not any(advice in str(warning.message) for advice in _ADVICE):
            raise KsegError(f"{where}: {name}: {_reason(warning.message)}")
    return made


def _reason(error: Any) -> str:
    """Returns pydantic's report on one line, without its links."""
    lines = [line.split(" [type=")[0].strip() for line in str(error).splitlines() if "errors.pydantic.dev" not in line]
    return " ".join(line for line in lines if "validation error" not in line).replace("Value error, ", "").rstrip(".")


def _close(name: str, known: Any) -> str:
    """Returns similar names, or a hint where none of a hundred names is similar."""
    text = suggest(name, known)
    return text if "did you mean" in text or len(known) < 20 else "; see albumentations' documentation for all of them."
