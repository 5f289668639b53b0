import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Command
from onnx import TensorProto, helper

from edge_mnist.errors import ModelError, UsageError
from edge_mnist.model_file import FLOAT32_NAME, INT8_NAME, shipped_folder
from edge_mnist.validation.benchmark import (
    BenchReport,
    Measured,
    bench,
    compare_reports,
    parse_share,
    read_report,
    recommend,
    to_json,
)
from edge_mnist.validation.timing import SAME_SPEED, Latency, time_in_turns
from edge_mnist.validation.validate import Limits, check_accuracy_lost, validate

SHIPPED = shipped_folder() / "default"


def make_classifier(path: Path, *, batch: int | str = 1, n_inputs: int = 1) -> Path:
    """Write somebody else's classifier: float pixels, another name, in the zoo's manner."""
    shape = [batch, 1, 28, 28]
    inputs = [
        helper.make_tensor_value_info(f"Input{n}", TensorProto.FLOAT, shape)
        for n in range(n_inputs)
    ]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 10])]
    weights = np.random.default_rng(0).normal(size=(784, 10)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["Input0"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
        ],
        "other",
        inputs,
        outputs,
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


def measured(name: str, p50_us: float, size_bytes: int, accuracy: float, **changes) -> Measured:  # type: ignore[no-untyped-def]
    one = Measured(
        name=name,
        path=name,
        runtime="onnxruntime",
        provider="cpu",
        size_bytes=size_bytes,
        accuracy=accuracy,
        quantization="none",
        latency=Latency(p50_us, p50_us, p50_us, 1000),
        images_per_s={1: round(1e6 / p50_us)},
        session_start_ms=1.0,
        process_start_ms=100.0,
        peak_memory_mb=60.0,
    )
    return dataclasses.replace(one, **changes)


def report(*models: Measured) -> BenchReport:
    return BenchReport("a processor", 1, models, recommend(models))


def test_turns_are_taken() -> None:
    order: list[str] = []
    spent_s = time_in_turns(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")},
        rounds=2,
        runs_per_round=3,
    )
    assert "".join(order) == "aaabbb" * 3  # one round to warm up
    assert [len(runs) for runs in spent_s.values()] == [6, 6]


def test_every_variant_is_measured(tmp_path: Path, exports: Path) -> None:
    fixed = make_classifier(tmp_path / "fixed.onnx")
    free = make_classifier(tmp_path / "free.onnx", batch="n")
    found = bench([exports], against=[fixed, free], batch_sizes=(1, 4))
    by_name = {one.name: one for one in found.models}
    in_torch = f"{FLOAT32_NAME} in PyTorch"
    assert set(by_name) == {FLOAT32_NAME, INT8_NAME, in_torch, "fixed.onnx", "free.onnx"}
    for one in found.models:
        assert 0 < one.latency.p50_us <= one.latency.p90_us <= one.latency.p99_us
        assert set(one.images_per_s) == ({1} if one.name == "fixed.onnx" else {1, 4})
        assert one.size_bytes == Path(one.path).stat().st_size
        assert 0 < one.session_start_ms < one.process_start_ms
        assert one.peak_memory_mb > 10
    assert by_name[in_torch].peak_memory_mb > 2 * by_name[FLOAT32_NAME].peak_memory_mb
    assert found.recommendation is not None
    assert found.recommendation.name in (FLOAT32_NAME, INT8_NAME)
    assert found.recommendation.reasons
    # What validate says of int8's speed is what bench says, unless it is a matter of measurement.
    (comparison,) = (
        one.against_float32
        for one in validate([exports], self_test=True).models
        if one.against_float32
    )
    is_slow = any("is slower than" in reason for reason in found.recommendation.reasons)
    ratio = by_name[INT8_NAME].latency.p50_us / by_name[FLOAT32_NAME].latency.p50_us
    assert is_slow == (ratio > SAME_SPEED)
    assert comparison.slower == (comparison.p50_ratio > SAME_SPEED)
    assert comparison.slower == is_slow or abs(np.log(ratio / SAME_SPEED)) < 0.2


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    other = make_classifier(tmp_path / INT8_NAME)
    found = bench([SHIPPED / INT8_NAME], against=[other], batch_sizes=(1,))
    assert [one.name for one in found.models] == [
        f"default/{INT8_NAME}",
        f"{tmp_path.name}/{INT8_NAME}",
    ]


def test_what_is_no_classifier(tmp_path: Path) -> None:
    two = make_classifier(tmp_path / "two.onnx", n_inputs=2)
    with pytest.raises(UsageError, match="no image classifier"):
        bench([SHIPPED], against=[two])
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ModelError):
        bench([SHIPPED], against=[tmp_path / "text.onnx"])


def test_int8_is_not_recommended_where_it_is_slower() -> None:
    float32 = measured("model.onnx", 30, 200_000, 0.9965)
    slow = measured("model.int8.onnx", 45, 50_000, 0.9966, quantization="int8")
    found = recommend([float32, slow])
    assert found is not None
    assert found.name == "model.onnx"
    assert "model.int8.onnx is slower than model.onnx on this machine, 1.50" in found.reasons[1]
    fast = dataclasses.replace(slow, latency=Latency(20, 20, 20, 1000))
    found = recommend([float32, fast])
    assert found is not None
    assert found.name == "model.int8.onnx"
    assert len(found.reasons) == 1  # int8 of another network is nobody's slow sibling
    other = measured("max/model.int8.onnx", 90, 9, 0.9966, path="max/m.onnx", quantization="int8")
    found = recommend([float32, fast, other])
    assert found is not None
    assert not any("slower" in reason for reason in found.reasons)


def test_a_wrong_model_is_not_recommended_however_fast() -> None:
    found = recommend([measured("good", 30, 9, 0.997), measured("bad", 5, 1, 0.98)])
    assert found is not None
    assert found.name == "good"


def test_the_gate_s_limit_of_lost_accuracy_holds_for_a_recommendation() -> None:
    """On few test images one of them is allowed, as validate allows it."""
    for n_images, n_lost, name in ((360, 1, "int8"), (360, 2, "f32"), (10_000, 10, "int8")):
        float32 = measured("f32", 30, 200, 0.99, n_test_images=n_images)
        int8 = measured("int8", 20, 50, 0.99 - n_lost / n_images, n_test_images=n_images)
        found = recommend([float32, int8])
        assert found is not None
        assert found.name == name
        assert check_accuracy_lost(n_lost / n_images, n_images, Limits()).passed == (name == "int8")


def test_figures_of_the_metadata_that_are_none(tmp_path: Path) -> None:
    model = onnx.load(SHIPPED / INT8_NAME)
    about = {entry.key: entry.value for entry in model.metadata_props}
    path = tmp_path / INT8_NAME
    for key, text in (
        ("accuracy", "NaN"),
        ("accuracy", "all"),
        ("n_test_images", "-1"),
        ("n_test_images", "many"),
        ("rejection_threshold", "nan"),
    ):
        onnx.helper.set_model_props(model, about | {key: text})
        onnx.save(model, path)
        with pytest.raises(ModelError, match="the model breaks the contract"):
            bench(path, with_torch=False)


def test_regressions() -> None:
    before = report(measured("m", 30, 100, 0.99))
    base = json.loads(json.dumps(to_json(before)))
    assert compare_reports(base, before, max_regression=0.1) == []
    slower = report(measured("m", 40, 100, 0.99))
    assert {one.measure for one in compare_reports(base, slower, max_regression=0.1)} == {
        "p50_us",
        "images_per_s at 1",
    }
    assert compare_reports(base, slower, max_regression=0.5) == []
    larger = report(measured("m", 30, 120, 0.99))
    assert [one.measure for one in compare_reports(base, larger, max_regression=0.1)] == [
        "size_bytes"
    ]


def test_a_yardstick_tells_a_slow_machine_from_a_slow_model() -> None:
    yardstick = measured("zoo", 30, 100, 0.99, quantization=None)
    base = json.loads(json.dumps(to_json(report(measured("m", 30, 100, 0.99), yardstick))))
    slow_yardstick = dataclasses.replace(yardstick, latency=Latency(60, 60, 60, 1000))
    all_slow = report(measured("m", 60, 100, 0.99), slow_yardstick)
    assert compare_reports(base, all_slow, max_regression=0.1) == []
    one_slow = report(measured("m", 60, 100, 0.99), yardstick)
    assert compare_reports(base, one_slow, max_regression=0.1)


def test_bases_that_are_none(tmp_path: Path) -> None:
    now = report(measured("m", 30, 100, 0.99))
    path, good = tmp_path / "base.json", to_json(now)
    path.write_text(json.dumps(good))
    assert read_report(path)["models"][0]["name"] == "m"
    (model,) = good["models"]
    for wrong in (
        [],
        {"models": []},
        good | {"schema_version": 99},
        good | {"models": [{}]},
        good | {"models": [model | {"size_bytes": 0}]},
        good | {"models": [model | {"images_per_s": {"1": "many"}}]},
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(UsageError, match=f"{path} is no report of bench --json"):
            read_report(path)
    with pytest.raises(UsageError, match="none of these models"):
        compare_reports({"schema_version": 1, "models": []}, now, max_regression=0.1)


def test_shares() -> None:
    assert (parse_share("10%"), parse_share("0.25")) == (0.1, 0.25)
    for text in ("ten", "-5%", "nan"):
        with pytest.raises(UsageError):
            parse_share(text)


def test_bench_command(edge_mnist: Command, tmp_path: Path) -> None:
    arguments = ("bench", SHIPPED / INT8_NAME, "--no-torch", "--batch-size", "1,2")
    done = edge_mnist(*arguments, "--json", "--plot", "bench.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(done.stdout)
    assert found["schema_version"] == 1
    assert found["models"][0]["name"] == INT8_NAME

    found["models"][0]["latency"]["p50_us"] /= 100  # as if it had been a hundred times faster
    (tmp_path / "base.json").write_text(json.dumps(found))
    done = edge_mnist(*arguments, "--compare", "base.json", "--max-regression", "500%")
    assert done.returncode == 1
    assert "WORSE" in done.stdout
    assert "p50_us" in done.stdout
    found["models"][0]["latency"]["p50_us"] *= 100
    (tmp_path / "base.json").write_text(json.dumps(found))
    done = edge_mnist(*arguments, "--compare", "base.json", "--max-regression", "1000%")
    assert done.returncode == 0, done.stdout
    assert edge_mnist(*arguments, "--batch-size", "0").returncode == 2
    assert edge_mnist(*arguments, "--compare", "missing.json").returncode == 2
