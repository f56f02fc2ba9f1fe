"""Every option of CREATE MODEL in one table: name, what it takes, default, which kinds of model have it, and its line in the docs."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dlsql.errors import did_you_mean, error
from dlsql.statements import HParamCandidates, HParamRange, Options, Value
from udfs.stopping import Rules

LINEAR = ("linear_regressor", "logistic_classifier")
DNN = ("dnn_classifier", "dnn_regressor")
CLASSIFIERS = ("logistic_classifier", "dnn_classifier")
KINDS = (*LINEAR, *DNN)
IMPORT = "import"  # what stands for a kind where a model is imported
# The same kinds under the names that BigQuery ML gives them.
SYNONYMS = {"linear_reg": "linear_regressor", "logistic_reg": "logistic_classifier", "logistic_regressor": "logistic_classifier"}

SPLITS = ("auto_split", "random", "custom", "seq", "no_split")
# What is of a training that several tasks share, or that goes on from an earlier one: a group's network trains at once in one task.
# What a network for each group (partition_cols, TRAIN) does without: it is the built-in one, trained anew, whole, in one task.
SHARED = (
    "warm_start", "base_model", "freeze", "sync_every", "outer_learn_rate", "outer_momentum", "num_workers", "checkpoint_every", "resume",
    "transport", "quantization", "mixed_precision", "lr_interval", "min_loss", "max_steps", "max_score", "max_seconds",
    "module", "module_args", "architecture", "reshape", "standardize",
)  # fmt: skip
ACTIVATIONS = ("relu", "relu6", "elu", "selu", "gelu", "silu", "tanh", "sigmoid", "leaky_relu")


@dataclass(frozen=True, slots=True)
class Check:
    """What a value must be: `says` completes "Option `x` is 7; it takes ..."."""

    says: str
    read: Callable[[Any], Any]  # gives the value as kept, or raises ValueError or TypeError


@dataclass(frozen=True, slots=True)
class Option:
    """A row of the table."""

    name: str
    check: Check
    default: Any
    doc: str
    kinds: tuple[str, ...] = KINDS


def _number(low: float, high: float = float("inf"), *, open_low: bool = False, open_high: bool = False) -> Check:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError
        if not (low <= value <= high) or (open_low and value == low) or (open_high and value == high) or value == float("inf"):
            raise ValueError
        return float(value)

    if high == float("inf"):
        return Check(f"a number {'above' if open_low else 'of at least'} {low:g}", read)
    return Check(f"a number from {low:g}{' (not included)' if open_low else ''} to {high:g}{' (not included)' if open_high else ''}", read)


def _whole(low: int, high: int | None = None) -> Check:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError
        if value < low or (high is not None and value > high):
            raise ValueError
        return value

    return Check(f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}", read)


def _flag() -> Check:
    def read(value: Any) -> bool:
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise TypeError
        return value

    return Check("TRUE or FALSE", read)


def _text() -> Check:
    def read(value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise TypeError
        return value

    return Check("a string", read)


def _one_of(words: tuple[str, ...]) -> Check:
    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError
        if value.lower() not in words:
            raise ValueError
        return value.lower()

    return Check("one of " + ", ".join(words), read)


def _precision() -> Check:
    named, flags = _one_of(("bfloat16", "float16", "float32")), {"true": "bfloat16", "false": "float32"}

    def read(value: Any) -> str:
        word: str = flags.get(str(value).lower()) or named.read(value)
        return word

    return Check(f"TRUE, which is bfloat16, FALSE, which is float32, or {named.says}", read)


def _list_of(item: Check, what: str, *, shortest: int = 1) -> Check:
    def read(value: Any) -> tuple[Any, ...]:
        values = value if isinstance(value, list) else [value]
        if len(values) < shortest:
            raise ValueError
        return tuple(item.read(one) for one in values)

    return Check(what, read)


def _map_of(item: Check, what: str) -> Check:
    def read(value: Any) -> tuple[tuple[str, Any], ...]:
        if not isinstance(value, dict) or not value:
            raise TypeError
        return tuple((str(name), item.read(one)) for name, one in value.items())

    return Check(what, read)


Schedules = tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]


def _schedules(value: Any) -> Schedules:
    return tuple(_schedule(one) for one in (value if isinstance(value, list) else [value]))


def _schedule(value: Any) -> tuple[str, tuple[tuple[str, Any], ...]]:
    if isinstance(value, str):
        return value.lower(), ()
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise TypeError
    return str(value["name"]).lower(), tuple((k, v) for k, v in value.items() if k != "name")


def _arguments(value: Any) -> tuple[tuple[str, Any], ...]:
    if not isinstance(value, dict):
        raise TypeError
    if not all(name.isidentifier() for name in value):
        raise ValueError
    return tuple(value.items())


def _kind(value: Any) -> str:
    name = str(_text().read(value)).lower()
    name = SYNONYMS.get(name, name)
    if name not in KINDS:
        raise ValueError
    return name


_QUANTIZATION = "What the finished network is kept in: int8 is a quarter of the bytes, and metrics['..._float32'] says what it was before."
_OPTIMIZER_ARGS = "What else the optimiser takes, by torch's names: MAP('momentum', 0.9, 'weight_decay', 1e-4)."
_RESHAPE = "With a network of your own, or an import: the shape of a row's tensor."
_LOSS = (
    "Loss by its name in torch.nn.functional: cross_entropy for classifiers, mse_loss for regressors. Or a function of your own, "
    "`package.module:function`, where spark.dlsql.allowed_modules names it."
)
_MODULE = (
    "A network of your own: the factory `package.module:function`, where spark.dlsql.allowed_modules names it; for everyone `mlp`, "
    "`lenet5`, `resnet`, `lstm`, `gru`, `transformer`."
)

_WEIGHTS = _map_of(_number(0), "MAP(label, weight, ...), weights of at least 0")
_PADS = _map_of(_number(-math.inf), "MAP(column, number, ...)")

OPTIONS: tuple[Option, ...] = (
    Option("model_type", Check("one of " + ", ".join(KINDS), _kind), None, "The kind of model. Required to train."),
    Option("input_label_cols", _list_of(_text(), "a list of column names"), ("label",), "The label column; several with `module`."),
    Option("partition_cols", _list_of(_text(), "a list of column names"), (), "Train one network for each group of these columns."),
    Option("hidden_units", _list_of(_whole(1, 65_536), "a list of whole numbers from 1 to 65536"), (128, 64), "Width of each layer.", DNN),
    Option("activation_fn", _one_of(ACTIVATIONS), "relu", "Activation after each hidden layer, by torch's name.", DNN),
    Option("dropout", _number(0, 1, open_high=True), 0.0, "Share of hidden units dropped in a training step.", DNN),
    Option("batch_norm", _flag(), False, "Normalise each hidden layer over the batch.", DNN),
    Option("module", _text(), None, _MODULE, DNN),
    Option("module_args", Check("MAP(argument, value, ...)", _arguments), (), "Arguments of the factory in `module`, by name.", DNN),
    Option("architecture", _text(), None, "A network as Keras 3 writes it by to_json(); it runs no code.", DNN),
    Option("reshape", _map_of(_list_of(_whole(1, 1 << 24), "", shortest=0), "MAP(column, [size, ...], ...)"), (), _RESHAPE, (*DNN, IMPORT)),
    Option("standardize", _flag(), False, "With a network of your own: scale numbers as for the built-in ones.", DNN),
    Option("optimizer", _text(), "adam", "Any optimiser of torch.optim by name that steps on gradients alone."),
    Option("optimizer_args", Check("MAP(argument, value, ...)", _arguments), (), _OPTIMIZER_ARGS),
    Option("learn_rate", _number(0, open_low=True), 1e-3, "Learning rate of a step."),
    Option("l1_reg", _number(0), 0.0, "Weight of the sum of absolute weights in the loss."),
    Option("l2_reg", _number(0), 0.0, "Weight of half the sum of squared weights in the loss."),
    Option(
        "lr_schedule",
        Check("a schedule's name, MAP('name', ..., argument, value, ...), or a list of these", _schedules),
        (("constant", ()),),
        "Learning rate by epoch or step: `constant`, or torch's schedules in a row, each but the last with its `epochs` or `steps`.",
    ),
    Option("lr_interval", _one_of(("epoch", "step")), "epoch", "What `lr_schedule` counts: epochs, or steps of the optimiser."),
    Option("grad_clip", _number(0, open_low=True), None, "Largest norm of a step's gradient; none by default."),
    Option("grad_clip_value", _number(0, open_low=True), None, "Largest size of each number of a step's gradient; none by default."),
    Option("batch_size", _whole(1, 1 << 24), 256, "Rows a step of all workers; of each in a large table, while an epoch keeps 1000 steps."),
    Option("max_iterations", _whole(1, 100_000), 10, "Epochs at most."),
    Option("early_stop", _flag(), True, "Stop when the evaluation loss stops falling."),
    Option("min_rel_progress", _number(0, 1), 0.01, "Relative fall of the loss that counts as progress."),
    Option("patience", _whole(1), 1, "Epochs without progress before an early stop."),
    Option("min_loss", _number(0), None, "Stop after an epoch whose loss is not above it."),
    Option("max_steps", _whole(1), None, "Stop after so many steps of each worker, also within an epoch."),
    Option("max_score", _number(0, 1), None, "Stop after an epoch with such an accuracy (classifier) or R2 (regressor) on held-out rows."),
    Option("max_seconds", _number(0, open_low=True), None, "Stop when the rounds have taken this long, in a long epoch also within it."),
    Option("data_split_method", _one_of(SPLITS), "auto_split", "Which rows are held out for evaluation: " + ", ".join(SPLITS) + "."),
    Option("data_split_eval_fraction", _number(0, 1, open_low=True, open_high=True), 0.2, "Share of the rows held out (random, seq)."),
    Option("data_split_col", _text(), None, "Column that splits: BOOLEAN, TRUE for evaluation (custom); any order (seq)."),
    Option("auto_class_weights", _flag(), False, "Weigh each class by the inverse of its frequency.", CLASSIFIERS),
    Option("class_weights", _WEIGHTS, None, "Weight of each class.", CLASSIFIERS),
    Option("instance_weight_col", _text(), None, "Numeric column with the weight of each row; no feature then."),
    Option("warm_start", _flag(), False, "Go on from the default version, with what it learned of the columns."),
    Option("base_model", _text(), None, "Start from the tensors of another model where names and shapes agree."),
    Option(
        "freeze", _list_of(_text(), "a list of tensor name prefixes"), (),
        "Tensors that do not move, by prefix of their name. A batch norm whose running statistics are among them norms by these.",
    ),
    Option("loss", _text(), None, _LOSS),
    Option("label_smoothing", _number(0, 1, open_high=True), 0.0, "Share of a label's probability spread over all classes.", CLASSIFIERS),
    Option("sync_every", _whole(1), None, "Local steps between averagings, 1 for synchronous SGD; 16 averagings an epoch by default."),
    Option("outer_learn_rate", _number(0, open_low=True), 1.0, "Rate of the step from the last state to the workers' average (DiLoCo)."),
    Option("outer_momentum", _number(0, 1, open_high=True), 0.0, "Nesterov momentum of that step; 0 at a rate of 1 is plain averaging."),
    Option("transport", _one_of(("float32", "bfloat16", "float16")), "float32", "What workers tell one another: 4 bytes a number or 2."),
    Option("quantization", _one_of(("none", "int8")), "none", _QUANTIZATION),
    Option("mixed_precision", _precision(), "float32", "What a step computes in where torch.autocast does; parameters stay float32."),
    Option("num_workers", _whole(1, 10_000), None, "Parallel tasks a round; chosen from rows, batch size and cores by default."),
    Option("checkpoint_every", _whole(1), 1, "Rounds between checkpoints."),
    Option("resume", _flag(), True, "Go on from the last checkpoint of the same statement over the same data."),
    Option("seed", _whole(0, (1 << 31) - 1), 42, "Same data, options, workers and seed give the same weights."),
    Option("model_path", _text(), None, "Where the model file is, for any file system that Spark reads.", (IMPORT,)),
    Option("format", _one_of(("onnx", "torchscript")), None, "Of the model file; by default what its name ends in says.", (IMPORT,)),
    Option("pad", _PADS, (), "What arrays shorter than others are filled up with.", (IMPORT,)),
    Option("lengths", _map_of(_text(), "MAP(tensor, column, ...)"), (), "Tensors told the lengths of a column's arrays.", (IMPORT,)),
)  # fmt: skip

TABLE: Mapping[str, Option] = {option.name: option for option in OPTIONS}


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of a statement, read and filled up with their defaults. One field an option, of the same name."""

    model_type: str
    input_label_cols: tuple[str, ...]
    partition_cols: tuple[str, ...]
    hidden_units: tuple[int, ...]
    activation_fn: str
    dropout: float
    batch_norm: bool
    module: str | None
    module_args: tuple[tuple[str, Any], ...]
    architecture: str | None
    reshape: tuple[tuple[str, tuple[int, ...]], ...]
    standardize: bool
    optimizer: str
    optimizer_args: tuple[tuple[str, Any], ...]
    learn_rate: float
    l1_reg: float
    l2_reg: float
    lr_schedule: Schedules
    lr_interval: str
    grad_clip: float | None
    grad_clip_value: float | None
    batch_size: int
    max_iterations: int
    early_stop: bool
    min_rel_progress: float
    patience: int
    min_loss: float | None
    max_steps: int | None
    max_score: float | None
    max_seconds: float | None
    data_split_method: str
    data_split_eval_fraction: float
    data_split_col: str | None
    auto_class_weights: bool
    class_weights: tuple[tuple[str, float], ...] | None
    instance_weight_col: str | None
    warm_start: bool
    base_model: str | None
    freeze: tuple[str, ...]
    loss: str | None
    label_smoothing: float
    sync_every: int | None
    outer_learn_rate: float
    outer_momentum: float
    transport: str
    quantization: str
    mixed_precision: str
    num_workers: int | None
    checkpoint_every: int
    resume: bool
    seed: int
    model_path: str | None
    format: str | None
    pad: tuple[tuple[str, float], ...]
    lengths: tuple[tuple[str, str], ...]

    @property
    def task(self) -> str:
        """classification or regression."""
        return "classification" if self.model_type in CLASSIFIERS else "regression"

    @property
    def own_network(self) -> bool:
        """Whether the network is a factory's or an architecture, and not one of the built-in kinds."""
        return self.module is not None or self.architecture is not None

    @property
    def own_loss(self) -> bool:
        """Whether the loss is a function of the user's, and not one of torch's."""
        return self.loss is not None and ":" in self.loss

    @property
    def scaled(self) -> bool:
        """Whether the network sees numbers in deviations from their mean."""
        return self.standardize or not self.own_network

    @property
    def rules(self) -> Rules:
        """What ends the training before its last epoch."""
        score = "accuracy" if self.task == "classification" else "r2_score"
        return Rules(self.min_rel_progress, self.patience if self.early_stop else None, self.min_loss, self.max_score, score)

    @property
    def label(self) -> str:
        """The label column, or the first of several."""
        return self.input_label_cols[0]


def read(options: Options) -> Settings:
    """Checks options one by one, then together.

    Raises:
        OptionError: an option is unknown, not one of this kind's, or has a value that it does not take.
        UnsupportedError: a hyperparameter search.

    >>> read((("model_type", "dnn_regressor"), ("hidden_units", [32]))).hidden_units
    (32,)
    >>> read((("hiden_units", [32]),))
    Traceback (most recent call last):
    dlsql.errors.OptionError: [DLSQL_UNKNOWN_OPTION] `hiden_units` is not an option ... Did you mean `hidden_units`? SQLSTATE: 22023
    """
    given = dict(options)
    _check_known(options, list(TABLE), "CREATE MODEL")
    if "model_type" not in given:
        hint = " Write OPTIONS (model_type = 'dnn_classifier', ...)."
        raise error(
            "DLSQL_OPTION_VALUE", option="model_type", value="not given", expected=f"it takes {TABLE['model_type'].check.says}.", hint=hint
        )
    values = {option.name: option.default for option in OPTIONS}
    for name, value in given.items():
        values[name] = _read_one(TABLE[name], value)
    kind = values["model_type"]
    for name in given:
        if kind not in TABLE[name].kinds:
            hint = f" It belongs to {', '.join(TABLE[name].kinds)}."
            raise error("DLSQL_UNKNOWN_OPTION", option=name, where=f"model_type {kind}", hint=hint)
    if kind in LINEAR:
        values["hidden_units"] = ()
    _check_together(given, values)
    return Settings(**values)


def read_import(options: Options) -> Settings:
    """The options of CREATE MODEL that imports a model. Raises what `read` raises.

    >>> read_import((("model_path", "m.onnx"), ("pad", {"x": 0}))).pad
    (('x', 0.0),)
    >>> read_import((("model_path", "m.onnx"), ("dropout", 0.1)))
    Traceback (most recent call last):
    dlsql.errors.OptionError: [DLSQL_UNKNOWN_OPTION] `dropout` is not an option of an import ... SQLSTATE: 22023
    """
    known = [option.name for option in OPTIONS if IMPORT in option.kinds]
    _check_known(options, known, "an import (model_path)", f" It takes {', '.join(known)}.")
    values = {option.name: option.default for option in OPTIONS} | {name: _read_one(TABLE[name], value) for name, value in options}
    return Settings(**values)


def read_for_group(model_type: Any, label: str, options: Options) -> Settings:
    """The options of TRAIN, which has some of CREATE MODEL's. Raises what `read` raises.

    >>> read_for_group("dnn_regressor", "y", (("hidden_units", [8, 4]),)).hidden_units
    (8, 4)
    >>> read_for_group("dnn_regressor", "y", (("num_workers", 2),))
    Traceback (most recent call last):
    dlsql.errors.OptionError: [DLSQL_UNKNOWN_OPTION] `num_workers` is not an option of TRAIN. SQLSTATE: 22023
    """
    apart = ("model_type", "input_label_cols", "partition_cols", *SHARED)
    known = [name for name in TABLE if name not in apart and TABLE[name].kinds != (IMPORT,)]
    _check_known(options, known, "TRAIN")
    return read((("model_type", model_type), ("input_label_cols", [label]), *options))


def _check_known(options: Options, known: list[str], where: str, otherwise: str = "") -> None:
    """Raises OptionError for a name that is not known there; `otherwise` is its hint where none is near."""
    strange = next((name for name, _ in options if name not in known), None)
    if strange is not None:
        raise error("DLSQL_UNKNOWN_OPTION", option=strange, where=where, hint=did_you_mean(strange, known) or otherwise)


def _read_one(option: Option, value: Value) -> Any:
    if isinstance(value, HParamRange | HParamCandidates):
        raise error("DLSQL_UNSUPPORTED", feature=f"Searching `{option.name}` (HPARAM_RANGE, HPARAM_CANDIDATES)")
    try:
        return option.check.read(value)
    except (ValueError, TypeError):
        near = did_you_mean(value, KINDS) if option.name == "model_type" and isinstance(value, str) else ""
        raise error(
            "DLSQL_OPTION_VALUE", option=option.name, value=repr(value), expected=f"it takes {option.check.says}.", hint=near
        ) from None


_OF_ONE_LABEL = ("class_weights", "auto_class_weights", "max_score")


def _check_labels(values: Mapping[str, Any], refuse: Callable[[str, str], None]) -> None:
    """What several labels demand of the other options."""
    names = [name.casefold() for name in values["input_label_cols"]]
    if len(set(names)) < len(names):
        refuse("input_label_cols", "it names a column twice.")
    if not values["module"] and not values["architecture"]:
        hint = " A network of your own has as many as you like: module = 'mlp', or another one (docs/networks.md)."
        raise error("DLSQL_UNSUPPORTED", feature="A built-in network with more than one label column (input_label_cols)", hint=hint)
    for name in _OF_ONE_LABEL:
        if values[name] != TABLE[name].default:
            refuse(name, f"it is for one label, and input_label_cols has {len(names)}.")


def _check_together(given: Mapping[str, Value], values: Mapping[str, Any]) -> None:
    """What one option demands of another."""

    def refuse(option: str, expected: str) -> None:
        raise error("DLSQL_OPTION_VALUE", option=option, value=repr(values[option]), expected=expected)

    if len(values["input_label_cols"]) > 1:
        _check_labels(values, refuse)
    if values["module"] and values["architecture"]:
        refuse("module", "architecture is given too; choose one.")
    own = values["module"] or values["architecture"]
    for name in ("reshape", "standardize") if not own else ():
        if name in given:
            refuse(name, "it goes with a network of your own: module or architecture.")
    if "module_args" in given and not values["module"]:
        refuse("module_args", "it goes with module.")
    for name in ("hidden_units", "activation_fn", "dropout", "batch_norm") if own else ():
        if name in given:
            refuse(name, "it is of the built-in network; what a factory takes goes into module_args.")
    if values["data_split_method"] in ("custom", "seq") and values["data_split_col"] is None:
        refuse("data_split_method", "it needs data_split_col.")
    if values["data_split_col"] is not None and values["data_split_method"] not in ("custom", "seq"):
        refuse("data_split_col", "it goes with data_split_method = 'custom' or 'seq'.")
    if "data_split_eval_fraction" in given and values["data_split_method"] in ("custom", "no_split"):
        refuse("data_split_eval_fraction", f"data_split_method = '{values['data_split_method']}' does not use it.")
    if values["label_smoothing"] and values["loss"] not in (None, "cross_entropy"):
        refuse("label_smoothing", "it goes with loss = 'cross_entropy'.")
    if values["batch_norm"] and values["batch_size"] == 1:
        refuse("batch_norm", "it needs batches of at least 2 rows.")
    if values["sync_every"] == 1:
        for name, plain in (("outer_learn_rate", 1.0), ("outer_momentum", 0.0)):
            if values[name] != plain:
                refuse(name, "it steps from averaging to averaging of local steps; sync_every = 1 averages gradients.")
    if values["auto_class_weights"] and values["class_weights"]:
        refuse("auto_class_weights", "class_weights is given too; choose one.")
    if values["partition_cols"] and ":" in (values["loss"] or ""):
        refuse("loss", "a function of your own does not go with partition_cols.")
    for name in SHARED if values["partition_cols"] else ():
        if values[name] != TABLE[name].default:
            refuse(name, "it does not go with partition_cols, where each group's network is trained anew in one task.")
    if values["warm_start"] and values["base_model"]:
        refuse("warm_start", "base_model is given too; choose one.")
