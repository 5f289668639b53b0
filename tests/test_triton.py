import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from conftest import Command

from edge_mnist.errors import ModelError, OutputError
from edge_mnist.exporting.triton import add_model, export_triton
from edge_mnist.model_file import find_model, hash_graph, shipped_folder

model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
text_format = pytest.importorskip("google.protobuf.text_format")

ONNX_TO_TRITON = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32"}


def read_config(folder: Path) -> Any:
    """Parse a configuration by Triton's published schema; an unknown field is an error."""
    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def describe(tensors: Any) -> list[tuple[str, str, list[int]]]:
    kinds = model_config_pb2.DataType
    return [(one.name, kinds.Name(one.data_type), list(one.dims)) for one in tensors]


@pytest.mark.parametrize("name", ["default", "default/model.int8.onnx", "nano"])
def test_the_configuration_says_what_the_file_says(name: str, tmp_path: Path) -> None:
    source = find_model(name)
    (made,) = export_triton([source], tmp_path).models
    folder = tmp_path / made.name
    assert made.folder == str(folder)
    assert (folder / "1" / "model.onnx").read_bytes() == source.read_bytes()
    config = read_config(folder)
    assert config.name == made.name
    assert config.platform == "onnxruntime_onnx"
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
    for tensors, described in (
        (session.get_inputs(), describe(config.input)),
        (session.get_outputs(), describe(config.output)),
    ):
        # Triton adds the batch in front of the dimensions itself.
        wanted = [(one.name, ONNX_TO_TRITON[one.type], one.shape[1:]) for one in tensors]
        assert described == wanted
        assert all(one.shape[0] == "batch" for one in tensors)
    labelled = [one for one in config.output if one.label_filename]
    assert [one.name for one in labelled] == ["probabilities"]
    labels = (folder / labelled[0].label_filename).read_text().splitlines()
    assert labels == list("0123456789")


def test_batches_instances_and_warm_up(tmp_path: Path) -> None:
    made, _ = export_triton("nano", str(tmp_path)).models
    assert made == export_triton([find_model("nano")], tmp_path).models[0]
    assert made.name == "edge-mnist-nano"
    config = read_config(tmp_path / made.name)
    assert config.max_batch_size >= max(config.dynamic_batching.preferred_batch_size) > 1
    assert 0 < config.dynamic_batching.max_queue_delay_microseconds <= 5000
    (group,) = config.instance_group
    assert (group.count, group.kind) == (1, model_config_pb2.ModelInstanceGroup.KIND_CPU)
    session = onnxruntime.InferenceSession(tmp_path / made.name / "1" / "model.onnx")
    for warmup in config.model_warmup:
        inputs = warmup.inputs["images"]
        assert inputs.zero_data
        shape = (warmup.batch_size, *inputs.dims)
        logits = session.run(["logits"], {"images": np.zeros(shape, np.uint8)})[0]
        assert logits.shape == (warmup.batch_size, 10)
    assert {warmup.batch_size for warmup in config.model_warmup} == {1, config.max_batch_size}


def test_other_classes_are_read_from_the_file(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(find_model("nano"))
    names = ["coat", "bag"]
    (entry,) = (one for one in model.metadata_props if one.key == "class_names")
    entry.value = json.dumps(names)
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[1].dim_value = len(names)
    (entry,) = (one for one in model.metadata_props if one.key == "graph_sha256")
    entry.value = hash_graph(model.SerializeToString())
    path = tmp_path / "two.onnx"
    path.write_bytes(model.SerializeToString())
    made = add_model(path, tmp_path / "repository", name="two-classes")
    folder = tmp_path / "repository" / "two-classes"
    assert made.name == "two-classes"
    assert [list(one.dims) for one in read_config(folder).output] == [[2], [2]]
    assert (folder / "labels.txt").read_text().splitlines() == names


def test_foreign_files_stay(tmp_path: Path) -> None:
    source = find_model("nano")
    foreign = tmp_path / "edge-mnist-nano" / "config.pbtxt"
    foreign.parent.mkdir()
    foreign.write_text('name: "mine"\n')
    with pytest.raises(OutputError, match="--overwrite"):
        export_triton([source], tmp_path)
    assert [path.name for path in foreign.parent.iterdir()] == ["config.pbtxt"]
    export_triton([source], tmp_path, overwrite=True)
    export_triton([source], tmp_path)  # our own files may be replaced
    assert read_config(foreign.parent).name == "edge-mnist-nano"
    with pytest.raises(ModelError):
        add_model(source, tmp_path, name="../out")


def test_the_command_takes_exported_models(edge_mnist: Command, tmp_path: Path) -> None:
    done = edge_mnist("export", "--target", "triton", "--json")
    assert done.returncode == 0, done.stderr
    (model,) = json.loads(done.stdout)["models"]
    assert model["folder"] == str(Path("triton") / "edge-mnist-default")
    done = edge_mnist("export", "--target", "triton", "-o", "repository", shipped_folder() / "nano")
    assert done.returncode == 0, done.stderr
    assert "tritonserver --model-repository" in done.stderr
    made = {path.name for path in (tmp_path / "repository").iterdir()}
    assert made == {"edge-mnist-nano", "edge-mnist-nano-int8"}
    for wrong in (["--target", "toaster"], ["--target", "triton", "--quantize", "nano"]):
        assert edge_mnist("export", *wrong).returncode == 2
    assert edge_mnist("export", "missing", "--target", "triton").returncode == 3


def test_the_command_takes_a_run(edge_mnist: Command, run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    options = ("--target", "triton", "--quantize", "--max-accuracy-lost", "0.02")
    done = edge_mnist("export", "run", *options)
    assert done.returncode == 0, done.stderr
    assert [line.rsplit(", from ", 1)[1] for line in done.stdout.splitlines()] == ["run", "run"]
    repository = tmp_path / "triton"
    assert sorted(path.name for path in repository.iterdir()) == [
        "edge-mnist-digits",
        "edge-mnist-digits-int8",
    ]
    for folder in repository.iterdir():
        assert read_config(folder).name == folder.name
    assert not (tmp_path / "exports").exists()
