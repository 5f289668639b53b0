import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import LIMITS, Command
from numpy.typing import NDArray

from edge_mnist.errors import ModelError, UsageError
from edge_mnist.model_file import (
    CHECKPOINT_NAME,
    FLOAT32_NAME,
    INT8_NAME,
    MANIFEST_NAME,
    REFERENCE_NAME,
    find_models,
    hash_graph,
    read_model,
    shipped_folder,
)
from edge_mnist.predictor import Predictor
from edge_mnist.training.checkpoint import load_checkpoint
from edge_mnist.training.datasets import Dataset
from edge_mnist.validation.validate import (
    Check,
    Limits,
    check_accuracy_lost,
    compare_logits,
    load_test_data,
    measure_accuracy,
    measure_calibration,
    validate,
)


def copy_exports(exports: Path, folder: Path, *names: str) -> Path:
    for name in names or [path.name for path in exports.iterdir()]:
        shutil.copy(exports / name, folder)
    return folder


def spoil_weights(path: Path, factor: float) -> None:
    """Change a model's largest weights a little, as a wrong exporter would: its hashes agree."""
    model = onnx.load(path)
    tensors = list(model.graph.initializer)
    largest = max(tensors, key=lambda tensor: tensor.ByteSize())
    values: NDArray[np.generic] = onnx.numpy_helper.to_array(largest)
    spoilt = (values * factor).astype(values.dtype)
    largest.CopyFrom(onnx.numpy_helper.from_array(spoilt, largest.name))
    (entry,) = (one for one in model.metadata_props if one.key == "graph_sha256")
    entry.value = hash_graph(model.SerializeToString())
    path.write_bytes(model.SerializeToString())
    path.with_name(MANIFEST_NAME).unlink(missing_ok=True)


def test_good_exports_pass(exports: Path, digits: Dataset) -> None:
    report = validate([exports / FLOAT32_NAME, exports / INT8_NAME], dataset=digits, limits=LIMITS)
    assert report.passed
    float32, int8 = report.models
    assert float32.reference.startswith("PyTorch on")
    names = {check.name for check in float32.checks}
    for batch_size in (1, 2, 7, 64, 1000, len(digits.test_images)):
        assert f"largest difference of logits (cpu, batch {batch_size})" in names
        assert f"labels changed (cpu, batch {batch_size})" in names
    assert "batch invariance of logits (cpu)" in names
    assert "accuracy lost by int8" in {check.name for check in int8.checks}
    assert float32.accuracy is not None
    assert set(float32.accuracy.by_class) == set("0123456789")
    assert int8.against_float32 is not None
    assert int8.against_float32.size_ratio < 0.4
    assert int8.against_float32.labels_changed is not None


def test_changed_weights_fail_with_the_limit_that_would_have_passed(
    exports: Path, digits: Dataset, tmp_path: Path
) -> None:
    copy_exports(exports, tmp_path)
    spoil_weights(tmp_path / FLOAT32_NAME, 1.05)
    report = validate([tmp_path / FLOAT32_NAME], dataset=digits)
    assert not report.passed
    missed = [check for check in report.models[0].checks if not check.passed]
    assert missed
    needed = max(check.measured for check in missed if "logits" in check.name)
    wider = Limits(atol=needed, label_changes=1000)
    assert validate([tmp_path / FLOAT32_NAME], dataset=digits, limits=wider).passed
    narrower = Limits(atol=needed * 0.999, label_changes=1000)
    assert not validate([tmp_path / FLOAT32_NAME], dataset=digits, limits=narrower).passed


def test_a_spoilt_int8_file_fails(exports: Path, digits: Dataset, tmp_path: Path) -> None:
    copy_exports(exports, tmp_path)
    spoil_weights(tmp_path / INT8_NAME, -1)
    report = validate([tmp_path / INT8_NAME], dataset=digits)
    assert [check.name for check in report.models[0].checks if not check.passed] == [
        "accuracy lost by int8"
    ]
    assert not validate([tmp_path / INT8_NAME], self_test=True).passed


def test_self_test_needs_neither_data_nor_torch(exports: Path, tmp_path: Path) -> None:
    copy_exports(exports, tmp_path, FLOAT32_NAME, INT8_NAME, REFERENCE_NAME)
    report = validate([tmp_path / FLOAT32_NAME, tmp_path / INT8_NAME], self_test=True)
    assert report.passed
    assert all(model.accuracy is None for model in report.models)
    assert all(model.reference.startswith("reference.npz") for model in report.models)
    spoil_weights(tmp_path / FLOAT32_NAME, 1.01)
    assert not validate([tmp_path / FLOAT32_NAME], self_test=True).passed


def test_a_reference_of_other_weights_is_refused(exports: Path, tmp_path: Path) -> None:
    copy_exports(exports, tmp_path, FLOAT32_NAME, REFERENCE_NAME)
    with np.load(exports / REFERENCE_NAME) as arrays:
        changed = {**arrays, "weights_sha256": np.array("0" * 64)}
    np.savez(tmp_path / REFERENCE_NAME, **changed)
    with pytest.raises(ModelError, match="other weights"):
        validate([tmp_path / FLOAT32_NAME], self_test=True)
    (tmp_path / REFERENCE_NAME).write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(ModelError, match="damaged"):
        validate([tmp_path / FLOAT32_NAME], self_test=True)
    (tmp_path / REFERENCE_NAME).unlink()
    with pytest.raises(ModelError, match="no reference"):
        validate([tmp_path / FLOAT32_NAME], self_test=True)


def test_a_checkpoint_of_another_run_is_refused(exports: Path, digits: Dataset) -> None:
    other = shipped_folder() / "default" / CHECKPOINT_NAME
    with pytest.raises(ModelError, match="other weights"):
        validate([exports / FLOAT32_NAME], dataset=digits, against=other)
    with pytest.raises(UsageError, match="self-test"):
        validate([exports / FLOAT32_NAME], self_test=True, against=other)


def test_the_command_exits_1_and_says_so_in_json(
    exports: Path, tmp_path: Path, edge_mnist: Command
) -> None:
    copy_exports(exports, tmp_path)
    done = edge_mnist("validate", FLOAT32_NAME, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"] is True
    spoil_weights(tmp_path / FLOAT32_NAME, 1.05)
    for args in (["--json"], ["--json", "--self-test"]):
        done = edge_mnist("validate", FLOAT32_NAME, *args)
        assert done.returncode == 1, done.stderr
        report = json.loads(done.stdout)
        assert report["schema_version"] == 1
        assert report["passed"] is False
    done = edge_mnist("validate", FLOAT32_NAME, "--self-test", env={"FORCE_COLOR": "1"})
    assert "\x1b[1;31mMISSED" in done.stdout.replace("  ", "") or "MISSED" in done.stdout
    assert "FAILED" in done.stdout


def test_a_model_that_does_not_say_its_data_set(exports: Path, tmp_path: Path) -> None:
    path = copy_exports(exports, tmp_path, FLOAT32_NAME) / FLOAT32_NAME
    model = onnx.load(path)
    kept = [one for one in model.metadata_props if not one.key.startswith("dataset")]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UsageError, match="does not name its data set"):
        load_test_data([read_model(path)], offline=True)


def test_which_models_are_meant(
    exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [exports / FLOAT32_NAME, exports / INT8_NAME]
    assert find_models([exports]) == both
    assert find_models([exports / INT8_NAME]) == both[1:]
    monkeypatch.chdir(tmp_path)
    shipped = shipped_folder() / "default"
    assert find_models(None) == [shipped / FLOAT32_NAME, shipped / INT8_NAME]
    with pytest.raises(ModelError, match="no model file"):
        find_models([tmp_path / "missing.onnx"])


def test_compare_logits() -> None:
    logits = np.zeros((3, 10), np.float32)
    other = logits.copy()
    other[1, 4] = 0.5
    parity = compare_logits(logits, other)
    assert (parity.n_images, parity.max_abs_error, parity.label_changes) == (3, 0.5, 1)
    other[2, 0] = np.nan
    assert not Check("x", compare_logits(logits, other).max_abs_error, 1e9).passed
    with pytest.raises(UsageError):
        compare_logits(logits, other[:2])


def test_a_class_without_test_images_has_no_accuracy(digits: Dataset) -> None:
    few = dataclasses.replace(
        digits,
        test_images=digits.test_images[digits.test_labels > 0],
        test_labels=digits.test_labels[digits.test_labels > 0],
    )
    _, accuracy = measure_accuracy(Predictor("nano"), few)
    assert list(accuracy.by_class) == list("123456789")  # NaN for "0" would be no JSON


def test_accuracy_lost_counts_images() -> None:
    limits = Limits()
    assert check_accuracy_lost(0.9963 - 0.9953, 10_000, limits).passed  # ten images, 0.1 points
    assert not check_accuracy_lost(0.9963 - 0.9952, 10_000, limits).passed
    assert check_accuracy_lost(-0.005, 10_000, limits).passed
    assert check_accuracy_lost(1 / 360, 360, limits).passed  # one image
    assert not check_accuracy_lost(2 / 360, 360, limits).passed


def test_calibration_error() -> None:
    sure = np.full(100, 0.95, np.float32)
    assert measure_calibration(sure, np.arange(100) < 95) == pytest.approx(0, abs=1e-6)
    assert measure_calibration(sure, np.arange(100) < 50) == pytest.approx(0.45, abs=1e-6)


def flip_bit(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip one bit of a weight."""
    model = onnx.load_from_string(content)
    largest = max(model.graph.initializer, key=lambda tensor: tensor.ByteSize())
    place = content.index(largest.raw_data) + int(rng.integers(len(largest.raw_data)))
    flipped = bytes([content[place] ^ (1 << int(rng.integers(8)))])
    return content[:place] + flipped + content[place + 1 :]


@pytest.mark.parametrize("name", [FLOAT32_NAME, INT8_NAME])
def test_every_flipped_bit_is_found(
    name: str, exports: Path, tmp_path: Path, edge_mnist: Command
) -> None:
    """With the manifest beside the file, and for the file alone."""
    rng = np.random.default_rng(0)
    content = (exports / name).read_bytes()
    for _ in range(24):
        (tmp_path / "alone.onnx").write_bytes(flip_bit(content, rng))
        with pytest.raises(ModelError, match="the graph was altered"):
            Predictor(tmp_path / "alone.onnx")
    copy_exports(exports, tmp_path)
    (tmp_path / name).write_bytes(content.replace(b"accuracy", b"Accuracy", 1))
    done = edge_mnist("validate", name, "--self-test")
    assert done.returncode == 3
    assert "is not the file of manifest.json beside it" in done.stderr


def test_a_damaged_checkpoint_is_refused(exports: Path, tmp_path: Path) -> None:
    content = bytearray((exports / CHECKPOINT_NAME).read_bytes())
    content[-100] ^= 1
    (tmp_path / CHECKPOINT_NAME).write_bytes(content)
    with pytest.raises(ModelError, match="is damaged"):
        load_checkpoint(tmp_path / CHECKPOINT_NAME)


def test_limits_and_options_that_cannot_hold(edge_mnist: Command) -> None:
    for limits in ({"atol": -1.0}, {"accuracy_lost": float("nan")}, {"label_changes": -1}):
        with pytest.raises(UsageError, match="expected a number from 0 to inf, got"):
            Limits(**limits)  # type: ignore[arg-type]
    for wrong in (["--atol", "nan"], ["--max-accuracy-lost", "0.5"]):
        done = edge_mnist("validate", "nano", "--self-test", *wrong)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
