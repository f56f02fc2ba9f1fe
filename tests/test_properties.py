"""Predictions over random tables are what the engine says of the same rows, wherever a table lies, however it is cut, whatever is asked."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from dlsql.inference import arrow_type, spark_type
from dlsql.quoting import literal
from tests.graphs import BOOL, DOUBLE, FLOAT, HALF, INT64, UINT8, UINT64, graph
from udfs.predict import softmax
from udfs.preprocess import encode
from udfs.spec import Preprocess

# docs/language.md: outputs of the same rows in batches of other sizes agree to this, of the largest output or of 1 if that is more, since a
# batch's size decides in which order float32 products are summed. The last digit of a phase's sine, in which Java and numpy differ, is below it.
TOLERANCE = 1e-5

Values = st.SearchStrategy[Any]
NOTHING: Values = st.nothing()


@dataclass(frozen=True)
class Column:
    """What a model takes."""

    type: str
    usual: Sequence[Any]  # what training sees
    wild: Values  # whatever else fits
    strange: Values = NOTHING  # what does not, and makes a row's prediction NULL
    other: tuple[str, Values] | None = None  # a type that holds the same, too, and of its values those that the column's own type does not


def whole(bits: int) -> Values:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def decimals(digits: int, places: int) -> Values:
    most = 10**digits - 1
    return st.integers(-most, most).map(lambda whole: Decimal(f"{whole}E-{places}"))  # exact; scaleb rounds


def lists(values: Values, length: int) -> Values:
    return st.lists(st.one_of(values, values, values, st.none()), min_size=length, max_size=length)


def lengths(*sizes: int) -> Values:
    return st.sampled_from([[0] * size for size in sizes])


def packed(*sizes: int) -> Values:
    """Tensors of so many float32 numbers."""
    numbers = st.sampled_from(sizes).flatmap(lambda size: st.lists(small, min_size=size, max_size=size))
    return numbers.map(lambda one: np.array(one, "<f4").tobytes())


ODD = st.sampled_from([math.nan, math.inf, -math.inf, -0.0])
small = ODD | st.floats(-100, 100, width=32)
WORDS = ["ä", "bb", "", "名前", "a\u0308", "😀"]
DAYS = [date(2020, 2, 29), date(1999, 12, 31), date(2000, 1, 1)]
MOMENTS = [datetime(2020, 2, 29, 23, 59, 59, 999_999), datetime(1970, 1, 1), datetime(1985, 5, 5, 5, 5)]
moments = st.datetimes(datetime(1700, 1, 1), datetime(2300, 1, 1))
COLUMNS = {
    "tiny": Column("tinyint", range(-5, 6), whole(8), other=("bigint", st.just(128))),
    "small": Column("smallint", [-300, 0, 7, None, 299], whole(16), other=("int", st.just(-32769))),
    "whole": Column("int", range(0, 900, 7), whole(32), other=("decimal(12,0)", st.just(Decimal(2**31)))),
    "far": Column("bigint", [-(2**40), 0, 5, 2**40], whole(64), other=("decimal(20,0)", st.just(Decimal(2**63)))),
    "real": Column("float", [0.5, -1.25, 3.0, None], ODD | st.floats(width=32), other=("double", NOTHING)),
    "share": Column("double", [0.1, -2.5, 7.25], ODD | st.floats()),
    "price": Column("decimal(9,2)", [Decimal("1.25"), Decimal("-7.50"), Decimal("99.99")], decimals(9, 2), other=("decimal(20,2)", st.just(Decimal("10000000.00")))),
    "huge": Column("decimal(38,10)", [Decimal("1e20"), Decimal("-1e10"), Decimal("1e-10"), None], decimals(38, 10)),
    "open": Column("boolean", [True, False, None], st.booleans()),
    "day": Column("date", DAYS, st.dates(date(1600, 1, 1), date(2900, 1, 1))),
    "moment": Column("timestamp", [one.replace(tzinfo=UTC) for one in MOMENTS], moments.map(lambda one: one.replace(tzinfo=UTC))),
    "local": Column("timestamp_ntz", [*MOMENTS, None], moments),
    "word": Column("string", [*WORDS, None], st.text(max_size=4)),
    "name": Column("string", [f"{word} {i}" for word in WORDS for i in range(8)], st.text(max_size=40)),  # embedded
    "pair": Column("array<float>", [[0.5, 1.0], [-2.0, None], None], lists(ODD | st.floats(width=32), 2), lengths(0, 1, 3), ("array<double>", NOTHING)),
    "many": Column("array<bigint>", [[1, 2, 3], [-9, 0, 5]], lists(whole(31), 3), lengths(2, 4), ("array<int>", NOTHING)),
    "cents": Column("array<decimal(10,2)>", [[Decimal("0.01"), Decimal("5.00")], [Decimal("-1.50"), None]], lists(decimals(10, 2), 2), lengths(1)),
    "wide": Column("array<double>", [[1.0, 2.5], [-3.0, 0.5], [0.0, 9.0]], lists(ODD | st.floats(-1e6, 1e6), 2), lengths(0, 3), ("array<float>", NOTHING)),
    "blob": Column("binary", [np.array([i, -i, 0.5, 1, 2, i / 3], "<f4").tobytes() for i in range(5)], packed(6), packed(0, 5, 7) | st.just(b"abc")),
    # Those of imported graphs.
    "a": Column("array<float>", [], lists(small, 3), lengths(0, 2, 4), ("array<double>", NOTHING)),
    "b": Column("binary", [], packed(2), packed(1, 3) | st.just(b"abc")),
    "l": Column("bigint", [], whole(62), other=("int", NOTHING)),
    "t": Column("boolean", [], st.booleans()),
    "u": Column("array<smallint>", [], lists(st.integers(0, 255), 2), lengths(1, 3) | st.just([1, 256]) | st.just([-1, None]), ("array<int>", st.just([1, 2**20]))),
    "h": Column("float", [], ODD | st.floats(width=16), st.sampled_from([65520.0, -1e30]), ("double", st.just(1e300))),
    "d": Column("double", [], ODD | st.floats(), other=("float", NOTHING)),
    "z": Column("decimal(20,0)", [], st.integers(0, 2**64 - 1).map(Decimal), st.sampled_from([Decimal(-1), Decimal(2**64)]), ("bigint", st.just(-1))),
    "x": Column("array<float>", [], st.integers(1, 4).flatmap(lambda length: lists(small, length)), lengths(0)),
    "s": Column("float", [], small),
    "f": Column("array<float>", [], lists(small, 3), lengths(2)),
}  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """What the engine says of the rows of a table."""

    none: np.ndarray[Any, np.dtype[np.bool_]]  # [rows]
    check: Mapping[str, Callable[[Sequence[Any], Any], None]]  # by function: whether values, none of them NULL, are those of these rows


Engine = Callable[[Sequence[pa.Array]], Answers]  # of the columns that a model takes


def trained(folder: Path, taken: tuple[str, ...]) -> Engine:
    """By the learned preprocessing and a plain run of the graph."""
    learned = Preprocess.from_json((folder / "preprocess.json").read_text())
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    names = {one.name for one in session.get_inputs()}
    assert tuple(one.name for one in learned.features) == taken

    def answers(columns: Sequence[pa.Array]) -> Answers:
        rows = len(columns[0])
        outputs, none = np.zeros((rows, learned.label.outputs), np.float32), np.zeros(rows, bool)
        if rows:
            inputs = encode(learned, columns)
            feed = {one: array for one, array in (("dense", inputs.dense), ("codes", inputs.codes)) if one in names}
            outputs, none = session.run(None, feed)[0], inputs.absent
        close = TOLERANCE * np.max(np.abs(outputs[np.isfinite(outputs)]), initial=1.0)

        def numbers(found: Sequence[Any], at: Any) -> None:
            wanted = outputs[at, 0].astype(np.float64) * learned.label.scale + learned.label.mean
            np.testing.assert_allclose(np.array(found, np.float64), wanted, rtol=0, atol=close * learned.label.scale)

        if learned.label.classes is None:
            return Answers(none, {"predict": numbers, "ml_predict": lambda found, at: numbers([one["value"] for one in found], at)})
        classes = learned.label.classes.to_pylist()
        shares = softmax(outputs)

        def labels(found: Sequence[Any], at: Any) -> None:
            for one, wanted in zip(found, shares[at], strict=True):
                place = classes.index(one)
                assert place == 0 if np.isnan(wanted).any() else wanted[place] >= wanted.max() - 2 * close  # a tie may fall either way

        def probabilities(found: Sequence[Any], at: Any) -> None:
            given = [dict(one) for one in found]
            assert all(set(one) == set(classes) for one in given)
            numbers = np.array([[one[name] for name in classes] for one in given]).reshape(-1, len(classes))
            np.testing.assert_allclose(numbers, shares[at], rtol=0, atol=close)

        def both(found: Sequence[Any], at: Any) -> None:
            labels([one["label"] for one in found], at)
            probabilities([[tuple(entry.values()) for entry in one["probabilities"]] for one in found], at)

        return Answers(none, {"predict": labels, "predict_proba": probabilities, "ml_predict": both})

    return answers


def imported(file: Path, taken: Mapping[str, str], given: Sequence[str], run: int = 1) -> Engine:
    """By the graph on a row at a time, of which a graph of a fixed batch is given several copies. `taken`: columns and their tensors' types."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    scalar = {one.name for one in session.get_inputs() if len(one.shape) == 1}

    def tensor(column: str, value: Any) -> np.ndarray[Any, Any]:
        array = np.frombuffer(value, taken[column]) if isinstance(value, bytes) else np.array(value, taken[column])
        return np.stack([array.reshape(()) if column in scalar else array] * run)

    def answers(columns: Sequence[pa.Array]) -> Answers:
        rows = list(zip(*(column.to_pylist() for column in columns), strict=True))
        none = np.array([any(one is None or (isinstance(one, list) and None in one) for one in row) for row in rows], bool)
        said: dict[str, list[Any]] = {}  # copies of a row, of which large tables have many, are run once
        outputs = list[Any]()
        for row, skip in zip(rows, none, strict=True):
            if not skip and repr(row) not in said:
                feed = {column: tensor(column, value) for column, value in zip(taken, row, strict=True)}
                said[repr(row)] = [one[0] for one in session.run(None, feed)]
            outputs.append(None if skip else said[repr(row)])

        def structs(found: Sequence[Any], at: Any) -> None:
            for one, place in zip(found, at, strict=True):
                for wanted, (_, value) in zip(outputs[place], one.items(), strict=True):
                    got = np.array(value, object if wanted.dtype == np.uint64 else None)
                    if wanted.dtype == np.float32:  # sums; halves and doubles are handed on
                        np.testing.assert_allclose(got, wanted, rtol=TOLERANCE, atol=100 * TOLERANCE)
                    else:
                        np.testing.assert_array_equal(got, wanted)

        def alone(found: Sequence[Any], at: Any) -> None:
            structs([{given[0]: one} for one in found], at)

        return Answers(none, {"predict": alone if len(given) == 1 else structs, "ml_predict": structs})

    return answers


EVEN_IN = {"a": "<f4", "b": "<f4", "l": "int64", "t": "bool", "u": "uint8", "h": "float16", "d": "float64", "z": "uint64"}


def even(folder: Path) -> Path:
    """Tensors of many types, all of one size."""
    nodes = [("Gemm", ["a", "W", "B"], ["g"]), ("Add", ["g", "b"], ["y"]), ("Add", ["l", "l"], ["twice"]), ("Not", ["t"], ["shut"]),
             ("Unsqueeze", ["u", "axis"], ["deep"]), ("Neg", ["h"], ["half"]), ("Neg", ["d"], ["double"]), ("Identity", ["z"], ["same"])]  # fmt: skip
    inputs = [("a", FLOAT, ["n", 3]), ("b", FLOAT, ["n", 2]), ("l", INT64, ["n"]), ("t", BOOL, ["n"]), ("u", UINT8, ["n", 2]), ("h", HALF, ["n"]),
              ("d", DOUBLE, ["n"]), ("z", UINT64, ["n"])]  # fmt: skip
    outputs = [("y", FLOAT, ["n", 2]), ("twice", INT64, ["n"]), ("shut", BOOL, ["n"]), ("deep", UINT8, ["n", 2, 1]), ("half", HALF, ["n"]),
               ("double", DOUBLE, ["n"]), ("same", UINT64, ["n"])]  # fmt: skip
    weights = np.arange(6, dtype=np.float32).reshape(3, 2) / 7
    return graph(folder, nodes, inputs, outputs, W=weights, B=np.array([0.5, -1], np.float32), axis=np.array([2]))


def uneven(folder: Path) -> Path:
    """Of rows of any length their mean."""
    nodes = [("ReduceMean", ["x"], ["m"], {"axes": [1], "keepdims": 0}), ("Mul", ["m", "s"], ["y"]), ("Neg", ["x"], ["back"])]
    inputs = [("x", FLOAT, ["n", "length"]), ("s", FLOAT, ["n"])]
    return graph(folder, nodes, inputs, [("y", FLOAT, ["n"]), ("back", FLOAT, ["n", "length"])])


def fours(folder: Path) -> Path:
    """Four rows at a time."""
    return graph(folder, [("Softmax", ["f"], ["y"], {"axis": 1})], [("f", FLOAT, [4, 3])], [("y", FLOAT, [4, 3])])


TAKEN = {
    "number": tuple(list(COLUMNS)[:18]),
    "kind": ("name", "open", "cents", "moment", "huge", "small", "word", "share"),
    "line": ("wide",),
    "tensor": ("blob",),
}
LABELS = {"number": "id % 7 / 4D", "kind": "element_at(array('ä', 'b', '名前'), CAST(id % 3 + 1 AS INT))", "line": "1000 - wide[0] * 7", "tensor": "id % 2 = 0"}  # fmt: skip
OPTIONS = {
    "number": "model_type = 'dnn_regressor', hidden_units = [16, 8]",
    "kind": "model_type = 'dnn_classifier', hidden_units = [8]",
    "line": "model_type = 'linear_regressor'",
    "tensor": "model_type = 'dnn_classifier', module = 'mlp', reshape = MAP('blob', [2, 3])",
}


@pytest.fixture(scope="module")
def models(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    """Two regressions and two classifications that were trained here, and three graphs that were not."""
    spark.sql("CREATE DATABASE random")
    usual = {name: column for name, column in COLUMNS.items() if column.usual}
    table = {name: pa.array([one.usual[i * 7 % len(one.usual)] for i in range(300)], arrow(one.type)) for name, one in usual.items()}
    types = {name: one.type for name, one in usual.items()}
    framed(spark, pa.table({"id": pa.array(range(300)), **table}), types).createOrReplaceTempView("usual")
    made = {}
    for name, taken in TAKEN.items():
        query = f"SELECT {', '.join(taken)}, {LABELS[name]} AS label FROM usual"
        spark.sql(f"CREATE MODEL random.{name} OPTIONS ({OPTIONS[name]}, max_iterations = 1) AS {query}").collect()
        folder = Path(spark.sql(f"SHOW VERSIONS IN MODEL random.{name}").collect()[0]["uri"].removeprefix("file:"))
        made[name] = trained(folder, taken)
    for name, build, taken, outputs, run in (
        ("even", even, EVEN_IN, ("y", "twice", "shut", "deep", "half", "double", "same"), 1),
        ("uneven", uneven, {"x": "<f4", "s": "<f4"}, ("y", "back"), 1),
        ("fours", fours, {"f": "<f4"}, ("y",), 4),
    ):
        file = build(tmp_path_factory.mktemp(name))
        clause = ", ".join(f"{column} {COLUMNS[column].type}" for column in taken)
        spark.sql(f"CREATE MODEL random.{name} INPUT ({clause}) OPTIONS (model_path = '{file}')").collect()
        made[name] = imported(file, taken, outputs, run)
    yield made
    for view in ("usual", "given"):
        spark.catalog.dropTempView(view)
    for name in made:
        spark.sql(f"DROP MODEL random.{name}")
    spark.sql("DROP DATABASE random CASCADE")


def arrow(type: str) -> pa.DataType:
    return arrow_type(spark_type(type))


def framed(spark: SparkSession, table: pa.Table, types: Mapping[str, str]) -> DataFrame:
    fields = ", ".join(f"{name} {type}" for name, type in types.items())
    return spark.createDataFrame(table, StructType.fromDDL(f"id bigint, {fields}"))


# ---- What is drawn


@dataclass(frozen=True)
class Pool:
    """The different values of a column."""

    type: str
    values: tuple[Any, ...]
    strays: tuple[bool, ...]  # of each, whether it does not fit


@dataclass(frozen=True)
class Call:
    """A prediction in a query."""

    model: str
    function: str
    form: str  # how the features are told
    fed: tuple[str, ...]  # of each feature: column | computed | constant | null
    order: int  # of features that are told by name


@dataclass(frozen=True)
class Case:
    """A table, where it lies, and a query."""

    calls: tuple[Call, Call]
    lenient: bool
    pools: Mapping[str, Pool] = field(hash=False)
    rows: int
    seed: int
    source: str
    partitions: int
    slice: int  # rows that a source hands on at once
    batch: int
    setting: str | None
    shape: str
    kept: tuple[str, ...]


FUNCTIONS = {name: ("predict", "predict_proba", "ml_predict") if name in ("kind", "tensor") else ("predict", "ml_predict") for name in (*TAKEN, "even", "uneven", "fours")}  # fmt: skip
INPUTS = {**TAKEN, "even": tuple(EVEN_IN), "uneven": ("x", "s"), "fours": ("f",)}


# How often NULL is among a column's values: an imported graph answers no row that holds one.
HOLES = {"none": ["none"], "few": ["none", "none", "none", "some"], "many": ["some", "none", "all"]}
ASKED = ["number", "kind", "line", "tensor", "even", "even", "even", "uneven", "fours"]


@st.composite
def pools(draw: st.DrawFn, name: str, lenient: bool, holes: str) -> Pool:
    column = COLUMNS[name]
    type, outside = column.other if column.other and draw(st.integers(0, 3)) == 3 else (column.type, NOTHING)
    known = st.sampled_from([one for one in column.usual if one is not None]) if column.usual else NOTHING
    values: Values = known | column.wild
    if type == "float" and column.type == "double":
        values = st.floats(width=32)
    if type == "bigint" and column.type.startswith("decimal"):
        values = st.integers(0, 2**63 - 1)
    if type == "int" and column.type == "bigint":
        values = whole(32)
    if type == "array<float>" and column.type == "array<double>":
        values = lists(small, 2)
    nulls = draw(st.sampled_from(HOLES[holes]))
    if nulls == "all":
        return Pool(type, (None,), (False,))
    if holes != "many":
        values = values.filter(lambda one: not isinstance(one, list) or None not in one)
    fit = draw(st.lists(values, min_size=1, max_size=5))
    strange = outside | column.strange
    stray = draw(st.lists(strange, max_size=2)) if lenient and not strange.is_empty and draw(st.integers(0, 3)) == 3 else []
    missing = [None] if nulls == "some" else []
    return Pool(type, (*fit, *missing, *stray), (False,) * len([*fit, *missing]) + (True,) * len(stray))


@st.composite
def calls(draw: st.DrawFn, lenient: bool, holes: str) -> Call:
    model = draw(st.sampled_from(ASKED))
    # Its columns as they are are packed from where they lie: most queries are so.
    plain = draw(st.booleans())
    ways = ["column"] if plain else ["column", "column", "computed", "constant", *(["null"] if holes == "many" else [])]
    fed = tuple(draw(st.sampled_from(ways)) for _ in INPUTS[model])
    function = "try_predict" if lenient else draw(st.sampled_from(FUNCTIONS[model]))
    return Call(model, function, draw(st.sampled_from(["place", "struct", "name"])), fed, draw(st.integers(0, 9)))


@st.composite
def cases(draw: st.DrawFn, source: str) -> Case:
    lenient = draw(st.booleans())
    holes = draw(st.sampled_from(["none", "none", "few", "many"]))
    both = (draw(calls(lenient, holes)), draw(calls(lenient, holes)))
    names = list(dict.fromkeys(name for call in both for name in INPUTS[call.model]))
    return Case(
        both, lenient, {name: draw(pools(name, lenient, holes)) for name in names},
        draw(st.sampled_from([2, 0, 1, 3, 7, 13, 97, 211, 1009, 10_007])), draw(st.integers(0, 99)),
        source, draw(st.sampled_from([1, 2, 3, 11])),
        draw(st.sampled_from([1, 5, 100, 4096])), draw(st.sampled_from([1, 2, 3, 7, 997, 10_000])),
        draw(st.none() | st.sampled_from(list(SETTINGS))), draw(st.sampled_from(list(SHAPES))),
        tuple(draw(st.lists(st.sampled_from(["id", *names]), unique=True, max_size=3))),
    )  # fmt: skip


# Ways to read, to compute and to plan that Spark's users choose.
SETTINGS = {
    "spark.sql.columnVector.offheap.enabled": "true",
    "spark.sql.parquet.enableVectorizedReader": "false",
    "spark.sql.orc.enableVectorizedReader": "false",
    "spark.sql.inMemoryColumnarStorage.enableVectorizedReader": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.ansi.enabled": "false",
}
SOURCES = ("local", "cached", "parquet", "plain parquet", "orc")
# Of each query: its text, and which rows each of its predictions is asked for, by their ids. {k} are columns that are kept.
SHAPES: dict[str, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "plain": ("SELECT id {k}, {p} AS answer FROM given", lambda id: id >= 0, lambda id: id < 0),
    "two": ("SELECT {p} AS answer, id {k}, {q} AS other FROM given", lambda id: id >= 0, lambda id: id >= 0),
    "some": ("SELECT id {k}, {p} AS answer, {q} AS other FROM given WHERE id % 3 <> 1", lambda id: id % 3 != 1, lambda id: id % 3 != 1),
    "filtered": ("SELECT id {k}, answer, other FROM (SELECT *, {p} AS answer, {q} AS other FROM given) WHERE answer IS NOT NULL", lambda id: id >= 0, lambda id: id >= 0),
    "branches": (
        "SELECT id {k}, CASE WHEN id % 3 = 0 THEN NULL WHEN id % 3 = 1 THEN {p} END AS answer, if(id % 2 = 0, {q}, NULL) AS other FROM given",
        lambda id: id % 3 == 1, lambda id: id % 2 == 0,
    ),
    "limit": ("SELECT id {k}, {p} AS answer, {q} AS other FROM given LIMIT 5", lambda id: id >= 0, lambda id: id >= 0),
    "last": ("SELECT id {k}, {p} AS answer, {q} AS other FROM given ORDER BY id DESC LIMIT 5", lambda id: id >= 0, lambda id: id >= 0),
    "union": (
        "SELECT id {k}, {p} AS answer, NULL AS other FROM given WHERE id % 2 = 0 UNION ALL SELECT id {k}, {p}, {q} FROM given WHERE id % 2 = 1",
        lambda id: id >= 0, lambda id: id % 2 == 1,
    ),
    "join": (
        "SELECT one.*, other FROM (SELECT id {k}, {p} AS answer FROM given) AS one JOIN (SELECT id, {q} AS other FROM given WHERE id % 5 > 1) AS two "
        "ON one.id = two.id",
        lambda id: id % 5 > 1, lambda id: id % 5 > 1,
    ),
}  # fmt: skip


def text(value: Any, type: str) -> str:
    """A constant."""
    if value is None:
        return f"CAST(NULL AS {type})"
    if isinstance(value, bytes):
        return f"unhex('{value.hex()}')"
    if isinstance(value, list):
        element = type.removeprefix("array<").removesuffix(">")
        return f"CAST(array({', '.join(text(one, element) for one in value)}) AS {type})"
    return f"CAST({literal(value.isoformat(sep=' ') if isinstance(value, datetime) else str(value))} AS {type})"


@dataclass(frozen=True)
class Made:
    """A column of a table."""

    given: pa.Array
    strays: np.ndarray[Any, np.dtype[np.bool_]]  # [rows]
    pool: Pool

    def seen(self, type: str) -> pa.Array:
        """What the model sees of it: in its own type, and nothing where a value does not fit."""
        return pa.array([None if stray else one for one, stray in zip(self.given.to_pylist(), self.strays, strict=True)], arrow(type))


def columns(case: Case) -> dict[str, Made]:
    made = {}
    for place, (name, pool) in enumerate(case.pools.items()):
        which = np.random.default_rng([case.seed, place]).integers(len(pool.values), size=case.rows)
        made[name] = Made(pa.array(pool.values, arrow(pool.type)).take(pa.array(which)), np.array(pool.strays)[which], pool)
    return made


def asked(call: Call, table: Mapping[str, Made], rows: int) -> tuple[str, list[pa.Array], np.ndarray[Any, np.dtype[np.bool_]]]:
    """A prediction as SQL, what the model sees of each column, and which rows do not fit."""
    told, seen, strays = list[str](), list[pa.Array](), np.zeros(rows, bool)
    for name, way in zip(INPUTS[call.model], call.fed, strict=True):
        one, type = table[name], COLUMNS[name].type
        fits = [value for value, stray in zip(one.pool.values, one.pool.strays, strict=True) if not stray]
        if way in ("column", "computed"):
            told.append(name if way == "column" else f"if(id >= 0, {name}, NULL)")
            seen.append(one.seen(type))
            strays |= one.strays
        else:
            value = fits[0] if way == "constant" else None
            told.append(text(value, one.pool.type) if way == "constant" else "NULL")
            seen.append(pa.array([value] * rows, arrow(type)))
    named = list(zip(INPUTS[call.model], told, strict=True))
    named = named[call.order % len(named) :] + named[: call.order % len(named)]
    fed = {
        "place": ", ".join(told),
        "struct": f"struct({', '.join(f'{value} AS {name}' for name, value in named)}, id AS beside)",
        "name": ", ".join(f"{name} => {value}" for name, value in named),
    }[call.form]
    return f"{call.function}('random.{call.model}', {fed})", seen, strays


def stored(spark: SparkSession, case: Case, frame: DataFrame, folder: Path) -> DataFrame:
    """The table where it is to lie; the frame is to be forgotten afterwards."""
    if case.source == "local":
        return frame
    if case.source == "cached":
        frame = frame.cache()
        assert frame.count() == case.rows
        return frame
    kind = case.source.split()[-1]
    frame.write.option("parquet.enable.dictionary", str(case.source == kind).lower()).format(kind).save(str(folder))
    return spark.read.schema(frame.schema).format(kind).load(str(folder))


def holds(spark: SparkSession, models: Mapping[str, Engine], case: Case, folder: Path) -> None:
    table = columns(case)
    whole = pa.table({"id": pa.array(range(case.rows), pa.int64()), **{name: one.given for name, one in table.items()}})
    made = framed(spark, whole, {name: pool.type for name, pool in case.pools.items()}).repartition(case.partitions)
    conf = {
        "spark.sql.execution.arrow.maxRecordsPerBatch": case.batch, "spark.sql.inMemoryColumnarStorage.batchSize": case.slice,
        "spark.sql.parquet.columnarReaderBatchSize": case.slice, "spark.sql.orc.columnarReaderBatchSize": case.slice,
        **({case.setting: SETTINGS[case.setting]} if case.setting else {}),
    }  # fmt: skip
    for key, value in conf.items():
        spark.conf.set(key, str(value))
    try:
        stored(spark, case, made, folder).createOrReplaceTempView("given")
        query, *wanted = SHAPES[case.shape]
        texts = [asked(call, table, case.rows) for call in case.calls]
        kept = [name for name in case.kept if name != "id"]
        sql = query.format(p=texts[0][0], q=texts[1][0], k="".join(f", {name}" for name in kept))
        found = spark.sql(sql).toArrow()
    finally:
        for key in conf:
            spark.conf.unset(key)
        spark.catalog.clearCache()
    ids = np.array(found["id"].to_pylist(), np.int64)
    for name in kept:
        assert repr(found[name].to_pylist()) == repr(whole[name].take(pa.array(ids)).to_pylist())
    nones = list[Any]()
    for call, (_, seen, strays), answer, are in zip(case.calls, texts, ("answer", "other"), wanted, strict=True):
        if answer not in found.column_names:
            continue
        said = models[call.model](seen)
        none = said.none | strays
        nones.append(none)
        cells = found[answer].to_pylist()
        there = are(ids) & ~none[ids]
        assert [one is not None for one in cells] == there.tolist()
        said.check[call.function.replace("try_predict", "predict")]([one for one in cells if one is not None], ids[there])
    every = wanted[0](np.arange(case.rows)) if case.shape in ("some", "join") else np.ones(case.rows, bool)
    if case.shape == "filtered":
        every &= ~nones[0]
    if case.shape in ("limit", "last"):
        assert len(set(ids.tolist())) == len(ids) == min(5, case.rows)
        assert case.shape == "limit" or ids.tolist() == list(range(case.rows))[::-1][:5]
    else:
        assert sorted(ids.tolist()) == np.flatnonzero(every).tolist()


@pytest.mark.parametrize("source", SOURCES)
def test_predictions_are_what_the_engine_says(
    spark: SparkSession, models: dict[str, Engine], tmp_path_factory: pytest.TempPathFactory, source: str
) -> None:
    @seed(SOURCES.index(source))
    @settings(max_examples=5, deadline=None, derandomize=True, print_blob=True, suppress_health_check=list(HealthCheck))
    @given(case=cases(source))
    def every(case: Case) -> None:
        holds(spark, models, case, tmp_path_factory.mktemp("case") / "table")

    every()
