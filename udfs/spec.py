"""The small frozen dataclasses that cross the wire from the driver to the workers, and their JSON form in the model store."""

import base64
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from udfs.stopping import Rules


@dataclass(frozen=True, slots=True)
class Feature:
    """One input column, and what training learned of it.

    kind "number" (numeric, decimal, boolean) and "time" (date, timestamp): `means` and `scales` hold one value.
    kind "numbers" (an array): one value for each of its positions.
    kind "bytes" (BINARY: float32 numbers, little endian): `size` says how many; they are left as they are.
    kind "category" (a string): `vocabulary`, most frequent first; code 0 is the unknown bucket, code 1 NULL, code 2 the first word.
    """

    name: str
    type: str  # of the training column, as Spark writes it: decimal(10,2)
    kind: str
    means: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    vocabulary: tuple[str, ...] = ()
    nulls_seen: bool = False
    size: int = 0  # numbers a row, where they are left as they are and `means` and `scales` stay empty

    @property
    def width(self) -> int:
        """How many numbers an array of it holds."""
        return self.size or len(self.means)

    @property
    def codes(self) -> int:
        """How many codes a category has, the unknown bucket and NULL among them."""
        return len(self.vocabulary) + 2


@dataclass(frozen=True, slots=True)
class Label:
    """What the network answers: one of `classes`, or a number that was scaled by `mean` and `scale` for training."""

    name: str
    type: str
    classes: pa.Array | None = None  # in the label's own type, ascending
    mean: float = 0.0
    scale: float = 1.0

    @property
    def outputs(self) -> int:
        """The width of the network's last layer."""
        return 1 if self.classes is None else len(self.classes)

    @property
    def task(self) -> str:
        """classification or regression."""
        return "regression" if self.classes is None else "classification"


@dataclass(frozen=True, slots=True)
class Preprocess:
    """What turns a row into the network's inputs and its output into the answer: learned by training, stored with the model."""

    features: tuple[Feature, ...]
    label: Label
    bound: float | None = None  # deviations from the mean beyond which a number counts as that far away; None for a linear model
    others: tuple[Label, ...] = ()  # labels after the first, of a network with several outputs

    @property
    def labels(self) -> tuple[Label, ...]:
        """All labels, in the order of the network's outputs."""
        return (self.label, *self.others)

    def to_json(self) -> str:
        """The form in the model store; the classes as an Arrow stream, which keeps any scalar type exactly."""
        said: dict[str, Any] = {"features": [dataclasses.asdict(feature) for feature in self.features], "label": _said(self.label)}
        if self.others:
            said["others"] = [_said(label) for label in self.others]
        return json.dumps({**said, "bound": self.bound}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Preprocess":
        """The inverse of `to_json`."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, read: Mapping[str, Any]) -> "Preprocess":
        """The same, from parsed JSON."""
        features = tuple(_feature(one) for one in read["features"])
        return cls(features, _label(read["label"]), read["bound"], tuple(_label(one) for one in read.get("others", ())))


def _feature(read: dict[str, Any]) -> Feature:
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in read.items()}
    return Feature(**fields)


def _said(label: Label) -> dict[str, Any]:
    said = {field.name: getattr(label, field.name) for field in dataclasses.fields(Label)}
    return said | {"classes": None if label.classes is None else base64.b64encode(_to_stream(label.classes)).decode()}


def _label(read: Mapping[str, Any]) -> Label:
    classes = read["classes"]
    if classes is not None:
        classes = pa.ipc.open_stream(base64.b64decode(classes)).read_all().column(0).combine_chunks()
    return Label(**{**read, "classes": classes})


def _to_stream(values: pa.Array) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"values": values})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


@dataclass(frozen=True, slots=True)
class Code:
    """Something to call: a name to import, or what cloudpickle made of an object that has no name on the workers."""

    name: str  # package.module:function; of a pickled one, what to call it in messages
    pickled: bytes = b""


@dataclass(frozen=True, slots=True)
class Input:
    """A tensor that a module takes, cut out of the columns of a block."""

    name: str
    shape: tuple[int, ...]  # of a row
    kind: str  # "float" and "whole" lie in `dense`, the latter becomes int64; "code" is a column of `codes`
    at: int  # its first column there
    codes: int = 0  # of a "code": how many there are; of "whole" numbers: one more than the largest, either side of 0

    @property
    def width(self) -> int:
        """How many columns it takes."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Head:
    """Which of a network's outputs are the answer for a label, where there are several labels."""

    name: str  # of the label
    task: str  # classification | regression
    at: int  # the first
    width: int  # how many: one for each class, 1 for a number

    @property
    def place(self) -> slice:
        """Where they stand among all outputs."""
        return slice(self.at, self.at + self.width)


def heads(labels: Sequence[Label]) -> tuple[Head, ...]:
    """The outputs of several labels, one after the other; nothing for a single one, which has them all.

    >>> heads([Label("age", "int"), Label("kind", "string", pa.array(["a", "b"]))])[1]
    Head(name='kind', task='classification', at=1, width=2)
    """
    ends = list(accumulate((label.outputs for label in labels), initial=0))
    found = tuple(Head(label.name, label.task, at, label.outputs) for label, at in zip(labels, ends, strict=False))
    return found if len(found) > 1 else ()


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Which network: what builds it, a row of udfs.networks.BUILDERS, and from what. It takes `dense` numbers and a code a category."""

    dense: int
    codes: tuple[int, ...]  # how many codes each category has
    outputs: int
    builder: str = "perceptron"  # perceptron: the tabular kinds; module: a factory; keras: an architecture as JSON
    arguments: tuple[tuple[str, Any], ...] = ()
    factory: Code | None = None  # of a module
    inputs: tuple[Input, ...] = ()  # of a module or an architecture: what its forward takes
    heads: tuple[Head, ...] = ()  # of several labels, which divide the outputs among them

    def described(self) -> dict[str, Any]:
        """The form in the model store: no code, only its name."""
        return {**dataclasses.asdict(self), "factory": self.factory and self.factory.name}

    @property
    def layers(self) -> str:
        """What stands between the columns and the answer, in a line."""
        if self.builder == "perceptron":
            return " - ".join(map(str, (self.dense, *dict(self.arguments)["hidden_units"], self.outputs)))
        taken = ", ".join(f"{one.name} {[*one.shape]}" for one in self.inputs)
        given = ", ".join(f"{one.name} [{one.width}]" for one in self.heads) or self.outputs
        return f"{taken} - {self.factory.name if self.factory else 'keras'} - {given}"


@dataclass(frozen=True, slots=True)
class LocalSteps:
    """How a worker steps: everything of a training that stays the same from round to round."""

    network: NetworkSpec
    task: str  # classification | regression; of several labels that of the model, whose loss those of another task do not have
    loss: str  # a function of torch.nn.functional, unless there is `own_loss`
    optimizer: str  # a class of torch.optim
    batch_size: int  # rows a step of one worker
    seed: int
    threads: int
    optimizer_args: tuple[tuple[str, Any], ...] = ()
    l1_reg: float = 0.0
    l2_reg: float = 0.0
    grad_clip: float | None = None  # largest norm
    grad_clip_value: float | None = None
    outer_learn_rate: float = 1.0
    outer_momentum: float = 0.0
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    frozen: tuple[str, ...] = ()  # prefixes of parameter names that do not move
    own_loss: Code | None = None  # (outputs, labels), of several labels two tuples -> the loss of each row [rows], or one of all rows
    transport: str = "float32"  # what workers tell one another travels as this: float32 | bfloat16 | float16
    mixed_precision: str = "float32"  # what a step computes in where it may: float32 | bfloat16 | float16
    rate_factor: float = 1.0  # of the learning rate of local steps, see `udfs.schedules.rate_factor`

    @property
    def is_short(self) -> bool:
        """Whether what workers tell one another has two bytes a number."""
        return self.transport != "float32"

    @property
    def steps_out(self) -> bool:
        """Whether an averaging is a step of an outer optimiser towards the workers' average, and not that average itself."""
        return (self.outer_learn_rate, self.outer_momentum) != (1.0, 0.0)


@dataclass(frozen=True, slots=True)
class GroupTraining:
    """How each group's network is trained by TRAIN and `partition_cols`: all that is not learned from the group's own rows."""

    features: tuple[Feature, ...]  # name, type and kind
    label: Label  # name and type
    steps: LocalSteps  # its network without the widths that follow from the rows
    rates: tuple[float, ...]  # the learning rate of each epoch
    deep: bool
    auto_class_weights: bool
    class_weights: tuple[tuple[str, float], ...]
    split: str  # auto_split | random | custom | seq | no_split
    held_out: float  # the share for random and seq
    weighted: bool
    rules: Rules

    @property
    def splits_by_column(self) -> bool:
        """Whether a column says which rows are held out."""
        return self.split in ("custom", "seq")


@dataclass(frozen=True, slots=True)
class Tensor:
    """What a graph takes of a row, or gives for it."""

    name: str  # of the column
    tensor: str  # of the graph's own
    dtype: str  # as numpy names it
    shape: tuple[int | None, ...]  # of a row; None: any size
    pad: float | None = None  # what rows that are shorter than others are filled up with, where they may be

    @property
    def is_open(self) -> bool:
        """Whether rows differ in size."""
        return None in self.shape

    @property
    def fixed(self) -> int:
        """The elements of a row, or of one step of what has any number of them."""
        return math.prod(size for size in self.shape if size is not None)

    @property
    def is_scalar(self) -> bool:
        """Whether a row of it is one value."""
        return not self.is_open and self.fixed == 1

    @property
    def shown(self) -> str:
        """For messages."""
        return f"{self.dtype} [{', '.join('any' if size is None else str(size) for size in self.shape)}]"


@dataclass(frozen=True, slots=True)
class Graph:
    """A network that was imported: which columns feed it, and which leave it."""

    inputs: tuple[Tensor, ...]  # in the order of the columns
    outputs: tuple[Tensor, ...]
    order: tuple[str, ...]  # of the tensors that it takes
    batch: int | None  # rows that a run takes: None for any number, 0 for one whose tensors are not divided into rows
    lengths: tuple[tuple[str, str], ...] = ()  # tensors that are told how long the rows of another one are
    lengths_dtype: str = "int64"

    @property
    def is_even(self) -> bool:
        """Whether all rows are of one size, and of any."""
        return not self.lengths and all(one.fixed and not one.is_open for one in self.inputs)

    @property
    def given_bytes(self) -> int:
        """How many bytes it gives for a row, those of sizes that are not known aside."""
        return sum(one.fixed * np.dtype(one.dtype).itemsize for one in self.outputs)

    def to_json(self) -> str:
        """The form in the model store."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Graph":
        """The inverse of `to_json`."""
        read = json.loads(text)
        inputs, outputs = (tuple(Tensor(**{**one, "shape": tuple(one["shape"])}) for one in read[side]) for side in ("inputs", "outputs"))
        lengths = tuple((name, of) for name, of in read["lengths"])
        return cls(inputs, outputs, tuple(read["order"]), read["batch"], lengths, read["lengths_dtype"])


class Shared(Protocol):
    """A value that every executor fetches once: Spark's broadcast variable, seen without importing pyspark."""

    @property
    def value(self) -> Any:
        """What is shared."""


TENSORS = "model.onnx.data"
"""The file of a large graph's tensors, which the graph names as ONNX's external data."""
ROW_BYTES = "dlsql.row_bytes"
"""The key of a graph's metadata under which it says how many bytes the largest tensor has that a run makes of one row."""
LARGE = 16 << 20
"""Bytes of a file from which on workers take it from a disk."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """The files of an artefact that score, as they travel."""

    files: Shared  # Mapping[str, bytes]
    large: Mapping[str, Shared] = field(default_factory=dict)  # files that lie on a host's disk; where Spark encrypts those, bytes
    folder: str | None = None  # where a host may see the files anyway


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a worker scores: which model, and which columns it is given."""

    sha256: str  # of the bundle: the key of the worker's cache of loaded models
    bundle: Bundle
    engine: str
    task: str | None  # None: several labels, whose tasks the model knows
    threads: int
    strict: bool = True  # False: a row that cannot be scored gives NULL


@dataclass(frozen=True, slots=True)
class ValueScoring:
    """How a worker scores rows that each name their own network."""

    names: tuple[str, ...]  # of the feature columns
    answer: pa.DataType  # of the label
    task: str | None  # what every network must be; None: either, and the answer is the label alone
    whole: bool  # a classification's label, probability and probabilities; else the label alone
    strict: bool = True
