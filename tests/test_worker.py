"""What a worker keeps from one batch to the next."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dlsql.formats.onnx import export
from tests.graphs import FLOAT, Held, graph
from udfs import engines
from udfs.graphs import predict_output
from udfs.placing import held
from udfs.predict import predict
from udfs.spec import Bundle, Feature, Graph, Label, NetworkSpec, Preprocess, Scoring, Tensor
from udfs.train import initial_state
from udfs.worker import Kept

PERCEPTRON = (("hidden_units", (4,)), ("activation", "relu"), ("dropout", 0.0), ("batch_norm", False))


def trained(folder: Path, seed: int) -> Mapping[str, bytes]:
    """The files of a network of ours of one number."""
    spec = NetworkSpec(1, (), 1, arguments=PERCEPTRON)
    learned = Preprocess((Feature("x", "float", "number", (0.0,), (1.0,)),), Label("y", "double"))
    return {"model.onnx": export(spec, initial_state(spec, seed)), "preprocess.json": learned.to_json().encode()}


def imported(folder: Path, seed: int) -> Mapping[str, bytes]:
    """The files of a graph that adds the seed to a number."""
    file = graph(folder, [("Add", ["x", "b"], ["y"])], [("x", FLOAT, ["n"])], [("y", FLOAT, ["n"])], b=np.array([seed], np.float32))
    tensors = [(Tensor(name, name, "float32", ()),) for name in "xy"]
    return {"model.onnx": file.read_bytes(), "graph.json": Graph(tensors[0], tensors[1], ("x",), None).to_json().encode()}


@pytest.mark.parametrize(
    ("made", "engine", "asked", "loader"),
    [(trained, "onnx", predict, "load"), (imported, "onnxruntime", predict_output, "runner")],
    ids=["trained", "imported"],
)
def test_a_query_over_many_small_models_loads_each_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    made: Callable[[Path, int], Mapping[str, bytes]],
    engine: str,
    asked: Callable[..., pa.Array],
    loader: str,
) -> None:
    loads = list[object]()
    load: Callable[..., Any] = getattr(engines, loader)
    monkeypatch.setattr(engines, loader, lambda *args: loads.append(args) or load(*args))
    models = [
        Scoring(hashlib.sha256(f"{engine} {seed}".encode()).hexdigest(), Bundle(Held(made(tmp_path, seed))), engine, "regression", 1)
        for seed in range(20)
    ]
    first, second = ([asked(model, pa.array([1.0, 2.0], pa.float32())).to_pylist() for model in models] for _ in range(2))
    assert first == second
    assert len({tuple(answers) for answers in first}) == len(loads) == len(models)


def test_large_models_are_kept_so_many_at_least_and_small_ones_as_many_as_there_is_room_for() -> None:
    loads = list[int]()

    def ask(kept: Kept[int], size: int, key: int) -> None:
        kept.get(key, lambda: loads.append(key) or size)

    for size, wanted in ((1, 100), (10, 10), (50, 3), (1000, 3)):
        loads.clear()
        kept = Kept[int](100, lambda one: one, least=3)
        for key in [*range(100), *reversed(range(100))]:
            ask(kept, size, key)
        assert len(loads) == 200 - wanted


def test_a_process_is_taken_to_hold_what_it_reads_and_not_what_it_maps(tmp_path: Path) -> None:
    least = held({}, None)
    for name in ("model.pt", "model.onnx", "model.onnx.data", "groups.arrow"):
        (tmp_path / name).write_bytes(bytes(5000))
    assert held({"model.onnx": bytes(70), "model.onnx.data": bytes(900)}, None) - least == 970
    assert held({"graph.json": bytes(70), "model.onnx": bytes(5000)}, tmp_path / "gone") - least == 5070
    assert held({"graph.json": bytes(70)}, tmp_path) - least == 5070  # a TorchScript program, which torch reads
    assert held({"graph.json": bytes(70), "model.pt": bytes(5000)}, tmp_path) - least == 5070
    (tmp_path / "model.pt").unlink()
    assert held({}, tmp_path) == least
