"""Export as C: equal to onnxruntime on the host, refusals, the self-test, the command."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import Command
from numpy.typing import NDArray
from onnx import helper
from PIL import Image
from test_web import read_with_node
from torch import nn

from edge_mnist.errors import ModelError, OutputError, UsageError
from edge_mnist.exporting.c import export_c
from edge_mnist.exporting.c.layers import Layer, Network, Tensor, read_network
from edge_mnist.exporting.c.simulation import COMPUTE, compute_scores, dequantize
from edge_mnist.exporting.convention import PixelConvention
from edge_mnist.exporting.golden import draw_golden_images
from edge_mnist.exporting.graph import OPSET
from edge_mnist.exporting.onnx import build_models, open_source
from edge_mnist.exporting.web import export_web
from edge_mnist.model_file import INT8_NAME, ModelFile, find_model, read_model
from edge_mnist.session import import_onnxruntime, open_session
from edge_mnist.training.calibration import Calibration
from edge_mnist.training.datasets import Dataset
from edge_mnist.validation.c_code import run_program, validate_code

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror")
SOURCES = ("main.c", "edge_mnist.c", "edge_mnist_selftest.c")
Export = Callable[[str, str], Path]


class Foreign(nn.Module):
    """What the released networks have not: residual sums, depthwise, average pooling, Relu6."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(12, 24, 3, padding=1, groups=12)
        self.pointwise = nn.Conv2d(24, 12, 1)
        self.average = nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)
        self.wide = nn.Conv2d(12, 18, (3, 2), padding=1)
        self.deep = nn.Conv2d(18, 18, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)
        self.whole = nn.AdaptiveAvgPool2d(1)
        self.hidden, self.last = nn.Linear(18, 14), nn.Linear(14, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(pixels))
        x = torch.relu(self.pointwise(nn.functional.relu6(self.depthwise(x))) + x)
        x = torch.relu(self.wide(self.average(x)))
        x = torch.relu(self.pool(x + self.deep(x)))
        logits: torch.Tensor = self.last(torch.relu(self.hidden(self.whole(x).flatten(1))))
        return logits


def build_int8(network: nn.Module, dataset: Dataset) -> ModelFile:
    """Quantise a network as export does."""
    calibration = Calibration(temperature=1.3, rejection_threshold=0.5)
    # Its weights are random, so no convention stands out.
    source = open_source(network, dataset, PixelConvention(), force=True)
    return build_models(source, calibration, quantize=True)[1]


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("foreign") / INT8_NAME
    path.write_bytes(build_int8(Foreign(), digits).content)
    return path


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, foreign: Path) -> Export:
    """Export a model once for each way to optimise."""
    done: dict[tuple[str, str], Path] = {}

    def export(model: str, optimize: str) -> Path:
        if (model, optimize) not in done:
            folder = tmp_path_factory.mktemp(f"{model}-{optimize}")
            source = foreign if model == "foreign" else model
            export_c(source, folder, optimize=optimize)
            done[model, optimize] = folder
        return done[model, optimize]

    return export


def build(folder: Path, program: Path, *command: str) -> None:
    """Compile each source to an object beside the program, without a warning, and link."""
    objects = []
    for name in SOURCES:
        objects.append(str(program.parent / Path(name).with_suffix(".o")))
        compile_one = [*command, "-std=c99", *WARNINGS, "-c", str(folder / name), "-o", objects[-1]]
        subprocess.run(compile_one, check=True)
    subprocess.run([*command, *objects, "-o", str(program)], check=True)


def run_self_test(program: Path, *emulator: str) -> str:
    result = subprocess.run([*emulator, str(program), "selftest"], capture_output=True, text=True)
    return result.stdout.strip()


def compute_logits(model: str | Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    session = open_session(read_model(find_model(model)).content)
    logits: NDArray[np.float32] = session.run(["logits"], {"images": images})[0]
    return logits


def first_images(dataset: Dataset, n_images: int) -> Dataset:
    return dataclasses.replace(
        dataset,
        test_images=dataset.test_images[:n_images],
        test_labels=dataset.test_labels[:n_images],
    )


def same_bits(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return one.tobytes() == other.tobytes()


@pytest.mark.parametrize(
    ("model", "n_images"), [("nano", 10_000), ("default", 3_000), ("foreign", 1_000), ("max", 100)]
)
def test_test_images_have_the_logits_of_onnxruntime(
    exported: Export, mnist: Dataset, model: str, n_images: int
) -> None:
    """Of the slower models fewer images; docs/results.md has the whole test set of each."""
    report = validate_code(exported(model, "speed"), first_images(mnist, n_images))
    assert (report.n_images, report.different_images, report.different_labels) == (n_images, 0, 0)
    assert report.confidence_difference < 0.001
    assert report.passed


@pytest.mark.parametrize("model", ["nano", "foreign"])
@pytest.mark.parametrize(
    ("compiler", "optimize", "flags"),
    [
        ("gcc", "size", ("-O0", "-O3")),
        ("gcc", "speed", ("-O2", "-Os")),
        ("clang", "size", ("-O2", "-Os")),
        ("clang", "speed", ("-O0", "-O3")),
    ],
)
def test_compilers_and_their_optimisations_agree(
    exported: Export,
    tmp_path: Path,
    compiler: str,
    optimize: str,
    flags: tuple[str, ...],
    model: str,
) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"apt-get install {compiler}")
    folder = exported(model, optimize)
    images, _ = draw_golden_images()
    expected = compute_logits(folder / INT8_NAME, images)
    for flag in flags:
        program = tmp_path / "program"
        build(folder, program, compiler, flag)
        assert run_self_test(program) == "self-test passed"
        _, _, logits = run_program(program, images, tuple("0123456789"))
        assert same_bits(logits, expected), flag
        command = ["nm", "-u", str(tmp_path / "edge_mnist.o")]
        names = subprocess.run(command, capture_output=True, text=True).stdout
        assert not re.search(r"\bU (?!_GLOBAL_OFFSET_TABLE_)", names), names


@pytest.mark.parametrize("model", ["nano", "foreign"])
def test_a_big_endian_machine_of_32_bits_agrees(
    exported: Export, tmp_path: Path, model: str
) -> None:
    if not (shutil.which("powerpc-linux-gnu-gcc") and shutil.which("qemu-ppc")):
        pytest.skip("apt-get install gcc-powerpc-linux-gnu libc6-dev-powerpc-cross qemu-user")
    folder = exported(model, "speed")
    images, _ = draw_golden_images()
    compiler = ("powerpc-linux-gnu-gcc", "-O2", "-static")
    program = tmp_path / "program"
    build(folder, program, *compiler)
    assert run_self_test(program, "qemu-ppc") == "self-test passed"
    wrapper = tmp_path / "run"
    wrapper.write_text(f"#!/bin/sh\nexec qemu-ppc {program}\n")
    wrapper.chmod(0o755)
    _, _, logits = run_program(wrapper, images, tuple("0123456789"))
    assert same_bits(logits, compute_logits(folder / INT8_NAME, images))


@pytest.mark.parametrize("model", ["nano", "foreign"])
def test_nothing_undefined_happens(exported: Export, tmp_path: Path, model: str) -> None:
    """Extremes of the input too: white, black and noise."""
    sanitizers = ("-fsanitize=undefined,address", "-fno-sanitize-recover=all", "-O1")
    program = tmp_path / "program"
    build(exported(model, "speed"), program, "gcc", *sanitizers)
    assert run_self_test(program) == "self-test passed"
    noise = np.random.default_rng(0).integers(0, 256, (20, 28, 28)).astype(np.uint8)
    images = np.concatenate([noise, np.full((1, 28, 28), 255, np.uint8), noise[:1] * 0])
    _, _, logits = run_program(program, images, tuple("0123456789"))
    assert same_bits(logits, compute_logits(exported(model, "speed") / INT8_NAME, images))


def test_the_code_is_c_plus_plus_too(exported: Export, tmp_path: Path) -> None:
    """A sketch of Arduino is C++, and includes the header."""
    sketch = tmp_path / "sketch.cpp"
    sketch.write_text('#include "edge_mnist.h"\nint main() { return edge_mnist_selftest(); }\n')
    folder = exported("nano", "size")
    objects = []
    for name in ("edge_mnist", "edge_mnist_selftest"):
        objects.append(str(tmp_path / f"{name}.o"))
        command = ["gcc", "-DARDUINO", "-c", str(folder / f"{name}.c"), "-o", objects[-1]]
        subprocess.run(command, check=True)
    program = tmp_path / "sketch"
    command = ["g++", f"-I{folder}", str(sketch), *objects, "-o", str(program)]
    subprocess.run(command, check=True)
    assert subprocess.run([program]).returncode == 0


PLANTED = {
    "a weight of conv2": (
        "edge_mnist_model.h",
        r"(static FLASH const int8_t weights.*?conv2 \*/\s+)(-?\d+),",
        r"\g<1>77,",
    ),
    "a multiplier of conv3": (
        "edge_mnist_model.h",
        r"(static FLASH const channel channels.*?conv3 \*/\s+\{-?\d+, 0x\w+)(\w)\}",
        None,
    ),
    "halves rounded up": ("edge_mnist.c", r"rest == half && \(value & 1u\) != 0u", "rest == half"),
    "halves rounded down": ("edge_mnist.c", r" \|\| \(rest == half && \(value & 1u\) != 0u\)", ""),
    "a product cut": (
        "edge_mnist.c",
        r"return round_even\(\(high << \(24 - bits\)\) \| \(low >> bits\),.*?;",
        "return (high << (24 - bits)) | (low >> bits);",
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_the_self_test_names_the_layer_of_a_planted_error(
    exported: Export, tmp_path: Path, planted: str
) -> None:
    folder = tmp_path / "planted"
    shutil.copytree(exported("nano", "size"), folder)
    name, pattern, replacement = PLANTED[planted]
    text = (folder / name).read_text()
    # The last bit of a multiplier changes no score of these images.
    change = replacement if replacement is not None else lambda m: f"{m[1]}{int(m[2], 16) ^ 1:x}}}"
    altered, count = re.subn(pattern, change, text, count=1, flags=re.DOTALL)
    assert count == 1
    assert altered != text
    (folder / name).write_text(altered)
    program = tmp_path / "program"
    sources = [str(folder / one) for one in SOURCES]
    subprocess.run(["gcc", "-O1", *sources, "-o", str(program)], check=True)
    found = run_self_test(program)
    assert found.startswith("self-test failed: image 0, layer conv")
    if " of " in planted:
        assert found.endswith(planted.split()[-1])


def test_without_its_constants_check_the_images_notice_a_weight(
    exported: Export, tmp_path: Path
) -> None:
    folder = tmp_path / "planted"
    shutil.copytree(exported("nano", "size"), folder)
    table = folder / "edge_mnist_model.h"
    _, pattern, replacement = PLANTED["a weight of conv2"]
    table.write_text(re.sub(pattern, str(replacement), table.read_text(), count=1, flags=re.DOTALL))
    test = folder / "edge_mnist_selftest.c"
    test.write_text(test.read_text().replace("!= golden_constants[layer - 1]", "== 1"))
    program = tmp_path / "program"
    sources = [str(folder / one) for one in SOURCES]
    subprocess.run(["gcc", "-O1", *sources, "-o", str(program)], check=True)
    assert run_self_test(program) == "self-test failed: image 1, layer conv2"


def test_the_sum_of_any_two_values_is_that_of_onnxruntime() -> None:
    """All 65,536 pairs, for scales and zero points that no network of ours has."""
    generator = np.random.default_rng(0)
    one, other = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    pair = [np.ascontiguousarray(value[None, :, :, None]) for value in (one, other)]
    for _ in range(20):
        scales = np.exp(generator.uniform(-6, 1, 3)).astype(np.float32)
        zeros = generator.integers(0, 256, 3)
        tensors = tuple(
            Tensor(1, 256, 256, scale, int(zero)) for scale, zero in zip(scales, zeros, strict=True)
        )
        network = Network((Layer("add", "add1", (0, 1), 2),), tensors, np.float32(1))
        found = COMPUTE["add"](network, network.layers[0], pair)
        assert np.array_equal(found, _add_in_onnxruntime(pair, scales, zeros))


def _add_in_onnxruntime(
    pair: list[NDArray[np.uint8]], scales: NDArray[np.float32], zeros: NDArray[np.int64]
) -> NDArray[np.uint8]:
    kinds = onnx.TensorProto
    constants = [helper.make_tensor(f"s{i}", kinds.FLOAT, [], [s]) for i, s in enumerate(scales)]
    constants += [helper.make_tensor(f"z{i}", kinds.UINT8, [], [z]) for i, z in enumerate(zeros)]
    nodes = [
        helper.make_node("DequantizeLinear", ["a", "s0", "z0"], ["x"]),
        helper.make_node("DequantizeLinear", ["b", "s1", "z1"], ["y"]),
        helper.make_node("Add", ["x", "y"], ["sum"]),
        helper.make_node("QuantizeLinear", ["sum", "s2", "z2"], ["out"]),
    ]
    a, b, out = (
        helper.make_tensor_value_info(name, kinds.UINT8, [1, 256, 256, 1])
        for name in ("a", "b", "out")
    )
    graph = helper.make_graph(nodes, "add", [a, b], [out], constants)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = import_onnxruntime().InferenceSession(model.SerializeToString())
    result: NDArray[np.uint8] = session.run(None, {"a": pair[0], "b": pair[1]})[0]
    return result


def test_the_simulation_is_onnxruntime_on_noise(foreign: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (200, 28, 28)).astype(np.uint8)
    for model in (foreign, "nano/model.int8.onnx", "default/model.int8.onnx"):
        network = read_network(read_model(find_model(model)))
        found = dequantize(network, compute_scores(network, images))
        assert same_bits(found, compute_logits(model, images))


def test_other_operators_are_named(foreign: Path, tmp_path: Path) -> None:
    model = onnx.load(foreign)
    added = next(node for node in model.graph.node if node.op_type == "Add")
    added.op_type = "Mul"
    kept = [entry for entry in model.metadata_props if entry.key != "graph_sha256"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, tmp_path / INT8_NAME)
    with pytest.raises(ModelError, match="operator Mul is not supported"):
        export_c(tmp_path / INT8_NAME, tmp_path / "c")
    with pytest.raises(ModelError, match=r"operator Mul is not supported.*; --runtime ort"):
        export_web(tmp_path / INT8_NAME, tmp_path / "web")
    assert not (tmp_path / "web").exists()


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
@pytest.mark.parametrize("model", ["nano", "foreign", "max"])
def test_the_network_in_webassembly_has_the_logits_of_onnxruntime(
    foreign: Path, tmp_path: Path, model: str
) -> None:
    path = foreign if model == "foreign" else find_model(f"{model}/{INT8_NAME}")
    noise = np.random.default_rng(2).integers(0, 256, (60, 28, 28)).astype(np.uint8)
    images, _ = draw_golden_images()
    images = np.concatenate([noise, images[:60], noise[:1] * 0])
    (tmp_path / "png").mkdir()
    paths = [tmp_path / "png" / f"{number}.png" for number in range(len(images))]
    for picture, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(picture)
    inputs, logits = read_with_node(paths, tmp_path, "whole", path)
    seen = np.stack([one.image for one in inputs])
    assert same_bits(logits, compute_logits(path, seen))


def test_padding_beyond_the_kernel_is_refused(digits: Dataset, tmp_path: Path) -> None:
    padded = nn.Conv2d(1, 4, 1, padding=2)
    network = nn.Sequential(padded, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 32 * 32, 10))
    (tmp_path / INT8_NAME).write_bytes(build_int8(network, digits).content)
    with pytest.raises(ModelError, match="more padding than its kernel"):
        export_c(tmp_path / INT8_NAME, tmp_path / "c")


def test_code_that_crashes_is_an_error(exported: Export, tmp_path: Path, digits: Dataset) -> None:
    folder = tmp_path / "code"
    shutil.copytree(exported("nano", "size"), folder)
    main = folder / "main.c"
    main.write_text(
        main.read_text().replace("int main(", "int other(") + "int main(void) { return 3; }"
    )
    with pytest.raises(ModelError, match="classified 0 of 360 images, with exit code 3"):
        validate_code(folder, digits)


def test_a_compiler_s_limit_on_arrays_counts(tmp_path: Path) -> None:
    """The weights of default are 48 kB; avr-gcc takes arrays of less than 32 kB."""
    fits = {fit.chip: fit for fit in export_c("default", tmp_path).fits}
    assert fits["ATmega2560 (AVR)"].flash_left_bytes > 0
    assert not fits["ATmega2560 (AVR)"].fits


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is float32"):
        export_c("nano/model.onnx", tmp_path)
    with pytest.raises(UsageError, match="expected size or speed"):
        export_c("nano", tmp_path, optimize="small")
    (tmp_path / "edge_mnist.h").write_text("/* mine */")
    with pytest.raises(OutputError, match=r"edge_mnist\.h exists and is not from edge-mnist"):
        export_c("nano", tmp_path)
    export_c("nano", tmp_path, overwrite=True)
    export_c("nano", tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "main.c").write_text("int main(void) { return 1; }")
    with pytest.raises(OutputError, match=r"main\.c exists and is not from edge-mnist"):
        export_c("nano", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["main.c"]


def test_the_command_exports_and_validates(
    edge_mnist: Command, tmp_path: Path, digits: Dataset
) -> None:
    result = edge_mnist("export", "--target", "c", "nano", "-o", "code")
    assert result.returncode == 0, result.stderr
    assert re.search(r"gemm1 +10 x 1 x 1 +1,440", result.stdout)
    assert "yes  STM32F030C8" in result.stdout
    assert "no   ATmega328" in result.stdout
    assert result.stderr.strip() == "next: edge-mnist validate code"
    result = edge_mnist("validate", "code", "--self-test", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["folders"][0]["self_test"] == "self-test passed"
    result = edge_mnist("validate", "code", "--atol", "1")
    assert result.returncode == 2
    assert "--atol has no effect on C code" in result.stderr
    path = tmp_path / "code" / "edge_mnist.c"
    path.write_text(path.read_text().replace("rest > half ||", "rest >= half ||"))
    result = edge_mnist("validate", "code", "--self-test")
    assert result.returncode == 1
    assert "self-test failed: image 0, layer conv" in result.stdout


def test_altered_code_differs_on_the_test_set(
    exported: Export, tmp_path: Path, mnist: Dataset
) -> None:
    """A rounding that only a few images in ten thousand notice."""
    folder = tmp_path / "code"
    shutil.copytree(exported("nano", "size"), folder)
    path = folder / "edge_mnist.c"
    path.write_text(path.read_text().replace("rest > half ||", "rest >= half ||"))
    report = validate_code(folder, first_images(mnist, 2_000))
    assert not report.passed
    assert 0 < report.different_images < 500


def test_the_makefile_builds_a_program(exported: Export, tmp_path: Path) -> None:
    folder = tmp_path / "code"
    shutil.copytree(exported("nano", "size"), folder)
    for target in ("all", "object"):
        subprocess.run(["make", "-C", str(folder), target], check=True, env=os.environ)
    assert (folder / "edge_mnist_selftest.o").is_file()


def test_every_placeholder_is_filled(exported: Export) -> None:
    for path in exported("nano", "size").rglob("*"):
        if path.is_file() and path.suffix != ".onnx":
            assert not re.search("@[a-z_]+@", path.read_text()), path
