"""The files in exports/, which are also in the wheel."""

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edge_mnist.modelfile import FLOAT32_NAME, INT8_NAME
from edge_mnist.predictor import Predictor
from edge_mnist.training.data import Dataset
from edge_mnist.validation import validate

EXPORTS = Path(__file__).parents[1] / "exports"


def test_files_and_manifest_agree() -> None:
    manifest = json.loads((EXPORTS / "manifest.json").read_text())
    names = {path.name for path in EXPORTS.iterdir()} - {"manifest.json"}
    assert names == set(manifest["files"])
    for name, about in manifest["files"].items():
        content = (EXPORTS / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == about["sha256"], name
        assert len(content) == about["size_bytes"]
    for name, about in manifest["models"].items():
        info = Predictor(EXPORTS / name).info
        assert float(info.metadata["accuracy"]) == about["accuracy"]
        assert f"{about['accuracy']:.2%}" in (EXPORTS / "README.md").read_text()
    assert manifest["command"].startswith("edge-mnist export")
    assert "dirty" not in manifest["commit"]


def test_self_test() -> None:
    assert validate([EXPORTS / FLOAT32_NAME, EXPORTS / INT8_NAME], dataset=None).passed


def test_the_whole_gate_on_mnist(mnist: Dataset) -> None:
    report = validate([EXPORTS / FLOAT32_NAME, EXPORTS / INT8_NAME], dataset=mnist)
    assert report.passed
    manifest = json.loads((EXPORTS / "manifest.json").read_text())
    for model in report.models:
        assert model.accuracy is not None
        assert model.accuracy.accuracy == pytest.approx(
            manifest["models"][Path(model.path).name]["accuracy"], abs=1e-4
        )
        assert model.accuracy.accuracy >= 0.995


def test_the_wheel_holds_the_model_and_is_small(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path)]
    subprocess.run([*command, str(EXPORTS.parent)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size <= 1_000_000
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert "edge_mnist/py.typed" in names
        assert not {name for name in names if name.startswith(("cli", "tests", "exports"))}
        for name in (FLOAT32_NAME, INT8_NAME, "reference.npz", "manifest.json"):
            packed = archive.read(f"edge_mnist/shipped/{name}")
            assert packed == (EXPORTS / name).read_bytes()
