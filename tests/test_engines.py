"""How far the engines' answers are from torch's on the same weights, and from their own for the same rows in other batches."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
import torch
from onnx import load_from_string

from dlsql.formats.onnx import files, graph
from tests import graphs
from tests.test_graphs import scoring
from tests.test_networks import STOCK, spec_of
from udfs import networks
from udfs.engines import load
from udfs.graphs import predict_output
from udfs.networks.mlp import ACTIVATIONS
from udfs.spec import ROW_BYTES, NetworkSpec

TOLERANCE = 1e-5  # of the largest output, or of 1; ten times what float32's sums in another order came to over a few layers


def specs() -> Iterator[Any]:
    """The built-in kinds: linear, deep with each activation, and the stock networks."""
    for dense, codes, hidden in ((4, (5,), ()), (250, (), ()), (10, (5, 50), (128, 64)), (100, (40,), (512, 512, 512))):
        for activation in ACTIVATIONS if hidden == (128, 64) else ("relu",):
            for norm in (False, True) if hidden else (False,):
                more = (("hidden_units", hidden), ("activation", activation), ("dropout", 0.0), ("batch_norm", norm))
                yield pytest.param(NetworkSpec(dense, codes, 3, arguments=more), id=f"{dense} {hidden} {activation} {norm}")
    for name, shape, kind, arguments in STOCK:
        yield pytest.param(spec_of(networks.stock(name), {"x": shape}, 3, kind, **arguments), id=f"{name} {shape} {kind}")


@pytest.mark.parametrize("spec", list(specs()))
def test_onnx_runtime_agrees_with_torch_and_with_itself_at_any_batch_size(spec: NetworkSpec) -> None:
    torch.manual_seed(1)
    module = networks.build(spec).eval()
    rows, whole = 100, any(one.kind == "whole" for one in spec.inputs)
    dense = torch.randint(0, 10, (rows, spec.dense)).float() if whole else torch.randn(rows, spec.dense)
    codes = torch.stack([torch.randint(0, n, (rows,)) for n in spec.codes], 1) if spec.codes else torch.zeros(rows, 0, dtype=torch.int64)
    with torch.inference_mode():
        wanted = module(dense, codes).numpy()
    predict = load("onnx", {"model.onnx": graph(module, spec)}, 1)
    found = predict(dense.numpy(), codes.numpy())
    most = TOLERANCE * max(1.0, float(np.abs(wanted).max()))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=most)
    for size in (1, 2, 7, 33):
        parts = [predict(dense[at : at + size].numpy(), codes[at : at + size].numpy()) for at in range(0, rows, size)]
        np.testing.assert_allclose(np.concatenate(parts), found, rtol=0, atol=most)


def test_a_graph_says_what_attention_takes_of_memory() -> None:
    spec = spec_of(networks.stock("transformer"), {"x": (128, 16)}, 3, heads=2)
    model = load_from_string(files(graph(networks.build(spec), spec))["model.onnx"])
    assert {one.key: one.value for one in model.metadata_props} == {ROW_BYTES: str(2 * 128 * 128 * 4)}


@pytest.mark.parametrize("name", ["dense", "x"], ids=["trained", "imported"])
def test_rows_go_through_a_network_in_portions_that_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A row makes 1,000 numbers on its way."""
    nodes = [("MatMul", [name, "W"], ["wide"]), ("MatMul", ["wide", "V"], ["y"])]
    one = np.ones((2, 1000), np.float32)
    file = graphs.graph(tmp_path, nodes, [(name, graphs.FLOAT, ["n", 2])], [("y", graphs.FLOAT, ["n", 1])], W=one, V=one[:1].T.copy())
    rows, seen, run = np.arange(50, dtype=np.float32).reshape(25, 2), list[int](), onnxruntime.InferenceSession.run

    def recorded(session: Any, names: Any, feed: Any) -> Any:
        seen.append(len(feed[name]))
        return run(session, names, feed)

    for module in ("udfs.engines", "udfs.engines.onnx"):
        monkeypatch.setattr(f"{module}.AT_ONCE", 40_000)
    if name == "dense":
        predict = load("onnx", files(file.read_bytes()), 1)
        monkeypatch.setattr(onnxruntime.InferenceSession, "run", recorded)
        found = predict(rows, np.zeros((25, 0), np.int64))[:, 0]
    else:
        how = scoring(file)
        monkeypatch.setattr(onnxruntime.InferenceSession, "run", recorded)
        found = np.array(predict_output(how, pa.array(rows.tolist(), pa.list_(pa.float32()))).to_pylist())
    assert seen == [10, 10, 5]
    assert found.tolist() == (1000 * rows.sum(axis=1)).tolist()
