"""The examples run as they stand."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_demo_trains_predicts_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "examples/demo.py"], cwd=ROOT, capture_output=True, text=True, timeout=280, env=_environment(tmp_path)
    )
    assert ran.returncode == 0, ran.stderr
    for said in ("train_loss", "accuracy", "predicted", "champion", "default|income|      1|dnn_classifier"):
        assert said in ran.stdout
    assert list(tmp_path.glob("dlsql-demo-*")) == []


def _environment(tmp_path: Path) -> dict[str, str]:
    import os

    return {**os.environ, "TMPDIR": str(tmp_path)}
