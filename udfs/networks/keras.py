"""Keras 3 on torch: an architecture as JSON -> a model, and nothing in the JSON is run as code."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

os.environ.setdefault("KERAS_BACKEND", "torch")  # read when keras is imported
import keras

from udfs.errors import NetworkError

_T = TypeVar("_T")

# Where the classes of an architecture may come from. Keras itself looks any module up that the JSON names.
_HOMES = (
    "keras", "keras.activations", "keras.constraints", "keras.initializers", "keras.layers", "keras.models", "keras.regularizers",
    "keras.src.models.functional", "keras.src.models.sequential",
)  # fmt: skip
_OPERATIONS = "keras.src.ops."
# Layers that hold code, pickles or the name of a file.
_REFUSED = (
    "Lambda", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer", "StringLookup", "IntegerLookup", "TextVectorization", "Hashing",
    "HashedCrossing", "Discretization", "FeatureSpace",
)  # fmt: skip
_PLAIN = ("__keras_tensor__", "__tuple__", "slice", "__ellipsis__")


def from_json(text: str) -> Any:
    """The model, with fresh parameters.

    Raises:
        NetworkError: the text is no architecture of Keras 3, or one with a class that could run code or read files.
    """
    try:
        read = json.loads(text)
    except ValueError as e:
        raise NetworkError(f"`architecture` is no JSON: {e}.") from e
    _check(read)
    if keras.config.backend() != "torch":
        raise NetworkError(f"Keras runs on {keras.config.backend()} here; set KERAS_BACKEND=torch before it is imported.")
    try:
        model = alone(lambda: keras.models.model_from_json(text))
    except Exception as e:
        raise NetworkError(f"Keras does not read `architecture`: {type(e).__name__}: {str(e)[:500]}") from e
    if not isinstance(model, keras.Model):
        raise NetworkError(f"`architecture` is a {type(model).__name__}; it takes what to_json() of a Keras model gives.")
    return model


def alone(make: Callable[[], _T]) -> _T:
    """Runs `make` where Keras has named nothing yet. Its count of names is a thread's own, and what the caller made keeps its names."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()


def rest(network: Any, fixed: set[int]) -> None:
    """Batch norms whose moving statistics are among the `fixed` tensors, by id, go by these: Keras has a layer's `trainable` say so."""
    models = [one for one in network.modules() if isinstance(one, keras.layers.Layer)]  # their own layers are no modules of torch's
    layers = {id(one): one for model in models for one in model._flatten_layers() if isinstance(one, keras.layers.BatchNormalization)}
    for layer in layers.values():
        if fixed & {id(layer.moving_mean.value), id(layer.moving_variance.value)}:
            moving = [one for one in layer.trainable_variables if id(one.value) not in fixed]
            layer.trainable = False
            for one in moving:  # which that has stopped, too
                one.trainable = True


def _check(node: Any) -> None:
    if isinstance(node, dict):
        name, home = node.get("class_name"), node.get("module")
        if isinstance(name, str) and name not in _PLAIN:
            _check_class(name, home, node)
        for one in node.values():
            _check(one)
    elif isinstance(node, list):
        for one in node:
            _check(one)


def _check_class(name: str, home: Any, node: dict[str, Any]) -> None:
    known = isinstance(home, str) and (home in _HOMES or home.startswith(_OPERATIONS))
    if name in _REFUSED or not known or name.startswith("__"):
        place = f"{home}.{name}" if isinstance(home, str) else name
        said = f"`architecture` holds {place}; it takes Keras 3's own classes, without those that run code or read files."
        raise NetworkError(said)
    registered = node.get("registered_name")
    if isinstance(registered, str) and ">" in registered:
        raise NetworkError(f"`architecture` holds {registered}, a class that is not Keras's own.")
