import json
import subprocess
import sys

import pytest
from conftest import Command
from torch import nn

from edge_mnist.model_file import shipped_folder
from edge_mnist.training.catalogue import (
    MEASURED,
    count_sizes,
    list_networks,
    list_recipes,
    read_sizes,
)
from edge_mnist.training.networks import NETWORKS, conv_block, count_multiply_adds
from edge_mnist.training.recipes import PUBLISHED, RECIPES

SHIPPED = shipped_folder()


def test_multiply_adds_are_counted_by_hand() -> None:
    network = nn.Sequential(*conv_block(1, 4, stride=2), nn.Flatten(), nn.Linear(4 * 13 * 13, 10))
    assert count_multiply_adds(network) == 4 * 9 * 13 * 13 + 4 * 13 * 13 * 10


def test_everything_is_listed() -> None:
    assert [entry.name for entry in list_networks().networks] == list(NETWORKS)
    assert [entry.name for entry in list_recipes().recipes] == list(RECIPES)
    (edge,) = (entry for entry in list_networks().networks if entry.name == "edge")
    assert (edge.best_recipe, edge.n_weights) == ("default", 47_994)
    reached = {entry.name: entry.accuracy for entry in list_recipes().recipes}
    for name, folder in {"default": "default", "nano": "nano", "max": "max"}.items():
        manifest = json.loads((SHIPPED / folder / "manifest.json").read_text())
        assert reached[name] == manifest["models"]["model.onnx"]["accuracy"]
    for name, record in json.loads(MEASURED.read_text()).items():
        accuracies = [run["float32"] for run in record["runs"]]
        assert reached[name] == pytest.approx(sum(accuracies) / len(accuracies))
        assert reached[name] > PUBLISHED.get(name, 0)


def test_commands_that_list(edge_mnist: Command) -> None:
    for command in ("models", "recipes"):
        done = edge_mnist(command)
        assert done.returncode == 0, done.stderr
        assert "weights" in done.stdout
        listed = json.loads(edge_mnist(command, "--json").stdout)
        assert len(listed[{"models": "networks"}.get(command, command)]) >= 3
    done = edge_mnist("info", SHIPPED / "default" / "model.int8.onnx")
    assert done.returncode == 0, done.stderr
    assert "rejection_threshold" in done.stdout
    found = json.loads(edge_mnist("info", SHIPPED / "default" / "model.int8.onnx", "--json").stdout)
    assert found["metadata"]["class_names"] == list("0123456789")
    assert found["size_bytes"] == (SHIPPED / "default" / "model.int8.onnx").stat().st_size
    assert edge_mnist("info", "nothing.onnx").returncode == 3


def test_the_table_of_sizes_is_counted() -> None:
    assert read_sizes() == count_sizes()


@pytest.mark.parametrize("command", ["models", "recipes"])
def test_the_lists_need_no_pytorch(command: str, edge_mnist: Command) -> None:
    code = f"import sys; from edge_mnist.cli import main; sys.argv[1:] = ['{command}', '--json']\n"
    code += "try:\n    main()\nexcept SystemExit:\n    pass\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert json.loads(edge_mnist(command, "--json").stdout)["schema_version"] == 1
