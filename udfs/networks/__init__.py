"""Networks, one family a file. Each is built from its spec alone, so that every worker builds the same one."""

import sys
import threading
from collections.abc import Callable, Mapping
from importlib import import_module

from torch import nn

from udfs.spec import Code, NetworkSpec

# What builds a network: a function of this module from a spec to a network of `dense` [rows, numbers] and `codes` [rows, categories].
BUILDERS: Mapping[str, str] = {
    "perceptron": "udfs.networks.mlp:Mlp",
    "module": "udfs.networks.adapter:of_module",
    "keras": "udfs.networks.adapter:of_keras",
}
# Networks to call by a plain name, for everyone: factories of (inputs, outputs, arguments of their own).
STOCK: Mapping[str, str] = {
    "mlp": "udfs.networks.mlp:mlp",
    "lenet5": "udfs.networks.lenet:lenet5",
    "resnet": "udfs.networks.resnet:resnet",
    "lstm": "udfs.networks.recurrent:lstm",
    "gru": "udfs.networks.recurrent:gru",
    "transformer": "udfs.networks.transformer:transformer",
}

# Held while fresh parameters are drawn: a process has one generator for all its threads, and a driver a thread for each client.
DRAWING = threading.RLock()


def build(spec: NetworkSpec) -> nn.Module:
    """The network, with fresh parameters: its forward takes dense [rows, numbers] and codes [rows, categories], gives [rows, outputs].

    Raises:
        NetworkError: the factory cannot be called as asked, or gives no network.
    """
    module, function = BUILDERS[spec.builder].split(":")
    builder: Callable[[NetworkSpec], nn.Module] = getattr(import_module(module), function)
    with DRAWING:
        return builder(spec)


def stock(name: str) -> Code | None:
    """The factory of a plain name, in any case; None for a name that is none of these."""
    return Code(STOCK[name.lower()]) if name.lower() in STOCK else None


def norms_over_rows(network: nn.Module) -> bool:
    """Whether a batch of one row cannot be trained on, since it has no deviation to norm by."""
    return any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in network.modules())


def resting(network: nn.Module, frozen: tuple[str, ...]) -> list[nn.Module]:
    """Layers whose running statistics do not move, by prefixes of tensors' names: they norm by these, also while the others learn.

    So does Keras with `trainable = False`; its own layers are told here, torch's, which are given back, after each `train()`.
    """
    fixed = {id(tensor) for name, tensor in network.state_dict(keep_vars=True).items() if name.startswith(frozen)} if frozen else set()
    if fixed and "keras" in sys.modules:
        from udfs.networks import keras

        keras.rest(network, fixed)
    norms = (one for one in network.modules() if isinstance(one, nn.modules.batchnorm._NormBase))
    return [one for one in norms if fixed & {id(one.running_mean), id(one.running_var)}]
