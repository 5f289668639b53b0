import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import LIMITS, Command

from edge_mnist.errors import GateError, OutputError
from edge_mnist.exporting.golden import draw_golden_images
from edge_mnist.exporting.onnx import export
from edge_mnist.model_file import CHECKPOINT_NAME, FLOAT32_NAME, INT8_NAME
from edge_mnist.predictor import Predictor
from edge_mnist.training.checkpoint import load_checkpoint, load_network
from edge_mnist.training.datasets import Dataset
from edge_mnist.training.networks import compute_logits
from edge_mnist.validation.validate import Check, Limits

FILES = {
    "MODEL_CARD.md",
    "checkpoint.safetensors",
    "manifest.json",
    "model.int8.onnx",
    "model.onnx",
    "reference.npz",
}


def test_an_export_holds_everything(exports: Path) -> None:
    assert {path.name for path in exports.iterdir()} == FILES
    manifest = json.loads((exports / "manifest.json").read_text())
    for name, about in manifest["files"].items():
        content = (exports / name).read_bytes()
        assert about["sha256"] == hashlib.sha256(content).hexdigest()
        assert about["size_bytes"] == len(content)
    assert set(manifest["files"]) == FILES - {"manifest.json"}


@pytest.mark.parametrize("name", [FLOAT32_NAME, INT8_NAME])
def test_the_contract(exports: Path, name: str) -> None:
    model = onnx.load(exports / name)
    onnx.checker.check_model(model, full_check=True)
    (images,) = model.graph.input
    assert images.name == "images"
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    shape = images.type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in shape] == ["batch", 28, 28]
    assert [output.name for output in model.graph.output] == ["logits", "probabilities"]
    assert model.ir_version <= 8
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(about["class_names"]) == list("0123456789")
    assert json.loads(about["recipe"])["dataset"] == "digits"
    assert float(about["accuracy"]) > 0.9


@pytest.mark.parametrize("name", [FLOAT32_NAME, INT8_NAME])
def test_nothing_but_the_model_is_in_the_file(exports: Path, name: str) -> None:
    model = onnx.load(exports / name)
    assert not model.graph.value_info
    parts = (*model.graph.node, *model.graph.initializer)
    assert not any(part.doc_string or part.metadata_props for part in parts)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    used = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used
    assert b"site-packages" not in model.SerializeToString()


def test_int8_is_fed_the_raw_image_and_quantised_per_channel(exports: Path) -> None:
    graph = onnx.load(exports / INT8_NAME).graph
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    (reader,) = (node for node in graph.node if "images" in node.input)
    assert reader.op_type == "Unsqueeze"
    (first,) = (node for node in graph.node if reader.output[0] in node.input)
    assert first.op_type == "DequantizeLinear"
    assert weights[first.input[1]] == np.float32(1 / 255)
    assert weights[first.input[2]] == 0
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    producers = {node.output[0]: node for node in graph.node}
    for convolution in convolutions:
        dequantize = producers[convolution.input[1]]
        kernel, scales = weights[dequantize.input[0]], weights[dequantize.input[1]]
        assert kernel.dtype == np.int8
        assert len(scales) == len(kernel)
        assert np.abs(kernel.astype(int)).max() <= 64  # 7 bits: no saturation without VNNI
    assert "Cast" not in {node.op_type for node in graph.node}


def test_float32_gives_pytorchs_logits(exports: Path, digits: Dataset) -> None:
    checkpoint = load_checkpoint(exports / CHECKPOINT_NAME)
    network = load_network(checkpoint)
    expected = compute_logits(
        network, digits.test_images, temperature=checkpoint.calibration.temperature
    )
    predictor = Predictor(exports / FLOAT32_NAME)
    for batch_size in (1, 7, len(expected)):
        logits = predictor.compute_logits(digits.test_images, batch_size=batch_size)
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_int8_is_small_and_nearly_as_good(exports: Path, digits: Dataset) -> None:
    small, large = exports / INT8_NAME, exports / FLOAT32_NAME
    assert small.stat().st_size <= 0.4 * large.stat().st_size
    accuracies = [
        (Predictor(path).predict_images(digits.test_images)[0] == digits.test_labels).mean()
        for path in (small, large)
    ]
    assert accuracies[0] >= accuracies[1] - LIMITS.accuracy_lost


def test_the_gate_refuses_and_nothing_is_written(
    run_folder: Path, digits: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(GateError, match=r"largest difference of logits.*limit 0"):
        export(
            run_folder / CHECKPOINT_NAME,
            digits,
            folder=tmp_path,
            quantize=True,
            limits=Limits(atol=0),
        )
    assert list(tmp_path.iterdir()) == []
    assert not Check("nan", float("nan"), 1.0).passed


def test_an_export_without_int8_removes_an_older_one(
    run_folder: Path, digits: Dataset, tmp_path: Path
) -> None:
    for quantize, expected in ((True, FILES), (False, FILES - {INT8_NAME})):
        checkpoint = run_folder / CHECKPOINT_NAME
        export(checkpoint, digits, folder=tmp_path, quantize=quantize, limits=LIMITS)
        assert {path.name for path in tmp_path.iterdir()} == expected


def test_files_of_somebody_else_are_not_replaced(
    run_folder: Path, digits: Dataset, tmp_path: Path
) -> None:
    (tmp_path / FLOAT32_NAME).write_bytes(b"precious")
    with pytest.raises(OutputError, match="--overwrite"):
        export(run_folder / CHECKPOINT_NAME, digits, folder=tmp_path)
    assert (tmp_path / FLOAT32_NAME).read_bytes() == b"precious"
    export(run_folder / CHECKPOINT_NAME, digits, folder=tmp_path, overwrite=True)
    assert Predictor(tmp_path).info.quantization == "none"


def test_golden_images_are_the_same_every_time_and_read_right(exports: Path) -> None:
    images, labels = draw_golden_images()
    assert (images == draw_golden_images()[0]).all()
    assert images.shape == (100, 28, 28)
    with np.load(exports / "reference.npz") as reference:
        assert (reference["images"] == images).all()
        assert (reference["labels"] == labels).all()


def test_a_full_disk(run_folder: Path, tmp_path: Path, edge_mnist: Command) -> None:
    done = edge_mnist(
        "export",
        run_folder,
        "-o",
        "out",
        # The system refuses to let a file grow beyond 50 kB, as a full disk would.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith("edge-mnist: cannot write out/model.onnx: File too large")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_written(
    run_folder: Path, tmp_path: Path, edge_mnist: Command
) -> None:
    (tmp_path / "file").write_text("in the way")
    done = edge_mnist("export", run_folder, "-o", "file/out")
    assert done.returncode == 3
    assert "cannot write file/out" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.1])
def test_kill_leaves_only_whole_files(
    run_folder: Path, exports: Path, tmp_path: Path, delay_s: float
) -> None:
    """Kill an export as it writes; what is there is whole, and the next export goes through."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "edge_mnist", "export", str(run_folder), "-o", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (out.is_dir() and any(out.iterdir())):
        assert process.poll() in (None, 0)
        time.sleep(0.0005)
    time.sleep(delay_s * 0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for path in out.glob("[!.]*"):
        if path.suffix == ".onnx":
            Predictor(path)
        assert path.stat().st_size > 0
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
