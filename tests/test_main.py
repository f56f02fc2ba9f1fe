"""The main job: train, register and predict from SQL."""

import pytest
from pyspark.sql import SparkSession

CREATE = "CREATE MODEL worth OPTIONS (model_type = 'dnn_regressor', input_label_cols = ['price'], max_iterations = 3) AS SELECT rooms, area, city, price FROM houses"
CREATE_CLASSES = "CREATE MODEL dear OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['expensive'], max_iterations = 3) AS SELECT rooms, area, city, expensive FROM houses"


def test_create_model_returns_one_row_that_says_what_was_trained(spark: SparkSession, houses: str, database: str) -> None:
    (row,) = spark.sql(CREATE).collect()
    assert row.asDict().keys() == {"model", "version", "model_type", "rows_trained", "loss", "metrics", "seconds", "uri"}
    assert (row["model"], row["version"], row["model_type"], row["rows_trained"]) == (f"{database}.worth", 1, "dnn_regressor", 600)


def test_predict_is_typed_by_the_model(spark: SparkSession, houses: str) -> None:
    spark.sql(CREATE)
    spark.sql(CREATE_CLASSES)
    frame = spark.sql(
        "SELECT PREDICT('worth', rooms, area, city) AS a, PREDICT('dear', struct(*)) AS b, PREDICT_PROBA('dear', struct(*)) AS c FROM houses"
    )
    assert frame.dtypes == [("a", "double"), ("b", "boolean"), ("c", "map<boolean,double>")]
    assert frame.where("a IS NOT NULL AND b IS NOT NULL").count() == 600


@pytest.mark.parametrize("workers", [1, 3])
def test_same_data_options_and_seed_give_the_same_weights_bit_for_bit(spark: SparkSession, houses: str, workers: int) -> None:
    digests = set()
    for query in ("FROM houses", "FROM (SELECT * FROM houses ORDER BY rand()) DISTRIBUTE BY rand()"):
        spark.sql(
            CREATE.replace("CREATE", "CREATE OR REPLACE").replace("= 3)", f"= 3, num_workers = {workers})").replace("FROM houses", query)
        )
        digests.add(spark.sql("SHOW MODEL worth").where("col_name = 'Loss'").collect()[0]["data_type"])
        digests.add(spark.sql("DESCRIBE MODEL EXTENDED worth").where("col_name = 'SHA-256'").collect()[0]["data_type"])
    assert len(digests) == 2  # one loss, one digest
