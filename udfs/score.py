"""One batch whose rows each name their own network: by a BINARY value in the row, or by the group that the row belongs to."""

import dataclasses
import difflib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from udfs import preprocess, tensors, values
from udfs.engines import Predictor, plain
from udfs.errors import ScoringError
from udfs.placing import held, placed_files
from udfs.predict import classification, softmax
from udfs.spec import Label, Preprocess, Scoring, ValueScoring
from udfs.worker import ROOM, Kept

_NUMERIC = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
_FITS = {
    "number": (*_NUMERIC, pa.types.is_boolean),
    "time": (pa.types.is_date, pa.types.is_timestamp),
    "category": (*_TEXTS[:2], pa.types.is_dictionary),
    "numbers": (pa.types.is_list, pa.types.is_large_list),
}


@dataclass(frozen=True, slots=True)
class _Loaded:
    learned: Preprocess
    task: str
    network: Predictor
    bytes: int


@dataclass(frozen=True, slots=True)
class _Groups:
    """The networks of a model by group."""

    keys: tuple[pa.Array, ...]  # the different values of each partition column
    groups: npt.NDArray[np.int64]  # the places of each group's key in `keys` as one number, ascending
    order: npt.NDArray[np.int64]  # in the same order: the place in `networks`
    networks: pa.Array  # NULL for a group without a network; out of a file that all workers map, where they are large
    trained: npt.NDArray[np.bool_]  # which groups have one
    bytes: int


_LOADED = Kept[_Loaded](ROOM, lambda one: one.bytes)
_GROUPS = Kept[_Groups](ROOM, lambda one: one.bytes, least=4)


def predict_values(how: ValueScoring, *columns: pa.Array) -> pa.Array:
    """Scores rows that hold their network. Each different network of the batch is loaded once.

    Args:
        how: what is asked, and of which columns.
        columns: the networks (BINARY), then the features, see `tensors.wanted`.

    Raises:
        ScoringError: bytes that are no network, or one that takes other features or answers another type.
    """
    mask, (networks, *features) = tensors.wanted(columns)
    different = networks.dictionary_encode()
    which = np.asarray(pc.fill_null(different.indices.cast(pa.int64()), -1), dtype=np.int64)

    def load(place: int) -> _Loaded:
        data = different.dictionary[place].as_py()
        return _load(hashlib.sha256(data).digest(), lambda: data)

    return _score(how, load, np.where(mask, which, -1), features)


def predict_groups(how: ValueScoring, scoring: Scoring, *columns: pa.Array) -> pa.Array:
    """Scores rows with the networks of a model by group.

    Args:
        how: what is asked, and of which columns.
        scoring: the model.
        columns: the partition columns, then the features, see `tensors.wanted`.
    """
    mask, given = tensors.wanted(columns)
    model = _groups(scoring)
    keys = len(model.keys)
    places = _places(model.keys, given[:keys])
    found = np.minimum(np.searchsorted(model.groups, places), len(model.groups) - 1)
    known = (places >= 0) & (model.groups[found] == places)
    which = np.where(mask & known & model.trained[found], found, -1)
    how = dataclasses.replace(how, names=how.names[keys:])
    return _score(how, lambda group: _load((scoring.sha256, group), model.networks[model.order[group]].as_py), which, given[keys:])


def _groups(scoring: Scoring) -> _Groups:
    def load() -> _Groups:
        files, folder = placed_files(scoring)
        source = pa.BufferReader(files["groups.arrow"]) if folder is None else pa.memory_map(str(folder / "groups.arrow"))
        (batch,) = pa.ipc.open_file(source).read_all().to_batches()
        *keys, networks = batch.columns
        different = tuple(column.unique() for column in keys)
        places = _places(different, keys)
        order = np.argsort(places, kind="stable")
        trained = np.asarray(pc.is_valid(networks), dtype=bool)[order]
        return _Groups(different, places[order], order, networks, trained, held(files, folder))

    return _GROUPS.get(scoring.sha256, load)


def _places(keys: Sequence[pa.Array], columns: Sequence[pa.Array]) -> npt.NDArray[np.int64]:
    """The key of each row as one number, -1 where a part of it is unknown; NULL is a key like others. [rows]"""
    place = np.zeros(len(columns[0]), np.int64)
    unknown = np.zeros(len(columns[0]), bool)
    for known, column in zip(keys, columns, strict=True):
        found = np.asarray(pc.fill_null(pc.index_in(column.cast(known.type), value_set=known), -1), dtype=np.int64)
        unknown |= found < 0
        place = place * len(known) + found
    return np.where(unknown, -1, place)


def _load(key: bytes | tuple[str, int], data: Callable[[], bytes]) -> _Loaded:
    """A network from the worker's memory, or read now."""

    def load() -> _Loaded:
        stored = data()
        read = values.read(stored)
        return _Loaded(read.learned, read.task, plain.load(read.network, read.tensors), len(stored))

    return _LOADED.get(key, load)


def _score(how: ValueScoring, load: Callable[[int], _Loaded], which: npt.NDArray[np.int64], columns: Sequence[pa.Array]) -> pa.Array:
    """Rows by the networks that `which` [rows] names -> their answers; NULL where it is -1."""
    order = np.argsort(which, kind="stable")
    order = order[which[order] >= 0]  # rows by network
    here, ranked = np.unique(which[order], return_inverse=True)
    loaded = [load(int(one)) for one in here]
    alike: dict[object, list[int]] = {}  # networks that take the same
    for place, one in enumerate(loaded):
        alike.setdefault(preprocess.form(one.learned), []).append(place)
    places, pieces, count = np.full(len(which), -1), [pa.nulls(0, _type(how))], 0
    for members in alike.values():
        theirs = np.isin(ranked, members)
        rows = order[theirs]
        given = [column.take(pa.array(rows)) for column in columns]
        answers, fits = _score_alike(how, [loaded[place] for place in members], np.searchsorted(members, ranked[theirs]), given)
        places[rows[fits]] = count + np.flatnonzero(fits)
        pieces += answers
        count += len(rows)
    return pa.concat_arrays(pieces).take(pa.array(places, mask=places < 0))


def _score_alike(
    how: ValueScoring, loaded: Sequence[_Loaded], which: npt.NDArray[np.int64], columns: Sequence[pa.Array]
) -> tuple[list[pa.Array], npt.NDArray[np.bool_]]:
    """Rows in the order of their networks, which all take the same -> the answers of each, and which rows could be scored."""
    inputs = preprocess.encode_each([one.learned for one in loaded], which, _matched(how, loaded[0].learned, columns))
    if how.strict and inputs.misfit.any():
        raise ScoringError(next(iter(inputs.misfits.values())))
    ends = np.searchsorted(which, np.arange(len(loaded) + 1))
    answers = [
        _answer(how, one, one.network(inputs.dense[begin:end], inputs.codes[begin:end]))
        for one, begin, end in zip(loaded, ends[:-1], ends[1:], strict=True)
    ]
    return answers, ~inputs.absent & ~inputs.misfit


def _matched(how: ValueScoring, learned: Preprocess, columns: Sequence[pa.Array]) -> list[pa.Array]:
    """The columns that a network takes, by name. Raises ScoringError for one that is missing or of another kind."""
    places = {name.casefold(): place for place, name in enumerate(how.names)}
    found = []
    for feature in learned.features:
        if feature.name.casefold() not in places:
            near = difflib.get_close_matches(feature.name, how.names, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise ScoringError(f"A network takes `{feature.name}`, and the features hold {', '.join(how.names)}.{hint}")
        column = columns[places[feature.name.casefold()]]
        if not pa.types.is_null(column.type) and not any(fits(column.type) for fits in _FITS[feature.kind]):
            raise ScoringError(f"A network takes `{feature.name}` as {feature.type.upper()}, and it is {column.type}.")
        found.append(column)
    return found


def _answer(how: ValueScoring, one: _Loaded, outputs: npt.NDArray[np.float32]) -> pa.Array:
    """The outputs of one network [rows, outputs] -> its answers, in the type that is asked for."""
    label = one.learned.label
    if how.task is not None and one.task != how.task:
        kinds = {"regression": "a number", "classification": "a class"}
        raise ScoringError(f"A network answers {kinds[one.task]}, where the query expects {kinds[how.task]}.")
    if label.classes is None:
        return _converted(how, label, pa.array(outputs[:, 0].astype(np.float64) * label.scale + label.mean))
    classes = _converted(how, label, label.classes)
    if how.whole:
        return classification(Label(label.name, label.type, classes), outputs)
    return classes.take(pa.array(softmax(outputs).argmax(axis=1)))


def _converted(how: ValueScoring, label: Label, values: pa.Array) -> pa.Array:
    """Values of a label in the type that the query was analysed with. Raises ScoringError where that would change them."""
    if values.type == how.answer:
        return values
    both = (values.type, how.answer)
    if all(any(is_kind(one) for is_kind in _NUMERIC) for one in both) or all(any(is_kind(one) for is_kind in _TEXTS) for one in both):
        return values.cast(how.answer, safe=False)
    answered = "double" if label.classes is None else label.type
    raise ScoringError(
        f"The network's answer is {answered.upper()}, and the query expects {how.answer}. Say its type: PREDICT(m, features, '{answered}')."
    )


def _type(how: ValueScoring) -> pa.DataType:
    if not how.whole:
        return how.answer
    entry = pa.struct([("label", how.answer), ("probability", pa.float64())])
    return pa.struct([("label", how.answer), ("probability", pa.float64()), ("probabilities", pa.list_(entry))])
