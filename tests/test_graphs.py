"""A batch of an imported network, as a worker scores it: Arrow columns in, Arrow columns out, in ONNX Runtime or torch."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from dlsql.errors import DlsqlError
from dlsql.formats import imported
from dlsql.inference import digest
from dlsql.options import read_import
from tests.graphs import BOOL, DOUBLE, FLOAT, HALF, INT8, INT64, UINT8, UINT64, Held, graph
from udfs.errors import ScoringError
from udfs.graphs import predict_graph, predict_output
from udfs.spec import Bundle, Scoring


def scoring(file: Path, *inputs: tuple[str, str], strict: bool = True, **options: Any) -> Scoring:
    """How PREDICT, or where not strict TRY_PREDICT, scores with the model of a file."""
    found = imported.read(lambda path: Path(path).read_bytes(), read_import((("model_path", str(file)), *options.items())), inputs, ())
    return Scoring(digest(found.files), Bundle(Held(found.files)), found.engine, "imported", 1, strict)


def same(folder: Path, kind: int, *sizes: int | str) -> Path:
    """A graph that gives back `x` [rows, *sizes] as it is."""
    return graph(folder, [("Identity", ["x"], ["y"])], [("x", kind, ["n", *sizes])], [("y", kind, ["n", *sizes])])


INT16, F32, F64 = pa.int16(), pa.float32(), pa.float64()
BYTE, LONG = "the model takes uint8, from 0 to 255.", "the model takes int64, from -9223372036854775808 to 9223372036854775807."


@pytest.mark.parametrize(
    ("kind", "column", "fits", "said"),
    [
        (UINT8, pa.array([255, 0, -1, 300], INT16), [255, 0, None, None], f"`x` holds -1; {BYTE}"),
        (UINT8, pa.array([300, 7, None], INT16), [None, 7, None], f"`x` holds 300; {BYTE}"),
        (UINT8, pa.array([2.9, -0.9, 256.0], F64), [2, 0, None], f"`x` holds 256.0; {BYTE}"),  # a fraction is cut off, as in CAST
        (UINT8, pa.array([Decimal("255.9"), None, 256], pa.decimal128(5, 1)), [255, None, None], f"`x` holds 256.0; {BYTE}"),
        (UINT64, pa.array([5, -1], pa.int64()), [5, None], "`x` holds -1; the model takes uint64, from 0 to 18446744073709551615."),
        (INT64, pa.array([np.nan, -np.inf, 2.0**63, -(2.0**63)], F64), [None, None, None, -(2**63)], f"`x` holds nan; {LONG}"),
        (INT64, pa.array([-(2.0**63), 1e19], F32), [-(2**63), None], f"`x` holds 9.999999980506448e+18; {LONG}"),
        (HALF, pa.array([1e6, 65504, np.inf], F32), [None, 65504, np.inf], "`x` holds 1000000.0; the model takes float16, from -65504.0 to 65504.0."),
        (HALF, pa.array([100_000, 2], pa.int32()), [None, 2], "`x` holds 100000; the model takes float16, from -65504.0 to 65504.0."),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["alone", "array", "any length"])
def test_a_number_that_a_tensor_cannot_hold_fails_or_is_null(
    tmp_path: Path, kind: int, column: pa.Array, fits: Sequence[Any], said: str, form: str
) -> None:
    """The row alone, also among rows in arrays whose other elements fit."""
    file = same(tmp_path, kind, *{"alone": (), "array": (2,), "any length": ("length",)}[form])
    if form != "alone":
        whole = pa.array([1] * len(column), column.type)
        column = pa.ListArray.from_arrays(pa.array(range(0, 2 * len(column) + 1, 2), pa.int32()), interleaved(whole, column))
    with pytest.raises(ScoringError) as failed:
        predict_output(scoring(file), column)
    assert failed.value.problem == said
    wanted = [one if one is None or form == "alone" else [1, one] for one in fits]
    assert [plain(one) for one in predict_output(scoring(file, strict=False), column).to_pylist()] == wanted


def interleaved(first: pa.Array, second: pa.Array) -> pa.Array:
    """One of each in turn."""
    return pa.concat_arrays([first, second]).take(pa.array(np.arange(2 * len(first)).reshape(2, -1).T.ravel()))


def plain(value: Any) -> Any:
    """Without decimals."""
    return [plain(one) for one in value] if isinstance(value, list) else int(value) if isinstance(value, Decimal) else value


def test_a_row_that_is_not_asked_for_may_hold_any_number(tmp_path: Path) -> None:
    """It is in another branch of CASE, or NULL itself. Beside a NULL, what does not fit is wrong as elsewhere."""
    nodes = [("Add", ["a", "b"], ["y"])]
    file = graph(tmp_path, nodes, [("a", UINT8, ["n", 2]), ("b", UINT8, ["n", 2])], [("y", UINT8, ["n", 2])])
    kind = pa.list_(pa.int16())
    b = pa.array([[0, 0], [1, 2], [3, None], [3, 4]], kind)

    def score(a: list[Any], strict: bool = True) -> list[Any]:
        first = pa.StructArray.from_arrays([pa.array([False, True, True, True]), pa.array(a, kind)], names=["wanted", "column"])
        return list(predict_output(scoring(file, strict=strict), first, b).to_pylist())

    assert score([[300, 0], None, [1, 2], [1, 2]]) == [None, None, None, [4, 6]]
    for wrong in ([300, 0], [300, None], [1], [None]):
        with pytest.raises(ScoringError, match="holds"):
            score([[1, 2], [1, 2], wrong, [1, 2]])
        assert score([[1, 2], [1, 2], wrong, [1, 2]], strict=False) == [None, [2, 4], None, [4, 6]]


def test_a_double_beyond_float_is_infinite_as_in_casts_of_spark(tmp_path: Path) -> None:
    given = pa.array([1e300, -1e300, np.nan, 0.1])
    np.testing.assert_array_equal(
        predict_output(scoring(same(tmp_path, FLOAT)), given), np.array([np.inf, -np.inf, np.nan, 0.1], np.float32)
    )


def test_decimals_enter_whole_tensors_digit_by_digit(tmp_path: Path) -> None:
    odd = 9007199254740993  # which a float64 does not hold
    scored = predict_output(scoring(same(tmp_path, INT64), ("x", "DECIMAL(20,0)")), pa.array([odd, None, -odd], pa.decimal128(20, 0)))
    assert scored.to_pylist() == [odd, None, -odd]


@pytest.mark.parametrize("sizes", [(), (1,), (1, 1)])
def test_whole_numbers_of_64_bits_without_a_sign_are_decimals(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    numbers = [Decimal(2**64 - 1), Decimal(2**63), Decimal(1)]
    file = same(tmp_path, UINT64, *sizes, *([2] if sizes else []))
    found = imported.read(lambda path: Path(path).read_bytes(), read_import((("model_path", str(file)),)), (), ())
    depth = len(sizes) + bool(sizes)
    assert found.signature.inputs[0].type == ("array<decimal(20,0)>" if sizes else "decimal(20,0)")
    assert found.signature.label.type == "array<" * depth + "decimal(20,0)" + ">" * depth
    kind = pa.decimal128(20, 0)
    given = pa.array([[one, one] for one in numbers], pa.list_(kind)) if sizes else pa.array(numbers, kind)
    scored = predict_output(scoring(file), given)
    flat = scored
    while pa.types.is_list(flat.type):
        flat = flat.flatten()
    assert flat.type == kind
    assert flat.to_pylist() == [one for one in numbers for _ in range(2 if sizes else 1)]
    assert predict_output(scoring(file, strict=False), pa.array([-1]) if not sizes else pa.array([[-1, 0]])).to_pylist() == [None]


@pytest.mark.parametrize(
    ("kind", "dtype", "numbers"),
    [
        (UINT8, "uint8", [0, 200, 255]),
        (INT8, "int8", [-128, 0, 127]),
        (INT64, "int64", [-(2**63), 0, 2**63 - 1]),
        (UINT64, "uint64", [0, 2**63, 2**64 - 1]),
        (HALF, "float16", [0.5, -65504.0, np.inf]),
        (DOUBLE, "float64", [0.1, -1e300, 5e-324]),
        (BOOL, "bool", [True, False, True]),
    ],
)
@pytest.mark.parametrize("open", [False, True])
def test_bytes_are_in_the_tensors_own_type(tmp_path: Path, kind: int, dtype: str, numbers: list[Any], open: bool) -> None:
    file = same(tmp_path, kind, "length" if open else 3)
    array = np.array(numbers, dtype)
    column = pa.array([None, array.tobytes(), array[::-1].tobytes(), None], pa.binary())[1:]  # on odd addresses, too
    for given in (column, pa.concat_arrays([pa.array([b"x"]), column])[1:]):
        answers = predict_output(scoring(file, ("x", "BINARY")), given).to_pylist()
        assert [plain(one) for one in answers] == [numbers, numbers[::-1], None]
    torn = pa.array([array.tobytes(), array.tobytes() + b"x", b""])
    answers = predict_output(scoring(file, ("x", "BINARY"), strict=False), torn).to_pylist()
    shorter = None if array.itemsize > 1 or not open else [*numbers, True if dtype == "bool" else ord("x")]
    assert [plain(one) for one in answers] == [numbers, shorter, None]
    if array.itemsize > 1:
        with pytest.raises(ScoringError, match=r"`x` holds -1 elements a row; the model takes"):
            predict_output(scoring(file, ("x", "BINARY")), torn)


def test_bytes_of_a_scalar_tensor(tmp_path: Path) -> None:
    column = pa.array([np.array([200], np.uint8).tobytes(), None, b""])
    assert predict_output(scoring(same(tmp_path, UINT8), ("x", "BINARY"), strict=False), column).to_pylist() == [200, None, None]


def test_a_null_array_whose_slot_is_not_empty_is_passed_over(tmp_path: Path) -> None:
    """Arrow's layout allows it, beside arrays that hold a NULL."""
    offsets, elements = pa.array([0, 2, 4, 6, 8], pa.int32()), pa.array([1, 2, 300, None, 5, None, 7, 8], pa.int16())
    column = pa.ListArray.from_arrays(offsets, elements, mask=pa.array([False, True, False, False]))
    assert predict_output(scoring(same(tmp_path, UINT8, 2)), column).to_pylist() == [[1, 2], None, None, [7, 8]]
    assert predict_output(scoring(same(tmp_path, UINT8, 2)), column[1:]).to_pylist() == [None, None, [7, 8]]


def test_what_shorter_rows_are_filled_up_with_must_be_a_number_of_the_tensor(tmp_path: Path) -> None:
    file = same(tmp_path, UINT8, "length")
    assert predict_output(scoring(file, pad={"x": 255}), pa.array([[1], [2, 3]])).to_pylist() == [[1, 255], [2, 3]]
    for value in (256, -1, 0.5):
        with pytest.raises(DlsqlError, match=r"Option `pad` is .*; a row's `x` is uint8 \[any\], which it does not fit."):
            scoring(file, pad={"x": value})


def test_a_length_that_its_tensor_cannot_hold_fails_or_is_null(tmp_path: Path) -> None:
    nodes = [("Cast", ["count"], ["y"], {"to": INT64})]
    file = graph(tmp_path, [*nodes, ("Identity", ["x"], ["z"])], [("x", FLOAT, ["n", "length"]), ("count", INT8, ["n"])],
                 [("y", INT64, ["n"]), ("z", FLOAT, ["n", "length"])])  # fmt: skip
    column = pa.array([[0.0] * 128, [0.0] * 127, [0.0]], pa.list_(F32))
    options: dict[str, Any] = {"pad": {"x": 0}, "lengths": {"count": "x"}}
    with pytest.raises(ScoringError, match=r"`x` holds 128 steps a row; the model takes their number as int8\."):
        predict_graph(scoring(file, **options), column)
    assert predict_graph(scoring(file, strict=False, **options), column).field("y").to_pylist()[1:] == [127, 1]
    assert predict_graph(scoring(file, strict=False, **options), column).is_null().to_pylist() == [True, False, False]


@pytest.mark.parametrize(
    ("type", "kind"), [("BINARY", F32), ("ARRAY<FLOAT>", F32), ("ARRAY<DOUBLE>", F64), ("ARRAY<SMALLINT>", INT16), ("ARRAY<DECIMAL(20,0)>", pa.decimal128(20, 0))]
)  # fmt: skip
def test_the_types_of_input_are_those_of_the_tensors_of_torchscript_and_bytes_are_float32(tmp_path: Path, type: str, kind: Any) -> None:
    """What goes in comes out."""
    torch.jit.script(torch.nn.Identity()).save(str(tmp_path / "model.pt"))
    column = pa.array([np.array([1, 2], "<f4").tobytes()]) if type == "BINARY" else pa.array([[1, 2]], pa.list_(kind))
    scored = predict_output(scoring(tmp_path / "model.pt", ("x", type), reshape={"x": [2]}), column)
    assert (scored.type, scored.to_pylist()) == (pa.list_(kind), [[1, 2]])
