"""What training learns of the columns before the first step, by a few jobs over the training query.

Means and deviations of numbers, the words of strings, the classes of the label, and how many rows there are to learn from. A row is
usable when its label is there, its weight is a positive number, and none of its numbers is NaN or infinite; NULLs are usable.
Nothing here grows with the table on the driver: vocabularies and classes are capped.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dlsql.bridge import Bridge, Summary
from dlsql.errors import did_you_mean, error, listed
from dlsql.model import is_label_type, is_whole, kind_of, label_task
from dlsql.options import LINEAR, Settings
from dlsql.quoting import identifier
from udfs.learn import BOUND, MAX_CLASSES, MAX_WORDS, held_out_share, scale, steady
from udfs.spec import Feature, Label, Preprocess

_QUANTILE_ROWS, _BUCKETS = 1_000_000, 1 << 14  # rows whose quantile one task may find, and what others are counted in
_STATISTICS_ROWS = 100_000  # of an array column: its positions' means are as good from a sample


@dataclass(frozen=True, slots=True)
class Columns:
    """The training query's columns by their part."""

    frame: DataFrame  # usable rows only
    weighed: DataFrame  # those, and rows with numbers (no classes) that are NaN or infinite, which an Encoder finds with less effort
    features: tuple[str, ...]
    labels: tuple[str, ...]
    weight: str | None
    split: str | None
    types: dict[str, str]

    def beside(self, names: Iterable[str], made: Collection[Column]) -> tuple[DataFrame, list[int]]:
        """The weighed rows with columns made of theirs; the places of some of theirs, by name, then of those made. By their places, because
        a Column of PySpark's own takes half a millisecond to make, of each of hundreds.
        """
        places = {name: place for place, name in enumerate(self.types)}
        return self.weighed.select("*", *made), [*(places[name] for name in names), *range(len(places), len(places) + len(made))]


@dataclass(frozen=True, slots=True)
class Profile:
    """What was learned, and what is to be trained on."""

    columns: Columns
    learned: Preprocess
    rows: int  # usable
    skipped: int
    held_out: float  # share of the rows for evaluation
    split_at: Any  # seq: the value of the split column from which on rows are held out
    class_counts: tuple[tuple[int, ...], ...]  # of each label, the rows of each class; none of a number
    class_texts: tuple[tuple[str, ...], ...]  # each class as `label_text` has it
    largest: Mapping[str, int]  # of a network of one's own: how far from 0 a column's whole numbers go, by its name


def columns(bridge: Bridge, frame: DataFrame, settings: Settings) -> Columns:
    """Sorts the query's columns by their part, before any job starts. Raises what `parts` raises."""
    frame = without_vectors(frame)
    found = parts(fields(frame), settings)
    _check_not_padded(frame, found.features)
    weighed = frame.where(_weighed(found.labels, found.weight))
    classes = {name for name in found.labels if label_task(settings.task, found.types[name]) == "classification"}
    weighed = _finite(bridge, weighed, found, classes)
    usable = _finite(bridge, weighed, found, {*found.features, *found.labels, *([found.weight] if found.weight else [])} - classes)
    return Columns(usable, weighed, found.features, found.labels, found.weight, found.split, found.types)


@dataclass(frozen=True, slots=True)
class Parts:
    """Columns by name, sorted by their part in a training."""

    features: tuple[str, ...]
    labels: tuple[str, ...]
    weight: str | None
    split: str | None
    types: dict[str, str]


def parts(fields: Sequence[tuple[str, str]], settings: Settings) -> Parts:
    """Sorts columns, each a name and its type, by their part.

    Raises:
        NotFoundError: a label, the weight or split column is not there.
        TypeMismatchError: a column has a type that no network takes, or a name that stands twice.
    """
    given = [name for name, _ in fields]
    names: dict[str, str] = {}
    for name in given:
        if name.casefold() in names:
            raise error(
                "DLSQL_COLUMN_TYPE", column=name, found="there twice", expected="give each column of the training query a name of its own."
            )
        names[name.casefold()] = name

    def found(role: str, wanted: str) -> str:
        if wanted.casefold() not in names:
            hint = did_you_mean(wanted, given)
            raise error("DLSQL_COLUMN_NOT_FOUND", role=role, column=wanted, columns=listed(given), hint=hint)
        return names[wanted.casefold()]

    labels = tuple(found("Label column (input_label_cols)", name) for name in settings.input_label_cols)
    weight = settings.instance_weight_col and found("Weight column (instance_weight_col)", settings.instance_weight_col)
    split = settings.data_split_col and found("Split column (data_split_col)", settings.data_split_col)
    types = dict(fields)
    features = tuple(name for name in given if name not in (*labels, weight, split))
    _check(settings, types, features, labels, weight, split)
    return Parts(features, labels, weight, split, types)


def without_vectors(frame: DataFrame) -> DataFrame:
    """The frame with ML vectors as arrays."""
    if not any(isinstance(field.dataType, VectorUDT) for field in frame.schema.fields):
        return frame
    return frame.select(*(_plain(frame, name) for name in frame.columns))


def _plain(frame: DataFrame, name: str) -> Column:
    column = frame[identifier(name)]
    return vector_to_array(column).alias(name) if isinstance(frame.schema[name].dataType, VectorUDT) else column


def fields(frame: DataFrame) -> list[tuple[str, str]]:
    """The frame's columns, each a name and its type."""
    return [(field.name, field.dataType.simpleString()) for field in frame.schema.fields]


def _check(
    settings: Settings, types: dict[str, str], features: tuple[str, ...], labels: tuple[str, ...], weight: str | None, split: str | None
) -> None:
    def refuse(column: str, expected: str) -> None:
        raise error("DLSQL_COLUMN_TYPE", column=column, found=types[column].upper(), expected=expected)

    if not features:
        raise error(
            "DLSQL_TRAINING_DATA",
            problem=f"The training query has no column beside the label `{'`, `'.join(labels)}`; a model needs at least one feature.",
        )
    shaped = {name.casefold() for name, _ in settings.reshape}
    for name in features:
        kind = kind_of(types[name])
        if kind is None or (kind == "bytes" and not settings.own_network):
            refuse(
                name, "a network takes numbers, booleans, dates, timestamps, strings and arrays of numbers. Leave it out, or convert it."
            )
        if kind == "bytes" and name.casefold() not in shaped:
            refuse(name, f"say the shape of its float32 numbers: reshape = MAP('{name}', [size, ...]).")
    for name in (*features, *labels):
        if " collate " in types[name]:
            refuse(
                name,
                f"a network tells strings apart by their bytes, and this collation does not. Write {identifier(name)} COLLATE UTF8_BINARY.",
            )
    strange = next((name for name, _ in settings.reshape if name.casefold() not in {one.casefold() for one in features}), None)
    if strange is not None:
        hint = did_you_mean(strange, features)
        raise error("DLSQL_COLUMN_NOT_FOUND", role="Feature (reshape)", column=strange, columns=listed(features), hint=hint)
    if settings.task == "regression" and all(label_task(settings.task, types[label]) == "classification" for label in labels):
        says = "the label" if len(labels) == 1 else "of several labels one at least"
        refuse(labels[0], f"{says} of a {settings.model_type} is a number.")
    for label in labels:
        if not is_label_type(types[label]):
            refuse(label, "a label is a number, boolean, string, date, timestamp or binary.")
    if weight is not None and (kind_of(types[weight]) != "number" or types[weight] == "boolean"):
        refuse(weight, "a weight is a number.")
    if split is not None and settings.data_split_method == "custom" and types[split] != "boolean":
        refuse(split, "data_split_method = 'custom' takes a BOOLEAN column, TRUE for the rows held out.")
    if split is not None and settings.data_split_method == "seq" and kind_of(types[split]) not in ("number", "time"):
        refuse(split, "data_split_method = 'seq' takes a number, date or timestamp.")


def _check_not_padded(frame: DataFrame, features: tuple[str, ...]) -> None:
    """Spark pads the strings of a CHAR column, and nothing else: a literal in PREDICT would be another word."""
    for name in features:
        declared = str(frame.schema[name].metadata.get("__CHAR_VARCHAR_TYPE_STRING", ""))
        if declared.startswith("char("):
            expected = f"its strings are padded with spaces, and others in predictions will not be. Write rtrim({identifier(name)})."
            raise error("DLSQL_COLUMN_TYPE", column=name, found=declared.upper(), expected=expected)


def column(name: str) -> Column:
    """A column of the training query, whatever its name."""
    return F.col(identifier(name))


def _weighed(labels: tuple[str, ...], weight: str | None) -> Column:
    """Whether a row says what it teaches, and counts."""
    conditions = [column(label).isNotNull() for label in labels]
    return _all(conditions if weight is None else [*conditions, column(weight).isNotNull() & (column(weight) > 0)])


def _all(conditions: Sequence[Column]) -> Column:
    """Every condition holds. As a tree whose depth is the logarithm of their number: Spark descends into it by recursion."""
    if len(conditions) == 1:
        return conditions[0]
    half = len(conditions) // 2
    return _all(conditions[:half]) & _all(conditions[half:])


def _finite(bridge: Bridge, rows: DataFrame, found: Parts, names: Collection[str]) -> DataFrame:
    """Rows without NaN or infinite numbers in these columns."""
    numbers, lists = (
        [place for place, (name, type) in enumerate(found.types.items()) if name in names and type in kinds]
        for kinds in (_FLOATS, _FLOAT_LISTS)
    )
    return bridge.finite(rows, numbers, lists)


_FLOATS, _FLOAT_LISTS = ("float", "double"), ("array<float>", "array<double>")


def profile(bridge: Bridge, columns: Columns, settings: Settings, total: int, learned: Preprocess | None = None) -> Profile:
    """Learns the columns. `total` is the number of rows before unusable ones were left out; `learned` is kept as it is (warm start).

    Raises:
        DataError: nothing to learn from: no rows, one class, arrays of several lengths.
    """
    rows, odd, statistics = _statistics(bridge, columns, settings)
    if not odd:  # what else is asked need not read the numbers
        columns = replace(columns, frame=columns.weighed)
    if rows < 2:
        why = "" if total == rows else f" ({total - rows} of {total} rows have no label, no positive weight, or a NaN or infinite number)"
        raise error(
            "DLSQL_TRAINING_DATA",
            problem=f"The training query gives {rows} usable row{'' if rows == 1 else 's'}{why}; training needs at least 2.",
        )
    largest = _largest(columns, statistics, settings)
    if learned is not None:
        again = [_recounted(columns, name, label) for name, label in zip(columns.labels, learned.labels, strict=True)]
        counts, texts = tuple(one[0] for one in again), tuple(one[1] for one in again)
    else:
        labels, counts, texts = zip(*(_label(columns, name, statistics, settings) for name in columns.labels), strict=True)
        words = _words(columns)
        features = tuple(_feature(columns, name, rows, statistics, words, settings) for name in columns.features)
        bound = None if settings.model_type in LINEAR or not settings.scaled else BOUND
        learned = Preprocess(_with_arrays(columns, features, rows, settings.seed), labels[0], bound, labels[1:])
    held_out = held_out_share(settings.data_split_method, settings.data_split_eval_fraction, rows)
    split_at = None
    if settings.data_split_method == "seq":
        split_at = _quantile(columns.frame, _number(columns, str(columns.split)), 1.0 - held_out, rows)
    return Profile(columns, learned, rows, total - rows, held_out, split_at, counts, texts, largest)


def _number(columns: Columns, name: str) -> Column:
    """A column as the worker reads it (udfs.tensors.numbers): times in seconds since 1970-01-01 UTC."""
    kind = columns.types[name]
    if kind == "date":
        return F.unix_date(column(name)).cast("double") * 86_400.0
    if kind == "timestamp":
        return F.unix_micros(column(name)).cast("double") * 1e-6
    if kind == "timestamp_ntz":
        zero = F.expr("TIMESTAMP_NTZ'1970-01-01 00:00:00'")
        return F.timestamp_diff("MICROSECOND", zero, column(name)).cast("double") * 1e-6
    return column(name).cast("double")


_Statistics = Mapping[str, Summary | None]  # None of a column without a number


def _statistics(bridge: Bridge, columns: Columns, settings: Settings) -> tuple[int, int, _Statistics]:
    """The number of usable rows, and of those with odd numbers; then summaries of the features by their places: `value.<i>` of a number,
    `size.<i>`, `low.<i>` and `high.<i>` of an array, `there.<i>` of words; and `label.<name>` of a label that is a number.
    """
    made: dict[str, Column] = {}
    plain: dict[str, str] = {}  # summaries of columns as they are
    checked = set()  # summaries of what may be NaN or infinite

    def number(key: str, name: str) -> None:
        if kind_of(columns.types[name]) == "time":
            made[key] = _number(columns, name)
        else:
            plain[key] = name
        if columns.types[name] in _FLOATS:
            checked.add(key)

    for i, name in enumerate(columns.features):
        type, kind = columns.types[name], kind_of(columns.types[name])
        if kind in ("number", "time"):
            number(f"value.{i}", name)
        elif kind in ("numbers", "bytes"):
            size = F.size(column(name)) if kind == "numbers" else F.octet_length(column(name))
            made[f"size.{i}"] = F.when(column(name).isNotNull(), size)
        else:
            made[f"there.{i}"] = F.when(column(name).isNotNull(), F.lit(1))
        if type in _FLOAT_LISTS or (kind == "numbers" and is_whole(type) and not settings.scaled):
            made |= {f"low.{i}": F.array_min(column(name)), f"high.{i}": F.array_max(column(name))}
        if type in _FLOAT_LISTS:
            checked |= {f"low.{i}", f"high.{i}"}
    for name in columns.labels:
        if label_task(settings.task, columns.types[name]) == "regression":
            number(f"label.{name}", name)
    if columns.weight is not None:
        number("weight", columns.weight)
    keys = [*plain, *made]
    rows, taken = columns.beside(plain.values(), made.values())
    count, odd, found = bridge.statistics(rows, taken, [place for place, key in enumerate(keys) if key in checked])
    return count, odd, {key: one if one.count else None for key, one in zip(keys, found, strict=True)}


_EXACT = 1 << 24  # whole numbers up to this are numbers of float32, which is what blocks hold


def _largest(columns: Columns, statistics: _Statistics, settings: Settings) -> dict[str, int]:
    found = {}
    for i, name in enumerate(columns.features):
        counts = is_whole(columns.types[name]) and not settings.scaled
        parts = [statistics.get(f"{part}.{i}") for part in ("value", "low", "high")] if counts else []
        largest = int(max((abs(end) for one in parts if one for end in (one.least, one.largest)), default=0))
        if largest > _EXACT:
            problem = f"Column `{name}` holds whole numbers up to {largest}; a network of your own takes them up to {_EXACT} exactly."
            raise error("DLSQL_SHAPE", problem=f"{problem} Use standardize = TRUE, or cast the column to DOUBLE or STRING.")
        found[name] = largest
    return found


def _feature(columns: Columns, name: str, rows: int, statistics: _Statistics, words: dict[str, list[str]], settings: Settings) -> Feature:
    i, type = columns.features.index(name), columns.types[name]
    kind = str(kind_of(type))
    if kind == "category":
        there = statistics[f"there.{i}"]
        return Feature(name, type, kind, vocabulary=tuple(words[name]), nulls_seen=(there.count if there else 0) < rows)
    if kind in ("numbers", "bytes"):
        size = statistics[f"size.{i}"]
        if size is None or size.largest == 0:
            raise error("DLSQL_TRAINING_DATA", problem=f"Column `{name}` holds no array with a number in it.")
        short, long = int(size.least), int(size.largest)
        if short != long:
            unit, what = ("numbers", "arrays") if kind == "numbers" else ("bytes", "tensors")
            problem = f"Column `{name}` holds {what} of {short} to {long} {unit}; a network takes {what} of one length."
            raise error("DLSQL_SHAPE", problem=problem)
        if kind == "bytes" and long % 4:
            raise error("DLSQL_SHAPE", problem=f"Column `{name}` holds {long} bytes a row, and float32 numbers take 4 each.")
        if kind == "bytes" or not settings.scaled:
            return Feature(name, type, kind, size=long // 4 if kind == "bytes" else long)
        return Feature(name, type, kind, means=(0.0,) * long, scales=(1.0,) * long)
    if kind == "number" and not settings.scaled:
        return Feature(name, type, kind, means=(0.0,), scales=(1.0,))
    mean, deviation = _standard(statistics[f"value.{i}"])
    return Feature(name, type, kind, means=(mean,), scales=(deviation,))


def _standard(summary: Summary | None) -> tuple[float, float]:
    """What numbers are standardised by: their mean and deviation, 0 and 1 where there is none."""
    if summary is None:
        return 0.0, 1.0
    mean = steady(summary.mean, 0.0)
    if abs(mean) < 1e-9 * summary.deviation:  # rounding, which is another each time
        mean = 0.0
    return mean, scale(summary.deviation, mean)


def _words(columns: Columns) -> dict[str, list[str]]:
    """The words of every string column in one query, the most frequent first."""
    names = [name for name in columns.features if kind_of(columns.types[name]) == "category"]
    if not names:
        return {}
    stacked = F.posexplode(F.array(*(column(name).cast("string") for name in names))).alias("column", "word")
    counted = columns.frame.select(stacked).where("word IS NOT NULL").groupBy("column", "word").count()
    ranked = counted.selectExpr("column", "word", "row_number() OVER (PARTITION BY column ORDER BY count DESC, word) AS rank")
    rows = ranked.where(F.col("rank") <= MAX_WORDS).toArrow().sort_by([("column", "ascending"), ("rank", "ascending")])
    found: dict[str, list[str]] = {name: [] for name in names}
    for place, word in zip(rows.column("column").to_pylist(), rows.column("word").to_pylist(), strict=True):
        found[names[place]].append(word)
    return found


def _with_arrays(columns: Columns, features: tuple[Feature, ...], rows: int, seed: int) -> tuple[Feature, ...]:
    """Array features with the mean and deviation of each position, learned from a sample of rows that follows from their content."""
    sampled = columns.frame
    if rows > _STATISTICS_ROWS:
        share = F.pmod(F.xxhash64(F.lit(seed), *(column(name) for name in columns.features)), F.lit(1 << 20))
        sampled = sampled.where(share < int((1 << 20) * _STATISTICS_ROWS / rows) + 1)

    def learned(feature: Feature) -> Feature:
        exploded = sampled.select(F.posexplode(column(feature.name)).alias("place", "value")).withColumn(
            "value", F.col("value").cast("double")
        )
        found = exploded.groupBy("place").agg(F.avg("value").alias("mean"), F.stddev_pop("value").alias("scale")).collect()
        means, scales = list(feature.means), list(feature.scales)
        for row in found:
            means[row["place"]] = steady(row["mean"], 0.0)
            scales[row["place"]] = scale(row["scale"], means[row["place"]])
        return Feature(feature.name, feature.type, feature.kind, tuple(means), tuple(scales))

    return tuple(learned(feature) if feature.kind == "numbers" and not feature.size else feature for feature in features)


_Learned = tuple[Label, tuple[int, ...], tuple[str, ...]]  # a label, and of a classification the rows and the text of each class


def _label(columns: Columns, name: str, statistics: _Statistics, settings: Settings) -> _Learned:
    if label_task(settings.task, columns.types[name]) == "classification":
        return _classes(columns, name)
    if settings.own_loss and not settings.standardize:  # which may mean the label's own unit: a count, a share
        return Label(name, columns.types[name]), (), ()
    return Label(name, columns.types[name], None, *_standard(statistics[f"label.{name}"])), (), ()


def class_key(label: Column, type: str) -> Column:
    """A label as an Encoder knows it: by its text; a whole number as it is, whose text would take a tenth of the packing's time."""
    return label if is_whole(type) else label_text(label, type)


def label_text(label: Column, type: str) -> Column:
    """A label as a string that is another one for another value."""
    if type in ("float", "double"):
        label = F.when(label == 0, F.lit(0.0).cast(type)).otherwise(label)  # -0.0 is the same class as 0.0
    if type == "timestamp":
        label = F.unix_micros(label)  # the hour that a clock is set back by has each of its times twice
    return F.hex(label) if type == "binary" else label.cast("string")


def _classes(columns: Columns, name: str) -> _Learned:
    """The classes of a label, ascending, with the rows and the text of each."""
    type = columns.types[name]
    grouped = columns.frame.groupBy(column(name).alias("label")).count().orderBy("label").limit(MAX_CLASSES + 1)
    counted = grouped.select("label", "count", label_text(F.col("label"), type).alias("text")).toArrow()
    values, counts, texts = (counted.column(part).combine_chunks() for part in ("label", "count", "text"))
    if len(values) < 2:
        problem = f"Label `{name}` is {values[0].as_py()!r} in every row; a classifier needs at least 2 classes."
        raise error("DLSQL_TRAINING_DATA", problem=problem)
    if len(values) > MAX_CLASSES:
        hint = " For a number to estimate use a regressor." if kind_of(type) == "number" else ""
        raise error("DLSQL_TRAINING_DATA", problem=f"Label `{name}` has more than {MAX_CLASSES} classes.{hint}")
    return Label(name, type, values), tuple(counts.to_pylist()), tuple(texts.to_pylist())


def _recounted(columns: Columns, name: str, known: Label) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The rows and the text of each class of an earlier version. Raises DataError for a class that it does not have."""
    if known.classes is None:
        return (), ()
    label, counts, texts = _classes(columns, name)
    assert label.classes is not None
    found = dict(zip(label.classes.to_pylist(), zip(counts, texts, strict=True), strict=True))
    strange = next((value for value in found if value not in set(known.classes.to_pylist())), None)
    if strange is not None:
        problem = f"Label `{name}` is {strange!r} in some rows, a class that the earlier version does not have."
        raise error("DLSQL_TRAINING_DATA", problem=f"{problem} Train without warm_start, so that the classes are learned anew.")
    here = [found.get(value, (0, f"\0{place}")) for place, value in enumerate(known.classes.to_pylist())]  # no row has such a text
    return tuple(count for count, _ in here), tuple(text for _, text in here)


def _quantile(frame: DataFrame, number: Column, share: float, rows: int) -> float | None:
    """A number that a share of a column's numbers is not above; None where there is none. The same however the rows lie.

    Spark's `percentile` gathers all different values in a task. Where they may be many, passes over the rows count them in buckets, each of
    them those of the bucket before that the wanted number is in.
    """
    numbers = frame.select(number.alias("x")).where("x IS NOT NULL")
    if rows <= _QUANTILE_ROWS:
        found: float | None = numbers.agg(F.percentile("x", share)).collect()[0][0]
        return found
    finite = F.abs("x") < math.inf
    of_finite = (F.when(finite, F.col("x")), F.when(F.col("x") == -math.inf, 1))
    (told,) = numbers.agg(F.count("x"), F.count(of_finite[0]), F.min(of_finite[0]), F.max(of_finite[0]), F.count(of_finite[1])).collect()
    count, usual, low, high, lowest = told
    rank = math.floor(share * (count - 1)) - lowest  # among the finite ones in ascending order
    if not 0 <= rank < usual:
        return None if not count else math.copysign(math.inf, rank)
    while low < high:
        half = high / 2 - low / 2  # half, since the whole of it may be infinite
        place = ((F.col("x") / 2 - low / 2) / F.lit(half) * _BUCKETS).cast("int") if half else (F.col("x") > low).cast("int")
        inside = numbers.where(F.col("x").between(low, high)).groupBy(F.least(place, F.lit(_BUCKETS - 1)).alias("bucket"))
        for one in sorted(inside.agg(F.count("x").alias("rows"), F.min("x").alias("low"), F.max("x").alias("high")).collect()):
            low, high = one.low, one.high
            if rank < one.rows:
                break
            rank -= one.rows
    return float(low)


def held_out(found: Profile, settings: Settings) -> Column | None:
    """Which rows are held out for evaluation, as a condition; None where a share of them is, at random."""
    columns = found.columns
    if settings.data_split_method == "custom":
        return F.coalesce(column(str(columns.split)), F.lit(False))
    if settings.data_split_method == "seq":
        return F.coalesce(_number(columns, str(columns.split)) > F.lit(found.split_at), F.lit(False))
    return None
