"""Text to statements and back: dlsql/parser.py and dlsql/rewrite.py."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlsql.errors import DlsqlError, StatementSyntaxError
from dlsql.parser import parse, render
from dlsql.quoting import literal
from dlsql.rewrite import rewrite
from dlsql.statements import (
    CancelTraining,
    CreateModel,
    DescribeModel,
    DropModel,
    ExplainCreateModel,
    ExportModel,
    HParamCandidates,
    HParamRange,
    Name,
    RenameModel,
    SetAlias,
    SetComment,
    SetDefaultVersion,
    SetProperties,
    ShowCreateModel,
    ShowModels,
    ShowTrainings,
    ShowVersions,
    Statement,
    UnsetAlias,
    Vacuum,
    Value,
)
from dlsql.terms import parse_name, quote_name

M = Name(None, "m")
CHURN = Name("sales", "churn")


def problem(text: str) -> str:
    """What is said about a statement that is ours and wrong."""
    with pytest.raises(StatementSyntaxError) as raised:
        parse(text)
    return raised.value.text


def value_of(text: str) -> Value:
    """The value of an option."""
    statement = parse(f"EXPORT MODEL m OPTIONS (x = {text})")
    assert isinstance(statement, ExportModel)
    return statement.options[0][1]


# ---- Statements

STATEMENTS: dict[str, Statement] = {
    "CREATE MODEL m AS SELECT 1": CreateModel(M, query="SELECT 1"),
    "create or replace model Sales.Churn as select 1": CreateModel(CHURN, query="select 1", replace=True),
    "CREATE MODEL IF NOT EXISTS m AS TABLE t": CreateModel(M, query="TABLE t", if_not_exists=True),
    "CREATE MODEL m OPTIONS (model_path = 's3://b/m.onnx')": CreateModel(M, (("model_path", "s3://b/m.onnx"),)),
    "EXPLAIN CREATE MODEL m AS SELECT 1": ExplainCreateModel(CreateModel(M, query="SELECT 1")),
    "EXPLAIN CREATE OR REPLACE MODEL m AS SELECT 1": ExplainCreateModel(CreateModel(M, query="SELECT 1", replace=True)),
    "ALTER MODEL sales.churn SET DEFAULT_VERSION = 2": SetDefaultVersion(CHURN, 2),
    "ALTER MODEL sales.churn VERSION 2 SET ALIAS = champion": SetAlias(CHURN, 2, "champion"),
    "ALTER MODEL sales.churn VERSION 2 SET ALIAS Champion": SetAlias(CHURN, 2, "champion"),
    "ALTER MODEL sales.churn VERSION 2 SET ALIAS = 'champion'": SetAlias(CHURN, 2, "champion"),
    "ALTER MODEL sales.churn VERSION 2 SET ALIAS = `champion`": SetAlias(CHURN, 2, "champion"),
    "ALTER MODEL sales.churn@v2 SET ALIAS = champion": SetAlias(CHURN, 2, "champion"),
    "ALTER MODEL m UNSET ALIAS = champion": UnsetAlias(M, "champion"),
    "ALTER MODEL m UNSET ALIAS champion": UnsetAlias(M, "champion"),
    "ALTER MODEL m SET COMMENT 'it''s mine'": SetComment(M, "it's mine"),
    "ALTER MODEL m SET TBLPROPERTIES ('Team' = 'x', a.b = 1)": SetProperties(M, (("team", "x"), ("a.b", 1))),
    "ALTER MODEL m SET OPTIONS (team = 'x')": SetProperties(M, (("team", "x"),)),
    "ALTER MODEL m RENAME TO sales.churn": RenameModel(M, CHURN),
    "DROP MODEL m": DropModel(M),
    "DROP MODEL IF EXISTS sales.churn": DropModel(CHURN, if_exists=True),
    "DROP MODEL m VERSION 2": DropModel(M, 2),
    "DROP MODEL m@v2;": DropModel(M, 2),
    "DROP MODEL if": DropModel(Name(None, "if")),
    "SHOW MODELS": ShowModels(),
    "SHOW MODELS IN Sales": ShowModels("sales"),
    "SHOW MODELS FROM `my db` LIKE 'chu*'": ShowModels("my db", "chu*"),
    "SHOW MODELS LIKE 'chu*'": ShowModels(None, "chu*"),
    'SHOW MODELS "chu*"': ShowModels(None, "chu*"),
    "SHOW TRAININGS": ShowTrainings(),
    "SHOW TRAININGS IN Sales LIKE 'chu*'": ShowTrainings("sales", "chu*"),
    "CANCEL TRAINING sales.churn": CancelTraining(CHURN),
    "SHOW MODEL sales.churn@v3": DescribeModel(Name("sales", "churn", version=3)),
    "SHOW VERSIONS IN MODEL sales.churn": ShowVersions(CHURN),
    "SHOW CREATE MODEL sales.churn@champion": ShowCreateModel(Name("sales", "churn", alias="champion")),
    "DESCRIBE MODEL m": DescribeModel(M),
    "DESC MODEL EXTENDED m": DescribeModel(M, extended=True),
    "DESCRIBE MODEL extended": DescribeModel(Name(None, "extended")),
    "DESCRIBE MODEL `my model`": DescribeModel(Name(None, "my model")),
    "EXPORT MODEL m@v2 OPTIONS (URI = '/tmp/m', format = onnx)": ExportModel(
        Name(None, "m", version=2), (("uri", "/tmp/m"), ("format", "onnx"))
    ),
    "CALL ml.train(model => 'sales.churn', query => 'SELECT 1;', options => map('epochs', 3), replace => true)": CreateModel(
        CHURN, (("epochs", 3),), "SELECT 1", replace=True
    ),
    "call ML . train ('m', 'SELECT ''a''')": CreateModel(M, query="SELECT 'a'"),
    "CALL ml.train(query => 'SELECT 1', model => 'm', options => STRUCT(3 AS Epochs), replace => NULL)": CreateModel(
        M, (("epochs", 3),), "SELECT 1"
    ),
    "CALL ml.import_model('m', '/tmp/x', 'onnx', map('k', 1))": CreateModel(M, (("model_path", "/tmp/x"), ("format", "onnx"), ("k", 1))),
    "CALL ml.import_model(model => 'm', uri => '/tmp/x')": CreateModel(M, (("model_path", "/tmp/x"),)),
    "CALL ml.export_model('m@v1', uri => '/tmp/x', format => 'onnx')": ExportModel(
        Name(None, "m", version=1), (("uri", "/tmp/x"), ("format", "onnx"))
    ),
    "CALL ml.drop_model('m')": DropModel(M),
    "CALL ml.drop_model('m', 2, true)": DropModel(M, 2, if_exists=True),
    "CALL ml.drop_model(model => 'm@v2')": DropModel(M, 2),
    "CALL ml.set_alias('sales.churn', 2, 'Champion')": SetAlias(CHURN, 2, "champion"),
    "CALL ml.cancel_training('sales.churn')": CancelTraining(CHURN),
    "CALL ml.vacuum()": Vacuum(),
    "CALL ml.vacuum(retain_hours => 1)": Vacuum(1.0),
    "CALL ml.vacuum(0.5);": Vacuum(0.5),
}


@pytest.mark.parametrize("text", STATEMENTS)
def test_each_statement_of_the_language_is_read(text: str) -> None:
    assert parse(text) == STATEMENTS[text]


def test_clauses_stand_in_any_order_and_slices_are_the_source() -> None:
    text = """-- train /* it
        CREATE MODEL `My DB`.churn /* a /* nested */ comment */
          TRANSFORM (a + 1 AS a, -- one
                     f(b, ')') AS b  )
          OUTPUT (p map<string, array<double>>)
          COMMENT 'who "leaves"'
          INPUT (a decimal(10, 2), `b c` struct<x: int, y: array<array<int>>>)
          WITH ('Model_Type' = "dnn_classifier", `hidden_units` = [64, 32])
        AS -- the query
          SELECT /*+ BROADCAST(t) */ *, ':x' FROM 模型 t
          WHERE a > :limit AND b = ? -- ';'
          ORDER BY `😀` ;
        ; -- the end"""
    assert parse(text) == CreateModel(
        Name("my db", "churn"),
        options=(("model_type", "dnn_classifier"), ("hidden_units", [64, 32])),
        query="SELECT /*+ BROADCAST(t) */ *, ':x' FROM 模型 t\n          WHERE a > :limit AND b = ? -- ';'\n          ORDER BY `😀`",
        comment='who "leaves"',
        inputs=(("a", "decimal(10, 2)"), ("b c", "struct<x: int, y: array<array<int>>>")),
        outputs=(("p", "map<string, array<double>>"),),
        transform="a + 1 AS a, -- one\n                     f(b, ')') AS b",
    )


@pytest.mark.parametrize(
    "query", ["SELECT 1", "WITH a AS (SELECT 1) FROM a", "FROM t", "VALUES (1)", "TABLE t", "(SELECT 1) UNION (SELECT 2)"]
)
def test_a_query_begins_in_any_of_sparks_ways(query: str) -> None:
    assert parse(f"CREATE MODEL m AS\n{query}\n;\n") == CreateModel(M, query=query)


def test_what_sqlglot_makes_of_bigquery_is_read() -> None:
    text = (
        "CREATE OR REPLACE MODEL `ds`.`m` TRANSFORM(a, ML.STANDARD_SCALER(b) OVER () AS b) TBLPROPERTIES ('model_type'='linear_reg',"
        " 'input_label_cols'=ARRAY('y'), 'l1'=HPARAM_RANGE(0, 1), 'h'=HPARAM_CANDIDATES(ARRAY(STRUCT(ARRAY(1, 2)))),"
        " 'cw'=ARRAY(STRUCT('a', 0.2))) AS SELECT * FROM t"
    )
    assert parse(text) == CreateModel(
        Name("ds", "m"),
        options=(
            ("model_type", "linear_reg"),
            ("input_label_cols", ["y"]),
            ("l1", HParamRange(0, 1)),
            ("h", HParamCandidates(([1, 2],))),
            ("cw", [["a", 0.2]]),
        ),
        query="SELECT * FROM t",
        replace=True,
        transform="a, ML.STANDARD_SCALER(b) OVER () AS b",
    )


def test_names_are_read_bare_quoted_and_as_bigquery_quotes_them() -> None:
    named = {
        "M": Name(None, "m"),
        "`ds.m`": Name("ds", "m"),
        "`DS`.`M`": Name("ds", "m"),
        "ds.`m.1`": Name("ds", "m.1"),
        "`a``b`": Name(None, "a`b"),
        "模型.é": Name("模型", "é"),
        "db.2x": Name("db", "2x"),
        "db.2": Name("db", "2"),
        "m@V12": Name(None, "m", version=12),
        "m @ champion": Name(None, "m", alias="champion"),
        "m@`best one`": Name(None, "m", alias="best one"),
        "m@v2b": Name(None, "m", alias="v2b"),
    }
    assert {text: parse(f"SHOW CREATE MODEL {text}") for text in named} == {text: ShowCreateModel(name) for text, name in named.items()}


def test_values_are_read_as_written() -> None:
    values: dict[str, Value] = {
        "1": 1,
        "+1": 1,
        "- 1": -1,
        "1L": 1,
        "0.5D": 0.5,
        "0.5BD": 0.5,
        "2f": 2.0,
        "1e-05": 1e-05,
        "1E3": 1000.0,
        "1e+22": 1e22,
        ".5": 0.5,
        "-.5": -0.5,
        "5.": 5.0,
        "12345678901234567890": 12345678901234567890,
        "TRUE": True,
        "false": False,
        "null": None,
        "cosine": "cosine",
        "AUTO": "AUTO",
        "'a'": "a",
        '"a"': "a",
        "'it''s'": "it's",
        "'a' 'b'": "ab",
        "'a'\"b\"": "ab",
        "'a''''b' 'c'": "a''bc",
        r"r'a\n'": r"a\n",
        r"'\'\n\u00e9\101\\\%\q\U0001F600\ud83d\ude00'": "'\néA\\\\%q😀😀",
        "[]": [],
        "[1, [2, 'x'], NULL]": [1, [2, "x"], None],
        "ARRAY(1, 2)": [1, 2],
        "MAP('a', 1, 'b', [true])": {"a": 1, "b": [True]},
        "MAP['a', 'b']": {"a": "b"},
        "MAP(1, 'one')": {"1": "one"},
        "STRUCT(1 AS a, 'x' AS `b c`)": {"a": 1, "b c": "x"},
        "STRUCT([1, 2])": [1, 2],
        "[STRUCT('yes', 0.3)]": [["yes", 0.3]],
        "HPARAM_RANGE(-1, 1e-1)": HParamRange(-1, 0.1),
        "hparam_candidates([1, 'a'])": HParamCandidates((1, "a")),
        "map": "map",
    }
    assert {text: repr(value_of(text)) for text in values} == {text: repr(content) for text, content in values.items()}


# ---- What is wrong, and where

PROBLEMS = {
    "CREATE MODEL": "Expected a model's name, found the end of the text at line 1, column 13.",
    "CREATE MODEL 'm' AS SELECT 1": "Expected a model's name, found `'m'` at line 1, column 14.",
    "CREATE MODEL a.b.c AS SELECT 1": "`a.b.c` has 3 parts; a model's name has one or two, namespace.model, at line 1, column 14.",
    "CREATE MODEL `a.b.c` AS SELECT 1": "`a.b.c` has 3 parts; a model's name has one or two, namespace.model, at line 1, column 14.",
    "CREATE MODEL my-model AS SELECT 1": "Unexpected `-` at line 1, column 16. A name with a hyphen stands in backticks.",
    "CREATE MODEL m@v2 AS SELECT 1": "`m@v2` names one version, and the model as a whole is meant, at line 1, column 14.",
    "ALTER MODEL m RENAME TO n@best": "`n@best` names one version, and the model as a whole is meant, at line 1, column 25.",
    "ALTER MODEL m@v2 SET COMMENT 'x'": "`m@v2` names one version, and the model as a whole is meant, at line 1, column 13.",
    "CREATE MODEL m": "CREATE MODEL has nothing to learn from at line 1, column 15. "
    "Add AS SELECT ..., or the option model_path to import a model.",
    "CREATE MODEL m OPTIONS (a = 1);": "CREATE MODEL has nothing to learn from at line 1, column 32. "
    "Add AS SELECT ..., or the option model_path to import a model.",
    "CREATE OR REPLACE MODEL IF NOT EXISTS m AS SELECT 1": "OR REPLACE and IF NOT EXISTS exclude each other at line 1, column 25.",
    "CREATE MODEL m\n  COMMENT 'a'\n  COMMENT 'b' AS SELECT 1": "A second COMMENT clause at line 3, column 3.",
    "CREATE MODEL m WITH (a = 1) OPTIONS (b = 1)": "A second OPTIONS clause, after WITH, at line 1, column 29.",
    "CREATE MODEL m OPTIONS (a = 1, 'A' = 2) AS SELECT 1": "Option `a` is given twice at line 1, column 32.",
    "CREATE MODEL m OPTIONS (a = MAP('x', 1, 'x', 2)) AS SELECT 1": "`x` is given twice at line 1, column 48.",
    "CREATE MODEL m OPTIONS (a 1) AS SELECT 1": "Expected `=`, found `1` at line 1, column 27.",
    "CREATE MODEL m OPTIONS (a = 1 b = 2) AS SELECT 1": "Expected `,` or `)`, found `b` at line 1, column 31.",
    "CREATE MODEL m OPTIONS (a = ) AS SELECT 1": "Expected a value, found `)` at line 1, column 29.",
    "CREATE MODEL m OPTIONS (a = `b`) AS SELECT 1": "Expected a value, found ``b`` at line 1, column 29.",
    "CREATE MODEL m OPTIONS (a = 1e999) AS SELECT 1": "`1e999` is too large a number at line 1, column 29.",
    "CREATE MODEL m OPTIONS (a = HPARAM_RANGE(1)) AS SELECT 1": "HPARAM_RANGE takes 2 numbers, low and high, "
    "and not 1, at line 1, column 44.",
    "CREATE MODEL m OPTIONS (a = HPARAM_CANDIDATES(1)) AS SELECT 1": "HPARAM_CANDIDATES takes one list of values at line 1, column 49.",
    "CREATE MODEL m OPTIONS (a = STRUCT(1 AS a, 2)) AS SELECT 1": "All fields of a STRUCT have a name, or none has, at line 1, column 46.",
    f"CREATE MODEL m OPTIONS (a = {'[' * 100}": "Values are nested more than 32 deep at line 1, column 62.",
    "CREATE MODEL m AS": "Expected a query, found the end of the text at line 1, column 18.",
    "CREATE MODEL m AS DELETE FROM t": "Expected a query, found `DELETE` at line 1, column 19.",
    "CREATE MODEL m SELECT 1": "Unexpected `SELECT` at line 1, column 16.",
    "CREATE MODEL m OPTION (a = 1) AS SELECT 1": "Unexpected `OPTION` at line 1, column 16. Did you mean `OPTIONS`?",
    "CREATE MODEL m TRANSFORM () AS SELECT 1": "Expected text, found `)` at line 1, column 27.",
    "CREATE MODEL m TRANSFORM (f(a) AS SELECT 1": "Expected `)`, found the end of the text at line 1, column 43.",
    "CREATE MODEL m INPUT (a) AS SELECT 1": "Expected text, found `)` at line 1, column 24.",
    "CREATE MODEL m COMMENT 'a\nb": "A quote or a comment is not closed at line 2, column 2.",
    "ALTER MODEL m SET ALIAS = best": "SET ALIAS is for one version at line 1, column 25. "
    "Write ALTER MODEL name VERSION n SET ALIAS = alias.",
    "ALTER MODEL m VERSION 2 SET ALIAS = v3": "`v3` cannot be an alias, since @v3 is a version, at line 1, column 37.",
    "ALTER MODEL m VERSION 2 SET ALIAS = Default": "`default` cannot be an alias at line 1, column 37. "
    "Use ALTER MODEL name SET DEFAULT_VERSION = n.",
    "ALTER MODEL m VERSION two SET ALIAS = x": "Expected the number of a version, found `two` at line 1, column 23.",
    "ALTER MODEL m DROP": "Expected one of SET DEFAULT_VERSION, VERSION, SET ALIAS, UNSET ALIAS, SET COMMENT, SET TBLPROPERTIES,"
    " SET OPTIONS, RENAME TO, found `DROP` at line 1, column 15.",
    "DROP MODEL m@best": "`m@best` cannot be dropped at line 1, column 12. Give the number of one version, or the model's name alone.",
    "DROP MODEL m@v2 VERSION 3": "`m@v2` cannot be dropped at line 1, column 12. "
    "Give the number of one version, or the model's name alone.",
    "DROP MODEL m n": "Unexpected `n` at line 1, column 14.",
    "DROP MODEL m; DROP MODEL n": "Unexpected `;` at line 1, column 13.",
    "SHOW MODELS IN": "Expected a database, found the end of the text at line 1, column 15.",
    "SHOW MODELS WHERE": "Unexpected `WHERE` at line 1, column 13.",
    "SHOW MODELS LIKE x": "Expected a pattern, found `x` at line 1, column 18.",
    "SHOW CREATE MODEL 😀é m n": "Expected a model's name, found `😀é` at line 1, column 19.",
    "EXPORT MODEL m": "Expected OPTIONS, found the end of the text at line 1, column 15.",
    "CALL ml.train(model => 'm')": "ml.train needs the argument `query`, a query as a string, at line 1, column 15.",
    "CALL ml.train(modle => 'm')": "ml.train has no argument `modle` at line 1, column 15. Did you mean `model`?",
    "CALL ml.train('m', model => 'm')": "Argument `model` is given twice at line 1, column 20.",
    "CALL ml.train('m', 'SELECT 1', 3)": "Argument `options` of ml.train is not a map at line 1, column 32.",
    "CALL ml.train('m@v2', 'SELECT 1')": "`m@v2` names one version, and the model as a whole is meant, at line 1, column 15.",
    "CALL ml.train('a.b.c', 'SELECT 1')": "`a.b.c` has 3 parts; a model's name has one or two, namespace.model, at line 1, column 15.",
    "CALL ml.train('m', 'SELECT 1', map('a', 1, 'A', 2))": "Option `a` is given twice at line 1, column 32.",
    "CALL ml.vacuum(1, 2)": "ml.vacuum takes only retain_hours at line 1, column 19.",
    "CALL ml.set_alias('m', 2, 'v3')": "`v3` cannot be an alias, since @v3 is a version, at line 1, column 27.",
    "CALL ml.drop_model('m', version => true)": "Argument `version` of ml.drop_model is not the number of a version at line 1, column 36.",
}


@pytest.mark.parametrize("text", PROBLEMS)
def test_an_error_says_what_is_wrong_and_where(text: str) -> None:
    assert problem(text) == PROBLEMS[text]


# ---- Spark's own

SPARKS = [
    "",
    ";",
    "-- CREATE MODEL m AS SELECT 1",
    "/* DROP MODEL m */ SELECT 1",
    "SELECT 1",
    "SELECT model FROM model",
    "SELECT model 'x'",
    "SELECT model x FROM t model",
    "SELECT ml.predict FROM t ml",
    "SELECT ml.predict(model) FROM t ml",
    "SELECT ml.predict(model, 1), predict(model, 1), predict(model) FROM t",
    "SELECT predict(model IS NULL), predict(model IN (1, 2), 1), predict(model LIKE 'x', 1) FROM t",
    "SELECT predict(model - 1, x), predict(model BETWEEN 1 AND 2, 3), predict(model AND ml, x) FROM t",
    "SELECT predict(model.x, 1), predict(model[0]), predict(t.model, 1), ml_predict(model || 'x', 1) FROM t",
    "SELECT cat.ml.predict(1), x.predict('MODEL m', 1)",
    "SELECT 'ML.PREDICT(MODEL m, TABLE t)'",
    'SELECT "it\'s ML.PREDICT(MODEL m, TABLE t)"',
    r"SELECT r'\', 'ML.PREDICT(MODEL m, TABLE t)'",
    "SELECT 1 -- it's ML.PREDICT(MODEL m, TABLE t)",
    "SELECT /* ' ML.PREDICT(MODEL m, TABLE t) */ 1",
    "SELECT `ML.PREDICT(MODEL m, TABLE t)` FROM t",
    "SELECT `ml`.`predict`(model) FROM t",
    "SELECT PREDICT('m', a, b), ML_PREDICT('sales.churn@v2', STRUCT(a, b)) FROM model",
    "SELECT * FROM ML_PREDICT('m', TABLE(SELECT model FROM ml), map('threshold', 0.5))",
    "SELECT * FROM ML_EVALUATE('m', TABLE(model))",
    "WITH model AS (SELECT 1) SELECT * FROM model",
    "CREATE TABLE model (model STRING, ml INT)",
    "CREATE OR REPLACE TABLE model AS SELECT 1",
    "CREATE VIEW model AS SELECT 1",
    "CREATE OR REPLACE TEMPORARY VIEW model AS SELECT * FROM ml.t",
    "CREATE FUNCTION model AS 'x'",
    "CREATE DATABASE ml",
    "ALTER TABLE model ADD COLUMN ml INT",
    "ALTER VIEW model RENAME TO m",
    "DROP TABLE model",
    "DROP TABLE IF EXISTS ml.model",
    "SHOW TABLES LIKE 'model'",
    "SHOW TABLES IN ml",
    "SHOW CREATE TABLE model",
    "SHOW TBLPROPERTIES model",
    "DESCRIBE model",
    "DESC model;",
    "DESCRIBE ml.model x",
    "DESCRIBE model.t",
    "DESCRIBE model PARTITION (d = 1)",
    "DESCRIBE -- ours?\n model -- no",
    "DESCRIBE TABLE model",
    "DESCRIBE EXTENDED model AS JSON",
    "DESCRIBE `model` x",
    "EXPLAIN SELECT model FROM ml.predict",
    "EXPLAIN CREATE TABLE model AS SELECT 1",
    "CALL ml.mine(model => 'm')",
    "CALL ml.train.it(model => 'm')",
    "CALL other.train(model => 'm')",
    "INSERT INTO model VALUES ('CREATE MODEL m', 1)",
    "MERGE INTO model USING ml ON model.id = ml.id WHEN MATCHED THEN DELETE",
    "CACHE TABLE model",
    "REFRESH TABLE ml.model",
    "USE ml",
    "SET model = ml.predict",
    "EXPORT TABLE model",
    "SELECT predict(MODEL 'm', 'not closed",
    "DELETE FROM model WHERE ml = 'x",
]


@pytest.mark.parametrize("text", SPARKS)
def test_text_that_is_not_ours_is_left_to_spark(text: str) -> None:
    assert (parse(text), rewrite(text)) == (None, None)


def test_comments_before_a_statement_do_not_hide_it() -> None:
    assert parse("-- a\n/* b /* c */ ' */ DROP -- d\n MODEL /**/ m -- e") == DropModel(M)


# ---- Rewriting

REWRITTEN = {
    # BigQuery ML's
    "SELECT * FROM ML.PREDICT(MODEL a.b, TABLE t)": "SELECT * FROM ML_PREDICT('a.b', TABLE(t))",
    "SELECT * FROM ml . predict ( model `a.b` , table c.t )": "SELECT * FROM ML_PREDICT ( 'a.b' , table(c.t) )",
    "FROM ML.PREDICT(MODEL a.b, (SELECT ')' AS x FROM `t` /* , */ ))": "FROM ML_PREDICT('a.b', TABLE(SELECT ')' AS x FROM `t` /* , */ ))",
    "FROM ML.PREDICT(MODEL `A`.`B`, (WITH x AS (SELECT 1) FROM x))": "FROM ML_PREDICT('a.b', TABLE(WITH x AS (SELECT 1) FROM x))",
    "FROM ML.PREDICT(MODEL m, ((SELECT 1)))": "FROM ML_PREDICT('m', TABLE((SELECT 1)))",
    "FROM ML.PREDICT(MODEL m@v2, TABLE(t))": "FROM ML_PREDICT('m@v2', TABLE(t))",
    "FROM ML.PREDICT(MODEL `my db`.`my model`@`the best`, TABLE t)": "FROM ML_PREDICT('`my db`.`my model`@`the best`', TABLE(t))",
    r"FROM ML.PREDICT(MODEL `it's`.`a\b`, TABLE t)": r"FROM ML_PREDICT('`it\'s`.`a\\b`', TABLE(t))",
    "FROM ML.PREDICT(MODEL 模型, TABLE t)": "FROM ML_PREDICT('`模型`', TABLE(t))",
    "SELECT '😀', \"é\" FROM ML.PREDICT(MODEL m, TABLE t) -- 😀": "SELECT '😀', \"é\" FROM ML_PREDICT('m', TABLE(t)) -- 😀",
    "FROM ML.EVALUATE(MODEL a.b)": "FROM ML_EVALUATE('a.b')",
    "FROM ML.CONFUSION_MATRIX(MODEL a.b, TABLE t)": "FROM ML_CONFUSION_MATRIX('a.b', TABLE(t))",
    "FROM ML.ROC_CURVE(MODEL m, TABLE t, ARRAY(0.1, 0.2))": "FROM ML_ROC_CURVE('m', TABLE(t), ARRAY(0.1, 0.2))",
    "FROM ML.TRAINING_INFO(MODEL m) JOIN ML.TRIAL_INFO(MODEL n)": "FROM ML_TRAINING_INFO('m') JOIN ML_TRIAL_INFO('n')",
    "FROM ML.FEATURE_INFO(MODEL m), ML.WEIGHTS(MODEL n)": "FROM ML_FEATURE_INFO('m'), ML_WEIGHTS('n')",
    "FROM ML.GLOBAL_EXPLAIN(MODEL m, STRUCT(TRUE AS class_level_explain))": "FROM ML_GLOBAL_EXPLAIN('m', map('class_level_explain', TRUE))",
    "FROM ML.EXPLAIN_PREDICT(MODEL m, TABLE t, STRUCT(3 AS top_k_features))": (
        "FROM ML_EXPLAIN_PREDICT('m', TABLE(t), map('top_k_features', 3))"
    ),
    "FROM ML_EVALUATE(MODEL m, (SELECT 1))": "FROM ML_EVALUATE('m', TABLE(SELECT 1))",
    # settings
    "FROM ML.PREDICT(MODEL m, TABLE t, STRUCT(0.5 AS Threshold))": "FROM ML_PREDICT('m', TABLE(t), map('threshold', 0.5))",
    "FROM ML.PREDICT(MODEL m, TABLE t, STRUCT(-0.5 AS a, 1e-3 AS b))": "FROM ML_PREDICT('m', TABLE(t), map('a', -0.5, 'b', 1e-3))",
    "FROM ML.PREDICT(MODEL m, TABLE t, STRUCT(0.5 AS a, TRUE AS b, 'it''s' AS c, NULL AS d))": (
        "FROM ML_PREDICT('m', TABLE(t), map('a', '0.5', 'b', 'true', 'c', 'it''s', 'd', NULL))"
    ),
    "FROM ML.PREDICT(MODEL m, TABLE t, STRUCT(:t AS threshold))": "FROM ML_PREDICT('m', TABLE(t), map('threshold', :t))",
    "FROM ML.PREDICT(MODEL m, TABLE t, STRUCT(a + 1 AS x, 'y' AS y))": (
        "FROM ML_PREDICT('m', TABLE(t), map('x', CAST(a + 1 AS STRING), 'y', 'y'))"
    ),
    "FROM ML.PREDICT(MODEL m, TABLE t, STRUCT(['a', 'b'] AS x))": "FROM ML_PREDICT('m', TABLE(t), map('x', '[\"a\", \"b\"]'))",
    # within one another
    "SELECT * FROM ML.PREDICT(MODEL a, (SELECT *, PREDICT(MODEL 'c', x) FROM ML.PREDICT(MODEL b, TABLE t)))": (
        "SELECT * FROM ML_PREDICT('a', TABLE(SELECT *, PREDICT('c', x) FROM ML_PREDICT('b', TABLE(t))))"
    ),
    "CREATE VIEW v AS SELECT ml.x FROM ML.PREDICT(MODEL a, TABLE t) ml": "CREATE VIEW v AS SELECT ml.x FROM ML_PREDICT('a', TABLE(t)) ml",
    # Flink's
    "FROM ML_PREDICT(TABLE t, MODEL m, DESCRIPTOR(a, b))": "FROM ML_PREDICT('m', TABLE(t), map('features', '[\"a\", \"b\"]'))",
    'FROM ml_predict(TABLE db.t, MODEL `Db`.`m`, DESCRIPTOR(`it\'s "a\\b"`, 模))': (
        r"""FROM ml_predict('db.m', TABLE(db.t), map('features', '["it\'s \\"a\\\\b\\"", "模"]'))"""
    ),
    "FROM ML_PREDICT((SELECT PREDICT(MODEL 'n', x) AS a FROM t), MODEL m, DESCRIPTOR(a))": (
        "FROM ML_PREDICT('m', TABLE(SELECT PREDICT('n', x) AS a FROM t), map('features', '[\"a\"]'))"
    ),
    "FROM ML_PREDICT(TABLE t, MODEL m, DESCRIPTOR(a), MAP['async', 'true', 'timeout', '100s'])": (
        "FROM ML_PREDICT('m', TABLE(t), map('features', '[\"a\"]', 'async', 'true', 'timeout', '100s'))"
    ),
    "FROM ML_PREDICT(TABLE t, MODEL m, DESCRIPTOR(a), MAP('n', 1))": (
        "FROM ML_PREDICT('m', TABLE(t), map('features', '[\"a\"]', 'n', '1'))"
    ),
    "FROM ML_PREDICT(INPUT => TABLE t, MODEL => MODEL m, ARGS => DESCRIPTOR(a), CONFIG => MAP['k', 'v'])": (
        "FROM ML_PREDICT('m', TABLE(t), map('features', '[\"a\"]', 'k', 'v'))"
    ),
    # sqlglot's
    "SELECT PREDICT(MODEL 'sales.churn', a, b) FROM t": "SELECT PREDICT('sales.churn', a, b) FROM t",
    "SELECT PREDICT(MODEL sales.churn@best, a) FROM t": "SELECT PREDICT('sales.churn@best', a) FROM t",
    "SELECT predict_proba(MODEL 'm', STRUCT(a AS a)), TRY_PREDICT(MODEL 'm', (SELECT 1))": (
        "SELECT predict_proba('m', STRUCT(a AS a)), TRY_PREDICT('m', (SELECT 1))"
    ),
    "SELECT ML_PREDICT(MODEL 'm', STRUCT(a AS a)).label, PREDICT(MODEL 'n', ?)": (
        "SELECT ML_PREDICT('m', STRUCT(a AS a)).label, PREDICT('n', ?)"
    ),
    "SELECT model, predict(model, 1), PREDICT(MODEL 'm') FROM model": "SELECT model, predict(model, 1), PREDICT('m') FROM model",
}


@pytest.mark.parametrize("text", REWRITTEN)
def test_calls_of_other_systems_are_rewritten_and_the_rest_stays(text: str) -> None:
    assert rewrite(text) == REWRITTEN[text]


@pytest.mark.parametrize("text", REWRITTEN)
def test_rewritten_text_is_not_rewritten_again(text: str) -> None:
    assert rewrite(REWRITTEN[text]) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "FROM ML.PREDICT(MODEL a.b.c, TABLE t)",
            "`a.b.c` has 3 parts; a model's name has one or two, namespace.model, at line 1, column 23.",
        ),
        ("FROM ML.PREDCT(MODEL m, TABLE t)", "`ML.PREDCT` is not a function of dlsql at line 1, column 6. Did you mean `ML.PREDICT`?"),
        (
            "FROM ML.PREDICT(MODEL m, TABLE t, STRUCT(0.5))",
            "A setting has no name at line 1, column 42. Write STRUCT(value AS name, ...).",
        ),
        (
            "FROM ML_PREDICT(TABLE t, MODEL m, DESCRIPTOR(a), MAP['k'])",
            "The settings are not pairs at line 1, column 50. Write MAP['name', value, ...].",
        ),
        ("FROM ML_PREDICT(TABLE t, MODEL m, DESCRIPTOR(a + 1))", "Unexpected `+` at line 1, column 48."),
    ],
)
def test_a_call_that_is_surely_ours_and_wrong_is_an_error(text: str, expected: str) -> None:
    with pytest.raises(StatementSyntaxError) as raised:
        rewrite(text)
    assert raised.value.text == expected


# ---- There and back

names = st.builds(
    Name,
    namespace=st.text(min_size=1, max_size=8).map(str.lower),
    model=st.text(min_size=1, max_size=8).map(str.lower),
    version=st.none() | st.integers(0, 999_999_999),
) | st.builds(
    Name,
    namespace=st.none() | st.text(min_size=1, max_size=8).map(str.lower),
    model=st.text(st.characters(exclude_characters="."), min_size=1, max_size=8).map(str.lower),
    alias=st.none() | st.sampled_from(["champion", "é", "v2b", "the best", "a`b@c.d"]),
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10)
numbers = st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)
nested: st.SearchStrategy[Value] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8
)
values = nested | st.builds(HParamRange, numbers, numbers) | st.builds(HParamCandidates, st.lists(nested, max_size=3).map(tuple))
keys = st.text(max_size=10).map(str.lower) | st.text(string.ascii_lowercase + "_.", min_size=1, max_size=10)
columns = st.lists(
    st.tuples(st.text(min_size=1, max_size=6), st.sampled_from(["int", "decimal(10, 2)", "array<struct<a: int, `b)`: string>>"])),
    max_size=3,
).map(tuple)
creates = st.builds(
    CreateModel,
    name=names.map(lambda name: Name(name.namespace, name.model)),
    options=st.dictionaries(keys, values, max_size=4).map(lambda options: (*options.items(), ("model_path", "m.onnx"))),
    query=st.sampled_from([None, "SELECT 1", "SELECT ';', \"x\" -- c\n, `😀` FROM t", "(SELECT :a) UNION SELECT ?", "FROM t |> SELECT 1"]),
    replace=st.just(False),
    if_not_exists=st.booleans(),
    comment=st.none() | st.text(),
    inputs=columns,
    outputs=columns,
    transform=st.none() | st.sampled_from(["*", "a, f(b, ')') AS b -- c)\n, d", "a < b AS c"]),
)


@given(names)
def test_a_quoted_name_reads_as_the_name(name: Name) -> None:
    assert parse_name(quote_name(name)) == name


@given(names)
def test_a_quoted_name_means_the_same_in_a_statement(name: Name) -> None:
    assert parse(f"SHOW CREATE MODEL {quote_name(name)}") == ShowCreateModel(name)


@given(st.text())
def test_a_quoted_literal_reads_as_its_text(text: str) -> None:
    assert parse(f"ALTER MODEL m SET COMMENT {literal(text)}") == SetComment(M, text)


@given(creates)
def test_a_rendered_statement_reads_as_the_statement(statement: CreateModel) -> None:
    assert repr(parse(render(statement))) == repr(statement)


def test_names_in_strings_are_read_as_in_statements() -> None:
    named = {
        "sales.churn@champion": Name("sales", "churn", alias="champion"),
        "`my db`.`my model`@v2": Name("my db", "my model", version=2),
        " Sales.Churn ": Name("sales", "churn"),
        "my-model": Name(None, "my-model"),
        "`ds.m`": Name("ds", "m"),
        "db.`m.1`": Name("db", "m.1"),
        "模型@V2": Name(None, "模型", version=2),
    }
    assert {text: parse_name(text) for text in named} == named


@pytest.mark.parametrize(
    "text", ["", ".", "a.", ".a", "a..b", "a.b.c", "a b", "a@", "@v2", "a@b@c", "`a", "``", "a.``", "`a.`", "a;b", "a'b"]
)
def test_text_that_is_no_name_is_an_error(text: str) -> None:
    with pytest.raises(StatementSyntaxError):
        parse_name(text)


# ---- Whatever comes

FRAGMENTS = """
CREATE MODEL OR REPLACE ALTER DROP SHOW MODELS VERSIONS VERSION IN DESCRIBE EXTENDED EXPORT EXPLAIN CALL ml . train ( ) [ ] , = => ; @ v2
ML.PREDICT( PREDICT ML_PREDICT( ML.EVALUATE( TABLE MODEL m t STRUCT( MAP[ DESCRIPTOR( INPUT SELECT AS FROM OPTIONS COMMENT TRANSFORM SET
ALIAS 1 0.5 1L -- /* */ ' " ` \\ 'x' 'm' `a.b` $$ {{ {# é 😀 ? :x HPARAM_RANGE( < >> + - IF EXISTS MODEL => MODEL
"""
fragments = st.sampled_from([*FRAGMENTS.split(), "\n"])


@given(st.text() | st.lists(fragments, max_size=25).map(" ".join) | st.lists(fragments, max_size=25).map("".join))
def test_any_text_is_read_or_left_or_is_a_syntax_error(text: str) -> None:
    for read in (parse, rewrite, parse_name):
        try:
            read(text)
        except DlsqlError as problem:
            assert isinstance(problem, StatementSyntaxError)


@given(st.sampled_from(sorted(STATEMENTS)), st.lists(fragments, min_size=1, max_size=3), st.integers(0, 200))
def test_a_statement_with_anything_in_it_is_read_or_left_or_is_a_syntax_error(text: str, parts: list[str], at: int) -> None:
    try:
        parse(f"{text[:at]} {' '.join(parts)} {text[at:]}")
    except DlsqlError as problem:
        assert isinstance(problem, StatementSyntaxError)


@given(st.sampled_from(sorted(REWRITTEN)), st.lists(fragments, min_size=1, max_size=3), st.integers(0, 100))
def test_a_call_with_anything_in_it_is_rewritten_or_left_or_is_a_syntax_error(text: str, parts: list[str], at: int) -> None:
    try:
        rewrite(f"{text[:at]} {' '.join(parts)} {text[at:]}")
    except DlsqlError as problem:
        assert isinstance(problem, StatementSyntaxError)
