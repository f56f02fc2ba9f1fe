"""Statements and what they give, the same from every client. They run in this order in one connection, in a database of the client's own.

`{db}` stands for the database in texts and rows.
"""

from dataclasses import dataclass
from typing import Any

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Case:
    """A statement, and the rows or the error that it must give. Without rows: those that spark.sql gives, digit by digit."""

    name: str
    sql: str
    columns: tuple[str, ...] = ()
    rows: Rows | None = None
    error: str | None = None
    of: tuple[str, ...] = ()  # only these columns are compared: others tell the time or a folder


HOUSES = """CREATE TABLE houses AS SELECT id, rooms, area, city, rooms * 20 + area * 2D + if(city = 'Köln', 50, 0) AS price, area > 70 AS big
FROM (SELECT CAST(id AS INT) AS id, CAST(id % 5 + 1 AS INT) AS rooms, (id * 37 % 100) * 1.5D AS area,
element_at(array('Köln', '東京', 'Oslo'), CAST(id % 3 + 1 AS INT)) AS city FROM range(90))""".replace("\n", " ")
TRAINED = ("model", "version", "model_type", "rows_trained", "loss", "metrics", "seconds", "uri")
MODEL = ("namespace", "model", "version", "model_type", "created_at", "owner", "comment")
VERSION = (
    "version",
    "is_default",
    "aliases",
    "status",
    "model_type",
    "rows_trained",
    "loss",
    "metrics",
    "created_at",
    "owner",
    "comment",
    "uri",
)
DONE = ("model", "version", "action")
ROUND = (
    "version", "round", "epoch", "rows", "train_loss", "eval_loss", "metrics", "learning_rate", "seconds", "rows_per_second", "at",
    "group", "note",
)  # fmt: skip
SMALL = "max_iterations = 2, hidden_units = [4], num_workers = 1, early_stop = false"

TRAIN = (
    Case(
        "create a regressor",
        f"CREATE MODEL worth COMMENT 'what a house costs' OPTIONS (model_type = 'dnn_regressor', input_label_cols = ['price'], {SMALL}) "
        "AS SELECT rooms, area, city, price FROM houses",
        TRAINED,
        [("{db}.worth", 1, "dnn_regressor", 90)],
        of=("model", "version", "model_type", "rows_trained"),
    ),
    Case(
        "call twin",
        "CALL ml.train(model => 'size', query => 'SELECT rooms, area, city, big FROM houses', options => "
        "map('model_type', 'logistic_classifier', 'input_label_cols', array('big'), 'max_iterations', 2))",
        TRAINED,
        [("{db}.size", 1, "logistic_classifier", 90)],
        of=("model", "version", "model_type", "rows_trained"),
    ),
    Case(
        "create or replace makes the next version",
        f"CREATE OR REPLACE MODEL size OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['big'], {SMALL}) "
        "AS SELECT rooms, area, city, big FROM houses",
        TRAINED,
        [("{db}.size", 2, "dnn_classifier", 90)],
        of=("model", "version", "model_type", "rows_trained"),
    ),
    Case(
        "odd names",
        "CREATE MODEL `my größe` OPTIONS (model_type = 'linear_regressor', input_label_cols = ['the price'], max_iterations = 1) "
        "AS SELECT rooms AS `how many`, price AS `the price` FROM houses",
        TRAINED,
        [("{db}.my größe", 1, "linear_regressor", 90)],
        of=("model", "version", "model_type", "rows_trained"),
    ),
)

LOOK = (
    Case(
        "show models",
        "SHOW MODELS",
        MODEL,
        [
            ("{db}", "my größe", 1, "linear_regressor", ""),
            ("{db}", "size", 2, "dnn_classifier", ""),
            ("{db}", "worth", 1, "dnn_regressor", "what a house costs"),
        ],
        of=("namespace", "model", "version", "model_type", "comment"),
    ),
    Case("show models like", "SHOW MODELS LIKE 'w*'", MODEL, [("worth",)], of=("model",)),
    Case("show models of none", "SHOW MODELS LIKE 'nothing'", MODEL, []),
    Case(
        "show versions",
        "SHOW VERSIONS IN MODEL size",
        VERSION,
        [(1, False, [], "ready", 90), (2, True, [], "ready", 90)],
        of=("version", "is_default", "aliases", "status", "rows_trained"),
    ),
    Case(
        "show create model",
        "SHOW CREATE MODEL `my größe`",
        ("createmodel_stmt",),
        [
            (
                "CREATE MODEL {db}.`my größe`\nOPTIONS (\n  model_type = 'linear_regressor',\n  input_label_cols = ['the price'],\n  max_iterations = 1\n)\n"
                "AS\nSELECT rooms AS `how many`, price AS `the price` FROM houses",
            )
        ],
    ),
    Case("describe model", "DESCRIBE MODEL worth", ("col_name", "data_type", "comment"), of=("col_name", "comment")),
    Case("explain create model", f"EXPLAIN {TRAIN[2].sql}", ("part", "name", "detail")),
    Case(
        "the catalog as a table function",
        "SELECT model, version FROM ML_MODELS() WHERE namespace = '{db}' ORDER BY 1",
        ("model", "version"),
    ),
    Case("training info", "SELECT * FROM ML_TRAINING_INFO('worth') ORDER BY round", ROUND, of=ROUND[:8]),
    Case("evaluation of the training", "SELECT * FROM ML_EVALUATE('worth')"),
    Case("evaluation of rows", "SELECT * FROM ML_EVALUATE('size', TABLE(SELECT * FROM houses))"),
)

PREDICT = (
    Case(
        "types",
        "SELECT typeof(PREDICT('worth', rooms, area, city)) AS a, typeof(PREDICT('size', struct(*))) AS b, typeof(PREDICT_PROBA('size', struct(*))) AS c, "
        "typeof(ML_PREDICT('worth', struct(*))) AS d, typeof(ML_PREDICT('size@v1', struct(*))) AS e FROM houses LIMIT 1",
        ("a", "b", "c", "d", "e"),
        [
            (
                "double",
                "boolean",
                "map<boolean,double>",
                "struct<value:double>",
                "struct<label:boolean,probability:double,probabilities:array<struct<label:boolean,probability:double>>>",
            )
        ],
    ),
    Case("predict", "SELECT id, PREDICT('worth', rooms, area, city) AS price FROM houses ORDER BY id LIMIT 9", ("id", "price")),
    Case("predict by name", "SELECT id, PREDICT('worth', city, area, rooms) AS price FROM houses ORDER BY id LIMIT 9", ("id", "price")),
    Case("predict a class", "SELECT id, PREDICT('size', struct(*)) AS big FROM houses ORDER BY id LIMIT 9", ("id", "big")),
    Case("predict with a version", "SELECT id, PREDICT('{db}.size@v1', struct(*)) AS big FROM houses ORDER BY id LIMIT 9", ("id", "big")),
    Case("predict in WHERE", "SELECT id FROM houses WHERE PREDICT('size@v1', struct(*)) ORDER BY id", ("id",)),
    Case(
        "predict in GROUP BY",
        "SELECT PREDICT('size', rooms, area, city) AS guess, count(*) AS n FROM houses GROUP BY 1 ORDER BY 1",
        ("guess", "n"),
    ),
    Case(
        "probabilities",
        "SELECT id, label, p FROM houses LATERAL VIEW explode(PREDICT_PROBA('size', rooms, area, city)) t AS label, p ORDER BY id, label LIMIT 6",
        ("id", "label", "p"),
    ),
    Case(
        "the whole answer",
        "SELECT id, ML_PREDICT('size', struct(*)) AS answer, ML_PREDICT('size', struct(*)).label AS label FROM houses ORDER BY id LIMIT 3",
        ("id", "answer", "label"),
    ),
    Case(
        "null features", "SELECT PREDICT('worth', IF(id < 0, struct(*), NULL)) AS price FROM houses LIMIT 2", ("price",), [(None,), (None,)]
    ),
    Case(
        "odd names in functions", "SELECT PREDICT('`my größe`', struct(rooms AS `how many`)) AS p FROM houses ORDER BY id LIMIT 3", ("p",)
    ),
    Case(
        "table function",
        "SELECT * FROM ML_PREDICT('size', TABLE(SELECT id, rooms, area, city FROM houses)) ORDER BY id LIMIT 3",
        ("id", "rooms", "area", "city", "predicted_big", "predicted_big_probs"),
    ),
    Case(
        "BigQuery ML",
        "SELECT id, predicted_price FROM ML.PREDICT(MODEL worth, (SELECT * FROM houses)) ORDER BY id LIMIT 3",
        ("id", "predicted_price"),
    ),
    Case(
        "Flink SQL",
        "SELECT id, predicted_price FROM ML_PREDICT(TABLE houses, MODEL worth, DESCRIPTOR(rooms, area, city)) ORDER BY id LIMIT 3",
        ("id", "predicted_price"),
    ),
    Case("create a view", "CREATE VIEW priced AS SELECT id, city, PREDICT('worth', struct(*)) AS guess FROM houses"),
    Case("a view", "SELECT city, guess FROM priced WHERE id < 3 ORDER BY id", ("city", "guess")),
    Case("create table as select", "CREATE TABLE guesses AS SELECT id, PREDICT('size', struct(*)) AS big FROM houses"),
    Case("the table", "SELECT count(*) AS n, count(big) AS guessed FROM guesses", ("n", "guessed"), [(90, 90)]),
)

CHANGE = (
    Case("comment", "ALTER MODEL worth SET COMMENT 'it''s a \"guess\", 東京'", DONE, [("{db}.worth", 1, "has a new comment")]),
    Case("the comment", "SHOW MODELS LIKE 'worth'", MODEL, [('it\'s a "guess", 東京',)], of=("comment",)),
    Case("alias", "ALTER MODEL size VERSION 1 SET ALIAS = champion", DONE, [("{db}.size", 1, "is @champion")]),
    Case(
        "aliases",
        "SHOW VERSIONS IN MODEL size",
        VERSION,
        [(1, False, ["champion"]), (2, True, [])],
        of=("version", "is_default", "aliases"),
    ),
    Case("predict with an alias", "SELECT id, PREDICT('size@champion', struct(*)) AS big FROM houses ORDER BY id LIMIT 9", ("id", "big")),
    Case("default version", "ALTER MODEL size SET DEFAULT_VERSION = 1", DONE, [("{db}.size", 1, "is the default version")]),
    Case("rename", "ALTER MODEL `my größe` RENAME TO other", DONE, [("{db}.other", None, "was `{db}.my größe`")]),
    Case("drop a version", "DROP MODEL size VERSION 2", DONE, [("{db}.size", 2, "is dropped")]),
    Case("drop", "DROP MODEL other", DONE, [("{db}.other", None, "is dropped")]),
    Case("drop what is not there", "DROP MODEL IF EXISTS other", DONE, [("{db}.other", None, "was not there")]),
    Case("call twin of drop", "CALL ml.drop_model(model => 'size')", DONE, [("{db}.size", None, "is dropped")]),
    Case("what is left", "SHOW MODELS", MODEL, [("worth", 1)], of=("model", "version")),
)

SPARK = (
    Case(
        "types of Spark",
        "SELECT 1 AS i, -9223372036854775808 AS l, 1.5D AS d, 'ü \"x\", 東京' AS s, true AS b, NULL AS n, date'2026-01-31' AS t, "
        "array(1, 2) AS a, map('k', 1.5D) AS m, struct(1 AS x, 'y' AS z) AS r",
        ("i", "l", "d", "s", "b", "n", "t", "a", "m", "r"),
        [(1, -(2**63), 1.5, 'ü "x", 東京', True, None, "2026-01-31", [1, 2], {"k": 1.5}, {"x": 1, "z": "y"})],
    ),
    Case("words of ours are names to Spark", "SELECT model, ml FROM (SELECT 1 AS model, 2 AS ml) AS models", ("model", "ml"), [(1, 2)]),
)

# Without indentation: Beeline takes it away before it sends a statement.
ERRORS = (
    Case(
        "no such model",
        "SELECT PREDICT('wroth', rooms) FROM houses",
        error="[DLSQL_MODEL_NOT_FOUND] Model `{db}.wroth` is not registered. Did you mean `{db}.worth`? SQLSTATE: 42704",
    ),
    Case(
        "no such model to drop",
        "DROP MODEL `wröth`",
        error="[DLSQL_MODEL_NOT_FOUND] Model `{db}.wröth` is not registered. Did you mean `{db}.worth`? SQLSTATE: 42704",
    ),
    Case(
        "there is one",
        f"CREATE MODEL worth OPTIONS (model_type = 'dnn_regressor', {SMALL}) AS SELECT 1 AS label",
        error="[DLSQL_MODEL_EXISTS] Model `{db}.worth` is registered already. Use CREATE OR REPLACE MODEL for its next version. SQLSTATE: 42710",
    ),
    Case(
        "unknown option",
        "CREATE MODEL x OPTIONS (model_type = 'dnn_regressor', hiden_units = [4]) AS SELECT 1 AS label",
        error="[DLSQL_UNKNOWN_OPTION] `hiden_units` is not an option of CREATE MODEL. Did you mean `hidden_units`? SQLSTATE: 22023",
    ),
    Case(
        "missing feature",
        "SELECT PREDICT('worth', struct(rooms, area, city AS citi)) FROM houses",
        error="[DLSQL_FEATURE_MISSING] Model `{db}.worth` takes `city`, and the arguments do not hold it. Did you mean `citi`? SQLSTATE: 42704",
    ),
    Case(
        "syntax of ours",
        "CREATE MODEL x OPTIONS (model_type 'dnn_regressor') AS SELECT 1",
        error="[DLSQL_SYNTAX] Expected `=`, found `'dnn_regressor'` at line 1, column 36. SQLSTATE: 42601",
    ),
    Case(
        "no such database",
        "SHOW MODELS IN nowhere",
        error="[DLSQL_NAMESPACE_NOT_FOUND] Database `nowhere` does not exist. SQLSTATE: 42704",
    ),
    Case(
        "syntax of Spark",
        "SELECT model,\nFRO range(2)",
        error="[PARSE_SYNTAX_ERROR] Syntax error at or near '('. SQLSTATE: 42601 (line 2, pos 9)\n\n== SQL ==\nSELECT model,\nFRO range(2)\n---------^^^",
    ),
    Case(
        "column of Spark",
        "SELECT id,\nmodle FROM range(2)",
        error="[UNRESOLVED_COLUMN.WITH_SUGGESTION] A column, variable, or function parameter with name `modle` cannot be resolved. "
        "Did you mean one of the following? [`id`]. SQLSTATE: 42703; line 2 pos 0;",
    ),
    Case(
        "function of Spark",
        "SELECT ml_nope(1)",
        error="[UNRESOLVED_ROUTINE] Cannot resolve routine `ml_nope` on search path",
    ),
)

CASES = (*TRAIN, *LOOK, *PREDICT, *CHANGE, *SPARK, *ERRORS)
