"""Columns that are slices of longer ones are read as what they hold: workers are given such, and filters and structs make more."""

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.graphs import BOOL, DOUBLE, FLOAT, INT64, UINT8, Held, graph
from tests.test_groups import how
from udfs import rows, score, tensors
from udfs.graphs import predict_graph
from udfs.groups import train_group
from udfs.preprocess import encode
from udfs.spec import Bundle, Feature, Graph, Label, Preprocess, Scoring, Tensor, ValueScoring

ROWS = 7


def cut(column: pa.Array, before: int) -> pa.Array:
    """The same values in the midst of others."""
    other = column.take(pa.array(np.arange(before) % len(column)))
    return pa.concat_arrays([other, column, column]).slice(before, len(column))


def hollow(column: pa.Array) -> pa.Array:
    """The same lists, where the slots of NULLs hold elements that are nobody's."""
    filled = column.fill_null(column.drop_null()[0])
    return type(column).from_arrays(filled.offsets, filled.values, type=column.type, mask=column.is_null())


def nested(column: pa.Array) -> pa.Array:
    """The same values as the field of a struct that is a slice of one of slices, and beside it the rows that are wanted."""
    wanted = pa.array([True] * len(column))
    inner = pa.StructArray.from_arrays([cut(wanted, 2), cut(column, 5)], names=["wanted", "column"])
    return cut(inner, 3)


LISTS = pa.array([[1, 2], None, [3, 4], [5, None], [6, 7], None, [8, 9]], pa.list_(pa.int16()))
NUMBERS = pa.array([1, None, 3, 4, 5, None, 7], pa.float64())
BYTES = pa.array([None if i % 3 == 1 else np.array([i, i + 1], "<f4").tobytes() for i in range(ROWS)])
WORDS = pa.array(["b", None, "a", "zz", "b", "", "a"])

SAME: dict[str, tuple[pa.Array, Callable[[pa.Array], Any]]] = {
    "numbers of doubles": (NUMBERS, tensors.numbers),
    "numbers of decimals": (pa.array([Decimal(i) / 4 if i % 3 else None for i in range(ROWS)], pa.decimal128(9, 2)), tensors.numbers),
    "numbers of booleans": (pa.array([True, None, False, True, True, None, False]), tensors.numbers),
    "numbers of dates": (pa.array([None, *(date(2024, 1, i + 1) for i in range(ROWS - 1))]), tensors.numbers),
    "numbers of timestamps": (
        pa.array([None, *(datetime(2024, 1, i + 1, tzinfo=UTC) for i in range(ROWS - 1))], pa.timestamp("us", "UTC")),
        tensors.numbers,
    ),
    "narrowed": (pa.array([1, None, 300, 4, -1, None, 7], pa.int16()), lambda column: tensors.narrowed(column, np.dtype("uint8"))),
    "narrowed decimals": (
        pa.array([1, None, 300, 4, -1, None, 7], pa.decimal128(20, 0)),
        lambda column: tensors.narrowed(column, np.dtype("uint8")),
    ),
    "narrowed booleans": (pa.array([True, None, False] * 2 + [True]), lambda column: tensors.narrowed(column, np.dtype("float32"))),
    "lists": (LISTS, lambda column: tensors.lists(column, 2)),
    "lists of which some are of another length": (
        pa.array([[1], None, [3, 4], [5, None], [], None, [8, 9]], pa.list_(pa.int16())),
        lambda column: tensors.lists(column, 2),
    ),
    "large lists": (LISTS.cast(pa.large_list(pa.int16())), lambda column: tensors.lists(column, 2)),
    "packed": (BYTES, lambda column: tensors.packed(column, 2)),
    "packed large": (BYTES.cast(pa.large_binary()), lambda column: tensors.packed(column, 2)),
    "contents": (BYTES.fill_null(b"none"), tensors.contents),
    "codes": (WORDS, lambda column: tensors.codes(column, pa.array(["a", "b"]), True)),
    "codes of a dictionary": (WORDS.dictionary_encode(), lambda column: tensors.codes(column, pa.array(["a", "b"]), True)),
    "codes of large strings": (WORDS.cast(pa.large_string()), lambda column: tensors.codes(column, pa.array(["a", "b"]), True)),
    "records": (BYTES, lambda column: rows.records(column, rows.row_type(ONE_LIST))["dense"]),
    "results": (BYTES, lambda column: rows.results(column, rows.row_type(ONE_LIST), np.arange(5, dtype=np.float32)[:, None])),
}
ONE_LIST = Preprocess((Feature("v", "array<float>", "numbers", (0.0, 0.0), (1.0, 1.0)),), Label("y", "double"))


def assert_same(found: Any, wanted: Any) -> None:
    if isinstance(wanted, pa.Array):
        assert found.equals(wanted)
    elif isinstance(wanted, np.ndarray):
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == wanted.dtype
    else:
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("before", [1, 3, 8, 9])
@pytest.mark.parametrize("what", SAME)
def test_a_slice_is_read_as_the_same_values_by_themselves(what: str, before: int) -> None:
    column, read = SAME[what]
    assert_same(read(cut(column, before)), read(column))


@pytest.mark.parametrize("before", [0, 1, 9])
def test_elements_in_the_slots_of_nulls_are_nobodys(before: int) -> None:
    lists = hollow(LISTS)
    assert lists.equals(LISTS)
    assert len(lists.values) > len(LISTS.values)
    assert_same(tensors.lists(cut(lists, before) if before else lists, 2), tensors.lists(LISTS, 2))


def test_the_fields_of_a_sliced_struct_are_sliced_with_it() -> None:
    mask = pa.array([True, False, None, True, True, False, True])
    whole = pa.StructArray.from_arrays([mask, LISTS], names=["wanted", "column"])
    for struct in (cut(whole, 3), pa.StructArray.from_arrays([cut(mask, 9), cut(LISTS, 1)], names=["wanted", "column"])):
        wanted, (column, beside) = tensors.wanted([struct, NUMBERS])
        assert wanted.tolist() == [True, False, False, True, True, False, True]
        assert column.equals(LISTS)
        assert beside is NUMBERS
    absent = pa.StructArray.from_arrays([mask, LISTS], names=["wanted", "column"], mask=pa.array([i == 3 for i in range(ROWS)]))
    assert tensors.wanted([cut(absent, 9)])[0].tolist() == [True, False, False, False, True, False, True]


GRAPH: dict[str, tuple[int, tuple[int | str, ...], pa.Array]] = {
    "lists": (UINT8, (2,), LISTS),
    "lists with NULLs that are not empty": (UINT8, (2,), hollow(LISTS)),
    "lists with numbers that do not fit": (UINT8, (2,), pa.array([[1, 2], [300, 1], None, [3, 4], [5], [None, -1], [6, 7]], pa.list_(pa.int16()))),
    "lists of any length": (FLOAT, ("length",), pa.array([[1, 2], [3], None, [4, 5], [], [6, None], [7, 8, 9]], pa.list_(pa.float32()))),
    "large lists": (UINT8, (2,), LISTS.cast(pa.large_list(pa.int16()))),
    "numbers": (DOUBLE, (), NUMBERS),
    "whole numbers": (UINT8, (), pa.array([1, None, 300, 4, -1, None, 7], pa.int16())),
    "decimals": (INT64, (), pa.array([1, None, 300, 4, -1, None, 7], pa.decimal128(20, 0))),
    "booleans": (BOOL, (), pa.array([True, None, False, True, True, None, False])),
    "bytes": (FLOAT, (2,), BYTES),
    "bytes of any length": (UINT8, ("length",), pa.array([b"a", None, b"bc", b"", b"def", b"g", b"hi"])),
}  # fmt: skip


@pytest.mark.parametrize("before", [1, 3, 8, 9])
@pytest.mark.parametrize("what", GRAPH)
def test_a_graph_gives_the_same_for_a_slice(tmp_path: Path, what: str, before: int) -> None:
    kind, sizes, column = GRAPH[what]
    file = graph(tmp_path, [("Identity", ["x"], ["y"])], [("x", kind, ["n", *sizes])], [("y", kind, ["n", *sizes])])
    dtype = {UINT8: "uint8", FLOAT: "float32", DOUBLE: "float64", INT64: "int64", BOOL: "bool"}[kind]
    taken, given = (Tensor(name, name, dtype, tuple(one if isinstance(one, int) else None for one in sizes)) for name in "xy")
    model = Scoring(
        hashlib.sha256(what.encode()).hexdigest(),
        Bundle(Held({"model.onnx": file.read_bytes(), "graph.json": Graph((taken,), (given,), ("x",), None).to_json().encode()})),
        "onnxruntime", "imported", 1, strict=False,
    )  # fmt: skip
    whole = predict_graph(model, column)
    assert whole.null_count < ROWS
    for one in (cut(column, before), nested(column), cut(nested(column), before)):
        assert_same(predict_graph(model, one), whole)


FEATURES = (
    Feature("a", "double", "number"),
    Feature("c", "string", "category"),
    Feature("v", "array<double>", "numbers"),
)


@pytest.fixture(scope="module")
def networks() -> list[bytes]:
    """Of three groups."""
    random = np.random.default_rng(0)
    made = []
    for group in range(3):
        a = random.normal(size=60)
        columns = [pa.array(np.arange(60)), pa.array(a * (group + 1)), pa.array(a), pa.array(["a", "b", None] * 20), pa.array(random.normal(size=(60, 2)).tolist(), pa.list_(pa.float64()))]  # fmt: skip
        made.append(train_group(how(features=FEATURES), *columns))
    assert all(made)
    return [one for one in made if one]


FED = [NUMBERS, WORDS, pa.array([[1.0, 2.0], None, [3.0, None], [0.0, 1.0], [1.0], [2.0, 2.0], [3.0, 1.0]], pa.list_(pa.float64()))]
ASKED = ValueScoring(("a", "c", "v"), pa.float64(), "regression", False, strict=False)


def sliced(columns: Sequence[pa.Array], before: int) -> list[pa.Array]:
    """Each begins elsewhere."""
    return [cut(column, before + place) for place, column in enumerate(columns)]


@pytest.mark.parametrize("before", [1, 8])
@pytest.mark.parametrize("dictionary", [False, True])
def test_networks_by_value_answer_the_same_for_slices(networks: list[bytes], before: int, dictionary: bool) -> None:
    values = pa.array([networks[0], networks[1], None, networks[2], networks[1], networks[0], networks[2]])
    whole = score.predict_values(ASKED, values, *FED)
    assert whole.is_null().to_pylist() == [False, False, True, False, True, False, False]  # no network; an array of another length
    a, c, v = FED
    fed = [a, c.dictionary_encode() if dictionary else c, v]
    assert_same(score.predict_values(ASKED, *sliced([values, *fed], before)), whole)
    assert_same(score.predict_values(ASKED, nested(values), *sliced(fed, before)), whole)


@pytest.mark.parametrize("before", [1, 8])
@pytest.mark.parametrize("dictionary", [False, True])
def test_networks_by_group_answer_the_same_for_slices(networks: list[bytes], before: int, dictionary: bool) -> None:
    batch = pa.record_batch({"town": pa.array(["Ulm", None, "Rome"]), "network": pa.array(networks)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    model = Scoring("by group", Bundle(Held({"groups.arrow": sink.getvalue().to_pybytes()})), "groups", "regression", 1, strict=False)
    asked = ValueScoring(("town", *ASKED.names), pa.float64(), "regression", False, strict=False)
    towns = pa.array(["Ulm", None, "Rome", "Oslo", "Rome", None, "Ulm"])
    whole = score.predict_groups(asked, model, towns, *FED)
    assert whole.is_null().to_pylist() == [
        False,
        False,
        False,
        True,
        True,
        False,
        False,
    ]  # a town without network; an array of another length
    given = towns.dictionary_encode() if dictionary else towns
    assert_same(score.predict_groups(asked, model, *sliced([given, *FED], before)), whole)
    assert_same(score.predict_groups(asked, model, nested(given), *sliced(FED, before)), whole)


@pytest.mark.parametrize("before", [1, 8])
def test_learned_preprocessing_is_the_same_for_slices(before: int) -> None:
    features = (
        Feature("a", "double", "number", (1.0,), (2.0,)),
        Feature("c", "string", "category", vocabulary=("a", "b"), nulls_seen=True),
        Feature("v", "array<double>", "numbers", (0.0, 1.0), (1.0, 2.0)),
        Feature("d", "date", "time", (0.0,), (86_400.0,)),
    )
    columns = [*FED, pa.array([None, *(date(2024, 1, i + 1) for i in range(ROWS - 1))])]
    learned = Preprocess(features, Label("y", "double"))
    whole, found = encode(learned, columns), encode(learned, sliced(columns, before))
    for name in ("dense", "codes", "absent", "misfit"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    assert found.misfits == whole.misfits
