"""A large network's tensors in a file that the workers of a host share."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dlsql.formats.onnx import export, files
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
