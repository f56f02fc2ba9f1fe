"""A large network's tensors in a file that the workers of a host share."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlsql.formats.onnx import export, files
from tests.graphs import FLOAT, graph
from tests.seen import private, share
from udfs.engines import load
from udfs.placing import placed
from udfs.spec import TENSORS, NetworkSpec
from udfs.train import initial_state


@dataclass(frozen=True)
class OnDisk:
    """A broadcast as a worker has it: of a file that Spark keeps."""

    _path: str

    @property
    def value(self) -> bytes:
        """Which nobody may ask for: it would stay in the worker's memory."""
        raise AssertionError


@dataclass(frozen=True)
class Encrypted:
    """A broadcast that lies in no plain file."""

    value: bytes


@pytest.fixture
def artefact() -> dict[str, bytes]:
    """Of a network of 18 MB: in one file, and in two."""
    spec = NetworkSpec(2048, (), 2, arguments=(("hidden_units", (2200,)), ("activation", "relu"), ("dropout", 0.0), ("batch_norm", False)))
    whole = export(spec, initial_state(spec, 0))
    return {"whole": whole, **files(whole)}


def test_a_large_graph_is_two_files_and_a_small_one_is_one(artefact: dict[str, bytes]) -> None:
    assert len(artefact["model.onnx"]) < 20_000 < 18_000_000 < len(artefact[TENSORS])
    assert files(artefact["model.onnx"]) == {"model.onnx": artefact["model.onnx"]}


def test_tensors_apart_mapped_or_in_memory_answer_as_the_whole_graph_does(artefact: dict[str, bytes], tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(7, 2048)).astype(np.float32)
    codes = np.zeros((7, 0), np.int64)
    for name in ("model.onnx", TENSORS):
        (tmp_path / name).write_bytes(artefact[name])
    whole = load("onnx", {"model.onnx": artefact["whole"]}, 1)(rows, codes)
    assert np.abs(whole).max() > 0.01
    np.testing.assert_allclose(load("onnx", artefact, 1)(rows, codes), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(load("onnx", artefact, 1, tmp_path)(rows, codes), whole, rtol=1e-5, atol=1e-6)


def test_workers_that_start_at_once_make_one_folder(tmp_path: Path) -> None:
    (tmp_path / "broadcast").write_bytes(b"many numbers")
    with ThreadPoolExecutor(8) as workers:
        folders = set(
            workers.map(lambda _: placed({TENSORS: OnDisk(str(tmp_path / "broadcast"))}, "abc", {"model.onnx": b"graph"}), range(8))
        )
    assert folders == {tmp_path / "dlsql-abc"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broadcast", "dlsql-abc", "dlsql-abc.lock"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "dlsql-abc").iterdir()} == {
        TENSORS: b"many numbers",
        "model.onnx": b"graph",
    }
    assert (tmp_path / "dlsql-abc" / TENSORS).samefile(tmp_path / "broadcast")


def test_a_folder_that_failed_half_way_leaves_nothing_and_the_next_worker_makes_it(tmp_path: Path) -> None:
    large = {TENSORS: OnDisk(str(tmp_path / "broadcast"))}
    with pytest.raises(FileNotFoundError):
        placed(large, "abc", {"model.onnx": b"graph"})
    assert [path.name for path in tmp_path.iterdir()] == ["dlsql-abc.lock"]
    (tmp_path / "broadcast").write_bytes(b"whole")
    assert placed(large, "abc", {}) == tmp_path / "dlsql-abc"


def test_where_spark_encrypts_its_files_nothing_is_written() -> None:
    assert placed({TENSORS: Encrypted(b"secret")}, "abc", {}) is None


_WORKERS = 4


@contextmanager
def holding(folder: Path, shape: tuple[int, ...]) -> Iterator[list[tuple[int, int]]]:
    """Processes that hold the network of a folder: the id of each, and the bytes that it took for itself meanwhile."""
    program = [sys.executable, str(Path(__file__).parent / "workers" / "holding.py"), str(folder), json.dumps(shape)]
    with ExitStack() as stack:
        started: list[Any] = [
            stack.enter_context(subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(_WORKERS)
        ]
        assert [one.stdout.readline() for one in started] == ["ready\n"] * _WORKERS
        before = [private(one.pid) for one in started]
        for one in started:
            print(file=one.stdin, flush=True)
        assert [one.stdout.readline() for one in started] == ["held\n"] * _WORKERS
        yield [(one.pid, private(one.pid) - then) for one, then in zip(started, before, strict=True)]


@pytest.mark.parametrize(
    ("node", "row", "weights"),
    [
        (("MatMul", {}), (2000,), (2000, 2500)),
        (("Gemm", {"transB": 1}), (2000,), (2500, 2000)),  # a layer of torch's
    ],
    ids=["MatMul", "Gemm"],
)
def test_processes_have_the_tensors_of_a_large_network_once_between_them(
    tmp_path: Path, node: tuple[str, dict[str, Any]], row: tuple[int, ...], weights: tuple[int, ...]
) -> None:
    """20 MB in four processes. What each takes for itself is a runtime's first megabytes, and no copy of the weights."""
    kind, attributes = node
    drawn = np.random.default_rng(0).normal(size=weights).astype(np.float32)
    made = graph(tmp_path, [(kind, ["x", "W"], ["y"], attributes)], [("x", FLOAT, ["n", *row])], [("y", FLOAT, ["n", 2500])], W=drawn)
    for name, content in files(made.read_bytes()).items():
        (tmp_path / name).write_bytes(content)
    size = (tmp_path / TENSORS).stat().st_size
    with holding(tmp_path, (1, *row)) as held:
        together = sum(share(pid, tmp_path / TENSORS) for pid, _ in held)
        assert 0.5 * size < together < 1.2 * size
        assert max(grown for _, grown in held) < size / 2
