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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(folder)]
    subprocess.run([*command, str(EXPORTS.parent)], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_model_and_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size <= 1_000_000
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert "edge_mnist/py.typed" in names
        assert not {name for name in names if name.startswith(("cli", "tests", "exports"))}
        for name in (FLOAT32_NAME, INT8_NAME, "reference.npz", "manifest.json"):
            packed = archive.read(f"edge_mnist/shipped/{name}")
            assert packed == (EXPORTS / name).read_bytes()


def test_a_device_without_torch(wheel: Path, tmp_path: Path, drawings: list[Path]) -> None:
    """The wheel in an environment of its own predicts and proves itself."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin" / "pip"), "install", "-q", f"{wheel}[cpu]"]
    subprocess.run(pip, check=True, capture_output=True)

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        command = [str(venv / "bin" / "edge-mnist"), *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    missing = "import importlib.util as u; print([u.find_spec(n) for n in ('torch', 'onnx')])"
    python = [str(venv / "bin" / "python"), "-c", missing]
    found = subprocess.run(python, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[None, None]"
    done = run("predict", drawings[8])
    assert (done.returncode, done.stdout.split()[0]) == (0, "8")
    done = run("validate", "--self-test")
    assert done.returncode == 0, done.stdout + done.stderr
    for command in ("train", "export", "quickstart"):
        done = run(command)
        assert done.returncode == 3
        (line,) = done.stderr.splitlines()
        assert "edge-mnist[train]" in line
