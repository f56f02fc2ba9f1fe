"""A Spark Connect client that interrupts its own training once it runs; prints the seconds until it ended, and its error, in JSON."""

import json
import sys
import threading
import time

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

url, database, statement, model = sys.argv[1:]
spark = SparkSession.builder.remote(url).create()
spark.sql(f"USE {database}")
errors = []


def run():
    try:
        spark.sql(statement).collect()
    except PySparkException as e:
        errors.append(str(e))


def rounds():
    try:
        return spark.sql(f"SELECT * FROM ML_TRAINING_INFO('{model}')").count()
    except PySparkException:
        return 0  # it has not begun


thread = threading.Thread(target=run)
thread.start()
while not rounds():
    time.sleep(0.05)
began = time.monotonic()
while thread.is_alive():
    spark.interruptAll()  # between two jobs there is nothing to interrupt
    thread.join(0.2)
print(json.dumps([time.monotonic() - began, *errors]), flush=True)
spark.stop()
