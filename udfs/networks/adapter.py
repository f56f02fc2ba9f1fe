"""A module of any shape as a network of blocks: the columns of `dense` and `codes` are cut into the tensors that its forward takes.

    dense [rows, numbers]    -> numbers: float32 [rows, *shape]; whole numbers: int64 [rows, *shape]
    codes [rows, categories] -> strings: int64 [rows, *shape]
    the module's answer [rows, outputs] or [rows] -> [rows, outputs]
    of several labels: a tuple or list of these in the labels' order, a dict by the labels' names, or all in one -> side by side

The module gets its tensors by name where its forward has parameters of all the columns' names; else in the columns' order, as many as it
takes; else, where it takes one tensor and all columns are plain numbers, as that one tensor [rows, numbers].
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from udfs.errors import NetworkError
from udfs.networks import code
from udfs.spec import Input, NetworkSpec

Call = Callable[[Mapping[str, Tensor]], Any]


class Adapter(nn.Module):
    """A network around a module. Its tensors have the names that they have in the module, so that `freeze` names what its author named."""

    def __init__(self, module: nn.Module, spec: NetworkSpec, call: Call) -> None:
        super().__init__()
        self.module, self.spec, self.call = module, spec, call

    def forward(self, dense: Tensor, codes: Tensor) -> Tensor:
        """One batch."""
        parts = _parts(self.spec, self.call({one.name: _cut(one, dense, codes) for one in self.spec.inputs}))
        columns = [one.unsqueeze(1) if one.ndim == 1 else one for one in parts.values()]
        return columns[0] if len(columns) == 1 else torch.cat(columns, dim=1)  # [rows, outputs]

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The module's."""
        return self.module.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The module's."""
        return self.module.load_state_dict(*args, **kwargs)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The module's; `parameters` follows."""
        return self.module.named_parameters(*args, **kwargs)


def _cut(one: Input, dense: Tensor, codes: Tensor) -> Tensor:
    if one.kind == "code":
        return codes[:, one.at].reshape(-1, *one.shape)
    # All columns are taken as they are: ONNX Runtime copies what is cut out, 3 KB of a digit.
    columns = dense if one.width == dense.shape[1] else dense[:, one.at : one.at + one.width]
    columns = columns.reshape(-1, *one.shape)
    return columns.long() if one.kind == "whole" else columns


def _parts(spec: NetworkSpec, outputs: Any) -> dict[str, Any]:
    """What a network gives, by the label; all of it under no name where it is one tensor.

    Raises:
        NetworkError: it is not as many tensors as there are labels, or they go by other names.
    """
    if not spec.heads or isinstance(outputs, Tensor):
        return {"": outputs}
    names = [head.name for head in spec.heads]
    if isinstance(outputs, Mapping):
        given = {str(name).casefold(): one for name, one in outputs.items()}
        if given.keys() == {name.casefold() for name in names}:
            return {name: given[name.casefold()] for name in names}
        found = f"a dict of {', '.join(map(str, outputs))}"
    elif isinstance(outputs, tuple | list):
        if len(outputs) == len(names):
            return dict(zip(names, outputs, strict=True))
        found = f"{len(outputs)} tensors"
    else:
        found = f"a {type(outputs).__name__}"
    wanted = ", ".join(f"{head.name} ['rows', {head.width}]" for head in spec.heads)
    raise NetworkError(
        f"The network gives {found}; there are {len(names)} labels: {wanted}. It gives a tensor for each, as a tuple in this order or as a "
        "dict by their names."
    )


def of_module(spec: NetworkSpec) -> Adapter:
    """The network of a factory of torch or Keras."""
    assert spec.factory is not None
    module = _made(spec, spec.factory.name, code.load(spec.factory))
    if _is_keras(module):
        return _of_keras_model(spec, module)
    return _ready(Adapter(module, spec, _calling(spec, module, inspect.signature(module.forward))), spec)


def of_keras(spec: NetworkSpec) -> Adapter:
    """The network of an architecture in Keras JSON."""
    try:
        from udfs.networks import keras
    except ImportError as e:
        raise NetworkError(f"`architecture` needs Keras, which cannot be imported: {e}. Run: pip install 'keras>=3.9'.") from e
    return _of_keras_model(spec, keras.from_json(dict(spec.arguments)["architecture"]))


def _is_keras(module: nn.Module) -> bool:
    return any(kind.__module__.startswith("keras.") for kind in type(module).__mro__)


def _made(spec: NetworkSpec, name: str, factory: Any) -> nn.Module:
    """What the factory gives for the arguments that it takes."""
    if isinstance(factory, nn.Module) or not callable(factory):
        what = "a network" if isinstance(factory, nn.Module) else f"a {type(factory).__name__}"
        raise NetworkError(f"`{name}` is {what}; `module` takes a factory, a function or class that makes a network.")
    given: dict[str, Any] = dict(spec.arguments)
    try:
        takes = set(inspect.signature(factory).parameters)
    except (TypeError, ValueError):  # of something built in
        takes = set()
    offered = {
        "outputs": _widths(spec),
        "inputs": {one.name: one.shape for one in spec.inputs},
        "codes": {one.name: one.codes for one in spec.inputs if one.kind == "code"},
    }
    given = {**{key: value for key, value in offered.items() if key in takes}, **given}
    try:
        module = _alone(lambda: factory(**given))
    except Exception as e:
        shown = ", ".join(f"{key} = {value!r}" for key, value in given.items()) or "no arguments"
        raise NetworkError(f"`{name}` fails, called with {shown}: {type(e).__name__}: {e}") from e
    if not isinstance(module, nn.Module):
        hint = " Set KERAS_BACKEND=torch before keras is imported." if type(module).__module__.startswith("keras.") else ""
        raise NetworkError(f"`{name}` gives a {type(module).__name__}; a factory gives a torch.nn.Module or a Keras model.{hint}")
    return module


def _widths(spec: NetworkSpec) -> int | dict[str, int]:
    """What a factory is told of the outputs: of several labels how many each has. The stock gives them all as one tensor."""
    if not spec.heads or (spec.factory is not None and spec.factory.name.startswith("udfs.networks.")):
        return spec.outputs
    return {head.name: head.width for head in spec.heads}


def _alone(make: Callable[[], Any]) -> Any:
    """Makes a Keras model under the names that it has in a fresh process, so that its tensors are called the same wherever it is built."""
    if "keras" not in sys.modules:
        return make()
    from udfs.networks import keras

    return keras.alone(make)


def _of_keras_model(spec: NetworkSpec, model: Any) -> Adapter:
    """Keras takes no notice of train() and eval(): it is told which of them it is in."""

    def run(*args: Any, **kwargs: Any) -> Any:
        return model(*args, **kwargs, training=adapter.training)

    call: Call
    if getattr(model, "inputs", None):
        call = partial(_listed, run, _order(spec, [tensor.name for tensor in model.inputs]))
    else:
        call = _calling(spec, run, inspect.signature(model.call), ("training", "mask"))
    adapter = Adapter(model, spec, call)
    return _ready(adapter, spec)


def _order(spec: NetworkSpec, names: list[str]) -> list[str] | None:
    """The columns in the order of a Keras model's inputs; None where they are one tensor."""
    columns = {one.name.casefold(): one.name for one in spec.inputs}
    if columns.keys() == {name.casefold() for name in names}:
        return [columns[name.casefold()] for name in names]
    if len(names) == len(columns):
        return list(columns.values())
    if len(names) == 1 and _are_plain(spec.inputs):
        return None
    raise _mismatch(spec, names)


def _listed(run: Callable[..., Any], order: list[str] | None, given: Mapping[str, Tensor]) -> Any:
    tensors = [_joined(given)] if order is None else [given[name] for name in order]
    return run(tensors if len(tensors) > 1 else tensors[0])


def _by_name(given: Mapping[str, Tensor], own: Mapping[str, str]) -> dict[str, Tensor]:
    return {own[name.casefold()]: tensor for name, tensor in given.items()}


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _calling(spec: NetworkSpec, run: Callable[..., Any], signature: inspect.Signature, besides: tuple[str, ...] = ()) -> Call:
    """How the module is given its tensors."""
    takes = [one for one in signature.parameters.values() if one.name not in besides]
    own = {
        one.name.casefold(): one.name
        for one in takes
        if one.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    }
    named = [one.name.casefold() for one in spec.inputs]
    required = {one.name.casefold() for one in takes if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
    if set(named) <= own.keys() and required <= set(named):
        return lambda given: run(**_by_name(given, own))
    if not required and any(one.kind is one.VAR_KEYWORD for one in takes):
        return lambda given: run(**given)
    most = len(named) if any(one.kind is one.VAR_POSITIONAL for one in takes) else sum(one.kind in _POSITIONAL for one in takes)
    if len(required) <= len(named) <= most:
        return lambda given: run(*given.values())
    if len(required) <= 1 <= most and _are_plain(spec.inputs):
        return lambda given: run(_joined(given))
    raise _mismatch(spec, [one.name for one in takes])


def _are_plain(inputs: tuple[Input, ...]) -> bool:
    return all(one.kind != "code" and len(one.shape) == 1 for one in inputs)


def _joined(given: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.float() for tensor in given.values()], dim=1)  # [rows, numbers]


def _mismatch(spec: NetworkSpec, names: list[str]) -> NetworkError:
    columns = ", ".join(f"{one.name} {[*one.shape]}" for one in spec.inputs)
    takes = f"takes {', '.join(names)}" if names else "takes nothing"
    return NetworkError(
        f"The network {takes}; the feature columns are {columns}. Give columns and parameters the same names, or the same number."
    )


def tiny(spec: NetworkSpec, rows: int = 2) -> tuple[Tensor, Tensor]:
    """Nothing, as far as a network goes: numbers are 0 in dense [rows, numbers]; whole ones and codes [rows, categories] are the largest
    that there are, which an embedding that is too small does not have.
    """
    dense = torch.zeros(rows, spec.dense)
    for one in spec.inputs:
        if one.kind == "whole":
            dense[:, one.at : one.at + one.width] = float(one.codes - 1)
    return dense, (torch.tensor(spec.codes, dtype=torch.int64) - 1).expand(rows, -1)


def _ready(adapter: Adapter, spec: NetworkSpec) -> Adapter:
    """Runs the network once: lazy modules and Keras layers make their parameters then, and shapes that do not fit come out."""
    adapter.eval()
    try:
        with torch.no_grad():
            outputs = adapter.call({one.name: _cut(one, *tiny(spec)) for one in spec.inputs})
    except Exception as e:
        raise NetworkError(f"The network does not take {_shapes(spec)}: {type(e).__name__}: {e}") from e
    widths = {head.name: head.width for head in spec.heads}
    for label, one in _parts(spec, outputs).items():
        _check_given(spec, label, one, widths.get(label, spec.outputs))
    return adapter


def _check_given(spec: NetworkSpec, label: str, given: Any, width: int) -> None:
    """Raises NetworkError where a tensor that the network gives for two rows has another shape than the label wants."""
    found = [*given.shape] if isinstance(given, Tensor) else None
    if found == [2, width] or (width == 1 and found == [2]):
        return
    said = f"a {type(given).__name__}" if found is None else f"a tensor {['rows', *found[1:]] if found[:1] == [2] else found}"
    whose = f" as `{label}`" if label else ""
    hint = " A factory that takes `outputs` is told how many there are."
    raise NetworkError(
        f"The network gives {said}{whose} for {_shapes(spec)}; {['rows', width]} is wanted, one number for each class or value.{hint}"
    )


def _shapes(spec: NetworkSpec) -> str:
    kinds = {one.name: "float32" if one.kind == "float" else f"int64 up to {one.codes - 1}" for one in spec.inputs}
    return ", ".join(f"{one.name} {['rows', *one.shape]} {kinds[one.name]}" for one in spec.inputs)
