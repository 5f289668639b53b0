"""The released models, which are package data."""

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edge_mnist.errors import ModelError
from edge_mnist.model_file import FLOAT32_NAME, INT8_NAME, find_model, shipped_folder
from edge_mnist.predictor import Predictor
from edge_mnist.training.datasets import Dataset
from edge_mnist.validation.robustness import measure_robustness
from edge_mnist.validation.validate import validate

FOLDERS = {name: shipped_folder() / name for name in ("default", "nano", "max")}
# What each is for: least accuracy of float32 and most bytes of int8.
PROMISES = {"default": (0.995, 60_000), "nano": (0.993, 12_288), "max": (0.9965, 4_000_000)}

each_model = pytest.mark.parametrize("name", FOLDERS)


@each_model
def test_files_and_manifest_agree(name: str) -> None:
    folder = FOLDERS[name]
    manifest = json.loads((folder / "manifest.json").read_text())
    names = {path.name for path in folder.iterdir() if path.is_file()} - {"manifest.json"}
    assert names == set(manifest["files"])
    for file, about in manifest["files"].items():
        content = (folder / file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == about["sha256"], file
        assert len(content) == about["size_bytes"]
    for file, about in manifest["models"].items():
        info = Predictor(folder / file).info
        assert float(info.metadata["accuracy"]) == about["accuracy"]
        assert f"{about['accuracy']:.2%}" in (folder / "MODEL_CARD.md").read_text()
    assert manifest["recipe"]["name"] == name
    assert manifest["command"].startswith("edge-mnist export")
    assert "dirty" not in manifest["commit"]


@each_model
def test_self_test(name: str) -> None:
    folder = FOLDERS[name]
    assert validate([folder / FLOAT32_NAME, folder / INT8_NAME], self_test=True).passed


@each_model
def test_the_whole_gate_on_mnist(mnist: Dataset, name: str) -> None:
    folder = FOLDERS[name]
    least, most_bytes = PROMISES[name]
    report = validate([folder / FLOAT32_NAME, folder / INT8_NAME], dataset=mnist)
    assert report.passed
    manifest = json.loads((folder / "manifest.json").read_text())
    for model in report.models:
        assert model.accuracy is not None
        told = manifest["models"][Path(model.path).name]["accuracy"]
        assert model.accuracy.accuracy == pytest.approx(told, abs=1e-4)
        assert model.accuracy.accuracy >= least
    int8 = report.models[1]
    assert int8.size_bytes <= most_bytes
    assert int8.against_float32 is not None
    assert int8.against_float32.labels_changed is not None
    assert int8.against_float32.labels_changed <= 10  # 99.9 % of the test set alike
    assert int8.against_float32.accuracy_lost is not None
    assert int8.against_float32.accuracy_lost <= 0.0005


def test_default_bears_worse_pictures(mnist: Dataset) -> None:
    predictors = [
        Predictor(FOLDERS["default"] / FLOAT32_NAME),
        Predictor(FOLDERS["default"] / INT8_NAME),
    ]
    for found in measure_robustness(
        predictors, mnist.test_images, mnist.test_labels, as_pictures=False
    ):
        assert found.images_mean > 0.95
        assert min(found.images.values()) > 0.8


def test_released_models_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model("nano") == FOLDERS["nano"] / FLOAT32_NAME
    assert find_model("max/model.int8.onnx") == FOLDERS["max"] / INT8_NAME
    (tmp_path / "nano").mkdir()
    assert find_model("nano") == FOLDERS["nano"] / FLOAT32_NAME  # a released name is never a path
    for path in ("./nano", Path("nano")):
        with pytest.raises(ModelError):
            find_model(path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(folder)]
    subprocess.run([*command, str(Path(__file__).parents[1])], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_model_and_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size <= 1_000_000
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert "edge_mnist/py.typed" in names
        assert not {name for name in names if name.startswith(("cli", "tests", "exports"))}
        for name in (FLOAT32_NAME, INT8_NAME, "reference.npz", "manifest.json"):
            packed = archive.read(f"edge_mnist/shipped/default/{name}")
            assert packed == (FOLDERS["default"] / name).read_bytes()


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
    for arguments, extra in (
        (["serve"], "serve"),
        (["predict", "--engine", "ray", tmp_path, "-o", tmp_path / "out"], "ray"),
    ):
        done = run(*arguments)
        assert done.returncode == 3
        (line,) = done.stderr.splitlines()
        assert line.endswith(f"install 'edge-mnist[{extra}]'")
    check_doctor(venv, tmp_path)


def check_doctor(venv: Path, folder: Path) -> None:
    """Hold doctor to what an environment without the extras really has."""

    def examine() -> dict[str, dict[str, object]]:
        command = [str(venv / "bin" / "edge-mnist"), "doctor", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        report = json.loads(done.stdout)
        assert done.returncode == (0 if report["ok"] else 1), done.stderr
        return {finding["name"]: finding for finding in report["findings"]}

    pip = str(venv / "bin" / "pip")
    found = examine()
    assert found["packages"]["ok"]
    assert found["extra train"]["text"] == (
        "not installed; pip install 'edge-mnist[train]' adds what is missing"
    )
    subprocess.run([pip, "install", "-q", "prometheus-client"], check=True, capture_output=True)
    subprocess.run([pip, "uninstall", "-qy", "rich"], check=True, capture_output=True)
    found = examine()
    text = str(found["extra serve"]["text"])
    assert text.startswith("missing fastapi, ")
    assert "prometheus-client" not in text
    assert found["extra serve"]["ok"]  # what nobody asked for is not wrong
    assert not found["packages"]["ok"]
    assert "rich missing" in str(found["packages"]["text"])
