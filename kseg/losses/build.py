"""Builds a loss from the value of --loss: a weighted sum such as "ce+0.5*dice" or "focal(gamma=3)+lovasz"."""

import ast
import inspect
import re
from typing import Any

import keras

from kseg.data.dataset import IGNORE_INDEX
from kseg.losses.keras_losses import LOSSES, WeightedSum
from kseg.losses.reduction import ClassWeights
from kseg.utils.errors import KsegError, suggest

_EXAMPLES = "such as ce, ce+0.5*dice or focal(gamma=3)+2*tversky(alpha=0.3,beta=0.7)"


def build_loss(
    expression: str,
    *,
    ignore_index: int = IGNORE_INDEX,
    class_weights: ClassWeights = None,
    label_smoothing: float = 0.0,
) -> keras.losses.Loss:
    """Builds the Keras loss of (labels [B, H, W], logits [B, H, W, C]) that an expression describes.

    expression: terms joined by "+", each NAME, NAME(parameter=value, ...) or weight*NAME(...), with a weight above 0. The names
    are those of LOSSES, the parameters those of their functions.
    ignore_index, class_weights: for every term; see kseg.losses.reduction.
    label_smoothing: for each term that has the parameter and does not set it.

    Raises KsegError for the first mistake in the expression.
    """
    try:
        terms = [_read_term(node) for node in _terms(expression)]
        smoothed = [name for name, _, _ in terms if "label_smoothing" in _parameters(name)]
        losses = []
        for name, parameters, _ in terms:
            given = {"label_smoothing": label_smoothing} if label_smoothing and name in smoothed else {}
            losses.append(_build_term(name, given | parameters, ignore_index, class_weights))
    except KsegError as error:
        raise KsegError(f"--loss={expression}: {error}") from None
    if label_smoothing and not smoothed:
        raise KsegError(f"--label_smoothing={label_smoothing}: --loss={expression} has no cross entropy to smooth (ce or ohem)")
    weights = [weight for _, _, weight in terms]
    return losses[0] if weights == [1] else WeightedSum(losses, weights)


def _terms(expression: str) -> list[ast.expr]:
    """Returns the terms of the sum, from left to right. The grammar is a subset of Python's, so Python's parser reads it."""
    text = expression.strip()
    if not text:
        raise KsegError(f"is empty; give a sum of losses, {_EXAMPLES}")
    if re.search(r"^\+|\+\s*\+|\+$", text):
        raise KsegError(f'has an empty part before or after a "+"; give a sum of losses, {_EXAMPLES}')
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise KsegError(f"cannot be read; give a sum of losses, {_EXAMPLES}") from None
    terms = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        terms.append(node.right)
        node = node.left
    return [node, *reversed(terms)]


def _read_term(node: ast.expr) -> tuple[str, dict[str, Any], float]:
    """Returns (name, parameters, weight) of weight*name(parameter=value, ...)."""
    weight = 1.0
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        text, value = ast.unparse(node.left), _literal(node.left)
        if not _is_number(value):
            raise KsegError(f"the weight {text!r} is not a number; write it before the loss, such as 0.5*dice")
        if not 0 < value < float("inf"):
            raise KsegError(f"the weight {text} must be more than 0 and finite; leave out a loss that should not count")
        weight, node = float(value), node.right
    call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
    if not isinstance(call.func, ast.Name):
        raise KsegError(f"{ast.unparse(node)!r} is not a loss; give a sum of losses, {_EXAMPLES}")
    name = call.func.id
    known = _parameters(name)
    if call.args:
        text = ", ".join(map(ast.unparse, call.args))
        example = next(iter(known))
        raise KsegError(f"{name}({text}): give its parameters by name, such as {name}({example}={known[example]})")
    parameters: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg not in known:
            raise KsegError(f"{name} has no parameter {str(keyword.arg)!r}{suggest(str(keyword.arg), known)}")
        parameters[keyword.arg] = _value(name, keyword, known[keyword.arg])
    return name, parameters, weight


def _value(name: str, keyword: ast.keyword, default: Any) -> Any:
    """Returns the value of a parameter, which must have the type of its default."""
    value = _literal(keyword.value)
    if isinstance(default, bool):
        right, what = isinstance(value, bool), "True or False"
    elif isinstance(default, int):
        right, what = isinstance(value, int) and not isinstance(value, bool), "a whole number"
    else:
        right, what = _is_number(value), "a number"
    if not right:
        raise KsegError(f"{name}({keyword.arg}={ast.unparse(keyword.value)}): must be {what}")
    return value if isinstance(default, int) else float(value)


def _build_term(name: str, parameters: dict[str, Any], ignore_index: int, class_weights: ClassWeights) -> Any:
    try:
        return LOSSES[name].build(ignore_index, class_weights, **parameters)
    except KsegError as error:
        raise KsegError(f"{name}: {error}") from None


def _parameters(name: str) -> dict[str, Any]:
    """Returns a loss's parameters with their defaults. Raises KsegError for an unknown loss."""
    signature = inspect.signature(LOSSES[name].build)
    shared = ("ignore_index", "class_weights", "name")
    return {key: value.default for key, value in signature.parameters.items() if key not in shared}


def _literal(node: ast.expr) -> Any:
    """Returns the value of a literal, or None for anything else. true and false, as in flags, are literals too."""
    if isinstance(node, ast.Name) and node.id in ("true", "false"):
        return node.id == "true"
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
