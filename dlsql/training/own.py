"""Networks and losses of the user's own: the options that name them -> what the workers build, checked on the driver before they do.

The order: `find` before any job starts, `spec` once the columns are known, `check` before the first step.
"""

import hashlib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pyspark import SparkContext

from dlsql.code import ALLOWED, find, is_allowed
from dlsql.errors import did_you_mean, error
from dlsql.formats import onnx
from dlsql.model import is_whole
from dlsql.options import Settings
from udfs import networks
from udfs.errors import NetworkError
from udfs.losses import problem_of, try_loss
from udfs.networks import code
from udfs.preprocess import dense_width
from udfs.spec import Code, Feature, Input, NetworkSpec, Preprocess, heads
from udfs.train import parameter_count

__all__ = ["ALLOWED", "Own", "check", "check_workers", "own", "spec"]


@dataclass(frozen=True, slots=True)
class Own:
    """What a training has of the user's own code; None for what it takes from here."""

    module: Code | None
    loss: Code | None


def own(settings: Settings, allowed: str | None) -> Own:
    """The code that the options name.

    Raises:
        OptionError: there is none of that name, or it may not run here.
    """
    module = None if settings.module is None else networks.stock(settings.module) or _found("module", settings.module, allowed)
    return Own(module, _found("loss", str(settings.loss), allowed) if settings.own_loss else None)


def _found(option: str, text: str, allowed: str | None) -> Code:
    def refuse(expected: str, hint: str = "") -> None:
        raise error("DLSQL_OPTION_VALUE", option=option, value=repr(text), expected=expected, hint=hint)

    if ":" not in text:
        refuse(f"it takes 'package.module:factory', or one of {', '.join(networks.STOCK)}.", did_you_mean(text, networks.STOCK))
    there = find(option, text, allowed)
    try:
        named = code.load(there)
    except NetworkError as e:
        refuse(f"it cannot be found. {e.problem}")
    home = getattr(named, "__module__", None)
    if not callable(named):
        refuse(f"it is a {type(named).__name__}, and nothing to call.")
    elif not there.pickled and not is_allowed(str(home), allowed):  # a module's imports are no part of what was allowed
        refuse(f"it is of `{home}`, which may not run here. {ALLOWED} has {allowed}.")
    return there


def sources(chosen: Own) -> list[str]:
    """Checksums of the files that code named in the options stands in; of an object that was handed over its name says all."""
    named = [code.load(one) for one in (chosen.module, chosen.loss) if one is not None and not one.pickled]
    files = [Path(str(getattr(sys.modules.get(str(getattr(one, "__module__", ""))), "__file__", ""))) for one in named]
    return [hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "" for file in files]


def spec(settings: Settings, chosen: Own, learned: Preprocess, largest: Mapping[str, int]) -> NetworkSpec:
    """The network over these columns. `largest` is how far their whole numbers go, by the column's name.

    Raises:
        TypeMismatchError: a shape of `reshape` has another size than its column.
    """
    codes = tuple(one.codes for one in learned.features if one.kind == "category")
    whole = dense_width(learned.features), codes, sum(label.outputs for label in learned.labels)
    ends = _inputs(settings, learned, largest), heads(learned.labels)
    if settings.architecture is not None:
        return NetworkSpec(*whole, "keras", (("architecture", settings.architecture),), None, *ends)
    return NetworkSpec(*whole, "module", settings.module_args, chosen.module, *ends)


def _inputs(settings: Settings, learned: Preprocess, largest: Mapping[str, int]) -> tuple[Input, ...]:
    """A tensor a column: strings [rows], numbers [rows, 1], arrays [rows, length], moments [rows, 5 or 7], unless `reshape` says."""
    shapes = {name.casefold(): shape for name, shape in settings.reshape}
    found: list[Input] = []
    dense = codes = 0
    for feature in learned.features:
        is_code = feature.kind == "category"
        width = 1 if is_code else dense_width([feature])
        shape = shapes.get(feature.name.casefold(), () if is_code else (width,))
        if math.prod(shape) != width:
            problem = f"Column `{feature.name}` holds {width} numbers a row; reshape makes {[*shape]} of it, which are {math.prod(shape)}."
            raise error("DLSQL_SHAPE", problem=problem)
        if is_code:
            found.append(Input(feature.name, shape, "code", codes, feature.codes))
            codes += 1
        else:
            kind = "whole" if is_whole(feature.type) and not settings.standardize and _is_raw(feature) else "float"
            codes_there = largest.get(feature.name, 0) + 1 if kind == "whole" else 0
            found.append(Input(feature.name, shape, kind, dense, codes_there))
            dense += width
    return tuple(found)


def _is_raw(feature: Feature) -> bool:
    """Whether its numbers are left as they are: a warm start goes on with what the earlier version learned."""
    return feature.size > 0 or (feature.means, feature.scales) == ((0.0,), (1.0,))


def check(settings: Settings, chosen: Own, network: NetworkSpec) -> int:
    """Builds the network, runs it on a few rows, as torch does and as the graph that predicts will, and the loss on its answers.

    Returns:
        How many numbers of it are trained.

    Raises:
        UnsupportedError: they are more than a graph holds.
        TypeMismatchError: it cannot be built, takes or gives another shape, or has no graph; with torch's or Keras's own words.
    """
    try:
        parameters = parameter_count(network)
        if parameters > _LARGEST:
            hint = f" A model is kept as one ONNX graph, which holds 2 GB: {_LARGEST:,} parameters."
            raise error("DLSQL_UNSUPPORTED", feature=f"A network of {parameters:,} parameters", hint=hint)
        if settings.own_network:
            _check_graph(network)
        if chosen.loss is not None:
            try_loss(chosen.loss, network, settings.task)
    except NetworkError as e:
        raise error("DLSQL_SHAPE", problem=e.problem) from e
    return parameters


_LARGEST = 530_000_000  # parameters of 4 bytes in a protobuf message of 2 GiB, beside what else a graph says


def check_workers(context: SparkContext, chosen: Own, network: NetworkSpec) -> None:
    """Looks whether a worker has what the code wants, in one short job, where there is code that it might not have.

    Raises:
        TypeMismatchError: it has not.
    """
    of_here = network.factory is None or network.factory.name in networks.STOCK.values()
    if of_here and network.builder != "keras" and chosen.loss is None:
        return
    problem = context.parallelize([0], 1).map(partial(problem_of, network, chosen.loss)).collect()[0]
    if problem is not None:
        raise error("DLSQL_SHAPE", problem=f"On the workers: {problem}")


def _check_graph(network: NetworkSpec) -> None:
    module = networks.build(network).eval()
    try:
        wrong = onnx.disagreement(module, network)
    except Exception as e:
        wrong = f"{type(e).__name__}: {str(e)[:500]}"
    if wrong is not None:
        raise NetworkError(f"The network cannot be kept as an ONNX graph, which is what predicts: {wrong}.")
