"""Trains a network of many parameters in a driver with a small heap, and tells what came of it in a line of JSON."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import dlsql

warehouse, master, conf, words, width, count, options = json.loads(sys.argv[1])


class Wide(nn.Module):
    """A vector for each word, and a line through it."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.table, self.line = nn.Embedding(words, width), nn.Linear(width, 1)

    def forward(self, word: Tensor) -> Tensor:
        """[rows, 1] -> [rows]"""
        found: Tensor = self.line(torch.relu(self.table(word)[:, 0]))[:, 0]
        return found


def digest(file: Path) -> str:
    with np.load(file) as stored:
        return hashlib.sha256(b"".join(stored[name].tobytes() for name in stored.files)).hexdigest()


spark = dlsql.session(warehouse, master=master, name="large", conf=conf)
rows = spark.range(count).selectExpr("id * 9973 % 1000 AS word", "id % 7 * 1D AS label")
arguments = {"words": words, "width": width}
dlsql.train(rows, "wide", model_type="dnn_regressor", module=Wide, module_args=arguments, num_workers=2, early_stop=False, **options)
uri = spark.sql("SELECT uri FROM dlsql.models").collect()[0][0]
told = {
    "weights": digest(Path(uri.removeprefix("file:")) / "weights.npz"),
    "rounds": [row.asDict() for row in spark.sql("SELECT round, seconds, train_loss FROM ML_TRAINING_INFO('wide')").collect()],
    "heap": spark._jvm.java.lang.Runtime.getRuntime().maxMemory(),
}
print(json.dumps(told), flush=True)
predicted = spark.sql("SELECT count(PREDICT('wide', word)) FROM (SELECT id AS word FROM range(1000))").collect()[0][0]
print(json.dumps({"predicted": predicted}), flush=True)
spark.stop()
