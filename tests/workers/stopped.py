"""A program that trains in its main thread and gets a SIGINT meanwhile; prints in JSON what came of it, a line for each handler."""

import json
import os
import signal
import sys
import threading
import time

import dlsql

folder, conf, statement = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
spark = dlsql.session(folder, master="local[2]", conf=conf)
other = dlsql.attach(spark.newSession())
began = []


def stop():
    while not any(row["round"] for row in other.sql("SHOW TRAININGS").collect()):
        time.sleep(0.2)
    began.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)


def train():
    raised = None
    threading.Thread(target=stop).start()
    try:
        spark.sql(statement)
    except BaseException as e:
        raised = type(e).__name__
    seconds = time.monotonic() - began.pop()
    left = spark.sql("SHOW TRAININGS").count() + spark.sql("SHOW MODELS").count()
    print(json.dumps([raised, seconds, left, spark.sparkContext._jsc.getPersistentRDDs().size()]), flush=True)


train()  # with the handler of PySpark, as a script has it
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a notebook's kernel sets for each cell
train()
spark.stop()
